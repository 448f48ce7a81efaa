//! A batch, from its bytes to its record. Input: the region's clock and the device's (Unix ms, little endian, 8 bytes each), then an
//! encoded `Batch`.

use gateway::ingest::recorded;
use gateway::ingest::source;
use gateway::ingest::validate::{
    BatchHead, Clocks, Rules, Undecodable, ValidEvent, Validated, decode_batch, identity, pace, personal_data, refuse,
    validate,
};
use proto::Message;
use proto::agent::{Batch, GivenUp, Reason};
use proto::limits;
use proto::record::{Dropped, Record};

/// What the events of a batch may take in its record.
const EVENTS_BYTES_MAX: usize = 1024 * 1024;
/// What else is in a record. Central leaves 64 KiB for it, or a batch could never leave as a raw row.
const BESIDE_EVENTS_BYTES_MAX: usize = 16 * 1024;
const HOUR_MS: u64 = 60 * 60 * 1000;

/// Every event of a batch is counted once or dropped once, and what is counted fits its bounds.
pub fn run(bytes: &[u8]) {
    let Some((arrived_ms, rest)) = bytes.split_first_chunk() else { return };
    let Some((sent_ms, batch)) = rest.split_first_chunk() else { return };
    let clocks = Clocks { arrived_ms: u64::from_le_bytes(*arrived_ms), sent_ms: u64::from_le_bytes(*sent_ms) };
    match decode_batch(batch) {
        Ok(batch) => decoded(&batch, clocks),
        Err(Undecodable::InvalidUtf8(head)) => refused_whole(&head, clocks),
        Err(Undecodable::Malformed) => {}
    }
}

fn decoded(batch: &Batch, clocks: Clocks) {
    let valid = validate(batch, clocks, &Rules::default());
    let dropped = events_of_the_batch(&valid.dropped);
    assert_eq!(valid.events.len() as u64 + dropped, batch.events.len() as u64, "events + dropped = the batch's");
    assert_eq!(given_up(&valid.dropped), reported(&batch.given_up), "what the agent gave up is in the ledger");
    assert!(valid.refused.is_none() || valid.events.is_empty(), "a refused batch counts nothing");
    assert!(valid.events.iter().is_sorted_by(|a, b| a.index < b.index), "in the order of the batch, each once");
    valid.events.iter().for_each(|event| fits(event, batch, clocks));
    let reason = if pace::is_impossible(batch) { Reason::ImpossibleTiming } else { Reason::Bot };
    let refused = refuse(batch, reason);
    assert_eq!(events_of_the_batch(&refused.dropped), batch.events.len() as u64, "all of a program's are dropped");
    assert_eq!(given_up(&refused.dropped), reported(&batch.given_up), "and what the agent gave up is in the ledger");
    if identified(&batch.sid, batch.seq, batch.class, clocks) {
        record_fits(batch, &valid, clocks);
    }
}

fn refused_whole(head: &BatchHead, clocks: Clocks) {
    let dropped = head.dropped(Reason::InvalidUtf8);
    assert_eq!(events_of_the_batch(&dropped), u64::from(head.events), "all of its events are dropped");
    assert_eq!(given_up(&dropped), reported(&head.given_up), "what the agent gave up is in the ledger");
    identified(&head.sid, head.seq, head.class, clocks);
}

/// Whether the batch can be remembered.
fn identified(sid: &[u8], seq: u32, class: i32, Clocks { arrived_ms, .. }: Clocks) -> bool {
    let Ok((remembered, number)) = identity(sid, seq, class, arrived_ms) else { return false };
    assert_eq!((remembered.as_bytes().as_slice(), number), (sid, seq), "a batch is remembered by its own name");
    assert!((1..=limits::SEQ_MAX).contains(&number));
    assert!(remembered.stamp_ms() <= arrived_ms.saturating_add(limits::SID_AHEAD_MS));
    assert!(arrived_ms <= remembered.stamp_ms() + limits::ACCEPT_LONG_MS);
    true
}

fn fits(event: &ValidEvent<'_>, batch: &Batch, clocks: Clocks) {
    let recorded = recorded(event);
    assert!((event.index as usize) < batch.events.len());
    assert!((1..=limits::EVENT_NAME_BYTES_MAX).contains(&recorded.name.len()));
    assert!(!recorded.name.contains(char::is_control));
    assert!(recorded.at_ms <= clocks.arrived_ms, "nothing has happened after its arrival");
    assert!(clocks.arrived_ms - recorded.at_ms <= limits::ACCEPT_LONG_MS);
    assert!(!recorded.hostname.is_empty() && !recorded.hostname.contains(|c: char| c.is_ascii_uppercase()));
    assert!(recorded.hostname.is_ascii() && recorded.path.is_ascii());
    assert!(recorded.path.starts_with('/') && recorded.path.len() <= limits::URL_BYTES_MAX);
    assert!(recorded.props.len().is_multiple_of(2) && recorded.props.len() <= 2 * limits::PROPS_MAX);
    for pair in recorded.props.chunks(2) {
        assert!((1..=limits::PROP_KEY_BYTES_MAX).contains(&pair[0].len()));
        assert!(pair[1].len() <= limits::PROP_VALUE_BYTES_MAX);
        assert!(pair.iter().all(|text| !text.contains(char::is_control)));
    }
    for text in recorded.props.iter().chain([&recorded.name, &recorded.path]) {
        assert_eq!(personal_data::redact(text), text.as_str(), "a site without rules keeps no address");
    }
    assert!(u64::from(recorded.engaged_ms) <= HOUR_MS);
}

fn record_fits(batch: &Batch, valid: &Validated<'_>, clocks: Clocks) {
    let events = Record { events: valid.events.iter().map(recorded).collect(), ..Record::default() };
    let beside = Record {
        sid: batch.sid.clone(),
        seq: batch.seq,
        arrived_ms: clocks.arrived_ms,
        dropped: valid.dropped.clone(),
        dimensions: valid.events.first().map(|first| source::attribute(&first.page.url, first.referrer.as_deref())),
        ..Record::default()
    };
    assert!(events.encoded_len() <= EVENTS_BYTES_MAX, "{} bytes of events", events.encoded_len());
    assert!(valid.screen.len() + valid.language.len() < 100);
    assert!(beside.encoded_len() < BESIDE_EVENTS_BYTES_MAX, "{} bytes beside the events", beside.encoded_len());
}

fn events_of_the_batch(dropped: &[Dropped]) -> u64 {
    dropped.iter().filter(|row| !row.given_up).map(|row| u64::from(row.events)).sum()
}

fn given_up(dropped: &[Dropped]) -> (u64, u64) {
    let rows = dropped.iter().filter(|row| row.given_up);
    rows.fold((0, 0), |sum, row| (sum.0 + u64::from(row.events), sum.1 + u64::from(row.batches)))
}

/// A count that would pass what a row holds stays at its end.
fn reported(reports: &[GivenUp]) -> (u64, u64) {
    let of = |reason: i32| match Reason::try_from(reason) {
        Ok(Reason::Unspecified) | Err(_) => Reason::Malformed,
        Ok(reason) => reason,
    };
    let mut sums = std::collections::BTreeMap::<i32, (u32, u32)>::new();
    for report in reports {
        let (events, batches) = sums.entry(of(report.reason) as i32).or_default();
        *events = events.saturating_add(report.events);
        *batches = batches.saturating_add(report.batches);
    }
    sums.values().fold((0, 0), |sum, row| (sum.0 + u64::from(row.0), sum.1 + u64::from(row.1)))
}
