use proptest::prelude::*;

use super::*;

fn events(pageviews: u64, custom: u64) -> Events {
    Events { pageviews, custom }
}

/// All pageviews on one page, all custom events of one name.
fn rows(pageviews: u64, custom: u64) -> (BTreeMap<String, u64>, BTreeMap<String, u64>) {
    let names = [("pageview".to_owned(), pageviews), ("Signup".to_owned(), custom)];
    (BTreeMap::from([("/".to_owned(), pageviews)]), names.into())
}

fn expected(sent: Events, acknowledged: Events, dropped: Events, agents: u64) -> Expected {
    let (pages, names) = rows(sent.pageviews - dropped.pageviews, sent.custom - dropped.custom);
    Expected { sent, acknowledged, dropped, pages, names, agents, one_visit_each: true }
}

fn counts(pageviews: u64, custom: u64, visits: u64, visitors: u64) -> Counts {
    let (pages, names) = rows(pageviews, custom);
    Counts { pageviews, events: pageviews + custom, visits, visitors, pages, names }
}

fn before() -> Counts {
    counts(100, 30, 10, 9)
}

fn grown(pageviews: u64, custom: u64, visits: u64) -> Counts {
    counts(100 + pageviews, 30 + custom, 10 + visits, 9 + visits)
}

#[test]
fn everything_acknowledged_and_counted_is_no_difference() {
    let audit = expected(events(8, 3), events(8, 2), events(0, 1), 2).against(&before(), &grown(8, 2, 2));
    assert!(audit.counts_are_right());
    let sums = (audit.sent, audit.acknowledged, audit.counted, audit.dropped, audit.difference);
    assert_eq!(sums, (11, 10, 10, 1, 0));
    assert_eq!(audit.unacknowledged, 0);
}

#[test]
fn a_lost_event_is_above_zero_and_a_doubled_one_below() {
    let expected = expected(events(8, 2), events(8, 2), events(0, 0), 2);
    assert_eq!(expected.against(&before(), &grown(7, 2, 2)).difference, 1);
    assert_eq!(expected.against(&before(), &grown(8, 3, 2)).difference, -1);
}

#[test]
fn a_pageview_counted_as_an_event_is_wrong() {
    let audit = expected(events(8, 2), events(8, 2), events(0, 0), 2).against(&before(), &grown(7, 3, 2));
    assert_eq!(audit.difference, 0);
    assert_eq!((audit.pageviews.difference, audit.custom_events.difference), (1, -1));
    assert!(!audit.counts_are_right());
}

#[test]
fn a_lost_pageview_and_a_doubled_one_of_another_page_do_not_cancel() {
    let moved = |counts: &mut BTreeMap<String, u64>, from: &str, to: &str| {
        *counts.get_mut(from).unwrap() -= 1;
        *counts.entry(to.to_owned()).or_default() += 1;
    };
    let expected = expected(events(8, 2), events(8, 2), events(0, 0), 2);
    let mut now = grown(8, 2, 2);
    moved(&mut now.pages, "/", "/pricing");
    let audit = expected.against(&before(), &now);
    assert_eq!((audit.pages["/"].difference, audit.pages["/pricing"].difference), (1, -1));
    assert_eq!((audit.difference, audit.pageviews.difference), (0, 0));
    assert!(!audit.counts_are_right());

    let mut now = grown(8, 2, 2);
    moved(&mut now.names, "Signup", "Checkout");
    let audit = expected.against(&before(), &now);
    assert_eq!((audit.event_names["Signup"].difference, audit.event_names["Checkout"].difference), (1, -1));
    assert_eq!(audit.custom_events.difference, 0);
    assert!(!audit.counts_are_right());
}

#[test]
fn pages_of_before_that_nobody_visited_have_no_line() {
    let (mut before, mut now) = (before(), grown(8, 2, 2));
    for counts in [&mut before, &mut now] {
        counts.pages.insert("/old".to_owned(), 5);
    }
    let audit = expected(events(8, 2), events(8, 2), events(0, 0), 2).against(&before, &now);
    assert_eq!(audit.pages.keys().collect::<Vec<_>>(), ["/"]);
    assert!(audit.counts_are_right());
}

#[test]
fn pages_are_named_as_central_names_them() {
    let sent = [("https://a.example/k\u{e4}se", 2), ("https://a.example/k%C3%A4se", 3), ("https://a.example", 1)];
    let pages = by_path(&sent.map(|(url, count)| (url.to_owned(), count)).into());
    assert_eq!(pages, BTreeMap::from([("/k%C3%A4se".to_owned(), 5), ("/".to_owned(), 1)]));
}

#[test]
fn an_event_without_an_answer_is_no_difference_only_if_it_is_counted() {
    let expected = expected(events(8, 2), events(7, 2), events(0, 0), 2);
    assert!(expected.against(&before(), &grown(8, 2, 2)).counts_are_right());
    let lost = expected.against(&before(), &grown(7, 2, 2));
    assert_eq!((lost.difference, lost.unacknowledged), (1, 1));
}

#[test]
fn a_visit_too_many_is_wrong() {
    let audit = expected(events(8, 2), events(8, 2), events(0, 0), 2).against(&before(), &grown(8, 2, 3));
    assert_eq!(audit.visits.unwrap().difference, -1);
    assert!(!audit.counts_are_right());
}

#[test]
fn right_counts_of_nothing_are_a_fault() {
    let right = Batches::default();
    let nothing_sent = expected(events(0, 0), events(0, 0), events(0, 0), 0).against(&before(), &before());
    assert!(nothing_sent.counts_are_right());
    assert_eq!(nothing_sent.faults(&right, 0.0), [Fault::NothingAcknowledged]);

    let all_dropped = expected(events(8, 2), events(0, 0), events(8, 2), 0).against(&before(), &before());
    assert!(all_dropped.counts_are_right());
    let dropped = Fault::Dropped { dropped: 10, sent: 10, share_max: 0.0 };
    assert_eq!(all_dropped.faults(&right, 0.0), [Fault::NothingAcknowledged, dropped]);
    assert_eq!(all_dropped.faults(&right, 1.0), [Fault::NothingAcknowledged]);
}

#[test]
fn what_is_dropped_is_held_against_the_share_that_may_be() {
    let audit = expected(events(8, 2), events(8, 0), events(0, 2), 2).against(&before(), &grown(8, 0, 2));
    let faults = |share_max| audit.faults(&Batches::default(), share_max);
    assert_eq!(faults(0.2), []);
    assert_eq!(faults(0.19), [Fault::Dropped { dropped: 2, sent: 10, share_max: 0.19 }]);
}

#[test]
fn altered_batches_and_unknown_answers_are_faults_whatever_the_counts() {
    let audit = expected(events(8, 2), events(8, 2), events(0, 0), 2).against(&before(), &grown(8, 2, 2));
    assert_eq!(audit.faults(&Batches::default(), 0.0), []);
    let batches = Batches { altered: 1, unknown_answers: 3, ..Batches::default() };
    assert_eq!(audit.faults(&batches, 0.0), [Fault::AlteredBatches(1), Fault::UnknownAnswers(3)]);
}

proptest! {
    #[test]
    fn counts_are_right_exactly_when_what_is_due_is_counted(
        sent_views in 0u64..1000, sent_custom in 0u64..1000, views in 0u64..1000, custom in 0u64..1000,
    ) {
        let sent = events(sent_views, sent_custom);
        let audit = expected(sent, sent, events(0, 0), 1).against(&before(), &grown(views, custom, 1));
        prop_assert_eq!(audit.counts_are_right(), (views, custom) == (sent_views, sent_custom));
        prop_assert_eq!(audit.difference, (sent_views + sent_custom) as i64 - (views + custom) as i64);
    }
}
