//! A flush, whole, in the parts in which it came. After a long outage of central a region sends hours in one flush, so
//! the parts behind the first few wait in a file, and nobody has to hold all of its rows at once.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use proto::Message as _;
use proto::uplink::{FlushId, FlushRows, GatewayPosition};

/// Bytes of parts that stay in memory. What ten seconds bring is far below it.
const MEMORY_BYTES_MAX: u64 = 32 << 20;

/// A flush as it came up, whole.
#[derive(Debug, Clone)]
pub struct Flush {
    /// Its identity: a repeat has the same.
    pub id: FlushId,
    /// Term of the leader that sent it.
    pub term: u64,
    /// What it holds.
    pub rows: Parts,
    /// Last record of each gateway's log that it covers.
    pub vector: Vec<GatewayPosition>,
    /// Lowest watermark of all registered gateways, Unix ms.
    pub watermark_ms: u64,
    /// The region's clock at the cut, Unix ms.
    pub cut_ms: u64,
}

/// Rows in parts that were found to be encoded [`FlushRows`]. Clones share the file.
#[derive(Debug, Clone, Default)]
pub struct Parts {
    memory: Vec<Vec<u8>>,
    /// Where each later part ends in the file.
    ends: Vec<u64>,
    file: Option<Arc<File>>,
    bytes: u64,
}

impl Parts {
    /// Adds a part. Once there is much, it goes to a nameless file in the folder; without a folder all stays in memory.
    pub fn push(&mut self, part: Vec<u8>, spool: Option<&PathBuf>) -> io::Result<()> {
        self.bytes += part.len() as u64;
        let folder = spool.filter(|_| self.bytes > MEMORY_BYTES_MAX);
        let file = match (&self.file, folder) {
            (Some(file), _) => file,
            (None, Some(folder)) => self.file.insert(Arc::new(tempfile::tempfile_in(folder)?)),
            (None, None) => {
                self.memory.push(part);
                return Ok(());
            }
        };
        let begin = self.ends.last().copied().unwrap_or(0);
        file.write_all_at(&part, begin)?;
        self.ends.push(begin + part.len() as u64);
        Ok(())
    }

    /// The rows, a part at a time.
    pub fn iter(&self) -> impl Iterator<Item = io::Result<FlushRows>> {
        self.groups(1)
    }

    /// The rows, as many parts together as have at most this many bytes, and one at least.
    pub(super) fn groups(&self, bytes_max: u64) -> impl Iterator<Item = io::Result<FlushRows>> {
        let mut next = 0;
        std::iter::from_fn(move || {
            let (mut rows, mut bytes) = (FlushRows::default(), 0);
            while let Some(length) = self.length(next).filter(|length| bytes == 0 || bytes + length <= bytes_max) {
                if let Err(error) = self.read(next, &mut rows) {
                    next = usize::MAX; // nothing behind a part that cannot be read is of use
                    return Some(Err(error));
                }
                bytes += length;
                next += 1;
            }
            (bytes > 0).then_some(Ok(rows))
        })
    }

    /// Bytes of all parts.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// An empty part counts a byte, so that it is one.
    fn length(&self, index: usize) -> Option<u64> {
        let length = match index.checked_sub(self.memory.len()) {
            None => self.memory[index].len() as u64,
            Some(spooled) => self.ends.get(spooled)? - spooled.checked_sub(1).map_or(0, |before| self.ends[before]),
        };
        Some(length.max(1))
    }

    fn read(&self, index: usize, into: &mut FlushRows) -> io::Result<()> {
        let spooled;
        let part = match (index.checked_sub(self.memory.len()), &self.file) {
            (Some(at), Some(file)) => {
                let begin = at.checked_sub(1).map_or(0, |before| self.ends[before]);
                let mut bytes = vec![0; (self.ends[at] - begin) as usize];
                file.read_exact_at(&mut bytes, begin)?;
                spooled = bytes;
                &spooled
            }
            _ => &self.memory[index],
        };
        into.merge(part.as_slice()).map_err(io::Error::other)
    }
}

impl From<FlushRows> for Parts {
    fn from(rows: FlushRows) -> Self {
        let part = rows.encode_to_vec();
        Self { bytes: part.len() as u64, memory: vec![part], ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use proto::uplink::RollupRow;

    use super::*;

    fn part(minute: u32, bytes: usize) -> Vec<u8> {
        let row = RollupRow { minute, value: "x".repeat(bytes), ..Default::default() };
        FlushRows { rollups: vec![row], ..Default::default() }.encode_to_vec()
    }

    fn minutes(rows: impl Iterator<Item = io::Result<FlushRows>>) -> Vec<Vec<u32>> {
        rows.map(|rows| rows.unwrap().rollups.iter().map(|row| row.minute).collect()).collect()
    }

    #[test]
    fn parts_come_back_in_their_order_from_memory_and_from_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let spool = folder.path().to_owned();
        let mut parts = Parts::default();
        parts.push(Vec::new(), Some(&spool)).unwrap();
        for minute in 0..40 {
            parts.push(part(minute, 1 << 20), Some(&spool)).unwrap();
        }
        assert!(parts.file.is_some() && parts.memory.len() < 40);
        let all: Vec<u32> = (0..40).collect();
        assert_eq!(minutes(parts.iter()).concat(), all);
        assert_eq!(minutes(parts.groups(4 << 20)).concat(), all);
        assert_eq!(minutes(parts.groups(u64::MAX)), [all]);
        assert_eq!(std::fs::read_dir(&spool).unwrap().count(), 0, "the file has no name to be left behind");
    }

    #[test]
    fn a_flush_without_rows_has_a_part_all_the_same() {
        assert_eq!(minutes(Parts::from(FlushRows::default()).iter()), [Vec::<u32>::new()]);
        assert!(minutes(Parts::default().iter()).is_empty());
    }
}
