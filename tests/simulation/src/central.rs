//! What central keeps, in memory: as much of the store as the uplink needs, with its failures.

mod uplink;
mod without;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use central::control::Published;
use central::control::gateways::{Gateways, Introduction, Registration};
use central::control::rules::Rules as SiteRules;
use central::control::salts::SaltKey;
use central::control::shards::{ShardId, ShardState};
use central::control::sites::{Raw, Site};
use central::store::{Accepted, Flush, RawFrame, RawRow};
use central::uplink::{Books, BooksError, Durably};
use jiff::Timestamp;
use proto::limits::{ACCEPT_LONG_MS, ACCEPT_SHORT_MS};
use proto::sid::Sid;
use proto::uplink::{FlushRows, GatewayPosition, Outcomes, Remembered, VisitRow};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::{mpsc, watch};

use crate::rules::Kept as Rules;
use crate::time::World;
pub use uplink::{Process, Uplink};

/// The site of every agent, and where its pages are.
pub const SITE: &str = "shop";
/// As its pages say.
pub const ORIGIN: &str = "https://shop.example";

/// Which flush: epoch and number.
type FlushKey = (u64, u64);
/// A batch, or a visit by the batch that opened it.
pub type Name = (Vec<u8>, u32);

/// What is on central's disk.
#[derive(Default)]
pub struct Kept {
    state: Option<ShardState>,
    entered: BTreeSet<String>,
    retired: BTreeSet<String>,
    accepted: Accepted,
    /// Rows of flushes, accepted or not.
    pub flushes: Vec<(FlushKey, FlushRows)>,
    manifest: BTreeSet<FlushKey>,
    /// Newest states: of which flush, epoch and version, the state.
    pub visits: BTreeMap<Name, (FlushKey, (u64, u64), VisitRow)>,
    outcomes: BTreeMap<(String, u64, u64), Outcomes>,
    /// Of each batch the row of the highest epoch, and whose it is.
    pub raw: BTreeMap<Name, (String, RawRow)>,
}

/// The books that the real uplink runs over.
pub struct MemoryBooks {
    world: World,
    kept: Mutex<Kept>,
    published: watch::Sender<Arc<Published>>,
    random: Mutex<StdRng>,
    failing: Mutex<f64>,
    rules: Rules,
}

impl MemoryBooks {
    /// Empty ones, of one site.
    pub fn new(world: World, seed: u64, rules: Rules) -> Self {
        let site = Site {
            name: SITE.into(),
            origins: vec![ORIGIN.into()],
            timezone: "Europe/Berlin".into(),
            raw: Raw::Central,
            rules: SiteRules::default(),
            tenant: String::new(),
            keys: Vec::new(),
            key_required: false,
        };
        let mut published = Published { sites: [(SITE.to_owned(), site)].into(), ..Published::default() };
        // Every day that a run may see.
        let today = world.timestamp().to_zoned(jiff::tz::TimeZone::UTC).date();
        for days in -3..=4 {
            let day = today.saturating_add(jiff::Span::new().days(days)).to_string();
            published.salts.insert(day, SaltKey::new([days as u8; 16]));
        }
        Self {
            world,
            kept: Mutex::default(),
            published: watch::Sender::new(Arc::new(published)),
            random: Mutex::new(StdRng::seed_from_u64(seed)),
            failing: Mutex::new(0.0),
            rules,
        }
    }

    /// From now on this part of the calls fails.
    pub fn fail(&self, probability: f64) {
        *self.failing.lock().unwrap_or_else(PoisonError::into_inner) = probability;
    }

    /// What is on disk.
    pub fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `tideline retire-gateway`.
    pub fn retire(&self, gateway: &str) {
        self.kept().retired.insert(gateway.to_owned());
        self.published.send_modify(|published| {
            let mut changed = Published::clone(published);
            changed.retired.insert(gateway.to_owned());
            *published = Arc::new(changed);
        });
    }

    fn on(&self, rule: &str) -> bool {
        self.rules.holds(rule)
    }

    /// Whether this call fails, and if so whether all of it was done before.
    fn failure(&self) -> Option<bool> {
        let failing = *self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        (failing > 0.0 && random.random_bool(failing)).then(|| random.random_bool(0.5))
    }

    /// Disks take their time.
    async fn work(&self) {
        let ms = {
            let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
            random.random_range(0..20)
        };
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
}

fn unavailable() -> BooksError {
    BooksError::Unavailable("the disk of the simulation failed".into())
}

fn name(sid: &[u8], seq: u32) -> Name {
    (sid.to_vec(), seq)
}

impl Kept {
    /// Sums over everything that reports would sum.
    pub fn rows(&self) -> impl Iterator<Item = &FlushRows> {
        self.flushes.iter().map(|(_, rows)| rows)
    }

    /// The epoch of the shard.
    pub fn epoch(&self) -> u64 {
        self.state.as_ref().map_or(0, |state| state.epoch)
    }

    /// Epoch, term, and the flush that is due.
    pub fn standing(&self) -> (u64, u64, u64) {
        let (epoch, term) = self.state.as_ref().map_or((0, 0), |state| (state.epoch, state.term));
        (epoch, term, if self.accepted.epoch == epoch { self.accepted.next_flush } else { 0 })
    }

    fn delete_unfinished(&mut self, of: Option<FlushKey>) {
        let manifest = &self.manifest;
        let gone = |key: &FlushKey| !manifest.contains(key) && of.is_none_or(|of| of == *key);
        self.flushes.retain(|(key, _)| !gone(key));
        self.visits.retain(|_, (key, _, _)| !gone(key));
    }

    fn take_visits(&mut self, key: FlushKey, rows: &FlushRows) {
        for row in &rows.visits {
            let version = (key.0, row.version);
            let newer = |(_, there, _): &(FlushKey, (u64, u64), VisitRow)| *there >= version;
            if !self.visits.get(&name(&row.sid, row.seq)).is_some_and(newer) {
                self.visits.insert(name(&row.sid, row.seq), (key, version, row.clone()));
            }
        }
    }
}

#[tonic::async_trait]
impl Books for MemoryBooks {
    fn now(&self) -> Timestamp {
        self.world.timestamp()
    }

    fn published(&self) -> watch::Receiver<Arc<Published>> {
        self.published.subscribe()
    }

    async fn shards(&self, _: &str) -> Result<BTreeMap<u32, u64>, BooksError> {
        Ok(self.kept().state.iter().map(|state| (0, state.epoch)).collect())
    }

    async fn lead(&self, _: &ShardId, accepted_epoch: u64) -> Result<ShardState, BooksError> {
        self.work().await;
        let mut kept = self.kept();
        let fresh = || ShardState { epoch: 1, term: 0, open_flush: 0, durable: BTreeMap::new() };
        let state = kept.state.get_or_insert_with(fresh);
        state.term += 1;
        state.epoch = state.epoch.max(accepted_epoch);
        Ok(state.clone())
    }

    async fn open_epoch(&self, _: &ShardId) -> Result<u64, BooksError> {
        self.work().await;
        let failure = self.failure();
        if failure == Some(false) {
            return Err(unavailable());
        }
        let mut kept = self.kept();
        let state = kept.state.as_mut().ok_or_else(unavailable)?;
        state.epoch += 1;
        state.open_flush = 0;
        state.durable.clear();
        if failure.is_some() { Err(unavailable()) } else { Ok(state.epoch) }
    }

    async fn delete_unfinished(&self) -> Result<(), BooksError> {
        self.work().await;
        if self.failure().is_some() {
            return Err(unavailable());
        }
        if self.on("7-orphans") {
            self.kept().delete_unfinished(None);
        }
        Ok(())
    }

    async fn keep_durable(
        &self,
        _: &ShardId,
        open_flush: u64,
        vector: Vec<GatewayPosition>,
    ) -> Result<u64, BooksError> {
        self.work().await;
        let mut kept = self.kept();
        let state = kept.state.as_mut().ok_or_else(unavailable)?;
        if self.on("6-number") {
            state.open_flush = state.open_flush.max(open_flush);
        }
        for position in vector.into_iter().filter(|_| self.on("6-told")) {
            let lsn = state.durable.entry(position.gateway).or_default();
            *lsn = position.lsn.max(*lsn);
        }
        Ok(state.open_flush)
    }

    async fn durable_of(&self, _: &str, gateway: &str) -> Result<BTreeMap<u32, u64>, BooksError> {
        let kept = self.kept();
        let lsn = kept.state.as_ref().and_then(|state| state.durable.get(gateway));
        Ok(lsn.map(|lsn| (0, *lsn)).into_iter().collect())
    }

    async fn register_gateway(&self, gateway: Introduction<'_>) -> Result<Registration, BooksError> {
        self.work().await;
        if self.failure().is_some() {
            return Err(unavailable());
        }
        if self.kept().retired.contains(gateway.id) {
            return Ok(Registration::Retired);
        }
        if gateway.entered && self.on("4-known") {
            self.kept().entered.insert(gateway.id.to_owned());
        }
        if let Some(replaced) = gateway.replaces {
            self.retire(replaced);
        }
        Ok(Registration::Registered)
    }

    async fn gateways(&self, _: &str) -> Result<Gateways, BooksError> {
        let kept = self.kept();
        let entered = kept.entered.difference(&kept.retired).cloned().collect();
        Ok(Gateways { entered, retired: kept.retired.iter().cloned().collect() })
    }

    async fn accepted(&self, _: &ShardId) -> Result<Accepted, BooksError> {
        Ok(self.kept().accepted.clone())
    }

    async fn accept(&self, _: &ShardId, flush: Flush) -> Result<(), BooksError> {
        self.work().await;
        let key = (flush.id.epoch, flush.id.n);
        if self.kept().manifest.contains(&key) {
            return Ok(());
        }
        let mut rows = FlushRows::default();
        for part in flush.rows.iter() {
            let part = part.map_err(|_| unavailable())?;
            rows.rollups.extend(part.rollups);
            rows.visits.extend(part.visits);
            rows.uniques.extend(part.uniques);
            rows.ledger.extend(part.ledger);
        }
        {
            let mut kept = self.kept();
            if self.on("7-resend") {
                kept.delete_unfinished(Some(key));
            }
            kept.flushes.push((key, rows.clone()));
            if !self.on("7-visits") {
                kept.take_visits(key, &rows);
            }
        }
        self.work().await;
        let failure = self.failure();
        if failure == Some(false) {
            return Err(unavailable()); // the insert stood, the manifest did not
        }
        let mut kept = self.kept();
        kept.manifest.insert(key);
        kept.accepted.advance(&flush);
        kept.take_visits(key, &rows);
        if failure.is_some() { Err(unavailable()) } else { Ok(()) }
    }

    async fn keep_outcomes(&self, _: &ShardId, outcomes: &[Outcomes]) -> Result<(), BooksError> {
        self.work().await;
        let mut kept = self.kept();
        for call in outcomes.iter().filter(|_| self.on("8-outcomes")) {
            kept.outcomes.insert((call.gateway.clone(), call.last, call.epoch), call.clone());
        }
        Ok(())
    }

    async fn outcomes(&self, _: &ShardId, gateway: &str, after: u64) -> Result<Vec<Outcomes>, BooksError> {
        let kept = self.kept();
        let of = kept.outcomes.iter().filter(|((of, last, _), _)| of == gateway && *last > after);
        Ok(of.map(|(_, call)| call.clone()).collect())
    }

    async fn forget_outcomes(&self, _: &ShardId, gateway: &str, logged: u64) -> Result<(), BooksError> {
        self.kept().outcomes.retain(|(of, last, _), _| of != gateway || *last > logged);
        Ok(())
    }

    async fn take_raw(&self, frame: RawFrame) -> Result<Durably, BooksError> {
        let failure = self.failure();
        if failure == Some(false) {
            return Ok(Box::pin(async { Err(unavailable()) }));
        }
        {
            let mut kept = self.kept();
            for row in frame.rows {
                let name = name(&row.record.sid, row.record.seq);
                let newer = kept.raw.get(&name).is_some_and(|(_, there)| there.epoch > row.epoch);
                if !newer || !self.on("8-epoch") {
                    kept.raw.insert(name, (frame.gateway.clone(), row));
                }
            }
        }
        let ms = self.random.lock().unwrap_or_else(PoisonError::into_inner).random_range(0..50);
        Ok(Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            if failure.is_some() { Err(unavailable()) } else { Ok(()) }
        }))
    }

    async fn running_visits(&self, _: &ShardId, from_ms: u64, out: mpsc::Sender<VisitRow>) -> Result<(), BooksError> {
        let visits: Vec<_> = self.kept().visits.values().map(|(_, _, row)| row.clone()).collect();
        for row in visits.into_iter().filter(|row| row.last_ms >= from_ms && self.on("11-visits")) {
            if out.send(row).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    async fn remembered(
        &self,
        _: &ShardId,
        gateways: &[GatewayPosition],
        watermark_ms: u64,
        out: mpsc::Sender<Remembered>,
    ) -> Result<(), BooksError> {
        const HOUR_MS: u64 = 3_600_000;
        let mut sids: BTreeMap<(u32, Vec<u8>), Vec<u32>> = BTreeMap::new();
        for (gateway, row) in self.kept().raw.values().filter(|_| self.on("11-lost")) {
            let stamp_ms = Sid::try_new(&row.record.sid).map_or(0, |sid| sid.stamp_ms());
            let accepted_ms = if row.record.class == 0 { ACCEPT_SHORT_MS } else { ACCEPT_LONG_MS };
            let over_ms = (stamp_ms / HOUR_MS + 1) * HOUR_MS + accepted_ms;
            let covered = |of: &GatewayPosition| of.gateway == *gateway && row.lsn <= of.lsn;
            if gateways.iter().any(covered) && over_ms >= watermark_ms {
                sids.entry((row.record.class, row.record.sid.clone())).or_default().push(row.record.seq);
            }
        }
        for ((class, sid), seqs) in sids {
            if out.send(Remembered { class, sid, seqs }).await.is_err() {
                break;
            }
        }
        Ok(())
    }
}
