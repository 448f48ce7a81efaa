//! The bytes of a file of outcomes.
//!
//! ```text
//! file    header (32 bytes), entries
//! header  "TIDEOUT1", shard u32, gateway (16), CRC32C u32 of what is before it
//! entry   "OUTC", bytes u32, CRC32C u32 of them, seeded with the header's | an encoded `tideline.uplink.v1.Outcomes`
//! ```
//! Numbers are little endian.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use proto::Message;
use proto::uplink::Outcomes;
use regional_redis::{Lsn, Shard};
use uuid::Uuid;

use crate::delivery::log::LogError;

pub const HEADER_BYTES: usize = 32;
const SEED_AT: usize = 28;
const MAGIC: &[u8; 8] = b"TIDEOUT1";
const ENTRY: &[u8; 4] = b"OUTC";
const ENTRY_HEAD_BYTES: usize = 12;

/// One call's outcomes, and where the next entry starts.
pub struct Entry {
    pub outcomes: Outcomes,
    pub end: usize,
}

pub fn header(gateway: Uuid, shard: Shard) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&shard.0.to_le_bytes());
    header[12..SEED_AT].copy_from_slice(gateway.as_bytes());
    let crc = crc32c::crc32c(&header[..SEED_AT]);
    header[SEED_AT..].copy_from_slice(&crc.to_le_bytes());
    header
}

pub fn encode(header: &[u8; HEADER_BYTES], outcomes: &Outcomes) -> Vec<u8> {
    let body = outcomes.encode_to_vec();
    let mut entry = Vec::with_capacity(ENTRY_HEAD_BYTES + body.len());
    entry.extend_from_slice(ENTRY);
    entry.extend_from_slice(&u32::try_from(body.len()).expect("a call is bounded").to_le_bytes());
    entry.extend_from_slice(&crc32c::crc32c_append(seed(header), &body).to_le_bytes());
    entry.extend_from_slice(&body);
    entry
}

/// Complete entries from an offset on, up to the first that is not.
pub fn entries(bytes: &[u8], mut at: usize) -> impl Iterator<Item = Entry> + '_ {
    std::iter::from_fn(move || {
        let entry = read(bytes, at)?;
        at = entry.end;
        Some(entry)
    })
}

/// Where the complete entries end.
pub struct Complete {
    pub end: usize,
    /// The last record they know of.
    pub last: Lsn,
    /// What follows is not torn in the order in which it was written: another complete entry is behind it.
    pub followed: bool,
}

/// Reads a whole file.
pub fn complete(path: &Path, bytes: &[u8], header: &[u8; HEADER_BYTES]) -> Result<Complete, LogError> {
    const EMPTY: Complete = Complete { end: 0, last: Lsn(0), followed: false };
    let damaged = |at: usize, what| LogError::Damaged { path: path.to_owned(), at: at as u64, what };
    let Some(found) = bytes.first_chunk::<HEADER_BYTES>() else { return Ok(EMPTY) };
    if found != header {
        let torn = !entry_follows(bytes, HEADER_BYTES) && bytes.len() == HEADER_BYTES;
        let what = "these outcomes are another gateway's, or their header is damaged";
        return if torn { Ok(EMPTY) } else { Err(damaged(0, what)) };
    }
    let (mut end, mut last) = (HEADER_BYTES, None);
    for entry in entries(bytes, HEADER_BYTES) {
        if last.is_some_and(|last| entry.outcomes.prev < last) || entry.outcomes.last <= entry.outcomes.prev {
            return Err(damaged(end, "outcomes do not continue those before them"));
        }
        (end, last) = (entry.end, Some(entry.outcomes.last));
    }
    Ok(Complete { end, last: Lsn(last.unwrap_or(0)), followed: entry_follows(bytes, end) })
}

fn read(bytes: &[u8], at: usize) -> Option<Entry> {
    let head = bytes.get(at..at.checked_add(ENTRY_HEAD_BYTES)?)?;
    if &head[..4] != ENTRY {
        return None;
    }
    let end = (at + ENTRY_HEAD_BYTES).checked_add(u32_at(head, 4) as usize)?;
    let body = bytes.get(at + ENTRY_HEAD_BYTES..end)?;
    if u32_at(head, 8) != crc32c::crc32c_append(u32_at(bytes, SEED_AT), body) {
        return None;
    }
    Some(Entry { outcomes: Outcomes::decode(body).ok()?, end })
}

/// True if a complete entry starts behind `at`.
fn entry_follows(bytes: &[u8], at: usize) -> bool {
    let mut from = at;
    while let Some(found) = bytes.get(from..).and_then(|rest| rest.windows(4).position(|four| four == ENTRY)) {
        if read(bytes, from + found).is_some() {
            return true;
        }
        from += found + 1;
    }
    false
}

pub fn path(folder: &Path, first: Lsn) -> PathBuf {
    folder.join(format!("{:020}.outcomes", first.0))
}

/// First LSN and path of every file, in order.
pub fn list(folder: &Path) -> io::Result<Vec<(Lsn, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".outcomes"));
        if let Some(first) = name.and_then(|name| name.parse().ok()) {
            found.push((Lsn(first), path));
        }
    }
    found.sort_unstable();
    Ok(found)
}

pub fn write_at(file: &File, bytes: &[u8], at: usize) -> io::Result<()> {
    file.write_all_at(bytes, at as u64)
}

pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn seed(header: &[u8; HEADER_BYTES]) -> u32 {
    u32_at(header, SEED_AT)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}
