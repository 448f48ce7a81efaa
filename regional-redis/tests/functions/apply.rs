use std::collections::HashMap;

use proto::limits::SEQ_MAX;
use regional_redis::apply::Applied;
use regional_redis::{Lsn, Registered, Reported};

use crate::bench::{Bench, NOON, batch, call, counted, pageview, sid};
use crate::redis_process::RedisProcess;

#[tokio::test]
async fn a_repeated_call_changes_nothing_and_is_answered_ok() {
    let mut bench = Bench::new().await;
    let gateway = bench.gateway("g").await;
    let first = counted(pageview(1, 7, NOON, "/"), HashMap::from([(b"\x01counter".to_vec(), 3)]));
    let outcomes = gateway.counts(&mut bench, &first).await;
    let before = bench.everything().await;
    assert_eq!(gateway.counts(&mut bench, &first).await, outcomes);
    bench.assert_unchanged(&before).await;

    // Also after later ones. Once its outcomes are logged, it is a call that comes too late.
    gateway.counts(&mut bench, &pageview(2, 7, NOON, "/")).await;
    assert_eq!(gateway.counts(&mut bench, &first).await, outcomes);
    assert_eq!(gateway.watermark(&mut bench, NOON, 2).await, Reported::Done { durable: Lsn(0) });
    let before = bench.everything().await;
    assert_eq!(gateway.apply(&mut bench, &first).await, Applied::Gap(Lsn(2)));
    bench.assert_unchanged(&before).await;
}

#[tokio::test]
async fn a_call_that_skips_records_is_told_where_redis_stands() {
    let mut bench = Bench::new().await;
    let gateway = bench.gateway("g").await;
    gateway.counts(&mut bench, &pageview(1, 7, NOON, "/")).await;
    let before = bench.everything().await;
    assert_eq!(gateway.apply(&mut bench, &pageview(3, 7, NOON, "/")).await, Applied::Gap(Lsn(1)));
    assert_eq!(gateway.watermark(&mut bench, NOON, 3).await, Reported::Gap(Lsn(1)));
    assert_eq!(gateway.watermark(&mut bench, NOON, 0).await, Reported::Gap(Lsn(1)));
    bench.assert_unchanged(&before).await;
}

#[tokio::test]
async fn a_call_that_overlaps_what_is_applied_is_a_gap_not_a_repeat() {
    let mut bench = Bench::new().await;
    let gateway = bench.gateway("g").await;
    gateway.counts(&mut bench, &call(0, 2, vec![batch(sid(1), 1, 1), batch(sid(1), 2, 2)])).await;
    let overlapping = call(1, 3, vec![batch(sid(1), 2, 2), batch(sid(1), 3, 3)]);
    assert_eq!(gateway.apply(&mut bench, &overlapping).await, Applied::Gap(Lsn(2)));
}

#[tokio::test]
async fn batches_counted_before_are_named_and_nothing_is_written() {
    let mut bench = Bench::new().await;
    let (one, other) = (bench.gateway("one").await, bench.gateway("other").await);
    let batches = vec![batch(sid(1), 1, 1), batch(sid(1), 2, 2), batch(sid(2), 1, 3)];
    one.counts(&mut bench, &call(0, 3, batches)).await;
    let before = bench.everything().await;
    let again = vec![batch(sid(1), 2, 11), batch(sid(1), 3, 12), batch(sid(2), 1, 13)];
    let refused = counted(call(0, 13, again), HashMap::from([(b"\x01counter".to_vec(), 1)]));
    assert_eq!(other.apply(&mut bench, &refused).await, Applied::Duplicates(vec![Lsn(11), Lsn(13)]));
    bench.assert_unchanged(&before).await;

    // Declared duplicates, the rest is applied; the position moves over them.
    other.counts(&mut bench, &call(0, 13, vec![batch(sid(1), 3, 12)])).await;
    assert_eq!(
        other.apply(&mut bench, &call(13, 14, vec![batch(sid(1), 3, 14)])).await,
        Applied::Duplicates(vec![Lsn(14)])
    );
}

#[tokio::test]
async fn a_call_that_names_a_batch_twice_is_refused() {
    let mut bench = Bench::new().await;
    let gateway = bench.gateway("g").await;
    let before = bench.everything().await;
    let twice = call(0, 3, vec![batch(sid(1), 1, 1), batch(sid(2), 1, 2), batch(sid(1), 1, 3)]);
    assert_eq!(gateway.apply(&mut bench, &twice).await, Applied::Repeated(Lsn(3)));
    bench.assert_unchanged(&before).await;
}

#[tokio::test]
async fn an_old_incarnation_is_fenced() {
    let mut bench = Bench::new().await;
    let old = bench.gateway("g").await;
    old.counts(&mut bench, &pageview(1, 7, NOON, "/")).await;
    let answer = bench.link.register("g", "second", &old.approved).await.unwrap();
    assert_eq!(answer, Registered::At { applied: Lsn(1), by: Some(old.incarnation.clone()), clock_floor_ms: 0 });
    let before = bench.everything().await;
    assert_eq!(old.apply(&mut bench, &pageview(2, 7, NOON, "/")).await, Applied::Fenced);
    assert_eq!(old.watermark(&mut bench, NOON, 1).await, Reported::Fenced);
    bench.assert_unchanged(&before).await;
}

#[tokio::test]
async fn a_gateway_that_never_registered_is_fenced() {
    let mut bench = Bench::new().await;
    let mut stranger = bench.gateway("g").await;
    stranger.name = "stranger".into();
    assert_eq!(stranger.apply(&mut bench, &pageview(1, 7, NOON, "/")).await, Applied::Fenced);
}

#[tokio::test]
async fn a_redis_that_no_leader_approved_lets_everyone_wait() {
    let redis = RedisProcess::start().await;
    let mut link = redis.link().await;
    link.load_functions().await.unwrap();
    assert_eq!(link.approved().await.unwrap(), None);
    let approved = format!("1:{}", link.run_id());
    assert_eq!(link.register("g", "first", &approved).await.unwrap(), Registered::Wait);
    assert_eq!(link.apply("g", "first", &approved, NOON, &pageview(1, 7, NOON, "/")).await.unwrap(), Applied::Wait);
    assert_eq!(link.watermark("g", "first", &approved, NOON, Lsn(0), Lsn(0)).await.unwrap(), Reported::Wait);
    assert!(!link.retire("g", &approved).await.unwrap());
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut redis.connection().await).await.unwrap();
    assert!(keys.is_empty(), "{keys:?}");
}

#[tokio::test]
async fn another_epoch_lets_everyone_wait() {
    let mut bench = Bench::new().await;
    let gateway = bench.gateway("g").await;
    bench.leader = bench.link.approve(2, 2).await.unwrap().unwrap();
    let before = bench.everything().await;
    assert_eq!(gateway.apply(&mut bench, &pageview(1, 7, NOON, "/")).await, Applied::Wait);
    assert_eq!(gateway.watermark(&mut bench, NOON, 0).await, Reported::Wait);
    bench.assert_unchanged(&before).await;
}

#[tokio::test]
async fn bitmaps_reach_across_bytes_up_to_the_last_seq() {
    let mut bench = Bench::new().await;
    let gateway = bench.gateway("g").await;
    // Not in order, and with every position in a byte.
    let seqs = [SEQ_MAX, 1, 7, 8, 9, 15, 16, 17, 2048, SEQ_MAX - 1];
    for (prev, seq) in (0..).zip(seqs) {
        gateway.counts(&mut bench, &call(prev, prev + 1, vec![batch(sid(1), seq, prev + 1)])).await;
    }
    let set: Vec<u32> = {
        let mut set = Vec::new();
        for seq in 1..=SEQ_MAX {
            // The LSN names the seq; the call is refused, so all of them may start at the same position.
            let (prev, lsn) = (seqs.len() as u64, 10_000 + u64::from(seq));
            let probe = call(prev, lsn, vec![batch(sid(1), seqs[0], 1), batch(sid(1), seq, lsn)]);
            match gateway.apply(&mut bench, &probe).await {
                Applied::Duplicates(lsns) if lsns.contains(&Lsn(lsn)) => set.push(seq),
                Applied::Duplicates(_) => {}
                Applied::Repeated(_) => set.push(seq), // the one that makes every probe a duplicate
                other => panic!("{other:?}"),
            }
        }
        set
    };
    let mut expected = seqs.to_vec();
    expected.sort_unstable();
    assert_eq!(set, expected);
}

#[tokio::test]
async fn seqs_outside_their_range_are_an_error_and_nothing_is_written() {
    let mut bench = Bench::new().await;
    let gateway = bench.gateway("g").await;
    let before = bench.everything().await;
    for seq in [0, SEQ_MAX + 1] {
        let wrong = call(0, 2, vec![batch(sid(2), 1, 1), batch(sid(1), seq, 2)]);
        let error = gateway.try_apply(&mut bench, &wrong).await.unwrap_err().to_string();
        assert!(error.contains("sid, seq and lsn"), "{error}");
    }
    bench.assert_unchanged(&before).await;
}

#[tokio::test]
async fn what_would_fail_in_the_middle_of_the_writes_fails_before_them() {
    let mut bench = Bench::new().await;
    let gateway = bench.gateway("g").await;
    let before = bench.everything().await;

    let too_much = counted(pageview(1, 7, NOON, "/"), HashMap::from([(b"\x01counter".to_vec(), 1 << 53)]));
    let mut long_page = pageview(1, 7, NOON, "/");
    long_page.visits[0].exit = Some((NOON, "/".repeat(70_000)));
    let mut no_site = pageview(1, 7, NOON, "/");
    no_site.visits[0].key = "shop".into();
    let mut unknown_class = pageview(1, 7, NOON, "/");
    unknown_class.batches[0].class = 2;
    for (wrong, why) in [
        (too_much, "counters"),
        (long_page, "visit pages"),
        (no_site, "visit key"),
        (unknown_class, "class and hour"),
        (call(1, 1, vec![]), "prev, last"),
        (call(2, 1, vec![]), "prev, last"),
    ] {
        let error = gateway.try_apply(&mut bench, &wrong).await.unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
    bench.assert_unchanged(&before).await;
    gateway.counts(&mut bench, &pageview(1, 7, NOON, "/")).await;
}

#[tokio::test]
async fn arguments_that_are_not_arrays_are_an_error_and_nothing_is_written() {
    let mut bench = Bench::new().await;
    let gateway = bench.gateway("g").await;
    let before = bench.everything().await;
    let mut connection = bench.redis.connection().await;
    let fine = [0x90u8].as_slice(); // an empty array
    for junk in [b"".as_slice(), b"\xff", b"\xc1\xc1", b"\x93", b"\x91\x91", b"\xa3abc", b"\x94\x01\x02\x03\x04"] {
        for place in 0..4 {
            let mut arguments = [fine; 4];
            arguments[place] = junk;
            let mut command = redis::cmd("FCALL");
            command.arg("tideline_apply").arg(1).arg("{0}:e").arg(0).arg("g").arg(&gateway.incarnation);
            command.arg(0).arg(1).arg(&gateway.approved).arg(NOON);
            for argument in arguments {
                command.arg(argument);
            }
            let answer: redis::RedisResult<redis::Value> = command.query_async(&mut connection).await;
            assert!(answer.is_err(), "{junk:02x?} in place {place}: {answer:?}");
        }
        bench.assert_unchanged(&before).await;
    }
}
