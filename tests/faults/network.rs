//! Networks that are slow, that cut connections off in the middle of a call or an answer, or that say nothing at all.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use harness::audit;
use harness::load::{Load, Plan};
use harness::proxy::{BadNetwork, Toxic};
use harness::region::Region;

const MORE_MAX: Duration = Duration::from_secs(60);
/// For what is slow there is nothing to wait for.
const SLOW: Duration = Duration::from_secs(4);
/// Longer than the 10 s after which an answer of Redis is given up.
const REDIS_SILENCE: Duration = Duration::from_secs(15);
/// Longer than the keep-alive of an uplink: a ping after 10 s, given up after 10 more.
const UPLINK_SILENCE: Duration = Duration::from_secs(40);
/// From the first sign of trouble to a connection given up and another tried.
const NOTICED_MAX: Duration = Duration::from_secs(60);

/// A load that leaves the machine to others: these tests wait.
const PLAN: Plan = Plan { agents: 10, every: Duration::from_millis(200), events: 3, repeated: 0.05 };

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

async fn region_over_redis() -> (Region, BadNetwork) {
    region_over("redis", |region| region.redis.address(), "redis").await
}

async fn region_over_uplink() -> (Region, BadNetwork) {
    region_over("uplink", |region| region.central.uplink(), "http").await
}

/// Where every connection stands before a fault, so that its loss shows.
struct Before {
    said: Vec<usize>,
    interruptions: f64,
}

impl Before {
    async fn now(region: &Region) -> Self {
        let said = region.gateways.iter().map(|gateway| gateway.process.said().len()).collect();
        Self { said, interruptions: interruptions(region).await }
    }

    /// Every gateway has said this, and the aggregator has lost its leadership and tries again: nobody sits on a dead connection.
    async fn all_noticed(&self, region: &Region, words: &str) {
        for (gateway, said) in region.gateways.iter().zip(&self.said) {
            gateway.process.until_it_says(words, *said, NOTICED_MAX).await;
        }
        self.aggregator_noticed(region).await;
    }

    /// The aggregator has. Where every connection is cut off after so many bytes, a gateway may have no reason to send as many: it
    /// ships what the aggregator has told central of.
    async fn aggregator_noticed(&self, region: &Region) {
        let asked = Instant::now();
        while interruptions(region).await <= self.interruptions {
            assert!(asked.elapsed() < NOTICED_MAX, "the aggregator sits on a dead connection\n{}", region.words());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn interruptions(region: &Region) -> f64 {
    region.aggregator.metric(region.http(), "tideline_aggregator_interruptions_total").await
}

/// Waits until every gateway's breaker to `redis` or `central` is closed, or is not.
async fn breakers(region: &Region, to: &str, closed: bool) {
    let asked = Instant::now();
    for gateway in &region.gateways {
        let metric = format!("tideline_gateway_breaker{{to=\"{to}\"}}");
        while (gateway.metric(region.http(), &metric).await == 0.0) != closed {
            assert!(asked.elapsed() < NOTICED_MAX, "{metric} does not change\n{}", region.words());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

const REDIS_LOST: &str = "redis lost; batches wait in the log";
const UPLINK_LOST: &str = "no uplink to central";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_to_redis_that_is_slow_or_cuts_calls_and_answers_off_anywhere_counts_each_batch_once() {
    let (mut region, network) = region_over_redis().await;
    let load = Load::start(PLAN, region.doors());
    load.more(100, MORE_MAX).await.unwrap();
    network.suffer(Toxic::Latency(Duration::from_millis(200))).await;
    tokio::time::sleep(SLOW).await;
    network.recover().await;
    // A handshake is hundreds of bytes, an apply call of some batches thousands.
    let cuts = [150, 700, 2_000, 5_000, 12_000];
    let cuts = cuts.into_iter().flat_map(|bytes| [Toxic::LimitCalls(bytes), Toxic::LimitAnswers(bytes)]);
    for toxic in cuts.chain([Toxic::Reset(Duration::from_millis(300))]) {
        load.more(20, MORE_MAX).await.unwrap_or_else(|why| panic!("before {toxic:?}: {why}\n{}", region.words()));
        region.all_ready().await;
        let before = Before::now(&region).await;
        network.suffer(toxic).await;
        before.all_noticed(&region, REDIS_LOST).await;
        network.recover().await;
    }
    region.all_ready().await;
    let sent = load.finish(MORE_MAX).await.unwrap();
    audit::exactly(&region, &sent).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_says_nothing_is_given_up_and_each_batch_is_counted_once() {
    let (mut region, network) = region_over_redis().await;
    let load = Load::start(PLAN, region.doors());
    for toxic in [Toxic::NothingArrives, Toxic::NoAnswer] {
        load.more(50, MORE_MAX).await.unwrap_or_else(|why| panic!("before {toxic:?}: {why}\n{}", region.words()));
        region.all_ready().await;
        let before = Before::now(&region).await;
        network.suffer(toxic).await;
        tokio::time::sleep(REDIS_SILENCE).await;
        before.all_noticed(&region, REDIS_LOST).await;
        breakers(&region, "redis", false).await;
        network.recover().await;
        breakers(&region, "redis", true).await;
    }
    load.more(100, MORE_MAX).await.unwrap_or_else(|why| panic!("{why}\n{}", region.words()));
    region.all_ready().await;
    let sent = load.finish(MORE_MAX).await.unwrap();
    audit::exactly(&region, &sent).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_to_central_that_is_slow_or_cuts_flushes_and_answers_off_anywhere_is_no_matter_to_pages() {
    let (mut region, network) = region_over_uplink().await;
    let load = Load::start(PLAN, region.doors());
    load.more(100, MORE_MAX).await.unwrap();
    network.suffer(Toxic::Latency(Duration::from_millis(200))).await;
    tokio::time::sleep(SLOW).await;
    network.recover().await;
    // A hello is hundreds of bytes, a flush's chunk or a frame of raw rows thousands. Central's answers are short.
    let calls = [300, 1_500, 4_000, 10_000, 25_000].map(Toxic::LimitCalls);
    let answers = [100, 300, 1_000].map(Toxic::LimitAnswers);
    for toxic in calls.into_iter().chain(answers).chain([Toxic::Reset(Duration::from_millis(300))]) {
        region.all_ready().await;
        let before = Before::now(&region).await;
        network.suffer(toxic).await;
        // Nobody on the page's side waits for central.
        load.more(20, MORE_MAX).await.unwrap_or_else(|why| panic!("under {toxic:?}: {why}\n{}", region.words()));
        match toxic {
            Toxic::LimitCalls(_) | Toxic::LimitAnswers(_) => before.aggregator_noticed(&region).await,
            _ => before.all_noticed(&region, UPLINK_LOST).await,
        }
        network.recover().await;
    }
    for gateway in &region.gateways {
        let cuts = gateway.process.said().matches(UPLINK_LOST).count();
        assert!(cuts >= 4, "{} was cut off {cuts} times\n{}", gateway.process.name(), region.words());
    }
    region.all_ready().await;
    let sent = load.finish(MORE_MAX).await.unwrap();
    audit::exactly(&region, &sent).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_central_that_says_nothing_is_given_up_while_pages_are_answered() {
    // Side by side: it is waiting, and the machine has other things to do.
    tokio::join!(silent_central(Toxic::NothingArrives), silent_central(Toxic::NoAnswer));
}

async fn silent_central(toxic: Toxic) {
    let (mut region, network) = region_over_uplink().await;
    let load = Load::start(Plan { agents: 4, ..PLAN }, region.doors());
    load.more(50, MORE_MAX).await.unwrap();
    let before = Before::now(&region).await;
    network.suffer(toxic).await;
    let began = Instant::now();
    load.more(50, MORE_MAX).await.unwrap_or_else(|why| panic!("under {toxic:?}: {why}\n{}", region.words()));
    before.all_noticed(&region, UPLINK_LOST).await;
    breakers(&region, "central", false).await;
    tokio::time::sleep(UPLINK_SILENCE.saturating_sub(began.elapsed())).await;
    load.more(50, MORE_MAX).await.unwrap_or_else(|why| panic!("under {toxic:?}: {why}\n{}", region.words()));
    network.recover().await;
    breakers(&region, "central", true).await;
    region.all_ready().await;
    let sent = load.finish(MORE_MAX).await.unwrap();
    audit::exactly(&region, &sent).await.unwrap_or_else(|why| panic!("after {toxic:?}: {why}"));
}
