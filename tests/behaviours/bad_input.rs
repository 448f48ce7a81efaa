//! Bytes from outside that are wrong: each gets one answer that says what is wrong and what would be right, and nothing that was
//! accepted before or after it is lost.

use std::net::SocketAddr;

use futures_util::SinkExt;
use proto::Message as _;
use proto::agent::{Batch, Envelope, Event, Reason, ServerFrame, client_frame, server_frame};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

use crate::instance::{Instance, ORIGIN, SITE};
use crate::page::{CHROME, Page, Visitor, envelope, now_ms, pageviews, sid};

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// A hundred times what a message takes.
const ENDLESS_FRAMES: u32 = 1_000_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_wrong_thing_gets_its_own_answer_and_costs_nothing_that_is_right() {
    let instance = Instance::start().await;
    let gateway = instance.gateway();
    let mut good = Page::open(gateway).await;
    let stream = sid(now_ms());
    good.batch(&pageviews(stream, 1, now_ms(), &["/before"])).await;
    good.acknowledged().await;

    connections_that_are_refused(gateway).await;
    batches_that_are_refused(gateway).await;
    posts_that_are_refused(gateway).await;

    // The connection that did nothing wrong is still there.
    good.batch(&pageviews(stream, 2, now_ms(), &["/after"])).await;
    good.acknowledged().await;
    // "/kept" is the good event beside a bad one.
    instance.expect(&["pageviews", "visitors"], &[3.0, 1.0]).await;
    instance.gateways_logged_no_error();
}

/// These end the connection, after saying why.
async fn connections_that_are_refused(gateway: SocketAddr) {
    let mut page = Page::connect(gateway, &Visitor::default()).await;
    page.hello("nobody").await;
    refused_and_closed(page, Reason::UnknownSite).await;

    let mut page = Page::connect(gateway, &Visitor { origin: "https://evil.example", ..Default::default() }).await;
    page.hello(SITE).await;
    refused_and_closed(page, Reason::WrongOrigin).await;

    let mut page = Page::connect(gateway, &Visitor::default()).await;
    page.batch(&pageviews(sid(now_ms()), 1, now_ms(), &["/"])).await;
    refused_and_closed(page, Reason::HelloMissing).await;

    let mut page = Page::open(gateway).await;
    page.socket.send(Message::binary(vec![0xff; 100])).await.unwrap();
    refused_and_closed(page, Reason::Malformed).await;

    let mut page = Page::open(gateway).await;
    page.socket.send(Message::text("{\"event\":\"pageview\"}")).await.unwrap();
    refused_and_closed(page, Reason::TextFrame).await;

    let mut page = Page::open(gateway).await;
    page.socket.send(Message::binary(vec![0; 65 * 1024])).await.unwrap();
    refused_and_closed(page, Reason::FrameTooLarge).await;

    // A message in frames of one byte is not read for ever.
    let mut page = Page::open(gateway).await;
    let fragment = |code| Message::Frame(Frame::message(vec![0], OpCode::Data(code), false));
    page.socket.send(fragment(Data::Binary)).await.unwrap();
    let mut sent = 0;
    while page.socket.send(fragment(Data::Continue)).await.is_ok() {
        sent += 1;
        assert!(sent < ENDLESS_FRAMES);
    }
}

async fn refused_and_closed(mut page: Page, reason: Reason) {
    let reject = page.rejected().await;
    assert_eq!((reject.reason(), reject.r#final), (reason, false), "{}", reject.message);
    assert!(reject.message.len() > 20, "{reason:?} says only {:?}", reject.message);
    assert_eq!(page.frame().await, None);
}

/// These are answered one by one, and the connection goes on.
async fn batches_that_are_refused(gateway: SocketAddr) {
    let mut page = Page::open(gateway).await;
    let wrong: [(Reason, Batch); 5] = [
        (Reason::InvalidSeq, pageviews(sid(now_ms()), 0, now_ms(), &["/"])),
        (Reason::InvalidSeq, pageviews(sid(now_ms()), 4097, now_ms(), &["/"])),
        (Reason::SidInFuture, pageviews(sid(now_ms() + DAY_MS), 1, now_ms(), &["/"])),
        (Reason::SidExpired, pageviews(sid(now_ms() - DAY_MS), 1, now_ms(), &["/"])),
        (Reason::InvalidSid, Batch { sid: vec![1; 16], ..pageviews(sid(now_ms()), 1, now_ms(), &["/"]) }),
    ];
    for (reason, batch) in wrong {
        page.batch(&batch).await;
        let reject = page.rejected().await;
        assert_eq!((reject.reason(), reject.r#final), (reason, false));
        assert!(reject.server_ms.abs_diff(now_ms()) < 60_000, "a refusal carries the server's time");
    }

    // Final: remembered as dropped, and never to be sent again. A repeat hears the same.
    let invalid_utf8 =
        with_bytes_instead(&pageviews(sid(now_ms()), 1, now_ms(), &["/utf"]), b"utf", &[0xff, 0xfe, 0xfd]);
    for _ in 0..2 {
        let bytes = Envelope { batch: invalid_utf8.clone(), ..envelope(&Batch::default()) };
        page.send(client_frame::Frame::Batch(bytes)).await;
        let reject = page.rejected().await;
        assert_eq!((reject.reason(), reject.r#final), (Reason::InvalidUtf8, true));
    }

    // One event from 1970 is dropped; the one beside it counts.
    let mut batch = pageviews(sid(now_ms()), 1, 0, &["/1970", "/kept"]);
    batch.events[1].delta_ms = now_ms() as i64;
    page.batch(&batch).await;
    page.acknowledged().await;
}

async fn posts_that_are_refused(gateway: SocketAddr) {
    let too_many = Batch {
        events: vec![Event { name: 1, url: 2, ..Default::default() }; 10_001],
        ..pageviews(sid(now_ms()), 1, now_ms(), &["/many"])
    };
    let unknown_site = Envelope { site: "nobody".into(), ..envelope(&pageviews(sid(now_ms()), 1, now_ms(), &["/"])) };
    let posts = [
        (422, Reason::TooManyEvents, envelope(&too_many).encode_to_vec()),
        (404, Reason::UnknownSite, unknown_site.encode_to_vec()),
        (400, Reason::Malformed, b"not protobuf at all".to_vec()),
        (413, Reason::FrameTooLarge, vec![0; 300 * 1024]),
    ];
    for (status, reason, body) in posts {
        let (found, reject) = post(gateway, ORIGIN, body).await;
        assert_eq!((found, reject.reason()), (status, reason), "{}", reject.message);
    }
    let (status, reject) =
        post(gateway, "https://evil.example", envelope(&pageviews(sid(now_ms()), 1, now_ms(), &["/"])).encode_to_vec())
            .await;
    assert_eq!((status, reject.reason()), (403, Reason::WrongOrigin));
}

async fn post(gateway: SocketAddr, origin: &str, body: Vec<u8>) -> (u16, proto::agent::Reject) {
    let request = reqwest::Client::new()
        .post(format!("http://{gateway}/v1/batch"))
        .header("origin", origin)
        .header("user-agent", CHROME);
    let answer = request.header("content-type", "text/plain").body(body).send().await.unwrap();
    let status = answer.status().as_u16();
    match ServerFrame::decode(answer.bytes().await.unwrap()).unwrap().frame {
        Some(server_frame::Frame::Reject(reject)) => (status, reject),
        other => panic!("a refusal was expected, not {other:?}"),
    }
}

fn with_bytes_instead(batch: &Batch, old: &[u8], new: &[u8]) -> Vec<u8> {
    let mut bytes = batch.encode_to_vec();
    let at = bytes.windows(old.len()).position(|window| window == old).unwrap();
    bytes[at..at + new.len()].copy_from_slice(new);
    bytes
}
