//! Several gateways of one region: pages move between them, one freezes, one is copied, all are replaced one after the other.

use std::path::Path;
use std::time::{Duration, Instant};

use harness::audit;
use harness::files::copy_folder;
use harness::load::{Load, Plan};
use harness::proxy::HaProxy;
use harness::region::{Region, Role};
use rustix::process::Signal;

const MORE_MAX: Duration = Duration::from_secs(60);
/// What a gateway says whose folder is older than its id.
const NEW_GATEWAY: &str = "it is a new gateway now";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_that_move_between_gateways_and_a_gateway_that_freezes_are_counted_once() {
    let mut region = Region::start(2).await;
    let load = Load::start(Plan::default(), region.doors());
    load.more(100, MORE_MAX).await.unwrap();
    // A suspended machine: its pages go to the other one with what was not answered, which the frozen one has in its memory,
    // its log, or its socket.
    region.gateways[0].process.signal(Signal::STOP);
    load.more(300, MORE_MAX).await.unwrap();
    region.gateways[0].process.signal(Signal::CONT);
    region.all_ready().await;
    // Now everybody to the first, then to the second.
    for gateway in 0..2 {
        load.point_at(vec![region.gateways[gateway].listen()]);
        let status = region.gateways[1 - gateway].process.stop(MORE_MAX).await;
        assert!(status.success(), "{status}");
        load.more(100, MORE_MAX).await.unwrap();
        region.gateways[1 - gateway].process.start();
        region.all_ready().await;
    }
    let sent = load.finish(MORE_MAX).await.unwrap();
    assert!(sent.reconnects >= 20, "the pages moved: {} times", sent.reconnects);
    audit::exactly(&region, &sent).await.unwrap();
}

/// Longer than every timeout of Redis, of central and of the other gateway.
const SUSPENDED: Duration = Duration::from_secs(130);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_is_suspended_for_two_minutes_goes_on_and_its_batches_are_counted_once() {
    let mut region = Region::start(2).await;
    let load = Load::start(Plan { agents: 6, ..Default::default() }, region.doors());
    load.more(100, MORE_MAX).await.unwrap();
    region.gateways[0].process.signal(Signal::STOP);
    let began = Instant::now();
    while began.elapsed() < SUSPENDED {
        // The whole time, pages of the other one are answered.
        load.more(10, MORE_MAX).await.unwrap_or_else(|why| panic!("{why}\n{}", region.words()));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    region.gateways[0].process.signal(Signal::CONT);
    region.all_ready().await;
    // It takes pages again, and what it had taken before it was stopped is counted by itself.
    load.point_at(vec![region.gateways[0].listen()]);
    assert!(region.gateways[1].process.stop(MORE_MAX).await.success());
    load.more(50, MORE_MAX).await.unwrap_or_else(|why| panic!("{why}\n{}", region.words()));
    region.gateways[1].process.start();
    region.all_ready().await;
    let sent = load.finish(MORE_MAX).await.unwrap();
    audit::exactly(&region, &sent).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_folder_that_runs_twice_exactly_one_counts_and_the_other_says_why() {
    let mut region = Region::start(1).await;
    let load = Load::start(Plan::default(), region.doors());
    load.more(100, MORE_MAX).await.unwrap();
    // Copied while it runs, lock file and all, as a snapshot of the disk would.
    let mut copy = region.gateways[0].copy("copied");
    copy_folder(&region.gateways[0].data, &copy.data);
    copy.process.start();
    load.point_at(vec![region.gateways[0].listen(), copy.listen()]);
    // The copy is older than the id: it is a new gateway. Or it came first and the first one has to go. Never both under one id.
    let asked = Instant::now();
    let both = |region: &Region, copy: &Role| region.gateways[0].process.said() + &copy.process.said();
    while region.gateways[0].process.runs() && copy.process.runs() && !both(&region, &copy).contains(NEW_GATEWAY) {
        assert!(asked.elapsed() < MORE_MAX, "both count under one id\n{}", both(&region, &copy));
        load.more(1, MORE_MAX).await.unwrap();
    }
    load.more(100, MORE_MAX).await.unwrap();
    let one_left = !region.gateways[0].process.runs() || !copy.process.runs();
    let words = both(&region, &copy);
    let id = |data: &Path| std::fs::read_to_string(data.join("id")).unwrap().lines().next().unwrap().to_owned();
    let two_ids = id(&region.gateways[0].data) != id(&copy.data);
    assert!(one_left || two_ids, "both count under one id\n{words}");
    if one_left {
        assert!(
            words.contains("was its data folder copied?") || words.contains("was the data folder copied?"),
            "{words}"
        );
    } else {
        assert!(words.contains(NEW_GATEWAY), "{words}");
    }
    // One owner of the folder is enough: whoever is left is the region's gateway.
    if !region.gateways[0].process.runs() {
        load.point_at(vec![copy.listen()]);
        region.gateways[0] = copy;
    }
    let sent = load.finish(MORE_MAX).await.unwrap();
    audit::exactly(&region, &sent).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_behind_haproxy_costs_pages_a_reconnect_and_nothing_else() {
    let mut region = Region::start(2).await;
    let checked: Vec<_> = region.gateways.iter().map(|gateway| (gateway.listen(), gateway.admin_address())).collect();
    let proxy = HaProxy::start_checking(&checked, region.folder());
    proxy.until_all_up(2).await;
    let load = Load::start(Plan { agents: 30, ..Default::default() }, vec![proxy.address()]);
    load.more(200, MORE_MAX).await.unwrap();
    for gateway in 0..2 {
        let status = region.gateways[gateway].process.stop(MORE_MAX).await;
        assert!(status.success(), "{status}\n{}", region.words());
        load.more(200, MORE_MAX).await.unwrap();
        region.gateways[gateway].process.start();
        region.all_ready().await;
        proxy.until_all_up(2).await;
    }
    let sent = load.finish(MORE_MAX).await.unwrap();
    audit::exactly(&region, &sent).await.unwrap();
    assert!(sent.reconnects >= 30, "every page was on one of them: {} reconnects", sent.reconnects);
    assert!(sent.broken.is_empty(), "of {} reconnects some were not asked for: {:?}", sent.reconnects, sent.broken);
}
