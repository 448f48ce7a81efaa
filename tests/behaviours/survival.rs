//! What was acknowledged is counted once, whatever dies.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::instance::{Instance, SITE, TIDELINE};
use crate::page::{Page, now_ms, pageviews, sid};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_is_counted_exactly_while_the_gateway_is_killed_three_times() {
    let instance = Instance::start().await;
    // Long enough that three restarts on a slow machine fall into it.
    let scenario = instance.folder.path().join("scenario.toml");
    std::fs::write(&scenario, "agents = 50\nduration_s = 45\nevents_per_s = 100\n").unwrap();
    let report = instance.folder.path().join("report.json");
    let mut load = Command::new(TIDELINE)
        .arg("loadtest")
        .arg(&scenario)
        .args(["--site", SITE, "--origin", crate::instance::ORIGIN])
        .args(["--gateway", &format!("http://{}", instance.gateway())])
        .args(["--central", &format!("http://{}", instance.central())])
        .arg("--api-key-file")
        .arg(instance.data().join("api-key"))
        .arg("--json")
        .arg(&report)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(2)).await;
        instance.kill("gateway").await;
    }
    let ended = tokio::task::spawn_blocking(move || load.wait().unwrap());
    let ended = tokio::time::timeout(Duration::from_secs(180), ended).await.expect("the load ends by itself").unwrap();
    let report: Value = serde_json::from_str(&std::fs::read_to_string(report).unwrap()).unwrap();
    let audit = &report["audit"];
    assert_eq!(audit["difference"], 0, "{audit}\n{}", instance.logs());
    assert!(audit["acknowledged"].as_u64().unwrap() > 1000, "{audit}");
    // Every agent lost its connection each time: the kills fell into the load.
    assert!(report["connections"]["reconnects"].as_u64().unwrap() >= 3 * 50, "{}", report["connections"]);
    assert!(ended.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_each_role_and_redis() {
    let instance = Instance::start().await;
    let stream = sid(now_ms());
    for (seq, role) in (1..).zip(["redis", "aggregator", "central", "gateway"]) {
        let mut page = Page::open(instance.gateway()).await;
        page.batch(&pageviews(stream, seq, now_ms(), &["/a", "/b"])).await;
        page.acknowledged().await;
        instance.kill(role).await;
        // The same batch again: acknowledged again, and counted once.
        let mut page = Page::open(instance.gateway()).await;
        page.batch(&pageviews(stream, seq, now_ms(), &["/a", "/b"])).await;
        page.acknowledged().await;
    }
    instance.expect(&["pageviews", "visitors", "visits"], &[8.0, 1.0, 1.0]).await;
}
