use proto::uplink::{Outcome, Outcomes};
use regional_redis::apply::Applied;
use regional_redis::visit::visit_id;
use regional_redis::{Lsn, Reported, bucket};

use crate::bench::{Bench, Gateway, NOON, batch, call, pageview, sid};

fn counted(lsn: u64, opened_by: u32) -> Outcome {
    Outcome { lsn, visit: visit_id(sid(opened_by).as_bytes(), 1).to_vec() }
}

#[tokio::test]
async fn a_call_is_answered_with_the_outcome_of_every_batch_it_names() {
    let mut bench = Bench::new().await;
    let gateway = bench.gateway("g").await;
    let mut three = call(0, 4, vec![]);
    for (lsn, visitor) in [(1, 7), (2, 8), (4, 7)] {
        let one = pageview(lsn, visitor, NOON, "/");
        three.batches.extend(one.batches);
        three.visits.extend(one.visits);
    }
    let outcomes = gateway.counts(&mut bench, &three).await;
    let expected = vec![counted(1, 1), counted(2, 2), counted(4, 1)]; // 3 was a duplicate
    assert_eq!(outcomes, Outcomes { gateway: String::new(), epoch: 1, prev: 0, last: 4, counted: expected });

    // Record 5 was a duplicate, record 6 has no event that counts.
    let outcomes = gateway.counts(&mut bench, &call(4, 6, vec![batch(sid(60), 1, 6)])).await;
    let expected = vec![Outcome { lsn: 6, visit: vec![] }];
    assert_eq!(outcomes, Outcomes { gateway: String::new(), epoch: 1, prev: 4, last: 6, counted: expected });
}

#[tokio::test]
async fn the_next_incarnation_finds_what_the_last_one_did_not_log() {
    let mut bench = Bench::new().await;
    let gateway = bench.gateway("g").await;
    let mut all = Vec::new();
    for lsn in 1..=12 {
        all.push(gateway.counts(&mut bench, &pageview(lsn, 7, NOON, "/")).await);
    }
    assert_eq!(bench.link.unlogged("g").await.unwrap(), all, "in the order of the log, not of the digits");
    assert_eq!(report(&mut bench, &gateway, 12, 9).await, Reported::Done { durable: Lsn(0) });
    assert_eq!(bench.link.unlogged("g").await.unwrap(), all[9..]);
    assert_eq!(bench.link.unlogged("stranger").await.unwrap(), []);
}

#[tokio::test]
async fn a_report_is_told_what_is_durable() {
    let mut bench = Bench::new().await;
    let gateway = bench.gateway("g").await;
    gateway.counts(&mut bench, &pageview(1, 7, NOON, "/")).await;
    let cut = bench.cut().await;
    assert!(bench.link.advance_durable(&bench.leader, &cut.vector).await.unwrap());
    assert_eq!(report(&mut bench, &gateway, 1, 0).await, Reported::Done { durable: Lsn(1) });
}

#[tokio::test]
async fn a_flush_carries_what_is_not_logged_and_carries_it_once() {
    let mut bench = Bench::new().await;
    let (one, dead) = (bench.gateway("one").await, bench.gateway("dead").await);
    let first = one.counts(&mut bench, &pageview(1, 7, NOON, "/")).await;
    let second = one.counts(&mut bench, &pageview(2, 7, NOON, "/")).await;
    let lost = dead.counts(&mut bench, &call(0, 1, vec![batch(sid(99), 1, 1)])).await;
    let of = |gateway: &str, outcomes: &Outcomes| Outcomes { gateway: gateway.into(), ..outcomes.clone() };

    assert_eq!(report(&mut bench, &one, 2, 1).await, Reported::Done { durable: Lsn(0) });
    let cut = bench.cut().await;
    let expected = [of("dead", &lost), of("one", &second)];
    assert_eq!(bucket::read(&mut bench.link, cut.n).await.unwrap().outcomes, expected);
    // What a cut carries stays as it was, whatever is logged before it leaves.
    assert_eq!(report(&mut bench, &one, 2, 2).await, Reported::Done { durable: Lsn(0) });
    assert_eq!(bucket::read(&mut bench.link, cut.n).await.unwrap().outcomes, expected);
    bench.settle(cut.n).await;

    let third = one.counts(&mut bench, &pageview(3, 7, NOON, "/")).await;
    assert_eq!(bench.flush().await.outcomes, [of("one", &third)]);
    assert_eq!(bench.flush().await.outcomes, []);
    // A gateway that comes back still finds them.
    assert_eq!(bench.link.unlogged("dead").await.unwrap(), [lost]);
    assert_eq!(bench.link.unlogged("one").await.unwrap(), [third]);
    assert_ne!(first, second);
}

#[tokio::test]
async fn an_unsettled_flush_keeps_carrying_its_outcomes() {
    let mut bench = Bench::new().await;
    let gateway = bench.gateway("g").await;
    gateway.counts(&mut bench, &pageview(1, 7, NOON, "/")).await;
    let cut = bench.cut().await;
    bench.redis.kill_and_restart().await;
    bench.lead_again().await;
    assert_eq!(bench.cut().await, cut);
    assert_eq!(bucket::read(&mut bench.link, cut.n).await.unwrap().outcomes.len(), 1);
}

#[tokio::test]
async fn nothing_is_left_of_a_retired_gateways_outcomes_once_they_have_travelled() {
    let mut bench = Bench::new().await;
    let gateway = bench.gateway("g").await;
    gateway.counts(&mut bench, &pageview(1, 7, NOON, "/")).await;
    assert!(bench.link.retire("g", &gateway.approved).await.unwrap());
    assert_eq!(gateway.apply(&mut bench, &pageview(2, 7, NOON, "/")).await, Applied::Fenced);
    assert_eq!(bench.flush().await.outcomes.len(), 1);
    assert!(!bench.keys().await.contains(&"{0}:x:g".to_owned()));
}

async fn report(bench: &mut Bench, gateway: &Gateway, applied: u64, logged: u64) -> Reported {
    let Gateway { name, incarnation, approved } = gateway;
    bench.link.watermark(name, incarnation, approved, NOON, Lsn(applied), Lsn(logged)).await.unwrap()
}
