//! A Redis that was lost, rebuilt step by step; each step may be the last of its leader.

use proto::uplink::{Remembered, VisitRow};
use regional_redis::apply::Applied;
use regional_redis::{Approval, Approved, Link, Lsn, Rebuilding, Registered, Reported};

use crate::bench::{Bench, HOUR, MINUTE, NOON, batch, call, pageview, sid};

const EPOCH: u64 = 2;
const HORIZON: u64 = NOON - HOUR;

fn named(gateways: &[&str]) -> Vec<String> {
    gateways.iter().map(|gateway| (*gateway).to_owned()).collect()
}

fn remembered(number: u32, seqs: &[u32]) -> Remembered {
    Remembered { class: 0, sid: sid(number).as_bytes().to_vec(), seqs: seqs.to_vec() }
}

/// Everything a leader does, until `steps` of it are done. Waits for g and h; r was retired, and had counted (90, 1).
async fn rebuild(link: &mut Link, term: u64, visits: &[VisitRow], steps: usize) -> Option<Approval> {
    let preparing = link.begin_rebuild(term, EPOCH).await.unwrap()?;
    if steps >= 1 {
        assert!(link.wipe(&preparing).await.unwrap());
    }
    if steps >= 2 {
        assert!(link.restore_visits(&preparing, visits).await.unwrap());
    }
    if steps >= 3 {
        assert!(link.remember_all(&preparing, &[remembered(90, &[1, 1])]).await.unwrap());
    }
    if steps < 4 {
        return None;
    }
    link.open_rebuild(&preparing, HORIZON, &named(&["g", "h"]), &named(&["r"])).await.unwrap()
}

/// Gateway g had counted its first two records, and the visit of visitor 7 runs.
async fn lost() -> (Bench, Vec<VisitRow>) {
    let mut bench = Bench::new().await;
    let gateway = bench.gateway("g").await;
    gateway.counts(&mut bench, &pageview(1, 7, NOON, "/one")).await;
    gateway.counts(&mut bench, &pageview(2, 7, NOON + MINUTE, "/two")).await;
    let visits = bench.flush().await.visits;
    // Counted, and never accepted: it goes, and comes again from the log.
    gateway.counts(&mut bench, &pageview(3, 8, NOON, "/")).await;
    (bench, visits)
}

async fn register(bench: &mut Bench, gateway: &str, incarnation: &str) -> Registered {
    let approved = bench.leader.approved.clone();
    bench.link.register(gateway, incarnation, &approved).await.unwrap()
}

#[tokio::test]
async fn a_rebuild_that_is_begun_again_after_any_step_ends_the_same() {
    for steps in 0..4 {
        let (mut bench, visits) = lost().await;
        assert_eq!(rebuild(&mut bench.link, 2, &visits, steps).await, None);
        let position = bench.link.position().await.unwrap();
        assert_eq!((position.epoch, position.approved, position.term), (Some(EPOCH), Approved::Nobody, 2));
        assert_eq!(bench.link.approved().await.unwrap(), None, "nobody counts while it is prepared");
        let old = bench.leader.clone();
        assert_eq!(register(&mut bench, "g", "early").await, Registered::Wait);
        assert_eq!(bench.link.cut(&old, NOON).await.unwrap(), None);

        bench.leader = rebuild(&mut bench.link, 3, &visits, 4).await.unwrap();
        let position = bench.link.position().await.unwrap();
        assert_eq!((position.epoch, position.approved, position.term), (Some(EPOCH), Approved::This, 3));
        assert_eq!((position.open_flush, position.unsettled), (0, None));
        assert_eq!((position.applied, position.registered), (vec![], vec![]));
        assert_eq!((position.waiting, position.retired), (named(&["g", "h"]), named(&["r"])));
        assert_eq!(bench.link.remembered().await.unwrap(), 1);
        let keys = bench.keys().await;
        assert!(!keys.iter().any(|key| key.contains(":w") || key.contains(":x:")), "{keys:?}");
        assert_eq!(keys.iter().filter(|key| key.contains(":vs:")).count(), 1, "{keys:?}");
    }
}

#[tokio::test]
async fn what_a_deposed_leader_does_too_late_is_refused() {
    let (mut bench, visits) = lost().await;
    let old = bench.link.begin_rebuild(2, EPOCH).await.unwrap().unwrap();
    bench.leader = rebuild(&mut bench.link, 3, &visits, 3).await.unwrap_or(Approval { term: 3, approved: "2:".into() });
    let before = bench.everything().await;
    let link = &mut bench.link;
    assert_eq!(link.begin_rebuild(2, EPOCH).await.unwrap(), None);
    assert!(!link.wipe(&old).await.unwrap());
    assert!(!link.restore_visits(&old, &visits).await.unwrap());
    assert!(!link.remember_all(&old, &[remembered(1, &[1])]).await.unwrap());
    assert_eq!(link.open_rebuild(&old, HORIZON, &[], &[]).await.unwrap(), None);
    bench.assert_unchanged(&before).await;

    let opened = bench.link.open_rebuild(&bench.leader, HORIZON, &named(&["g"]), &[]).await.unwrap().unwrap();
    let before = bench.everything().await;
    assert!(!bench.link.wipe(&bench.leader).await.unwrap(), "not even the leader wipes what was opened");
    assert!(!bench.link.stand_in(&Approval { term: 2, ..opened.clone() }, &named(&["g"])).await.unwrap());
    assert!(bench.link.wipe(&opened).await.is_err());
    bench.assert_unchanged(&before).await;
}

#[tokio::test]
async fn nothing_is_applied_reported_or_cut_before_everyone_has_remembered() {
    let (mut bench, visits) = lost().await;
    bench.leader = rebuild(&mut bench.link, 2, &visits, 4).await.unwrap();
    let approved = bench.leader.approved.clone();
    assert_eq!(register(&mut bench, "g", "g2").await, Registered::Rebuild { clock_floor_ms: HORIZON });
    assert_eq!(register(&mut bench, "r", "r2").await, Registered::Retired);
    let before = bench.everything().await;
    assert_eq!(register(&mut bench, "n", "n1").await, Registered::Rebuilding);
    let answer = bench.link.apply("g", "g2", &approved, NOON, &pageview(1, 9, NOON, "/")).await.unwrap();
    assert_eq!(answer, Applied::Wait);
    let answer = bench.link.watermark("g", "g2", &approved, NOON, Lsn(0), Lsn(0)).await.unwrap();
    assert_eq!(answer, Reported::Wait);
    assert_eq!(bench.link.cut(&bench.leader, NOON).await.unwrap(), None);
    // Only who is waited for remembers, and no incarnation but the last.
    let one = [batch(sid(1), 1, 1)];
    assert_eq!(bench.link.remember("n", "n1", &approved, &one).await.unwrap(), Rebuilding::Fenced);
    assert_eq!(bench.link.rebuilt("n", "n1", &approved, Lsn(7)).await.unwrap(), Rebuilding::Fenced);
    assert_eq!(bench.link.remember("g", "g1", &approved, &one).await.unwrap(), Rebuilding::Fenced);
    assert_eq!(bench.link.rebuilt("g", "g1", &approved, Lsn(2)).await.unwrap(), Rebuilding::Fenced);
    bench.assert_unchanged(&before).await;
}

#[tokio::test]
async fn a_rebuilt_redis_counts_what_is_new_and_nothing_twice() {
    let (mut bench, visits) = lost().await;
    bench.leader = rebuild(&mut bench.link, 2, &visits, 4).await.unwrap();
    let approved = bench.leader.approved.clone();
    register(&mut bench, "g", "g2").await;
    let mine = [batch(sid(1), 1, 1), batch(sid(2), 1, 2)];
    // A crash between remembering and the end, and repeats of both.
    assert_eq!(bench.link.remember("g", "g2", &approved, &mine[..1]).await.unwrap(), Rebuilding::Done);
    register(&mut bench, "g", "g3").await;
    for _ in 0..2 {
        assert_eq!(bench.link.remember("g", "g3", &approved, &mine).await.unwrap(), Rebuilding::Done);
    }
    assert_eq!(bench.link.rebuilt("g", "g3", &approved, Lsn(2)).await.unwrap(), Rebuilding::Done);
    let before = bench.everything().await;
    assert_eq!(bench.link.rebuilt("g", "g3", &approved, Lsn(2)).await.unwrap(), Rebuilding::Done);
    assert_eq!(bench.link.rebuilt("g", "g3", &approved, Lsn(3)).await.unwrap(), Rebuilding::Wait);
    assert_eq!(bench.link.remember("g", "g3", &approved, &mine).await.unwrap(), Rebuilding::Wait);
    bench.assert_unchanged(&before).await;
    assert_eq!(bench.link.remembered().await.unwrap(), 3);
    assert_eq!(bench.link.waiting().await.unwrap(), ["h"]);
    assert_eq!(register(&mut bench, "g", "g4").await, Registered::Rebuilding, "it is through, and others are not");

    // Central's rows stand in for h, which had counted (91, 5).
    assert!(bench.link.remember_all(&bench.leader, &[remembered(91, &[5])]).await.unwrap());
    assert!(bench.link.stand_in(&bench.leader, &named(&["h"])).await.unwrap());
    assert_eq!(bench.link.waiting().await.unwrap(), [""; 0]);
    assert_eq!(register(&mut bench, "h", "h9").await, Registered::Retired);

    assert_eq!(
        register(&mut bench, "g", "g4").await,
        Registered::At { applied: Lsn(2), by: Some("g3".into()), clock_floor_ms: HORIZON }
    );
    let again = call(2, 6, vec![batch(sid(1), 1, 3), batch(sid(90), 1, 4), batch(sid(91), 5, 5), batch(sid(91), 6, 6)]);
    let answer = bench.link.apply("g", "g4", &approved, NOON, &again).await.unwrap();
    assert_eq!(answer, Applied::Duplicates(vec![Lsn(3), Lsn(4), Lsn(5)]));
    // The visit that central gave back goes on.
    let next = pageview(3, 7, NOON + 20 * MINUTE, "/three");
    let Applied::Done(outcomes) = bench.link.apply("g", "g4", &approved, NOON, &next).await.unwrap() else { panic!() };
    assert_eq!((outcomes.epoch, outcomes.prev, outcomes.last), (EPOCH, 2, 3));
    let cut = bench.cut().await;
    assert_eq!((cut.n, cut.vector), (0, vec![("g".to_owned(), Lsn(3))]), "numbers start over");
    assert_eq!(cut.applied_by, [("g".to_owned(), "g4".to_owned())].into());
    let rows = regional_redis::bucket::read(&mut bench.link, 0).await.unwrap();
    assert_eq!((rows.visits.len(), rows.visits[0].pageviews, rows.visits[0].seq), (1, 3, 1));
    assert_eq!((rows.visits[0].entry_page.as_str(), rows.visits[0].exit_page.as_str()), ("/one", "/three"));
    assert_eq!(rows.visits[0].sid, visits[0].sid);
}

#[tokio::test]
async fn a_restart_in_the_middle_lets_everyone_wait() {
    let (mut bench, visits) = lost().await;
    bench.leader = rebuild(&mut bench.link, 2, &visits, 4).await.unwrap();
    bench.redis.kill_and_restart().await;
    bench.link = bench.redis.link().await;
    let position = bench.link.position().await.unwrap();
    assert_eq!((position.approved, position.waiting.len()), (Approved::Another, 2));
    assert_eq!(register(&mut bench, "g", "g2").await, Registered::Wait);
}

#[tokio::test]
async fn all_visits_of_a_visitor_that_are_given_back_go_on() {
    let (mut bench, visits) = lost().await;
    let later = VisitRow { seq: 9, start_ms: NOON + 40 * MINUTE, last_ms: NOON + 41 * MINUTE, ..visits[0].clone() };
    for (term, order) in [(2, [visits[0].clone(), later.clone()]), (3, [later.clone(), visits[0].clone()])] {
        bench.leader = rebuild(&mut bench.link, term, &order, 4).await.unwrap();
        let approved = bench.leader.approved.clone();
        assert!(bench.link.stand_in(&bench.leader, &named(&["h"])).await.unwrap());
        register(&mut bench, "g", "g2").await;
        assert_eq!(bench.link.rebuilt("g", "g2", &approved, Lsn(2)).await.unwrap(), Rebuilding::Done);
        register(&mut bench, "g", "g3").await;
        let mut next = pageview(3, 7, NOON + 2 * MINUTE, "/");
        let mut also = pageview(4, 7, NOON + 42 * MINUTE, "/");
        next.batches.append(&mut also.batches);
        next.visits.append(&mut also.visits);
        next.last = also.last;
        let Applied::Done(_) = bench.link.apply("g", "g3", &approved, NOON, &next).await.unwrap() else { panic!() };
        let cut = bench.cut().await;
        let rows = regional_redis::bucket::read(&mut bench.link, cut.n).await.unwrap();
        let went_on: Vec<_> = rows.visits.iter().map(|visit| (visit.seq, visit.pageviews)).collect();
        assert_eq!(went_on, [(1, 3), (9, 3)]);
    }
}

#[tokio::test]
async fn many_keys_batches_and_gateways_are_no_obstacle() {
    let (mut bench, _) = lost().await;
    let mut connection = bench.redis.connection().await;
    let mut pipe = redis::pipe();
    for i in 0..5000 {
        pipe.cmd("SET").arg(format!("{{0}}:vs:shop:{i}")).arg("x").cmd("SET").arg(format!("{{1}}:vs:{i}")).arg("x");
    }
    pipe.exec_async(&mut connection).await.unwrap();
    let preparing = bench.link.begin_rebuild(2, EPOCH).await.unwrap().unwrap();
    assert!(bench.link.wipe(&preparing).await.unwrap());
    let keys = bench.keys().await;
    assert_eq!(keys.iter().filter(|key| key.starts_with("{0}:")).collect::<Vec<_>>(), ["{0}:e", "{0}:t"]);
    assert_eq!(keys.iter().filter(|key| key.starts_with("{1}:")).count(), 5000, "another shard's");

    let batches: Vec<_> = (0..3).map(|number| remembered(number, &(1..=4096).collect::<Vec<_>>())).collect();
    assert!(bench.link.remember_all(&preparing, &batches).await.unwrap());
    assert_eq!(bench.link.remembered().await.unwrap(), 3 * 4096);
    let gateways: Vec<_> = (0..9000).map(|i| format!("g{i}")).collect();
    bench.link.open_rebuild(&preparing, HORIZON, &gateways, &gateways).await.unwrap().unwrap();
    assert_eq!(bench.link.waiting().await.unwrap().len(), 9000);
}
