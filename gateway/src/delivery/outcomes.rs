//! What Redis decided about the records of the log, in files beside its segments: read again when raw rows leave, and when a lost
//! Redis is rebuilt.
//!
//! Always one unbroken story: an entry begins where the one before it ended. What became void is cut off before anything is replayed.
//!
//! Entries are flushed once a second, and a machine that loses power may have written a later one and not an earlier one. So the last
//! file ends at its first bad entry. Whether that was such a torn write or damage, Redis tells: it holds what was not flushed.

mod file;
#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use proto::uplink::{Outcome, Outcomes};
use regional_redis::{Lsn, Shard};
use uuid::Uuid;

use crate::delivery::log::LogError;
use file::{Complete, Entry, HEADER_BYTES};

/// A file is this long: it fits into memory, and is written anew when a part of it becomes void.
const FILE_BYTES: usize = 4 * 1024 * 1024;

const FOLLOWED: &str = "an entry has a wrong checksum, and a complete one follows it";

/// The outcomes of one shard's log.
#[derive(Debug)]
pub struct OutcomeLog {
    folder: PathBuf,
    header: [u8; HEADER_BYTES],
    /// First LSN and path, in order.
    files: Vec<(Lsn, PathBuf)>,
    /// The last of them, and where it ends.
    open: Option<(File, usize)>,
    logged: Lsn,
    /// Up to here they survive this machine.
    synced: Lsn,
    /// Where the last file was damaged, or its end torn with a later entry whole. Cut off when the next entry is written.
    cut: Option<usize>,
    /// Where the last reading ended: reading on is cheap.
    cursor: Option<(PathBuf, usize, Lsn)>,
    /// A new file begins when the open one is this long.
    file_bytes: usize,
}

/// What is known about one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decided {
    /// Its batch was there before.
    Duplicate,
    /// Counted, or finally refused; the visit is empty if no event of it was counted.
    Counted {
        /// Of the decision.
        epoch: u64,
        /// sid and seq of the batch that opened the visit.
        visit: Vec<u8>,
    },
}

impl OutcomeLog {
    /// Opens what is in `folder`. A torn end is cut off: nobody was told that it is there. If complete entries follow what is torn, it
    /// stays until the next entry is written: [`Self::suspected`].
    pub fn open(folder: &Path, gateway: Uuid, shard: Shard) -> Result<Self, LogError> {
        fs::create_dir_all(folder).map_err(io(folder))?;
        let header = file::header(gateway, shard);
        let mut files = file::list(folder).map_err(io(folder))?;
        let (mut open, mut logged, mut cut, mut newest) = (None, Lsn(0), None, true);
        while let Some((first, path)) = files.last() {
            let bytes = fs::read(path).map_err(io(path))?;
            let Complete { end, last, followed } = file::complete(path, &bytes, &header)?;
            if followed && !newest {
                return Err(LogError::Damaged { path: path.clone(), at: end as u64, what: FOLLOWED }); // it was flushed
            }
            if end > HEADER_BYTES || followed {
                let opened = File::options().read(true).write(true).open(path).map_err(io(path))?;
                if !followed {
                    end_at(&opened, end).map_err(io(path))?;
                }
                debug_assert!(*first <= last || followed);
                // Without an entry of its own it goes on where the file before it ended.
                let before = Lsn(first.0 - 1);
                (open, logged, cut) = (Some((opened, end)), last.max(before), followed.then_some(end));
                break;
            }
            fs::remove_file(path).map_err(io(path))?; // it was torn before its first entry was whole
            files.pop();
            newest = false;
        }
        Ok(Self {
            folder: folder.to_owned(),
            header,
            files,
            open,
            logged,
            synced: logged,
            cut,
            cursor: None,
            file_bytes: FILE_BYTES,
        })
    }

    /// The last record whose outcome is here.
    pub fn logged(&self) -> Lsn {
        self.logged
    }

    /// The last record whose outcome survives this machine.
    pub fn synced(&self) -> Lsn {
        self.synced
    }

    /// If outcomes up to `applied` are missing, and Redis does not hold them either, the last file was damaged here.
    pub fn suspected(&self, applied: Lsn) -> Option<LogError> {
        let ((_, path), at) = (self.files.last()?, self.cut?);
        Some(LogError::OutcomesDamaged { path: path.clone(), at: at as u64, logged: self.logged, applied })
    }

    /// Adds what is not here yet; what is stays as it is. The flush comes with [`Self::sync`]. On a full disk
    /// ([`LogError::is_full`]) nothing is added, and it can be tried again.
    pub fn append(&mut self, outcomes: &Outcomes) -> Result<(), LogError> {
        if outcomes.last <= self.logged.0 {
            return Ok(());
        }
        let outcomes = clip(outcomes, self.logged, Lsn(outcomes.last));
        if self.open.as_ref().is_none_or(|(_, end)| *end >= self.file_bytes) {
            self.sync()?; // only the last file may be torn
            if let Some((file, end)) = &self.open {
                end_at(file, *end).map_err(io(&self.folder))?; // a full disk may have taken half of an entry
            }
            let (first, path) = (Lsn(outcomes.prev + 1), file::path(&self.folder, Lsn(outcomes.prev + 1)));
            let file = File::options().create(true).truncate(true).read(true).write(true).open(&path);
            let file = file.map_err(io(&path))?;
            file::write_at(&file, &self.header, 0).map_err(io(&path))?;
            file.sync_all().map_err(io(&path))?; // a file whose first page is lost and whose entries are there is damaged
            file::sync_folder(&self.folder).map_err(io(&self.folder))?;
            self.files.push((first, path));
            self.open = Some((file, HEADER_BYTES));
        }
        let Some((file, end)) = &mut self.open else { unreachable!("it was opened above") };
        if self.cut.is_some() {
            end_at(file, *end).map_err(io(&self.folder))?;
            self.cut = None;
        }
        let entry = file::encode(&self.header, &outcomes);
        file::write_at(file, &entry, *end).map_err(io(&self.folder))?;
        *end += entry.len();
        self.logged = Lsn(outcomes.last);
        Ok(())
    }

    /// Flushes; the answer is the last record whose outcome survives this machine.
    pub fn sync(&mut self) -> Result<Lsn, LogError> {
        if self.synced < self.logged
            && let Some((file, _)) = &self.open
        {
            // A failed flush is never retried, not even of a full disk.
            file.sync_data().map_err(|error| io(&self.folder)(std::io::Error::other(error)))?;
            self.synced = self.logged;
        }
        Ok(self.synced)
    }

    /// What was decided about the records behind `last` does not hold any more. Durable when it returns.
    pub fn void_above(&mut self, last: Lsn) -> Result<(), LogError> {
        if self.logged <= last {
            return Ok(());
        }
        (self.open, self.cursor) = (None, None);
        // From the newest on: a crash in between leaves an unbroken story.
        while let Some((_, path)) = self.files.pop_if(|(first, _)| *first > last) {
            fs::remove_file(&path).map_err(io(&path))?;
            self.cut = None;
        }
        file::sync_folder(&self.folder).map_err(io(&self.folder))?;
        let Some((first, path)) = self.files.last() else {
            (self.logged, self.synced, self.cut) = (Lsn(0), Lsn(0), None);
            return Ok(());
        };
        let bytes = fs::read(path).map_err(io(path))?;
        let open = || File::options().read(true).write(true).open(path).map_err(io(path));
        let (mut kept, mut logged, mut end) = (self.header.to_vec(), Lsn(first.0 - 1), HEADER_BYTES);
        self.logged = logged;
        for Entry { outcomes, end: behind } in file::entries(&bytes, HEADER_BYTES) {
            (self.logged, end) = (Lsn(outcomes.last), behind);
            if outcomes.prev < last.0 {
                let outcomes = clip(&outcomes, Lsn(0), last);
                kept.extend(file::encode(&self.header, &outcomes));
                logged = Lsn(outcomes.last);
            }
        }
        // On a full disk this file stays as it is, and it can be tried again.
        (self.open, self.synced) = (Some((open()?, end)), self.synced.min(self.logged));
        crate::delivery::folder::write_durably(path, &kept).map_err(io(path))?;
        self.open = Some((open()?, kept.len()));
        (self.logged, self.synced, self.cut) = (logged, logged, None);
        Ok(())
    }

    /// Outcomes of the records from `from` on, in order, as far as one reading goes: of some hundred kilobytes. Empty: there are none.
    pub fn read(&mut self, from: Lsn) -> Result<Vec<Outcomes>, LogError> {
        const READ_BYTES: usize = 256 * 1024;
        if from > self.logged {
            return Ok(Vec::new());
        }
        let at = match self.cursor.take() {
            Some((path, offset, next)) if next == from => Some((path, offset)),
            _ => None,
        };
        let (path, mut offset) = match at {
            Some(at) => at,
            None => {
                let file = self.files.iter().rev().find(|(first, _)| *first <= from).or(self.files.first());
                let Some((_, path)) = file else { return Ok(Vec::new()) };
                (path.clone(), HEADER_BYTES)
            }
        };
        let bytes = fs::read(&path).map_err(io(&path))?;
        let (mut found, started) = (Vec::new(), offset);
        for Entry { outcomes, end } in file::entries(&bytes, offset) {
            offset = end;
            if outcomes.last >= from.0 {
                found.push(clip(&outcomes, Lsn(from.0 - 1), Lsn(outcomes.last)));
            }
            if !found.is_empty() && offset - started > READ_BYTES {
                break;
            }
        }
        if let Some(last) = found.last() {
            self.cursor = Some((path, offset, Lsn(last.last + 1)));
            return Ok(found);
        }
        // The file is at its end: the next one goes on. Only the last may have a torn one.
        let is_last = self.files.last().is_some_and(|(_, last)| *last == path);
        if !is_last && offset < bytes.len() {
            return Err(LogError::Damaged { path, at: offset as u64, what: "an entry has a wrong checksum" });
        }
        match self.files.iter().find(|(first, other)| *first >= from && *other != path).map(|(first, _)| *first) {
            Some(next) => self.read(next),
            None => Err(LogError::Damaged { path, at: offset as u64, what: "an entry has a wrong checksum" }),
        }
    }

    /// Files that end before `first` go.
    pub fn trim(&mut self, first: Lsn) -> Result<(), LogError> {
        while self.files.len() > 1 && self.files[1].0 <= first {
            let (_, path) = self.files.remove(0);
            self.cursor.take_if(|(at, ..)| *at == path); // what comes next begins the file behind it
            fs::remove_file(&path).map_err(io(&path))?;
        }
        Ok(())
    }
}

/// What is behind `end` goes, durably.
fn end_at(file: &File, end: usize) -> std::io::Result<()> {
    if file.metadata()?.len() > end as u64 {
        file.set_len(end as u64)?;
    }
    file.sync_all()
}

/// Of each record in (`prev`, `last`] of these outcomes.
pub fn decided(outcomes: &Outcomes) -> impl Iterator<Item = (Lsn, Decided)> + '_ {
    let mut counted = outcomes.counted.iter().peekable();
    (outcomes.prev + 1..=outcomes.last).map(move |lsn| {
        let found = counted.next_if(|outcome| outcome.lsn == lsn);
        let decided = found.map_or(Decided::Duplicate, |outcome| Decided::Counted {
            epoch: outcomes.epoch,
            visit: outcome.visit.clone(),
        });
        (Lsn(lsn), decided)
    })
}

/// The part about records in (`prev`, `last`].
pub fn clip(outcomes: &Outcomes, prev: Lsn, last: Lsn) -> Outcomes {
    let (prev, last) = (prev.0.max(outcomes.prev), last.0.min(outcomes.last));
    let within = |outcome: &&Outcome| prev < outcome.lsn && outcome.lsn <= last;
    let counted = outcomes.counted.iter().filter(within).cloned().collect();
    Outcomes { gateway: String::new(), epoch: outcomes.epoch, prev, last, counted }
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> LogError {
    let path = path.to_owned();
    move |source| LogError::Io { path, source }
}
