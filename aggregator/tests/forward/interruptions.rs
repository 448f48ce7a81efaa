use std::time::Duration;

use crate::bench::{Bench, until};
use crate::central::{Fault, Transmission};

/// Runs one flush of five pageviews into a fault, and returns what was sent as flush 0.
async fn through(fault: Fault) -> Vec<Transmission> {
    let bench = Bench::new().await;
    bench.central.look(|state| state.faults.push_back(fault));
    let aggregator = bench.start("a");
    let mut gateway = bench.gateway("g");
    gateway.apply_up_to(5).await;
    until("a second transmission", async || bench.central.look(|state| state.transmissions.len() >= 2)).await;
    bench.counted(5).await;
    gateway.apply_up_to(8).await;
    bench.counted(8).await;
    aggregator.stop().await.unwrap();
    bench.central.look(|state| state.transmissions.iter().filter(|it| it.n == 0).cloned().collect())
}

fn assert_same_bytes_under_a_new_term(sent: &[Transmission]) {
    assert_eq!(sent.len(), 2, "settled after the second");
    assert_eq!(sent[0].chunks, sent[1].chunks);
    assert!(sent[1].term > sent[0].term);
}

#[tokio::test]
async fn a_stream_that_breaks_before_the_flush_is_accepted() {
    assert_same_bytes_under_a_new_term(&through(Fault::DropBeforeAccepting).await);
}

#[tokio::test]
async fn a_stream_that_breaks_between_flush_and_acknowledgement() {
    assert_same_bytes_under_a_new_term(&through(Fault::DropAfterAccepting).await);
}

#[tokio::test]
async fn a_refusal_is_tried_again_while_nobody_else_leads() {
    assert_same_bytes_under_a_new_term(&through(Fault::Refuse).await);
}

#[tokio::test]
async fn redis_killed_between_flush_and_acknowledgement() {
    let mut bench = Bench::new().await;
    bench.central.look(|state| state.faults.push_back(Fault::HoldAck));
    let aggregator = bench.start("a");
    let mut gateway = bench.gateway("g");
    gateway.apply_up_to(5).await;
    until("the flush", async || bench.central.look(|state| state.next_flush == 1)).await;
    gateway.apply_up_to(7).await;
    bench.redis.kill_and_restart().await;
    bench.central.release();

    gateway.apply_up_to(9).await;
    bench.counted(9).await;
    bench.central.look(|state| {
        let first: Vec<_> = state.transmissions.iter().filter(|it| it.n == 0).collect();
        assert_eq!(first.len(), 2);
        assert_eq!(first[0].chunks, first[1].chunks);
    });
    aggregator.stop().await.unwrap();
}

#[tokio::test]
async fn while_central_is_away_nothing_is_cut_and_everything_is_counted() {
    let mut bench = Bench::new().await;
    let aggregator = bench.start("a");
    let mut gateway = bench.gateway("g");
    gateway.apply_up_to(5).await;
    bench.counted(5).await;
    let next = bench.central.look(|state| state.next_flush);
    bench.central.kill().await;
    aggregator.says("central").await;
    for last in [10, 20, 30] {
        gateway.apply_up_to(last).await; // still approved
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let position = bench.redis.link().await.position().await.unwrap();
    assert_eq!((position.open_flush, position.unsettled), (next, None));
    bench.central.restart().await;
    bench.counted(30).await;
    assert_eq!(bench.central.look(|state| state.next_flush), next + 1);
    aggregator.is_ready().await;
    aggregator.stop().await.unwrap();
}

#[tokio::test]
async fn redis_is_waited_for() {
    let mut bench = Bench::new().await;
    bench.redis.kill();
    let aggregator = bench.start("a");
    aggregator.says("redis").await;
    bench.redis.restart().await;
    aggregator.is_ready().await;
    bench.gateway("g").apply_up_to(5).await;
    bench.counted(5).await;
    aggregator.stop().await.unwrap();
}

#[tokio::test]
async fn a_central_that_is_behind_is_an_alarm() {
    let bench = Bench::new().await;
    let aggregator = bench.start("a");
    bench.gateway("g").apply_up_to(5).await;
    bench.counted(5).await;
    aggregator.stop().await.unwrap();
    bench.central.look(|state| *state = crate::central::State { terms: 7, ..Default::default() });
    let aggregator = bench.start("b");
    aggregator.says("central is older than this Redis").await;
    let (_, metrics) = aggregator.admin("/metrics").await;
    assert!(metrics.contains("tideline_aggregator_mismatch 1"), "{metrics}");
    assert!(metrics.contains("tideline_aggregator_leading 0"), "{metrics}");
    assert_eq!(bench.central.look(|state| state.opened.len()), 0, "nothing is rebuilt from it");
    aggregator.stop().await.unwrap();
}

/// Whatever breaks, in whatever order: each record is counted once. The seed is printed with a failure.
#[tokio::test]
async fn exactly_once_through_many_faults() {
    let seed: u32 = rand::random();
    println!("seed {seed}");
    let mut random = seed | 1;
    let mut dice = move |sides: u32| {
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        random % sides
    };
    let mut bench = Bench::new().await;
    let mut config = bench.config();
    config.cut_interval_ms = 30;
    let aggregator = bench.start_with("a", config);
    let mut gateways = [bench.gateway("one"), bench.gateway("two")];
    let mut last = [0, 0];
    let mut backup = bench.redis.back_up().await;
    for round in 0..40 {
        if round % 10 == 9 {
            backup = bench.redis.back_up().await;
        }
        let which = dice(2) as usize;
        last[which] += u64::from(dice(40));
        let [one, two] = &mut gateways;
        let (busy, idle) = if which == 0 { (one, two) } else { (two, one) };
        tokio::select! {
            () = busy.apply_up_to(last[which]) => {}
            never = idle.keep_up(last[1 - which]) => match never {},
        }
        match dice(12) {
            0 => bench.redis.kill_and_restart().await,
            10 => bench.redis.lose_everything().await,
            11 => bench.redis.roll_back_to(&backup).await,
            1 => {
                bench.central.kill().await;
                bench.central.restart().await;
            }
            2 | 3 => bench.central.look(|state| state.faults.push_back(Fault::DropBeforeAccepting)),
            4 | 5 => bench.central.look(|state| state.faults.push_back(Fault::DropAfterAccepting)),
            6 => bench.central.look(|state| state.faults.push_back(Fault::Refuse)),
            _ => tokio::time::sleep(Duration::from_millis(u64::from(dice(60)))).await,
        }
    }
    bench.central.look(|state| state.faults.clear());
    let [one, two] = &mut gateways;
    tokio::select! {
        () = bench.counted(last.iter().sum()) => {}
        never = one.keep_up(last[0]) => match never {},
        never = two.keep_up(last[1]) => match never {},
    }
    bench.central.look(|state| {
        assert_eq!(state.accepted, [("one".into(), last[0]), ("two".into(), last[1])].into());
        for flush in &state.transmissions {
            let same = |it: &&Transmission| (it.epoch, it.n) == (flush.epoch, flush.n);
            let first = state.transmissions.iter().find(same).unwrap();
            assert_eq!(first.chunks, flush.chunks, "flush {} changed its bytes", flush.n);
        }
    });
    aggregator.stop().await.unwrap();
}
