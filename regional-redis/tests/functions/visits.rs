use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use proto::Message;
use proto::uplink::{VisitDimensions, VisitRow};
use regional_redis::apply::{Applied, Call};
use regional_redis::{Lsn, visit};

use crate::bench::{Bench, Gateway, HOUR, MINUTE, NOON, pageview, sid};

/// Pageviews of visitor 7 at these minutes after noon, one call each, all in one bucket: its visits by their start.
async fn visits_of(minutes: &[i64]) -> Vec<VisitRow> {
    let mut bench = Bench::new().await;
    let gateway = bench.gateway("g").await;
    for (lsn, minute) in (1..).zip(minutes) {
        let at_ms = NOON.checked_add_signed(minute * MINUTE as i64).unwrap();
        count(&mut bench, &gateway, &pageview(lsn, 7, at_ms, &format!("/{minute}"))).await;
    }
    let mut visits = bench.flush().await.visits;
    visits.sort_by_key(|visit| visit.start_ms);
    visits
}

async fn count(bench: &mut Bench, gateway: &Gateway, call: &Call) {
    gateway.counts(bench, call).await;
}

#[tokio::test]
async fn twenty_nine_minutes_later_is_the_same_visit() {
    let visits = visits_of(&[0, 29, 58]).await;
    assert_eq!(visits.len(), 1);
    assert_eq!((visits[0].pageviews, visits[0].start_ms, visits[0].last_ms), (3, NOON, NOON + 58 * MINUTE));
    assert_eq!((visits[0].entry_page.as_str(), visits[0].exit_page.as_str()), ("/0", "/58"));
}

#[tokio::test]
async fn thirty_one_minutes_later_is_a_new_visit_named_after_its_own_batch() {
    let visits = visits_of(&[0, 31]).await;
    let opened_by: Vec<_> = visits.iter().map(|visit| (visit.sid.clone(), visit.seq, visit.pageviews)).collect();
    assert_eq!(opened_by, [(sid(1).as_bytes().to_vec(), 1, 1), (sid(2).as_bytes().to_vec(), 1, 1)]);
}

#[tokio::test]
async fn exactly_thirty_minutes_later_is_the_same_visit() {
    assert_eq!(visits_of(&[0, 30]).await.len(), 1);
    assert_eq!(visits_of(&[0, -30]).await.len(), 1);
}

#[tokio::test]
async fn late_events_join_the_visit_that_started_after_them() {
    let visits = visits_of(&[0, -29, 5]).await;
    assert_eq!(visits.len(), 1);
    assert_eq!((visits[0].start_ms, visits[0].last_ms), (NOON - 29 * MINUTE, NOON + 5 * MINUTE));
    assert_eq!((visits[0].entry_page.as_str(), visits[0].exit_page.as_str()), ("/-29", "/5"));
    assert_eq!(visits_of(&[0, -31]).await.len(), 2);
}

#[tokio::test]
async fn what_a_device_kept_for_hours_does_not_end_the_visit_of_the_page_that_is_open() {
    let visits = visits_of(&[0, -300, 5, -180, -295, 10, -175]).await;
    let seen: Vec<_> = visits.iter().map(|visit| (visit.entry_page.as_str(), visit.pageviews)).collect();
    assert_eq!(seen, [("/-300", 2), ("/-180", 2), ("/0", 3)]);
}

#[tokio::test]
async fn a_late_batch_between_two_visits_joins_the_one_that_was_touched_last() {
    let visits = visits_of(&[0, 40, 20]).await;
    let seen: Vec<_> = visits.iter().map(|visit| (visit.entry_page.as_str(), visit.pageviews)).collect();
    assert_eq!(seen, [("/0", 1), ("/20", 2)]);
}

#[tokio::test]
async fn only_so_many_visits_of_a_visitor_are_kept_and_the_one_touched_last_is_among_them() {
    let far_apart: Vec<_> = (0..40).map(|visit| visit * 31).chain([39 * 31 + 1, 0]).collect();
    let visits = visits_of(&far_apart).await;
    assert_eq!(visits.len(), 41, "the first of them was not known any more");
    assert_eq!(visits.last().unwrap().pageviews, 2);
}

#[tokio::test]
async fn a_visit_is_forgotten_an_hour_after_it_was_touched_though_the_visitor_has_another() {
    for (later, visits) in [(60 * MINUTE - 1, 2), (60 * MINUTE, 3)] {
        let mut bench = Bench::new().await;
        let gateway = bench.gateway("g").await;
        count(&mut bench, &gateway, &pageview(1, 7, NOON - 5 * HOUR, "/kept")).await;
        count(&mut bench, &gateway, &pageview(2, 7, NOON, "/now")).await;
        for (lsn, at_ms) in [(3, NOON + MINUTE), (4, NOON - 5 * HOUR)] {
            let answer = gateway.apply_at(&mut bench, NOON + later, &pageview(lsn, 7, at_ms, "/")).await.unwrap();
            assert!(matches!(answer, Applied::Done(_)), "{answer:?}");
        }
        assert_eq!(bench.flush().await.visits.len(), visits);
    }
}

#[tokio::test]
async fn entry_and_exit_page_follow_event_time_not_arrival() {
    let visits = visits_of(&[10, 3, 20, 15, 1]).await;
    assert_eq!(visits.len(), 1);
    assert_eq!((visits[0].entry_page.as_str(), visits[0].exit_page.as_str()), ("/1", "/20"));
}

#[tokio::test]
async fn a_visit_across_two_gateways_is_one() {
    let mut bench = Bench::new().await;
    let (one, other) = (bench.gateway("one").await, bench.gateway("other").await);
    count(&mut bench, &one, &pageview(1, 7, NOON, "/a")).await;
    let mut second = pageview(2, 7, NOON + 29 * MINUTE, "/b");
    second.prev = Lsn(0);
    count(&mut bench, &other, &second).await;
    let mut third = pageview(3, 7, NOON + 58 * MINUTE, "/c");
    third.prev = Lsn(1);
    count(&mut bench, &one, &third).await;
    let visits = bench.flush().await.visits;
    assert_eq!(visits.len(), 1);
    assert_eq!((visits[0].pageviews, visits[0].exit_page.as_str()), (3, "/c"));
}

#[tokio::test]
async fn versions_grow_from_call_to_call_and_from_flush_to_flush() {
    let mut bench = Bench::new().await;
    let gateway = bench.gateway("g").await;
    let mut versions = Vec::new();
    for lsn in 1..=4 {
        count(&mut bench, &gateway, &pageview(lsn, 7, NOON + lsn, "/")).await;
        let visits = bench.flush().await.visits;
        assert_eq!(visits.len(), 1);
        assert_eq!(u64::from(visits[0].pageviews), lsn, "the state is absolute");
        versions.push(visits[0].version);
    }
    assert!(versions.is_sorted_by(|a, b| a < b), "{versions:?}");
}

#[tokio::test]
async fn a_bucket_holds_the_newest_state_of_each_visit_it_touched() {
    let mut bench = Bench::new().await;
    let gateway = bench.gateway("g").await;
    for (lsn, visitor) in [(1, 7), (2, 8), (3, 7)] {
        count(&mut bench, &gateway, &pageview(lsn, visitor, NOON + lsn, "/")).await;
    }
    let first = bench.flush().await.visits;
    assert_eq!(first.iter().map(|visit| (visit.visitor, visit.pageviews)).collect::<Vec<_>>(), [(7, 2), (8, 1)]);
    // The visit that the next bucket does not touch is not in it.
    count(&mut bench, &gateway, &pageview(4, 8, NOON + 4, "/")).await;
    let second = bench.flush().await.visits;
    assert_eq!(second.iter().map(|visit| (visit.visitor, visit.pageviews)).collect::<Vec<_>>(), [(8, 2)]);
    assert!(second[0].version > first.iter().map(|visit| visit.version).max().unwrap());
}

#[tokio::test]
async fn the_steps_of_one_call_follow_each_other() {
    let mut bench = Bench::new().await;
    let gateway = bench.gateway("g").await;
    let mut call = pageview(1, 7, NOON, "/a");
    for (lsn, minute) in [(2, 10), (3, 45), (4, 50)] {
        let mut next = pageview(lsn, 7, NOON + minute * MINUTE, &format!("/{minute}"));
        call.visits.append(&mut next.visits);
        call.batches.append(&mut next.batches);
        call.last = next.last;
    }
    count(&mut bench, &gateway, &call).await;
    let mut visits = bench.flush().await.visits;
    visits.sort_by_key(|visit| visit.start_ms);
    let seen: Vec<_> = visits.iter().map(|v| (v.pageviews, v.entry_page.as_str(), v.exit_page.as_str())).collect();
    assert_eq!(seen, [(2, "/a", "/10"), (2, "/45", "/50")]);
}

#[tokio::test]
async fn everything_of_a_visit_arrives_as_it_was_sent() {
    let mut bench = Bench::new().await;
    let gateway = bench.gateway("g").await;
    let dimensions = VisitDimensions {
        source: "Suchmaschine “ü”".into(),
        utm_term: "a\0b".into(),
        country: "DE".into(),
        ..Default::default()
    };
    let mut call = pageview(1, u64::MAX, NOON, "/straße\n\0");
    call.visits[0].events = u32::MAX;
    call.visits[0].engaged_ms = 1 << 52;
    call.visits[0].dimensions = dimensions.encode_to_vec();
    count(&mut bench, &gateway, &call).await;
    // What a later batch says of source and place does not count.
    let mut later = pageview(2, u64::MAX, NOON + 1, "/2");
    later.visits[0].dimensions = VisitDimensions::default().encode_to_vec();
    count(&mut bench, &gateway, &later).await;

    let visits = bench.flush().await.visits;
    let expected = VisitRow {
        site: "shop".into(),
        sid: sid(1).as_bytes().to_vec(),
        seq: 1,
        visitor: u64::MAX,
        version: 2,
        start_ms: NOON,
        last_ms: NOON + 1,
        pageviews: 2,
        events: u32::MAX,
        engaged_ms: 1 << 52,
        entry_page: "/straße\n\0".into(),
        exit_page: "/2".into(),
        dimensions: Some(dimensions),
        entry_ms: NOON,
        exit_ms: NOON + 1,
    };
    assert_eq!(visits, [expected]);
}

#[tokio::test]
async fn a_visit_without_a_pageview_has_neither_entry_nor_exit_page() {
    let mut bench = Bench::new().await;
    let gateway = bench.gateway("g").await;
    let mut call = pageview(1, 7, NOON, "/");
    (call.visits[0].pageviews, call.visits[0].events, call.visits[0].entry, call.visits[0].exit) = (0, 1, None, None);
    count(&mut bench, &gateway, &call).await;
    let visits = bench.flush().await.visits;
    assert_eq!((visits[0].entry_page.as_str(), visits[0].exit_page.as_str(), visits[0].events), ("", "", 1));
}

#[tokio::test]
async fn the_same_visitor_hash_on_two_sites_is_two_visits() {
    let mut bench = Bench::new().await;
    let gateway = bench.gateway("g").await;
    let mut call = pageview(1, 7, NOON, "/");
    let mut other = pageview(2, 7, NOON, "/");
    other.visits[0].key = visit::visit_key("blog", 7);
    call.visits.append(&mut other.visits);
    call.batches.append(&mut other.batches);
    call.last = other.last;
    count(&mut bench, &gateway, &call).await;
    let mut sites: Vec<String> = bench.flush().await.visits.into_iter().map(|visit| visit.site).collect();
    sites.sort();
    assert_eq!(sites, ["blog", "shop"]);
}

/// One pageview of a visitor whose hash was `other` under the other day's salt.
fn near_midnight(lsn: u64, visitor: u64, other: u64, at_ms: u64) -> Call {
    let mut call = pageview(lsn, visitor, at_ms, "/");
    call.visits[0].other_key = Some(regional_redis::visit::visit_key("shop", other));
    call
}

#[tokio::test]
async fn a_visit_goes_on_across_midnight_whichever_salt_comes_first() {
    for (before, after) in [(7, 8), (8, 7)] {
        let mut bench = Bench::new().await;
        let gateway = bench.gateway("g").await;
        gateway.counts(&mut bench, &pageview(1, before, NOON, "/")).await;
        gateway.counts(&mut bench, &near_midnight(2, after, before, NOON + MINUTE)).await;
        // There and back again, and in the end without knowing the other.
        gateway.counts(&mut bench, &near_midnight(3, before, after, NOON + 2 * MINUTE)).await;
        gateway.counts(&mut bench, &near_midnight(4, after, before, NOON + 3 * MINUTE)).await;
        gateway.counts(&mut bench, &pageview(5, after, NOON + 32 * MINUTE, "/")).await;
        // What comes late, of a time when nobody thought of midnight yet.
        gateway.counts(&mut bench, &pageview(6, before, NOON - 20 * MINUTE, "/")).await;
        let visits = bench.flush().await.visits;
        assert_eq!((visits.len(), visits[0].pageviews), (1, 6));
        assert_eq!(visits[0].visitor, before, "the visit keeps its visitor");
    }
}

#[tokio::test]
async fn the_steps_of_one_call_follow_a_visit_across_midnight() {
    let mut bench = Bench::new().await;
    let gateway = bench.gateway("g").await;
    let mut steps = pageview(1, 7, NOON, "/");
    for next in [
        near_midnight(2, 8, 7, NOON + MINUTE),
        near_midnight(3, 7, 8, NOON + 2 * MINUTE),
        near_midnight(4, 8, 7, NOON + 3 * MINUTE),
    ] {
        steps.batches.extend(next.batches);
        steps.visits.extend(next.visits);
        steps.last = next.last;
    }
    gateway.counts(&mut bench, &steps).await;
    let visits = bench.flush().await.visits;
    assert_eq!((visits.len(), visits[0].pageviews), (1, 4));
}

#[tokio::test]
async fn a_visit_that_is_over_is_not_taken_up_under_the_other_salt() {
    let mut bench = Bench::new().await;
    let gateway = bench.gateway("g").await;
    gateway.counts(&mut bench, &pageview(1, 7, NOON, "/")).await;
    gateway.counts(&mut bench, &near_midnight(2, 8, 7, NOON + 31 * MINUTE)).await;
    // What runs under its own key goes first.
    gateway.counts(&mut bench, &near_midnight(3, 7, 8, NOON + 20 * MINUTE)).await;
    let mut visits = bench.flush().await.visits;
    visits.sort_by_key(|visit| visit.start_ms);
    assert_eq!(visits.iter().map(|visit| (visit.visitor, visit.pageviews)).collect::<Vec<_>>(), [(7, 2), (8, 1)]);
}

/// Visits of at most 29 minutes, more than half an hour apart, each the minutes of its pageviews; their pageviews in any order.
fn pageviews_in_any_order() -> impl Strategy<Value = (Vec<u64>, u64)> {
    let visit = (31..400u64, vec(0..30u64, 1..5));
    let minutes = vec(visit, 1..7).prop_map(|visits| {
        let (mut minutes, mut ended) = (Vec::new(), 0);
        for (pause, offsets) in visits {
            minutes.extend(offsets.iter().map(|offset| ended + pause + offset));
            ended = *minutes.iter().max().expect("a visit has a pageview");
        }
        minutes
    });
    minutes.prop_shuffle().prop_flat_map(|minutes| {
        let last = *minutes.iter().max().expect("there is a visit");
        (Just(minutes), 0..last + 60)
    })
}

/// What visits are, by nothing but the minutes of a visitor's pageviews.
fn by_time(mut minutes: Vec<u64>) -> Vec<(u64, u64, u32)> {
    minutes.sort_unstable();
    let mut visits: Vec<(u64, u64, u32)> = Vec::new();
    for minute in minutes {
        match visits.last_mut() {
            Some((_, last, pageviews)) if minute - *last <= 30 => (*last, *pageviews) = (minute, *pageviews + 1),
            _ => visits.push((minute, minute, 1)),
        }
    }
    visits
}

#[test]
fn visits_are_those_of_event_time_in_whichever_order_batches_come_also_over_midnight() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (mut bench, gateway) = runtime.block_on(async {
        let mut bench = Bench::new().await;
        let gateway = bench.gateway("g").await;
        (bench, gateway)
    });
    let (began, mut lsn, mut visitor) = (NOON - 48 * HOUR, 0, 0);
    let bench = std::cell::RefCell::new((&mut bench, &mut lsn, &mut visitor));
    let config = ProptestConfig { cases: 300, ..ProptestConfig::default() };
    let checked = TestRunner::new(config).run(&pageviews_in_any_order(), |(minutes, midnight)| {
        let (bench, lsn, visitor) = &mut *bench.borrow_mut();
        **visitor += 2;
        let visits = runtime.block_on(async {
            for minute in &minutes {
                **lsn += 1;
                // Under yesterday's salt and under today's he is another.
                let (yesterday, today) = (**visitor, **visitor + 1);
                let (who, other) = if *minute < midnight { (yesterday, today) } else { (today, yesterday) };
                let near = minute.abs_diff(midnight) < 30 || *minute + 30 == midnight;
                let at_ms = began + minute * MINUTE;
                let call =
                    if near { near_midnight(**lsn, who, other, at_ms) } else { pageview(**lsn, who, at_ms, "/") };
                gateway.counts(bench, &call).await;
            }
            bench.flush().await.visits
        });
        let minute = |ms: u64| (ms - began) / MINUTE;
        let mut visits: Vec<_> =
            visits.iter().map(|visit| (minute(visit.start_ms), minute(visit.last_ms), visit.pageviews)).collect();
        visits.sort_unstable();
        prop_assert_eq!(visits, by_time(minutes));
        Ok(())
    });
    checked.unwrap();
}
