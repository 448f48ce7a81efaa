//! The audit over rows that agree, and over rows that do not.

use central::query::{audit, batches, days::Days, ledger};
use proto::agent::Reason;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use super::site::{NOW, Site, seconds};
use super::world::{World, dropped, event, given_up};

const MINUTE_MS: u64 = 60 * 1000;

fn days() -> Days {
    Days::try_new(Some("2026-11-19"), Some("2026-11-23"), NOW.parse().unwrap()).unwrap()
}

/// What has been accepted is compared, up to these positions.
async fn reach(site: &Site, positions: &[audit::Position]) -> audit::Reach {
    let flushes = site.store.accepted_of_all().await.unwrap().flushes;
    audit::Reach { positions: positions.to_vec(), flushes }
}

async fn audited_from(site: &Site, positions: &[audit::Position], raw_from_ms: Option<u64>) -> Value {
    let reach = &reach(site, positions).await;
    let look = || async { Ok(reach.clone()) };
    audit::answer(&site.store, &site.site.name, days(), raw_from_ms, look).await.unwrap()
}

async fn audited(site: &Site, positions: &[audit::Position]) -> Value {
    audited_from(site, positions, Some(0)).await
}

/// A few visitors over two days, who come and go, and drop something now and then.
fn random_world(site: &Site, seed: u64) -> World {
    let mut world = World::new(site);
    random_batches(&mut world, seed, 0..60);
    world
}

fn random_batches(world: &mut World, seed: u64, numbers: std::ops::Range<u32>) {
    let mut random = StdRng::seed_from_u64(seed);
    let began = seconds("2026-11-20T20:00:00Z") * 1000;
    for number in numbers {
        let visitor = random.random_range(1..6);
        let arrived_ms = began + u64::from(number) * 20 * MINUTE_MS + random.random_range(0..MINUTE_MS);
        let events = (0..random.random_range(0..4)).map(|_| {
            let name = ["pageview", "pageview", "Signup"][random.random_range(0..3)];
            let path = ["/", "/pricing", "/blog/a"][random.random_range(0..3)];
            event(arrived_ms - random.random_range(0..5 * MINUTE_MS), name, path, &[])
        });
        let events = events.collect();
        let lost = match random.random_range(0..4) {
            0 => vec![dropped(Reason::Bot as u32, 2), given_up(Reason::Expired as u32, 3, 1)],
            1 => vec![dropped(Reason::InvalidUrl as u32, 1)],
            _ => vec![],
        };
        world.batch((visitor, number + 1), arrived_ms, "Google", events, lost);
    }
}

#[tokio::test]
async fn nothing_differs_where_nothing_is() {
    let site = Site::new("audit-empty.example", "UTC").await;
    let position = World::new(&site).position();
    for positions in [vec![], vec![position.clone(), position]] {
        let answer = audited(&site, &positions).await;
        assert_eq!((&answer["state"], &answer["difference"]), (&json!("clean"), &json!(0)));
        assert_eq!(answer["first_difference"], Value::Null);
        assert!(answer["checks"].as_array().unwrap().iter().all(|check| check["days"] == json!([])), "{answer}");
    }
}

#[tokio::test]
async fn all_ways_of_the_same_records_agree() {
    for seed in 0..3 {
        let site = Site::new(&format!("audit-clean-{seed}.example"), "UTC").await;
        let world = random_world(&site, seed);
        world.land(&site).await;
        let answer = audited(&site, &[world.position()]).await;
        assert_eq!((&answer["state"], &answer["difference"]), (&json!("clean"), &json!(0)), "{answer:#}");
        for check in answer["checks"].as_array().unwrap() {
            assert!(!check["days"].as_array().unwrap().is_empty(), "nothing was compared: {check}");
        }
    }
}

#[tokio::test]
async fn the_first_difference_is_named() {
    type Change = fn(&mut World);
    let changes: [(&str, Change, &str, &str); 9] = [
        (
            "twice the record",
            |of| of.raw[5].lsn = of.raw[4].lsn,
            "each record of a log is one batch",
            "gateway-of-audit-twice-the-record.example/0",
        ),
        (
            "rollup",
            |of| of.rows.rollups.iter_mut().find(|row| row.kind == 0).unwrap().pageviews += 1,
            "totals by minute",
            "2026-11-2",
        ),
        (
            "page",
            |of| of.rows.rollups.iter_mut().find(|row| row.value == "/pricing").unwrap().engaged_ms -= 1,
            "pages",
            "/pricing",
        ),
        ("name", |of| of.rows.rollups.retain(|row| row.value != "Signup"), "names of events", "Signup"),
        (
            "ledger",
            |of| of.rows.ledger.iter_mut().find(|row| row.reason == 39).unwrap().events += 1,
            "the ledger by day of arrival",
            "bot",
        ),
        ("visit", |of| of.rows.visits[0].last_ms += 1, "a visit is its events", "/"),
        (
            "exit",
            |of| of.rows.visits[0].exit_page = "/elsewhere".into(),
            "a visit's entry and exit page are of its first and last pageview",
            "/",
        ),
        ("lost visit", |of| drop(of.rows.visits.remove(0)), "a visit is its events", "/"),
        ("lost row", |of| of.raw.retain(|row| row.lsn != 7), "totals by minute", ""),
    ];
    for (name, change, check, key) in changes {
        let site = Site::new(&format!("audit-{}.example", name.replace(' ', "-")), "UTC").await;
        let mut world = random_world(&site, 7);
        change(&mut world);
        world.land(&site).await;
        let answer = audited(&site, &[world.position()]).await;
        assert_eq!(answer["state"], "different", "{name}: {answer}");
        let first = &answer["first_difference"];
        let named = first["key"].as_str().unwrap();
        if name == "lost row" {
            assert!(answer["difference"].as_u64().unwrap() > 0, "{answer}");
            continue;
        }
        assert_eq!(first["check"], check, "{name}: {first}");
        assert!(named.contains(key), "{name}: {first}");
        assert_ne!(first["left"], first["right"], "{name}: {first}");
    }
}

#[tokio::test]
async fn only_what_flushes_cover_is_compared_and_what_is_on_its_way_is_said() {
    let site = Site::new("audit-half.example", "UTC").await;
    let whole = random_world(&site, 11);
    // A flush of the first forty records, raw rows of all sixty.
    let mut half = World::new(&site);
    for row in &whole.raw[..40] {
        let record = row.record.clone();
        half.batch((record.visitor, record.seq), record.arrived_ms, "Google", record.events, record.dropped);
    }
    half.land_flush(&site).await;
    whole.land_raw(&site, whole.raw[..30].to_vec()).await;
    let behind = audit::Position { raw: 30, ..half.position() };
    let answer = audited(&site, std::slice::from_ref(&behind)).await;
    assert_eq!(answer["state"], "waiting");
    let expected = json!([{"gateway": half.gateway, "shard": 0, "accepted": 40, "raw": 30}]);
    assert_eq!(answer["waiting"], expected);
    let gone = audit::Position { retired: true, ..behind };
    assert_eq!(audited(&site, &[gone]).await["state"], "different", "nobody waits for a retired gateway");

    whole.land_raw(&site, whole.raw[30..].to_vec()).await;
    let answer = audited(&site, &[half.position()]).await;
    assert_eq!((&answer["state"], &answer["difference"]), (&json!("clean"), &json!(0)), "{answer:#}");
}

#[tokio::test]
async fn what_was_sent_is_what_was_counted_and_what_was_dropped() {
    for seed in 20..23 {
        let site = Site::new(&format!("ledger-{seed}.example"), "UTC").await;
        let mut world = random_world(&site, seed);
        let lost = world.raw.remove(4); // never came, and nobody said so
        let given_up_batches: u32 = world.raw.iter().flat_map(|row| &row.record.dropped).map(|of| of.batches).sum();
        let mut arrived = World::new(&site);
        for row in &world.raw {
            let of = row.record.clone();
            arrived.batch((of.visitor, of.seq), of.arrived_ms, "", of.events, of.dropped);
        }
        arrived.rows.ledger[0].duplicates = 5;
        arrived.land(&site).await;
        let now = NOW.parse().unwrap();
        let ledger = ledger::answer(&site.store, &site.site.name, Some(0), days(), now).await.unwrap();
        let of = |given_up: bool, of: fn(&proto::record::Dropped) -> u32| -> u64 {
            let dropped = world.raw.iter().flat_map(|row| &row.record.dropped);
            dropped.filter(|dropped| dropped.given_up == given_up).map(|dropped| u64::from(of(dropped))).sum()
        };
        let counted: u64 = world.raw.iter().map(|row| row.record.events.len() as u64).sum();
        let dropped = of(false, |dropped| dropped.events);
        assert_eq!(ledger["counted"], counted, "seed {seed}, without {}", lost.lsn);
        assert_eq!(ledger["dropped"]["events"], dropped);
        assert_eq!(ledger["sent"], counted + dropped);
        assert_eq!(ledger["given_up"]["events"], of(true, |dropped| dropped.events));
        assert_eq!((&ledger["given_up"]["batches"], &ledger["duplicates"]), (&json!(given_up_batches), &json!(5)));
        let each = |name: &str| -> u64 {
            ledger["days"].as_array().unwrap().iter().map(|day| day[name].as_u64().unwrap()).sum()
        };
        assert_eq!((each("sent"), each("counted") + each("dropped")), (counted + dropped, counted + dropped));
        let reasons = ledger["dropped"]["reasons"].as_array().unwrap();
        let listed: u64 = reasons.iter().map(|reason| reason["events"].as_u64().unwrap()).sum();
        assert_eq!(listed, dropped);
        let completeness = ledger["completeness"].as_f64().unwrap();
        assert!(completeness > 0.0 && completeness < 100.0, "{ledger}");
    }
}

#[tokio::test]
async fn holes_in_the_numbering_are_missing_or_awaited() {
    let site = Site::new("holes.example", "UTC").await;
    let mut world = World::new(&site);
    let batch = |world: &mut World, visitor, seq, at: &str| {
        let at_ms = seconds(at) * 1000;
        world.batch((visitor, seq), at_ms, "", vec![event(at_ms, "pageview", "/", &[])], vec![]);
    };
    for seq in [1, 2, 5] {
        batch(&mut world, 1, seq, "2026-11-22T06:00:00Z"); // 3 and 4 never came
        batch(&mut world, 2, seq, "2026-11-22T12:00:00Z"); // and may still
    }
    world.land(&site).await;
    let now = NOW.parse().unwrap();
    let ledger = ledger::answer(&site.store, &site.site.name, Some(0), days(), now).await.unwrap();
    assert_eq!(ledger["missing"], json!({"batches": 2, "awaited": 2, "events_estimated": 2}));
    assert_eq!(ledger["completeness"], 75.0);
    let unknown = ledger::answer(&site.store, &site.site.name, None, days(), now).await.unwrap();
    assert_eq!((&unknown["missing"], &unknown["completeness"]), (&Value::Null, &json!(100.0)));
    let from_ms = seconds("2026-11-22T06:00:01Z") * 1000;
    let later = ledger::answer(&site.store, &site.site.name, Some(from_ms), days(), now).await.unwrap();
    assert_eq!(later["missing"]["batches"], 0, "of a stream from before raw rows nobody knows what came");
    assert_eq!(later["missing"]["awaited"], 2);
}

#[tokio::test]
async fn a_batch_that_was_given_up_hides_no_hole() {
    let site = Site::new("given-up.example", "UTC").await;
    let mut world = World::new(&site);
    let at_ms = seconds("2026-11-22T06:00:00Z") * 1000;
    let view = || vec![event(at_ms, "pageview", "/", &[])];
    world.batch((1, 1), at_ms, "", view(), vec![]);
    world.batch((1, 3), at_ms, "", view(), vec![]); // 2 never came
    world.batch((2, 1), at_ms, "", view(), vec![given_up(Reason::Expired as u32, 1, 1)]); // another stream's batch
    world.land(&site).await;
    let now = NOW.parse().unwrap();
    let ledger = ledger::answer(&site.store, &site.site.name, Some(0), days(), now).await.unwrap();
    assert_eq!(ledger["missing"], json!({"batches": 1, "awaited": 0, "events_estimated": 1}));
    assert_eq!((&ledger["given_up"]["batches"], &ledger["completeness"]), (&json!(1), &json!(60.0)));
}

#[tokio::test]
async fn counted_batches_are_listed_by_their_numbers() {
    let site = Site::new("batches.example", "UTC").await;
    let world = random_world(&site, 31);
    world.land(&site).await;
    let (listed, next) = batches::page(&site.store, &site.site.name, 0, u64::MAX, None).await.unwrap();
    assert!(next.is_none());
    let mut expected: Vec<_> = world.raw.iter().map(|row| (row.record.sid.clone(), row.record.seq, row)).collect();
    expected.sort_by_key(|(sid, seq, _)| (sid.clone(), *seq));
    assert_eq!(listed.len(), expected.len());
    for (found, (sid, seq, row)) in listed.iter().zip(expected) {
        let hex: String = sid.iter().map(|byte| format!("{byte:02x}")).collect();
        let dropped: u32 = row.record.dropped.iter().filter(|of| !of.given_up).map(|of| of.events).sum();
        assert_eq!((&found["sid"], &found["seq"]), (&json!(hex), &json!(seq)));
        assert_eq!((&found["events"], &found["dropped"]), (&json!(row.record.events.len()), &json!(dropped)));
        assert_eq!((&found["lsn"], &found["arrived_ms"]), (&json!(row.lsn), &json!(row.record.arrived_ms)));
    }
    let middle_ms = world.raw[30].record.arrived_ms;
    let (later, _) = batches::page(&site.store, &site.site.name, middle_ms, u64::MAX, None).await.unwrap();
    assert_eq!(later.len(), 30);
}

#[tokio::test]
async fn while_flushes_move_what_is_compared_nothing_is_called_different() {
    let site = Site::new("audit-moving.example", "UTC").await;
    let world = tokio::sync::Mutex::new(World::new(&site));
    // Each look comes a flush and its raw rows too late.
    let look = || async {
        let mut world = world.lock().await;
        let behind = reach(&site, &[world.position()]).await;
        let number = world.raw.len() as u32;
        random_batches(&mut world, 41 + u64::from(number), number..number + 20);
        world.land(&site).await;
        world.landed();
        Ok(behind)
    };
    let answer = audit::answer(&site.store, &site.site.name, days(), Some(0), look).await.unwrap();
    assert_eq!(answer["state"], "waiting", "{answer:#}");
    let moving = answer["moving"].as_array().unwrap();
    let of_visits = |name: &Value| name.as_str().unwrap().starts_with("a visit");
    assert!(!moving.is_empty() && moving.iter().all(of_visits), "flushes tell which rows are theirs: {moving:?}");

    // It stands still: one more look is enough.
    let world = world.into_inner();
    let newest = audited(&site, &[world.position()]).await;
    assert_eq!((&newest["state"], &newest["difference"]), (&json!("clean"), &json!(0)), "{newest:#}");
    let looks = std::sync::atomic::AtomicU32::new(0);
    let (now, before) = (reach(&site, &[world.position()]).await, audit::Position { accepted: 20, ..world.position() });
    let look = || {
        let first = looks.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0;
        let positions = if first { vec![before.clone()] } else { now.positions.clone() };
        let reach = audit::Reach { positions, flushes: now.flushes.clone() };
        async { Ok(reach) }
    };
    let answer = audit::answer(&site.store, &site.site.name, days(), Some(0), look).await.unwrap();
    assert_eq!((&answer["state"], &answer["difference"]), (&json!("clean"), &json!(0)), "{answer:#}");
    assert_eq!(looks.into_inner(), 2);
}

#[tokio::test]
async fn raw_rows_are_compared_from_the_first_whole_day_that_has_them() {
    let site = Site::new("audit-from.example", "UTC").await;
    let world = random_world(&site, 51);
    world.land_flush(&site).await;
    let from_ms = seconds("2026-11-21T00:00:00Z") * 1000;
    let with_rows = world.raw.iter().filter(|row| row.record.arrived_ms >= from_ms - 60 * MINUTE_MS).cloned().collect();
    world.land_raw(&site, with_rows).await;
    assert_eq!(audited(&site, &[world.position()]).await["state"], "different");
    for (raw_from_ms, first) in [
        (from_ms, json!("2026-11-21")),
        (from_ms - 60 * MINUTE_MS, json!("2026-11-21")),
        (from_ms + 1, json!("2026-11-22")),
        (from_ms * 2, Value::Null),
    ] {
        let answer = audited_from(&site, &[world.position()], Some(raw_from_ms)).await;
        assert_eq!((&answer["state"], &answer["raw_from"]), (&json!("clean"), &first), "{answer:#}");
    }
}

#[tokio::test]
async fn without_raw_rows_the_rest_is_compared() {
    type Change = fn(&mut World);
    let changes: [(&str, Change, Option<&str>); 5] = [
        ("none", |_| {}, None),
        (
            "page",
            |of| of.rows.rollups.iter_mut().find(|row| row.value == "/pricing").unwrap().pageviews += 1,
            Some("a minute is the sum of its pages"),
        ),
        ("ledger", |of| of.rows.ledger[0].events += 1, Some("what the ledger counted is in the rollups")),
        ("visit", |of| drop(of.rows.visits.pop()), Some("all visits together are the rollups")),
        (
            "rollup",
            |of| {
                let minute = of.rows.rollups[0].minute;
                of.rows.rollups.retain(|row| row.minute != minute);
            },
            Some("what the ledger counted is in the rollups"),
        ),
    ];
    for (name, change, check) in changes {
        let site = Site::new(&format!("audit-without-{name}.example"), "UTC").await;
        let mut world = random_world(&site, 61);
        change(&mut world);
        world.land_flush(&site).await;
        let behind = audit::Position { raw: 0, ..world.position() };
        let answer = audited_from(&site, &[behind], None).await;
        let state = if check.is_none() { "clean" } else { "different" };
        assert_eq!((&answer["state"], &answer["raw_from"]), (&json!(state), &Value::Null), "{name}: {answer:#}");
        assert_eq!(answer["first_difference"]["check"], json!(check), "{name}: {answer:#}");
        assert_eq!(answer["checks"].as_array().unwrap().len(), 3);
    }
}

/// Two visits of one visitor, half an hour and more apart.
fn two_visits(site: &Site) -> World {
    let mut world = World::new(site);
    for (seq, at) in [(1, "2026-11-22T10:00:00Z"), (2, "2026-11-22T10:50:00Z")] {
        let at_ms = seconds(at) * 1000;
        world.batch((1, seq), at_ms, "", vec![event(at_ms, "pageview", "/", &[])], vec![]);
    }
    assert_eq!(world.rows.visits.len(), 2);
    world
}

#[tokio::test]
async fn a_late_batch_between_two_visits_splits_them_and_is_no_difference() {
    let site = Site::new("audit-split.example", "UTC").await;
    let mut world = two_visits(&site);
    world.land(&site).await;
    let apart = audited(&site, &[world.position()]).await;
    assert_eq!((&apart["state"], &apart["split_visits"]), (&json!("clean"), &json!(0)), "{apart:#}");

    world.landed();
    let between = vec![event(seconds("2026-11-22T10:25:00Z") * 1000, "pageview", "/late", &[])];
    world.batch((1, 3), seconds("2026-11-22T10:55:00Z") * 1000, "", between, vec![]);
    world.land(&site).await;
    let split = audited(&site, &[world.position()]).await;
    assert_eq!((&split["state"], &split["difference"]), (&json!("clean"), &json!(0)), "{split:#}");
    assert_eq!(split["split_visits"], 1, "events alone would make one visit of them");
}

#[tokio::test]
async fn a_visit_that_should_be_two_is_a_difference() {
    let site = Site::new("audit-joined.example", "UTC").await;
    let mut world = two_visits(&site);
    // Every table says the same, and all of them are wrong.
    let second = world.rows.visits.pop().unwrap();
    let first = &mut world.rows.visits[0];
    (first.last_ms, first.pageviews, first.engaged_ms) = (second.last_ms, 2, first.engaged_ms + second.engaged_ms);
    world.raw[1].visit = world.raw[0].visit;
    world.land(&site).await;
    let answer = audited(&site, &[world.position()]).await;
    assert_eq!((&answer["state"], &answer["difference"]), (&json!("different"), &json!(1)), "{answer:#}");
    let first = &answer["first_difference"];
    assert_eq!(first["check"], "a visit lies within one session of its visitor");
    assert_eq!((&first["left"], &first["right"]), (&json!([1]), &json!([2])), "{first}");
}

#[tokio::test]
async fn what_was_sent_as_one_batch_is_one_session() {
    let site = Site::new("audit-offline.example", "UTC").await;
    let mut world = World::new(&site);
    let at = |time: &str| event(seconds(time) * 1000, "pageview", "/", &[]);
    // Kept on the device for hours without a network.
    let kept = vec![at("2026-11-22T06:00:00Z"), at("2026-11-22T09:00:00Z")];
    world.batch((1, 1), seconds("2026-11-22T10:00:00Z") * 1000, "", kept, vec![]);
    world.land(&site).await;
    let answer = audited(&site, &[world.position()]).await;
    assert_eq!((&answer["state"], &answer["split_visits"]), (&json!("clean"), &json!(0)), "{answer:#}");
}
