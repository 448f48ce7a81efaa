//! The log's writer: one thread, one flush at a time.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use regional_redis::{Lsn, Shard};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::read::{self, Reader};
use super::segment::{GroupWriter, HEADER_BYTES, Header};
use super::{LogError, Logged, Submission};
use crate::metrics::Metrics;

/// A segment is this long: 64 segments a GiB, and one fits into memory when it is read again.
const SEGMENT_BYTES: u64 = 16 * 1024 * 1024;
/// A group closes at this size, so that no flush takes long and no group outgrows a segment.
const GROUP_BYTES: usize = 4 * 1024 * 1024;
const GROUP_RECORDS: usize = 4096;

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
}

/// A log that was opened, and what it held.
#[derive(Debug)]
pub struct Opened {
    /// Its open end.
    pub log: Log,
    /// For what was in it.
    pub reader: Reader,
    /// The last record in it; 0 if it is empty.
    pub last: Lsn,
}

impl Log {
    /// Opens the log in `folder`, or makes one. What follows the last complete group was never acknowledged and is cut off.
    pub fn open(folder: &Path, gateway: Uuid, shard: Shard) -> Result<Opened, LogError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| LogError::Io { path, source }
        };
        fs::create_dir_all(folder).map_err(io(folder))?;
        let segments = read::segments(folder)?;
        let log = match segments.last() {
            None => Self::create_segment(folder, gateway, shard, Lsn(1), 0).map_err(io(folder))?,
            Some((_, path)) => {
                let bytes = fs::read(path).map_err(io(path))?;
                let header = read::header(path, &bytes)?;
                if !read::belongs(&header, gateway, shard) {
                    let what = "the segment belongs to another gateway's log";
                    return Err(LogError::Damaged { path: path.clone(), at: 16, what });
                }
                let (end, last) = read::committed_end(path, &bytes, &header)?;
                let file = File::options().read(true).write(true).open(path).map_err(io(path))?;
                let size = (bytes.len() as u64).max(end as u64);
                clear_behind(&file, end as u64, size).map_err(io(path))?;
                let (folder, path, group) = (folder.to_owned(), path.clone(), GroupWriter::default());
                Self { folder, gateway, shard, file, path, end: end as u64, size, last, seed: header.seed(), group }
            }
        };
        Ok(Opened { last: log.last, reader: Reader::new(folder), log })
    }

    /// Takes submissions until their channel closes, and hands each committed group on, in order. Returns at the first failure: a
    /// failed flush is never retried.
    pub fn run(
        mut self,
        mut from: mpsc::Receiver<Submission>,
        to: &mpsc::Sender<Vec<Logged>>,
        metrics: &Metrics,
    ) -> Result<(), LogError> {
        while let Some(first) = from.blocking_recv() {
            let mut waiting = vec![first];
            let mut bytes = 0;
            while waiting.len() < GROUP_RECORDS && bytes < GROUP_BYTES {
                let Ok(next) = from.try_recv() else { break };
                bytes += proto::Message::encoded_len(&next.record);
                waiting.push(next);
            }
            let started = Instant::now();
            let group = self.commit(waiting)?;
            metrics.log_flush_seconds.observe(started.elapsed().as_secs_f64());
            metrics.log_records.inc_by(group.len() as u64);
            if to.blocking_send(group).is_err() {
                break; // the gateway is stopping
            }
        }
        Ok(())
    }

    /// Writes one group and flushes it.
    pub(super) fn commit(&mut self, submissions: Vec<Submission>) -> Result<Vec<Logged>, LogError> {
        let first = self.last.next();
        self.group.start(first);
        for submission in &submissions {
            self.group.add(&submission.record);
        }
        if self.end + self.group.len() as u64 > self.size {
            let needs = self.group.len() as u64;
            let io = |source| LogError::Io { path: self.folder.clone(), source };
            let group = std::mem::take(&mut self.group);
            *self = Self::create_segment(&self.folder, self.gateway, self.shard, first, needs).map_err(io)?;
            self.group = group;
        }
        let bytes = self.group.commit(self.seed);
        let written = self.file.write_all_at(bytes, self.end).and_then(|()| self.file.sync_data());
        written.map_err(|source| LogError::Io { path: self.path.clone(), source })?;
        self.end += bytes.len() as u64;
        let logged = submissions.into_iter().zip(first.0..).map(|(Submission { record, waiter }, lsn)| Logged {
            lsn: Lsn(lsn),
            record,
            waiter: Some(waiter),
        });
        let logged: Vec<_> = logged.collect();
        self.last = Lsn(self.last.0 + logged.len() as u64);
        Ok(logged)
    }

    /// The next group opens a new segment.
    #[cfg(test)]
    pub(super) fn end_segment(&mut self) {
        self.size = self.end;
    }

    /// A new segment is complete before it has its name: a crash leaves the old last segment or this one.
    fn create_segment(folder: &Path, gateway: Uuid, shard: Shard, first: Lsn, needs: u64) -> io::Result<Self> {
        let path = folder.join(format!("{:020}.log", first.0));
        let temporary = folder.join("segment.new");
        let size = SEGMENT_BYTES.max(HEADER_BYTES as u64 + needs);
        let file = File::options().create(true).truncate(true).read(true).write(true).open(&temporary)?;
        // Allocated ahead, so that a flush writes data and no metadata.
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, size)?;
        let header = Header { gateway, shard, first };
        file.write_all_at(&header.to_bytes(), 0)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        File::open(folder)?.sync_all()?;
        let (folder, group) = (folder.to_owned(), GroupWriter::default());
        Ok(Self {
            folder,
            gateway,
            shard,
            file,
            path,
            end: HEADER_BYTES as u64,
            size,
            last: Lsn(first.0 - 1),
            seed: header.seed(),
            group,
        })
    }
}

/// Zeros from `end` on, so that nothing of a torn group can be taken for a later one.
fn clear_behind(file: &File, end: u64, size: u64) -> io::Result<()> {
    file.set_len(end)?;
    rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, size)?;
    file.sync_all()
}
