//! Networks that are slow, that cut connections off in the middle of an answer, or that say nothing at all.

use std::net::SocketAddr;
use std::time::Duration;

use harness::audit;
use harness::load::{Load, Plan};
use harness::proxy::{BadNetwork, Toxic};
use harness::region::Region;

const MORE_MAX: Duration = Duration::from_secs(60);
/// Longer than a gateway waits for one answer.
const SILENCE: Duration = Duration::from_secs(8);

const TOXICS: [(Toxic, Duration); 5] = [
    (Toxic::Latency(Duration::from_millis(200)), Duration::from_secs(4)),
    (Toxic::LimitData(2_000), Duration::from_secs(4)),
    (Toxic::Reset(Duration::from_millis(300)), Duration::from_secs(4)),
    (Toxic::NothingArrives, SILENCE),
    (Toxic::NoAnswer, SILENCE),
];

/// A region whose roles reach what is under `key` through a bad network.
async fn region_over(key: &str, upstream: impl Fn(&Region) -> SocketAddr, scheme: &str) -> (Region, BadNetwork) {
    let mut region = Region::new(2).await;
    let network = BadNetwork::start(upstream(&region), key, region.folder()).await;
    let url = format!("{scheme}://{}", network.address());
    for role in region.roles_mut().filter(|role| role.process.name() != "central") {
        role.configure(key, url.clone());
    }
    region.start_all().await;
    (region, network)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_the_network_to_redis_does_each_batch_is_counted_once() {
    let (mut region, network) = region_over("redis", |region| region.redis.address(), "redis").await;
    let load = Load::start(Plan::default(), region.doors());
    load.more(100, MORE_MAX).await.unwrap();
    for (toxic, long) in TOXICS {
        network.suffer(toxic).await;
        tokio::time::sleep(long).await;
        network.recover().await;
        load.more(100, MORE_MAX).await.unwrap_or_else(|why| panic!("after {toxic:?}: {why}\n{}", region.words()));
        region.all_ready().await;
    }
    let sent = load.finish(MORE_MAX).await.unwrap();
    audit::exactly(&region, &sent).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_the_network_to_central_does_pages_are_answered_and_reports_come_right() {
    let (mut region, network) = region_over("uplink", |region| region.central.uplink(), "http").await;
    let load = Load::start(Plan::default(), region.doors());
    load.more(100, MORE_MAX).await.unwrap();
    for (toxic, long) in TOXICS {
        network.suffer(toxic).await;
        // Nobody on the page's side waits for central.
        load.more(100, MORE_MAX).await.unwrap_or_else(|why| panic!("under {toxic:?}: {why}\n{}", region.words()));
        tokio::time::sleep(long).await;
        network.recover().await;
        region.all_ready().await;
    }
    let sent = load.finish(MORE_MAX).await.unwrap();
    audit::exactly(&region, &sent).await.unwrap();
}
