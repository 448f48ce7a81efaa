//! A Redis is lost: what central gives for its rebuild, and whom it still listens to. Over real sockets, into the real
//! engine.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

#[path = "running/central.rs"]
mod running;

use proto::{
    Message as _,
    record::{Record, RecordedEvent},
    uplink::{
        Durable, FlushChunk, FlushEnd, FlushId, FlushRows, GatewayHello, GatewayPosition, OpenEpoch, Outcome, Outcomes,
        Progress, RawAck, RawBatch, RawRows, Recall, Recalled, Remembered, Restore, StandIn, VisitRow, central_frame,
        region_frame::Frame,
    },
};
use running::{GATEWAY, Peer, Running, TOKEN, flush};

const SECOND: &str = "6b3f0f0e-8f43-4d5e-9d6c-0a8d6f1f0002";
const THIRD: &str = "6b3f0f0e-8f43-4d5e-9d6c-0a8d6f1f0003";
const HOUR_MS: u64 = 60 * 60 * 1000;

#[tokio::test]
async fn a_lost_redis_is_rebuilt_from_what_was_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let central = Running::start(folder.path()).await;
    let (mut leader, leadership) = central.aggregator().await;
    let mut gateway = enters(&central, GATEWAY, "").await;
    assert_eq!(progress(&mut gateway).await, of(1, 0, 0));

    // A flush with two visits, one of them long over, and outcomes that the gateway has not logged.
    let cut_ms = now_ms();
    let visits = vec![visit(1, cut_ms - HOUR_MS / 2), visit(2, cut_ms - 2 * HOUR_MS)];
    let outcomes = vec![call(1, 0, 5), call(1, 5, 9)];
    let rows = FlushRows { visits: visits.clone(), outcomes: outcomes.clone(), ..FlushRows::default() };
    leader.flush(whole(1, leadership.term, 0, rows, 9, cut_ms)).await;
    assert_eq!(progress(&mut gateway).await, of(1, 9, cut_ms));
    let recalled = recall(&mut gateway, 5).await;
    assert_eq!(recalled.outcomes, outcomes[1..]);
    assert_eq!((recalled.progress, recalled.last), (Some(of(1, 9, cut_ms)), true));

    // It logs them and says so with its raw rows. The batch is of now: its acceptance is not over.
    let ack = raw(&mut gateway, 7, 9, vec![batch(4, 1, cut_ms)]).await;
    assert_eq!(ack, RawAck { shard: 0, generation: 7, last: 9 });
    assert_eq!(recall(&mut gateway, 0).await.outcomes, []);

    // Its folder is lost: another one takes its place, and its stream ends.
    let _second = enters(&central, SECOND, GATEWAY).await;
    assert!(gateway.refusal().await.contains("was retired"));

    let vector = [GATEWAY, SECOND]
        .map(|gateway| GatewayPosition { gateway: gateway.to_owned(), lsn: 9, ..Default::default() })
        .to_vec();
    let durable = Durable { shard: 0, epoch: 1, term: leadership.term, open_flush: 1, vector };
    let central_frame::Frame::DurableAck(ack) = leader.ask(Frame::Durable(durable)).await else { panic!("no ack") };
    assert_eq!((ack.open_flush, ack.retired), (1, vec![GATEWAY.to_owned()]));

    let restore = open_epoch(&mut leader, leadership.term).await;
    assert_eq!((restore.epoch, restore.watermark_ms, restore.last), (2, cut_ms, true));
    assert_eq!((restore.waiting, restore.retired), (vec![SECOND.to_owned()], vec![GATEWAY.to_owned()]));
    assert_eq!(restore.visits, visits[..1], "the visit that may still run");
    let batches = [Remembered { class: 0, sid: sid(4, cut_ms), seqs: vec![1] }];
    assert_eq!(restore.batches, batches);

    // The old epoch is over, for what is repeated too; the new one begins at flush 0.
    let refusal = leader.refused(flush(1, leadership.term, 0, vec![])).await;
    assert!(refusal.contains("is in epoch 2, not 1"), "{refusal}");
    let (mut leader, leadership) = central.aggregator().await;
    assert_eq!((leadership.epoch, leadership.next_flush, leadership.open_flush), (2, 0, 0));
    assert_eq!((leadership.gateways, leadership.durable.len()), (vec![SECOND.to_owned()], 0));
    assert_eq!(leadership.accepted, [], "what a retired gateway had reached says nothing any more");
    assert_eq!(leadership.watermark_ms, cut_ms);

    // The second gateway does not come back either; the third takes its place while the rebuild waits for it.
    assert_eq!(
        stand_in(&mut leader, leadership.term, 2).await,
        Restore { retired: vec![], batches: vec![], ..part(2, cut_ms) }
    );
    let mut second = enters(&central, SECOND, "").await;
    assert_eq!(progress(&mut second).await, of(2, 0, cut_ms));
    assert_eq!(raw(&mut second, 1, 3, vec![batch(2, 2, cut_ms)]).await.last, 3);
    let _third = enters(&central, THIRD, SECOND).await;
    let stood_in = stand_in(&mut leader, leadership.term, 2).await;
    // No flush covered its rows: their counts were lost with Redis, and what agents send again must count.
    assert_eq!(stood_in, Restore { retired: vec![SECOND.to_owned()], batches: vec![], ..part(2, cut_ms) });

    // The first flush of the new epoch knows nothing of the retired gateways.
    let rows = FlushRows::default();
    leader.flush(whole_of(THIRD, 2, leadership.term, 0, rows, 1, cut_ms + 1)).await;
    central.stop().await;
    let central = Running::start(folder.path()).await;
    let (_, leadership) = central.aggregator().await;
    assert_eq!((leadership.epoch, leadership.next_flush, leadership.watermark_ms), (2, 1, cut_ms + 1));
    assert_eq!(leadership.accepted, [GatewayPosition { gateway: THIRD.to_owned(), lsn: 1, ..Default::default() }]);
    central.stop().await;
}

#[tokio::test]
async fn only_the_leader_opens_an_epoch_and_none_is_opened_twice() {
    let folder = tempfile::tempdir().unwrap();
    let central = Running::start(folder.path()).await;
    let (mut old, before) = central.aggregator().await;
    let (mut leader, leadership) = central.aggregator().await;
    old.send(opening(before.term)).await;
    assert!(old.refusal().await.contains("another aggregator leads"));

    // Twice the same wish, as of a leader whose answer was lost: an epoch never begins a second time.
    for epoch in [2, 3] {
        assert_eq!(open_epoch(&mut leader, leadership.term).await, part(epoch, 0));
    }
    leader.flush(flush(3, leadership.term, 0, vec![])).await;

    // Central dies before the leader has its answer.
    leader.send(opening(leadership.term)).await;
    let Some(central_frame::Frame::Restore(_)) = leader.next().await.unwrap() else { panic!("no restore") };
    central.stop().await;
    let central = Running::start(folder.path()).await;
    let (mut leader, leadership) = central.aggregator().await;
    assert_eq!((leadership.epoch, leadership.next_flush), (4, 0));
    for epoch in [2, 3] {
        let (mut stale, leadership) = central.aggregator().await;
        let refusal = stale.refused(flush(epoch, leadership.term, 0, vec![])).await;
        assert!(refusal.contains("is in epoch 4"), "{refusal}");
    }
    // The one that led before these two lost its term.
    leader.send(stand_in_for(leadership.term, 4)).await;
    assert!(leader.refusal().await.contains("another aggregator leads"));
    central.stop().await;
}

#[tokio::test]
async fn what_is_not_a_gateways_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let central = Running::start(folder.path()).await;
    let refused = async |frame| {
        let mut gateway = enters(&central, GATEWAY, "").await;
        gateway.send(frame).await;
        loop {
            match gateway.next().await.unwrap() {
                Some(central_frame::Frame::Progress(_)) => {}
                Some(central_frame::Frame::Refusal(refusal)) => return refusal.message,
                other => panic!("{other:?}"),
            }
        }
    };
    let rows = |batches| Frame::Raw(RawRows { last: 9, batches, ..RawRows::default() });
    assert!(refused(rows(vec![])).await.contains("never led"));
    let (_leader, leadership) = central.aggregator().await;
    let damaged = RawBatch { record: vec![0xff; 5], ..batch(3, 1, 0) };
    assert!(refused(rows(vec![damaged])).await.contains("does not decode"));
    assert!(refused(opening(leadership.term)).await.contains("does not belong"));
    central.stop().await;
}

fn now_ms() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap()
}

fn of(epoch: u64, accepted: u64, watermark_ms: u64) -> Progress {
    Progress { shard: 0, epoch, accepted, watermark_ms, ..Default::default() }
}

/// The only part of a restore that has nothing in it.
fn part(epoch: u64, watermark_ms: u64) -> Restore {
    Restore { epoch, watermark_ms, last: true, ..Restore::default() }
}

fn sid(last: u8, stamp_ms: u64) -> Vec<u8> {
    let mut sid = vec![last; 16];
    sid[..6].copy_from_slice(&stamp_ms.to_be_bytes()[2..]);
    sid
}

fn visit(last: u8, last_ms: u64) -> VisitRow {
    let sid = sid(last, last_ms);
    let dimensions = Some(Default::default());
    VisitRow {
        site: "shop".to_owned(),
        sid,
        seq: 1,
        version: 1,
        start_ms: last_ms,
        last_ms,
        dimensions,
        ..Default::default()
    }
}

fn call(epoch: u64, prev: u64, last: u64) -> Outcomes {
    let counted = vec![Outcome { lsn: last, visit: vec![1; 20] }];
    Outcomes { gateway: GATEWAY.to_owned(), epoch, prev, last, counted }
}

fn batch(lsn: u64, epoch: u64, stamp_ms: u64) -> RawBatch {
    let events = vec![RecordedEvent { name: "pageview".to_owned(), ..RecordedEvent::default() }];
    let record = Record { site: "shop".to_owned(), sid: sid(lsn as u8, stamp_ms), seq: 1, events, ..Record::default() };
    RawBatch { lsn, epoch, visit: vec![1; 20], record: record.encode_to_vec() }
}

fn whole(epoch: u64, term: u64, n: u64, rows: FlushRows, lsn: u64, cut_ms: u64) -> Vec<FlushChunk> {
    whole_of(GATEWAY, epoch, term, n, rows, lsn, cut_ms)
}

fn whole_of(gateway: &str, epoch: u64, term: u64, n: u64, rows: FlushRows, lsn: u64, cut_ms: u64) -> Vec<FlushChunk> {
    let count = rows.visits.len() + rows.outcomes.len();
    let rows = rows.encode_to_vec();
    let vector = vec![GatewayPosition { gateway: gateway.to_owned(), lsn, ..Default::default() }];
    let crc32c = crc32c::crc32c(&rows);
    let end = FlushEnd { chunks: 1, rows: count as u64, crc32c, vector, watermark_ms: cut_ms, cut_ms };
    let id = FlushId { region: "local".to_owned(), shard: 0, epoch, n };
    vec![FlushChunk { id: Some(id), term, index: 0, rows, end: Some(end) }]
}

/// A gateway that has registered in Redis, in place of another one.
async fn enters(central: &Running, gateway: &str, retires: &str) -> Peer {
    let mut peer = central.uplink(TOKEN).await.unwrap();
    let hello = GatewayHello {
        region: "local".to_owned(),
        gateway: gateway.to_owned(),
        retires: retires.to_owned(),
        entered: true,
        ..GatewayHello::default()
    };
    let answer = peer.ask(Frame::Gateway(hello)).await;
    assert!(matches!(answer, central_frame::Frame::Configuration(_)), "{answer:?}");
    peer
}

async fn progress(gateway: &mut Peer) -> Progress {
    match gateway.next().await.unwrap().unwrap() {
        central_frame::Frame::Progress(progress) => progress,
        other => panic!("{other:?}"),
    }
}

async fn recall(gateway: &mut Peer, after: u64) -> Recalled {
    match gateway.ask(Frame::Recall(Recall { shard: 0, after })).await {
        central_frame::Frame::Recalled(recalled) => recalled,
        other => panic!("{other:?}"),
    }
}

async fn raw(gateway: &mut Peer, generation: u64, last: u64, batches: Vec<RawBatch>) -> RawAck {
    let rows = RawRows { shard: 0, generation, last, logged: last, batches };
    match gateway.ask(Frame::Raw(rows)).await {
        central_frame::Frame::RawAck(ack) => ack,
        other => panic!("{other:?}"),
    }
}

fn opening(term: u64) -> Frame {
    Frame::OpenEpoch(OpenEpoch { shard: 0, term, reason: "empty".to_owned() })
}

async fn open_epoch(leader: &mut Peer, term: u64) -> Restore {
    restore(leader.ask(opening(term)).await)
}

fn stand_in_for(term: u64, epoch: u64) -> Frame {
    Frame::StandIn(StandIn { shard: 0, term, epoch, waiting: vec![SECOND.to_owned()] })
}

async fn stand_in(leader: &mut Peer, term: u64, epoch: u64) -> Restore {
    restore(leader.ask(stand_in_for(term, epoch)).await)
}

fn restore(frame: central_frame::Frame) -> Restore {
    match frame {
        central_frame::Frame::Restore(restore) => restore,
        other => panic!("{other:?}"),
    }
}
