//! Rules of a site, from the API to the ledger and the report.

use std::path::Path;
use std::time::{Duration, Instant};

use proto::Message as _;
use proto::agent::{Batch, Event, Reason, ServerFrame, server_frame};
use serde_json::{Value, json};

use crate::instance::{Instance, ORIGIN, REPORT_MAX, SITE};
use crate::page::{CHROME, Page, Visitor, envelope, now_ms, pageviews, sid};
use crate::transports::{call, grpc};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_of_the_api_are_kept_at_the_gateway_and_told_by_the_ledger() {
    let instance = Instance::start().await;
    let plan = json!({ "type": "text", "values": ["free", "pro"], "required": true });
    let schema = json!({ "mode": "enforce", "events": { "Signup": { "props": { "plan": plan } } } });
    in_force(&instance, "https://one.example", json!({ "schema": schema })).await;

    let mut page = Page::open(instance.gateway()).await;
    let stream = sid(now_ms());
    let profile = "/u/jane@shop.example?utm_source=jane%40shop.example&utm_campaign=a%40b%01.example";
    page.batch(&with_events(
        pageviews(stream, 1, now_ms(), &[profile]),
        &["Signup", "plan", "pro", "gold", "Login"],
        &[(3, &[4, 5]), (3, &[4, 6]), (3, &[]), (7, &[])],
    ))
    .await;
    page.acknowledged().await;
    instance.expect(&["pageviews", "events"], &[1.0, 2.0]).await;
    let expected = json!({ "schema_event": 1, "schema_props": 2 });
    assert_eq!(dropped(&instance).await, (5, 2, expected));

    // What is observed counts, and whoever drops personal data has it in the ledger.
    let schema = json!({ "mode": "observe", "events": {} });
    in_force(&instance, "https://two.example", json!({ "schema": schema, "personal_data": "drop" })).await;
    page.batch(&with_events(
        pageviews(stream, 2, now_ms(), &["/", "/u/jane@shop.example"]),
        &["Login", "who", "jane@shop.example"],
        &[(4, &[]), (4, &[5, 6])],
    ))
    .await;
    page.acknowledged().await;
    instance.expect(&["pageviews", "events"], &[2.0, 4.0]).await;
    let expected = json!({ "schema_event": 1, "schema_props": 2, "personal_data": 2 });
    assert_eq!(dropped(&instance).await, (9, 4, expected));

    for (dimension, values) in [
        ("event:page", ["/", "/u/(redacted)"]),
        ("visit:utm_source", ["(redacted)", ""]),
        ("visit:utm_campaign", ["(redacted)", ""]),
    ] {
        let question = json!({
            "site_id": SITE, "metrics": ["visitors"], "date_range": "all", "dimensions": [dimension],
            "order_by": [[dimension, "asc"]],
        });
        let answer = instance.query(question).await;
        let found: Vec<_> =
            answer["results"].as_array().unwrap().iter().map(|row| row["dimensions"][0].as_str().unwrap()).collect();
        let wanted: Vec<_> = values.into_iter().filter(|value| !value.is_empty()).collect();
        assert_eq!(found, wanted, "{dimension}");
    }
    assert!(holds(&instance.data().join("gateway"), b"redacted"), "the log is there");
    assert!(!holds(&instance.data(), b"jane"), "and nothing of the address is anywhere");
    instance.gateways_logged_no_error();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_sends_to_a_site_in_debug_mode_hears_what_became_of_the_events() {
    let instance = Instance::start().await;
    let plan = json!({ "type": "text", "values": ["free", "pro"] });
    let schema = json!({ "mode": "enforce", "events": { "Signup": { "props": { "plan": plan } } } });
    in_force(&instance, "https://one.example", json!({ "schema": schema, "debug": true })).await;

    let mut page = Page::open(instance.gateway()).await;
    let stream = sid(now_ms());
    let batch = with_events(
        pageviews(stream, 1, now_ms(), &["/", "/u/jane@shop.example"]),
        &["Signup", "plan", "gold for jane@shop.example", "Login jane@shop.example"],
        &[(4, &[5, 6]), (7, &[])],
    );
    page.batch(&batch).await;
    let (mut heard, mut lines) = (Vec::new(), Vec::new());
    while let Some(server_frame::Frame::Notice(notice)) = page.frame().await {
        assert_eq!((&notice.sid[..], notice.seq), (&stream.as_bytes()[..], 1));
        assert!(!notice.message.contains("jane"), "{}", notice.message);
        heard.push((notice.event, notice.reason(), notice.message.contains("`plan`")));
        lines.push(notice.message);
    }
    let expected = [(1, Reason::PersonalData, false), (2, Reason::SchemaProps, true), (3, Reason::SchemaEvent, false)];
    assert_eq!(heard, expected, "and then the acknowledgement");

    // Where there is one answer and no session, it says the same; the batch is one that is counted already.
    let body = envelope(&batch).encode_to_vec();
    let post = reqwest::Client::new().post(format!("http://{}/v1/batch", instance.gateway())).header("origin", ORIGIN);
    let posted = post.header("user-agent", CHROME).body(body).send().await.unwrap().bytes().await.unwrap();
    let sent = grpc(instance.gateway()).await.send(call(envelope(&batch))).await.unwrap().into_inner();
    for answer in [ServerFrame::decode(posted).unwrap(), sent] {
        let Some(server_frame::Frame::Ack(ack)) = answer.frame else { panic!("{answer:?}") };
        assert_eq!(ack.message.lines().collect::<Vec<_>>(), lines);
    }
    instance.expect(&["pageviews", "events"], &[2.0, 2.0]).await;
    instance.gateways_logged_no_error();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_beyond_a_sites_paths_of_a_day_is_other_until_the_limit_is_raised() {
    let instance = Instance::start().await;
    let gateway = instance.second_gateway("[limits]\nsite_paths_per_day = 2").await;
    let mut page = Page::open(gateway.address).await;
    let stream = sid(now_ms());
    page.batch(&pageviews(stream, 1, now_ms(), &["/a", "/b", "/c", "/a", "/d"])).await;
    page.acknowledged().await;
    gateway.until(r#"tideline_gateway_replaced_values_total{kind="path"}"#, 2.0).await;

    let config = std::fs::read_to_string(&gateway.file).unwrap();
    std::fs::write(&gateway.file, config.replace("site_paths_per_day = 2", "site_paths_per_day = 1000")).unwrap();
    gateway.hang_up();
    let asked = Instant::now();
    let mut raised = 0;
    while gateway.metric(r#"tideline_gateway_replaced_values_total{kind="path"}"#).await
        == Some(2.0 + f64::from(raised))
    {
        assert!(asked.elapsed() < REPORT_MAX, "the new limit is not in force");
        raised += 1;
        page.batch(&pageviews(stream, 1 + raised, now_ms(), &[&format!("/later/{raised}")])).await;
        page.acknowledged().await;
    }
    // The last of them was kept: it was named under the new limit.
    let others = 2.0 + f64::from(raised - 1);
    let last = format!("/later/{raised}");
    instance.expect(&["pageviews"], &[5.0 + f64::from(raised)]).await;
    let question = json!({
        "site_id": SITE, "metrics": ["pageviews"], "date_range": "all", "dimensions": ["event:page"],
        "order_by": [["event:page", "asc"]],
    });
    let answer = instance.query(question).await;
    let row = |page: &str, views: f64| json!({ "dimensions": [page], "metrics": [views as u64] });
    let expected = [row("(other)", others), row("/a", 2.0), row("/b", 1.0), row(&last, 1.0)];
    assert_eq!(answer["results"], json!(expected));
    instance.gateways_logged_no_error();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_program_drives_is_dropped_unless_the_site_allows_it_and_nobody_opens_21_pages_a_second() {
    let instance = Instance::start().await;
    let mut page = Page::open(instance.gateway()).await;
    let stream = sid(now_ms());
    let driven = |seq| Batch { automated: true, ..pageviews(stream, seq, now_ms(), &["/", "/a"]) };
    page.batch(&driven(1)).await;
    let refused = page.rejected().await;
    assert!(refused.reason() == Reason::Automated && refused.r#final, "{refused:?}");

    in_force(&instance, "https://one.example", json!({ "automated": "allow" })).await;
    page.batch(&driven(2)).await;
    page.acknowledged().await;
    page.batch(&Batch { automated: true, ..pageviews(stream, 3, now_ms(), &["/b"; 21]) }).await;
    let refused = page.rejected().await;
    assert!(refused.reason() == Reason::ImpossibleTiming && refused.r#final, "{refused:?}");

    instance.expect(&["pageviews", "events"], &[2.0, 2.0]).await;
    let expected = json!({ "automated": 2, "impossible_timing": 21 });
    assert_eq!(dropped(&instance).await, (25, 2, expected));
    instance.gateways_logged_no_error();
}

/// The batch with these events behind its own: a reference to a name and to properties each, `more` strings behind its own.
fn with_events(mut batch: Batch, more: &[&str], events: &[(u32, &[u32])]) -> Batch {
    batch.strings.extend(more.iter().map(|&text| text.to_owned()));
    let event = |&(name, props): &(u32, &[u32])| Event { name, url: 2, props: props.to_vec(), ..Default::default() };
    batch.events.extend(events.iter().map(event));
    batch
}

/// Gives the site these rules, and waits until the gateway has them: they come together with an origin that it did not know.
async fn in_force(instance: &Instance, origin: &'static str, rules: Value) {
    let url = format!("http://{}/api/v2/sites", instance.central());
    let body = json!({ "site_id": SITE, "origins": [ORIGIN, origin], "rules": rules });
    let answer = reqwest::Client::new().post(url).bearer_auth(instance.api_key()).json(&body).send().await.unwrap();
    assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
    let asked = Instant::now();
    loop {
        let mut page = Page::connect(instance.gateway(), &Visitor { origin, ..Default::default() }).await;
        page.hello(SITE).await;
        if matches!(page.frame().await, Some(server_frame::Frame::Welcome(_))) {
            return;
        }
        assert!(asked.elapsed() < REPORT_MAX, "the gateway does not know the site's rules\n{}", instance.logs());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Of the ledger: what was sent, what is counted, and what is not by reason; they add up.
async fn dropped(instance: &Instance) -> (u64, u64, Value) {
    let url = format!("http://{}/api/v2/ledger?site_id={SITE}", instance.central());
    let answer = reqwest::Client::new().get(url).bearer_auth(instance.api_key()).send().await.unwrap();
    let ledger: Value = answer.json().await.unwrap();
    let rows = ledger["dropped"]["reasons"].as_array().unwrap();
    let by_reason = rows.iter().map(|row| (row["reason"].as_str().unwrap().to_owned(), row["events"].clone()));
    let sum: u64 = rows.iter().map(|row| row["events"].as_u64().unwrap()).sum();
    let (sent, counted) = (ledger["sent"].as_u64().unwrap(), ledger["counted"].as_u64().unwrap());
    assert_eq!(sent, counted + sum, "{ledger}");
    (sent, counted, by_reason.collect::<serde_json::Map<_, _>>().into())
}

/// Whether a file below the folder holds these bytes. Files may go while it looks.
pub fn holds(folder: &Path, bytes: &[u8]) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else { return false };
    entries.flatten().any(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => holds(&entry.path(), bytes),
        Ok(kind) if kind.is_file() => {
            std::fs::read(entry.path()).is_ok_and(|read| read.windows(bytes.len()).any(|window| window == bytes))
        }
        _ => false,
    })
}
