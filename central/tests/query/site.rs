//! A site of its own for each test, in one store.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Weak};
use std::time::Duration;

use central::query::{QueryError, SiteRef, answer};
use central::store::{Flush, Store, StoreConfig, StoreError};
use jiff::Timestamp;
use proto::uplink::{FlushId, FlushRows, Kind, RollupRow, UniqueRow, VisitDimensions, VisitRow};
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::sync::Mutex;

/// The time of every question.
pub const NOW: &str = "2026-11-22T13:30:00Z";

/// A site and the store that all share.
pub struct Site {
    pub site: SiteRef,
    pub store: Arc<Store>,
}

impl Site {
    pub async fn new(name: &str, timezone: &str) -> Self {
        let site = SiteRef { name: name.to_owned(), timezone: timezone.to_owned(), raw: true };
        Self { site, store: store().await }
    }

    /// The next flush of all, with these rows.
    pub async fn accept(&self, rows: FlushRows) {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());
        let _alone = ONE_AT_A_TIME.lock().await;
        let n = self.store.accepted("test", 0).await.unwrap().next_flush;
        let id = FlushId { region: "test".to_owned(), shard: 0, epoch: 1, n };
        let cut_ms = seconds(NOW) * 1000;
        self.store
            .accept(Flush { id, term: 1, rows: rows.into(), vector: vec![], watermark_ms: 0, cut_ms })
            .await
            .unwrap();
    }

    pub async fn try_ask(&self, mut body: Value) -> Result<Value, QueryError> {
        body["site_id"] = self.site.name.as_str().into();
        answer(&self.store, &self.site, &body, &BTreeSet::new(), NOW.parse().unwrap()).await
    }

    pub async fn ask(&self, body: Value) -> Value {
        self.try_ask(body).await.unwrap()
    }

    /// The results as `[dimensions…, metrics…]`.
    pub async fn rows(&self, body: Value) -> Vec<Value> {
        let answer = self.ask(body).await;
        let flat = |row: &Value| {
            let both = ["dimensions", "metrics"].map(|part| row[part].as_array().unwrap().clone());
            Value::Array(both.concat())
        };
        answer["results"].as_array().unwrap().iter().map(flat).collect()
    }

    pub fn rollup(&self, kind: Kind, value: &str, at: &str, pageviews: u64, events: u64) -> RollupRow {
        RollupRow {
            site: self.site.name.clone(),
            kind: kind.into(),
            value: value.to_owned(),
            minute: (seconds(at) / 60) as u32,
            pageviews,
            events,
            engaged_ms: 5,
        }
    }

    pub fn unique(&self, kind: Kind, value: &str, at: &str, visitors: &[u64]) -> UniqueRow {
        UniqueRow {
            site: self.site.name.clone(),
            kind: kind.into(),
            value: value.to_owned(),
            quarter: (seconds(at) / 900) as u32,
            visitors: visitors.to_vec(),
        }
    }

    pub fn visit(&self, visitor: u64, at: &str, length_s: u64, pageviews: u32, events: u32) -> VisitRow {
        static SEQ: AtomicU64 = AtomicU64::new(0);
        let start_ms = seconds(at) * 1000;
        let mut sid = vec![0x70; 16];
        sid[..6].copy_from_slice(&start_ms.to_be_bytes()[2..]);
        VisitRow {
            site: self.site.name.clone(),
            sid,
            seq: SEQ.fetch_add(1, Ordering::Relaxed) as u32,
            visitor,
            version: 1,
            start_ms,
            last_ms: start_ms + length_s * 1000,
            pageviews,
            events,
            entry_page: "/in".to_owned(),
            exit_page: "/out".to_owned(),
            dimensions: Some(VisitDimensions::default()),
            ..Default::default()
        }
    }
}

pub fn from(mut visit: VisitRow, set: impl FnOnce(&mut VisitDimensions)) -> VisitRow {
    set(visit.dimensions.as_mut().unwrap());
    visit
}

pub fn seconds(at: &str) -> u64 {
    at.parse::<Timestamp>().unwrap().as_second() as u64
}

/// One store for all tests that run at the same time: a process has one open. The last to go closes it. What it spawns
/// must outlive the runtime of the test that happened to open it.
async fn store() -> Arc<Store> {
    static LASTING: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());
    static SHARED: Mutex<Option<Weak<Store>>> = Mutex::const_new(None);
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("query-store");
    let mut shared = SHARED.lock().await;
    match &*shared {
        Some(open) => {
            if let Some(store) = open.upgrade() {
                return store;
            }
        }
        None => drop(std::fs::remove_dir_all(&path)),
    }
    loop {
        let config = StoreConfig { path: path.clone(), ..Default::default() };
        match LASTING.spawn(Store::open(config)).await.unwrap() {
            Err(StoreError::InUse(_)) => tokio::time::sleep(Duration::from_millis(20)).await, // being closed
            opened => {
                let store = Arc::new(opened.unwrap());
                *shared = Some(Arc::downgrade(&store));
                return store;
            }
        }
    }
}
