use proto::uplink::{LiveBucket, LiveSite};

use super::*;

const FIRST: u32 = 29_000_000;
const NOW: u32 = FIRST + WINDOW_MINUTES - 1;

fn shard(number: u32) -> ShardId {
    ShardId { region: "local".to_owned(), shard: number }
}

fn row(minute: u32, pageviews: u64, events: u64) -> RollupRow {
    RollupRow { site: "s".to_owned(), kind: Kind::Total as i32, minute, pageviews, events, ..RollupRow::default() }
}

fn said(buckets: &[(u64, u64)], current_visitors: u64) -> uplink::Live {
    uplink::Live {
        epoch: 1,
        buckets: buckets.iter().map(|&(n, views)| LiveBucket { n, totals: vec![row(NOW, views, 0)] }).collect(),
        sites: vec![LiveSite { site: "s".to_owned(), current_visitors }],
        ..uplink::Live::default()
    }
}

/// One shard that was led from flush 0 on, and a site whose minutes were loaded.
fn loaded(rows: Vec<(u32, u64, u64)>) -> (Figures, Instant) {
    let (mut figures, now) = (Figures::default(), Instant::now());
    figures.led(&shard(0), 1, 0);
    figures.load("s", FIRST, rows, now);
    (figures, now)
}

fn views(figures: &mut Figures, now: Instant) -> u64 {
    figures.read("s", FIRST, now).unwrap().minutes.last().unwrap().pageviews
}

#[test]
fn a_bucket_counts_until_its_flush_does_and_not_a_moment_longer() {
    let (mut figures, now) = loaded(vec![(NOW, 100, 0)]);
    figures.said(&shard(0), said(&[(0, 5)], 3), now);
    assert_eq!(views(&mut figures, now), 105);

    // Cut: flush 0 is on its way and a new bucket is open.
    figures.said(&shard(0), said(&[(0, 7), (1, 2)], 3), now);
    assert_eq!(views(&mut figures, now), 109);

    figures.accepted(&shard(0), 0, totals(&[row(NOW, 7, 0)]));
    assert_eq!(views(&mut figures, now), 109, "neither twice nor a dip");
    figures.said(&shard(0), said(&[(1, 3)], 3), now);
    assert_eq!(views(&mut figures, now), 110);
}

#[test]
fn every_shard_adds_its_own() {
    let (mut figures, now) = loaded(vec![]);
    figures.led(&shard(1), 1, 40);
    figures.said(&shard(0), said(&[(0, 5)], 3), now);
    figures.said(&shard(1), said(&[(39, 1000), (40, 6)], 4), now);
    let reading = figures.read("s", FIRST, now).unwrap();
    assert_eq!(reading.current_visitors, 7);
    assert_eq!(reading.minutes.last().unwrap().pageviews, 11);
    assert_eq!(reading.minutes.len(), WINDOW_MINUTES as usize);
}

#[test]
fn what_was_said_ten_seconds_ago_counts_as_absent() {
    let (mut figures, now) = loaded(vec![(NOW, 100, 0)]);
    figures.said(&shard(0), said(&[(0, 5)], 3), now);
    let reading = figures.read("s", FIRST, now + ABSENT_AFTER).unwrap();
    assert_eq!((reading.current_visitors, reading.minutes.last().unwrap().pageviews), (0, 100));
}

#[test]
fn another_epoch_has_no_say() {
    let (mut figures, now) = loaded(vec![]);
    figures.said(&shard(0), said(&[(0, 5)], 3), now);
    figures.led(&shard(0), 2, 0);
    figures.said(&shard(0), said(&[(0, 5)], 3), now);
    assert_eq!(views(&mut figures, now), 0);
}

#[test]
fn a_new_leader_at_the_same_flush_changes_nothing() {
    let (mut figures, now) = loaded(vec![(NOW, 100, 0)]);
    figures.said(&shard(0), said(&[(0, 5)], 3), now);
    figures.led(&shard(0), 1, 0);
    assert_eq!(views(&mut figures, now), 105);
}

#[test]
fn after_a_failure_the_store_is_asked_again() {
    let (mut figures, now) = loaded(vec![(NOW, 100, 0)]);
    figures.failed(&shard(0));
    assert_eq!(figures.read("s", FIRST, now), None);

    // What is read while the flush is in doubt may hold some of its rows, so it does not outlive the repeat.
    figures.load("s", FIRST, vec![(NOW, 107, 0)], now);
    figures.accepted(&shard(0), 0, totals(&[row(NOW, 7, 0)]));
    assert_eq!(figures.read("s", FIRST, now), None);

    // The same if the flush turns out to be there when the next leader asks.
    figures.load("s", FIRST, vec![(NOW, 107, 0)], now);
    figures.failed(&shard(0));
    figures.load("s", FIRST, vec![(NOW, 107, 0)], now);
    figures.led(&shard(0), 1, 2);
    assert_eq!(figures.read("s", FIRST, now), None);
}

#[test]
fn the_window_moves_and_late_rows_still_find_their_minute() {
    let (mut figures, now) = loaded(vec![(FIRST, 1, 1), (FIRST + 5, 2, 0)]);
    let later = figures.read("s", FIRST + 3, now).unwrap();
    assert_eq!(later.minutes[2], Minute { minute: FIRST + 5, pageviews: 2, events: 0 });
    assert_eq!(figures.read("s", FIRST, now), None, "an earlier window has to be loaded");

    figures.accepted(&shard(0), 0, totals(&[row(FIRST + 1, 50, 0), row(FIRST + 5, 1, 4), row(FIRST + 99, 1, 0)]));
    let reading = figures.read("s", FIRST + 3, now).unwrap();
    assert_eq!(reading.minutes[2], Minute { minute: FIRST + 5, pageviews: 3, events: 4 });
    assert_eq!(reading.minutes.iter().map(|minute| minute.pageviews).sum::<u64>(), 3);
}

#[test]
fn only_rows_of_the_whole_site_are_totals() {
    let page = RollupRow { kind: Kind::Page as i32, ..row(NOW, 9, 0) };
    assert_eq!(totals(&[page, row(NOW, 1, 0)])["s"].len(), 1);
}

#[test]
fn what_nobody_reads_is_dropped() {
    let (mut figures, now) = loaded(vec![]);
    figures.load("other", FIRST, vec![], now + UNREAD_AFTER);
    assert_eq!(figures.read("s", FIRST, now), None);
}
