//! A Redis that comes back without its newest writes, with an old state, or with nothing: it is noticed, and rebuilt from what
//! central accepted and from the gateways' logs.

use std::path::Path;
use std::time::{Duration, Instant};

use harness::audit;
use harness::files::copy_folder;
use harness::load::{Load, Plan};
use harness::region::{Region, Role};

const MORE_MAX: Duration = Duration::from_secs(90);
/// What the aggregator says once gateways may bring what they have.
const REBUILT_FROM_CENTRAL: &str = "redis holds what central has accepted";

/// Records that Redis has counted, for a gateway that was never restarted: the last one's number.
const APPLIED: &str = "tideline_gateway_applied_records_total";
const REPLAYED: &str = "tideline_gateway_replayed_records_total";

const PLAN: Plan = Plan { agents: 15, every: Duration::from_millis(200), events: 3, repeated: 0.2 };

/// kill -9, then other files, or none, and a new start.
async fn restart_with(region: &mut Region, files: Option<&Path>) {
    region.redis.process.kill();
    std::fs::remove_dir_all(region.redis.append_only()).unwrap();
    if let Some(files) = files {
        copy_folder(files, &region.redis.append_only());
    }
    region.redis.start().await;
}

/// The number of the newest flush that was accepted and settled.
async fn settled(region: &Region) -> u64 {
    region.aggregator.metric(region.http(), "tideline_aggregator_settled_flush").await as u64
}

async fn another_settled(region: &Region) {
    let (asked, before) = (Instant::now(), settled(region).await);
    while settled(region).await == before {
        assert!(asked.elapsed() < MORE_MAX, "nothing is settled\n{}", region.words());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn works(region: &mut Region, load: &Load) {
    load.more(100, MORE_MAX).await.unwrap_or_else(|why| panic!("{why}\n{}", region.words()));
    region.all_ready().await;
}

/// A counter of each gateway.
async fn of_gateways(region: &Region, metric: &str) -> Vec<f64> {
    let mut values = Vec::new();
    for gateway in &region.gateways {
        values.push(gateway.metric(region.http(), metric).await);
    }
    values
}

/// The last record that Redis knew of this gateway when it came back.
fn came_back_at(gateway: &Role, since: usize) -> f64 {
    let said = gateway.process.said()[since..].to_owned();
    let line = said.lines().find(|line| line.contains("registered with redis again"));
    let line = line.unwrap_or_else(|| panic!("{} did not register again: {said}", gateway.process.name()));
    line.split("applied=").nth(1).and_then(|applied| applied.split(' ').next()?.parse().ok()).expect("a position")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_behind_the_last_barrier_that_redis_lost_come_back_from_the_logs() {
    let mut region = Region::start(2).await;
    let load = Load::start(PLAN, region.doors());
    works(&mut region, &load).await;
    another_settled(&region).await;
    // Without an aggregator nothing is cut and central is told nothing: what Redis loses is behind all that anybody relies on.
    region.aggregator.process.kill();
    let kept = region.folder().join("kept");
    copy_folder(&region.redis.append_only(), &kept);
    load.more(150, MORE_MAX).await.unwrap();
    let said: Vec<usize> = region.gateways.iter().map(|gateway| gateway.process.said().len()).collect();
    let rebuilds = region.aggregator.process.said().len();
    // Each has sent no record twice yet: so many records of its log Redis has counted.
    let (applied, replayed) = (of_gateways(&region, APPLIED).await, of_gateways(&region, REPLAYED).await);
    restart_with(&mut region, Some(&kept)).await;
    region.aggregator.process.start();
    works(&mut region, &load).await;
    // Redis has lost what it had counted, and it came from the logs.
    let lost = region.gateways.iter().zip(&said).map(|(gateway, since)| came_back_at(gateway, *since));
    let lost: Vec<f64> = lost.zip(&applied).map(|(now, before)| before - now).collect();
    assert!(lost.iter().sum::<f64>() >= 100.0 && lost.iter().all(|records| *records > 0.0), "{lost:?}");
    for (before, now) in replayed.iter().zip(of_gateways(&region, REPLAYED).await) {
        assert!(now > *before, "nothing was replayed: {replayed:?}\n{}", region.words());
    }
    let sent = load.finish(MORE_MAX).await.unwrap();
    audit::exactly(&region, &sent).await.unwrap();
    let said = region.aggregator.process.said()[rebuilds..].to_owned();
    assert!(!said.contains(REBUILT_FROM_CENTRAL), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_copy_and_an_empty_folder_are_noticed_and_rebuilt() {
    let mut region = Region::start(2).await;
    let load = Load::start(PLAN, region.doors());
    works(&mut region, &load).await;
    another_settled(&region).await;
    let old = region.folder().join("old");
    copy_folder(&region.redis.append_only(), &old);
    for _ in 0..3 {
        another_settled(&region).await;
    }
    for files in [Some(old.as_path()), None] {
        let said = region.aggregator.process.said().len();
        restart_with(&mut region, files).await;
        region.aggregator.process.until_it_says(REBUILT_FROM_CENTRAL, said, MORE_MAX).await;
        works(&mut region, &load).await;
        another_settled(&region).await;
    }
    let sent = load.finish(MORE_MAX).await.unwrap();
    audit::exactly(&region, &sent).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_waits_for_a_gateway_that_is_down_and_begins_again_after_another_loss() {
    let mut region = Region::start(2).await;
    let load = Load::start(PLAN, region.doors());
    works(&mut region, &load).await;
    another_settled(&region).await;
    load.point_at(vec![region.gateways[0].listen()]);
    region.gateways[1].process.kill();
    load.more(30, MORE_MAX).await.unwrap();
    let said = region.aggregator.process.said().len();
    restart_with(&mut region, None).await;
    region.aggregator.process.until_it_says(REBUILT_FROM_CENTRAL, said, MORE_MAX).await;
    // It waits for the second gateway. Nothing is acknowledged until it has said what it counted.
    assert!(load.more(1, Duration::from_secs(4)).await.is_err(), "{}", region.words());
    // A second outage in the middle of it, of everything that knows how far it came.
    let said = region.aggregator.process.said().len();
    region.aggregator.process.kill();
    restart_with(&mut region, None).await;
    region.aggregator.process.start();
    region.aggregator.process.until_it_says(REBUILT_FROM_CENTRAL, said, MORE_MAX).await;
    region.gateways[1].process.start();
    works(&mut region, &load).await;
    let sent = load.finish(MORE_MAX).await.unwrap();
    audit::exactly(&region, &sent).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_whose_folder_is_gone_is_retired_and_central_stands_in_for_its_log() {
    let mut region = Region::start(2).await;
    let load = Load::start(PLAN, region.doors());
    works(&mut region, &load).await;
    load.point_at(vec![region.gateways[0].listen()]);
    let gone = std::fs::read_to_string(region.gateways[1].data.join("id")).unwrap().lines().next().unwrap().to_owned();
    assert!(region.gateways[1].process.stop(MORE_MAX).await.success());
    // Without pages it ships what is left. What it counted is central's by then, raw rows included: they stand in for its log.
    region.gateways[1].process.start();
    region.until_shipped(&gone).await;
    region.gateways[1].process.kill();
    std::fs::remove_dir_all(&region.gateways[1].data).unwrap();

    let said = region.aggregator.process.said().len();
    restart_with(&mut region, None).await;
    region.aggregator.process.until_it_says(REBUILT_FROM_CENTRAL, said, MORE_MAX).await;
    assert!(load.more(1, Duration::from_secs(4)).await.is_err(), "{}", region.words());
    let (code, said) = region.tideline(&["retire-gateway", &gone]);
    assert_eq!(code, Some(0), "{said}");
    load.more(100, MORE_MAX).await.unwrap_or_else(|why| panic!("{why}\n{}", region.words()));
    // Its place is taken by a new one. Pages repeat to either what they sent to the lost one; it is not counted again.
    region.gateways[1].process.start();
    load.point_at(region.doors());
    works(&mut region, &load).await;
    let (code, said) = region.tideline(&["retire-gateway", &gone]);
    assert_ne!(code, Some(0), "retired twice: {said}");
    let sent = load.finish(MORE_MAX).await.unwrap();
    audit::exactly(&region, &sent).await.unwrap();
}
