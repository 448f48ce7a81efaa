//! What a disk gives back instead of a log. Input: a byte of flags (1: the header's checksum is made right, 2: those of the groups too,
//! 4: two segments, cut in the middle), then the bytes of the segments. With right checksums the fuzzer gets behind them.

use std::fs;
use std::path::Path;

use gateway::delivery::log::Log;
use regional_redis::{Lsn, Shard};
use uuid::Uuid;

const GATEWAY: Uuid = Uuid::from_bytes(*b"a fuzzed gateway");
const SHARD: Shard = Shard(0);
/// As gateway/src/delivery/log/segment.rs describes them.
const HEADER_BYTES: usize = 64;
const FIRST_AT: usize = 32;
const SEED_AT: usize = 40;
const GROUP_HEAD_BYTES: usize = 20;
const COMMIT_BYTES: usize = 8;

/// Any bytes are records in order or a clean error; opened again, the log is the same.
pub fn run(bytes: &[u8]) {
    let Some((&flags, bytes)) = bytes.split_first() else { return };
    let folder = tempfile::tempdir().expect("a folder for the log");
    let middle = if flags & 4 == 0 { bytes.len() } else { bytes.len() / 2 };
    for segment in [&bytes[..middle], &bytes[middle..]] {
        if !segment.is_empty() {
            write_segment(folder.path(), segment.to_vec(), flags);
        }
    }
    let Ok(mut opened) = Log::open_with_segments(folder.path(), GATEWAY, SHARD, 4096) else { return };
    let (first, last) = (opened.first, opened.last);
    if first <= last {
        if let Ok(records) = opened.reader.read(first, last, usize::MAX) {
            assert!(records.iter().map(|logged| logged.lsn.0).eq(first.0..=last.0), "in order, without a hole");
        }
        // In two parts it is no other log.
        let _ = opened.reader.read(last, last, 1);
    }
    drop(opened);
    let again = Log::open_with_segments(folder.path(), GATEWAY, SHARD, 4096).expect("it was opened before");
    assert_eq!((again.first, again.last), (first, last), "opened again");
}

fn write_segment(folder: &Path, mut segment: Vec<u8>, flags: u8) {
    if flags & 1 != 0 {
        repair_header(&mut segment);
    }
    if flags & 2 != 0 {
        repair_groups(&mut segment);
    }
    let first =
        segment.get(FIRST_AT..).and_then(|rest| rest.first_chunk()).map_or(1, |first| u64::from_le_bytes(*first));
    fs::write(folder.join(format!("{:020}.log", Lsn(first).0)), segment).expect("room for a segment");
}

/// All but the first record's number, which the input gives.
fn repair_header(segment: &mut [u8]) {
    let Some(header) = segment.first_chunk_mut::<HEADER_BYTES>() else { return };
    header[..8].copy_from_slice(b"TIDELOG1");
    header[8..12].copy_from_slice(&1u32.to_le_bytes());
    header[12..16].copy_from_slice(&SHARD.0.to_le_bytes());
    header[16..32].copy_from_slice(GATEWAY.as_bytes());
    let seed = crc32c::crc32c(&header[..SEED_AT]);
    header[SEED_AT..SEED_AT + 4].copy_from_slice(&seed.to_le_bytes());
}

fn repair_groups(segment: &mut [u8]) {
    let Some(seed) = segment.get(SEED_AT..).and_then(|rest| rest.first_chunk()).map(|seed| u32::from_le_bytes(*seed))
    else {
        return;
    };
    let mut rest = segment.get_mut(HEADER_BYTES..).unwrap_or_default();
    while let Some(&[b'G', b'R', b'U', b'P', a, b, c, d]) = rest.first_chunk() {
        let payload_end = GROUP_HEAD_BYTES + u32::from_le_bytes([a, b, c, d]) as usize;
        let Some((group, behind)) = rest.split_at_mut_checked(payload_end + COMMIT_BYTES) else { return };
        let checksum = crc32c::crc32c_append(seed, &group[..payload_end]);
        group[payload_end..payload_end + 4].copy_from_slice(b"CMIT");
        group[payload_end + 4..].copy_from_slice(&checksum.to_le_bytes());
        rest = behind;
    }
}
