//! What an audit reads, and what it leaves out.

use std::collections::BTreeSet;

use proto::record::{Record, RecordedEvent};
use proto::uplink::{FlushId, FlushRows, GatewayPosition, VisitRow};
use serde_json::json;

use super::*;
use crate::store::tests::{open, rows_of, run};
use crate::store::{Flush, RawFrame, RawRow};

const DAY_MS: u64 = 24 * 60 * 60 * 1000;
/// 2026-11-22T12:00:00Z
const NOON_MS: u64 = 1_795_348_800_000;

fn row(lsn: u64, at_ms: u64) -> RawRow {
    let mut sid = [lsn as u8; 16];
    sid[..6].copy_from_slice(&at_ms.to_be_bytes()[2..]);
    let event = |index| RecordedEvent { name: "pageview".to_owned(), at_ms, index, ..Default::default() };
    let events = (0..3).map(event).collect();
    let (site, seq) = ("shop".to_owned(), lsn as u32);
    let record = Record { site, sid: sid.to_vec(), seq, arrived_ms: at_ms, events, ..Default::default() };
    RawRow { lsn, epoch: 1, visit: Some((sid, seq)), record }
}

fn visit(row: &RawRow) -> VisitRow {
    let Record { site, sid, seq, arrived_ms, .. } = row.record.clone();
    VisitRow { site, sid, seq, start_ms: arrived_ms, last_ms: arrived_ms, pageviews: 3, ..Default::default() }
}

async fn take(store: &Store, gateway: &str, rows: Vec<RawRow>) {
    let last = rows.last().map_or(0, |row| row.lsn);
    let frame = RawFrame { gateway: gateway.to_owned(), shard: 3, last, rows, bytes: 0 };
    store.take_raw(frame).await.unwrap().await.unwrap();
}

async fn accept(store: &Store, visits: Vec<VisitRow>, vector: &[(&str, u64)]) {
    let n = store.accepted("r", 3).await.unwrap().next_flush;
    let id = FlushId { region: "r".to_owned(), shard: 3, epoch: 1, n };
    let position = |(gateway, lsn): &(&str, u64)| GatewayPosition {
        gateway: (*gateway).to_owned(),
        lsn: *lsn,
        ..Default::default()
    };
    let vector = vector.iter().map(position).collect();
    let rows = FlushRows { visits, ..Default::default() }.into();
    store.accept(Flush { id, term: 1, rows, vector, watermark_ms: 0, cut_ms: NOON_MS }).await.unwrap();
}

fn noon() -> Days {
    let day = (NOON_MS / DAY_MS) as u32;
    Days { first: day, last: day }
}

#[test]
fn an_audit_of_a_day_reads_what_is_around_it_and_no_more() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path()).await;
        let old: Vec<RawRow> = (1..=200).map(|lsn| row(lsn, NOON_MS - 90 * DAY_MS)).collect();
        let new: Vec<RawRow> = (201..=203).map(|lsn| row(lsn, NOON_MS)).collect();
        accept(&store, old.iter().chain(&new).map(visit).collect(), &[("g", 203)]).await;
        take(&store, "g", [old, new].concat()).await;
        let reach = reach(&store, &BTreeSet::new()).await.unwrap();
        let audited = Audited { store: &store, site: "shop", days: noon(), end_s: noon().end() };
        let audited = audited.until_visits_end().await.unwrap();
        for check in checks::ALL.iter().filter(|check| check.over != Over::Ever) {
            let mut sums = audited.sums(check, &reach);
            sums.push(" SETTINGS max_rows_to_read = 100");
            store.rows(sums).await.unwrap_or_else(|error| panic!("{}: {error}", check.name));
        }
        let everything = "SELECT count() FROM tideline.events WHERE counted = 1 SETTINGS max_rows_to_read = 100";
        assert!(store.rows(Statement::new(everything)).await.is_err(), "there is more than may be read");
        store.close().await;
    });
}

#[test]
fn events_whose_batch_is_on_its_way_are_not_compared() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path()).await;
        take(&store, "g", vec![row(1, NOON_MS)]).await;
        accept(&store, vec![], &[("g", 0)]).await;
        // Events are inserted first.
        rows_of(&store, "DELETE FROM tideline.batches WHERE 1").await;
        assert_eq!(rows_of(&store, "SELECT count() FROM tideline.events").await, json!([[3]]));
        let (store_of, retired) = (&store, &BTreeSet::new());
        let look = || reach(store_of, retired);
        let answer = answer(&store, "shop", noon(), Some(0), look).await.unwrap();
        assert_eq!((&answer["state"], &answer["difference"]), (&json!("clean"), &json!(0)), "{answer:#}");
        store.close().await;
    });
}

#[test]
fn what_has_come_of_each_log_is_looked_for_once_after_a_restart() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path()).await;
        take(&store, "retired", vec![row(1, NOON_MS), row(7, NOON_MS)]).await;
        accept(&store, vec![], &[("empty", 4), ("retired", 9)]).await;
        store.close().await;

        let store = open(folder.path()).await;
        assert!(store.raw_positions().is_empty());
        for _ in 0..2 {
            let reach = reach(&store, &BTreeSet::from(["retired".to_owned()])).await.unwrap();
            let found: Vec<_> = reach.positions.iter().map(|of| (&*of.gateway, of.raw, of.is_waiting())).collect();
            assert_eq!(found, [("empty", 0, true), ("retired", 7, false)]);
            // Every gateway of a flush is among what is told now, whether it has rows or not: nothing is read for it again.
            let told: Vec<_> = store.raw_positions().into_iter().collect();
            assert_eq!(told, [(("empty".to_owned(), 3), 0), (("retired".to_owned(), 3), 7)]);
            assert_eq!(reach.flushes.into_values().collect::<Vec<_>>(), [0]);
            rows_of(&store, "DELETE FROM tideline.batches WHERE 1").await;
        }
        store.close().await;
    });
}
