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

/// The name under which a visitor's visits are kept.
pub fn visit_key(site: &str, visitor: u64) -> String {
    format!("{site}:{visitor:016x}")
}

/// A row for central from one packed state.
pub fn unpack(state: &[u8]) -> Result<VisitRow, UnknownField> {
    parse(state).ok_or_else(|| UnknownField(state.to_vec()))
}

/// The name and the packed state of a visit that central gives back. `None`: a string too long for a state of Redis.
pub fn pack(row: &VisitRow) -> Option<(String, Vec<u8>)> {
    let key = visit_key(&row.site, row.visitor);
    let id = [row.sid.as_slice(), &row.seq.to_be_bytes()].concat();
    let strings = [id.as_slice(), key.as_bytes(), row.entry_page.as_bytes(), row.exit_page.as_bytes()];
    let mut state = Vec::new();
    state.extend(row.start_ms.to_le_bytes());
    state.extend(row.last_ms.to_le_bytes());
    state.extend(row.pageviews.to_le_bytes());
    state.extend(row.events.to_le_bytes());
    for number in [row.engaged_ms, row.version, row.entry_ms, row.exit_ms] {
        state.extend(number.to_le_bytes());
    }
    for string in strings {
        state.extend(u16::try_from(string.len()).ok()?.to_le_bytes());
    }
    state.extend(strings.concat());
    state.extend(row.dimensions.clone().unwrap_or_default().encode_to_vec());
    Some((key, state))
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

        #[test]
        fn what_central_gives_back_is_what_it_was_given(
            numbers in any::<(u64, u64, u32, u32, u64, u64)>(),
            times in any::<(u64, u64)>(),
            pages in ("[a-z/é]{0,9}", "[a-z/]{0,9}"),
            id in any::<([u8; 16], u32, u64)>(),
        ) {
            let (start_ms, last_ms, pageviews, events, engaged_ms, version) = numbers;
            let row = VisitRow {
                site: "shop:1".into(),
                sid: id.0.to_vec(),
                seq: id.1,
                visitor: id.2,
                version,
                start_ms,
                last_ms,
                pageviews,
                events,
                engaged_ms,
                entry_page: pages.0,
                exit_page: pages.1,
                dimensions: Some(VisitDimensions { source: "Google".into(), ..Default::default() }),
                entry_ms: times.0,
                exit_ms: times.1,
            };
            let (key, state) = pack(&row).unwrap();
            prop_assert_eq!(key, visit_key(&row.site, row.visitor));
            prop_assert_eq!(unpack(&state).unwrap(), row);
        }
    }
}
