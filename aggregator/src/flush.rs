//! The rows of a bucket, in chunks as they travel.

use std::iter::Peekable;

use proto::Message;
use proto::uplink::{FlushRows, LedgerRow, Outcomes, RollupRow, UniqueRow, VisitRow};

/// Bytes of rows in one chunk; central takes no more.
pub const CHUNK_BYTES_MAX: usize = 1 << 20;
/// Visitors in one row, 256 KiB of them: a busy quarter of an hour becomes several rows of one key.
const VISITORS_MAX: usize = 32 * 1024;
/// Outcomes in one row, of 36 bytes each at most: 576 KiB.
const OUTCOMES_MAX: usize = 16 * 1024;

/// Encoded rows.
#[derive(Debug, PartialEq, Eq)]
pub struct Chunk {
    /// An encoded `FlushRows`.
    pub bytes: Vec<u8>,
    /// How many rows it holds.
    pub rows: u64,
}

/// The rows in chunks of at most [`CHUNK_BYTES_MAX`]: the same rows give the same chunks. There is at least one.
pub fn chunks(rows: FlushRows) -> impl Iterator<Item = Chunk> {
    let FlushRows { rollups, visits, uniques, ledger, outcomes } = rows;
    let rollups = rollups.into_iter().map(Row::Rollup);
    let visits = visits.into_iter().map(Row::Visit);
    let uniques = uniques.into_iter().flat_map(split).map(Row::Unique);
    let ledger = ledger.into_iter().map(Row::Ledger);
    let outcomes = outcomes.into_iter().flat_map(split_outcomes).map(Row::Outcomes);
    let mut rows = rollups.chain(visits).chain(uniques).chain(ledger).chain(outcomes).peekable();
    let mut begun = false;
    std::iter::from_fn(move || {
        if begun && rows.peek().is_none() {
            return None;
        }
        begun = true;
        Some(next_chunk(&mut rows))
    })
}

fn next_chunk(rows: &mut Peekable<impl Iterator<Item = Row>>) -> Chunk {
    let (mut chunk, mut bytes, mut count) = (FlushRows::default(), 0, 0);
    // Redis takes no string over 64 KiB, so every row fits into a chunk.
    while let Some(row) = rows.next_if(|row| count == 0 || bytes + row.encoded_len() <= CHUNK_BYTES_MAX) {
        bytes += row.encoded_len();
        count += 1;
        match row {
            Row::Rollup(row) => chunk.rollups.push(row),
            Row::Visit(row) => chunk.visits.push(row),
            Row::Unique(row) => chunk.uniques.push(row),
            Row::Ledger(row) => chunk.ledger.push(row),
            Row::Outcomes(row) => chunk.outcomes.push(row),
        }
    }
    Chunk { bytes: chunk.encode_to_vec(), rows: count }
}

#[allow(clippy::large_enum_variant, reason = "one lives at a time")]
enum Row {
    Rollup(RollupRow),
    Visit(VisitRow),
    Unique(UniqueRow),
    Ledger(LedgerRow),
    Outcomes(Outcomes),
}

impl Row {
    /// As a field of `FlushRows`: a byte of tag, the length, the row.
    fn encoded_len(&self) -> usize {
        let len = match self {
            Self::Rollup(row) => row.encoded_len(),
            Self::Visit(row) => row.encoded_len(),
            Self::Unique(row) => row.encoded_len(),
            Self::Ledger(row) => row.encoded_len(),
            Self::Outcomes(row) => row.encoded_len(),
        };
        1 + prost::length_delimiter_len(len) + len
    }
}

fn split(row: UniqueRow) -> Vec<UniqueRow> {
    if row.visitors.len() <= VISITORS_MAX {
        return vec![row];
    }
    let part = |visitors: &[u64]| UniqueRow {
        site: row.site.clone(),
        kind: row.kind,
        value: row.value.clone(),
        quarter: row.quarter,
        visitors: visitors.to_vec(),
    };
    row.visitors.chunks(VISITORS_MAX).map(part).collect()
}

/// Parts follow each other without a hole: a record that none of them names was a duplicate.
fn split_outcomes(row: Outcomes) -> Vec<Outcomes> {
    if row.counted.len() <= OUTCOMES_MAX {
        return vec![row];
    }
    let mut parts: Vec<Outcomes> = Vec::with_capacity(row.counted.len() / OUTCOMES_MAX + 1);
    for counted in row.counted.chunks(OUTCOMES_MAX) {
        let prev = parts.last().map_or(row.prev, |part| part.last);
        let last = counted.last().map_or(row.last, |outcome| outcome.lsn);
        let (gateway, counted) = (row.gateway.clone(), counted.to_vec());
        parts.push(Outcomes { gateway, epoch: row.epoch, prev, last, counted });
    }
    if let Some(part) = parts.last_mut() {
        part.last = row.last;
    }
    parts
}

#[cfg(test)]
mod tests {
    use proto::uplink::Outcome;

    use super::*;

    fn joined(chunks: &[Chunk]) -> FlushRows {
        let mut all = FlushRows::default();
        for chunk in chunks {
            all.merge(chunk.bytes.as_slice()).unwrap();
        }
        all
    }

    #[test]
    fn no_rows_are_one_empty_chunk() {
        assert_eq!(chunks(FlushRows::default()).collect::<Vec<_>>(), [Chunk { bytes: vec![], rows: 0 }]);
    }

    #[test]
    fn many_rows_of_every_kind_arrive_in_chunks_that_central_takes() {
        let site = || "shop".to_owned();
        let rows = FlushRows {
            rollups: (0..1500)
                .map(|minute| RollupRow { site: site(), value: "/".repeat(2000), minute, ..Default::default() })
                .collect(),
            visits: (0..1500)
                .map(|seq| VisitRow { site: site(), entry_page: "/".repeat(2000), seq, ..Default::default() })
                .collect(),
            uniques: vec![UniqueRow { site: site(), visitors: vec![7], ..Default::default() }],
            ledger: vec![LedgerRow { site: site(), events: 1, ..Default::default() }],
            outcomes: vec![Outcomes { gateway: "g".into(), last: 9, ..Default::default() }],
        };
        let chunks: Vec<_> = chunks(rows.clone()).collect();
        assert_eq!(joined(&chunks), rows);
        assert_eq!(chunks.iter().map(|chunk| chunk.rows).sum::<u64>(), 3003);
        assert!(chunks.iter().all(|chunk| chunk.bytes.len() <= CHUNK_BYTES_MAX));
        let (last, full) = chunks.split_last().unwrap();
        assert!(full.iter().all(|chunk| chunk.bytes.len() > CHUNK_BYTES_MAX - 3000), "no chunk is cut short");
        assert!(last.rows > 0);
    }

    #[test]
    fn a_row_of_very_many_visitors_is_split() {
        let visitors: Vec<u64> = (0..1_000_000).collect();
        let row = UniqueRow { site: "shop".into(), quarter: 3, visitors: visitors.clone(), ..Default::default() };
        let chunks: Vec<_> = chunks(FlushRows { uniques: vec![row], ..Default::default() }).collect();
        assert!(chunks.iter().all(|chunk| chunk.bytes.len() <= CHUNK_BYTES_MAX));
        let parts = joined(&chunks).uniques;
        assert!(parts.iter().all(|part| (part.site.as_str(), part.quarter) == ("shop", 3)));
        assert_eq!(parts.into_iter().flat_map(|part| part.visitors).collect::<Vec<_>>(), visitors);
    }

    #[test]
    fn many_outcomes_are_split_by_the_records_that_they_cover() {
        let outcome = |i: u64| Outcome { lsn: u64::MAX / 2 + 2 * i, visit: vec![7; 20] };
        let row = Outcomes {
            gateway: "g".into(),
            epoch: u64::MAX,
            prev: u64::MAX / 2 - 9,
            last: u64::MAX - 1,
            counted: (0..50_000).map(outcome).collect(),
        };
        let chunks: Vec<_> = chunks(FlushRows { outcomes: vec![row.clone()], ..Default::default() }).collect();
        assert!(chunks.len() > 1 && chunks.iter().all(|chunk| chunk.bytes.len() <= CHUNK_BYTES_MAX));
        let parts = joined(&chunks).outcomes;
        assert_eq!(parts.len() as u64, chunks.iter().map(|chunk| chunk.rows).sum::<u64>());
        let mut prev = row.prev;
        for part in &parts {
            assert_eq!((part.prev, &part.gateway, part.epoch), (prev, &row.gateway, row.epoch));
            assert!(part.counted.iter().all(|it| it.lsn > part.prev && it.lsn <= part.last));
            prev = part.last;
        }
        assert_eq!(prev, row.last);
        assert_eq!(parts.into_iter().flat_map(|part| part.counted).collect::<Vec<_>>(), row.counted);
    }

    #[test]
    fn the_same_rows_give_the_same_bytes() {
        let rows = FlushRows {
            rollups: (0..99).map(|minute| RollupRow { minute, ..Default::default() }).collect(),
            ..Default::default()
        };
        assert!(chunks(rows.clone()).eq(chunks(rows)));
    }
}
