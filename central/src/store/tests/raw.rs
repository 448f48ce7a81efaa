//! Raw rows, and what a lost Redis is rebuilt from.

use proto::record::{Dropped, Record, RecordedEvent};
use proto::uplink::{GatewayPosition, Remembered, VisitDimensions};
use tokio::sync::mpsc;

use super::super::{RawFrame, RawRow};
use super::*;

const HOUR_MS: u64 = 60 * 60 * 1000;
/// 2026-11-22T12:00:00Z
const STAMP_MS: u64 = 1_795_348_800_000;

fn sid(stamp_ms: u64, last: u8) -> Vec<u8> {
    let mut sid = vec![last; 16];
    sid[..6].copy_from_slice(&stamp_ms.to_be_bytes()[2..]);
    sid
}

fn event(index: u32, name: &str) -> RecordedEvent {
    let props = ["plan", "pro", "colour", "a\n\nb"].map(str::to_owned).to_vec();
    RecordedEvent { name: name.to_owned(), path: "/a".to_owned(), engaged_ms: 7, index, props, ..Default::default() }
}

/// Three indices: a pageview, something dropped, a custom event; and four events that the agent gave up.
fn record(sid: Vec<u8>, seq: u32) -> Record {
    let dropped = Dropped { reason: 3, events: 1, ..Default::default() };
    let given_up = Dropped { reason: 5, events: 4, batches: 2, given_up: true };
    Record {
        site: SITE.to_owned(),
        sid,
        seq,
        visitor: 9,
        events: vec![event(0, "pageview"), event(2, "Signup")],
        dropped: vec![dropped, given_up],
        ..Default::default()
    }
}

fn row(lsn: u64, epoch: u64, record: Record) -> RawRow {
    let visit = Some((record.sid.clone().try_into().unwrap(), record.seq));
    RawRow { lsn, epoch, visit, record }
}

fn frame(gateway: &str, rows: Vec<RawRow>) -> RawFrame {
    let last = rows.last().map_or(0, |row| row.lsn);
    RawFrame { gateway: gateway.to_owned(), shard: 3, last, rows, bytes: 1 }
}

async fn take(store: &Store, frame: RawFrame) {
    store.take_raw(frame).await.unwrap().await.unwrap();
}

#[test]
fn of_the_outcomes_of_a_batch_the_highest_epoch_stays() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path()).await;
        let counted = |epoch| frame("g1", vec![row(4, epoch, record(sid(STAMP_MS, 1), 1))]);
        let dropped = |epoch| {
            let mut dropped = row(8, epoch, record(sid(STAMP_MS, 1), 1));
            dropped.visit = None;
            dropped.record.events.clear();
            dropped.record.dropped = vec![Dropped { reason: 4, events: 3, ..Default::default() }];
            frame("g2", vec![dropped])
        };
        let batches = "SELECT gateway, lsn, epoch, events, pageviews, custom_events, engaged_ms, visit_seq, \
             dropped_reasons, dropped_events, given_up_reasons, given_up_events, given_up_batches \
             FROM tideline.batches FINAL";
        let events =
            "SELECT idx, counted, name, prop_keys, prop_values, engaged_ms FROM tideline.events FINAL ORDER BY idx";
        for _ in 0..2 {
            take(&store, counted(2)).await; // a repeat replaces itself
            take(&store, counted(1)).await; // and an older outcome changes nothing
            assert_eq!(rows_of(&store, batches).await, json!([["g1", 4, 2, 2, 1, 1, 14, 1, [3], [1], [5], [4], [2]]]));
            let (keys, values) = (json!(["plan", "colour"]), json!(["pro", "a\n\nb"]));
            let expected =
                json!([[0, 1, "pageview", keys, values, 7], [1, 0, "", [], [], 0], [2, 1, "Signup", keys, values, 7]]);
            assert_eq!(rows_of(&store, events).await, expected);
        }
        // Redis was lost, and another gateway's copy came first: this time every event was dropped.
        take(&store, dropped(3)).await;
        assert_eq!(rows_of(&store, batches).await, json!([["g2", 8, 3, 0, 0, 0, 0, 0, [4], [3], [], [], []]]));
        assert_eq!(rows_of(&store, "SELECT count(), sum(counted) FROM tideline.events FINAL").await, json!([[3, 0]]));
        let positions = store.raw_positions();
        assert_eq!(positions[&("g1".to_owned(), 3)], 4);
        assert_eq!(positions[&("g2".to_owned(), 3)], 8);
        store.close().await;
        assert!(matches!(store.take_raw(counted(2)).await.unwrap().await, Err(StoreError::Raw(_))));
    });
}

#[test]
fn a_dropped_event_has_a_row_only_where_an_older_outcome_may_have_counted_it() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path()).await;
        let rows = "SELECT seq, idx, counted FROM tideline.events FINAL ORDER BY seq, idx";
        let mut dropped = row(2, 1, record(sid(STAMP_MS, 1), 2));
        dropped.visit = None;
        dropped.record.events.clear();
        dropped.record.dropped[0].events = u32::MAX;
        take(&store, frame("g1", vec![row(1, 1, record(sid(STAMP_MS, 1), 1)), dropped.clone()])).await;
        assert_eq!(rows_of(&store, rows).await, json!([[1, 0, 1], [1, 2, 1]]), "before the first epoch there was none");
        dropped.epoch = 2;
        take(&store, frame("g1", vec![row(1, 2, record(sid(STAMP_MS, 1), 1)), dropped])).await;
        let first = rows_of(&store, &rows.replace("ORDER", "WHERE seq = 1 ORDER")).await;
        assert_eq!(first, json!([[1, 0, 1], [1, 1, 0], [1, 2, 1]]));
        let second = "SELECT count(), max(idx), sum(counted) FROM tideline.events FINAL WHERE seq = 2";
        assert_eq!(rows_of(&store, second).await, json!([[10_000, 9_999, 0]]), "a batch has no more events");
        store.close().await;
    });
}

#[test]
fn frames_that_wait_together_share_an_insert() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path()).await;
        let mut durable = Vec::new();
        for n in 0..20 {
            let row = row(n, 1, record(sid(STAMP_MS, 1), n as u32 + 1));
            durable.push(store.take_raw(frame(&format!("g{n}"), vec![row])).await.unwrap());
        }
        let nothing_new = RawFrame { last: 70, ..frame("g0", vec![]) };
        durable.push(store.take_raw(nothing_new).await.unwrap());
        for durable in durable {
            durable.await.unwrap();
        }
        assert_eq!(rows_of(&store, "SELECT count() FROM tideline.batches FINAL").await, json!([[20]]));
        let parts = "SELECT count() <= 3 FROM system.parts WHERE table = 'batches' AND active";
        assert_eq!(rows_of(&store, parts).await, json!([[1]]));
        assert_eq!(store.raw_positions()[&("g0".to_owned(), 3)], 70);
        store.close().await;
    });
}

#[test]
fn batches_stand_in_for_a_log_as_long_as_their_acceptance_may_not_be_over() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path()).await;
        let of = |class, stamp_ms, last, seq| Record { class, ..record(sid(stamp_ms, last), seq) };
        // 12:30 and class short: over at 15:00. Class long: at 15:00 of the next day.
        let half = STAMP_MS + HOUR_MS / 2;
        let batches = [of(0, half, 1, 1), of(0, half, 1, 2), of(1, half, 2, 7), of(1, STAMP_MS - HOUR_MS, 3, 1)];
        let rows = (1..).zip(batches).map(|(lsn, record)| row(lsn, 1, record)).collect();
        take(&store, frame("g1", rows)).await;
        take(&store, frame("g2", vec![row(1, 1, of(0, half, 4, 1))])).await;
        let newer = frame("g2", vec![row(2, 2, of(1, half, 2, 7))]);

        let end = STAMP_MS + 3 * HOUR_MS;
        let short = (0, sid(half, 1), vec![1, 2]);
        let long = (1, sid(half, 2), vec![7]);
        let older = (1, sid(STAMP_MS - HOUR_MS, 3), vec![1]);
        assert_eq!(remembered(&store, 3, "g1", end).await, [short, older.clone(), long.clone()]);
        assert_eq!(remembered(&store, 3, "g1", end + 1).await, [older, long.clone()]);
        assert_eq!(remembered(&store, 3, "g1", end + 23 * HOUR_MS + 1).await, [long]);
        assert_eq!(remembered(&store, 3, "g1", end + 24 * HOUR_MS + 1).await, []);
        assert_eq!(remembered(&store, 4, "g1", end).await, [], "another shard");
        let (first, second) = (remembered_up_to(&store, 3, "g1", 1, end), remembered_up_to(&store, 3, "g1", 2, end));
        assert_eq!(first.await, [(0, sid(half, 1), vec![1])], "what no accepted flush covers is not counted");
        assert_eq!(second.await, [(0, sid(half, 1), vec![1, 2])]);
        take(&store, newer).await;
        assert_eq!(remembered(&store, 3, "g1", end + 23 * HOUR_MS + 1).await, [], "what another log has since");
        store.close().await;
    });
}

async fn remembered(store: &Store, shard: u32, gateway: &str, watermark_ms: u64) -> Vec<(u32, Vec<u8>, Vec<u32>)> {
    remembered_up_to(store, shard, gateway, u64::MAX, watermark_ms).await
}

async fn remembered_up_to(
    store: &Store,
    shard: u32,
    gateway: &str,
    lsn: u64,
    watermark_ms: u64,
) -> Vec<(u32, Vec<u8>, Vec<u32>)> {
    let (out, mut batches) = mpsc::channel(16);
    let position = |gateway: &str, lsn| GatewayPosition { gateway: gateway.to_owned(), lsn, ..Default::default() };
    let gateways = [position(gateway, lsn), position("another", u64::MAX)];
    store.remembered(shard, &gateways, watermark_ms, out).await.unwrap();
    let mut all = Vec::new();
    while let Some(Remembered { class, sid, mut seqs }) = batches.recv().await {
        seqs.sort_unstable();
        all.push((class, sid, seqs));
    }
    all.sort();
    all
}

#[test]
fn the_newest_states_of_a_shards_visits_go_on() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path()).await;
        let state = |last: u8, version: u64, last_ms: u64| VisitRow {
            site: SITE.to_owned(),
            sid: sid(STAMP_MS, last),
            seq: 5,
            visitor: u64::MAX,
            version,
            start_ms: last_ms - 5,
            last_ms,
            pageviews: version as u32,
            events: 2,
            engaged_ms: 3,
            entry_page: "/in\"'\\\n".to_owned(),
            exit_page: "/out".to_owned(),
            entry_ms: 8,
            exit_ms: 9,
            dimensions: Some(VisitDimensions {
                language: "de".to_owned(),
                hostname: "h".to_owned(),
                ..Default::default()
            }),
        };
        let flush = |shard, epoch, n, visits| {
            let id = FlushId { region: "r".to_owned(), shard, epoch, n };
            let rows = FlushRows { visits, ..Default::default() };
            Flush { id, rows: rows.into(), ..super::flush(epoch, n, 1) }
        };
        store.accept(flush(3, 1, 0, vec![state(1, 1, 1_000), state(2, 2, 999), state(3, 3, 1_000)])).await.unwrap();
        store.accept(flush(3, 1, 1, vec![state(1, 9, 2_000)])).await.unwrap();
        store.accept(flush(4, 1, 0, vec![state(4, 1, 5_000)])).await.unwrap();
        // In a new epoch versions start over.
        store.accept(flush(3, 2, 0, vec![state(3, 1, 3_000)])).await.unwrap();
        let (out, mut visits) = mpsc::channel(16);
        store.running_visits("r", 3, 1_000, out).await.unwrap();
        let mut running = Vec::new();
        while let Some(visit) = visits.recv().await {
            running.push(visit);
        }
        running.sort_by(|a, b| a.sid.cmp(&b.sid));
        assert_eq!(running, [state(1, 9, 2_000), state(3, 1, 3_000)]);
        store.close().await;
    });
}

/// Not a test by itself: what [`raw_rows_that_were_acknowledged_survive_kills`] kills.
#[test]
fn take_raw_rows_until_killed() {
    let Some(path) = child_of() else { return };
    run(async {
        let path = path.as_path();
        let store = open(path).await;
        for lsn in last_acknowledged(path).. {
            // What a gateway does that did not get the ack: the last one again, then the next.
            // Of a second epoch, so that also what was dropped has its rows.
            let rows = [lsn, lsn + 1].map(|lsn| row(lsn, 2, record(sid(STAMP_MS, 1), lsn as u32))).to_vec();
            take(&store, frame("g1", rows)).await;
            std::fs::write(path.join("acknowledged.new"), (lsn + 1).to_string()).unwrap();
            std::fs::rename(path.join("acknowledged.new"), path.join("acknowledged")).unwrap();
        }
    });
}

fn last_acknowledged(path: &Path) -> u64 {
    std::fs::read_to_string(path.join("acknowledged")).map_or(1, |text| text.parse().unwrap())
}

#[test]
fn raw_rows_that_were_acknowledged_survive_kills() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        open(folder.path()).await.close().await;
        let mut before = 1;
        for round in 0..4 {
            let child = Child::start("raw::take_raw_rows_until_killed", folder.path());
            child.kill_after(|| last_acknowledged(folder.path()) >= before + 3, 311 * round).await;

            let acknowledged = last_acknowledged(folder.path());
            assert!(acknowledged >= before + 3, "the child came to {acknowledged} from {before}");
            before = acknowledged;
            let store = open(folder.path()).await;
            let batches = "SELECT uniqExact(seq), count(), max(seq) FROM tideline.batches FINAL";
            let there = rows_of(&store, batches).await;
            let count = there[0][0].as_u64().unwrap();
            assert!(count == acknowledged || count == acknowledged + 1, "{there}: {acknowledged} were acknowledged");
            assert_eq!(there, json!([[count, count, count]]), "none is missing or doubled");
            let whole = "SELECT count() FROM (SELECT seq, count() AS indices, sum(counted) AS counted \
                 FROM tideline.events FINAL GROUP BY seq HAVING indices = 3 AND counted = 2) \
                 WHERE seq IN (SELECT seq FROM tideline.batches)";
            assert_eq!(rows_of(&store, whole).await, json!([[count]]), "a batch is there with its events");
            store.close().await;
        }
    });
}
