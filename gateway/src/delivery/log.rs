//! The segment log: the truth. What is in a committed group survives the gateway; everything after it can be counted again.
//!
//! Group commit decides the pace: one flush at a time, and the next starts when the last one returned, with everything that
//! arrived meanwhile.

pub(crate) mod read;
mod segment;
#[cfg(test)]
mod tests;
mod trim;
mod write;

use std::io;
use std::path::PathBuf;

use proto::record::Record;
use regional_redis::Lsn;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

pub use read::Reader;
pub(crate) use trim::end_of_acceptance;
pub use trim::{Allowed, Trimmer};
pub use write::{Log, Opened};

use crate::delivery::answer::Answer;
use crate::ingest::in_flight::Admission;

/// A record on its way into the log.
#[derive(Debug)]
pub struct Submission {
    /// What to keep.
    pub record: Record,
    /// Who waits for it.
    pub waiter: Waiter,
}

/// A record that is in the log.
#[derive(Debug)]
pub struct Logged {
    /// Where.
    pub lsn: Lsn,
    /// What was kept.
    pub record: Record,
    /// Who waits for it; nobody after a restart.
    pub waiter: Option<Waiter>,
}

/// The session that sent a batch, waiting for its end.
#[derive(Debug)]
pub struct Waiter {
    /// What it will be told.
    pub answer: Answer,
    /// The session's channel has room for everything it may have in flight, so sending never waits.
    pub session: mpsc::Sender<Answer>,
    /// Held until then.
    pub admission: Admission,
    /// Held until then.
    pub room: OwnedSemaphorePermit,
}

impl Waiter {
    /// It is logged and counted. A session that is gone asks again, on its next connection.
    pub fn answer(self) {
        let _ = self.session.try_send(self.answer);
    }
}

/// Why the log cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file system refused. A failed flush is never retried: what the kernel still holds is unknown.
    #[error("the log cannot be written or read at {}: {source}; nothing more is accepted until the gateway is restarted on a healthy disk", path.display())]
    Io {
        /// The segment or folder.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// Bytes that were committed are not what was written.
    #[error("the log is damaged at byte {at} of {}: {what}. Records after it were acknowledged, so it is not skipped; restore the file from a copy, or take the folder away: the gateway then starts as a new one without these records", path.display())]
    Damaged {
        /// The segment.
        path: PathBuf,
        /// Where in it.
        at: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// Outcomes that had been flushed are not what was written.
    #[error("the outcomes of the log are damaged at byte {at} of {}: what redis decided about records {} to {applied} had been flushed there, and redis holds it no more. Restore the file from a copy that is as new; or take the data folder away, whose gateway then starts as a new one, and retire this id (tideline retire-gateway)", path.display(), logged.next())]
    OutcomesDamaged {
        /// The file.
        path: PathBuf,
        /// Where in it.
        at: u64,
        /// The last record whose outcome is known.
        logged: Lsn,
        /// What Redis has applied.
        applied: Lsn,
    },
    /// A segment of another version.
    #[error("{} was written in format {found}, and this version reads format {}: start the version that wrote it, or take the folder away", path.display(), segment::FORMAT)]
    Format {
        /// The segment.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// What is asked for was deleted, because nobody could need it any more.
    #[error("record {wanted} of the log in {} is gone: it was accepted by central, and the log begins at record {first}. Redis must not stand before it; was it restored from an old copy?", path.display())]
    Trimmed {
        /// The folder.
        path: PathBuf,
        /// The record.
        wanted: Lsn,
        /// The first that is kept.
        first: Lsn,
    },
    /// A record is missing between two segments.
    #[error("the log in {} has no record {missing}: a segment is missing; restore it from a copy", path.display())]
    Missing {
        /// The folder.
        path: PathBuf,
        /// The record.
        missing: Lsn,
    },
}

impl LogError {
    /// The disk has no room: what was tried can be tried again.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Io { source, .. } if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }
}
