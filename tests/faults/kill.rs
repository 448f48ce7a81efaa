//! kill -9 of each process, in any order, and at chosen system calls.

use std::time::Duration;

use harness::audit;
use harness::load::{Load, Plan};
use harness::region::Region;
use harness::strace::Death;
use harness::torture::Torture;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_fault_once_loses_nothing_and_doubles_nothing() {
    let torture = Torture { cycles: 10, seed: rand::random(), gateways: 2, agents: 15, json: None };
    let outcome = torture.run().await;
    println!("{outcome}");
    assert!(outcome.failure.is_none(), "{outcome}");
    assert_eq!((outcome.batches, outcome.difference), (outcome.acknowledged, Some(0)));
    assert!(outcome.sent > 1_000 && outcome.dropped > 100 && outcome.duplicates > 0, "{outcome}");
    assert_eq!(outcome.faults.values().sum::<u32>(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_dies_at_any_step_of_a_group_commit_loses_nothing() {
    let mut region = Region::start(1).await;
    let load = Load::start(Plan { agents: 8, ..Default::default() }, region.doors());
    // Before the group is written, between the write and the flush, and at both again with more groups behind them: only calls on
    // the segment count.
    for (call, nth) in [("pwrite64", 1), ("fdatasync", 1), ("pwrite64", 7), ("fdatasync", 5)] {
        let gateway = &mut region.gateways[0];
        gateway.process.kill();
        gateway.process.start_under(&Death { call, nth }.wrapper(Some(&gateway.newest_segment())));
        let status = gateway.process.end_by_itself(Duration::from_secs(60)).await;
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "{call} {nth}");
        gateway.process.start();
        load.more(20, Duration::from_secs(60)).await.unwrap_or_else(|why| panic!("{why}\n{}", region.words()));
    }
    let sent = load.finish(Duration::from_secs(60)).await.unwrap();
    audit::exactly(&region, &sent).await.unwrap();
}
