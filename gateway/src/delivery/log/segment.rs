//! The bytes of a segment.
//!
//! ```text
//! segment  header (64 bytes), groups, zeros up to its preallocated size
//! header   "TIDELOG1", format u32, shard u32, gateway (16), first LSN u64, CRC32C u32 of what is before it, zeros
//! group    "GRUP", payload bytes u32, first LSN u64, records u32 | payload | "CMIT", CRC32C u32 of all before it, seeded with the
//!          header's
//! payload  a record after the other: bytes u32, an encoded `tideline.record.v1.Record`
//! ```
//! Numbers are little endian.

use regional_redis::{Lsn, Shard};
use uuid::Uuid;

/// Of this layout.
pub const FORMAT: u32 = 1;
pub const HEADER_BYTES: usize = 64;
/// The header's own checksum, which is also the seed of its groups'.
const SEED_AT: usize = 40;
const MAGIC: &[u8; 8] = b"TIDELOG1";
const GROUP: &[u8; 4] = b"GRUP";
const COMMIT: &[u8; 4] = b"CMIT";
const GROUP_HEAD_BYTES: usize = 4 + 4 + 8 + 4;
const COMMIT_BYTES: usize = 4 + 4;

/// The first bytes of a segment.
#[derive(Debug, PartialEq, Eq)]
pub struct Header {
    pub gateway: Uuid,
    pub shard: Shard,
    pub first: Lsn,
}

/// Why a header is none.
#[derive(Debug, PartialEq, Eq)]
pub enum BadHeader {
    Damaged(&'static str),
    Format(u32),
}

impl Header {
    pub fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.shard.0.to_le_bytes());
        bytes[16..32].copy_from_slice(self.gateway.as_bytes());
        bytes[32..40].copy_from_slice(&self.first.0.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..SEED_AT]);
        bytes[SEED_AT..SEED_AT + 4].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Where the checksums of this segment's groups begin. No client knows it, so no property can hold bytes that pass for a group.
    pub fn seed(&self) -> u32 {
        u32_at(&self.to_bytes(), SEED_AT)
    }

    pub fn read(bytes: &[u8]) -> Result<Self, BadHeader> {
        let Some(head) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(BadHeader::Damaged("the segment's header is cut off"));
        };
        if &head[..8] != MAGIC {
            return Err(BadHeader::Damaged("this is not a segment"));
        }
        let format = u32_at(head, 8);
        if format != FORMAT {
            return Err(BadHeader::Format(format));
        }
        if u32_at(head, SEED_AT) != crc32c::crc32c(&head[..SEED_AT]) {
            return Err(BadHeader::Damaged("the segment's header has a wrong checksum"));
        }
        let first = Lsn(u64_at(head, 32));
        if first == Lsn(0) {
            return Err(BadHeader::Damaged("the segment begins with record 0; the first of a log is 1"));
        }
        let gateway = Uuid::from_slice(&head[16..32]).expect("sixteen bytes");
        Ok(Self { gateway, shard: Shard(u32_at(head, 12)), first })
    }
}

/// Builds one group in a buffer that is used again for the next.
#[derive(Debug, Default)]
pub struct GroupWriter {
    bytes: Vec<u8>,
    records: u32,
}

impl GroupWriter {
    pub fn start(&mut self, first: Lsn) {
        self.bytes.clear();
        self.records = 0;
        self.bytes.extend_from_slice(GROUP);
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&first.0.to_le_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
    }

    pub fn add(&mut self, record: &impl proto::Message) {
        let len = u32::try_from(record.encoded_len()).expect("a record is bounded when it is validated");
        self.bytes.extend_from_slice(&len.to_le_bytes());
        record.encode(&mut self.bytes).expect("a vector grows");
        self.records += 1;
    }

    pub fn len(&self) -> usize {
        self.bytes.len() + COMMIT_BYTES
    }

    /// The group with its commit record. `seed` is the segment's ([`Header::seed`]).
    pub fn commit(&mut self, seed: u32) -> &[u8] {
        let payload = u32::try_from(self.bytes.len() - GROUP_HEAD_BYTES).expect("a group is bounded");
        self.bytes[4..8].copy_from_slice(&payload.to_le_bytes());
        self.bytes[16..20].copy_from_slice(&self.records.to_le_bytes());
        let crc = crc32c::crc32c_append(seed, &self.bytes);
        self.bytes.extend_from_slice(COMMIT);
        self.bytes.extend_from_slice(&crc.to_le_bytes());
        &self.bytes
    }
}

/// A committed group.
#[derive(Debug)]
pub struct Group<'a> {
    pub first: Lsn,
    pub count: u32,
    payload: &'a [u8],
    /// Where the next group starts.
    pub end: usize,
}

impl<'a> Group<'a> {
    /// The group that starts at `at` in a segment whose header was read; `None` if no complete one does.
    pub fn read(segment: &'a [u8], at: usize) -> Option<Self> {
        let head = segment.get(at..at + GROUP_HEAD_BYTES)?;
        if &head[..4] != GROUP {
            return None;
        }
        let payload_end = (at + GROUP_HEAD_BYTES).checked_add(u32_at(head, 4) as usize)?;
        let commit = segment.get(payload_end..payload_end.checked_add(COMMIT_BYTES)?)?;
        if &commit[..4] != COMMIT
            || u32_at(commit, 4) != crc32c::crc32c_append(u32_at(segment, SEED_AT), &segment[at..payload_end])
        {
            return None;
        }
        let (first, count) = (Lsn(u64_at(head, 8)), u32_at(head, 16));
        first.0.checked_add(count.into())?; // no log comes to the last number
        let payload = &segment[at + GROUP_HEAD_BYTES..payload_end];
        Some(Self { first, count, payload, end: payload_end + COMMIT_BYTES })
    }

    /// The encoded records. Fewer than it counts only if the group's checksum was right and its contents were not.
    pub fn records(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut rest = self.payload;
        let record = move || {
            let (len, tail) = rest.split_first_chunk::<4>()?;
            let (record, tail) = tail.split_at_checked(u32::from_le_bytes(*len) as usize)?;
            rest = tail;
            Some(record)
        };
        std::iter::from_fn(record).take(self.count as usize)
    }
}

/// True if a complete group starts anywhere at or behind `at`: then what is wrong at `at` is damage, not a torn write.
pub fn group_follows(segment: &[u8], at: usize) -> bool {
    let mut from = at;
    while let Some(found) = segment.get(from..).and_then(|rest| rest.windows(4).position(|w| w == GROUP)) {
        if Group::read(segment, from + found).is_some() {
            return true;
        }
        from += found + 1;
    }
    false
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
