//! The processes that wrote a log, each with the record that the log ended with when it started. Redis says which process applied a
//! record last: if none of these can have, it was another log under the same id, and this folder or the other one is a copy.
//!
//! Two copies number their records alike. Without this, what the one counted would pass for what the other one logged.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use regional_redis::Lsn;
use uuid::Uuid;

use crate::delivery::folder::write_durably;
use crate::delivery::log::LogError;

/// Redis and central name no process that is so many starts old, of those that applied something.
const KEPT: usize = 1000;

/// Of one log, the running one last.
#[derive(Debug)]
pub struct Processes {
    path: PathBuf,
    /// Which process, and the last record of the log when it started.
    started: Vec<(Uuid, Lsn)>,
    written: Mutex<bool>,
}

impl Processes {
    /// A process starts on the log in `folder`, whose last record is `last`. It is not written down before [`Self::begin`].
    pub fn open(folder: &Path, last: Lsn) -> Result<Self, LogError> {
        let path = folder.join("processes");
        let mut started = match std::fs::read_to_string(&path) {
            Ok(text) => text.lines().map(parse).collect::<Option<Vec<_>>>().ok_or_else(|| LogError::Damaged {
                path: path.clone(),
                at: 0,
                what: "a line does not hold a process and a record",
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(LogError::Io { path, source }),
        };
        started.push((Uuid::new_v4(), last));
        Ok(Self { path, started, written: Mutex::new(false) })
    }

    /// Before Redis can name this process, where it names the `applier` so far, or central does. If there are too many, those between
    /// the two go first, which applied nothing: a gateway may be restarted without end while nobody visits its sites. Durable when it
    /// returns; on a full disk it can be tried again.
    pub fn begin(&self, applier: Option<&str>) -> Result<(), LogError> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if !*written {
            let (mut kept, own) = (self.started.clone(), self.started.len() - 1);
            let applier = applier.and_then(|applier| self.find(applier)).filter(|at| *at < own);
            if let Some(at) = applier.filter(|_| kept.len() > KEPT) {
                kept[own].1 = kept[at + 1].1; // what the forgotten ones logged, this one is to apply
                kept.drain(at + 1..own);
            }
            kept.drain(..kept.len().saturating_sub(KEPT));
            let text: String = kept.iter().map(|(process, last)| format!("{process} {last}\n")).collect();
            write_durably(&self.path, text.as_bytes())
                .map_err(|source| LogError::Io { path: self.path.clone(), source })?;
            *written = true;
        }
        Ok(())
    }

    /// A name for a registration of this process.
    pub fn incarnation(&self) -> String {
        let process = self.started.last().map_or(Uuid::nil(), |(process, _)| *process);
        format!("{process}/{}", Uuid::new_v4())
    }

    /// Whether it can be a record of this log that Redis applied last, as that incarnation sent it: by then its process had it.
    pub fn may_have_applied(&self, incarnation: &str, applied: Lsn) -> bool {
        // A version without this file names no process.
        if !incarnation.contains('/') {
            return true;
        }
        let Some(at) = self.find(incarnation) else { return false };
        // What is behind the start of the next one, that one wrote.
        self.started.get(at + 1).is_none_or(|(_, last)| applied <= *last)
    }

    fn find(&self, incarnation: &str) -> Option<usize> {
        let process = Uuid::try_parse(incarnation.split_once('/')?.0).ok()?;
        self.started.iter().position(|(started, _)| *started == process)
    }
}

fn parse(line: &str) -> Option<(Uuid, Lsn)> {
    let (process, last) = line.split_once(' ')?;
    Some((Uuid::try_parse(process).ok()?, Lsn(last.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_knows_the_others_records_up_to_where_they_parted() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = Processes::open(here.path(), Lsn(0)).unwrap();
        first.begin(None).unwrap();
        first.begin(None).unwrap();
        // Copied while it runs, at record 5; then both go on.
        std::fs::copy(here.path().join("processes"), there.path().join("processes")).unwrap();
        let copy = Processes::open(there.path(), Lsn(5)).unwrap();
        copy.begin(Some(&first.incarnation())).unwrap();
        assert!(copy.may_have_applied(&first.incarnation(), Lsn(5)));
        assert!(!copy.may_have_applied(&first.incarnation(), Lsn(6)));
        assert!(copy.may_have_applied(&copy.incarnation(), Lsn(6)));
        assert!(first.may_have_applied(&first.incarnation(), Lsn(6)));
        assert!(!first.may_have_applied(&copy.incarnation(), Lsn(5)));
        // The next start of either knows what its own folder knew.
        let next = Processes::open(here.path(), Lsn(9)).unwrap();
        assert!(next.may_have_applied(&first.incarnation(), Lsn(9)));
        assert!(!next.may_have_applied(&first.incarnation(), Lsn(10)));
        assert!(!next.may_have_applied(&copy.incarnation(), Lsn(5)));
        assert!(!next.may_have_applied("no process/1", Lsn(1)));
        assert!(next.may_have_applied(&Uuid::new_v4().to_string(), Lsn(1)), "of a version without this file");
    }

    #[test]
    fn is_as_long_as_redis_may_remember() {
        let folder = tempfile::tempdir().unwrap();
        let first = Processes::open(folder.path(), Lsn(0)).unwrap();
        let line = format!("{} 0\n", Uuid::new_v4());
        std::fs::write(folder.path().join("processes"), line.repeat(KEPT)).unwrap();
        let last = Processes::open(folder.path(), Lsn(1)).unwrap();
        last.begin(None).unwrap();
        let text = std::fs::read_to_string(folder.path().join("processes")).unwrap();
        assert_eq!(text.lines().count(), KEPT);
        assert!(!last.may_have_applied(&first.incarnation(), Lsn(0)));
    }

    #[test]
    fn who_applied_nothing_is_forgotten_and_who_did_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let first = Processes::open(folder.path(), Lsn(0)).unwrap();
        first.begin(None).unwrap();
        let applier = first.incarnation();
        let path = folder.path().join("processes");
        let idle: String = (0..KEPT as u64).map(|n| format!("{} {}\n", Uuid::new_v4(), 5 + n)).collect();
        std::fs::write(&path, std::fs::read_to_string(&path).unwrap() + &idle).unwrap();
        let running = Processes::open(folder.path(), Lsn(7_000)).unwrap();
        running.begin(Some(&applier)).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 2);
        let next = Processes::open(folder.path(), Lsn(7_000)).unwrap();
        assert!(next.may_have_applied(&applier, Lsn(5)));
        assert!(!next.may_have_applied(&applier, Lsn(6)), "a process after it logged that");
        assert!(next.may_have_applied(&running.incarnation(), Lsn(7_000)));
        next.begin(Some(&running.incarnation())).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 3, "there is room for all");
    }

    #[test]
    fn a_line_that_is_none_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("processes"), "one 2\n").unwrap();
        assert!(matches!(Processes::open(folder.path(), Lsn(0)), Err(LogError::Damaged { .. })));
    }
}
