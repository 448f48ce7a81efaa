use aggregator::Error;

use crate::bench::Bench;

#[tokio::test]
async fn the_older_of_two_leaders_gives_up_when_central_refuses_it() {
    let bench = Bench::new().await;
    let older = bench.start("older");
    older.is_ready().await;
    let mut gateway = bench.gateway("g");
    gateway.apply_up_to(5).await;
    let newer = bench.start("newer");
    newer.is_ready().await;
    gateway.apply_up_to(9).await; // without registering again: the approval is of the process, not of the leader
    let ended = older.ended().await;
    assert!(matches!(ended, Err(Error::Deposed { term: 2 })), "{ended:?}");
    gateway.apply_up_to(12).await;
    bench.counted(12).await;
    newer.stop().await.unwrap();
}

#[tokio::test]
async fn the_older_of_two_leaders_gives_up_when_redis_fences_it() {
    let bench = Bench::new().await;
    bench.central.look(|state| state.polite_to_old_leaders = true);
    let older = bench.start("older");
    older.is_ready().await;
    let newer = bench.start("newer");
    newer.is_ready().await;
    bench.gateway("g").apply_up_to(5).await;
    let ended = older.ended().await;
    assert!(matches!(ended, Err(Error::Deposed { term: 2 })), "{ended:?}");
    bench.counted(5).await;
    newer.stop().await.unwrap();
}

#[tokio::test]
async fn a_successor_goes_on_with_the_flush_that_it_finds() {
    let bench = Bench::new().await;
    bench.central.look(|state| state.faults.push_back(crate::central::Fault::HoldAck));
    let older = bench.start("older");
    bench.gateway("g").apply_up_to(5).await;
    crate::bench::until("the flush", async || bench.central.look(|state| state.next_flush == 1)).await;
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
