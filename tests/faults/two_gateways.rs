//! Several gateways of one region: pages move between them, one freezes, all are replaced one after the other.

use std::time::Duration;

use harness::audit;
use harness::load::{Load, Plan};
use harness::proxy::HaProxy;
use harness::region::Region;
use rustix::process::Signal;

const MORE_MAX: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_that_move_between_gateways_and_a_gateway_that_freezes_are_counted_once() {
    let mut region = Region::start(2).await;
    let load = Load::start(Plan::default(), region.doors());
    load.more(100, MORE_MAX).await.unwrap();
    // A suspended machine: its pages go to the other one with what was not answered, which the frozen one has in its memory,
    // its log, or its socket.
    region.gateways[0].process.signal(Signal::STOP);
    load.more(300, MORE_MAX).await.unwrap();
    tokio::time::sleep(Duration::from_secs(12)).await;
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
    assert_eq!(sent.broken, 0, "of {} reconnects so many were not asked for", sent.reconnects);
}
