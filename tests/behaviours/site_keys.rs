//! Keys of a site: made over the API, presented by pages, apps and servers on every transport, replaced while they are in use.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use proto::Message as _;
use proto::agent::{Batch, ClientFrame, Envelope, Hello, Reason, ServerFrame, client_frame, server_frame::Frame};
use reqwest::Method;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tonic::Code;

use crate::instance::{Instance, ORIGIN, REPORT_MAX, SITE};
use crate::operator::ask;
use crate::page::{CHROME, Page, Visitor, envelope, now_ms, pageviews, sid};
use crate::site_rules::holds;
use crate::transports::{call, grpc};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_observed_then_required_by_every_transport_and_replaced_in_use() {
    let instance = Instance::start().await;
    let gateway = instance.gateway();
    let (status, refused) = require(&instance, true).await;
    assert!(status == 400 && refused["error"].as_str().unwrap().contains("needs a key"), "{refused}");
    let (id, key) = make(&instance).await;
    assert!(key.starts_with("tlk_") && key.starts_with(&id) && id.len() < 16, "{id}");

    // It is not required: what would be refused is counted, and told.
    let mut counted = 0;
    let asked = Instant::now();
    while unkeyed(&instance, "wrong").await == 0.0 {
        assert!(asked.elapsed() < REPORT_MAX, "the gateway does not know the key\n{}", instance.logs());
        assert_eq!(post(gateway, ORIGIN, "tlk_another").await, Ok(()));
        counted += 1;
    }
    for (presented, told) in [("", 1.0), (key.as_str(), 1.0)] {
        assert_eq!(post(gateway, ORIGIN, presented).await, Ok(()));
        assert_eq!(unkeyed(&instance, "missing").await, told);
        counted += 1;
    }
    assert_eq!(unkeyed(&instance, "wrong").await, 1.0);

    let mut without = Page::open(gateway).await;
    let (status, site) = require(&instance, true).await;
    assert_eq!((status, &site["key_required"]), (200, &json!(true)), "{site}");
    counted += until_refused(&instance, &mut without).await;

    // By a session, by POST, by a call and by a session of calls: nothing without a key, and everything with it.
    for wrong in ["", "tlk_another", &key[..key.len() - 1], &"x".repeat(1_000)] {
        let mut page = hello(gateway, ORIGIN, wrong).await;
        assert_eq!(page.rejected().await.reason(), Reason::WrongKey);
        match page.socket.next().await {
            Some(Ok(Message::Close(Some(frame)))) => {
                assert_eq!((frame.code, frame.reason.as_str()), (CloseCode::Policy, "wrong_key"));
            }
            other => panic!("a close was expected, not {other:?}"),
        }
        assert_eq!(post(gateway, ORIGIN, wrong).await, Err((403, Reason::WrongKey)));
        let refused = grpc(gateway).await.send(call(keyed(wrong))).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
        assert!(refused.message().contains("`data-key`"), "{refused:?}");
        assert_eq!(grpc_session(gateway, wrong).await, Err(Code::PermissionDenied));
        let mut frames = grpc(gateway).await.subscribe(call(greeting(wrong))).await.unwrap().into_inner();
        let first = frames.message().await.unwrap().unwrap().frame;
        assert!(matches!(first, Some(Frame::Reject(reject)) if reject.reason() == Reason::WrongKey));
    }
    let mut page = hello(gateway, ORIGIN, &key).await;
    assert!(matches!(page.frame().await, Some(Frame::Welcome(_))));
    page.batch(&one()).await;
    page.acknowledged().await;
    assert_eq!(post(gateway, ORIGIN, &key).await, Ok(()));
    let answer = grpc(gateway).await.send(call(keyed(&key))).await.unwrap().into_inner();
    assert!(matches!(answer.frame, Some(Frame::Ack(_))), "{answer:?}");
    assert_eq!(grpc_session(gateway, &key).await, Ok(()));
    counted += 4;
    assert_eq!(post(gateway, "https://evil.example", &key).await, Err((403, Reason::WrongOrigin)));

    // Another key beside it, and then instead of it: whoever still has the first is turned away, in the middle of a session.
    let (status, kept) = api(&instance, Method::DELETE, &format!("/sites/{SITE}/keys/{id}"), None).await;
    assert!(status == 409 && kept["error"].as_str().unwrap().contains("only key"), "{kept}");
    let (_, second) = make(&instance).await;
    let asked = Instant::now();
    while post(gateway, ORIGIN, &second).await.is_err() {
        assert!(asked.elapsed() < REPORT_MAX, "the gateway does not know the second key\n{}", instance.logs());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(post(gateway, ORIGIN, &key).await, Ok(()));
    counted += 2;
    assert_eq!(api(&instance, Method::DELETE, &format!("/sites/{SITE}/keys/{id}"), None).await.0, 200);
    counted += until_refused(&instance, &mut page).await;
    assert_eq!(post(gateway, ORIGIN, &key).await, Err((403, Reason::WrongKey)));
    assert_eq!(post(gateway, ORIGIN, &second).await, Ok(()));
    counted += 1;

    instance.expect(&["pageviews"], &[f64::from(counted)]).await;
    for key in [key, second] {
        assert!(!holds(&instance.data(), key.as_bytes()), "a key is neither kept nor logged");
    }
    let (code, text) = ask(&instance, &["audit", "--site", SITE, "--wait", "60"]);
    assert!(code == Some(0) && text.ends_with("difference 0\n"), "{text}\n{}", instance.logs());
    instance.gateways_logged_no_error();
}

/// A pageview of its own.
fn one() -> Batch {
    pageviews(sid(now_ms()), 1, now_ms(), &["/"])
}

fn keyed(key: &str) -> Envelope {
    Envelope { key: key.to_owned(), ..envelope(&one()) }
}

fn greeting(key: &str) -> Hello {
    Hello { site: SITE.into(), agent_version: "test".into(), key: key.to_owned() }
}

/// A page that has said Hello with this key.
async fn hello(gateway: SocketAddr, origin: &str, key: &str) -> Page {
    let mut page = Page::connect(gateway, &Visitor { origin, ..Default::default() }).await;
    page.send(client_frame::Frame::Hello(greeting(key))).await;
    page
}

/// Sends until the session is ended for the key's sake; how many were counted before.
async fn until_refused(instance: &Instance, page: &mut Page) -> u32 {
    let asked = Instant::now();
    for acknowledged in 0.. {
        assert!(asked.elapsed() < REPORT_MAX, "the gateway still takes everything\n{}", instance.logs());
        page.batch(&one()).await;
        match page.frame().await {
            Some(Frame::Ack(_)) => tokio::time::sleep(Duration::from_millis(100)).await,
            Some(Frame::Reject(reject)) if reject.reason() == Reason::WrongKey => return acknowledged,
            other => panic!("neither counted nor refused: {other:?}"),
        }
    }
    unreachable!("the loop has no end but its own")
}

/// One pageview by POST; `Err` is the status and the reason.
async fn post(gateway: SocketAddr, origin: &str, key: &str) -> Result<(), (u16, Reason)> {
    let request = reqwest::Client::new().post(format!("http://{gateway}/v1/batch")).body(keyed(key).encode_to_vec());
    let answer = request.header("origin", origin).header("user-agent", CHROME).send().await.unwrap();
    let status = answer.status().as_u16();
    match ServerFrame::decode(answer.bytes().await.unwrap()).unwrap().frame {
        Some(Frame::Ack(_)) if status == 200 => Ok(()),
        Some(Frame::Reject(reject)) => Err((status, reject.reason())),
        other => panic!("neither counted nor refused: {other:?}"),
    }
}

/// One pageview by a session over gRPC; `Err` is the status with which it ends.
async fn grpc_session(gateway: SocketAddr, key: &str) -> Result<(), Code> {
    let frames = [
        client_frame::Frame::Hello(greeting(key)),
        client_frame::Frame::Batch(envelope(&one())),
        client_frame::Frame::Bye(Default::default()),
    ];
    let frames = frames.map(|frame| ClientFrame { frame: Some(frame) });
    let mut answers = grpc(gateway).await.connect(call(futures_util::stream::iter(frames))).await.unwrap().into_inner();
    let mut acknowledged = false;
    while let Some(answer) = answers.message().await.map_err(|status| status.code())? {
        acknowledged |= matches!(answer.frame, Some(Frame::Ack(_)));
    }
    assert!(acknowledged, "a session that ends well has counted");
    Ok(())
}

async fn api(instance: &Instance, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
    let url = format!("http://{}/api/v2{path}", instance.central());
    let mut request = reqwest::Client::new().request(method, url).bearer_auth(instance.api_key());
    if let Some(body) = body {
        request = request.json(&body);
    }
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

/// A new key of the site: its id and itself.
async fn make(instance: &Instance) -> (String, String) {
    let (status, made) = api(instance, Method::POST, &format!("/sites/{SITE}/keys"), None).await;
    assert_eq!(status, 200, "{made}");
    let text = |name: &str| made[name].as_str().unwrap().to_owned();
    (text("id"), text("key"))
}

async fn require(instance: &Instance, required: bool) -> (u16, Value) {
    let site = json!({ "site_id": SITE, "origins": [ORIGIN], "key_required": required });
    api(instance, Method::POST, "/sites", Some(site)).await
}

/// What the gateway's metric says of batches whose key is `missing` or `wrong`.
async fn unkeyed(instance: &Instance, key: &str) -> f64 {
    let addresses = std::fs::read_to_string(instance.data().join("run/gateway.addresses.json")).unwrap();
    let addresses: Value = serde_json::from_str(&addresses).unwrap();
    let url = format!("http://{}/metrics", addresses["admin"].as_str().unwrap());
    let text = reqwest::get(url).await.unwrap().text().await.unwrap();
    let name = format!("tideline_gateway_unkeyed_batches_total{{site=\"{SITE}\",key=\"{key}\"}}");
    text.lines().find_map(|line| line.strip_prefix(&name)?.trim().parse().ok()).unwrap_or(0.0)
}
