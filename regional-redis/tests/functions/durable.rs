use std::collections::HashMap;

use regional_redis::apply::Applied;
use regional_redis::{Lsn, Registered, bucket};

use crate::bench::{Bench, NOON, batch, call, counted, pageview, sid};
use crate::redis_process::RedisProcess;

#[tokio::test]
async fn every_acknowledged_call_survives_a_kill() {
    let mut bench = Bench::new().await;
    let gateway = bench.gateway("g").await;
    for lsn in 1..=200 {
        let counters = HashMap::from([(vec![1, 0, 0, 0, 0, 0, 4, b's', b'h', b'o', b'p'], 1)]);
        gateway.counts(&mut bench, &counted(pageview(lsn, lsn, NOON, "/"), counters)).await;
    }
    let cut = bench.cut().await;
    gateway.counts(&mut bench, &pageview(201, 1, NOON, "/")).await;
    let before = bench.everything().await;
    bench.redis.kill_and_restart().await;
    bench.assert_unchanged(&before).await;

    bench.lead_again().await;
    assert_eq!(bench.cut().await, cut);
    let rows = bucket::read(&mut bench.link, cut.n).await.unwrap();
    assert_eq!((rows.visits.len(), rows.rollups[0].pageviews), (200, 200));
}

#[tokio::test]
async fn a_restarted_redis_lets_everyone_wait_until_it_is_approved() {
    let mut bench = Bench::new().await;
    let gateway = bench.gateway("g").await;
    gateway.counts(&mut bench, &pageview(1, 7, NOON, "/")).await;
    bench.redis.kill_and_restart().await;
    assert!(
        gateway.try_apply(&mut bench, &pageview(2, 7, NOON, "/")).await.is_err(),
        "the old link is of the old process"
    );

    bench.link = bench.redis.link().await;
    assert_eq!(bench.link.approved().await.unwrap(), None);
    let before = bench.everything().await;
    // What approved the old process is still stored: remembering it does not help.
    assert_eq!(gateway.apply(&mut bench, &pageview(2, 7, NOON, "/")).await, Applied::Wait);
    assert_eq!(bench.link.register("g", "second", &gateway.approved).await.unwrap(), Registered::Wait);
    assert_eq!(bench.link.cut(&bench.leader, NOON).await.unwrap(), None);
    bench.assert_unchanged(&before).await;

    bench.lead_again().await;
    let approved = bench.link.approved().await.unwrap().expect("approved again");
    assert_eq!(approved, bench.leader.approved);
    let answer = bench.link.register("g", "second", &approved).await.unwrap();
    assert_eq!(answer, Registered::At { applied: Lsn(1), by: Some(gateway.incarnation.clone()), clock_floor_ms: 0 });
}

/// A kill in the middle of calls: whatever was answered is there, and the next answer says exactly how far Redis came.
#[tokio::test]
async fn a_kill_between_calls_and_answers_leaves_whole_calls_only() {
    let mut bench = Bench::new().await;
    let gateway = bench.gateway("g").await;
    let mut answered = 0;
    let many = |lsn: u64| {
        let batches = (1..=50).map(|seq| batch(sid(lsn as u32), seq, lsn)).collect();
        let counters = (0..100u8).map(|i| (vec![1, i], 1)).collect();
        counted(call(lsn - 1, lsn, batches), counters)
    };
    for round in 0..3 {
        let url = bench.redis.url();
        let killed = tokio::spawn({
            let gateway = gateway.clone();
            let approved = bench.leader.approved.clone();
            async move {
                let mut link = regional_redis::Link::connect(&url.into(), regional_redis::Shard(0)).await.unwrap();
                let mut last = answered;
                while last < answered + 100_000 {
                    let applied =
                        link.apply(&gateway.name, &gateway.incarnation, &approved, NOON, &many(last + 1)).await;
                    match applied {
                        Ok(Applied::Done(_)) => last += 1,
                        Ok(other) => panic!("{other:?}"),
                        Err(_) => break,
                    }
                }
                last
            }
        });
        tokio::time::sleep(std::time::Duration::from_millis(150 + 70 * round)).await;
        bench.redis.kill();
        let last = killed.await.unwrap();
        assert!(last > answered, "the kill came too early to mean anything");
        bench.redis.restart().await;
        bench.lead_again().await;
        let position = bench.link.position().await.unwrap();
        let Lsn(applied) = position.applied[0].1;
        assert!(applied == last || applied == last + 1, "answered {last}, applied {applied}");

        // A call counts whole: each counter of each applied call.
        let mut connection = bench.redis.connection().await;
        let counters: Vec<(Vec<u8>, u64)> =
            redis::cmd("HGETALL").arg("{0}:w:0").query_async(&mut connection).await.unwrap();
        assert_eq!(counters.len(), 100);
        assert!(counters.iter().all(|(_, count)| *count == applied));
        answered = applied;
    }
}

#[tokio::test]
async fn a_full_redis_refuses_calls_whole_and_can_still_be_emptied() {
    let redis = RedisProcess::start_with(&["--maxmemory", "6mb"]).await;
    let mut bench = Bench::on(redis).await;
    let gateway = bench.gateway("g").await;
    let mut lsn = 0;
    let error = loop {
        let counters = (0..2000u32)
            .map(|i| ([[1].as_slice(), &(lsn as u32).to_be_bytes(), &i.to_be_bytes()].concat(), 1))
            .collect();
        match gateway.try_apply(&mut bench, &counted(call(lsn, lsn + 1, vec![]), counters)).await {
            Ok(Applied::Done(_)) => {}
            Ok(other) => panic!("{other:?}"),
            Err(error) => break error.to_string(),
        }
        lsn += 1;
        assert!(lsn < 1000, "never full");
    };
    assert!(error.contains("OOM"), "{error}");
    let mut connection = bench.redis.connection().await;
    let counters: u64 = redis::cmd("HLEN").arg("{0}:w:0").query_async(&mut connection).await.unwrap();
    assert_eq!(counters, lsn * 2000, "no call was applied in part");

    // The refused call is not in the vector, and flushing makes room.
    let cut = bench.cut().await;
    assert_eq!(cut.vector, [("g".to_owned(), Lsn(lsn))]);
    assert!(bench.link.advance_durable(&bench.leader, &cut.vector).await.unwrap());
    bench.settle(cut.n).await;
    let next = pageview(lsn + 1, 7, NOON, "/");
    for _ in 0..100 {
        // Redis frees what was settled in the background.
        if let Ok(answer) = gateway.try_apply(&mut bench, &next).await {
            return assert!(matches!(answer, Applied::Done(_)), "{answer:?}");
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("still full after everything was settled");
}

#[tokio::test]
async fn an_emptied_redis_lets_everyone_wait() {
    let mut bench = Bench::new().await;
    let gateway = bench.gateway("g").await;
    gateway.counts(&mut bench, &pageview(1, 7, NOON, "/")).await;
    bench.redis.lose_everything().await;
    bench.link = bench.redis.link().await;
    assert_eq!(bench.link.approved().await.unwrap(), None);
    assert_eq!(gateway.apply(&mut bench, &pageview(2, 7, NOON, "/")).await, Applied::Wait);
    assert_eq!(bench.link.position().await.unwrap().epoch, None);
}

#[tokio::test]
async fn a_leader_without_replicas_takes_back_what_gateways_waited_for() {
    let bench = Bench::new().await;
    let mut connection = bench.redis.connection().await;
    redis::cmd("SET").arg("{0}:q").arg(2).exec_async(&mut connection).await.unwrap(); // of the leader before it
    let mut gateway = bench.redis.link().await;
    let error = gateway.barrier().await.unwrap_err().to_string();
    assert!(error.contains("replicas"), "{error}");
    bench.redis.link().await.with_replicas(0).say_replicas().await.unwrap();
    gateway.barrier().await.unwrap();
}

#[tokio::test]
async fn a_redis_says_whose_it_is() {
    let mut bench = Bench::new().await;
    assert_eq!(bench.link.region().await.unwrap(), None);
    assert_eq!(bench.link.claim("north").await.unwrap(), "north");
    assert_eq!(bench.link.claim("south").await.unwrap(), "north");
    assert_eq!(bench.link.region().await.unwrap().as_deref(), Some("north"));
}
