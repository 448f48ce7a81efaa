//! From no session with Redis to one that counts: registration, and what a Redis that was lost must hear first.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use proto::sid::Sid;
use regional_redis::apply::{BATCHES_MAX, Batch};
use regional_redis::{Link, LinkError, Lsn, Rebuilding, Registered, Server, Shard};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::ApplyError;
use crate::controls;
use crate::delivery::log::{LogError, Reader, end_of_acceptance};
use crate::delivery::outcomes::Decided;
use crate::delivery::processes::Processes;
use crate::delivery::progress::Delivery;
use crate::delivery::uplink::{Carried, Central};
use crate::ingest::Ingest;

/// A rebuild takes as long as its slowest gateway.
const REBUILDING_RETRY: Duration = Duration::from_secs(1);
/// A full disk is made free by a person.
const ROOM_RETRY: Duration = Duration::from_secs(1);
/// A gateway that runs learns with its next report that another one registered under its id, and registers again: it takes a second,
/// or as long as its connections to a slow Redis. One that does not passes for lost, and its id is retired.
const REGISTERS_AGAIN_MAX: Duration = Duration::from_secs(30);

/// The way into one shard's Redis.
pub struct Entrance {
    /// The shard.
    pub shard: Shard,
    /// Its Redis.
    pub redis: Server,
    /// The id of the log's folder.
    pub gateway: Uuid,
    /// Where the shard's log is.
    pub log: PathBuf,
    /// What is known of it.
    pub delivery: Arc<Delivery>,
    /// Who wrote it.
    pub processes: Processes,
    /// Whose clock follows the region's.
    pub ingest: Arc<Ingest>,
    /// Knows what a lost Redis had counted.
    pub central: Central,
}

/// A registration with one process of Redis. It counts.
pub struct Session {
    pub(super) link: Link,
    pub(super) approved: String,
    pub(super) incarnation: String,
    /// Where Redis stands.
    pub applied: Lsn,
}

/// What became of an attempt to enter.
pub enum Entry {
    /// Redis or central is not there, nobody approved it, or a rebuild is not at an end. Tried again.
    NotYet(NotYet),
    /// Redis, or central, knows records of this id, or that their outcomes were logged, and the log does not hold them: the
    /// folder is older than its id. Or it is a copy, and the other one's process applied its own records under the numbers of this one's,
    /// or reported while one of this one's waited.
    Older(Session),
    /// It counts from here on.
    Counts(Session),
}

/// Why not.
#[derive(Debug, thiserror::Error)]
pub enum NotYet {
    /// No leader has approved this process of Redis, or another epoch is open meanwhile.
    #[error("no aggregator has approved redis")]
    Unapproved,
    /// Not reached, or it broke.
    #[error(transparent)]
    Redis(#[from] LinkError),
    /// Redis was lost, and others have not remembered yet what they had counted.
    #[error("redis was lost and is rebuilt; it counts when the last gateway has remembered what it had counted")]
    Rebuilding,
    /// There is no room for what Redis decided.
    #[error("the disk is full: {0}")]
    Full(LogError),
    /// Redis was lost, and central, which knows what it had counted, is away.
    #[error("redis was lost, and central is away, which knows what it had counted")]
    Central,
    /// Another process of this id.
    #[error("another process registered as this gateway: was its data folder copied?")]
    Fenced,
}

impl NotYet {
    /// How long to wait before it is tried again.
    pub(crate) fn retry(&self, otherwise: Duration) -> Duration {
        match self {
            Self::Rebuilding => REBUILDING_RETRY,
            Self::Full(_) => ROOM_RETRY,
            Self::Unapproved | Self::Redis(_) | Self::Central | Self::Fenced => otherwise,
        }
    }
}

/// Whether another process has this gateway's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elsewhere {
    /// It took the registration back: this folder is a copy, and the gateway is not lost.
    Runs,
    /// Nobody did, or the id is retired.
    Nobody,
    /// The registration is gone, and the id is not retired: Redis was lost meanwhile, and says nothing about it.
    Unknown,
}

enum Ended {
    NotYet(NotYet),
    Fatal(ApplyError),
}

impl Entrance {
    /// Connects, waits for nobody, and registers a fresh incarnation: from then on no call of an earlier one is taken. `last` is the
    /// last record of the log. What Redis decided and this gateway has not logged is logged; a lost Redis is told what it had counted.
    pub async fn enter(&self, last: Lsn) -> Result<Entry, ApplyError> {
        match self.attempt(last).await {
            Ok(entry) => Ok(entry),
            Err(Ended::NotYet(why)) => Ok(Entry::NotYet(why)),
            Err(Ended::Fatal(error)) => Err(error),
        }
    }

    async fn attempt(&self, last: Lsn) -> Result<Entry, Ended> {
        let mut link = Link::connect(&self.redis, self.shard).await?;
        if let Some(owner) = link.region().await? {
            let region = self.central.region();
            if owner != region {
                return Err(Ended::Fatal(ApplyError::Region { owner, region }));
            }
        }
        let approved = link.approved().await?.ok_or(NotYet::Unapproved)?;
        let (gateway, incarnation) = (self.gateway.to_string(), self.processes.incarnation());
        let registered = link.register(&gateway, &incarnation, &approved).await?;
        link.barrier().await?;
        let (clock_floor_ms, applied) = match registered {
            Registered::Wait => return Err(NotYet::Unapproved.into()),
            Registered::Rebuilding => return Err(NotYet::Rebuilding.into()),
            Registered::Retired => return Err(Ended::Fatal(ApplyError::Retired(self.gateway))),
            Registered::Rebuild { clock_floor_ms } => (clock_floor_ms, None),
            Registered::At { applied, by, clock_floor_ms } => (clock_floor_ms, Some((applied, by))),
        };
        self.ingest.clock.follow(link.time_ms().await?);
        self.ingest.clock.raise_floor(clock_floor_ms);
        self.delivery.durable(Lsn(0)); // of another epoch, perhaps; the next report tells
        let mut session = Session { link, approved, incarnation, applied: Lsn(0) };
        let (carried, by) = match applied {
            Some((applied, by)) => {
                session.applied = applied;
                (None, by)
            }
            None => {
                // Everything is asked for: central forgets what this gateway has logged.
                let after = Lsn(self.delivery.first().0 - 1);
                let carried = self.central.recall(after).await.ok_or(NotYet::Central)?;
                if session.epoch() != Some(carried.progress.epoch) {
                    return Err(NotYet::Unapproved.into()); // one of them is ahead of the other
                }
                session.applied = Lsn(carried.progress.accepted);
                let by = Some(carried.progress.applied_by.clone()).filter(|by| !by.is_empty());
                (Some(carried), by)
            }
        };
        let own = by.as_deref().is_none_or(|by| self.processes.may_have_applied(by, session.applied));
        if session.applied > last || !own && controls::keeps("4-copy") {
            return Ok(Entry::Older(session));
        }
        self.check_kept(session.applied)?;
        if self.may_be_forgotten(session.applied, last, clock_floor_ms).await? && controls::keeps("4-waited") {
            return Ok(Entry::Older(session));
        }
        let complete = match carried {
            Some(carried) => self.rebuild(&mut session, &carried, by.as_deref()).await?,
            None => self.take_back(&mut session).await?,
        };
        if !complete {
            tracing::warn!(logged = %self.delivery.logged(), applied = %session.applied, "outcomes are missing that this gateway had logged");
            return Ok(Entry::Older(session));
        }
        self.processes.begin(by.as_deref())?;
        Ok(Entry::Counts(session))
    }

    /// Whether the bits may be gone that would tell a repeat of a record behind `applied`: its acceptance ended before the time that
    /// this gateway's reports, or every gateway's, had come to. A record holds its own gateway's reports back until it is applied, so
    /// another process reported under this id while it waited.
    async fn may_be_forgotten(&self, applied: Lsn, last: Lsn, reported_ms: u64) -> Result<bool, LogError> {
        let (mut reader, mut from) = (Reader::new(&self.log), applied.next());
        while from <= last {
            let records = reader.read(from, last, BATCHES_MAX)?;
            if let Some(logged) = records.iter().find(|logged| end_of_acceptance(&logged.record) < reported_ms) {
                tracing::warn!(lsn = %logged.lsn, reported_ms, "another process reported for this gateway while this record waited");
                return Ok(true);
            }
            let Some(through) = records.last().map(|logged| logged.lsn) else { break };
            from = through.next();
            yield_now().await; // after an outage there are many, and what is logged meanwhile is taken
        }
        Ok(false)
    }

    /// What Redis decided and this gateway has not logged is logged. False, and nothing is, if outcomes are missing: Redis and central
    /// let go of them once they are on this disk, so this folder was restored from an older copy, even if its records are all there.
    /// Nobody could say which of them had been counted.
    async fn take_back(&self, session: &mut Session) -> Result<bool, Ended> {
        if controls::keeps("1-void") {
            self.delivery.void_above(session.applied)?;
        }
        let stored = session.link.unlogged(&self.gateway.to_string()).await?;
        if self.delivery.adopt(&stored, session.applied)? {
            return Ok(true);
        }
        // Emptied between the two, it says nothing about this folder.
        let emptied = session.link.approved().await?.as_ref() != Some(&session.approved);
        if emptied && controls::keeps("4-emptied") { Err(NotYet::Unapproved.into()) } else { Ok(false) }
    }

    /// A replay cannot begin before the first record that is kept.
    pub(super) fn check_kept(&self, applied: Lsn) -> Result<(), ApplyError> {
        let first = self.delivery.first();
        if applied.next() < first { Err(ApplyError::Trimmed { applied, first }) } else { Ok(()) }
    }

    /// Redis remembers every batch that an accepted flush counted from this log; the rest will be new. Each step may be repeated: a
    /// crash before the last one begins again. False, and Redis remembers nothing, if outcomes are missing.
    async fn rebuild(&self, session: &mut Session, carried: &Carried, by: Option<&str>) -> Result<bool, Ended> {
        let accepted = session.applied;
        self.delivery.progress(&carried.progress);
        self.delivery.void_above(accepted)?;
        if !self.delivery.fill_in(&carried.outcomes, accepted)? {
            return Ok(false);
        }
        let mut reader = Reader::new(&self.log);
        let (mut from, mut remembered) = (self.delivery.first(), 0);
        while from <= accepted {
            let records = match reader.read(from, accepted, BATCHES_MAX) {
                // Trimmed meanwhile: nobody can send any of those again.
                Err(LogError::Trimmed { first, .. }) => {
                    from = first;
                    continue;
                }
                read => read?,
            };
            let Some(through) = records.last().map(|logged| logged.lsn) else { break };
            let known = self.delivery.known(from, through)?;
            let (mut named, mut batches) = (HashSet::new(), Vec::with_capacity(records.len()));
            for logged in &records {
                let Ok(sid) = Sid::try_new(&logged.record.sid) else { continue }; // validated before it was logged
                if known.get(&logged.lsn) == Some(&Decided::Duplicate) {
                    continue; // whoever counted it says so
                }
                if named.insert((sid, logged.record.seq)) {
                    let (class, seq, lsn) = (logged.record.class, logged.record.seq, logged.lsn);
                    batches.push(Batch { class, sid, seq, lsn });
                }
            }
            remembered += batches.len();
            let gateway = self.gateway.to_string();
            let answer = session.link.remember(&gateway, &session.incarnation, &session.approved, &batches).await?;
            taken(answer)?;
            from = through.next();
        }
        let gateway = self.gateway.to_string();
        self.processes.begin(by)?;
        taken(session.link.rebuilt(&gateway, &session.incarnation, &session.approved, accepted).await?)?;
        tracing::warn!(%accepted, remembered, "redis was lost; it knows this gateway's batches again");
        if !session.link.waiting().await?.is_empty() {
            return Err(NotYet::Rebuilding.into());
        }
        Ok(true)
    }
}

impl Session {
    /// Takes another gateway id out of the watermark.
    pub async fn retire(&mut self, gateway: Uuid) -> Result<bool, LinkError> {
        self.link.retire(&gateway.to_string(), &self.approved).await
    }

    /// Whether another process of this id takes the registration back.
    pub async fn runs_elsewhere(&mut self, gateway: Uuid) -> Result<Elsewhere, LinkError> {
        let (gateway, until) = (gateway.to_string(), Instant::now() + REGISTERS_AGAIN_MAX);
        while Instant::now() < until {
            sleep(Duration::from_millis(100)).await;
            match self.link.incarnation(&gateway).await? {
                Some(incarnation) if incarnation == self.incarnation => {}
                Some(_) => return Ok(Elsewhere::Runs),
                None if self.link.is_retired(&gateway).await? => return Ok(Elsewhere::Nobody),
                None => return Ok(Elsewhere::Unknown),
            }
        }
        Ok(Elsewhere::Nobody)
    }

    fn epoch(&self) -> Option<u64> {
        self.approved.split_once(':')?.0.parse().ok()
    }
}

fn taken(answer: Rebuilding) -> Result<(), NotYet> {
    match answer {
        Rebuilding::Done => Ok(()),
        Rebuilding::Wait => Err(NotYet::Unapproved),
        Rebuilding::Fenced => Err(NotYet::Fenced),
    }
}

impl From<NotYet> for Ended {
    fn from(why: NotYet) -> Self {
        Self::NotYet(why)
    }
}

impl From<LinkError> for Ended {
    fn from(error: LinkError) -> Self {
        Self::NotYet(error.into())
    }
}

impl From<ApplyError> for Ended {
    fn from(error: ApplyError) -> Self {
        Self::Fatal(error)
    }
}

impl From<LogError> for Ended {
    fn from(error: LogError) -> Self {
        if error.is_full() { Self::NotYet(NotYet::Full(error)) } else { Self::Fatal(error.into()) }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_full_disk_is_waited_for_and_a_broken_one_is_not() {
        let ended = |kind: io::ErrorKind| Ended::from(LogError::Io { path: "raw".into(), source: kind.into() });
        let Ended::NotYet(why) = ended(io::ErrorKind::StorageFull) else { panic!("it ends the gateway") };
        assert!(matches!(why, NotYet::Full(_)), "{why}");
        assert!(matches!(ended(io::ErrorKind::PermissionDenied), Ended::Fatal(ApplyError::Log(_))));
    }
}
