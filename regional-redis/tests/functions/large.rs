use regional_redis::Lsn;
use regional_redis::apply::{Applied, BATCHES_MAX, Call, VisitStep};
use regional_redis::counter::{Counter, Metric};
use regional_redis::visit::{visit_id, visit_key};

use crate::bench::{Bench, NOON, batch, call, counted, sid};

#[tokio::test]
async fn a_call_of_as_many_batches_visits_and_counters_as_may_be() {
    let mut bench = Bench::new().await;
    let gateway = bench.gateway("g").await;
    let last = BATCHES_MAX as u64;
    let page = |lsn: u64| Some((NOON + lsn, format!("/{}/{lsn}", "long".repeat(400))));
    let visits: Vec<_> = (1..=last)
        .map(|lsn| VisitStep {
            lsn: Lsn(lsn),
            key: visit_key(&format!("site-{lsn}.example"), lsn),
            other_key: None,
            id: visit_id(sid(lsn as u32).as_bytes(), 1),
            first_ms: NOON,
            last_ms: NOON,
            pageviews: 1,
            events: 0,
            engaged_ms: 0,
            entry: page(lsn),
            exit: page(lsn),
            dimensions: vec![0x0a, 1, b'x'],
        })
        .collect();
    let counters = (0..20_000u32).map(|i| {
        let site = format!("site-{}.example", i % 1000);
        let value = format!("/{i}");
        (
            Counter::Rollup {
                kind: proto::uplink::Kind::Page,
                metric: Metric::Pageviews,
                minute: i / 1000,
                site,
                value,
            }
            .to_field(),
            u64::from(i),
        )
    });
    let batches = (1..=last).map(|lsn| batch(sid(lsn as u32), 1, lsn)).collect();
    let large = Call { visits, uniques: vec![], ..counted(call(0, last, batches), counters.collect()) };
    gateway.counts(&mut bench, &large).await;

    let rows = bench.flush().await;
    assert_eq!((rows.visits.len(), rows.rollups.len()), (1000, 20_000));
    assert_eq!(rows.rollups.iter().map(|row| row.pageviews).sum::<u64>(), (0..20_000).sum::<u64>());
    assert!(rows.visits.iter().all(|visit| visit.exit_page.ends_with(&format!("/{}", visit.visitor))));

    // All of them again, by another gateway: every single one is a duplicate.
    let other = bench.gateway("other").await;
    let Applied::Duplicates(lsns) = other.apply(&mut bench, &large).await else { panic!("not duplicates") };
    assert_eq!(lsns, (1..=last).map(Lsn).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_thousand_batches_of_one_agent() {
    let mut bench = Bench::new().await;
    let gateway = bench.gateway("g").await;
    let batches = |from: u32| (from..from + 1000).map(|seq| batch(sid(1), seq, u64::from(seq))).collect();
    gateway.counts(&mut bench, &call(0, 1000, batches(1))).await;
    let Applied::Duplicates(lsns) = gateway.apply(&mut bench, &call(1000, 2000, batches(501))).await else {
        panic!("not duplicates")
    };
    assert_eq!(lsns, (501..=1000).map(Lsn).collect::<Vec<_>>());
}

#[tokio::test]
async fn one_batch_too_many_is_an_error_and_nothing_is_written() {
    let mut bench = Bench::new().await;
    let gateway = bench.gateway("g").await;
    let before = bench.everything().await;
    let batches = (1..=1001).map(|lsn| batch(sid(lsn), 1, u64::from(lsn))).collect();
    let error = gateway.try_apply(&mut bench, &call(0, 1001, batches)).await.unwrap_err().to_string();
    assert!(error.contains("too many batches"), "{error}");
    bench.assert_unchanged(&before).await;
}

#[tokio::test]
async fn many_uniques_and_sites_at_once() {
    let mut bench = Bench::new().await;
    let gateway = bench.gateway("g").await;
    let sighting = |visitor: u64| {
        let site = format!("site-{}", visitor % 10);
        regional_redis::counter::Sighting {
            kind: proto::uplink::Kind::Total,
            quarter: 1,
            site,
            value: String::new(),
            visitor,
        }
        .to_member()
    };
    let large = Call { uniques: (0..50_000).map(sighting).collect(), ..call(0, 1, vec![]) };
    gateway.counts(&mut bench, &large).await;
    let rows = bench.flush().await;
    assert_eq!(rows.uniques.len(), 10);
    assert!(rows.uniques.iter().all(|row| row.visitors.len() == 5000 && row.visitors.is_sorted()));
}

#[tokio::test]
async fn more_gateways_than_a_lua_stack_holds() {
    let mut bench = Bench::new().await;
    let mut connection = bench.redis.connection().await;
    let mut pipe = redis::pipe();
    for gateway in 0..9000 {
        pipe.cmd("HSET").arg("{0}:a").arg(format!("gateway-{gateway}")).arg(gateway).ignore();
    }
    let () = pipe.query_async(&mut connection).await.unwrap();
    let cut = bench.cut().await;
    assert_eq!(cut.vector.len(), 9000);
    assert_eq!(bench.cut().await.vector.len(), 9000);
    assert!(bench.link.advance_durable(&bench.leader, &cut.vector).await.unwrap());
}
