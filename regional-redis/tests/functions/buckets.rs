use std::collections::HashMap;

use proto::agent::Reason;
use proto::uplink::{Kind, LedgerRow, RollupRow, UniqueRow};
use regional_redis::apply::{Applied, Call};
use regional_redis::counter::{Counter, Metric, Sighting, Tally};
use regional_redis::{Lsn, bucket, live};

use crate::bench::{Bench, Gateway, HOUR, MINUTE, NOON, call, counted, pageview};

const NOON_MINUTE: u32 = (NOON / MINUTE) as u32;

fn rollup(kind: Kind, metric: Metric, value: &str) -> Vec<u8> {
    Counter::Rollup { kind, metric, minute: NOON_MINUTE, site: "shop".into(), value: value.into() }.to_field()
}

fn pageviews(prev: u64, count: u64) -> Call {
    let total = rollup(Kind::Total, Metric::Pageviews, "");
    counted(
        call(prev, prev + 1, vec![]),
        HashMap::from([(total, count), (rollup(Kind::Page, Metric::Pageviews, "/"), count)]),
    )
}

#[tokio::test]
async fn counters_add_up_to_rows() {
    let mut bench = Bench::new().await;
    let gateway = bench.gateway("g").await;
    for prev in 0..3 {
        let ledger = Counter::Ledger { reason: Reason::Bot, tally: Tally::Events, day: 20_779, site: "shop".into() };
        let counters = HashMap::from([
            (rollup(Kind::Total, Metric::Pageviews, ""), 2),
            (rollup(Kind::Total, Metric::Events, ""), 1),
            (rollup(Kind::Page, Metric::Pageviews, "/ü\0\r\n"), 2),
            (rollup(Kind::Page, Metric::EngagedMs, "/ü\0\r\n"), 1 << 50),
            (rollup(Kind::Event, Metric::Events, "Signup"), 1),
            (ledger.to_field(), 4),
        ]);
        gateway.counts(&mut bench, &counted(call(prev, prev + 1, vec![]), counters)).await;
    }
    let rows = bench.flush().await;
    let row = |kind: Kind, value: &str, pageviews, events, engaged_ms| RollupRow {
        site: "shop".into(),
        kind: kind.into(),
        value: value.into(),
        minute: NOON_MINUTE,
        pageviews,
        events,
        engaged_ms,
    };
    let expected = [
        row(Kind::Total, "", 6, 3, 0),
        row(Kind::Page, "/ü\0\r\n", 6, 0, 3 << 50),
        row(Kind::Event, "Signup", 0, 3, 0),
    ];
    assert_eq!(rows.rollups.len(), 3);
    assert!(expected.iter().all(|row| rows.rollups.contains(row)), "{:?}", rows.rollups);
    let ledger = LedgerRow {
        site: "shop".into(),
        day: 20_779,
        reason: Reason::Bot as u32,
        events: 12,
        batches: 0,
        duplicates: 0,
    };
    assert_eq!(rows.ledger, [ledger]);
    assert_eq!(bench.flush().await, Default::default(), "the next bucket starts empty");
}

#[tokio::test]
async fn a_visitor_is_sighted_once_in_a_bucket() {
    let mut bench = Bench::new().await;
    let gateway = bench.gateway("g").await;
    let sighting = |visitor| {
        Sighting { kind: Kind::Page, quarter: 7, site: "shop".into(), value: "/".into(), visitor }.to_member()
    };
    for (prev, visitors) in [(0, vec![9, 1 << 63]), (1, vec![9, 3])] {
        let uniques = visitors.into_iter().map(sighting).collect();
        gateway.counts(&mut bench, &Call { uniques, ..call(prev, prev + 1, vec![]) }).await;
    }
    let expected = UniqueRow {
        site: "shop".into(),
        kind: Kind::Page.into(),
        value: "/".into(),
        quarter: 7,
        visitors: vec![3, 9, 1 << 63],
    };
    assert_eq!(bench.flush().await.uniques, [expected]);
}

#[tokio::test]
async fn a_cut_is_handed_out_until_it_is_settled() {
    let mut bench = Bench::new().await;
    let gateway = bench.gateway("g").await;
    gateway.counts(&mut bench, &pageviews(0, 5)).await;
    let cut = bench.link.cut(&bench.leader, NOON).await.unwrap().unwrap();
    assert_eq!((cut.n, cut.cut_ms, cut.watermark_ms), (0, NOON, 0));
    assert_eq!(cut.vector, [("g".to_owned(), Lsn(1))]);

    // What comes after the cut is in the next bucket, and not in the vector.
    gateway.counts(&mut bench, &pageviews(1, 7)).await;
    assert_eq!(bench.link.cut(&bench.leader, NOON + 1).await.unwrap().unwrap(), cut);
    let first = bucket::read(&mut bench.link, 0).await.unwrap();
    assert_eq!(first, bucket::read(&mut bench.link, 0).await.unwrap());
    assert_eq!(first.rollups.iter().map(|row| row.pageviews).collect::<Vec<_>>(), [5, 5]);

    bench.settle(0).await;
    let next = bench.link.cut(&bench.leader, NOON + 2).await.unwrap().unwrap();
    assert_eq!((next.n, next.cut_ms, next.vector), (1, NOON + 2, vec![("g".to_owned(), Lsn(2))]));
    let second = bucket::read(&mut bench.link, 1).await.unwrap();
    assert_eq!(second.rollups.iter().map(|row| row.pageviews).collect::<Vec<_>>(), [7, 7]);
}

#[tokio::test]
async fn settling_twice_or_too_early_never_touches_the_open_bucket() {
    let mut bench = Bench::new().await;
    let gateway = bench.gateway("g").await;
    gateway.counts(&mut bench, &pageviews(0, 5)).await;
    let before = bench.everything().await;
    bench.settle(0).await; // open, not cut
    bench.settle(99).await;
    bench.assert_unchanged(&before).await;

    bench.cut().await;
    bench.settle(0).await;
    gateway.counts(&mut bench, &pageviews(1, 7)).await;
    let before = bench.everything().await;
    bench.settle(0).await;
    bench.settle(1).await;
    bench.assert_unchanged(&before).await;
    assert!(
        !bench.keys().await.iter().any(|key| key.starts_with("{0}:w") && key.ends_with(":0")),
        "nothing is left of flush 0"
    );
}

#[tokio::test]
async fn live_figures_show_what_is_not_settled_and_who_is_there() {
    let mut bench = Bench::new().await;
    let gateway = bench.gateway("g").await;
    let mut first = pageviews(0, 5);
    first.visits = [7, 8].into_iter().flat_map(|visitor| pageview(1, visitor, NOON, "/").visits).collect();
    gateway.counts(&mut bench, &first).await;
    bench.cut().await;
    gateway.counts(&mut bench, &pageviews(1, 7)).await;

    let figures = live::read(&mut bench.link, 1, NOON + 4 * MINUTE).await.unwrap();
    let totals: Vec<_> =
        figures.buckets.iter().map(|b| (b.n, b.totals.iter().map(|row| row.pageviews).sum::<u64>())).collect();
    assert_eq!(totals, [(0, 5), (1, 7)], "totals alone: pages are not among them");
    assert_eq!(figures.sites.iter().map(|s| (s.site.as_str(), s.current_visitors)).collect::<Vec<_>>(), [("shop", 2)]);
    assert_eq!((figures.shard, figures.epoch), (0, 1));

    bench.settle(0).await;
    let later = live::read(&mut bench.link, 1, NOON + 6 * MINUTE).await.unwrap();
    assert_eq!(later.buckets.iter().map(|bucket| bucket.n).collect::<Vec<_>>(), [1]);
    assert_eq!(later.sites, []);
    // Minutes that no live figure shows are left out.
    assert_eq!(live::read(&mut bench.link, 1, NOON + HOUR).await.unwrap().buckets[0].totals, []);
}

#[tokio::test]
async fn visitors_and_sites_that_are_gone_leave_the_memory() {
    let mut bench = Bench::new().await;
    let gateway = bench.gateway("g").await;
    let on_site = |lsn: u64, visitor: u64, site: &str| {
        let mut call = pageview(lsn, visitor, NOON, "/");
        call.visits[0].key = regional_redis::visit::visit_key(site, visitor);
        call
    };
    let later = NOON + 6 * MINUTE;
    for (now_ms, call) in
        [(NOON, on_site(1, 7, "shop")), (NOON, on_site(2, 7, "quiet")), (later, on_site(3, 8, "shop"))]
    {
        let Gateway { name, incarnation, approved } = &gateway;
        let answer = bench.link.apply(name, incarnation, approved, now_ms, &call).await.unwrap();
        assert!(matches!(answer, Applied::Done(_)), "{answer:?}");
    }
    let mut connection = bench.redis.connection().await;
    let present: Vec<String> =
        redis::cmd("ZRANGE").arg("{0}:l:shop").arg(0).arg(-1).query_async(&mut connection).await.unwrap();
    assert_eq!(present, [format!("{:016x}", 8)]);
    assert!(!bench.keys().await.contains(&"{0}:l:quiet".to_owned()));
}
