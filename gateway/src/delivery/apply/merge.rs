//! Many records into one call. A pure function of the records, so that a repeat of the call is the same call.

use std::collections::{HashMap, HashSet};

use proto::Message;
use proto::agent::Reason;
use proto::limits::PAGEVIEW;
use proto::record::{Record, RecordedEvent};
use proto::sid::Sid;
use proto::uplink::Kind;
use regional_redis::Lsn;
use regional_redis::apply::{Batch, Call, VisitStep};
use regional_redis::counter::{Counter, Metric, Sighting, Tally};
use regional_redis::visit::{visit_id, visit_key};

use crate::controls;
use crate::delivery::log::Logged;

const MINUTE_MS: u64 = 60 * 1000;
const QUARTER_MS: u64 = 15 * MINUTE_MS;
const DAY_MS: u64 = 24 * 60 * MINUTE_MS;

/// Merges `records`, which follow `prev` without a hole. Those in `duplicates`, and repeats among the records, count as
/// duplicate transmissions and as nothing else.
pub fn merge(prev: Lsn, records: &[Logged], duplicates: &HashSet<Lsn>) -> Call {
    let mut call = Call { prev, last: records.last().map_or(prev, |logged| logged.lsn), ..Default::default() };
    let mut named = HashSet::with_capacity(records.len());
    let mut sightings = HashSet::new();
    for Logged { lsn, record, .. } in records {
        let Ok(sid) = Sid::try_new(&record.sid) else { continue }; // validated before it was logged
        if duplicates.contains(lsn) || !named.insert((sid, record.seq)) && controls::keeps("2-fold") {
            add_ledger(&mut call.counters, record, Reason::Unspecified, Tally::Duplicates, 1);
            continue;
        }
        call.batches.push(Batch { class: record.class, sid, seq: record.seq, lsn: *lsn });
        if let Some(step) = visit_step(*lsn, sid, record) {
            call.visits.push(step);
        }
        for event in &record.events {
            add_event(&mut call.counters, &mut sightings, record, event);
        }
        add_to_ledger(&mut call.counters, record);
    }
    call.uniques = sightings.iter().map(Sighting::to_member).collect();
    call
}

fn add_event(
    counters: &mut HashMap<Vec<u8>, u64>,
    sightings: &mut HashSet<Sighting>,
    record: &Record,
    event: &RecordedEvent,
) {
    let is_pageview = event.name == PAGEVIEW;
    let (kind, value, metric) = if is_pageview {
        (Kind::Page, &event.path, Metric::Pageviews)
    } else {
        (Kind::Event, &event.name, Metric::Events)
    };
    let minute = u32::try_from(event.at_ms / MINUTE_MS).unwrap_or(u32::MAX);
    let mut add = |kind, value: &str, metric, increment| {
        let site = record.site.clone();
        *counters
            .entry(Counter::Rollup { kind, metric, minute, site, value: value.to_owned() }.to_field())
            .or_default() += increment;
    };
    add(Kind::Total, "", metric, 1);
    add(kind, value, metric, 1);
    if !is_pageview {
        add(Kind::Page, &event.path, metric, 1); // what happens on a page is counted there too
    }
    if event.engaged_ms > 0 {
        add(Kind::Total, "", Metric::EngagedMs, u64::from(event.engaged_ms));
        add(Kind::Page, &event.path, Metric::EngagedMs, u64::from(event.engaged_ms));
    }
    let quarter = u32::try_from(event.at_ms / QUARTER_MS).unwrap_or(u32::MAX);
    sightings.insert(Sighting {
        kind,
        quarter,
        site: record.site.clone(),
        value: value.clone(),
        visitor: record.visitor,
    });
}

/// sent = counted + dropped, over distinct batches.
fn add_to_ledger(counters: &mut HashMap<Vec<u8>, u64>, record: &Record) {
    add_ledger(counters, record, Reason::Unspecified, Tally::Events, record.events.len() as u64);
    add_ledger(counters, record, Reason::Unspecified, Tally::Batches, 1);
    for dropped in &record.dropped {
        let reason = i32::try_from(dropped.reason)
            .ok()
            .and_then(|reason| Reason::try_from(reason).ok())
            .unwrap_or(Reason::Malformed);
        add_ledger(counters, record, reason, Tally::Events, u64::from(dropped.events));
        add_ledger(counters, record, reason, Tally::Batches, u64::from(dropped.batches));
    }
}

fn add_ledger(counters: &mut HashMap<Vec<u8>, u64>, record: &Record, reason: Reason, tally: Tally, increment: u64) {
    if increment > 0 {
        let day = u32::try_from(record.arrived_ms / DAY_MS).unwrap_or(u32::MAX);
        let field = Counter::Ledger { reason, tally, day, site: record.site.clone() }.to_field();
        *counters.entry(field).or_default() += increment;
    }
}

fn visit_step(lsn: Lsn, sid: Sid, record: &Record) -> Option<VisitStep> {
    let first_ms = record.events.iter().map(|event| event.at_ms).min()?;
    let last_ms = record.events.iter().map(|event| event.at_ms).max()?;
    let pageviews = || record.events.iter().filter(|event| event.name == PAGEVIEW);
    let page = |event: &RecordedEvent| (event.at_ms, event.path.clone());
    let count = u32::try_from(pageviews().count()).unwrap_or(u32::MAX);
    Some(VisitStep {
        lsn,
        key: visit_key(&record.site, record.visitor),
        other_key: Some(record.visitor_across_midnight)
            .filter(|other| *other != 0 && *other != record.visitor)
            .map(|other| visit_key(&record.site, other)),
        id: visit_id(sid.as_bytes(), record.seq),
        first_ms,
        last_ms,
        pageviews: count,
        events: u32::try_from(record.events.len()).unwrap_or(u32::MAX) - count,
        engaged_ms: record.events.iter().map(|event| u64::from(event.engaged_ms)).sum(),
        entry: pageviews().min_by_key(|event| event.at_ms).map(page), // the first of equals
        exit: pageviews().max_by_key(|event| event.at_ms).map(page),  // the last of equals
        dimensions: record.dimensions.as_ref().map(Message::encode_to_vec).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event(name: &str, path: &str, at_ms: u64) -> RecordedEvent {
        RecordedEvent { name: name.into(), path: path.into(), at_ms, ..Default::default() }
    }

    fn logged(lsn: u64, seq: u32, events: Vec<RecordedEvent>) -> Logged {
        let sid = Sid::from_parts(1_000, [1; 10]).as_bytes().to_vec();
        let record = Record { site: "shop".into(), sid, seq, visitor: 5, events, ..Default::default() };
        Logged { lsn: Lsn(lsn), record, waiter: None }
    }

    fn total(call: &Call, metric: Metric) -> u64 {
        let is_total = |(field, count): (&Vec<u8>, &u64)| match Counter::from_field(field).unwrap() {
            Counter::Rollup { kind: Kind::Total, metric: found, .. } if found == metric => Some(*count),
            _ => None,
        };
        call.counters.iter().filter_map(is_total).sum()
    }

    #[test]
    fn a_repeat_counts_as_a_duplicate_and_is_not_named() {
        let records = [logged(5, 1, vec![event(PAGEVIEW, "/", 9)]), logged(6, 1, vec![event(PAGEVIEW, "/", 9)])];
        let call = merge(Lsn(4), &records, &HashSet::new());
        assert_eq!((call.prev, call.last, call.batches.len()), (Lsn(4), Lsn(6), 1));
        assert_eq!(total(&call, Metric::Pageviews), 1);
        let duplicate =
            Counter::Ledger { reason: Reason::Unspecified, tally: Tally::Duplicates, day: 0, site: "shop".into() };
        assert_eq!(call.counters[&duplicate.to_field()], 1);
    }

    #[test]
    fn a_visit_step_knows_entry_and_exit_by_time() {
        let events = vec![event(PAGEVIEW, "/b", 20), event("Signup", "/b", 30), event(PAGEVIEW, "/a", 10)];
        let call = merge(Lsn(0), &[logged(1, 1, events)], &HashSet::new());
        let step = &call.visits[0];
        assert_eq!((step.pageviews, step.events, step.first_ms, step.last_ms), (2, 1, 10, 30));
        assert_eq!((step.entry.clone(), step.exit.clone()), (Some((10, "/a".into())), Some((20, "/b".into()))));
    }

    proptest! {
        #[test]
        fn merging_in_two_calls_adds_up_to_merging_in_one(paths in proptest::collection::vec((0..4u8, any::<bool>(), 0..4_000_000u64), 1..40), cut in 0..40usize) {
            let records: Vec<_> = paths.iter().enumerate().map(|(i, (path, is_event, at_ms))| {
                let name = if *is_event { "Signup" } else { PAGEVIEW };
                logged(i as u64 + 1, i as u32 + 1, vec![event(name, &format!("/{path}"), *at_ms)])
            }).collect();
            let whole = merge(Lsn(0), &records, &HashSet::new());
            let (front, back) = records.split_at(cut.min(records.len()));
            let mut sum = merge(Lsn(0), front, &HashSet::new()).counters;
            for (field, count) in merge(Lsn(front.len() as u64), back, &HashSet::new()).counters {
                *sum.entry(field).or_default() += count;
            }
            prop_assert_eq!(sum, whole.counters);
        }

        #[test]
        fn every_event_is_in_the_ledger_once(counts in proptest::collection::vec(0..5usize, 1..20)) {
            let records: Vec<_> = counts.iter().enumerate().map(|(i, count)| logged(i as u64 + 1, i as u32 + 1, vec![event("e", "/", 1); *count])).collect();
            let call = merge(Lsn(0), &records, &HashSet::new());
            let counted = Counter::Ledger { reason: Reason::Unspecified, tally: Tally::Events, day: 0, site: "shop".into() }.to_field();
            prop_assert_eq!(call.counters.get(&counted).copied().unwrap_or(0), counts.iter().sum::<usize>() as u64);
        }
    }
}
