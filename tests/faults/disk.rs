//! A full disk under the log, under Redis, under central: nothing is lost, it is said, and it goes on when there is space.

use std::time::{Duration, Instant};

use harness::audit;
use harness::load::{Load, Plan};
use harness::region::Region;
use harness::small_disk::SmallDisk;

const MORE_MAX: Duration = Duration::from_secs(90);
const MEGABYTE: u64 = 1024 * 1024;

/// Long batches, so that a segment of 16 MiB is full after seconds.
const PLAN: Plan = Plan { agents: 40, every: Duration::from_millis(100), events: 300, repeated: 0.0 };

/// Waits until nothing is acknowledged any more.
async fn until_nothing_moves(load: &Load) {
    let asked = Instant::now();
    while load.more(1, Duration::from_secs(3)).await.is_ok() {
        assert!(asked.elapsed() < MORE_MAX, "the disk is full, and batches are acknowledged");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_under_the_log_keeps_pages_waiting_and_loses_nothing() {
    let mut region = Region::new(1).await;
    let disk = SmallDisk::over(&region.gateways[0].data, 70);
    region.start_all_but_gateways().await;
    region.gateways[0].process.start_under(&disk.wrapper());
    region.all_ready().await;
    let load = Load::start(PLAN, region.doors());
    load.more(50, MORE_MAX).await.unwrap();
    disk.fill(0);
    until_nothing_moves(&load).await;
    assert!(region.gateways[0].process.runs(), "{}", region.words());
    disk.relieve();
    load.more(50, MORE_MAX).await.unwrap_or_else(|why| panic!("{why}\n{}", region.words()));
    let sent = load.finish(MORE_MAX).await.unwrap();
    audit::exactly(&region, &sent).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_under_redis_ends_it_and_a_new_start_with_space_counts_on() {
    let mut region = Region::new(1).await;
    let disk = SmallDisk::over(&region.redis.folder, 40);
    region.redis.start_under(&disk.wrapper()).await;
    region.start_all_but_redis().await;
    let load = Load::start(Plan::default(), region.doors());
    load.more(100, MORE_MAX).await.unwrap();
    disk.fill(64 * 1024);
    // With `appendfsync always` a Redis that cannot write its file ends instead of answering.
    let ended = region.redis.process.end_by_itself(MORE_MAX).await;
    assert!(!ended.success(), "{ended}");
    assert!(region.redis.process.said().contains("Can't recover from AOF write error"), "{}", region.words());
    until_nothing_moves(&load).await;
    disk.relieve();
    region.redis.start_under(&disk.wrapper()).await;
    load.more(100, MORE_MAX).await.unwrap_or_else(|why| panic!("{why}\n{}", region.words()));
    region.all_ready().await;
    let sent = load.finish(MORE_MAX).await.unwrap();
    audit::exactly(&region, &sent).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_under_central_holds_reports_up_and_loses_nothing() {
    let mut region = Region::new(1).await;
    let disk = SmallDisk::over(&region.central.data, 80);
    region.redis.start().await;
    region.central.process.start_under(&disk.wrapper());
    region.ready(&["central"]).await;
    region.make_site().await;
    region.start_rest().await;
    let load = Load::start(Plan::default(), region.doors());
    load.more(200, MORE_MAX).await.unwrap();
    let before = region.central.process.said().len();
    disk.fill(0);
    // Pages do not notice.
    load.more(600, MORE_MAX).await.unwrap_or_else(|why| panic!("{why}\n{}", region.words()));
    region.central.process.until_it_says_one_of(&["No space left", "disk is full"], before, MORE_MAX).await;
    // It refuses flushes and goes on: an end would take the dashboard away as well.
    load.more(200, MORE_MAX).await.unwrap_or_else(|why| panic!("{why}\n{}", region.words()));
    assert!(region.central.process.runs(), "central ended\n{}", region.words());
    let said = region.central.process.said()[before..].to_owned();
    assert!(!said.lines().any(|line| line.starts_with("error: ")), "{said}");
    disk.relieve();
    region.all_ready().await;
    assert!(disk.free() > 5 * MEGABYTE, "the disk is too small for this test: {} bytes are free", disk.free());
    let sent = load.finish(MORE_MAX).await.unwrap();
    audit::exactly(&region, &sent).await.unwrap();
}
