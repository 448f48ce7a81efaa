//! What an operator asks of central: is the count right, and who feeds it.

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::instance::{Instance, SITE, TIDELINE, run_to_end};
use crate::page::{CHROME, Page, Visitor, now_ms, pageviews, sid};

const COMMAND_MAX: Duration = Duration::from_secs(120);

/// A command that asks this instance's central; its exit code and what it said.
pub fn ask(instance: &Instance, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(TIDELINE);
    command.args(arguments).args(["--url", &format!("http://{}", instance.central()), "--key-file"]);
    command.arg(instance.data().join("api-key")).env("RUST_LOG", "warn");
    run_to_end(command, COMMAND_MAX)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_audit_finds_no_difference_and_raw_events_answer_what_visits_cannot() {
    let instance = Instance::start().await;
    let audit = ["audit", "--site", SITE, "--wait", "60"];
    let (code, text) = ask(&instance, &audit);
    assert!(code == Some(0) && text.contains("difference 0"), "{text}");

    for (number, path) in [(1, "/a"), (2, "/b")] {
        let user_agent = CHROME.replace("141.0.0.0", &format!("141.0.0.{number}"));
        let who = Visitor { user_agent: &user_agent, ..Default::default() };
        let mut page = Page::open_as(instance.gateway(), &who).await;
        let stream = sid(now_ms());
        for seq in 1..=3 {
            let batch = pageviews(stream, seq, now_ms(), &["/", path]);
            page.batch(&batch).await;
            page.acknowledged().await;
            page.batch(&batch).await; // a repeat is no second count, on any way
            page.acknowledged().await;
        }
    }
    instance.expect(&["pageviews", "visits"], &[12.0, 2.0]).await;
    let (code, text) = ask(&instance, &audit);
    assert!(code == Some(0) && text.ends_with("difference 0\n"), "{text}\n{}", instance.logs());
    let compared = |line: &str| line.starts_with("totals by minute") && line.ends_with("12     12           0");
    assert!(text.lines().any(compared), "{text}");

    let crossed = json!({
        "site_id": SITE, "metrics": ["pageviews", "visitors"], "date_range": "all", "dimensions": ["event:page"],
        "filters": [["is", "visit:source", ["Direct / None"]]],
    });
    let answer = instance.query(crossed).await;
    assert_eq!(answer["meta"]["raw"]["complete"], true, "{answer}");
    let rows: Vec<Value> = ["/", "/a", "/b"]
        .iter()
        .zip([(6, 2), (3, 1), (3, 1)])
        .map(|(page, (views, visitors))| json!({"dimensions": [page], "metrics": [views, visitors]}))
        .collect();
    assert_eq!(answer["results"], Value::from(rows));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_are_listed_and_one_that_is_not_there_cannot_be_retired() {
    let instance = Instance::start().await;
    let (code, text) = ask(&instance, &["gateways"]);
    assert!(code == Some(0) && text.lines().count() == 2 && text.contains("local"), "{text}");
    let (code, text) = ask(&instance, &["retire-gateway", "6b3f0f0e-8f43-4d5e-9d6c-000000000000"]);
    assert!(code == Some(1) && text.contains("not known here"), "{text}");
    let (code, text) = ask(&instance, &["retire-gateway", "../sites"]);
    assert!(code == Some(1) && text.contains("not the id of a gateway"), "{text}");
    let (code, text) = ask(&instance, &["audit", "--site", "nowhere"]);
    assert!(code == Some(1) && text.contains("not there"), "{text}");
    let mut without_key = Command::new(TIDELINE);
    without_key.args(["gateways", "--key-file"]).arg(instance.folder.path().join("missing"));
    let (code, text) = run_to_end(without_key, COMMAND_MAX);
    assert!(code == Some(1) && text.contains("--key-file"), "{text}");
}
