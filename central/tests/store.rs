//! The store over the real engine: what it keeps, whatever dies. A process has one store open at a time.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use central::store::{Accepted, Flush, LedgerSum, Parts, Store, StoreConfig, StoreError};
use proto::uplink::{FlushId, FlushRows, GatewayPosition, LedgerRow, RollupRow, VisitRow};
use tokio::sync::Mutex;

const SITE: &str = "shop.example";
const MINUTE: u32 = 29_914_830;
const CUT_MS: u64 = 1_794_890_000_000;
const CHILD: &str = "TIDELINE_TEST_STORE";

static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

fn config(path: &Path) -> StoreConfig {
    StoreConfig { path: path.to_owned(), ..Default::default() }
}

async fn open(path: &Path) -> Store {
    Store::open(config(path)).await.unwrap()
}

/// Flush n: 10 minutes with 1 pageview and 2 events each, and the newest state of one visit.
fn flush(n: u64) -> Flush {
    let id = FlushId { region: "eu".to_owned(), shard: 1, epoch: 7, n };
    let vector = vec![GatewayPosition { gateway: "b2e1".to_owned(), lsn: n + 100, ..Default::default() }];
    Flush { id, term: 2, rows: rows(n).into(), vector, watermark_ms: 1_000 + n, cut_ms: CUT_MS }
}

fn with_visit(mut rows: FlushRows, version: u64, pageviews: u32) -> Parts {
    rows.visits[0].version = version;
    rows.visits[0].pageviews = pageviews;
    rows.into()
}

fn rows(n: u64) -> FlushRows {
    let rollup = |minute| RollupRow {
        site: SITE.to_owned(),
        minute: MINUTE + minute,
        pageviews: 1,
        events: 2,
        ..Default::default()
    };
    let visit = VisitRow {
        site: SITE.to_owned(),
        sid: vec![1; 16],
        seq: 1,
        version: n + 1,
        pageviews: n as u32 + 1,
        ..Default::default()
    };
    let ledger = LedgerRow { site: SITE.to_owned(), events: 30, batches: 3, duplicates: 1, ..Default::default() };
    FlushRows {
        rollups: (0..10).map(rollup).collect(),
        visits: vec![visit],
        ledger: vec![ledger],
        ..Default::default()
    }
}

/// That exactly the first `flushes` count, each once.
async fn check(store: &Store, flushes: u64) {
    let minutes = store.minutes(SITE, MINUTE).await.unwrap();
    assert_eq!(minutes, (0..10).map(|minute| (MINUTE + minute, flushes, 2 * flushes)).collect::<Vec<_>>());
    let ledger = LedgerSum { reason: 0, events: 30 * flushes, batches: 3 * flushes, duplicates: flushes };
    assert_eq!(store.ledger(SITE).await.unwrap(), [ledger]);
    let vector = flush(flushes - 1).vector;
    let accepted =
        Accepted { epoch: 7, next_flush: flushes, vector, watermark_ms: 1_000 + flushes - 1, cut_ms: CUT_MS };
    assert_eq!(store.accepted("eu", 1).await.unwrap(), accepted);
    assert_eq!(visits_and_their_pageviews(store).await, serde_json::json!([1, flushes]));
}

async fn visits_and_their_pageviews(store: &Store) -> serde_json::Value {
    let site = central::query::SiteRef { name: SITE.to_owned(), timezone: "UTC".to_owned(), raw: true };
    let body = serde_json::json!({
        "site_id": SITE, "metrics": ["visits", "pageviews"], "date_range": ["1970-01-01", "1970-01-02"],
        "filters": [["is", "visit:source", [""]]]
    });
    let answer =
        central::query::answer(store, &site, &body, &Default::default(), jiff::Timestamp::UNIX_EPOCH).await.unwrap();
    answer["results"][0]["metrics"].clone()
}

#[tokio::test]
async fn accepted_flushes_stay_and_count_once() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    assert_eq!(store.accepted("eu", 1).await.unwrap(), Accepted::default());
    assert_eq!(store.first_event_minute(SITE).await.unwrap(), None);
    for n in [0, 0, 1, 0, 1, 2] {
        store.accept(flush(n)).await.unwrap();
    }
    check(&store, 3).await;
    assert_eq!(store.first_event_minute(SITE).await.unwrap(), Some(MINUTE));
    assert_eq!(store.minutes(SITE, MINUTE + 9).await.unwrap(), [(MINUTE + 9, 3, 6)]);
    assert!(matches!(store.accept(flush(4)).await, Err(StoreError::Gap { n: 4, expected: 3 })));
    let mut stale = flush(3);
    stale.term = 1;
    assert!(matches!(store.accept(stale).await, Err(StoreError::StaleTerm { .. })));
    let mut stale = flush(3);
    stale.id.epoch = 6;
    assert!(matches!(store.accept(stale).await, Err(StoreError::StaleEpoch { .. })));
    store.close().await;
    assert!(matches!(store.minutes(SITE, 0).await, Err(StoreError::Closed)));

    let store = open(folder.path()).await;
    check(&store, 3).await;
    store.accept(flush(2)).await.unwrap();
    store.accept(flush(3)).await.unwrap();
    check(&store, 4).await;
    assert_eq!(store.accepted("us", 1).await.unwrap(), Accepted::default());
    // A state that comes late is older; one of a new epoch, where versions and flushes start over, is newer.
    let mut late = flush(4);
    late.rows = with_visit(rows(4), 1, 70);
    store.accept(late).await.unwrap();
    assert_eq!(visits_and_their_pageviews(&store).await, serde_json::json!([1, 4]));
    let mut reborn = flush(0);
    reborn.id.epoch = 8;
    reborn.rows = with_visit(rows(0), 1, 80);
    store.accept(reborn).await.unwrap();
    assert_eq!(visits_and_their_pageviews(&store).await, serde_json::json!([1, 80]));
    let accepted = store.accepted("eu", 1).await.unwrap();
    assert_eq!((accepted.epoch, accepted.next_flush), (8, 1));
    store.close().await;
}

#[tokio::test]
async fn what_cannot_be_opened_says_why() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let folder = tempfile::tempdir().unwrap();
    let missing = StoreConfig { libchdb: Some(PathBuf::from("/nowhere/libchdb.so")), ..config(folder.path()) };
    assert!(matches!(Store::open(missing).await, Err(StoreError::LibraryMissing(_))));
    let small = StoreConfig { memory_max_bytes: 1, ..config(folder.path()) };
    assert!(matches!(Store::open(small).await, Err(StoreError::Config(_))));
    let store = open(folder.path()).await;
    assert!(matches!(Store::open(config(folder.path())).await, Err(StoreError::InUse(_))));
    store.close().await;
    let file = folder.path().join("a-file");
    std::fs::write(&file, "").unwrap();
    assert!(matches!(Store::open(config(&file)).await, Err(StoreError::Io { .. })));
}

/// Not a test by itself: what [`kills_lose_and_double_nothing`] kills.
#[tokio::test]
async fn accept_until_killed() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    let store = open(Path::new(&path)).await;
    loop {
        let next = store.accepted("eu", 1).await.unwrap().next_flush;
        // What a sender does that did not get the acknowledgement: the last one again, then the next.
        for n in [next.saturating_sub(1), next] {
            store.accept(flush(n)).await.unwrap();
        }
    }
}

#[tokio::test]
async fn kills_lose_and_double_nothing() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let folder = tempfile::tempdir().unwrap();
    open(folder.path()).await.close().await;
    let mut flushes = 0;
    for round in 0..8 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["accept_until_killed", "--exact"])
            .env(CHILD, folder.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        tokio::time::sleep(Duration::from_millis(2_000 + 37 * round)).await;
        child.kill().unwrap();
        child.wait().unwrap();
        let store = open(folder.path()).await;
        let accepted = store.accepted("eu", 1).await.unwrap().next_flush;
        assert!(accepted >= flushes);
        if accepted > 0 {
            check(&store, accepted).await;
        }
        flushes = accepted;
        store.close().await;
    }
    assert!(flushes > 8, "only {flushes} flushes in eight rounds");
}
