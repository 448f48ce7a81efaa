//! Configurations and files under which counts could not be kept: one clear error, before anything is counted.

use std::time::Duration;

use harness::region::Region;

const ENDS_MAX: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_may_evict_or_forget_is_refused_with_the_setting_named() {
    for (settings, names) in [
        ([("maxmemory-policy", "allkeys-lru")], "maxmemory-policy"),
        ([("appendonly", "no")], "appendonly"),
        ([("appendfsync", "no")], "appendfsync"),
    ] {
        let mut region = Region::new(1).await;
        region.redis.configure(&settings);
        region.redis.start().await;
        region.central.process.start();
        region.ready(&["central"]).await;
        region.make_site().await;
        region.aggregator.process.start();
        region.gateways[0].process.start();
        // It ends with one error that names the setting, before it has led; so nobody counts.
        let status = region.aggregator.process.end_by_itself(ENDS_MAX).await;
        assert!(status.code().is_some_and(|code| code != 0), "{status}");
        let said = region.aggregator.process.said();
        assert_eq!(said.matches("error: this Redis cannot be trusted with counts").count(), 1, "{said}");
        assert!(said.contains(&format!("`{names}`")) && !said.contains("panicked"), "{said}");
        let ready = region.gateways[0].admin(region.http(), "/ready").await;
        assert!(ready.is_none_or(|(status, _)| status != 200), "{}", region.words());
        assert!(region.gateways[0].process.runs(), "{}", region.words());
        // With the setting put right it counts.
        region.redis.process.kill();
        region.redis.configure(&[]);
        region.redis.start().await;
        region.aggregator.process.start();
        region.all_ready().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_token_and_an_unknown_key_are_one_clear_error() {
    let mut region = Region::start(1).await;
    let wrong = region.folder().join("wrong-token");
    std::fs::write(&wrong, "not the token that central asks for").unwrap();
    let gateway = &mut region.gateways[0];
    gateway.process.kill();
    gateway.configure("redish", "redis://127.0.0.1:1");
    let before = gateway.process.said().len();
    gateway.process.start();
    let status = gateway.process.end_by_itself(ENDS_MAX).await;
    let said = gateway.process.said()[before..].to_owned();
    assert!(status.code().is_some_and(|code| code != 0), "{status}");
    assert_eq!(said.matches("error: ").count(), 1, "{said}");
    assert!(said.contains("redish"), "{said}");

    region.aggregator.process.kill();
    region.aggregator.configure("uplink_token_file", wrong.to_str().unwrap().to_owned());
    let before = region.aggregator.process.said().len();
    region.aggregator.process.start();
    region.aggregator.process.until_it_says("token", before, ENDS_MAX).await;
    assert!(!region.aggregator.process.said().contains("panicked"), "{}", region.words());
}
