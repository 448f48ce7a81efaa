use std::time::{Duration, Instant};

use regional_redis::Sign;

use crate::bench::{Bench, until};
use crate::central::Fault;

#[tokio::test]
async fn a_second_aggregator_stands_by_until_the_first_stops() {
    let bench = Bench::new().await;
    let first = bench.start("first");
    first.is_ready().await;
    let mut gateway = bench.gateway("g");
    gateway.apply_up_to(5).await;
    let second = bench.start("second");
    second.says("another aggregator leads this shard, under term 1").await;
    gateway.apply_up_to(9).await;
    bench.counted(9).await;
    assert_eq!(first.admin("/ready").await.0, 200);
    assert_eq!(bench.central.look(|state| state.terms), 1, "the second never asked for a term");

    first.stop().await.unwrap();
    let stopped = Instant::now();
    second.is_ready().await;
    assert!(stopped.elapsed() < Duration::from_secs(2), "{:?}", stopped.elapsed());
    gateway.apply_up_to(12).await; // without registering again: the approval is of the process, not of the leader
    bench.counted(12).await;
    second.stop().await.unwrap();
}

#[tokio::test]
async fn whoever_is_deposed_stands_by_and_takes_over_when_the_other_falls_silent() {
    let bench = Bench::new().await;
    let aggregator = bench.start("a");
    aggregator.is_ready().await;
    let mut gateway = bench.gateway("g");
    gateway.apply_up_to(5).await;
    bench.counted(5).await;

    // Another one, which thought that this one was gone.
    let mut link = bench.redis.link().await;
    let term = bench.central.look(|state| {
        state.terms += 1;
        state.terms
    });
    link.approve(term, 1).await.unwrap().unwrap();
    for count in 0..3 {
        assert!(link.sign_of_life(Sign { term, count }).await.unwrap());
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    aggregator.says("another aggregator leads this shard, under term 2").await;
    assert_eq!(bench.central.look(|state| state.terms), 2, "it did not take the lead back");
    gateway.apply_up_to(8).await;

    aggregator.is_ready().await;
    bench.counted(8).await;
    assert_eq!(bench.central.look(|state| state.terms), 3);
    aggregator.stop().await.unwrap();
}

#[tokio::test]
async fn a_successor_goes_on_with_the_flush_that_it_finds() {
    let bench = Bench::new().await;
    bench.central.look(|state| state.faults.push_back(Fault::HoldAck));
    let older = bench.start("older");
    bench.gateway("g").apply_up_to(5).await;
    until("the flush", async || bench.central.look(|state| state.next_flush == 1)).await;
    older.task.abort(); // as kill -9 would
    let newer = bench.start("newer");
    newer.is_ready().await;
    bench.gateway("g").apply_up_to(8).await;
    bench.counted(8).await;
    bench.central.look(|state| {
        let sent: Vec<_> = state.transmissions.iter().filter(|it| it.n == 0).collect();
        assert_eq!((sent.len(), &sent[0].chunks), (2, &sent[1].chunks));
    });
    newer.stop().await.unwrap();
}
