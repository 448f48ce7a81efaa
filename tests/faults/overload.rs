//! A gateway that has more to do than it can: newcomers wait, who is connected is answered.

use std::time::{Duration, Instant};

use harness::audit;
use harness::load::{Load, Plan};
use harness::page::{Page, Visitor};
use harness::region::Region;
use rustix::process::Signal;

const MORE_MAX: Duration = Duration::from_secs(60);
const REFUSED: &str = r#"tideline_gateway_connections_refused_total{reason="overload"}"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_hundreds_of_batches_wait_newcomers_are_turned_away_and_nothing_is_lost() {
    let mut region = Region::start(1).await;
    // More than 256 of them can wait at once.
    let plan = Plan { agents: 80, every: Duration::from_millis(50), ..Default::default() };
    let load = Load::start(plan, region.doors());
    load.more(200, MORE_MAX).await.unwrap();
    region.redis.process.signal(Signal::STOP);
    let stopped = Instant::now();
    let mut said = String::new();
    while !said.starts_with("overloaded") {
        assert!(stopped.elapsed() < MORE_MAX, "the gateway says {said:?}\n{}", region.words());
        tokio::time::sleep(Duration::from_millis(20)).await;
        said = region.gateways[0].admin(region.http(), "/ready").await.unwrap_or_default().1;
    }
    // At least every second one is turned away.
    let door = region.gateways[0].listen();
    let mut turned_away = 0;
    for _ in 0..20 {
        turned_away += u32::from(Page::try_connect(door, &Visitor::default()).await.is_err());
    }
    region.redis.process.signal(Signal::CONT);
    assert!(turned_away >= 9, "{turned_away} of 20");
    assert!(region.gateways[0].metric(region.http(), REFUSED).await >= f64::from(turned_away));

    region.all_ready().await;
    load.more(200, MORE_MAX).await.unwrap();
    drop(Page::open(door).await);
    let sent = load.finish(MORE_MAX).await.unwrap();
    audit::exactly(&region, &sent).await.unwrap();
}
