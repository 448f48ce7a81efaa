//! The log's writer: one thread, one flush at a time.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use regional_redis::{Lsn, Shard};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use uuid::Uuid;

use super::read::{self, Reader};
use super::segment::{GroupWriter, HEADER_BYTES, Header};
use super::{LogError, Logged, Submission};
use crate::door::capacity::Capacity;
use crate::metrics::Metrics;

/// A segment is this long: 64 segments a GiB, and one fits into memory when it is read again.
const SEGMENT_BYTES: u64 = 16 * 1024 * 1024;
/// The next segment before it has its name.
const SPARE: &str = "segment.new";
/// A group closes at this size, so that no flush takes long and no group outgrows a segment.
const GROUP_BYTES: usize = 4 * 1024 * 1024;
const GROUP_RECORDS: usize = 4096;
/// How often a full disk is asked for room again.
const ROOM_EVERY: Duration = Duration::from_secs(1);

/// The open end of a shard's log.
#[derive(Debug)]
pub struct Log {
    folder: PathBuf,
    gateway: Uuid,
    shard: Shard,
    file: File,
    path: PathBuf,
    /// Where the next group goes.
    pub(super) end: u64,
    size: u64,
    last: Lsn,
    seed: u32,
    group: GroupWriter,
    /// The next segment's space, taken while there was some.
    spare: Option<File>,
    /// Of the segments to come.
    pub(super) segment_bytes: u64,
}

/// A log that was opened, and what it held.
#[derive(Debug)]
pub struct Opened {
    /// Its open end.
    pub log: Log,
    /// For what was in it.
    pub reader: Reader,
    /// The first record that is kept: what was before it is trimmed.
    pub first: Lsn,
    /// The last record in it; 0 if it is empty.
    pub last: Lsn,
}

impl Log {
    /// Opens the log in `folder`, or makes one. What follows the last complete group was never acknowledged and is cut off.
    pub fn open(folder: &Path, gateway: Uuid, shard: Shard) -> Result<Opened, LogError> {
        Self::open_with_segments(folder, gateway, shard, SEGMENT_BYTES)
    }

    /// The same, with new segments of another size: a simulation has many gateways, and no hours to fill one.
    pub fn open_with_segments(
        folder: &Path,
        gateway: Uuid,
        shard: Shard,
        segment_bytes: u64,
    ) -> Result<Opened, LogError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| LogError::Io { path, source }
        };
        fs::create_dir_all(folder).map_err(io(folder))?;
        let segments = read::segments(folder)?;
        read::check_closed(&segments, gateway, shard)?;
        let log = match segments.last() {
            None => {
                let file = allocate(folder, segment_bytes).map_err(io(folder))?;
                let begun = Self::begin_segment(folder, gateway, shard, Lsn(1), file, segment_bytes);
                Self { segment_bytes, ..begun.map_err(io(folder))? }
            }
            Some((first, path)) => {
                let bytes = fs::read(path).map_err(io(path))?;
                let header = read::owned_header(path, *first, &bytes, gateway, shard)?;
                let (end, last) = read::committed_end(path, &bytes, &header)?;
                let file = File::options().read(true).write(true).open(path).map_err(io(path))?;
                clear_behind(&file, &bytes, end).map_err(io(path))?;
                let (folder, path, group) = (folder.to_owned(), path.clone(), GroupWriter::default());
                let (end, size, seed) = (end as u64, bytes.len() as u64, header.seed());
                Self { folder, gateway, shard, file, path, end, size, last, seed, group, spare: None, segment_bytes }
            }
        };
        let first = segments.first().map_or(Lsn(1), |(first, _)| *first);
        Ok(Opened { first, last: log.last, reader: Reader::new(folder), log })
    }

    /// Takes submissions until their channel closes, and hands each committed group on, in order. Without room on the disk it
    /// waits for some, and `capacity` keeps new batches away. Returns at the first failure: a failed flush is never retried.
    pub async fn run(
        mut self,
        mut from: mpsc::Receiver<Submission>,
        to: &mpsc::Sender<Vec<Logged>>,
        metrics: &Metrics,
        capacity: &Capacity,
    ) -> Result<(), LogError> {
        let mut next_room = Instant::now();
        loop {
            let wants_room = self.wants_room();
            let first = tokio::select! {
                biased;
                () = sleep_until(next_room), if wants_room => {
                    next_room = Instant::now() + ROOM_EVERY;
                    let full = !self.take_room()?;
                    metrics.log_full.set(i64::from(full));
                    capacity.log_full(full);
                    continue;
                }
                first = from.recv() => first,
            };
            let Some(first) = first else { return Ok(()) };
            let waiting = gather(first, &mut from);
            let started = Instant::now();
            self.prepare(&waiting);
            while !self.make_room()? {
                metrics.log_full.set(1);
                capacity.log_full(true);
                if from.is_closed() {
                    tracing::warn!(
                        batches = waiting.len(),
                        "the disk has no room for the last batches; their agents keep them"
                    );
                    return Ok(());
                }
                sleep(ROOM_EVERY).await;
            }
            if !self.wants_room() {
                metrics.log_full.set(0);
                capacity.log_full(false);
            }
            let group = self.write(waiting)?;
            metrics.log_flush_seconds.observe(started.elapsed().as_secs_f64());
            metrics.log_records.inc_by(group.len() as u64);
            if to.send(group).await.is_err() {
                return Ok(()); // the gateway is stopping
            }
        }
    }

    /// One group of these records, in memory.
    pub(super) fn prepare(&mut self, submissions: &[Submission]) {
        self.group.start(self.last.next());
        for submission in submissions {
            self.group.add(&submission.record);
        }
    }

    /// Makes sure that the prepared group fits, in the next segment if need be. False: the disk has no room for one.
    pub(super) fn make_room(&mut self) -> Result<bool, LogError> {
        let needs = self.group.len() as u64;
        if self.end + needs <= self.size {
            return Ok(true);
        }
        let size = self.segment_bytes.max(HEADER_BYTES as u64 + needs);
        let spare = self.spare.take().filter(|_| size == self.segment_bytes);
        let begun = match spare {
            Some(file) => Ok(file),
            None => allocate(&self.folder, size),
        }
        .and_then(|file| Self::begin_segment(&self.folder, self.gateway, self.shard, self.last.next(), file, size));
        match begun {
            Ok(next) => {
                let group = std::mem::take(&mut self.group);
                *self = Self { group, segment_bytes: self.segment_bytes, ..next };
                Ok(true)
            }
            Err(error) if is_full(&error) => Ok(false),
            Err(source) => Err(LogError::Io { path: self.folder.clone(), source }),
        }
    }

    /// Writes the prepared group and flushes it.
    pub(super) fn write(&mut self, submissions: Vec<Submission>) -> Result<Vec<Logged>, LogError> {
        let bytes = self.group.commit(self.seed);
        let written = self.file.write_all_at(bytes, self.end).and_then(|()| self.file.sync_data());
        if let Err(source) = written {
            // They may be on disk all the same: they hold the watermark back for as long as this process reports one.
            std::mem::forget(submissions);
            return Err(LogError::Io { path: self.path.clone(), source });
        }
        self.end += bytes.len() as u64;
        let logged = submissions
            .into_iter()
            .zip(self.last.0 + 1..)
            .map(|(Submission { record, waiter }, lsn)| Logged { lsn: Lsn(lsn), record, waiter: Some(waiter) });
        let logged: Vec<_> = logged.collect();
        self.last = Lsn(self.last.0 + logged.len() as u64);
        Ok(logged)
    }

    /// The next group opens a new segment.
    #[cfg(test)]
    pub(super) fn end_segment(&mut self) {
        self.size = self.end;
    }

    /// Half a segment ahead: what is on its way to the log when there is no room any more still fits.
    pub(super) fn wants_room(&self) -> bool {
        self.spare.is_none() && self.end * 2 > self.size
    }

    /// Takes the next segment's space. False: the disk has none.
    pub(super) fn take_room(&mut self) -> Result<bool, LogError> {
        match allocate(&self.folder, self.segment_bytes) {
            Ok(file) => self.spare = Some(file),
            Err(error) if is_full(&error) => return Ok(false),
            Err(source) => return Err(LogError::Io { path: self.folder.clone(), source }),
        }
        Ok(true)
    }

    /// A new segment is complete before it has its name: a crash leaves the old last segment or this one.
    fn begin_segment(
        folder: &Path,
        gateway: Uuid,
        shard: Shard,
        first: Lsn,
        file: File,
        size: u64,
    ) -> io::Result<Self> {
        let path = folder.join(format!("{:020}.log", first.0));
        let header = Header { gateway, shard, first };
        file.write_all_at(&header.to_bytes(), 0)?;
        file.sync_all()?;
        fs::rename(folder.join(SPARE), &path)?;
        File::open(folder)?.sync_all()?;
        let (folder, group) = (folder.to_owned(), GroupWriter::default());
        let (end, last, seed) = (HEADER_BYTES as u64, Lsn(first.0 - 1), header.seed());
        let segment_bytes = SEGMENT_BYTES;
        Ok(Self { folder, gateway, shard, file, path, end, size, last, seed, group, spare: None, segment_bytes })
    }
}

/// This one and what else is there, up to a group.
fn gather(first: Submission, from: &mut mpsc::Receiver<Submission>) -> Vec<Submission> {
    let mut waiting = vec![first];
    let mut bytes = 0;
    while waiting.len() < GROUP_RECORDS && bytes < GROUP_BYTES {
        let Ok(next) = from.try_recv() else { break };
        bytes += proto::Message::encoded_len(&next.record);
        waiting.push(next);
    }
    waiting
}

/// Takes the space of a segment ahead, so that a flush writes data and no metadata, and a full disk is known before it matters.
fn allocate(folder: &Path, size: u64) -> io::Result<File> {
    let path = folder.join(SPARE);
    let file = File::options().create(true).truncate(true).read(true).write(true).open(&path)?;
    if let Err(error) = rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, size) {
        let _ = fs::remove_file(&path); // what it did get is of more use to others
        return Err(error.into());
    }
    Ok(file)
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Zeros over what follows `end`, so that nothing of a torn group can be taken for a later one. Gives no space back: it may not
/// come again.
fn clear_behind(file: &File, bytes: &[u8], end: usize) -> io::Result<()> {
    let Some(torn) = bytes[end..].iter().rposition(|&byte| byte != 0) else { return Ok(()) };
    file.write_all_at(&vec![0; torn + 1], end as u64)?;
    file.sync_all()
}
