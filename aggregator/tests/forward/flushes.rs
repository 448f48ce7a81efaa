use std::time::Duration;

use regional_redis::Shard;

use crate::bench::{Bench, until};
use crate::central::Fault;

#[tokio::test]
async fn what_gateways_count_arrives_once() {
    let bench = Bench::new().await;
    let aggregator = bench.start("a");
    let (mut one, mut other) = (bench.gateway("one"), bench.gateway("two"));
    one.apply_up_to(25).await;
    bench.counted(25).await;
    one.apply_up_to(40).await;
    other.apply_up_to(10).await;
    bench.counted(50).await;

    bench.central.look(|state| {
        assert_eq!(state.accepted, [("one".into(), 40), ("two".into(), 10)].into());
        assert_eq!(state.durable, state.accepted);
        assert_eq!(state.open_flush, state.next_flush);
        let visits: usize = state.flushes.values().map(|rows| rows.visits.len()).sum();
        let visitors: usize = state.flushes.values().flat_map(|rows| &rows.uniques).map(|row| row.visitors.len()).sum();
        assert_eq!((visits, visitors), (50, 50));
        let numbers: Vec<u64> = state.transmissions.iter().map(|flush| flush.n).collect();
        assert_eq!(numbers, (0..state.next_flush).collect::<Vec<_>>(), "nothing is sent twice when nothing breaks");
    });
    aggregator.stop().await.unwrap();
}

#[tokio::test]
async fn a_flush_carries_the_watermark_of_its_cut() {
    let bench = Bench::new().await;
    let aggregator = bench.start("a");
    let mut gateway = bench.gateway("g");
    gateway.apply_up_to(1).await;
    gateway.watermark(1_795_348_900_000).await;
    gateway.apply_up_to(2).await;
    bench.counted(2).await;
    bench.central.look(|state| assert_eq!(state.watermark_ms, 1_795_348_900_000));
    aggregator.stop().await.unwrap();
}

#[tokio::test]
async fn nothing_is_cut_where_nothing_was_applied() {
    let bench = Bench::new().await;
    let aggregator = bench.start("a");
    bench.gateway("g").apply_up_to(5).await;
    bench.counted(5).await;
    let flushes = bench.central.look(|state| state.transmissions.len());
    tokio::time::sleep(Duration::from_secs(1)).await; // ten intervals
    assert_eq!(bench.central.look(|state| state.transmissions.len()), flushes);
    aggregator.stop().await.unwrap();
}

#[tokio::test]
async fn a_large_bucket_travels_in_many_chunks() {
    let bench = Bench::new().await;
    let mut config = bench.config();
    config.cut_interval_ms = 3_600_000;
    let aggregator = bench.start_with("a", config);
    bench.gateway("g").apply_up_to(15_000).await;
    aggregator.stop().await.unwrap();
    assert_eq!(bench.central.pageviews(), 15_000);
    let chunks = bench.central.look(|state| state.transmissions.last().unwrap().chunks.len());
    assert!(chunks >= 2, "{chunks}");
    bench.central.look(|state| {
        assert_eq!(state.flushes.values().map(|rows| rows.visits.len()).sum::<usize>(), 15_000);
    });
}

#[tokio::test]
async fn a_settled_flush_leaves_nothing_in_redis() {
    let bench = Bench::new().await;
    let aggregator = bench.start("a");
    bench.gateway("g").apply_up_to(5).await;
    bench.counted(5).await;
    aggregator.stop().await.unwrap();
    let buckets: Vec<String> =
        redis::cmd("KEYS").arg("{0}:w*").query_async(&mut bench.redis.connection().await).await.unwrap();
    assert!(buckets.is_empty(), "{buckets:?}");
    let position =
        regional_redis::Link::connect(&bench.redis.url().into(), Shard(0)).await.unwrap().position().await.unwrap();
    assert_eq!(position.unsettled, None);
}

#[tokio::test]
async fn live_figures_go_on_while_a_flush_waits_for_its_acknowledgement() {
    let bench = Bench::new().await;
    bench.central.look(|state| state.faults.push_back(Fault::HoldAck));
    let aggregator = bench.start("a");
    let mut gateway = bench.gateway("g");
    gateway.apply_up_to(5).await;
    until("the flush", async || bench.central.look(|state| state.next_flush == 1)).await;
    gateway.apply_up_to(12).await;

    until("a live figure of both buckets", async || {
        bench.central.look(|state| {
            let Some(live) = state.live.last() else { return false };
            let numbers: Vec<u64> = live.buckets.iter().map(|bucket| bucket.n).collect();
            numbers == [0, 1] && live.sites.iter().map(|site| site.current_visitors).eq([12])
        })
    })
    .await;
    assert_eq!(bench.central.pageviews(), 5, "nothing else is flushed meanwhile");
    bench.central.release();
    bench.counted(12).await;
    aggregator.stop().await.unwrap();
}
