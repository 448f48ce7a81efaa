use regional_redis::apply::{Applied, Batch};
use regional_redis::{Lsn, Registered, Reported};

use crate::bench::{Bench, Gateway, HOUR, MINUTE, NOON, batch, call, pageview, sid, sid_at};

#[tokio::test]
async fn a_cut_carries_the_lowest_watermark_of_all_registered() {
    let mut bench = Bench::new().await;
    let one = bench.gateway("one").await;
    let flushed = async |bench: &mut Bench| {
        let cut = bench.cut().await;
        bench.settle(cut.n).await;
        cut.watermark_ms
    };
    assert_eq!(flushed(&mut bench).await, 0, "a gateway that said nothing yet may hold anything");
    assert_eq!(one.watermark(&mut bench, NOON + 5, 0).await, Reported::Done { durable: Lsn(0) });
    assert_eq!(flushed(&mut bench).await, NOON + 5);
    let other = bench.gateway("other").await;
    assert_eq!(flushed(&mut bench).await, 0);
    assert_eq!(other.watermark(&mut bench, NOON, 0).await, Reported::Done { durable: Lsn(0) });
    assert_eq!(flushed(&mut bench).await, NOON);

    assert!(bench.link.retire("other", &other.approved).await.unwrap());
    assert_eq!(flushed(&mut bench).await, NOON + 5);
    assert_eq!(other.apply(&mut bench, &pageview(1, 7, NOON, "/")).await, Applied::Fenced);
    assert_eq!(other.watermark(&mut bench, NOON, 0).await, Reported::Fenced);
}

#[tokio::test]
async fn what_a_retired_gateway_counted_stays_counted() {
    let mut bench = Bench::new().await;
    let gateway = bench.gateway("g").await;
    gateway.apply(&mut bench, &pageview(1, 7, NOON, "/")).await;
    assert!(bench.link.retire("g", &gateway.approved).await.unwrap());
    assert_eq!(bench.cut().await.vector, [("g".to_owned(), Lsn(1))]);
    let successor = bench.gateway("successor").await;
    assert_eq!(successor.apply(&mut bench, &pageview(1, 7, NOON, "/")).await, Applied::Duplicates(vec![Lsn(1)]));
}

#[tokio::test]
async fn a_gateways_clock_starts_no_lower_than_its_watermark_and_the_horizon() {
    let mut bench = Bench::new().await;
    let gateway = bench.gateway("g").await;
    assert_eq!(gateway.watermark(&mut bench, NOON + 5, 0).await, Reported::Done { durable: Lsn(0) });
    let answer = bench.link.register("g", "second", &gateway.approved).await.unwrap();
    assert_eq!(answer, Registered::At { applied: Lsn(0), by: None, clock_floor_ms: NOON + 5 });

    // What a cut carried, logs are trimmed by, though no bitmap went.
    bench.flush().await;
    assert!(bench.link.retire("g", &gateway.approved).await.unwrap());
    let newcomer = bench.link.register("new", "first", &gateway.approved).await.unwrap();
    assert_eq!(newcomer, Registered::At { applied: Lsn(0), by: None, clock_floor_ms: NOON + 5 });
}

/// A gateway that counted one batch of each class, stamped in the hour that starts at noon.
async fn one_of_each_class(bench: &mut Bench) -> Gateway {
    let gateway = bench.gateway("g").await;
    let of_class =
        |class: u32| Batch { class, ..crate::bench::batch(sid_at(NOON + HOUR - 1, class), 1, u64::from(class) + 1) };
    gateway.counts(bench, &call(0, 2, vec![of_class(0), of_class(1)])).await;
    gateway
}

async fn bitmaps_after_a_cut_at(bench: &mut Bench, gateway: &Gateway, watermark_ms: u64) -> Vec<String> {
    assert_eq!(gateway.watermark(bench, watermark_ms, 2).await, Reported::Done { durable: Lsn(0) });
    let cut = bench.cut().await;
    bench.settle(cut.n).await;
    bench.keys().await.into_iter().filter_map(|key| Some(key.strip_prefix("{0}:d:")?[..1].to_owned())).collect()
}

#[tokio::test]
async fn bitmaps_go_when_acceptance_lies_before_every_watermark() {
    let mut bench = Bench::new().await;
    let gateway = one_of_each_class(&mut bench).await;
    let (short, long) = (NOON + HOUR + 2 * HOUR, NOON + HOUR + 26 * HOUR);
    assert_eq!(bitmaps_after_a_cut_at(&mut bench, &gateway, short).await, ["0", "1"]);
    assert_eq!(bitmaps_after_a_cut_at(&mut bench, &gateway, short + 1).await, ["1"]);
    assert_eq!(bitmaps_after_a_cut_at(&mut bench, &gateway, long).await, ["1"]);
    assert_eq!(bitmaps_after_a_cut_at(&mut bench, &gateway, long + 1).await, [""; 0]);

    let answer = bench.link.register("new", "first", &gateway.approved).await.unwrap();
    assert_eq!(
        answer,
        Registered::At { applied: Lsn(0), by: None, clock_floor_ms: long + 1 },
        "the horizon holds for newcomers too"
    );
}

#[tokio::test]
async fn a_silent_gateway_keeps_the_bitmaps() {
    let mut bench = Bench::new().await;
    let gateway = one_of_each_class(&mut bench).await;
    let silent = bench.gateway("silent").await;
    assert_eq!(bitmaps_after_a_cut_at(&mut bench, &gateway, NOON + 100 * HOUR).await, ["0", "1"]);
    assert_eq!(silent.watermark(&mut bench, NOON + 2 * HOUR + MINUTE, 0).await, Reported::Done { durable: Lsn(0) });
    assert_eq!(bitmaps_after_a_cut_at(&mut bench, &gateway, NOON + 100 * HOUR).await, ["0", "1"]);
    assert!(bench.link.retire("silent", &silent.approved).await.unwrap());
    assert_eq!(bitmaps_after_a_cut_at(&mut bench, &gateway, NOON + 100 * HOUR).await, [""; 0]);
}

#[tokio::test]
async fn no_bitmap_goes_without_a_cut() {
    let mut bench = Bench::new().await;
    let gateway = one_of_each_class(&mut bench).await;
    bench.cut().await; // not settled: the next cut is this one again
    assert_eq!(gateway.watermark(&mut bench, NOON + 100 * HOUR, 2).await, Reported::Done { durable: Lsn(0) });
    bench.cut().await;
    assert!(bench.keys().await.iter().any(|key| key.starts_with("{0}:d:0")));
}

#[tokio::test]
async fn outcomes_go_with_the_watermark_that_covers_them() {
    let mut bench = Bench::new().await;
    let gateway = bench.gateway("g").await;
    for lsn in 1..=3 {
        gateway.apply(&mut bench, &pageview(lsn, 7, NOON, "/")).await;
    }
    assert!(bench.keys().await.contains(&"{0}:x:g".to_owned()));
    assert_eq!(gateway.watermark(&mut bench, NOON, 3).await, Reported::Done { durable: Lsn(0) });
    assert!(!bench.keys().await.contains(&"{0}:x:g".to_owned()));
}

#[tokio::test]
async fn a_gateway_that_reads_its_log_again_keeps_its_mark_and_has_its_outcomes_forgotten() {
    let mut bench = Bench::new().await;
    let gateway = bench.gateway("g").await;
    gateway.counts(&mut bench, &pageview(1, 7, NOON, "/")).await;
    assert_eq!(gateway.watermark(&mut bench, NOON, 1).await, Reported::Done { durable: Lsn(0) });
    gateway.counts(&mut bench, &pageview(2, 7, NOON, "/")).await;
    assert_eq!(gateway.watermark(&mut bench, 0, 2).await, Reported::Done { durable: Lsn(0) });
    assert_eq!(bench.link.unlogged("g").await.unwrap(), []);
    let cut = bench.link.cut(&bench.leader, NOON).await.unwrap().unwrap();
    assert_eq!(cut.watermark_ms, NOON);
}

#[tokio::test]
async fn a_retired_gateway_goes_with_the_flush_that_covers_it() {
    let mut bench = Bench::new().await;
    let (gone, stays) = (bench.gateway("gone").await, bench.gateway("stays").await);
    gone.counts(&mut bench, &pageview(1, 7, NOON, "/")).await;
    stays.counts(&mut bench, &call(0, 1, vec![batch(sid(50), 1, 1)])).await;
    let cut = bench.cut().await;
    gone.counts(&mut bench, &pageview(2, 7, NOON, "/")).await; // behind the cut
    assert!(bench.link.retire("gone", &gone.approved).await.unwrap());
    assert!(bench.link.advance_durable(&bench.leader, &cut.vector).await.unwrap());
    bench.settle(cut.n).await;
    let mut connection = bench.redis.connection().await;
    let mut known = async || {
        let mut gateways = Vec::new();
        for key in ["{0}:a", "{0}:k", "{0}:o"] {
            let is_there: bool = redis::cmd("HEXISTS").arg(key).arg("gone").query_async(&mut connection).await.unwrap();
            gateways.push(is_there);
        }
        gateways
    };
    assert_eq!(known().await, [true; 3], "not all of it is covered");
    let cut = bench.cut().await;
    assert_eq!(cut.vector.iter().find(|(name, _)| name == "gone").unwrap().1, Lsn(2));
    assert!(bench.link.advance_durable(&bench.leader, &cut.vector).await.unwrap());
    bench.settle(cut.n).await;
    assert_eq!(known().await, [false; 3]);
    assert_eq!(bench.cut().await.vector, [("stays".to_owned(), Lsn(1))]);
    assert_eq!(bench.link.register("gone", "again", &gone.approved).await.unwrap(), Registered::Retired);
}
