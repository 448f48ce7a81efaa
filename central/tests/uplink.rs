//! The uplink over real sockets, into the real engine.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

#[path = "running/central.rs"]
mod running;

use proto::uplink::{
    Durable, GatewayHello, GatewayPosition, Live, LiveBucket, LiveSite, Progress, ShardLsn, central_frame, region_frame,
};
use running::{GATEWAY, Peer, Running, TOKEN, flush, this_minute, totals};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tonic::Code;

#[tokio::test]
async fn a_flush_counts_once_and_survives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let central = Running::start(folder.path()).await;
    central.put_site("shop").await;
    let minute = this_minute();
    let rows = || vec![totals("shop", minute, 3), totals("shop", minute - 1, 4), totals("nobody's", minute, 9)];

    let (mut first, leadership) = central.aggregator().await;
    assert_eq!((leadership.epoch, leadership.term, leadership.next_flush), (1, 1, 0));
    first.flush(flush(1, 1, 0, rows())).await;
    first.flush(flush(1, 1, 0, rows())).await; // a repeat is acknowledged, not counted
    assert_eq!(pageviews(&central).await, 7);

    // What was told as durable never goes down.
    let told = durable(1, 1, 3, 90);
    assert_eq!(durable_ack(first.ask(told).await), 3);
    assert_eq!(durable_ack(first.ask(durable(1, 1, 2, 80)).await), 3);

    // Another leader. The first one's flush is refused though it is the one that is due.
    let (mut second, leadership) = central.aggregator().await;
    assert_eq!((leadership.term, leadership.next_flush, leadership.open_flush), (2, 1, 3));
    assert_eq!(leadership.accepted, [GatewayPosition { gateway: GATEWAY.to_owned(), lsn: 100, ..Default::default() }]);
    assert_eq!(leadership.durable, [GatewayPosition { gateway: GATEWAY.to_owned(), lsn: 90, ..Default::default() }]);
    assert_eq!(leadership.watermark_ms, 1_000);
    let refusal = first.refused(flush(1, 1, 1, rows())).await;
    assert!(refusal.contains("another aggregator leads"), "{refusal}");
    second.flush(flush(1, 2, 1, vec![totals("shop", minute, 10)])).await;
    assert_eq!(pageviews(&central).await, 17);
    central.stop().await;

    let central = Running::start(folder.path()).await;
    assert_eq!(pageviews(&central).await, 17);
    let (mut third, leadership) = central.aggregator().await;
    assert_eq!((leadership.term, leadership.next_flush, leadership.open_flush), (3, 2, 3));
    third.flush(flush(1, 3, 1, rows())).await; // accepted before the restart
    third.flush(flush(1, 3, 2, vec![])).await; // ten seconds in which nothing happened
    assert_eq!(pageviews(&central).await, 17);
    central.stop().await;
}

#[tokio::test]
async fn what_is_wrong_ends_its_own_stream_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let central = Running::start(folder.path()).await;
    central.put_site("shop").await;
    let rows = || vec![totals("shop", this_minute(), 1), totals("shop", this_minute(), 1)];

    for token in ["", "wrong"] {
        assert_eq!(central.uplink(token).await.err().unwrap().code(), Code::Unauthenticated);
    }
    let mut silent = central.uplink(TOKEN).await.unwrap();
    let refusal = silent.refused(flush(1, 1, 0, rows())).await;
    assert!(refusal.contains("first frame"), "{refusal}");
    let mut empty = central.uplink(TOKEN).await.unwrap();
    empty.send_empty().await;
    assert!(empty.refusal().await.contains("empty"));

    let (mut aggregator, leadership) = central.aggregator().await;
    let mut damaged = flush(1, leadership.term, 0, rows());
    damaged[1].end.as_mut().unwrap().crc32c ^= 1;
    let refusal = aggregator.refused(damaged).await;
    assert!(refusal.contains("checksum"), "{refusal}");

    let (mut aggregator, leadership) = central.aggregator().await;
    let refusal = aggregator.refused(flush(1, leadership.term, 1, rows())).await;
    assert!(refusal.contains("flush 0 is due"), "{refusal}");

    let (mut aggregator, leadership) = central.aggregator().await;
    let refusal = aggregator.refused(flush(2, leadership.term, 0, rows())).await;
    assert!(refusal.contains("is in epoch 1, not 2"), "{refusal}");

    let (mut aggregator, leadership) = central.aggregator().await;
    let refusal = aggregator.refused(flush(1, leadership.term + 1, 0, rows())).await;
    assert!(refusal.contains("was never given"), "{refusal}");

    let (mut aggregator, leadership) = central.aggregator().await;
    aggregator.send(durable(leadership.epoch, leadership.term, u64::MAX, 1)).await;
    assert!(aggregator.refusal().await.contains("open flush"));

    assert_eq!(pageviews(&central).await, 0);
    let (mut aggregator, leadership) = central.aggregator().await;
    aggregator.flush(flush(1, leadership.term, 0, rows())).await;
    assert_eq!(pageviews(&central).await, 2, "and the shard goes on");
    central.stop().await;
}

#[tokio::test]
async fn live_figures_pass_into_flushed_ones_without_a_trace() {
    let folder = tempfile::tempdir().unwrap();
    let central = Running::start(folder.path()).await;
    central.put_site("shop").await;
    let minute = this_minute();
    let (mut aggregator, leadership) = central.aggregator().await;
    let said = |buckets: &[(u64, u64)]| {
        let buckets = buckets.iter().map(|&(n, views)| LiveBucket { n, totals: vec![totals("shop", minute, views)] });
        let sites = vec![LiveSite { site: "shop".to_owned(), current_visitors: 4 }];
        region_frame::Frame::Live(Live { shard: 0, epoch: leadership.epoch, buckets: buckets.collect(), sites })
    };
    aggregator.send(said(&[(0, 5), (1, 2)])).await;
    let before = until(&central, 7).await;
    assert_eq!(before["current_visitors"], 4);
    assert_eq!(before["minutes"].as_array().unwrap().len(), 30);

    // Someone watches all the time while the flush is accepted.
    let watching = async {
        let mut seen = Vec::new();
        for _ in 0..50 {
            seen.push(pageviews(&central).await);
        }
        seen
    };
    let (seen, ()) = tokio::join!(watching, aggregator.flush(flush(1, 1, 0, vec![totals("shop", minute, 5)])));
    assert!(seen.iter().all(|pageviews| *pageviews == 7), "{seen:?}");
    aggregator.send(said(&[(1, 3)])).await;
    until(&central, 8).await;
    central.stop().await;
}

#[tokio::test]
async fn a_gateway_is_told_of_every_change() {
    let folder = tempfile::tempdir().unwrap();
    let central = Running::start(folder.path()).await;
    let hello = |gateway: &str, retires: &str| {
        region_frame::Frame::Gateway(GatewayHello {
            region: "local".to_owned(),
            gateway: gateway.to_owned(),
            last: vec![],
            retires: retires.to_owned(),
            entered: true,
        })
    };
    let (mut aggregator, leadership) = central.aggregator().await;
    aggregator.flush(flush(1, leadership.term, 0, vec![])).await; // its vector: LSN 100
    durable_ack(aggregator.ask(durable(1, leadership.term, 1, 120)).await);

    let mut gateway = central.uplink(TOKEN).await.unwrap();
    let told = configuration(gateway.ask(hello(GATEWAY, "")).await);
    assert_eq!(told.sites, []);
    assert_eq!(told.salts.len(), 5);
    assert!(told.salts.iter().all(|salt| salt.key.len() == 16));
    assert_eq!(told.known, [ShardLsn { shard: 0, lsn: 120 }]);
    let progress =
        |epoch, accepted, watermark_ms| Progress { shard: 0, epoch, accepted, watermark_ms, ..Default::default() };
    assert_eq!(self::progress(&mut gateway).await, progress(1, 100, 1_000));
    aggregator.flush(flush(1, leadership.term, 1, vec![])).await;
    assert_eq!(self::progress(&mut gateway).await, progress(1, 101, 1_001));

    central.put_site("shop").await;
    let told = configuration(gateway.next().await.unwrap().unwrap());
    assert_eq!((told.sites[0].name.as_str(), told.sites[0].timezone.as_str()), ("shop", "UTC"));
    assert_eq!(told.sites[0].origins, ["https://shop.example"]);
    assert_eq!((told.sites[0].tenant.as_str(), told.sites[0].keys.len(), told.sites[0].key_required), ("", 0, false));

    let (status, made) = central.post("/api/v2/sites/shop/keys", json!(null)).await;
    assert_eq!(status, 200, "{made}");
    let told = configuration(gateway.next().await.unwrap().unwrap());
    assert_eq!(told.sites[0].keys, [Sha256::digest(made["key"].as_str().unwrap()).to_vec()], "its hash");
    let body = json!({"site_id": "shop", "origins": ["https://shop.example"], "tenant": "acme", "key_required": true});
    assert_eq!(central.post("/api/v2/sites", body).await.0, 200);
    let told = configuration(gateway.next().await.unwrap().unwrap());
    assert_eq!(
        (told.sites[0].tenant.as_str(), told.sites[0].keys.len(), told.sites[0].key_required),
        ("acme", 1, true)
    );
    assert_eq!(central.aggregator().await.1.gateways, [GATEWAY]);

    // Its folder was older than its id: it comes back under a new one, and the old one is gone for good.
    let new = "6b3f0f0e-8f43-4d5e-9d6c-0a8d6f1f0002";
    let told = configuration(gateway.ask(hello(new, GATEWAY)).await);
    assert_eq!(told.known, []);
    assert_eq!(self::progress(&mut gateway).await, progress(1, 0, 1_001));
    let (_, leadership) = central.aggregator().await;
    assert_eq!((leadership.gateways, leadership.accepted, leadership.durable), (vec![new.to_owned()], vec![], vec![]));
    let mut old = central.uplink(TOKEN).await.unwrap();
    old.send(hello(GATEWAY, "")).await;
    assert!(old.refusal().await.contains("was retired"));
    let mut nameless = central.uplink(TOKEN).await.unwrap();
    nameless.send(hello("gateway-1", "")).await;
    assert!(nameless.refusal().await.contains("must be a UUID"));

    // Stopping ends the stream of a gateway that would have stayed.
    central.stop().await;
    assert_eq!(gateway.next().await.unwrap_err().code(), Code::Unavailable);
}

/// Of the last half hour, as the live figures have it.
async fn pageviews(central: &Running) -> u64 {
    let live = central.get("/api/v2/live?site_id=shop").await;
    live["minutes"].as_array().unwrap().iter().map(|minute| minute["pageviews"].as_u64().unwrap()).sum()
}

async fn until(central: &Running, expected: u64) -> serde_json::Value {
    for _ in 0..200 {
        if pageviews(central).await == expected {
            return central.get("/api/v2/live?site_id=shop").await;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("never {expected} pageviews, but {}", pageviews(central).await);
}

fn durable(epoch: u64, term: u64, open_flush: u64, lsn: u64) -> region_frame::Frame {
    let vector = vec![GatewayPosition { gateway: GATEWAY.to_owned(), lsn, ..Default::default() }];
    region_frame::Frame::Durable(Durable { shard: 0, epoch, term, open_flush, vector })
}

fn durable_ack(frame: central_frame::Frame) -> u64 {
    match frame {
        central_frame::Frame::DurableAck(ack) => ack.open_flush,
        other => panic!("{other:?}"),
    }
}

async fn progress(gateway: &mut Peer) -> Progress {
    match gateway.next().await.unwrap().unwrap() {
        central_frame::Frame::Progress(progress) => progress,
        other => panic!("{other:?}"),
    }
}

fn configuration(frame: central_frame::Frame) -> proto::uplink::Configuration {
    match frame {
        central_frame::Frame::Configuration(configuration) => configuration,
        other => panic!("{other:?}"),
    }
}
