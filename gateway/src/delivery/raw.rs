//! Raw rows on their way to central: in the order of the log, once their outcome is durable, and again after whatever made it void.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use proto::Message;
use proto::uplink::{Raw, RawAck, RawBatch, RawRows};
use regional_redis::{Lsn, Shard};
use tokio::time::Instant;

use crate::delivery::log::{LogError, Reader};
use crate::delivery::progress::Delivery;
use crate::ingest::Ingest;
use crate::metrics::Metrics;

/// Of the records in a frame; central takes some more for what is around them.
const FRAME_BYTES_MAX: usize = 1 << 20;
/// Of a record that goes alone: central ends the stream for a larger frame, again and again. No record of this version is as long.
const LONE_RECORD_BYTES_MAX: usize = FRAME_BYTES_MAX + 60 * 1024;
/// Frames that central has not acknowledged: it inserts what waits together.
const UNACKED_MAX: usize = 4;
/// Little goes together.
const SHIP_EVERY: Duration = Duration::from_secs(1);
/// Records that are read from the log at once.
const READ_MAX: usize = 1000;

/// One shard's rows.
pub struct Shipper {
    shard: Shard,
    delivery: Arc<Delivery>,
    reader: Reader,
    ingest: Arc<Ingest>,
    metrics: Arc<Metrics>,
    generation: u64,
    sent: Lsn,
    /// Generation and last record of each frame.
    unacked: VecDeque<(u64, Lsn)>,
    next: Instant,
    /// Central knows where this stream begins: it may have restarted, and forgotten.
    said: bool,
}

impl Shipper {
    /// Of a log and what is known of it. Sites whose rows go nowhere are those of `ingest`.
    pub fn new(
        shard: Shard,
        delivery: Arc<Delivery>,
        reader: Reader,
        ingest: Arc<Ingest>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let (generation, sent) = delivery.shipped();
        let (unacked, next) = (VecDeque::new(), Instant::now());
        Self { shard, delivery, reader, ingest, metrics, generation, sent, unacked, next, said: false }
    }

    /// Whose rows.
    pub fn shard(&self) -> Shard {
        self.shard
    }

    /// What is known of the log.
    pub fn delivery(&self) -> &Delivery {
        &self.delivery
    }

    /// On a new stream everything that was not acknowledged goes again.
    pub fn begin(&mut self) {
        (self.generation, self.sent) = self.delivery.shipped();
        self.unacked.clear();
        self.next = Instant::now();
        self.said = false;
    }

    /// When to ask again.
    pub fn next(&self) -> Instant {
        self.next
    }

    /// A frame that may leave now.
    pub fn frame(&mut self) -> Result<Option<RawRows>, LogError> {
        let now = Instant::now();
        if now < self.next || self.unacked.len() >= UNACKED_MAX {
            self.next = self.next.max(now + SHIP_EVERY / 10); // an acknowledgement comes first
            return Ok(None);
        }
        let Some(shipment) = self.delivery.ship(self.generation, self.sent)? else {
            self.next = now + SHIP_EVERY / 10;
            return Ok(None);
        };
        (self.generation, self.sent) = (shipment.generation, shipment.after);
        let (mut bytes, mut last, mut full) = (0, None, false);
        let mut batches = Vec::new();
        let sites = self.ingest.sites.table();
        'frame: for outcomes in &shipment.outcomes {
            let mut from = Lsn(outcomes.prev + 1);
            let mut counted = outcomes.counted.iter().peekable();
            while from.0 <= outcomes.last {
                for logged in self.reader.read(from, Lsn(outcomes.last), READ_MAX)? {
                    from = logged.lsn.next();
                    let outcome = counted.next_if(|outcome| outcome.lsn == logged.lsn.0);
                    let stays = sites.raw(&logged.record.site) == Raw::None;
                    if let Some(outcome) = outcome.filter(|_| !stays) {
                        let record = logged.record.encode_to_vec();
                        if record.len() > LONE_RECORD_BYTES_MAX {
                            self.leave_out(logged.lsn, record.len());
                            last = Some(logged.lsn);
                            continue;
                        }
                        if bytes > 0 && bytes + record.len() > FRAME_BYTES_MAX {
                            full = true;
                            break 'frame;
                        }
                        bytes += record.len() + outcome.visit.len() + 32;
                        let (lsn, visit) = (logged.lsn.0, outcome.visit.clone());
                        batches.push(RawBatch { lsn, epoch: outcomes.epoch, visit, record });
                    }
                    last = Some(logged.lsn);
                }
            }
        }
        let Some(last) = last.or((!self.said && self.sent > Lsn(0)).then_some(self.sent)) else {
            self.next = now + SHIP_EVERY;
            return Ok(None);
        };
        self.said = true;
        self.next = if full { now } else { now + SHIP_EVERY };
        self.sent = last;
        self.unacked.push_back((self.generation, last));
        self.metrics.raw_batches.inc_by(batches.len() as u64);
        let (shard, generation, logged) = (self.shard.0, self.generation, shipment.logged.0);
        Ok(Some(RawRows { shard, generation, last: last.0, logged, batches }))
    }

    /// Rather one batch without its raw row than no raw row any more, and a log that is never trimmed.
    fn leave_out(&self, record: Lsn, bytes: usize) {
        self.metrics.raw_too_large.inc();
        tracing::error!(
            %record,
            bytes,
            "a record is too large for a frame to central: it is counted, and its raw row never leaves; the audit will name it"
        );
    }

    /// Central has them.
    pub fn acked(&mut self, ack: &RawAck) {
        let (generation, last) = (ack.generation, Lsn(ack.last));
        while self.unacked.front().is_some_and(|(of, sent)| *of < generation || *of == generation && *sent <= last) {
            self.unacked.pop_front();
        }
        self.next = self.next.min(Instant::now() + SHIP_EVERY);
        if generation == self.generation && last <= self.sent && self.delivery.acked(generation, last) {
            self.metrics.raw_position.set(i64::try_from(last.0).unwrap_or(i64::MAX));
            let lag = self.delivery.logged().0.saturating_sub(last.0);
            self.metrics.raw_lag_records.set(i64::try_from(lag).unwrap_or(i64::MAX));
        }
    }
}
