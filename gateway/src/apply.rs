//! From the log into Redis: many records, merged, with one call; and the answer to whoever waits for them.
//!
//! The only writer of this gateway's position in its shard. It stops at nothing but a damaged log: while Redis is away or not
//! approved it waits, and the log's queue, then the sessions, then the agents wait with it.

mod merge;

pub use merge::merge;

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use regional_redis::apply::{Applied, BATCHES_MAX, Call};
use regional_redis::{Link, LinkError, Lsn, Registered, Reported, Shard};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::capacity::Capacity;
use crate::clock::SKEW_MAX_MS;
use crate::ingest::Ingest;
use crate::log::{LogError, Logged, Reader};
use crate::metrics::Metrics;

/// How long to wait before Redis is tried again.
const RETRY: Duration = Duration::from_millis(200);
/// Events of one call, unless a single batch has more: while Redis works on a call its other clients wait.
const CALL_EVENTS_MAX: usize = 20_000;
/// Records in memory; what is behind them waits in the queue, and the log with it.
const WAITING_MAX: usize = 4 * BATCHES_MAX;
/// A gateway without traffic reports its watermark this often, and so learns that Redis fell back.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// Moves one shard's Redis along this gateway's log.
pub struct Applier {
    shard: Shard,
    redis: String,
    gateway: String,
    ingest: Arc<Ingest>,
    metrics: Arc<Metrics>,
    ready: Arc<AtomicBool>,
    capacity: Arc<Capacity>,
    /// The gateway is leaving: it is not ready any more, whatever Redis says.
    stop: CancellationToken,
    reader: Reader,
    /// Committed groups, in order.
    groups: mpsc::Receiver<Vec<Logged>>,
    /// Read and not applied; the front is `applied + 1` when it was filled.
    waiting: VecDeque<Logged>,
    /// What Redis has applied.
    applied: Lsn,
    /// The last record that is known to be in the log.
    last: Lsn,
    /// Up to here records may be read from the log again, without an admission that holds the watermark back.
    replayed_through: Lsn,
    next_report: Instant,
    /// The last record that a call ever named.
    sent: Lsn,
}

/// A registration with one process of Redis.
pub struct Session {
    link: Link,
    approved: String,
    incarnation: String,
    /// Where Redis stood when it registered.
    pub applied: Lsn,
}

/// What an applier needs to begin.
pub struct Start {
    /// Its shard.
    pub shard: Shard,
    /// The shard's Redis.
    pub redis: String,
    /// The id of the log's folder.
    pub gateway: Uuid,
    /// Of the shard's log.
    pub reader: Reader,
    /// The last record in it.
    pub last: Lsn,
    /// What the log commits from now on.
    pub groups: mpsc::Receiver<Vec<Logged>>,
    /// Is told whether Redis counts.
    pub capacity: Arc<Capacity>,
    /// The gateway is leaving.
    pub stop: CancellationToken,
}

/// Why an applier ended before its log did.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// What has to be replayed cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Redis knows records of this gateway that this process never sent.
    #[error(
        "redis has applied record {applied} under this gateway's id, and this gateway has sent {sent}: another process counts under the id; was the data folder copied? Stop the other one, then start this again"
    )]
    Ahead {
        /// What Redis says.
        applied: Lsn,
        /// The highest ever sent.
        sent: Lsn,
    },
}

/// Why a session with Redis ended.
enum Lost {
    Redis(LinkError),
    Unapproved,
    Fenced,
    Fatal(ApplyError),
}

impl From<ApplyError> for Lost {
    fn from(error: ApplyError) -> Self {
        Self::Fatal(error)
    }
}

impl From<LinkError> for Lost {
    fn from(error: LinkError) -> Self {
        Self::Redis(error)
    }
}

/// Connects, waits for the leader's approval, and registers a fresh incarnation: from then on no call of an earlier one is taken.
pub async fn register(redis: &str, shard: Shard, gateway: Uuid, ingest: &Ingest) -> Result<Option<Session>, LinkError> {
    let mut link = Link::connect(&redis.into(), shard).await?;
    let Some(approved) = link.approved().await? else { return Ok(None) };
    let incarnation = Uuid::new_v4().to_string();
    let registered = link.register(&gateway.to_string(), &incarnation, &approved).await?;
    link.barrier().await?;
    match registered {
        Registered::Wait | Registered::Retired | Registered::Rebuild { .. } => Ok(None),
        Registered::At { applied, clock_floor_ms } => {
            ingest.clock.follow(link.time_ms().await?);
            ingest.clock.raise_floor(clock_floor_ms);
            Ok(Some(Session { link, approved, incarnation, applied }))
        }
    }
}

impl Session {
    /// Takes another gateway id out of the watermark.
    pub async fn retire(&mut self, gateway: Uuid) -> Result<bool, LinkError> {
        self.link.retire(&gateway.to_string(), &self.approved).await
    }
}

impl Applier {
    /// Stands where `session` found Redis.
    pub fn new(
        start: Start,
        session: &Session,
        ingest: Arc<Ingest>,
        metrics: Arc<Metrics>,
        ready: Arc<AtomicBool>,
    ) -> Self {
        let Start { shard, redis, gateway, reader, last, groups, capacity, stop } = start;
        let (gateway, applied) = (gateway.to_string(), session.applied);
        let (waiting, next_report, replayed_through) = (VecDeque::new(), Instant::now(), last);
        Self {
            shard,
            redis,
            gateway,
            ingest,
            metrics,
            ready,
            capacity,
            stop,
            reader,
            groups,
            waiting,
            applied,
            last,
            replayed_through,
            next_report,
            sent: applied,
        }
    }

    /// Runs until the log's writer is gone and everything it committed is applied.
    pub async fn run(mut self, first: Session) -> Result<(), ApplyError> {
        let mut session = Some(first);
        loop {
            let Some(mut current) = session.take() else {
                session = self.register_again().await?;
                continue;
            };
            self.ready.store(true, Ordering::Relaxed);
            self.capacity.redis_counts(true);
            let lost = match self.count(&mut current).await {
                Ok(()) => return Ok(()),
                Err(lost) => lost,
            };
            self.ready.store(false, Ordering::Relaxed);
            self.capacity.redis_counts(false);
            match lost {
                Lost::Fatal(error) => return Err(error),
                Lost::Redis(error) => tracing::warn!(%error, "redis lost; batches wait in the log"),
                Lost::Unapproved => tracing::warn!("redis is not approved by an aggregator; batches wait in the log"),
                Lost::Fenced => {
                    tracing::error!("another process registered as this gateway: was its data folder copied?")
                }
            }
            sleep(RETRY).await; // what broke once may break again at once
        }
    }

    async fn register_again(&mut self) -> Result<Option<Session>, ApplyError> {
        match register(&self.redis, self.shard, self.gateway.parse().expect("it was a UUID"), &self.ingest).await {
            Ok(Some(session)) => {
                tracing::info!(applied = %session.applied, "registered with redis again");
                self.follow(session.applied)?;
                Ok(Some(session))
            }
            Ok(None) | Err(_) => {
                sleep(RETRY).await;
                Ok(None)
            }
        }
    }

    /// Applies what is committed, as long as this session lasts.
    async fn count(&mut self, session: &mut Session) -> Result<(), Lost> {
        loop {
            if Instant::now() >= self.next_report && self.applied >= self.replayed_through {
                self.report(session).await?;
            }
            if self.committed() == self.applied && !self.wait(session).await? {
                return Ok(());
            }
            if self.committed() > self.applied {
                self.fill().map_err(|error| Lost::Fatal(error.into()))?;
                self.step(session).await?;
            }
        }
    }

    /// Until there is something to apply (true), or the log is at its end (false).
    async fn wait(&mut self, session: &mut Session) -> Result<bool, Lost> {
        loop {
            tokio::select! {
                group = self.groups.recv() => match group {
                    Some(group) => { self.take(group); return Ok(true) }
                    None => return Ok(false),
                },
                () = sleep_until(self.next_report) => {
                    self.report(session).await?;
                    if self.committed() > self.applied {
                        return Ok(true); // Redis fell back
                    }
                }
            }
        }
    }

    /// What the log has committed, as far as it is known here.
    fn committed(&mut self) -> Lsn {
        while self.waiting.len() < WAITING_MAX
            && let Ok(group) = self.groups.try_recv()
        {
            self.take(group);
        }
        self.last
    }

    fn take(&mut self, group: Vec<Logged>) {
        self.last = group.last().map_or(self.last, |logged| logged.lsn);
        self.waiting.extend(group);
    }

    /// Makes `waiting` begin at `applied + 1`, from the log where memory does not reach back so far.
    fn fill(&mut self) -> Result<(), LogError> {
        let next = self.applied.next();
        let first = self.waiting.front().map_or(self.last.next(), |logged| logged.lsn);
        if next < first {
            let replayed = self.reader.read(next, Lsn(first.0 - 1), BATCHES_MAX)?;
            self.metrics.replayed_records.inc_by(replayed.len() as u64);
            for logged in replayed.into_iter().rev() {
                self.waiting.push_front(logged);
            }
        }
        Ok(())
    }

    /// One call: the next records, until Redis has counted them.
    async fn step(&mut self, session: &mut Session) -> Result<(), Lost> {
        // A replay may stand before a hole that is read next time.
        let mut events = 0;
        let fits = |logged: &Logged| {
            events += logged.record.events.len();
            events <= CALL_EVENTS_MAX || events == logged.record.events.len()
        };
        let in_order = self.waiting.iter().zip(self.applied.0 + 1..).take(BATCHES_MAX);
        let run = in_order
            .map_while(|(logged, lsn)| (logged.lsn.0 == lsn).then_some(logged))
            .map(fits)
            .take_while(|fits| *fits)
            .count();
        let records = &self.waiting.make_contiguous()[..run];
        let mut duplicates = HashSet::new();
        loop {
            let call = merge(self.applied, records, &duplicates);
            self.sent = self.sent.max(call.last);
            let now_ms = self.ingest.clock.now_ms();
            let answer =
                session.link.apply(&self.gateway, &session.incarnation, &session.approved, now_ms, &call).await?;
            self.metrics.apply_calls.inc();
            match answer {
                Applied::Done(_) => {
                    self.count_done(&call, &duplicates);
                    self.stand_at(call.last);
                    return Ok(());
                }
                Applied::Duplicates(found) if found.iter().any(|lsn| !duplicates.contains(lsn)) => {
                    duplicates.extend(found)
                }
                Applied::Gap(applied) => {
                    tracing::warn!(believed = %self.applied, %applied, "redis stands elsewhere; replaying from the log");
                    self.follow(applied)?;
                    return Ok(());
                }
                Applied::Wait => return Err(Lost::Unapproved),
                Applied::Fenced => return Err(Lost::Fenced),
                Applied::Duplicates(_) | Applied::Repeated(_) => {
                    return Err(Lost::Redis(LinkError::Unknown(format!(
                        "{answer:?} to a call that had folded its repeats"
                    ))));
                }
            }
        }
    }

    fn count_done(&self, call: &Call, duplicates: &HashSet<Lsn>) {
        self.metrics.applied_records.inc_by(call.last.0 - call.prev.0);
        self.metrics.duplicate_records.inc_by(duplicates.len() as u64);
    }

    /// Goes on from where Redis stands. Beyond what was ever sent to it, somebody else's records were counted under this id.
    fn follow(&mut self, applied: Lsn) -> Result<(), ApplyError> {
        if applied > self.sent {
            return Err(ApplyError::Ahead { applied, sent: self.sent });
        }
        self.stand_at(applied);
        Ok(())
    }

    /// Redis has everything up to `applied`: whoever waits for it is told. Below what was believed, the log is read again.
    fn stand_at(&mut self, applied: Lsn) {
        while self.waiting.front().is_some_and(|logged| logged.lsn <= applied) {
            let logged = self.waiting.pop_front().expect("it has a front");
            if let Some(waiter) = logged.waiter {
                waiter.answer();
            }
        }
        if applied < self.applied {
            self.replayed_through = self.last;
        }
        self.applied = applied;
    }

    /// Nothing that arrived before the mark is left to apply.
    async fn report(&mut self, session: &mut Session) -> Result<(), Lost> {
        self.next_report = Instant::now() + REPORT_EVERY;
        let skew_ms = self.ingest.clock.follow(session.link.time_ms().await?);
        self.metrics.clock_skew_ms.set(i64::try_from(skew_ms).unwrap_or(i64::MAX));
        self.ready.store(skew_ms <= SKEW_MAX_MS && !self.stop.is_cancelled(), Ordering::Relaxed);
        // The clock first: whatever is admitted after it was read is judged by a later time.
        let now_ms = self.ingest.clock.now_ms();
        let mark_ms = self.ingest.in_flight.oldest_ms().map_or(now_ms, |oldest| oldest.min(now_ms));
        match session
            .link
            .watermark(&self.gateway, &session.incarnation, &session.approved, mark_ms, self.applied, self.applied)
            .await?
        {
            Reported::Done { .. } => Ok(()),
            Reported::Wait => Err(Lost::Unapproved),
            Reported::Fenced => Err(Lost::Fenced),
            Reported::Gap(applied) => {
                tracing::warn!(believed = %self.applied, %applied, "redis stands elsewhere; replaying from the log");
                self.follow(applied).map_err(Lost::Fatal)
            }
        }
    }
}
