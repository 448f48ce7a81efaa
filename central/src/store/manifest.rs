//! What was accepted, in memory: which flush is the next of each shard, and which comes from the past.

use std::collections::BTreeMap;

use proto::uplink::GatewayPosition;

use crate::control::shards::ShardId;

use super::{Accepted, AcceptedOfAll, Flush, StoreError};

/// The flushes of all shards. An epoch's flushes are 0, 1, 2, …; a new epoch starts over.
#[derive(Default)]
pub(super) struct Manifest {
    shards: BTreeMap<(String, u32), Shard>,
    highest_src: u16,
}

#[derive(Default)]
struct Shard {
    epochs: BTreeMap<u64, Stream>,
    accepted: Accepted,
}

/// A shard in one epoch.
pub(super) struct Stream {
    pub(super) src: u16,
    /// The last flush, `None` before the first was accepted.
    pub(super) last: Option<Last>,
}

/// The last accepted flush of a stream.
#[derive(Clone)]
pub(super) struct Last {
    pub(super) n: u64,
    pub(super) term: u64,
}

/// What to do with a flush.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It was accepted before.
    Accepted,
    /// It is the next of a stream that has this number.
    Next(u16),
    /// It is the first of a stream that was never seen.
    First,
}

impl Manifest {
    pub(super) fn turn(&self, flush: &Flush) -> Result<Turn, StoreError> {
        let (id, shard) = (&flush.id, self.shards.get(&(flush.id.region.clone(), flush.id.shard)));
        let epochs = shard.map(|shard| &shard.epochs);
        if let Some((&current, _)) = epochs.and_then(BTreeMap::last_key_value)
            && id.epoch < current
        {
            return Err(StoreError::StaleEpoch { epoch: id.epoch, current });
        }
        let stream = epochs.and_then(|epochs| epochs.get(&id.epoch));
        let last = stream.and_then(|stream| stream.last.as_ref());
        if let Some(last) = last
            && flush.term < last.term
        {
            return Err(StoreError::StaleTerm { term: flush.term, current: last.term });
        }
        match (id.n, last.map_or(0, |last| last.n + 1), stream) {
            (n, expected, _) if n < expected => Ok(Turn::Accepted),
            (n, expected, _) if n > expected => Err(StoreError::Gap { n, expected }),
            (_, _, Some(stream)) => Ok(Turn::Next(stream.src)),
            (_, _, None) => Ok(Turn::First),
        }
    }

    /// Adds a stream and returns its number.
    pub(super) fn insert(&mut self, region: &str, shard: u32, epoch: u64, stream: Stream) {
        self.highest_src = self.highest_src.max(stream.src);
        let shard = self.shards.entry((region.to_owned(), shard)).or_default();
        if let Some(last) = stream.last.as_ref().filter(|_| epoch >= shard.accepted.epoch) {
            (shard.accepted.epoch, shard.accepted.next_flush) = (epoch, last.n + 1);
        }
        shard.epochs.insert(epoch, stream);
    }

    /// The number of the next new stream.
    pub(super) fn free_src(&self) -> Result<u16, StoreError> {
        let full = || StoreError::Config("65,535 epochs of shards are stored: no more can be told apart".to_owned());
        self.highest_src.checked_add(1).ok_or_else(full)
    }

    /// Counts in what flushes of a stream reached before, besides its last number.
    pub(super) fn reached(
        &mut self,
        region: &str,
        shard: u32,
        vector: impl IntoIterator<Item = GatewayPosition>,
        watermark_ms: u64,
        cut_ms: u64,
    ) {
        let accepted = &mut self.shards.entry((region.to_owned(), shard)).or_default().accepted;
        accepted.watermark_ms = accepted.watermark_ms.max(watermark_ms);
        accepted.cut_ms = accepted.cut_ms.max(cut_ms);
        vector.into_iter().for_each(|position| accepted.reach(&position));
    }

    pub(super) fn accept(&mut self, flush: &Flush) {
        let shard = self.shards.entry((flush.id.region.clone(), flush.id.shard)).or_default();
        if let Some(stream) = shard.epochs.get_mut(&flush.id.epoch) {
            stream.last = Some(Last { n: flush.id.n, term: flush.term });
            shard.accepted.advance(flush);
        }
    }

    pub(super) fn accepted(&self, region: &str, shard: u32) -> Accepted {
        self.shards.get(&(region.to_owned(), shard)).map(|shard| shard.accepted.clone()).unwrap_or_default()
    }

    pub(super) fn accepted_of_all(&self) -> AcceptedOfAll {
        let id = |(region, shard): &(String, u32)| ShardId { region: region.clone(), shard: *shard };
        let streams = self.shards.values().flat_map(|shard| shard.epochs.values());
        AcceptedOfAll {
            shards: self.shards.iter().map(|(key, shard)| (id(key), shard.accepted.clone())).collect(),
            flushes: streams.filter_map(|stream| Some((stream.src, stream.last.as_ref()?.n))).collect(),
        }
    }
}
