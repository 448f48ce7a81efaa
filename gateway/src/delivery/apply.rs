//! From the log into Redis: many records, merged, with one call; and the answer to whoever waits for them.
//!
//! The only writer of this gateway's position in its shard. It stops at nothing but a log that cannot be replayed. While Redis is
//! away or not approved it goes on taking what is logged: who waits is kept, or answered after the log alone, as the policy says.

mod entrance;
mod error;
mod merge;
mod room;

pub use entrance::{Elsewhere, Entrance, Entry, NotYet, Session};
pub use error::ApplyError;
pub use merge::merge;

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use proto::uplink::Outcomes;
use regional_redis::apply::{Applied, BATCHES_MAX, Call};
use regional_redis::{LinkError, Lsn, Reported};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use error::Lost;
use room::with_room;

use crate::clock::SKEW_MAX_MS;
use crate::controls;
use crate::delivery::log::{LogError, Logged, Reader};
use crate::delivery::progress::Delivery;
use crate::door::capacity::{Capacity, WhenRedisIsAway};
use crate::ingest::Ingest;
use crate::metrics::{Breaker, Metrics};

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
    entrance: Arc<Entrance>,
    gateway: String,
    delivery: Arc<Delivery>,
    ingest: Arc<Ingest>,
    metrics: Arc<Metrics>,
    ready: Arc<AtomicBool>,
    capacity: Arc<Capacity>,
    /// The gateway is leaving: it is not ready any more, whatever Redis says.
    stop: CancellationToken,
    reader: Reader,
    /// Committed groups, in order.
    groups: mpsc::Receiver<Vec<Logged>>,
    /// Its writer is gone: what it committed is all there will be.
    closed: bool,
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

/// What an applier needs to begin.
pub struct Start {
    /// The way into the shard's Redis.
    pub entrance: Arc<Entrance>,
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

impl Applier {
    /// Stands where `session` found Redis, whose log this is: raw rows may leave it from now on.
    pub fn new(
        start: Start,
        session: &Session,
        ingest: Arc<Ingest>,
        metrics: Arc<Metrics>,
        ready: Arc<AtomicBool>,
    ) -> Self {
        let Start { entrance, reader, last, groups, capacity, stop } = start;
        let (gateway, delivery, applied) =
            (entrance.gateway.to_string(), Arc::clone(&entrance.delivery), session.applied);
        delivery.begin_shipping();
        if applied < last {
            tracing::info!(from = %applied.next(), through = %last, records = last.0 - applied.0, "replaying the log");
        }
        Self {
            entrance,
            gateway,
            delivery,
            ingest,
            metrics,
            ready,
            capacity,
            stop,
            reader,
            groups,
            closed: false,
            waiting: VecDeque::new(),
            applied,
            last,
            replayed_through: last,
            next_report: Instant::now(),
            sent: applied,
        }
    }

    /// Runs until the log's writer is gone and everything it committed is applied; or, if the writer died and Redis does not count,
    /// what it committed is left to the next start.
    pub async fn run(mut self, first: Session) -> Result<(), ApplyError> {
        let (mut session, mut full) = (Some(first), false);
        loop {
            let current = match session.take() {
                Some(current) => Some(current),
                None => self.enter_again().await?,
            };
            let Some(mut current) = current else { return Ok(()) };
            if !full {
                self.counts(true);
            }
            let lost = match self.count(&mut current).await {
                Ok(()) => return Ok(()),
                Err(lost) => lost,
            };
            self.counts(false);
            self.answer_after_the_log();
            full = matches!(lost, Lost::Full);
            if !full {
                self.capacity.redis_memory_unknown();
            }
            match lost {
                Lost::Fatal(error) => return Err(error),
                Lost::Redis(error) => tracing::warn!(%error, "redis lost; batches wait in the log"),
                Lost::Unapproved => tracing::warn!("redis is not approved by an aggregator; batches wait in the log"),
                Lost::Beyond => tracing::warn!("redis stands beyond what it answered; registering again"),
                Lost::Fenced => {
                    tracing::error!("another process registered as this gateway: was its data folder copied?")
                }
                Lost::Full => {
                    tracing::warn!("redis has no room; batches wait in the log");
                    session = Some(current);
                }
            }
            self.set_aside_for(RETRY).await; // what broke once may break again at once
            if self.writer_died() {
                return Ok(());
            }
        }
    }

    /// Tells the door, and whoever asks whether this gateway is ready.
    fn counts(&self, counts: bool) {
        // Where the log is enough, a balancer must not send pages elsewhere because Redis is away.
        let serves = counts || self.capacity.policy() == WhenRedisIsAway::StoreAndForward;
        self.ready.store(serves && !self.stop.is_cancelled(), Ordering::Relaxed);
        self.capacity.redis_counts(counts);
        self.breaker(if counts { Breaker::Closed } else { Breaker::Open });
    }

    fn breaker(&self, breaker: Breaker) {
        self.metrics.breaker("redis", breaker);
    }

    /// The log cannot be written any more, and nobody asked the gateway to stop: it ends, whether Redis counts or not.
    fn writer_died(&self) -> bool {
        self.closed && !self.stop.is_cancelled()
    }

    /// Tries until there is a session again; what is logged meanwhile is taken. `None`: the log's writer died.
    async fn enter_again(&mut self) -> Result<Option<Session>, ApplyError> {
        let mut told = String::new();
        loop {
            self.breaker(Breaker::HalfOpen);
            let Some(entry) = self.attempt().await? else { return Ok(None) };
            let why = match entry {
                Entry::Counts(session) => {
                    tracing::info!(applied = %session.applied, "registered with redis again");
                    self.follow(session.applied)?;
                    return Ok(Some(session));
                }
                Entry::Older(session) => {
                    return Err(ApplyError::Older { applied: session.applied, last: self.last });
                }
                Entry::NotYet(why) => why,
            };
            if told != why.to_string() {
                tracing::warn!(%why, "not counting yet");
                told = why.to_string();
            }
            self.breaker(Breaker::Open);
            self.set_aside_for(why.retry(RETRY)).await;
        }
    }

    async fn attempt(&mut self) -> Result<Option<Entry>, ApplyError> {
        let (entrance, last) = (Arc::clone(&self.entrance), self.last);
        let entering = entrance.enter(last);
        tokio::pin!(entering);
        loop {
            if self.writer_died() {
                return Ok(None);
            }
            tokio::select! {
                biased;
                entered = &mut entering => return entered.map(Some),
                group = self.groups.recv(), if !self.closed => self.set_aside(group),
            }
        }
    }

    async fn set_aside_for(&mut self, wait: Duration) {
        let until = Instant::now() + wait;
        loop {
            tokio::select! {
                biased;
                () = sleep_until(until) => return,
                group = self.groups.recv(), if !self.closed => self.set_aside(group),
            }
        }
    }

    /// Takes what is committed while Redis does not count, so that the log goes on. Who waits is kept, in the room that the door
    /// has for it; or answered, and then the log is where the record is found again.
    fn set_aside(&mut self, group: Option<Vec<Logged>>) {
        let Some(group) = group else {
            self.closed = true;
            return;
        };
        self.take(group);
        self.answer_after_the_log();
    }

    /// While Redis does not count, where the policy says that the log is enough.
    fn answer_after_the_log(&mut self) {
        if self.capacity.policy() == WhenRedisIsAway::StoreAndForward {
            for logged in &mut self.waiting {
                if let Some(waiter) = logged.waiter.take() {
                    waiter.answer();
                }
            }
            // Nobody holds the watermark back for them any more.
            self.replayed_through = self.last;
            self.waiting.truncate(WAITING_MAX);
        }
    }

    /// Applies what is committed, as long as this session lasts.
    async fn count(&mut self, session: &mut Session) -> Result<(), Lost> {
        loop {
            if Instant::now() >= self.next_report {
                self.report(session).await?;
            }
            if self.committed() == self.applied && !self.wait(session).await? {
                return Ok(());
            }
            if self.committed() > self.applied {
                self.fill()?;
                self.step(session).await?;
            }
        }
    }

    /// Until there is something to apply (true), or the log is at its end (false).
    async fn wait(&mut self, session: &mut Session) -> Result<bool, Lost> {
        loop {
            if self.closed {
                return Ok(false);
            }
            tokio::select! {
                biased;
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

    /// Becomes what is applied next, behind what waits.
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
            let before = self.sent;
            self.sent = self.sent.max(call.last);
            let now_ms = self.ingest.clock.now_ms();
            let answer =
                session.link.apply(&self.gateway, &session.incarnation, &session.approved, now_ms, &call).await?;
            self.metrics.apply_calls.inc();
            if !matches!(answer, Applied::Done(_)) {
                self.sent = before; // it changed nothing
            }
            match answer {
                Applied::Done(outcomes) => {
                    self.remember(&outcomes).await?;
                    self.count_done(&call, &duplicates);
                    self.stand_at(call.last);
                    self.capacity.redis_counts(true);
                    return Ok(());
                }
                Applied::Duplicates(found) if found.iter().any(|lsn| !duplicates.contains(lsn)) => {
                    duplicates.extend(found)
                }
                Applied::Gap(applied) => return self.fall_back(applied).await,
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

    /// Redis has counted them. Pages hear of it once that is written down.
    async fn remember(&self, outcomes: &Outcomes) -> Result<(), LogError> {
        with_room(&self.capacity, &self.ready, &self.stop, || self.delivery.append(outcomes)).await
    }

    fn count_done(&self, call: &Call, duplicates: &HashSet<Lsn>) {
        self.metrics.applied_records.inc_by(call.last.0 - call.prev.0);
        self.metrics.duplicate_records.inc_by(duplicates.len() as u64);
    }

    /// Redis stands elsewhere: what it decided behind there is void, and replayed.
    async fn fall_back(&mut self, applied: Lsn) -> Result<(), Lost> {
        if applied > self.applied && applied <= self.sent {
            return Err(Lost::Beyond);
        }
        tracing::warn!(believed = %self.applied, %applied, records = self.last.0.saturating_sub(applied.0), "redis stands elsewhere; replaying from the log");
        self.follow(applied)?;
        if controls::keeps("1-void") {
            with_room(&self.capacity, &self.ready, &self.stop, || self.delivery.void_above(applied)).await?;
        }
        Ok(())
    }

    /// Goes on from where Redis stands. Beyond what was ever sent to it, somebody else's records were counted under this id.
    fn follow(&mut self, applied: Lsn) -> Result<(), ApplyError> {
        if applied > self.sent {
            return Err(ApplyError::Ahead { applied, sent: self.sent });
        }
        self.entrance.check_kept(applied)?;
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

    /// Nothing that arrived before the mark is left to apply. While the log is read again there is no new mark; but Redis would
    /// fill up with outcomes if it did not hear which of them are logged.
    async fn report(&mut self, session: &mut Session) -> Result<(), Lost> {
        self.next_report = Instant::now() + REPORT_EVERY;
        let skew_ms = self.ingest.clock.follow(session.link.time_ms().await?);
        self.metrics.clock_skew_ms.set(i64::try_from(skew_ms).unwrap_or(i64::MAX));
        self.ready.store(skew_ms <= SKEW_MAX_MS && !self.stop.is_cancelled(), Ordering::Relaxed);
        // The clock first: whatever is admitted after it was read is judged by a later time.
        let now_ms = self.ingest.clock.now_ms();
        let mark_ms = match self.applied >= self.replayed_through {
            true => self.ingest.in_flight.oldest_ms().map_or(now_ms, |oldest| oldest.min(now_ms)),
            false => 0,
        };
        let memory = session.link.memory().await?;
        self.capacity.redis_memory(memory.used, memory.max);
        // What Redis hears is logged it forgets: it must survive this machine first.
        let logged = self.delivery.sync()?;
        self.metrics.outcomes_logged.set(i64::try_from(logged.0).unwrap_or(i64::MAX));
        let (incarnation, approved) = (&session.incarnation, &session.approved);
        match session.link.watermark(&self.gateway, incarnation, approved, mark_ms, self.applied, logged).await? {
            Reported::Done { durable } => {
                self.delivery.durable(durable);
                Ok(())
            }
            Reported::Wait => Err(Lost::Unapproved),
            Reported::Fenced => Err(Lost::Fenced),
            Reported::Gap(applied) => self.fall_back(applied).await,
        }
    }
}
