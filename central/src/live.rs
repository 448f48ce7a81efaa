//! The last minutes and the current visitors: what was flushed, and on top of it what the regions say is not flushed yet.
//!
//! A bucket of the regions and the flush made of it are the same events, so at every moment a reading must take exactly
//! one of the two. The order that guarantees it:
//!
//! 1. [`Live::accept`] is the only way of a flush into the store. When the store has it, one step under the lock of
//!    `figures` both adds its rows to the flushed minutes and raises the shard's `next_flush`, below which buckets no
//!    longer count. A reading happens under the same lock: it sees the bucket or the flush, never both, never neither.
//! 2. The flushed minutes of a site come from the store when they are first asked for, and no flush may be under way
//!    then, since its rows would be read there and added here. `gate` keeps the two apart: flushes pass it side by
//!    side, a first reading alone. Later readings pass no gate and ask no store.
//! 3. When the store fails, the flush may or may not be there. The flushed minutes are forgotten at once, and again
//!    when the shard's next flush is accepted or its next leader asks: until then a reading may have seen rows that
//!    the store deletes before the repeat.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use jiff::{Timestamp, ToSpan as _};
use proto::uplink;
use tokio::sync::RwLock;

mod figures;

use crate::{
    control::shards::ShardId,
    store::{Flush, Store, StoreError},
};
use figures::{Figures, Totals, add_totals};
pub use figures::{Minute, Now};

/// Minutes of a reading.
pub const WINDOW_MINUTES: u32 = 30;
/// A region that has said nothing for this long counts as absent.
pub const ABSENT_AFTER: Duration = Duration::from_secs(10);

/// The live figures of all shards, over the store that takes their flushes.
pub struct Live {
    store: Store,
    gate: RwLock<()>,
    figures: Mutex<Figures>,
}

impl Live {
    /// Nothing live yet.
    pub fn new(store: Store) -> Self {
        Self { store, gate: RwLock::default(), figures: Mutex::default() }
    }

    /// A leader has been told where its shard stands.
    pub fn led(&self, shard: &ShardId, epoch: u64, next_flush: u64) {
        self.figures().led(shard, epoch, next_flush);
    }

    /// Takes a flush into the store and out of the live buckets, as one for every reading.
    pub async fn accept(&self, shard: &ShardId, flush: Flush) -> Result<(), StoreError> {
        let _side_by_side = self.gate.read().await;
        let n = flush.id.n;
        let mut totals = Totals::new();
        for rows in flush.rows.iter() {
            let rows = rows.map_err(|source| StoreError::Io { path: "the parts of a flush".into(), source })?;
            add_totals(&mut totals, &rows.rollups);
            tokio::task::yield_now().await; // a flush after a long outage has thousands of parts
        }
        let outcome = self.store.accept(flush).await;
        match &outcome {
            Ok(()) => self.figures().accepted(shard, n, totals),
            Err(_) => self.figures().failed(shard),
        }
        outcome
    }

    /// Replaces what a shard said before.
    pub fn said(&self, shard: &ShardId, said: uplink::Live, now: Instant) {
        self.figures().said(shard, said, now);
    }

    /// The figures of one site: the last minutes up to the one of `now`, oldest first.
    pub async fn of_site(&self, site: &str, now: Timestamp, instant: Instant) -> Result<Now, StoreError> {
        let first = first_minute(now);
        if let Some(reading) = self.figures().read(site, first, instant) {
            return Ok(reading);
        }
        let _alone = self.gate.write().await;
        // Someone else may have asked the store while this one waited at the gate.
        if let Some(reading) = self.figures().read(site, first, instant) {
            return Ok(reading);
        }
        let rows = self.store.minutes(site, first).await?;
        Ok(self.figures().load(site, first, rows, instant))
    }

    fn figures(&self) -> MutexGuard<'_, Figures> {
        // Every change of the figures is complete before anything in it could panic.
        self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first minute of the window that ends with the minute of `now`, Unix minutes.
fn first_minute(now: Timestamp) -> u32 {
    let minute = u32::try_from(now.as_second().div_euclid(60)).unwrap_or(0);
    minute.saturating_sub(WINDOW_MINUTES - 1)
}

/// A Unix minute as RFC 3339.
pub fn minute_text(minute: u32) -> String {
    (Timestamp::UNIX_EPOCH + (i64::from(minute) * 60).seconds()).to_string()
}
