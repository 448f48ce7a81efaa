//! Against the real engine. A process has one at a time, so the tests take turns.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use proto::Message as _;
use proto::uplink::{FlushId, FlushRows, GatewayPosition, Kind, LedgerRow, RollupRow, UniqueRow, VisitRow};

use serde_json::{Value, json};

use super::manifest::{Manifest, Stream, Turn};
use super::rows::Origin;
use super::writer::Writer;
use super::{Flush, Parts, Statement, Store, StoreConfig, StoreError, table};

mod epochs;
mod raw;

const SITE: &str = "shop.example";

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// In the environment of a test that was started to be killed: the folder.
const CHILD: &str = "TIDELINE_TEST_CHILD";

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn run(test: impl Future<Output = ()>) {
    let _alone = alone();
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(test);
}

pub(crate) async fn open(path: &Path) -> Store {
    Store::open(StoreConfig { path: path.to_owned(), ..Default::default() }).await.unwrap()
}

pub(crate) async fn rows_of(store: &Store, sql: &str) -> Value {
    json!(store.rows(Statement::new(sql)).await.unwrap())
}

/// This test binary once more, with one test that goes on until it is killed.
struct Child(std::process::Child);

impl Child {
    fn start(test: &str, folder: &Path) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([&format!("store::tests::{test}"), "--exact"]).env(CHILD, folder).stdout(Stdio::null());
        Self(command.spawn().unwrap())
    }

    /// Kills it this many milliseconds after it has come far enough.
    async fn kill_after(mut self, far_enough: impl Fn() -> bool, ms: u64) {
        let began = Instant::now();
        while !far_enough() {
            assert!(began.elapsed() < Duration::from_secs(120) && self.0.try_wait().unwrap().is_none());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(Duration::from_millis(ms)).await;
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// The folder, in a process that was started to be killed.
fn child_of() -> Option<PathBuf> {
    std::env::var_os(CHILD).map(PathBuf::from)
}

fn flush(epoch: u64, n: u64, term: u64) -> Flush {
    let vector = vec![GatewayPosition { gateway: "g".to_owned(), lsn: n * 10, applied_by: format!("g/{epoch}") }];
    let id = FlushId { region: "r".to_owned(), shard: 3, epoch, n };
    Flush { id, term, rows: rows(n).into(), vector, watermark_ms: 1_000 * n, cut_ms: 1_795_000_000_000 }
}

fn rows(n: u64) -> FlushRows {
    let site = SITE.to_owned();
    let rollup = RollupRow { site: site.clone(), minute: 100, pageviews: 3, events: 2, ..Default::default() };
    let unique = UniqueRow {
        site: site.clone(),
        kind: Kind::Page.into(),
        value: "/".to_owned(),
        visitors: vec![1, 2, 3],
        ..Default::default()
    };
    let visit = VisitRow {
        site: site.clone(),
        sid: vec![7; 16],
        seq: 1,
        version: n + 1,
        pageviews: n as u32 + 1,
        ..Default::default()
    };
    let ledger = LedgerRow { site, events: 5, batches: 1, ..Default::default() };
    FlushRows {
        rollups: vec![rollup],
        visits: vec![visit],
        uniques: vec![unique],
        ledger: vec![ledger],
        ..Default::default()
    }
}

#[test]
fn the_manifest_takes_flushes_in_turn_of_the_newest_epoch_and_term() {
    let mut manifest = Manifest::default();
    assert_eq!(manifest.turn(&flush(1, 0, 1)).unwrap(), Turn::First);
    assert!(matches!(manifest.turn(&flush(1, 1, 1)), Err(StoreError::Gap { n: 1, expected: 0 })));
    manifest.insert("r", 3, 1, Stream { src: 1, last: None });
    assert_eq!(manifest.turn(&flush(1, 0, 1)).unwrap(), Turn::Next(1));
    manifest.accept(&flush(1, 0, 4));
    assert_eq!(manifest.turn(&flush(1, 0, 4)).unwrap(), Turn::Accepted);
    assert_eq!(manifest.turn(&flush(1, 1, 4)).unwrap(), Turn::Next(1));
    assert!(matches!(manifest.turn(&flush(1, 1, 3)), Err(StoreError::StaleTerm { term: 3, current: 4 })));
    assert!(matches!(manifest.turn(&flush(1, 2, 4)), Err(StoreError::Gap { n: 2, expected: 1 })));
    manifest.insert("r", 3, 2, Stream { src: 2, last: None });
    assert!(matches!(manifest.turn(&flush(1, 1, 4)), Err(StoreError::StaleEpoch { epoch: 1, current: 2 })));
    assert_eq!(manifest.turn(&flush(2, 0, 5)).unwrap(), Turn::Next(2));
    manifest.reached(
        "r",
        3,
        [GatewayPosition { gateway: "gone".to_owned(), lsn: 70, ..Default::default() }],
        90_000,
        5_000,
    );
    manifest.accept(&flush(2, 0, 5));
    let accepted = manifest.accepted("r", 3);
    assert_eq!((accepted.epoch, accepted.next_flush, accepted.watermark_ms), (2, 1, 90_000));
    assert_eq!(["g", "gone", "new"].map(|id| accepted.of(id).lsn), [0, 70, 0], "the highest of all epochs");
    assert_eq!(manifest.accepted("elsewhere", 3), super::Accepted::default());
}

/// Where flushes say it: those of an earlier version do not.
#[test]
fn who_applied_a_position_is_kept_of_the_newest_epoch_that_reached_it() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let config = StoreConfig { path: folder.path().to_owned(), ..Default::default() };
    let reach = |vector: &[(&str, u64, &str)], flush: Flush| {
        let position = |(gateway, lsn, by): &(&str, u64, &str)| GatewayPosition {
            gateway: (*gateway).to_owned(),
            lsn: *lsn,
            applied_by: (*by).to_owned(),
        };
        Flush { vector: vector.iter().map(position).collect(), ..flush }
    };
    let (mut writer, readers) = Writer::open(&config).unwrap();
    writer.accept(reach(&[("g", 5, ""), ("h", 7, "")], flush(1, 0, 1))).unwrap();
    writer.execute("ALTER TABLE tideline.flushes DROP COLUMN applied_by").unwrap(); // as an older version left it
    drop((writer, readers));

    let (mut writer, readers) = Writer::open(&config).unwrap();
    let applied_by = |writer: &mut Writer| -> Vec<(u64, String)> {
        let vector = writer.accepted("r", 3).unwrap().vector;
        vector.into_iter().map(|position| (position.lsn, position.applied_by)).collect()
    };
    assert_eq!(applied_by(&mut writer), [(5, String::new()), (7, String::new())]);
    writer.accept(reach(&[("g", 5, "g/1"), ("h", 7, "h/1")], flush(1, 1, 1))).unwrap();
    writer.accept(reach(&[("g", 5, "g/2"), ("h", 6, "h/2")], flush(2, 0, 2))).unwrap();
    let newest = [(5, "g/2".to_owned()), (7, "h/1".to_owned())];
    assert_eq!(applied_by(&mut writer), newest);
    drop((writer, readers));
    let (mut writer, _readers) = Writer::open(&config).unwrap();
    assert_eq!(applied_by(&mut writer), newest, "read again");
}

/// A death at each step of an accept, then the same flush again.
#[test]
fn a_flush_cut_short_anywhere_counts_once() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let config = StoreConfig { path: folder.path().to_owned(), ..Default::default() };
    for (n, died_after) in ["stream", "some rows", "rows", "manifest", "half the copies", "copies"].iter().enumerate() {
        let n = n as u64;
        let (mut writer, readers) = Writer::open(&config).unwrap();
        let flush = flush(1, n, 1);
        let src = if n == 0 { writer.open_stream(&flush).unwrap() } else { 1 };
        let origin = Origin { src, n, epoch: 1, cut: (flush.cut_ms / 1000) as u32 };
        match *died_after {
            "stream" => {}
            "some rows" => {
                let mut part = flush.clone();
                let mut rows = rows(n);
                rows.visits.clear();
                rows.uniques.clear();
                part.rows = rows.into();
                writer.stage(&part, origin).unwrap();
            }
            "rows" => writer.stage(&flush, origin).unwrap(),
            "manifest" | "half the copies" | "copies" => {
                writer.stage(&flush, origin).unwrap();
                writer.list(&flush, origin).unwrap();
            }
            other => unreachable!("{other}"),
        }
        match *died_after {
            "half the copies" => writer.execute(&format!(
                "INSERT INTO tideline.visits ({names}) SELECT {names} FROM tideline.visits_staged WHERE n = {n}",
                names = super::schema::VISIT_NAMES
            )),
            "copies" => writer.fold(src, n),
            _ => Ok(()),
        }
        .unwrap();
        drop((writer, readers));

        let (mut writer, readers) = Writer::open(&config).unwrap();
        let accepted = writer.accepted("r", 3).unwrap();
        let listed = matches!(*died_after, "manifest" | "half the copies" | "copies");
        assert_eq!(accepted.next_flush, n + u64::from(listed), "died after {died_after}");
        check(&mut writer, accepted.next_flush, died_after);
        writer.accept(flush.clone()).unwrap();
        writer.accept(flush.clone()).unwrap();
        check(&mut writer, n + 1, died_after);
        assert_eq!(writer.accepted("r", 3).unwrap().vector, flush.vector);
        drop((writer, readers));
    }
}

/// Hours of an outage come as one flush, which nobody holds in memory at once.
#[test]
fn a_flush_that_waited_in_a_file_counts_like_any_other() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let config = StoreConfig { path: folder.path().to_owned(), ..Default::default() };
    let (mut writer, readers) = Writer::open(&config).unwrap();
    let spool = folder.path().to_owned();
    let mut parts = Parts::default();
    for minute in 0..50 {
        let row =
            RollupRow { site: SITE.to_owned(), minute, value: "x".repeat(1 << 20), pageviews: 1, ..Default::default() };
        parts.push(FlushRows { rollups: vec![row], ..Default::default() }.encode_to_vec(), Some(&spool)).unwrap();
    }
    for (n, rows) in [(0, parts.clone()), (1, parts)] {
        writer.accept(Flush { rows, ..flush(1, n, 1) }).unwrap();
    }
    let counted = Statement::new("SELECT sum(pageviews), uniqExact(t) FROM tideline.rollup_1m");
    assert_eq!(json!(writer.connection().rows(&counted).unwrap()), json!([[100, 50]]));
    drop((writer, readers));
}

/// What the first version made lacks columns and tables of today's.
#[test]
fn a_folder_of_the_first_version_opens_and_goes_on() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let config = StoreConfig { path: folder.path().to_owned(), ..Default::default() };
    let (mut writer, readers) = Writer::open(&config).unwrap();
    writer.accept(flush(1, 0, 1)).unwrap();
    for old in [
        "ALTER TABLE tideline.visits DROP COLUMN src, DROP COLUMN entry_ms, DROP COLUMN exit_ms",
        "ALTER TABLE tideline.visits_staged DROP COLUMN entry_ms, DROP COLUMN exit_ms",
        "DROP TABLE tideline.batches",
        "DROP TABLE tideline.events",
    ] {
        writer.execute(old).unwrap();
    }
    drop((writer, readers));

    let (mut writer, readers) = Writer::open(&config).unwrap();
    check(&mut writer, 1, "the first version");
    let mut rows = rows(1);
    rows.visits[0].entry_ms = 5;
    rows.visits[0].exit_ms = 6;
    writer.accept(Flush { rows: rows.into(), ..flush(1, 1, 1) }).unwrap();
    check(&mut writer, 2, "the first version");
    let visit = Statement::new("SELECT entry_ms, exit_ms, src FROM tideline.visits FINAL");
    assert_eq!(json!(writer.connection().rows(&visit).unwrap()), json!([[5, 6, 1]]));
    drop((writer, readers));
}

/// Everything counts as often as there are accepted flushes; the visit is in its newest state.
fn check(writer: &mut Writer, flushes: u64, died_after: &str) {
    let mut one = |sql: &str| -> u64 {
        let mut statement = Statement::new(sql);
        statement.push(" WHERE site = ").bind(SITE);
        writer.connection().rows(&statement).unwrap()[0][0].as_u64().unwrap()
    };
    let rollup = table::ROLLUP_1M;
    assert_eq!(one(&format!("SELECT sum(pageviews) FROM {rollup}")), 3 * flushes, "rollups, died after {died_after}");
    assert_eq!(one(&format!("SELECT sum(events) FROM {}", table::LEDGER)), 5 * flushes, "ledger, {died_after}");
    assert_eq!(one(&format!("SELECT count() FROM {} FINAL", table::VISITS)), u64::from(flushes > 0), "{died_after}");
    assert_eq!(one(&format!("SELECT max(pageviews) FROM {} FINAL", table::VISITS)), flushes, "visit, {died_after}");
    let uniques = one(&format!("SELECT uniqCombined64Merge(14)(visitors) FROM {}", table::UNIQUES));
    assert_eq!(uniques, if flushes > 0 { 3 } else { 0 }, "uniques, {died_after}");
    for staged in [table::VISITS_STAGED, table::UNIQUES_STAGED] {
        assert_eq!(one(&format!("SELECT count() FROM {staged}")), 0, "{staged}, died after {died_after}");
    }
}
