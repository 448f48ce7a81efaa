//! Chunks become a flush: whole, in order, of the right sum, or not at all.

use std::{collections::HashMap, path::PathBuf};

use proto::{
    Message as _,
    uplink::{FlushChunk, FlushId, FlushRows, Outcomes},
};

use super::{CHUNK_BYTES_MAX, Ended, refused};
use crate::store::{Flush, Parts};

/// The flush of a stream that is on its way, if one is.
#[derive(Debug, Default)]
pub struct Assembly {
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    id: FlushId,
    term: u64,
    chunks: u32,
    crc32c: u32,
    parts: Parts,
    counts: Counts,
}

/// A flush that is whole.
#[derive(Debug)]
pub struct Whole {
    /// What the store takes.
    pub flush: Flush,
    /// What was seen of its rows as they came.
    pub counts: Counts,
}

/// What is known of rows without reading them again.
#[derive(Debug, Default)]
pub struct Counts {
    /// Rows of all kinds.
    pub rows: u64,
    /// Rows of each site.
    pub of_site: HashMap<String, u64>,
    /// Outcomes that no gateway had logged.
    pub outcomes: Vec<Outcomes>,
}

/// A chunk that does not continue what came before it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[allow(missing_docs, reason = "the message says it")]
pub enum Malformed {
    #[error("a chunk of a flush has no id")]
    NoId,
    #[error("chunk {got} of a flush came where chunk {expected} was due; send a flush from its chunk 0 on, in order")]
    Order { expected: u32, got: u32 },
    #[error("a chunk names another flush or term than chunk 0 of the same flush")]
    Mixed,
    #[error("a chunk has {0} bytes of rows; the most is {CHUNK_BYTES_MAX}")]
    ChunkTooLarge(usize),
    #[error("the rows of chunk {chunk} are not FlushRows: {reason}")]
    Rows { chunk: u32, reason: String },
    #[error("the last chunk counts {said} chunks and {got} came")]
    Chunks { said: u32, got: u32 },
    #[error("the last chunk counts {said} rows and {got} came")]
    RowCount { said: u64, got: u64 },
    #[error("the last chunk gives the checksum {said:08x} and the rows that came have {got:08x}")]
    Checksum { said: u32, got: u32 },
    #[error("a part could not be put aside: {0:?}")]
    Spool(std::io::ErrorKind),
}

impl From<Malformed> for Ended {
    fn from(malformed: Malformed) -> Self {
        match malformed {
            Malformed::Spool(kind) => Self::Spool(kind.into()),
            malformed => refused(malformed.to_string()),
        }
    }
}

impl Assembly {
    /// Takes the next chunk; the last one gives the flush. Chunk 0 begins anew, whatever was on its way. Parts of a large
    /// flush wait in the folder `spool`.
    pub fn add(&mut self, chunk: FlushChunk, spool: Option<&PathBuf>) -> Result<Option<Whole>, Malformed> {
        let begun = self.open.take();
        let id = chunk.id.ok_or(Malformed::NoId)?;
        let mut open = match begun {
            Some(open) if chunk.index > 0 => open,
            _ => Open {
                id: id.clone(),
                term: chunk.term,
                chunks: 0,
                crc32c: 0,
                parts: Parts::default(),
                counts: Counts::default(),
            },
        };
        if chunk.index != open.chunks {
            return Err(Malformed::Order { expected: open.chunks, got: chunk.index });
        }
        if id != open.id || chunk.term != open.term {
            return Err(Malformed::Mixed);
        }
        if chunk.rows.len() > CHUNK_BYTES_MAX {
            return Err(Malformed::ChunkTooLarge(chunk.rows.len()));
        }
        let crc32c = crc32c::crc32c_append(open.crc32c, &chunk.rows);
        if let Some(said) = chunk.end.as_ref().map(|end| end.crc32c).filter(|said| *said != crc32c) {
            return Err(Malformed::Checksum { said, got: crc32c });
        }
        let rows = FlushRows::decode(chunk.rows.as_slice())
            .map_err(|error| Malformed::Rows { chunk: chunk.index, reason: error.to_string() })?;
        open.counts.add(rows);
        open.parts.push(chunk.rows, spool).map_err(|error| Malformed::Spool(error.kind()))?;
        open.chunks += 1;
        open.crc32c = crc32c;

        let Some(end) = chunk.end else {
            self.open = Some(open);
            return Ok(None);
        };
        if end.chunks != open.chunks {
            return Err(Malformed::Chunks { said: end.chunks, got: open.chunks });
        }
        if end.rows != open.counts.rows {
            return Err(Malformed::RowCount { said: end.rows, got: open.counts.rows });
        }
        let Open { id, term, parts: rows, counts, .. } = open;
        let flush = Flush { id, term, rows, vector: end.vector, watermark_ms: end.watermark_ms, cut_ms: end.cut_ms };
        Ok(Some(Whole { flush, counts }))
    }
}

impl Counts {
    fn add(&mut self, rows: FlushRows) {
        let FlushRows { rollups, visits, uniques, ledger, outcomes } = rows;
        let sites = rollups.iter().map(|row| &row.site).chain(visits.iter().map(|row| &row.site));
        let sites = sites.chain(uniques.iter().map(|row| &row.site)).chain(ledger.iter().map(|row| &row.site));
        for site in sites {
            self.rows += 1;
            match self.of_site.get_mut(site) {
                Some(rows) => *rows += 1,
                None => drop(self.of_site.insert(site.clone(), 1)),
            }
        }
        self.rows += outcomes.len() as u64;
        self.outcomes.extend(outcomes);
    }
}

#[cfg(test)]
mod tests {
    use proto::uplink::{FlushEnd, LedgerRow, RollupRow};

    use super::*;

    fn rows(count: u32) -> FlushRows {
        FlushRows {
            rollups: (0..count).map(|minute| RollupRow { minute, ..RollupRow::default() }).collect(),
            ledger: vec![LedgerRow { events: 1, ..LedgerRow::default() }],
            ..FlushRows::default()
        }
    }

    /// A flush of three chunks.
    fn chunks() -> Vec<FlushChunk> {
        let parts: Vec<Vec<u8>> = (1..=3).map(|count| rows(count).encode_to_vec()).collect();
        let end = FlushEnd { chunks: 3, rows: 9, crc32c: crc32c::crc32c(&parts.concat()), ..FlushEnd::default() };
        let id = FlushId { region: "local".to_owned(), shard: 0, epoch: 1, n: 7 };
        let mut chunks: Vec<FlushChunk> = (0..)
            .zip(parts)
            .map(|(index, rows)| FlushChunk { id: Some(id.clone()), term: 3, index, rows, end: None })
            .collect();
        chunks[2].end = Some(end);
        chunks
    }

    fn assemble(chunks: Vec<FlushChunk>) -> Result<Option<Whole>, Malformed> {
        let mut assembly = Assembly::default();
        let mut whole = None;
        for chunk in chunks {
            assert!(whole.is_none());
            whole = assembly.add(chunk, None)?;
        }
        Ok(whole)
    }

    #[test]
    fn chunks_in_order_are_a_flush() {
        let whole = assemble(chunks()).unwrap().unwrap();
        assert_eq!((whole.flush.id.n, whole.flush.term), (7, 3));
        let parts: Vec<FlushRows> = whole.flush.rows.iter().collect::<Result<_, _>>().unwrap();
        assert_eq!(parts.iter().map(|part| part.rollups.len()).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!((whole.counts.rows, whole.counts.of_site[""]), (9, 9));
        assert!(assemble(chunks()[..2].to_vec()).unwrap().is_none());
    }

    #[test]
    fn a_flush_without_rows_is_one() {
        let id = Some(FlushId::default());
        let end = Some(FlushEnd { chunks: 1, ..FlushEnd::default() });
        let whole = assemble(vec![FlushChunk { id, end, ..FlushChunk::default() }]).unwrap().unwrap();
        assert_eq!((whole.flush.rows.bytes(), whole.counts.rows), (0, 0));
    }

    #[test]
    fn chunk_zero_begins_anew() {
        let mut twice = chunks()[..2].to_vec();
        twice.extend(chunks());
        assert_eq!(assemble(twice).unwrap().unwrap().counts.rows, 9);
    }

    #[test]
    fn what_is_not_that_flush_is_told_apart() {
        let wrong = |change: fn(&mut Vec<FlushChunk>)| {
            let mut chunks = chunks();
            change(&mut chunks);
            assemble(chunks).unwrap_err()
        };
        assert_eq!(wrong(|chunks| chunks[0].id = None), Malformed::NoId);
        assert_eq!(wrong(|chunks| drop(chunks.remove(1))), Malformed::Order { expected: 1, got: 2 });
        assert_eq!(wrong(|chunks| drop(chunks.remove(0))), Malformed::Order { expected: 0, got: 1 });
        assert_eq!(wrong(|chunks| chunks[1].term = 4), Malformed::Mixed);
        assert_eq!(wrong(|chunks| chunks[1].id.as_mut().unwrap().n = 8), Malformed::Mixed);
        let big = CHUNK_BYTES_MAX + 1;
        assert_eq!(wrong(|chunks| chunks[0].rows = vec![0; CHUNK_BYTES_MAX + 1]), Malformed::ChunkTooLarge(big));
        assert!(matches!(wrong(|chunks| chunks[1].rows = vec![0xff; 9]), Malformed::Rows { chunk: 1, .. }));
        assert!(matches!(wrong(|chunks| chunks[2].end.as_mut().unwrap().chunks = 2), Malformed::Chunks { .. }));
        assert!(matches!(wrong(|chunks| chunks[2].end.as_mut().unwrap().rows = 8), Malformed::RowCount { .. }));
        assert!(matches!(wrong(|chunks| chunks[2].end.as_mut().unwrap().crc32c ^= 1), Malformed::Checksum { .. }));
        assert!(matches!(wrong(|chunks| chunks[0].rows = rows(2).encode_to_vec()), Malformed::Checksum { .. }));
    }
}
