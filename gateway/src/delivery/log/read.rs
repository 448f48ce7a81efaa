//! Reading the log again: at start, and after Redis fell back.

use std::fs;
use std::path::{Path, PathBuf};

use proto::Message;
use proto::record::Record;
use regional_redis::{Lsn, Shard};
use uuid::Uuid;

use super::segment::{self, BadHeader, Group, HEADER_BYTES, Header};
use super::{LogError, Logged};

/// Reads committed records from any position on. Keeps the segment it is in, so that reading on is cheap.
#[derive(Debug)]
pub struct Reader {
    folder: PathBuf,
    at: Option<Position>,
}

#[derive(Debug)]
pub(super) struct Position {
    segment: PathBuf,
    bytes: Vec<u8>,
    offset: usize,
    next: Lsn,
}

impl Reader {
    /// Of a folder that [`super::Log::open`] has opened.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), at: None }
    }

    /// Up to `max` records from `from` to `through`, in order and without a hole; both are in the log.
    pub fn read(&mut self, from: Lsn, through: Lsn, max: usize) -> Result<Vec<Logged>, LogError> {
        let mut records = Vec::new();
        let mut next = from;
        let folder = self.folder.clone();
        while next <= through && records.len() < max {
            let wanted = next;
            let group = self.group_with(wanted)?;
            let (first, bodies) = (group.first, group.records());
            for (i, body) in bodies.enumerate() {
                let lsn = Lsn(first.0 + i as u64);
                if lsn < next || lsn > through || records.len() == max {
                    continue;
                }
                records.push(Logged { lsn, record: decode(body, &folder, lsn)?, waiter: None });
                next = lsn.next();
            }
            if next == wanted {
                return Err(damaged(&folder, wanted, "its group counts more records than it holds"));
            }
        }
        Ok(records)
    }

    /// The committed group that holds `lsn`.
    fn group_with(&mut self, lsn: Lsn) -> Result<Group<'_>, LogError> {
        // The segment in memory may have ended here, or have been read while it was written: then it is read once more.
        let in_memory = match self.at.take() {
            Some(at) if at.next <= lsn => at.forward(lsn).ok().flatten(),
            _ => None,
        };
        let at = match in_memory {
            Some(at) => at,
            None => {
                let missing = || LogError::Missing { path: self.folder.clone(), missing: lsn };
                self.check_kept(lsn)?;
                let at = match Position::open(&self.folder, lsn) {
                    // Trimmed between the two, if it is not there any more.
                    Err(error) => return Err(self.check_kept(lsn).err().unwrap_or(error)),
                    Ok(at) => at,
                };
                at.and_then(|at| at.forward(lsn).transpose()).ok_or_else(missing)??
            }
        };
        let at = self.at.insert(at);
        Ok(Group::read(&at.bytes, at.offset).expect("forward stops at a group"))
    }

    fn check_kept(&self, lsn: Lsn) -> Result<(), LogError> {
        match segments(&self.folder)?.first() {
            Some((first, _)) if lsn < *first => {
                Err(LogError::Trimmed { path: self.folder.clone(), wanted: lsn, first: *first })
            }
            _ => Ok(()),
        }
    }
}

impl Position {
    /// The start of the segment that holds `lsn` if any does.
    fn open(folder: &Path, lsn: Lsn) -> Result<Option<Self>, LogError> {
        let Some((_, segment)) = segments(folder)?.into_iter().rev().find(|(first, _)| *first <= lsn) else {
            return Ok(None);
        };
        Self::at_start(&segment).map(Some)
    }

    /// Before the first group of a segment.
    pub(super) fn at_start(segment: &Path) -> Result<Self, LogError> {
        let bytes = fs::read(segment).map_err(|source| LogError::Io { path: segment.to_owned(), source })?;
        let header = header(segment, &bytes)?;
        Ok(Self { segment: segment.to_owned(), bytes, offset: HEADER_BYTES, next: header.first })
    }

    /// The group that begins here; the position moves behind it.
    pub(super) fn next_group(&mut self) -> Result<Option<Group<'_>>, LogError> {
        let Some(group) = Group::read(&self.bytes, self.offset) else {
            self.check_end()?;
            return Ok(None);
        };
        (self.offset, self.next) = (group.end, Lsn(group.first.0 + u64::from(group.count)));
        Ok(Some(group))
    }

    /// At the group with `lsn`; `None` if the segment ends before it.
    fn forward(mut self, lsn: Lsn) -> Result<Option<Self>, LogError> {
        while let Some(group) = Group::read(&self.bytes, self.offset) {
            let behind = Lsn(group.first.0 + u64::from(group.count));
            if lsn < behind {
                return Ok(Some(self));
            }
            (self.offset, self.next) = (group.end, behind);
        }
        self.check_end()?;
        Ok(None)
    }

    /// No group begins here: that is the end only if none follows.
    fn check_end(&self) -> Result<(), LogError> {
        if segment::group_follows(&self.bytes, self.offset) {
            let what = "a group has a wrong checksum";
            return Err(LogError::Damaged { path: self.segment.clone(), at: self.offset as u64, what });
        }
        Ok(())
    }
}

fn decode(body: &[u8], folder: &Path, lsn: Lsn) -> Result<Record, LogError> {
    Record::decode(body).map_err(|_| damaged(folder, lsn, "a record is not one of this version"))
}

fn damaged(folder: &Path, lsn: Lsn, what: &'static str) -> LogError {
    LogError::Damaged { path: folder.join(format!("(record {lsn})")), at: 0, what }
}

/// First LSN and path of every segment, in order.
pub fn segments(folder: &Path) -> Result<Vec<(Lsn, PathBuf)>, LogError> {
    let io = |source| LogError::Io { path: folder.to_owned(), source };
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let first =
            path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_suffix(".log")).and_then(|n| n.parse().ok());
        if let Some(first) = first {
            found.push((Lsn(first), path));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// The header of a segment, checked.
pub fn header(path: &Path, bytes: &[u8]) -> Result<Header, LogError> {
    Header::read(bytes).map_err(|bad| match bad {
        BadHeader::Damaged(what) => LogError::Damaged { path: path.to_owned(), at: 0, what },
        BadHeader::Format(found) => LogError::Format { path: path.to_owned(), found },
    })
}

/// Where the committed part of the last segment ends, and the last record in it (the one before `header.first` if none).
pub fn committed_end(path: &Path, bytes: &[u8], header: &Header) -> Result<(usize, Lsn), LogError> {
    let (mut end, mut next) = (HEADER_BYTES, header.first);
    while let Some(group) = Group::read(bytes, end) {
        if group.first != next {
            let what = "a group does not continue the one before it";
            return Err(LogError::Damaged { path: path.to_owned(), at: end as u64, what });
        }
        next = Lsn(group.first.0 + u64::from(group.count));
        end = group.end;
    }
    if segment::group_follows(bytes, end) {
        let what = "a group has a wrong checksum, and a complete one follows it";
        return Err(LogError::Damaged { path: path.to_owned(), at: end as u64, what });
    }
    Ok((end, Lsn(next.0 - 1)))
}

/// The header of a segment that must be of this log and begin where its name says.
pub fn owned_header(path: &Path, first: Lsn, bytes: &[u8], gateway: Uuid, shard: Shard) -> Result<Header, LogError> {
    let header = header(path, bytes)?;
    let damaged = |at, what| Err(LogError::Damaged { path: path.to_owned(), at, what });
    if (header.gateway, header.shard) != (gateway, shard) {
        return damaged(16, "the segment belongs to another gateway's log");
    }
    if header.first != first {
        return damaged(32, "the segment does not begin with the record in its name");
    }
    Ok(header)
}

/// Every segment but the last is whole and ends where the next begins. Reads all that is kept.
pub fn check_closed(segments: &[(Lsn, PathBuf)], gateway: Uuid, shard: Shard) -> Result<(), LogError> {
    for pair in segments.windows(2) {
        let [(first, path), (next, _)] = pair else { continue };
        let bytes = fs::read(path).map_err(|source| LogError::Io { path: path.clone(), source })?;
        let header = owned_header(path, *first, &bytes, gateway, shard)?;
        let (end, last) = committed_end(path, &bytes, &header)?;
        if last.next() == *next {
            continue;
        }
        if bytes[end..].iter().any(|&byte| byte != 0) {
            let what = "its last group has a wrong checksum, and another segment follows";
            return Err(LogError::Damaged { path: path.clone(), at: end as u64, what });
        }
        let folder = path.parent().unwrap_or(path).to_owned();
        return Err(LogError::Missing { path: folder, missing: last.next() });
    }
    Ok(())
}
