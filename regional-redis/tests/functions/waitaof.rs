//! Barriers that wait: for the next fsync, and for replicas. They need Redis 7.2 or newer: scripts/test-newer-redis.sh runs
//! them, and all others, with one.

use std::time::{Duration, Instant};

use regional_redis::{LinkError, Reported};

use crate::bench::{Bench, NOON, pageview};
use crate::redis_process::RedisProcess;

/// A port that was free a moment ago.
fn port() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port().to_string()
}

#[tokio::test]
#[ignore = "needs Redis 7.2: scripts/test-newer-redis.sh"]
async fn an_fsync_every_second_is_waited_for() {
    let redis = RedisProcess::start_with(&["--appendfsync", "everysec"]).await;
    let mut bench = Bench::on(redis).await;
    bench.link.check_durable().await.unwrap();
    let gateway = bench.gateway("g").await;
    for lsn in 1..=20 {
        gateway.counts(&mut bench, &pageview(lsn, lsn, NOON, "/")).await;
    }
    // The gateways' way: what the leader waits for is found in Redis.
    bench.link.barrier().await.unwrap();
    let info: String =
        redis::cmd("INFO").arg("persistence").query_async(&mut bench.redis.connection().await).await.unwrap();
    assert!(info.contains("aof_pending_bio_fsync:0") && info.contains("aof_buffer_length:0"), "{info}");
    bench.redis.kill_and_restart().await;
    bench.lead_again().await;
    assert_eq!(bench.link.position().await.unwrap().applied[0].1.0, 20);
}

#[tokio::test]
#[ignore = "needs Redis 7.2: scripts/test-newer-redis.sh"]
async fn a_barrier_does_not_hold_up_what_is_counted_meanwhile() {
    let redis = RedisProcess::start_with(&["--appendfsync", "everysec"]).await;
    let mut bench = Bench::on(redis).await;
    let gateway = bench.gateway("g").await;
    // Nobody follows it: the barrier waits in vain.
    let mut waiting = bench.redis.link().await.with_replicas(1);
    let barrier = tokio::spawn(async move { waiting.barrier().await });
    let began = Instant::now();
    for lsn in 1..=20 {
        gateway.counts(&mut bench, &pageview(lsn, lsn, NOON, "/")).await;
    }
    assert_eq!(gateway.watermark(&mut bench, NOON, 20).await, Reported::Done { durable: regional_redis::Lsn(0) });
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    let error = barrier.await.unwrap().unwrap_err();
    assert!(matches!(&error, LinkError::NotDurable(why) if why.starts_with("0 of 1 replicas")), "{error}");
    // From now on gateways wait for the replica too.
    let error = bench.redis.link().await.barrier().await.unwrap_err().to_string();
    assert!(error.contains("0 of 1 replicas"), "{error}");
}

#[tokio::test]
#[ignore = "needs Redis 7.2: scripts/test-newer-redis.sh"]
async fn a_barrier_waits_for_the_disk_of_a_replica() {
    for fsync in ["always", "everysec"] {
        let port = port();
        let redis = RedisProcess::start_with(&["--appendfsync", fsync, "--port", &port]).await;
        let replica = RedisProcess::try_start_with(&["--appendfsync", "everysec", "--replicaof", "127.0.0.1", &port]);
        let mut bench = Bench::on(redis).await;
        let gateway = bench.gateway("g").await;
        gateway.counts(&mut bench, &pageview(1, 7, NOON, "/")).await;
        bench.link = bench.redis.link().await.with_replicas(1);
        bench.link.barrier().await.unwrap();
        let mut connection = replica.connection().await;
        let applied: Option<u64> = redis::cmd("HGET").arg("{0}:a").arg("g").query_async(&mut connection).await.unwrap();
        assert_eq!(applied, Some(1), "what was promoted would have it");
        let refused = regional_redis::Link::connect(&replica.url().into(), regional_redis::Shard(0)).await;
        assert!(matches!(refused, Err(LinkError::Replica)), "{refused:?}");
    }
}
