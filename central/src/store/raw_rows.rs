//! Raw rows as blocks of `batches` and `events`.

use proto::limits::{EVENTS_MAX, PAGEVIEW};
use proto::record::{Dropped, Record, RecordedEvent};

use super::native::Block;
use super::raw::Placed;
use super::rows::{BLOCK_ROWS, sid, stamp};

/// A shard's: before it there was none.
const FIRST_EPOCH: u64 = 1;

pub(super) fn batches(rows: &[Placed]) -> impl Iterator<Item = Block> {
    rows.chunks(BLOCK_ROWS).map(|rows| {
        let counts: Vec<Counts> = rows.iter().map(Counts::of).collect();
        let records = || rows.iter().map(|placed| &placed.row.record);
        let rows_of = || rows.iter().map(|placed| &placed.row);
        let lists = |given_up: bool, of: fn(&Dropped) -> u32| -> Vec<Vec<u32>> {
            let list = |record: &Record| {
                record.dropped.iter().filter(|dropped| dropped.given_up == given_up).map(of).collect()
            };
            records().map(list).collect()
        };
        let block = Block::of(rows.len())
            .text("site", records().map(|record| record.site.as_str()))
            .time("stamp", records().map(|record| stamp(&record.sid)))
            .bytes16("sid", records().map(|record| sid(&record.sid)))
            .u32("seq", records().map(|record| record.seq))
            .u8("class", records().map(|record| u8::try_from(record.class).unwrap_or(u8::MAX)))
            .text("gateway", rows.iter().map(|placed| &*placed.gateway))
            .u32("shard", rows.iter().map(|placed| placed.shard))
            .u64("lsn", rows_of().map(|row| row.lsn))
            .u64("epoch", rows_of().map(|row| row.epoch))
            .u64("arrived_ms", records().map(|record| record.arrived_ms))
            .u64("visitor", records().map(|record| record.visitor))
            .bytes16("visit_sid", rows_of().map(|row| row.visit.map_or([0; 16], |(sid, _)| sid)))
            .u32("visit_seq", rows_of().map(|row| row.visit.map_or(0, |(_, seq)| seq)))
            .u32("events", counts.iter().map(|counts| counts.pageviews + counts.custom_events))
            .u32("pageviews", counts.iter().map(|counts| counts.pageviews))
            .u32("custom_events", counts.iter().map(|counts| counts.custom_events))
            .u64("engaged_ms", counts.iter().map(|counts| counts.engaged_ms));
        [
            ("dropped_reasons", lists(false, |dropped| dropped.reason)),
            ("dropped_events", lists(false, |dropped| dropped.events)),
            ("given_up_reasons", lists(true, |dropped| dropped.reason)),
            ("given_up_events", lists(true, |dropped| dropped.events)),
            ("given_up_batches", lists(true, |dropped| dropped.batches)),
        ]
        .iter()
        .fold(block, |block, (name, lists)| block.u32_lists(name, lists.iter().map(Vec::as_slice)))
    })
}

/// What was counted of a batch.
#[derive(Default)]
struct Counts {
    pageviews: u32,
    custom_events: u32,
    engaged_ms: u64,
}

impl Counts {
    fn of(placed: &Placed) -> Self {
        let mut counts = Self::default();
        for event in placed.row.record.events.iter().filter(|_| placed.row.visit.is_some()) {
            match event.name == PAGEVIEW {
                true => counts.pageviews += 1,
                false => counts.custom_events += 1,
            }
            counts.engaged_ms += u64::from(event.engaged_ms);
        }
        counts
    }
}

pub(super) fn events(rows: &[Placed]) -> impl Iterator<Item = Block> {
    let mut rest = rows.iter().flat_map(indices).peekable();
    std::iter::from_fn(move || {
        rest.peek()?;
        let rows: Vec<Indexed> = rest.by_ref().take(BLOCK_ROWS).collect();
        Some(block(&rows))
    })
}

/// An index of a batch; `None` if its event was dropped.
struct Indexed<'a> {
    placed: &'a Placed,
    index: u32,
    event: Option<&'a RecordedEvent>,
}

/// The events that were counted. Behind the first epoch also every other index that the batch had: an older outcome may have
/// counted it, and only a row replaces a row.
fn indices(placed: &Placed) -> Vec<Indexed<'_>> {
    let record = &placed.row.record;
    if placed.row.epoch <= FIRST_EPOCH {
        let counted =
            record.events.iter().filter(|event| placed.row.visit.is_some() && event.index < EVENTS_MAX as u32);
        return counted.map(|event| Indexed { placed, index: event.index, event: Some(event) }).collect();
    }
    let dropped = record.dropped.iter().filter(|dropped| !dropped.given_up).map(|dropped| dropped.events as usize);
    let logged = record.events.iter().map(|event| event.index as usize + 1).max().unwrap_or(0);
    let count = dropped.fold(record.events.len(), usize::saturating_add).max(logged).min(EVENTS_MAX);
    let mut indices: Vec<Indexed<'_>> = (0..count as u32).map(|index| Indexed { placed, index, event: None }).collect();
    if placed.row.visit.is_some() {
        for event in &record.events {
            if let Some(indexed) = indices.get_mut(event.index as usize) {
                indexed.event = Some(event);
            }
        }
    }
    indices
}

fn block(rows: &[Indexed<'_>]) -> Block {
    let none = RecordedEvent::default();
    let records = || rows.iter().map(|row| &row.placed.row.record);
    let events = || rows.iter().map(|row| row.event.unwrap_or(&none));
    let raw = || rows.iter().map(|row| &row.placed.row);
    // Key and value in turn; a key without a value would be one too many.
    let props = |which: usize| -> Vec<Vec<String>> {
        let list = |event: &RecordedEvent| event.props.chunks_exact(2).map(|pair| pair[which].clone()).collect();
        events().map(list).collect()
    };
    let (keys, values) = (props(0), props(1));
    Block::of(rows.len())
        .text("site", records().map(|record| record.site.as_str()))
        .time("stamp", records().map(|record| stamp(&record.sid)))
        .bytes16("sid", records().map(|record| sid(&record.sid)))
        .u32("seq", records().map(|record| record.seq))
        .u32("idx", rows.iter().map(|row| row.index))
        .u64("epoch", raw().map(|row| row.epoch))
        .u8("counted", rows.iter().map(|row| u8::from(row.event.is_some())))
        .u64("at_ms", events().map(|event| event.at_ms))
        .text("name", events().map(|event| event.name.as_str()))
        .text("hostname", events().map(|event| event.hostname.as_str()))
        .text("path", events().map(|event| event.path.as_str()))
        .text_lists("prop_keys", keys.iter().map(Vec::as_slice))
        .text_lists("prop_values", values.iter().map(Vec::as_slice))
        .u64("engaged_ms", events().map(|event| u64::from(event.engaged_ms)))
        .u64("visitor", records().map(|record| record.visitor))
        .bytes16("visit_sid", raw().map(|row| row.visit.map_or([0; 16], |(sid, _)| sid)))
        .u32("visit_seq", raw().map(|row| row.visit.map_or(0, |(_, seq)| seq)))
}
