//! A Redis that comes back without its newest writes, with an old state, or with nothing: it is noticed, and rebuilt from what
//! central accepted and from the gateways' logs.

use std::path::Path;
use std::time::{Duration, Instant};

use harness::audit;
use harness::files::copy_folder;
use harness::load::{Load, Plan};
use harness::region::Region;

const MORE_MAX: Duration = Duration::from_secs(90);
/// What the aggregator says once gateways may bring what they have.
const REBUILT_FROM_CENTRAL: &str = "redis holds what central has accepted";

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
    let (_, metrics) = region.aggregator.admin(region.http(), "/metrics").await.unwrap();
    let line = metrics.lines().find(|line| line.starts_with("tideline_aggregator_settled_flush")).unwrap();
    line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_behind_the_last_barrier_that_redis_lost_come_back_from_the_logs() {
    let mut region = Region::new(2).await;
    // Long enough that nothing is cut between the copy and the kill.
    region.aggregator.configure("cut_interval_ms", 10_000);
    region.start_all().await;
    let load = Load::start(PLAN, region.doors());
    works(&mut region, &load).await;
    another_settled(&region).await;
    let kept = region.folder().join("kept");
    copy_folder(&region.redis.append_only(), &kept);
    load.more(150, MORE_MAX).await.unwrap();
    restart_with(&mut region, Some(&kept)).await;
    works(&mut region, &load).await;
    let sent = load.finish(MORE_MAX).await.unwrap();
    audit::exactly(&region, &sent).await.unwrap();
    assert!(!region.aggregator.process.said().contains(REBUILT_FROM_CENTRAL), "{}", region.words());
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
