use std::time::{Duration, Instant};

use aggregator::{Config, Error};
use tokio_util::sync::CancellationToken;

use crate::bench::{Bench, until};
use crate::central::Fault;
use crate::redis_process::RedisProcess;

#[tokio::test]
async fn a_stop_forwards_what_is_still_in_the_open_bucket() {
    let bench = Bench::new().await;
    let aggregator = bench.start_with("a", Config { cut_interval_ms: 3_600_000, ..bench.config() });
    aggregator.is_ready().await;
    bench.gateway("g").apply_up_to(5).await;
    assert_eq!(bench.central.pageviews(), 0);
    aggregator.stop().await.unwrap();
    assert_eq!(bench.central.pageviews(), 5);
}

#[tokio::test]
async fn a_stop_waits_ten_seconds_for_an_acknowledgement_and_loses_nothing() {
    let bench = Bench::new().await;
    bench.central.look(|state| state.faults.push_back(Fault::HoldAck));
    let aggregator = bench.start("a");
    let mut gateway = bench.gateway("g");
    gateway.apply_up_to(5).await;
    until("the flush", async || bench.central.look(|state| state.next_flush == 1)).await;
    gateway.apply_up_to(7).await;
    let began = Instant::now();
    aggregator.stop().await.unwrap();
    assert!((9..13).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());

    let next = bench.start("next");
    bench.counted(7).await;
    next.stop().await.unwrap();
}

#[tokio::test]
async fn a_stop_while_central_or_redis_is_away_is_quick() {
    let mut bench = Bench::new().await;
    bench.central.kill().await;
    let aggregator = bench.start("a");
    aggregator.says("central").await;
    let began = Instant::now();
    aggregator.stop().await.unwrap();
    bench.redis.kill();
    let aggregator = bench.start("b");
    aggregator.says("redis").await;
    aggregator.stop().await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_redis_that_cannot_keep_is_refused_at_start() {
    let bench = Bench::new().await;
    let forgetful = RedisProcess::start_with(&["--appendfsync", "everysec"]).await;
    let aggregator = bench.start_with("a", Config { redis: forgetful.url(), ..bench.config() });
    let error = aggregator.ended().await.unwrap_err().to_string();
    assert!(error.contains("`appendfsync` is `everysec`: set it to `always`"), "{error}");
}

#[tokio::test]
async fn a_redis_that_ceases_to_keep_gets_no_more_cuts() {
    let bench = Bench::new().await;
    let aggregator = bench.start("a");
    let mut gateway = bench.gateway("g");
    gateway.apply_up_to(5).await;
    bench.counted(5).await;
    let set = redis::cmd("CONFIG").arg("SET").arg("appendfsync").arg("no").to_owned();
    set.exec_async(&mut bench.redis.connection().await).await.unwrap();
    gateway.apply_up_to(6).await;
    let error = aggregator.ended().await.unwrap_err().to_string();
    assert!(error.contains("`appendfsync` is `no`: set it to `always`"), "{error}");
    assert_eq!(bench.central.pageviews(), 5, "nothing left Redis");
}

#[tokio::test]
async fn a_wrong_token_is_told_and_tried_again() {
    let bench = Bench::new().await;
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "another").unwrap();
    let aggregator = bench.start_with("a", Config { uplink_token_file: token.path().to_owned(), ..bench.config() });
    aggregator.says("central refused the uplink token").await;
    assert_eq!(aggregator.admin("/live").await.0, 200);
    aggregator.stop().await.unwrap();
}

#[tokio::test]
async fn what_cannot_work_is_an_error_before_anything_starts() {
    let bench = Bench::new().await;
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let admin = taken.local_addr().unwrap();
    let empty = tempfile::NamedTempFile::new().unwrap();
    for (config, expected) in [
        (Config { uplink_token_file: "/nowhere/token".into(), ..bench.config() }, "/nowhere/token cannot be read"),
        (Config { uplink_token_file: empty.path().to_owned(), ..bench.config() }, "it is empty"),
        (Config { uplink: "not a url".into(), ..bench.config() }, "must be http://host:port"),
        (Config { redis: "localhost".into(), ..bench.config() }, "not a Redis URL"),
        (Config { cut_interval_ms: 0, ..bench.config() }, "`cut_interval_ms` is 0"),
        (Config { admin, ..bench.config() }, "set another `admin`"),
        (
            Config { address_file: Some("/nowhere/a.json".into()), ..bench.config() },
            "/nowhere/a.json cannot be written",
        ),
    ] {
        let outcome: Result<(), Error> = aggregator::run(config, CancellationToken::new()).await;
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[tokio::test]
async fn how_full_redis_is_is_told_while_central_is_away() {
    let mut bench = Bench::new().await;
    bench.central.kill().await;
    let aggregator = bench.start("a");
    let told = async || {
        let (_, text) = aggregator.admin("/metrics").await;
        let used = text.lines().find_map(|line| line.strip_prefix("tideline_aggregator_redis_memory_used_bytes "));
        used.is_some_and(|used| used != "0")
    };
    until("what redis holds", told).await;
    aggregator.stop().await.unwrap();
}

#[tokio::test]
async fn gateways_do_not_wait_for_the_replicas_of_an_earlier_leader() {
    let bench = Bench::new().await;
    let mut connection = bench.redis.connection().await;
    redis::cmd("SET").arg("{0}:q").arg(2).exec_async(&mut connection).await.unwrap();
    let aggregator = bench.start("a");
    aggregator.is_ready().await;
    let waited_for: u64 = redis::cmd("GET").arg("{0}:q").query_async(&mut connection).await.unwrap();
    assert_eq!(waited_for, 0);
    aggregator.stop().await.unwrap();
}
