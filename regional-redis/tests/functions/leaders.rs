use regional_redis::{Approved, Lsn, Position};

use crate::bench::{Bench, NOON, pageview};
use crate::redis_process::RedisProcess;

#[tokio::test]
async fn a_leader_of_a_lower_term_is_fenced() {
    let mut bench = Bench::new().await;
    let old = bench.leader.clone();
    bench.cut().await;
    bench.leader = bench.link.approve(2, 1).await.unwrap().unwrap();
    let before = bench.everything().await;
    assert_eq!(bench.link.approve(1, 1).await.unwrap(), None);
    assert_eq!(bench.link.cut(&old, NOON).await.unwrap(), None);
    assert!(!bench.link.settle(&old, 0).await.unwrap());
    assert!(!bench.link.advance_durable(&old, &[("g".into(), Lsn(1))]).await.unwrap());
    bench.assert_unchanged(&before).await;
    // The new one is handed the flush that the old one had cut.
    assert_eq!(bench.cut().await.n, 0);
}

#[tokio::test]
async fn gateways_do_not_notice_a_new_leader() {
    let mut bench = Bench::new().await;
    let gateway = bench.gateway("g").await;
    bench.leader = bench.link.approve(2, 1).await.unwrap().unwrap();
    gateway.counts(&mut bench, &pageview(1, 7, NOON, "/")).await;
}

#[tokio::test]
async fn a_leader_reads_where_redis_stands() {
    let redis = RedisProcess::start().await;
    let mut link = redis.link().await;
    let empty = Position::default();
    assert_eq!(link.position().await.unwrap(), empty);

    let mut bench = Bench::on(redis).await;
    let gateway = bench.gateway("g").await;
    gateway.apply(&mut bench, &pageview(1, 7, NOON, "/")).await;
    bench.cut().await;
    let applied = vec![("g".to_owned(), Lsn(1))];
    let registered = vec!["g".to_owned()];
    let expected = Position {
        epoch: Some(1),
        approved: Approved::This,
        term: 1,
        open_flush: 1,
        unsettled: Some(0),
        applied,
        registered,
        ..Position::default()
    };
    assert_eq!(link.position().await.unwrap(), expected);
}

#[tokio::test]
async fn what_is_durable_only_grows() {
    let mut bench = Bench::new().await;
    let vector = |lsn| [("g".to_owned(), Lsn(lsn)), ("h".to_owned(), Lsn(1))];
    for lsn in [9, 10, 5] {
        assert!(bench.link.advance_durable(&bench.leader, &vector(lsn)).await.unwrap());
    }
    let mut connection = bench.redis.connection().await;
    let durable: Vec<(String, u64)> = redis::cmd("HGETALL").arg("{0}:k").query_async(&mut connection).await.unwrap();
    assert_eq!(durable, [("g".to_owned(), 10), ("h".to_owned(), 1)]);
}

#[tokio::test]
async fn a_redis_that_cannot_keep_is_refused_with_what_to_set() {
    for (settings, wanted) in [
        (["--appendonly", "no"], "`appendonly` is `no`: set it to `yes`"),
        (["--appendfsync", "no"], "`appendfsync` is `no`: set it to `always`"),
        (["--no-appendfsync-on-rewrite", "yes"], "`no-appendfsync-on-rewrite` is `yes`: set it to `no`"),
        (["--maxmemory-policy", "allkeys-lru"], "`maxmemory-policy` is `allkeys-lru`: set it to `noeviction`"),
    ] {
        let redis = RedisProcess::start_with(&settings).await;
        let error = redis.link().await.check_durable().await.unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
    }
    let redis = RedisProcess::start().await;
    redis.link().await.check_durable().await.unwrap();
}

#[tokio::test]
async fn what_only_waitaof_makes_durable_is_refused_without_it() {
    let with_waitaof = std::env::var_os("TIDELINE_REDIS_SERVER").is_some();
    let every_second = RedisProcess::start_with(&["--appendfsync", "everysec"]).await;
    let always = RedisProcess::start().await;
    for (mut link, wanted) in [
        (every_second.link().await, "`appendfsync` is `everysec`: set it to `always` (or to `everysec` with Redis 7.2"),
        (always.link().await.with_replicas(2), "`replicas` is 2, and it cannot say what they have on disk"),
    ] {
        match link.check_durable().await {
            Ok(()) => assert!(with_waitaof, "{wanted}"),
            Err(error) => assert!(!with_waitaof && error.to_string().contains(wanted), "{error}"),
        }
    }
}
