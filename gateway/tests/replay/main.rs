//! A real Redis that falls back, is lost, loses its answers or is led by nobody for a while: the gateway's log makes it whole, counts
//! nothing twice, and the raw rows that leave tell the same story.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod bench;
mod redis_server;

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bench::{FakeCentral, GATEWAY, RunningGateway, entering};
use gateway::delivery::apply::{ApplyError, Elsewhere, Entry, NotYet};
use gateway::door::capacity::WhenRedisIsAway;
use redis_server::RedisServer;
use regional_redis::{Approval, Link, Lsn};

async fn led(redis: &RedisServer) -> (Link, Approval) {
    let mut link = redis.link().await;
    link.load_functions().await.unwrap();
    let approval = link.approve(1, 1).await.unwrap().unwrap();
    (link, approval)
}

/// Central has accepted everything that Redis holds now, with the outcomes that a flush would carry.
async fn accept_all(link: &mut Link, leader: &Approval, central: &FakeCentral, gateway: &RunningGateway) {
    let carried = link.unlogged(&gateway.id.to_string()).await.unwrap();
    let cut = link.cut(leader, 1_700_000_000_000).await.unwrap().unwrap();
    assert!(link.settle(leader, cut.n).await.unwrap());
    central.known(|known| {
        known.accepted = cut.vector[0].1.0;
        known.applied_by = cut.applied_by[&cut.vector[0].0].clone();
        known.carried.extend(carried);
    });
}

/// Redis is empty, central has opened this epoch, and the rebuild waits for the gateway.
async fn lose(redis: &RedisServer, central: &FakeCentral, link: &mut Link, epoch: u64, horizon_ms: u64) -> Approval {
    redis.command(&["FLUSHALL"]).await;
    central.known(|known| known.epoch = epoch);
    let begun = link.begin_rebuild(epoch, epoch).await.unwrap().unwrap();
    link.open_rebuild(&begun, horizon_ms, &[GATEWAY.to_string()], &[]).await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_fell_back_is_brought_forward_from_the_log_and_counts_each_batch_once() {
    let (redis, central, folder) = (RedisServer::start(), FakeCentral::default(), tempfile::tempdir().unwrap());
    let (mut link, leader) = led(&redis).await;
    let mut gateway = RunningGateway::start(&redis, &central, folder.path()).await;

    gateway.count(1).await;
    let earlier = redis.dump().await;
    gateway.count(2).await;
    gateway.count(3).await;
    assert_eq!(redis.pageviews().await, 3);

    // Two acknowledged batches are gone from Redis. The idle gateway learns of it by its report.
    redis.restore(&earlier).await;
    redis.expect_pageviews(3).await;
    // And once more, with a new batch that arrives while Redis stands too low.
    redis.restore(&earlier).await;
    gateway.count(4).await;
    redis.expect_pageviews(4).await;
    // A repeat is acknowledged and not counted.
    gateway.count(2).await;
    assert_eq!(redis.pageviews().await, 4);

    // Nobody leads: nothing is acknowledged, and nothing lost.
    redis.command(&["SET", "{0}:e", "1:another-process"]).await;
    gateway.submit(5).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(gateway.answers.try_recv().is_err());
    let leader = Approval { term: 2, ..leader };
    link.approve(2, 1).await.unwrap().unwrap();
    assert_eq!(gateway.answer().await.seq, 5);
    redis.expect_pageviews(5).await;

    // No row has left: nothing was durable. Then each leaves once, and the repeat has none.
    assert_eq!(central.known(|known| known.came.clone()), []);
    assert!(link.advance_durable(&leader, &[(gateway.id.to_string(), Lsn(6))]).await.unwrap());
    central.expect("five rows", |known| known.rows.len() == 5).await;
    assert_eq!(central.known(|known| known.came.clone()), [(1, 1), (2, 1), (3, 1), (4, 1), (5, 1)]);
    assert!(central.known(|known| known.generations.iter().all(|of| *of == 2)), "outcomes were void twice");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_was_lost_remembers_what_was_accepted_and_counts_the_rest_again() {
    let (redis, central, folder) = (RedisServer::start(), FakeCentral::default(), tempfile::tempdir().unwrap());
    let (mut link, leader) = led(&redis).await;
    central.known(|known| known.epoch = 1);
    let mut gateway = RunningGateway::start(&redis, &central, folder.path()).await;
    let name = gateway.id.to_string();
    for seq in [1, 2, 1, 3] {
        gateway.count(seq).await; // the third record is a duplicate
    }
    accept_all(&mut link, &leader, &central, &gateway).await;
    gateway.count(4).await; // in no flush, but told to be durable
    assert!(link.advance_durable(&leader, &[(name.clone(), Lsn(5))]).await.unwrap());
    central.expect("four rows", |known| known.rows.len() == 4).await;

    // Redis is lost; central opens an epoch.
    let leader = lose(&redis, &central, &mut link, 2, 0).await;
    redis.expect_pageviews(1).await;
    assert_eq!((link.waiting().await.unwrap(), link.remembered().await.unwrap()), (vec![], 3));
    gateway.count(2).await;
    gateway.count(5).await;
    assert_eq!(redis.pageviews().await, 2, "4 and 5");
    assert!(link.advance_durable(&leader, &[(name.clone(), Lsn(7))]).await.unwrap());
    central.expect("the rows of epoch 2", |known| known.rows.get(&5).is_some_and(|row| row.0 == 2)).await;
    let epochs = |known: &mut bench::Known| known.rows.values().map(|row| row.0).collect::<Vec<_>>();
    let came = central.known(|known| known.came.clone());
    assert_eq!(central.known(epochs), [1, 1, 1, 2, 2], "{came:?}");
    assert_eq!(central.known(|known| *known.generations.last().unwrap()), 1);

    // Lost again, together with what the gateway had logged of its outcomes: flushes carried them.
    gateway.expect_logged(7).await;
    gateway.stop().await;
    for entry in std::fs::read_dir(folder.path().join("log")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "outcomes") {
            std::fs::remove_file(path).unwrap();
        }
    }
    lose(&redis, &central, &mut link, 3, 0).await;
    let mut gateway = RunningGateway::start(&redis, &central, folder.path()).await;
    assert_eq!((link.waiting().await.unwrap(), link.remembered().await.unwrap()), (vec![], 3));
    gateway.count(1).await;
    redis.expect_pageviews(2).await; // 4 and 5 again, in an epoch that counts them once
    central
        .expect("rows of what flushes carried", |known| known.came.iter().filter(|row| row.0 == 3).count() >= 2)
        .await;
    assert_eq!(central.known(|known| known.rows[&3].0), 1);
    assert_eq!(central.known(|known| known.entered.clone()), [false, true, false, true]);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_without_its_outcomes_is_an_older_copy_when_redis_is_lost_too() {
    let (redis, central, folder) = (RedisServer::start(), FakeCentral::default(), tempfile::tempdir().unwrap());
    let (mut link, leader) = led(&redis).await;
    central.known(|known| known.epoch = 1);
    let mut gateway = RunningGateway::start(&redis, &central, folder.path()).await;
    for seq in 1..=4 {
        gateway.count(seq).await;
    }
    accept_all(&mut link, &leader, &central, &gateway).await;
    gateway.stop().await;
    for entry in std::fs::read_dir(folder.path().join("log")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "outcomes") {
            std::fs::remove_file(path).unwrap();
        }
    }
    // Of the last record flushes carried the outcome; those before it were logged by the folder that this is a copy of.
    central.known(|known| {
        known.carried.retain(|outcomes| outcomes.last == 4 && outcomes.prev == 3);
        assert_eq!(known.carried.len(), 1);
    });
    lose(&redis, &central, &mut link, 2, 0).await;
    let entering = entering(&redis, &central, folder.path()).await;
    assert!(matches!(entering.entrance.enter(entering.opened.last).await, Ok(Entry::Older(_))));
    assert_eq!(link.remembered().await.unwrap(), 0, "nobody could say which of them had been counted");
    let delivery = &entering.entrance.delivery;
    assert_eq!(delivery.logged(), Lsn(0));
    assert!(delivery.ship(0, Lsn(0)).unwrap().is_none(), "raw rows wait until the folder is known to be the newest");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_stands_before_the_first_record_kept_ends_the_gateway() {
    let (redis, central, folder) = (RedisServer::start(), FakeCentral::default(), tempfile::tempdir().unwrap());
    let (mut link, leader) = led(&redis).await;
    let mut gateway = RunningGateway::start(&redis, &central, folder.path()).await;
    gateway.count(1).await;
    let earlier = redis.dump().await;
    for seq in 2..=120 {
        gateway.submit_with(seq, vec!["key".into(), "x".repeat(200_000)]).await; // 24 MB: two segments
        gateway.answer().await;
    }
    accept_all(&mut link, &leader, &central, &gateway).await;
    central.expect("all rows", |known| known.rows.len() == 120).await;
    gateway.trimming.trim().unwrap();
    assert_eq!(gateway.delivery.first(), Lsn(1), "copies of these batches may still be accepted");
    central.known(|known| known.watermark_ms = 1_800_000_000_000);
    let trimmed = async {
        while gateway.delivery.first() == Lsn(1) {
            gateway.trimming.trim().unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(bench::ANSWER_MAX, trimmed).await.expect("it is trimmed");

    redis.restore(&earlier).await;
    let ended = gateway.end().await;
    assert!(matches!(ended, ApplyError::Trimmed { applied: Lsn(1), .. }), "{ended}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_alone_answers_while_redis_does_not_count_if_the_policy_says_so() {
    let (redis, central, folder) = (RedisServer::start(), FakeCentral::default(), tempfile::tempdir().unwrap());
    let (mut link, _) = led(&redis).await;
    let policy = WhenRedisIsAway::StoreAndForward;
    let mut gateway = RunningGateway::with_policy(&redis, &central, folder.path(), policy).await;
    gateway.count(1).await;
    redis.command(&["SET", "{0}:e", "1:another-process"]).await;
    for seq in 2..=60 {
        gateway.count(seq).await;
    }
    assert_eq!(redis.pageviews().await, 1);
    link.approve(2, 1).await.unwrap().unwrap();
    redis.expect_pageviews(60).await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_too_large_for_a_frame_does_not_hold_up_the_others() {
    let (redis, central, folder) = (RedisServer::start(), FakeCentral::default(), tempfile::tempdir().unwrap());
    let (mut link, leader) = led(&redis).await;
    let mut gateway = RunningGateway::start(&redis, &central, folder.path()).await;
    for (seq, bytes) in [(1, 1_040_000), (2, 1_200_000), (3, 1)] {
        gateway.submit_with(seq, vec!["key".into(), "x".repeat(bytes)]).await; // the second of a version before this one
        gateway.answer().await;
    }
    assert!(link.advance_durable(&leader, &[(gateway.id.to_string(), Lsn(3))]).await.unwrap());
    central.expect("the two others", |known| known.rows.len() == 2).await;
    assert_eq!(central.known(|known| known.rows.keys().copied().collect::<Vec<_>>()), [1, 3]);
    let all_acknowledged = async {
        while gateway.delivery.shipped().1 < Lsn(3) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(bench::ANSWER_MAX, all_acknowledged).await.expect("the log can be trimmed");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_does_not_count_in_the_redis_of_another_region() {
    let (redis, central, folder) = (RedisServer::start(), FakeCentral::default(), tempfile::tempdir().unwrap());
    let (mut link, _) = led(&redis).await;
    assert_eq!(link.claim("there").await.unwrap(), "there");
    let entering = entering(&redis, &central, folder.path()).await;
    let Err(refused) = entering.entrance.enter(Lsn(0)).await else { panic!("it entered") };
    assert!(
        matches!(&refused, ApplyError::Region { owner, region } if owner == "there" && region == "here"),
        "{refused}"
    );
    assert_eq!(link.incarnation(&GATEWAY.to_string()).await.unwrap(), None, "nothing is written there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_whose_log_cannot_be_written_ends_while_redis_is_away_too() {
    let (redis, central, folder) = (RedisServer::start(), FakeCentral::default(), tempfile::tempdir().unwrap());
    led(&redis).await;
    let mut gateway = RunningGateway::start(&redis, &central, folder.path()).await;
    gateway.count(1).await;
    redis.command(&["SET", "{0}:e", "1:another-process"]).await;
    gateway.submit(2).await;
    tokio::time::sleep(Duration::from_millis(1500)).await; // it has noticed
    gateway.stop().await; // its log's writer ends, and nobody asked the gateway to stop
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_waits_for_the_others_of_a_rebuild_and_is_ready_after_them() {
    let (redis, central, folder) = (RedisServer::start(), FakeCentral::default(), tempfile::tempdir().unwrap());
    let (mut link, leader) = led(&redis).await;
    central.known(|known| known.epoch = 1);
    let mut gateway = RunningGateway::start(&redis, &central, folder.path()).await;
    gateway.count(1).await;
    accept_all(&mut link, &leader, &central, &gateway).await;
    redis.command(&["FLUSHALL"]).await;
    central.known(|known| known.epoch = 2);
    let begun = link.begin_rebuild(2, 2).await.unwrap().unwrap();
    let waited_for = [GATEWAY.to_string(), "another".into()];
    let leader = link.open_rebuild(&begun, 0, &waited_for, &[]).await.unwrap().unwrap();
    let is_through = async {
        while link.waiting().await.unwrap() != ["another"] {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(bench::ANSWER_MAX, is_through).await.expect("it remembers");
    for _ in 0..100 {
        assert!(!gateway.ready.load(Ordering::Relaxed), "it would take batches, and count nothing");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    gateway.submit(2).await;
    assert!(link.stand_in(&leader, &["another".into()]).await.unwrap());
    assert_eq!(gateway.answer().await.seq, 2);
    assert!(gateway.ready.load(Ordering::Relaxed));

    // And one that is not waited for at all.
    gateway.stop().await;
    let begun = link.begin_rebuild(3, 3).await.unwrap().unwrap();
    link.open_rebuild(&begun, 0, &["another".into()], &[]).await.unwrap().unwrap();
    let entering = entering(&redis, &central, folder.path()).await;
    let entry = entering.entrance.enter(entering.opened.last).await.unwrap();
    assert!(matches!(entry, Entry::NotYet(NotYet::Rebuilding)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registration_that_vanished_says_nothing_about_another_process() {
    let (redis, central, folder) = (RedisServer::start(), FakeCentral::default(), tempfile::tempdir().unwrap());
    let (mut link, leader) = led(&redis).await;
    let id = GATEWAY.to_string();
    redis.command(&["HSET", "{0}:a", &id, "5"]).await; // more than its empty log holds
    let entering = entering(&redis, &central, folder.path()).await;
    for (command, said) in [(&["HDEL", "{0}:i", &id][..], Elsewhere::Unknown), (&["PING"], Elsewhere::Runs)] {
        let Entry::Older(mut session) = entering.entrance.enter(Lsn(0)).await.unwrap() else { panic!("not older") };
        redis.command(command).await;
        if said == Elsewhere::Runs {
            link.register(&id, "another", &leader.approved).await.unwrap();
        }
        assert_eq!(session.runs_elsewhere(GATEWAY).await.unwrap(), said);
    }
    let Entry::Older(mut session) = entering.entrance.enter(Lsn(0)).await.unwrap() else { panic!("not older") };
    assert!(link.retire(&id, &leader.approved).await.unwrap());
    assert_eq!(session.runs_elsewhere(GATEWAY).await.unwrap(), Elsewhere::Nobody);
}

fn copy_log(from: &Path, to: &Path) {
    std::fs::create_dir(to.join("log")).unwrap();
    for file in std::fs::read_dir(from.join("log")).unwrap().map(Result::unwrap) {
        std::fs::copy(file.path(), to.join("log").join(file.file_name())).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_copy_of_a_folder_counted_does_not_pass_for_what_the_other_logged() {
    let (redis, central, folder) = (RedisServer::start(), FakeCentral::default(), tempfile::tempdir().unwrap());
    let copy = tempfile::tempdir().unwrap();
    let (_, leader) = led(&redis).await;
    let mut gateway = RunningGateway::start(&redis, &central, folder.path()).await;
    gateway.count(1).await;
    gateway.stop().await;
    copy_log(folder.path(), copy.path());

    // The copy logs a second record, and does not come to apply it.
    let other = RunningGateway::start(&redis, &central, copy.path()).await;
    redis.command(&["SET", "{0}:e", "1:another-process"]).await;
    other.submit(3).await;
    other.stop().await;
    redis.command(&["SET", "{0}:e", &leader.approved]).await;
    // The first one counts another batch as its second record.
    let mut gateway = RunningGateway::start(&redis, &central, folder.path()).await;
    gateway.count(2).await;

    let entering = entering(&redis, &central, copy.path()).await;
    assert_eq!(entering.opened.last, Lsn(2));
    let Entry::Older(session) = entering.entrance.enter(Lsn(2)).await.unwrap() else { panic!("it counts") };
    assert_eq!(session.applied, Lsn(2));
    // It registered, and the first one takes that back.
    gateway.count(4).await;
    redis.expect_pageviews(3).await;
    gateway.stop().await;
}

/// Also what was decided about them: in another life of Redis a position is central's word.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_ends_where_central_stands_is_known_by_who_brought_it_there() {
    let (redis, central, folder) = (RedisServer::start(), FakeCentral::default(), tempfile::tempdir().unwrap());
    let copy = tempfile::tempdir().unwrap();
    let (mut link, leader) = led(&redis).await;
    let mut gateway = RunningGateway::start(&redis, &central, folder.path()).await;
    let empty = redis.dump().await;
    gateway.count(1).await;
    gateway.stop().await;
    copy_log(folder.path(), copy.path());
    // Redis falls back: the next process replays the record, which may join another visit then.
    redis.restore(&empty).await;
    let gateway = RunningGateway::start(&redis, &central, folder.path()).await;
    redis.expect_pageviews(1).await;
    accept_all(&mut link, &leader, &central, &gateway).await;
    gateway.stop().await;

    lose(&redis, &central, &mut link, 2, 0).await;
    let entering_copy = entering(&redis, &central, copy.path()).await;
    assert!(matches!(entering_copy.entrance.enter(Lsn(1)).await, Ok(Entry::Older(_))));
    assert_eq!(link.remembered().await.unwrap(), 0);
    let entering = entering(&redis, &central, folder.path()).await;
    assert!(matches!(entering.entrance.enter(Lsn(1)).await, Ok(Entry::Counts(_))));
    assert_eq!(link.remembered().await.unwrap(), 1);
}

/// Until its acceptance was over: its bits may be gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_waited_while_another_copy_reported_is_not_counted() {
    const HOUR_MS: u64 = 3_600_000;
    let (redis, central, folder) = (RedisServer::start(), FakeCentral::default(), tempfile::tempdir().unwrap());
    let copy = tempfile::tempdir().unwrap();
    let (mut link, leader) = led(&redis).await;
    RunningGateway::start(&redis, &central, folder.path()).await.stop().await;
    copy_log(folder.path(), copy.path());

    let waits = RunningGateway::start(&redis, &central, copy.path()).await;
    redis.command(&["SET", "{0}:e", "1:another-process"]).await;
    waits.submit(1).await;
    waits.stop().await;
    redis.command(&["SET", "{0}:e", &leader.approved]).await;
    let enter = async || {
        let entering = entering(&redis, &central, copy.path()).await;
        entering.entrance.enter(Lsn(1)).await.unwrap()
    };
    assert!(matches!(enter().await, Entry::Counts(_)), "nobody reported");

    // Another process of this id has nothing to hold the watermark back with.
    let name = GATEWAY.to_string();
    let now_ms = link.time_ms().await.unwrap();
    for (hours, counts) in [(1, true), (4, false)] {
        link.register(&name, "other/1", &leader.approved).await.unwrap();
        let later_ms = now_ms + hours * HOUR_MS;
        link.watermark(&name, "other/1", &leader.approved, later_ms, Lsn(0), Lsn(0)).await.unwrap();
        assert_eq!(counts_or_is_older(enter().await), counts, "{hours} hours");
    }

    // Nor when Redis was lost, and the watermark that was accepted is all that is known of it.
    for (horizon_ms, counts) in [(now_ms + 4 * HOUR_MS, false), (now_ms, true)] {
        lose(&redis, &central, &mut link, 2, horizon_ms).await;
        assert_eq!(counts_or_is_older(enter().await), counts, "{horizon_ms}");
    }
}

fn counts_or_is_older(entry: Entry) -> bool {
    match entry {
        Entry::Counts(_) => true,
        Entry::Older(_) => false,
        Entry::NotYet(why) => panic!("{why}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_is_trimmed_while_redis_is_rebuilt_is_read_from_what_is_left() {
    let (redis, central, folder) = (RedisServer::start(), FakeCentral::default(), tempfile::tempdir().unwrap());
    let (mut link, leader) = led(&redis).await;
    let mut gateway = RunningGateway::start(&redis, &central, folder.path()).await;
    for seq in 1..=20 {
        gateway.submit_with(seq, vec!["key".into(), "x".repeat(1_000_000)]).await; // 20 MB: two segments
        gateway.answer().await;
    }
    accept_all(&mut link, &leader, &central, &gateway).await;
    gateway.stop().await;
    lose(&redis, &central, &mut link, 2, 0).await;

    let entering = entering(&redis, &central, folder.path()).await;
    std::fs::remove_file(folder.path().join("log").join(format!("{:020}.log", 1))).unwrap();
    let Entry::Counts(session) = entering.entrance.enter(entering.opened.last).await.unwrap() else { panic!() };
    assert_eq!(session.applied, Lsn(20));
    let remembered = link.remembered().await.unwrap();
    assert!((1..20).contains(&remembered), "{remembered} batches");
}
