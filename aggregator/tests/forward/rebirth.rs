//! A Redis that is behind central is rebuilt, whatever it lost, and whatever breaks on the way.

use aggregator::Config;
use regional_redis::apply::Applied;
use regional_redis::{Lsn, Registered};

use crate::bench::{Aggregator, Bench, until};
use crate::central::Fault;
use crate::gateway::{Gateway, records};

/// Two gateways, 35 pageviews of which central has accepted, and some more in the open bucket.
async fn counted_so_far(bench: &Bench) -> [Gateway; 2] {
    let aggregator = bench.start("before");
    let mut gateways = [bench.gateway("one"), bench.gateway("two")];
    gateways[0].apply_up_to(25).await;
    gateways[1].apply_up_to(10).await;
    bench.counted(35).await;
    aggregator.stop().await.unwrap();
    gateways[0].apply_up_to(27).await;
    gateways
}

/// Both go on, and in the end everything is counted once.
async fn counts_on(bench: &Bench, mut gateways: [Gateway; 2]) {
    let [one, two] = &mut gateways;
    tokio::select! {
        () = bench.counted(60) => {}
        never = one.keep_up(40) => match never {},
        never = two.keep_up(20) => match never {},
    }
    bench.central.look(|state| {
        assert_eq!((state.accepted["one"], state.accepted["two"]), (40, 20));
        assert_eq!(state.visits().iter().map(|visit| visit.pageviews).sum::<u32>(), 60);
        let epoch = state.epoch();
        let numbers: Vec<u64> = state.flushes.keys().filter(|id| id.0 == epoch).map(|id| id.1).collect();
        assert_eq!(numbers, (0..numbers.len() as u64).collect::<Vec<_>>(), "numbers start over");
    });
}

fn reasons(bench: &Bench) -> Vec<String> {
    bench.central.look(|state| state.opened.iter().map(|opened| opened.reason.clone()).collect())
}

async fn metric(aggregator: &Aggregator, wanted: &str) {
    let (_, metrics) = aggregator.admin("/metrics").await;
    let wanted = format!("tideline_aggregator_{wanted}\n");
    assert!(metrics.contains(&wanted), "{wanted} {metrics}");
}

#[tokio::test]
async fn a_redis_that_lost_everything() {
    let mut bench = Bench::new().await;
    let gateways = counted_so_far(&bench).await;
    bench.redis.lose_everything().await;
    let aggregator = bench.start("a");
    counts_on(&bench, gateways).await;
    aggregator.is_ready().await;
    assert!(reasons(&bench)[0].contains("it is empty"), "{:?}", reasons(&bench));
    for figure in ["epoch 2", "rebuilds_total 1", "rebuilding 0", "waiting_gateways 0", "mismatch 0"] {
        metric(&aggregator, figure).await;
    }
    aggregator.stop().await.unwrap();
}

#[tokio::test]
async fn a_redis_that_is_lost_under_a_leader() {
    let mut bench = Bench::new().await;
    let gateways = counted_so_far(&bench).await;
    let aggregator = bench.start("a");
    aggregator.is_ready().await;
    bench.redis.lose_everything().await;
    counts_on(&bench, gateways).await;
    aggregator.stop().await.unwrap();
}

#[tokio::test]
async fn an_older_copy_of_redis() {
    let mut bench = Bench::new().await;
    let gateways = counted_so_far(&bench).await;
    let backup = bench.redis.back_up().await;
    let aggregator = bench.start("later");
    let [mut one, two] = gateways;
    one.apply_up_to(30).await;
    bench.counted(40).await;
    aggregator.stop().await.unwrap();
    bench.redis.roll_back_to(&backup).await;
    let aggregator = bench.start("a");
    counts_on(&bench, [one, two]).await;
    assert!(reasons(&bench)[0].contains("its open flush is"), "{:?}", reasons(&bench));
    aggregator.stop().await.unwrap();
}

#[tokio::test]
async fn a_redis_whose_gateway_fell_back() {
    let bench = Bench::new().await;
    let gateways = counted_so_far(&bench).await;
    set(&bench, &["HSET", "{0}:a", "one", "24"]).await;
    let aggregator = bench.start("a");
    until("a rebuild", async || !reasons(&bench).is_empty()).await;
    counts_on(&bench, gateways).await;
    assert!(reasons(&bench)[0].contains("gateway one stands at record 24"), "{:?}", reasons(&bench));
    aggregator.stop().await.unwrap();
}

#[tokio::test]
async fn a_redis_that_never_heard_of_a_gateway() {
    let bench = Bench::new().await;
    let gateways = counted_so_far(&bench).await;
    set(&bench, &["HDEL", "{0}:i", "two"]).await;
    let aggregator = bench.start("a");
    until("a rebuild", async || !reasons(&bench).is_empty()).await;
    counts_on(&bench, gateways).await;
    assert!(reasons(&bench)[0].contains("never heard of gateway two"), "{:?}", reasons(&bench));
    aggregator.stop().await.unwrap();
}

#[tokio::test]
async fn a_redis_of_an_older_epoch() {
    let bench = Bench::new().await;
    let gateways = counted_so_far(&bench).await;
    // A leader had the epoch opened, and died before it told Redis.
    bench.central.look(|state| {
        state.opened.push(Default::default());
        (state.next_flush, state.open_flush) = (0, 0);
        state.durable.clear();
    });
    let aggregator = bench.start("a");
    counts_on(&bench, gateways).await;
    assert!(reasons(&bench)[1].contains("it is of epoch 1, central of epoch 2"), "{:?}", reasons(&bench));
    aggregator.stop().await.unwrap();
}

#[tokio::test]
async fn a_restore_that_breaks_off_is_begun_again() {
    for parts in 0..3 {
        let mut bench = Bench::new().await;
        let gateways = counted_so_far(&bench).await;
        bench.redis.lose_everything().await;
        bench.central.look(|state| state.break_after_parts = Some(parts));
        let aggregator = bench.start("a");
        counts_on(&bench, gateways).await;
        let reasons = reasons(&bench);
        let second = if parts == 0 { "it is empty" } else { "the preparation of a rebuild under epoch 2" };
        assert!(reasons.len() == 2 && reasons[1].contains(second), "{reasons:?}");
        aggregator.stop().await.unwrap();
    }
}

#[tokio::test]
async fn a_rebuild_waits_for_every_gateway_that_had_entered() {
    let mut bench = Bench::new().await;
    let [mut one, mut two] = counted_so_far(&bench).await;
    bench.redis.lose_everything().await;
    let aggregator = bench.start("a");
    aggregator.says("waits for the gateways one, two").await;
    assert!(one.enter().await);
    aggregator.says("waits for the gateways two").await;
    metric(&aggregator, "rebuilding 1").await;
    metric(&aggregator, "waiting_gateways 1").await;

    // Whoever is not waited for has to wait all the same.
    let mut link = bench.redis.link().await;
    let approved = link.approved().await.unwrap().unwrap();
    let registered = link.register("new", "first", &approved).await.unwrap();
    assert_eq!(registered, Registered::Rebuilding);

    assert!(two.enter().await);
    aggregator.is_ready().await;
    counts_on(&bench, [one, two]).await;
    aggregator.stop().await.unwrap();
}

#[tokio::test]
async fn a_rebuild_goes_on_under_the_next_leader() {
    let mut bench = Bench::new().await;
    let [mut one, two] = counted_so_far(&bench).await;
    bench.redis.lose_everything().await;
    let first = bench.start("first");
    first.says("waits for the gateways one, two").await;
    assert!(one.enter().await);
    first.task.abort(); // as kill -9 would
    let second = bench.start("second");
    second.says("waits for the gateways two").await;
    counts_on(&bench, [one, two]).await;
    assert_eq!(reasons(&bench).len(), 1);
    second.stop().await.unwrap();
}

#[tokio::test]
async fn a_redis_that_restarts_in_the_middle_of_a_rebuild() {
    let mut bench = Bench::new().await;
    let [mut one, two] = counted_so_far(&bench).await;
    bench.redis.lose_everything().await;
    let aggregator = bench.start("a");
    aggregator.says("waits for the gateways one, two").await;
    assert!(one.enter().await);
    bench.redis.kill_and_restart().await;
    aggregator.says("under epoch 3, which waits for the gateways one, two").await;
    counts_on(&bench, [one, two]).await;
    assert!(reasons(&bench)[1].contains("in the middle of a rebuild"), "{:?}", reasons(&bench));
    aggregator.stop().await.unwrap();
}

#[tokio::test]
async fn a_gateway_that_never_comes_is_retired_and_central_stands_in_for_its_log() {
    let mut bench = Bench::new().await;
    let gateways = counted_so_far(&bench).await;
    let before = bench.start("dead gateway");
    let mut dead = bench.gateway("dead");
    dead.apply_up_to(7).await;
    bench.counted(44).await; // and the two that were in the open bucket
    before.stop().await.unwrap();
    bench.redis.lose_everything().await;

    let aggregator = bench.start("a");
    aggregator.says("waits for the gateways dead, one, two").await;
    let [mut one, mut two] = gateways;
    assert!(one.enter().await && two.enter().await);
    aggregator.says("waits for the gateways dead").await;
    let remembered = dead.remembered();
    bench.central.look(|state| state.retired.insert("dead".into(), remembered));
    aggregator.is_ready().await;

    // What it had counted is a duplicate wherever it comes again.
    let mut link = bench.redis.link().await;
    let approved = link.approved().await.unwrap().unwrap();
    assert_eq!(link.register("dead", "again", &approved).await.unwrap(), Registered::Retired);
    link.register("d", "first", &approved).await.unwrap();
    let answer = link.apply("d", "first", &approved, 1_795_348_800_000, &records("d", 0, 8)).await.unwrap();
    assert_eq!(answer, Applied::Duplicates((1..=7).map(Lsn).collect()));
    aggregator.stop().await.unwrap();
}

#[tokio::test]
async fn a_gateway_that_was_retired_before_is_not_waited_for() {
    let mut bench = Bench::new().await;
    let [mut one, two] = counted_so_far(&bench).await;
    let remembered = two.remembered();
    bench.central.look(|state| state.retired.insert("two".into(), remembered));
    bench.redis.lose_everything().await;
    let aggregator = bench.start("a");
    aggregator.says("waits for the gateways one").await;
    one.apply_up_to(30).await;
    bench.counted(40).await;
    aggregator.stop().await.unwrap();
    // It is not missed either, by the next leader.
    let next = bench.start("next");
    one.apply_up_to(31).await;
    bench.counted(41).await;
    assert_eq!(reasons(&bench).len(), 1);
    next.stop().await.unwrap();
}

#[tokio::test]
async fn a_gateway_that_central_retired_is_retired_in_redis() {
    let bench = Bench::new().await;
    let aggregator = bench.start("a");
    let mut gateways = [bench.gateway("one"), bench.gateway("two")];
    gateways[0].apply_up_to(5).await;
    gateways[1].apply_up_to(5).await;
    bench.counted(10).await;
    bench.central.look(|state| state.retired.insert("two".into(), vec![]));
    gateways[0].apply_up_to(6).await;
    let mut link = bench.redis.link().await;
    until("its retirement", async || link.position().await.unwrap().retired == ["two"]).await;
    assert_eq!(link.position().await.unwrap().registered, ["one"]);
    bench.counted(11).await;
    aggregator.stop().await.unwrap();
}

#[tokio::test]
async fn redis_lost_between_a_flush_and_its_acknowledgement() {
    for fault in [Fault::HoldAck, Fault::DropBeforeAccepting, Fault::DropAfterAccepting] {
        let mut bench = Bench::new().await;
        let aggregator = bench.start("a");
        let mut gateways = [bench.gateway("one"), bench.gateway("two")];
        gateways[0].apply_up_to(5).await;
        bench.counted(5).await;
        bench.central.look(|state| state.faults.push_back(fault));
        gateways[0].apply_up_to(9).await;
        let sent = async || bench.central.look(|state| state.transmissions.len() >= 2);
        until("the flush", sent).await;
        bench.redis.lose_everything().await;
        bench.central.release();
        counts_on(&bench, gateways).await;
        aggregator.stop().await.unwrap();
    }
}

async fn set(bench: &Bench, command: &[&str]) {
    redis::cmd(command[0]).arg(&command[1..]).exec_async(&mut bench.redis.connection().await).await.unwrap();
}

#[tokio::test]
async fn a_redis_of_another_region_is_left_alone() {
    let bench = Bench::new().await;
    let gateways = counted_so_far(&bench).await;
    let stranger = bench.start_with("stranger", Config { region: "elsewhere".into(), ..bench.config() });
    stranger.says("this is the Redis of region \"local\"").await;
    stranger.stop().await.unwrap();
    let _aggregator = bench.start("after");
    counts_on(&bench, gateways).await;
    assert!(reasons(&bench).is_empty(), "{:?}", reasons(&bench));
}
