//! kill -9 of each process, in any order, and at chosen system calls.

use std::time::Duration;

use harness::audit;
use harness::load::{Load, Plan};
use harness::region::Region;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_is_counted_exactly_while_two_gateways_run() {
    let region = Region::start(2).await;
    let load = Load::start(Plan::default(), region.doors());
    load.more(200, Duration::from_secs(30)).await.unwrap();
    let sent = load.finish(Duration::from_secs(30)).await.unwrap();
    let audited = audit::exactly(&region, &sent).await.unwrap();
    println!("{audited:?} {}", sent.broken);
}
