//! From an open bucket to a settled flush.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::uplink::{Durable, FlushChunk, FlushEnd, FlushId, GatewayPosition, Leadership};
use regional_redis::{Approval, Cut, Link, Lsn, bucket};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::barrier;
use crate::config::Config;
use crate::flush::{Chunk, chunks};
use crate::lead::{Backoff, Interrupted};
use crate::memory;
use crate::metrics::Metrics;
use crate::uplink::Uplink;

/// A shard in which nothing was counted is cut this often all the same: the accepted watermark must move, for bitmaps
/// and the gateways' logs are kept until it has passed them.
const IDLE_CUT_INTERVAL: Duration = Duration::from_secs(60);

/// Cuts and forwards as long as the leadership holds.
pub struct Cutter<'a> {
    pub link: Link,
    pub uplink: Uplink,
    pub leader: Approval,
    pub epoch: u64,
    pub config: &'a Config,
    pub metrics: &'a Metrics,
    pub backoff: &'a mut Backoff,
    /// What central has accepted of each gateway's log.
    pub accepted: BTreeMap<String, Lsn>,
    /// How full Redis was.
    pub memory: &'a mut memory::Level,
}

/// The accepted vector as central told it.
pub fn accepted(leadership: &Leadership) -> BTreeMap<String, Lsn> {
    leadership.accepted.iter().map(|position| (position.gateway.clone(), Lsn(position.lsn))).collect()
}

impl Cutter<'_> {
    /// Until `stop`, and then once more. What an earlier leader cut and did not settle goes first, at once.
    pub async fn run(&mut self, stop: &CancellationToken) -> Result<(), Interrupted> {
        if let Some(n) = self.link.position().await?.unsettled {
            info!(flush = n, "found a flush that is not settled");
            self.flush().await?;
        }
        let mut due = tokio::time::interval(Duration::from_millis(self.config.cut_interval_ms));
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last_cut = Instant::now();
        loop {
            let stopping = tokio::select! {
                biased;
                () = stop.cancelled() => true,
                ended = self.uplink.ended() => return Err(ended.into()),
                _ = due.tick() => false,
            };
            self.memory.look(&mut self.link, self.metrics).await?;
            let idle_for_long = !stopping && last_cut.elapsed() >= IDLE_CUT_INTERVAL;
            if idle_for_long || self.something_was_applied().await? {
                self.flush().await?;
                last_cut = Instant::now();
            }
            if stopping {
                return Ok(());
            }
        }
    }

    /// Every call of a gateway, also one of duplicates only, moves its position.
    async fn something_was_applied(&mut self) -> Result<bool, Interrupted> {
        let applied = self.link.position().await?.applied;
        let moved = |(gateway, lsn): &(String, Lsn)| *lsn > self.accepted.get(gateway).copied().unwrap_or_default();
        Ok(applied.iter().any(moved))
    }

    /// One flush, whole. Whatever fails on the way, the next leader finds the same flush again.
    async fn flush(&mut self) -> Result<(), Interrupted> {
        let began = Instant::now();
        let now_ms = self.link.time_ms().await?;
        let cut = self.link.cut(&self.leader, now_ms).await?.ok_or(Interrupted::Fenced)?;
        barrier::raise(&mut self.link).await?;
        let retired = self.tell_durable(&cut).await?;
        self.retire(retired).await?;
        let (rows, bytes) = self.send(&cut).await?;
        leads(self.link.settle(&self.leader, cut.n).await?)?;

        self.accepted = cut.vector.into_iter().collect();
        self.backoff.reset();
        self.metrics.flushes.inc();
        self.metrics.flush_rows.inc_by(rows);
        self.metrics.flush_bytes.inc_by(bytes);
        self.metrics.flush_seconds.observe(began.elapsed().as_secs_f64());
        self.metrics.settled_flush.set(cut.n.try_into().unwrap_or(i64::MAX));
        debug!(flush = cut.n, rows, bytes, "flush settled");
        Ok(())
    }

    /// Central first: a Redis that was rolled back behind what it is told here is found out by it. Only then may
    /// gateways send raw rows of these records.
    async fn tell_durable(&mut self, cut: &Cut) -> Result<Vec<String>, Interrupted> {
        let durable = Durable {
            shard: self.config.shard,
            epoch: self.epoch,
            term: self.leader.term,
            open_flush: cut.n + 1,
            vector: positions(cut),
        };
        let retired = self.uplink.tell_durable(durable).await?;
        leads(self.link.advance_durable(&self.leader, &cut.vector).await?)?;
        Ok(retired)
    }

    /// Central knows that these were retired: Redis waits for their watermarks no more, and lets them register no more.
    async fn retire(&mut self, gateways: Vec<String>) -> Result<(), Interrupted> {
        if gateways.is_empty() {
            return Ok(());
        }
        let known = self.link.position().await?.retired;
        for gateway in gateways.iter().filter(|gateway| !known.contains(gateway)) {
            leads(self.link.retire(gateway, &self.leader.approved).await?)?;
            info!(gateway, "retired: its watermark counts no more");
        }
        Ok(())
    }

    /// Returns rows and bytes once central has accepted them.
    async fn send(&mut self, cut: &Cut) -> Result<(u64, u64), Interrupted> {
        let Config { region, shard, .. } = self.config;
        let id = FlushId { region: region.clone(), shard: *shard, epoch: self.epoch, n: cut.n };
        let rows = bucket::read(&mut self.link, cut.n).await?;
        let mut end = FlushEnd {
            vector: positions(cut),
            watermark_ms: cut.watermark_ms,
            cut_ms: cut.cut_ms,
            ..FlushEnd::default()
        };
        let (mut bytes, mut parts) = (0, chunks(rows).peekable());
        while let Some(Chunk { bytes: part, rows }) = parts.next() {
            let index = end.chunks;
            bytes += part.len() as u64;
            end.chunks += 1;
            end.rows += rows;
            end.crc32c = crc32c::crc32c_append(end.crc32c, &part);
            let is_last = parts.peek().is_none();
            let (id, term) = (Some(id.clone()), self.leader.term);
            let chunk = FlushChunk { id, term, index, rows: part, end: is_last.then(|| end.clone()) };
            self.uplink.send_chunk(chunk).await?;
        }
        self.uplink.accepted(&id).await?;
        Ok((end.rows, bytes))
    }
}

/// False, as Redis answers a leader's order: it is not the leader any more.
pub fn leads(still: bool) -> Result<(), Interrupted> {
    if still { Ok(()) } else { Err(Interrupted::Fenced) }
}

fn positions(cut: &Cut) -> Vec<GatewayPosition> {
    let position = |(gateway, lsn): &(String, Lsn)| GatewayPosition {
        gateway: gateway.clone(),
        lsn: lsn.0,
        applied_by: cut.applied_by.get(gateway).cloned().unwrap_or_default(),
    };
    cut.vector.iter().map(position).collect()
}
