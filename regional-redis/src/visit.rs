//! The packed state of a visit, as `functions.lua` writes it.

use proto::Message;
use proto::uplink::{VisitDimensions, VisitRow};

use crate::counter::UnknownField;

/// Numbers before the strings: three times 8, twice 4, then 8 × 4, then four lengths of 2.
const HEAD_BYTES: usize = 8 + 8 + 4 + 4 + 8 + 8 + 8 + 8 + 2 * 4;

/// The batch that opened a visit: its sid and seq, 20 bytes.
pub fn visit_id(sid: &[u8; 16], seq: u32) -> [u8; 20] {
    let mut id = [0; 20];
    id[..16].copy_from_slice(sid);
    id[16..].copy_from_slice(&seq.to_be_bytes());
    id
}

/// The name of a visitor's running visit.
pub fn visit_key(site: &str, visitor: u64) -> String {
    format!("{site}:{visitor:016x}")
}

/// A row for central from one packed state.
pub fn unpack(state: &[u8]) -> Result<VisitRow, UnknownField> {
    parse(state).ok_or_else(|| UnknownField(state.to_vec()))
}

fn parse(state: &[u8]) -> Option<VisitRow> {
    let (head, mut strings) = state.split_first_chunk::<HEAD_BYTES>()?;
    let u64_at = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
    let u32_at = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
    let len_at = |at: usize| usize::from(u16::from_le_bytes([head[at], head[at + 1]]));
    let mut take = |len: usize| {
        let (taken, rest) = strings.split_at_checked(len)?;
        strings = rest;
        Some(taken)
    };
    let (id, key, entry, exit) = (take(len_at(56))?, take(len_at(58))?, take(len_at(60))?, take(len_at(62))?);
    let (sid, seq) = id.split_last_chunk::<4>()?;
    let (site, visitor) = std::str::from_utf8(key).ok()?.rsplit_once(':')?;
    Some(VisitRow {
        site: site.to_owned(),
        sid: sid.to_vec(),
        seq: u32::from_be_bytes(*seq),
        visitor: u64::from_str_radix(visitor, 16).ok()?,
        version: u64_at(32),
        start_ms: u64_at(0),
        last_ms: u64_at(8),
        pageviews: u32_at(16),
        events: u32_at(20),
        engaged_ms: u64_at(24),
        entry_page: String::from_utf8(entry.to_vec()).ok()?,
        exit_page: String::from_utf8(exit.to_vec()).ok()?,
        dimensions: Some(VisitDimensions::decode(strings).ok()?),
        entry_ms: u64_at(40),
        exit_ms: u64_at(48),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = unpack(&bytes);
        }
    }
}
