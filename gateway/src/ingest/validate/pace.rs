//! How fast pages were opened: faster than anybody can is a program's pace, or a page that calls itself.

use proto::agent::Batch;
use proto::limits::{EVENTS_MAX, PAGEVIEW};

/// Pageviews that a person may open within [`WITHIN_MS`]: a session restored with all its tabs has a batch for each.
const PAGEVIEWS_MAX: usize = 20;
const WITHIN_MS: u128 = 1_000;

/// Whether more than [`PAGEVIEWS_MAX`] pageviews lie within [`WITHIN_MS`], by the device's clock: batches that waited arrive together,
/// but say when they happened. A batch of more events than one may hold is refused for that.
pub fn is_impossible(batch: &Batch) -> bool {
    if !(PAGEVIEWS_MAX + 1..=EVENTS_MAX).contains(&batch.events.len()) {
        return false;
    }
    let mut last = [0; PAGEVIEWS_MAX];
    let mut pageviews = 0;
    let mut at_ms = i128::from(batch.base_ms); // wide enough for 10,000 deltas of 64 bits
    for event in &batch.events {
        at_ms += i128::from(event.delta_ms);
        if !is_pageview(batch, event.name) {
            continue;
        }
        let place = &mut last[pageviews % PAGEVIEWS_MAX];
        if pageviews >= PAGEVIEWS_MAX && at_ms.abs_diff(*place) < WITHIN_MS {
            return true;
        }
        *place = at_ms;
        pageviews += 1;
    }
    false
}

fn is_pageview(batch: &Batch, reference: u32) -> bool {
    let name = (reference as usize).checked_sub(1).and_then(|place| batch.strings.get(place));
    name.is_some_and(|name| name == PAGEVIEW)
}

#[cfg(test)]
mod tests {
    use proto::agent::Event;

    use super::*;

    /// A batch of pageviews these milliseconds apart, with a custom event behind each.
    fn batch(apart_ms: &[i64]) -> Batch {
        let events = apart_ms.iter().flat_map(|&delta_ms| {
            [Event { name: 1, delta_ms, ..Event::default() }, Event { name: 2, ..Event::default() }]
        });
        Batch {
            base_ms: 1_795_352_400_000,
            strings: vec![PAGEVIEW.to_owned(), "Scroll".to_owned()],
            events: events.collect(),
            ..Batch::default()
        }
    }

    #[test]
    fn twenty_pageviews_a_second_are_a_persons_and_more_are_not() {
        assert!(!is_impossible(&batch(&[0; 20])), "whatever else happened meanwhile");
        assert!(is_impossible(&batch(&[0; 21])));
        assert!(is_impossible(&batch(&[49; 21])), "980 ms from the first to the last");
        assert!(!is_impossible(&batch(&[50; 100])), "a whole second");
        assert!(is_impossible(&batch(&[[5_000; 30].as_slice(), &[0; 20]].concat())), "the burst comes late");
        assert!(!is_impossible(&batch(&[0; EVENTS_MAX])), "refused for its events, two of each here");
        assert!(is_impossible(&batch(&[-10; 40])), "a clock that was set back");
    }

    #[test]
    fn events_are_no_pageviews_and_references_may_lead_nowhere() {
        let mut events = batch(&[0; 30]);
        events.strings[0] = "Buy".to_owned();
        assert!(!is_impossible(&events));
        events.events.iter_mut().for_each(|event| event.name = u32::MAX);
        assert!(!is_impossible(&events));
    }

    #[test]
    fn deltas_of_any_size_do_not_overflow() {
        assert!(!is_impossible(&batch(&[i64::MAX; 30])));
        assert!(!is_impossible(&batch(&[i64::MIN; 30])));
    }
}
