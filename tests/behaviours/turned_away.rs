//! Who is turned away at the gateway: too many from one place, what a rule blocks, pages of other origins. Everybody else goes on.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use harness::quic::{self, wire};
use harness::webtransport::{ConnectingError, Session};
use proto::Message as _;
use proto::agent::{Envelope, Reason, client_frame, server_frame};
use proto::sid::Sid;
use serde_json::json;
use tokio_tungstenite::MaybeTlsStream;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::instance::{Instance, ORIGIN, REPORT_MAX, SITE, SecondGateway};
use crate::page::{CHROME, Page, Visitor, envelope, now_ms, pageviews, sid};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_over_its_limit_is_refused_and_the_others_go_on() {
    let instance = Instance::start().await;
    let settings =
        |limit: u32| format!("trusted_proxies = [\"127.0.0.9/32\"]\n[limits]\nconnections_per_address = {limit}");
    let gateway = instance.second_gateway(&settings(4)).await;
    // Each is a connection and a session.
    let mut first = Page::open(gateway.address).await;
    let second = Page::open(gateway.address).await;
    assert!(Page::try_connect(gateway.address, &Visitor::default()).await.is_err());
    assert!(gateway.metric(r#"tideline_gateway_connections_refused_total{reason="address"}"#).await >= Some(1.0));

    let mut neighbour = open_from("127.0.0.2", gateway.address, None).await.expect("another address");
    neighbour.hello(SITE).await;
    assert!(matches!(neighbour.frame().await, Some(server_frame::Frame::Welcome(_))));
    for page in [&mut first, &mut neighbour] {
        page.batch(&pageviews(sid(now_ms()), 1, now_ms(), &["/"])).await;
        page.acknowledged().await;
    }
    drop(second);
    let second = until_welcome(gateway.address).await;

    // A proxy's own connections are not counted, the sessions of whom it forwards are.
    let mut behind = Vec::new();
    for _ in 0..4 {
        let mut page = open_from("127.0.0.9", gateway.address, Some("203.0.113.7")).await.unwrap();
        page.hello(SITE).await;
        assert!(matches!(page.frame().await, Some(server_frame::Frame::Welcome(_))));
        behind.push(page);
    }
    let mut fifth = open_from("127.0.0.9", gateway.address, Some("203.0.113.7")).await.unwrap();
    let refused = fifth.rejected().await;
    assert!(refused.reason() == Reason::Unavailable && !refused.r#final, "{refused:?}");
    let mut other = open_from("127.0.0.9", gateway.address, Some("203.0.113.8")).await.unwrap();
    other.hello(SITE).await;
    assert!(matches!(other.frame().await, Some(server_frame::Frame::Welcome(_))));

    // Another limit is in force after a SIGHUP, and nobody was sent away for it.
    assert!(Page::try_connect(gateway.address, &Visitor::default()).await.is_err());
    reconfigure(&gateway, |config| config["limits"]["connections_per_address"] = 6.into());
    let third = until_welcome(gateway.address).await;
    first.batch(&pageviews(sid(now_ms()), 1, now_ms(), &["/"])).await;
    first.acknowledged().await;
    instance.expect(&["pageviews"], &[3.0]).await;
    drop((second, third));
    instance.gateways_logged_no_error();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_blocks_or_only_counts_and_a_broken_file_changes_nothing() {
    let instance = Instance::start().await;
    let rules = instance.folder.path().join("waf.toml");
    let write = |blocked: &str| {
        let rule = |name: &str, mode: &str, agent: &str| {
            format!("[[rule]]\nname = '{name}'\nmode = '{mode}'\nuser_agents = ['{agent}']\n")
        };
        std::fs::write(&rules, rule("seen", "observe", "Chrome") + &rule("evil", "block", blocked)).unwrap();
    };
    write("Evil");
    let gateway = instance.second_gateway(&format!("waf_rules = {:?}", rules.to_str().unwrap())).await;
    let evil = Visitor { user_agent: "Evil/1.0", ..Default::default() };
    let first = sid(now_ms());
    assert_eq!(post(gateway.address, evil.user_agent, first).await, (403, "blocked by rule evil\n".to_owned()));
    match Page::try_connect(gateway.address, &evil).await.err() {
        Some(Error::Http(response)) => assert_eq!(response.status(), 403),
        other => panic!("an answer was expected, not {other:?}"),
    }
    gateway.until(r#"tideline_gateway_waf_hits_total{rule="evil",mode="block"}"#, 2.0).await;

    // What is only observed is counted, and goes on.
    assert_eq!(post(gateway.address, CHROME, first).await.0, 200);
    let mut page = Page::open(gateway.address).await;
    let certificate = instance.data().join("run/certificate.pem");
    drop(Session::open(gateway.tls, &certificate).await);
    gateway.until(r#"tideline_gateway_waf_hits_total{rule="seen",mode="observe"}"#, 3.0).await;

    std::fs::write(&rules, "[[rule]]\nname = 'evil'\nmode = 'block'\nuser_agent = ['Chrome']\n").unwrap();
    gateway.until("tideline_gateway_waf_reload_failures_total", 1.0).await;
    assert_eq!(post(gateway.address, evil.user_agent, first).await.0, 403);
    assert_eq!(post(gateway.address, CHROME, first).await.0, 200);

    write("Chrome");
    let changed = Instant::now();
    while post(gateway.address, CHROME, first).await.0 != 403 {
        assert!(changed.elapsed() < REPORT_MAX, "the changed rules are not in force");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(matches!(Session::try_connect(gateway.tls, &certificate).await, Err(ConnectingError::SessionRejected)));
    // A session that has begun is not asked again.
    page.batch(&pageviews(sid(now_ms()), 1, now_ms(), &["/"])).await;
    page.acknowledged().await;
    instance.expect(&["pageviews"], &[2.0]).await;
    instance.gateways_logged_no_error();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_from_a_data_centre_is_dropped_and_in_the_ledger() {
    let instance = Instance::start().await;
    let list = instance.folder.path().join("data-centres.txt");
    std::fs::write(&list, "198.51.100.0/24 # a provider\n").unwrap();
    let settings = format!("trusted_proxies = ['127.0.0.1/32']\ndata_centres = {:?}", list.to_str().unwrap());
    let gateway = instance.second_gateway(&settings).await;
    let mut pages = Vec::new();
    for address in ["198.51.100.7", "203.0.113.7"] {
        let visitor = Visitor { forwarded_for: Some(address), ..Default::default() };
        pages.push(Page::open_as(gateway.address, &visitor).await);
    }
    for page in &mut pages {
        page.batch(&pageviews(sid(now_ms()), 1, now_ms(), &["/"])).await;
    }
    let refused = pages[0].rejected().await;
    assert!(refused.reason() == Reason::DataCentre && refused.r#final, "{refused:?}");
    pages[1].acknowledged().await;

    // A changed list is in force within seconds, for who is connected too.
    std::fs::write(&list, "").unwrap();
    let changed = Instant::now();
    let mut tries = 1;
    loop {
        pages[0].batch(&pageviews(sid(now_ms()), 1, now_ms(), &["/"])).await;
        match pages[0].frame().await {
            Some(server_frame::Frame::Ack(_)) => break,
            Some(server_frame::Frame::Reject(_)) => tries += 1,
            other => panic!("{other:?}"),
        }
        assert!(changed.elapsed() < REPORT_MAX, "the changed list is not in force");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    instance.expect(&["pageviews"], &[2.0]).await;
    let metric = r#"tideline_gateway_refusals_total{reason="data_centre"}"#;
    assert_eq!(gateway.metric(metric).await, Some(f64::from(tries)));
    instance.gateways_logged_no_error();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sites_of_a_tenant_are_asked_to_wait_together_until_its_limit_is_raised() {
    let instance = Instance::start().await;
    let put = async |site: &str, tenant: &str| {
        let url = format!("http://{}/api/v2/sites", instance.central());
        let body = json!({ "site_id": site, "origins": [ORIGIN], "tenant": tenant });
        let answer = reqwest::Client::new().post(url).bearer_auth(instance.api_key()).json(&body).send().await.unwrap();
        assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
    };
    for (site, tenant) in [(SITE, "acme"), ("sister", "acme"), ("stranger", "")] {
        put(site, tenant).await;
    }
    // It knows them from its start on.
    let limits = "[limits]\ntenant_batches_per_s = 1\ntenant_batches_burst = 1";
    let gateway = instance.second_gateway(limits).await;
    let send = async |site: &str, seq: u32| {
        let mut page = Page::connect(gateway.address, &Visitor::default()).await;
        page.hello(site).await;
        assert!(matches!(page.frame().await, Some(server_frame::Frame::Welcome(_))), "{site}");
        let batch = envelope(&pageviews(sid(now_ms()), seq, now_ms(), &["/"]));
        page.send(client_frame::Frame::Batch(Envelope { site: site.to_owned(), ..batch })).await;
        match page.frame().await {
            Some(server_frame::Frame::Ack(_)) => None,
            Some(server_frame::Frame::Throttle(throttle)) => Some(throttle.wait_ms),
            other => panic!("neither taken nor asked to wait: {other:?}"),
        }
    };
    // Of many at once one is taken a second; the rest hear how long to wait.
    let mut waits = Vec::new();
    for seq in 1..=20 {
        waits.push(send(if seq % 2 == 0 { SITE } else { "sister" }, seq).await);
    }
    let waits: Vec<_> = waits.into_iter().flatten().collect();
    assert!(!waits.is_empty() && waits.iter().all(|wait_ms| (1..=1_000).contains(wait_ms)), "{waits:?}");
    assert_eq!(send("stranger", 1).await, None, "no tenant, no limit of one");
    assert_eq!(send("stranger", 2).await, None);

    reconfigure(&gateway, |config| config["limits"]["tenant_batches_burst"] = 1_000.into());
    gateway.until("tideline_gateway_throttled_total", waits.len() as f64).await;
    let raised = Instant::now();
    while send(SITE, 1).await.is_some() || send("sister", 1).await.is_some() {
        assert!(raised.elapsed() < REPORT_MAX, "the new limit is not in force");
    }
    instance.gateways_logged_no_error();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_origin_with_a_star_admits_what_is_below_its_domain() {
    let instance = Instance::start().await;
    let put = |origins: Vec<&'static str>| {
        let url = format!("http://{}/api/v2/sites", instance.central());
        let body = json!({ "site_id": SITE, "origins": origins });
        reqwest::Client::new().post(url).bearer_auth(instance.api_key()).json(&body).send()
    };
    let answer = put(vec![ORIGIN, "https://*.com"]).await.unwrap();
    assert_eq!(answer.status(), 400);
    let said = answer.text().await.unwrap();
    assert!(said.contains("https://*.com") && said.contains("two labels or more"), "{said}");
    let answer = put(vec![ORIGIN, "https://*.Below.example", "http://localhost:*"]).await.unwrap();
    assert!(answer.status().is_success());

    let asked = Instant::now();
    while !welcome(instance.gateway(), "https://a.b.below.example").await {
        assert!(asked.elapsed() < REPORT_MAX, "the gateway does not know the site's new origins\n{}", instance.logs());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for origin in [ORIGIN, "http://localhost:5173", "https://www.below.example"] {
        assert!(welcome(instance.gateway(), origin).await, "{origin}");
    }
    for origin in [
        "https://below.example",
        "https://notbelow.example",
        "http://www.below.example",
        "https://www.below.example.evil.example",
    ] {
        assert!(!welcome(instance.gateway(), origin).await, "{origin}");
    }
    instance.gateways_logged_no_error();
}

/// Whether pages of this origin may report.
async fn welcome(gateway: SocketAddr, origin: &str) -> bool {
    let mut page = Page::connect(gateway, &Visitor { origin, ..Default::default() }).await;
    page.hello(SITE).await;
    match page.frame().await {
        Some(server_frame::Frame::Welcome(_)) => true,
        Some(server_frame::Frame::Reject(reject)) if reject.reason() == Reason::WrongOrigin => false,
        other => panic!("neither a welcome nor a refusal: {other:?}"),
    }
}

/// A page, as soon as there is a place for it.
async fn until_welcome(gateway: SocketAddr) -> Page {
    let asked = Instant::now();
    loop {
        if let Ok(mut page) = Page::try_connect(gateway, &Visitor::default()).await
            && page.try_hello(SITE).await.is_ok()
            && matches!(page.frame().await, Some(server_frame::Frame::Welcome(_)))
        {
            return page;
        }
        assert!(asked.elapsed() < REPORT_MAX, "no place became free");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The status and the text that one batch is answered with.
async fn post(gateway: SocketAddr, user_agent: &str, sid: Sid) -> (u16, String) {
    let body = envelope(&pageviews(sid, 1, now_ms(), &["/"])).encode_to_vec();
    let request = reqwest::Client::new().post(format!("http://{gateway}/v1/batch")).body(body);
    let answer = request.header("origin", ORIGIN).header("user-agent", user_agent).send().await.unwrap();
    (answer.status().as_u16(), String::from_utf8_lossy(&answer.bytes().await.unwrap()).into_owned())
}

/// A WebSocket from this address of the machine.
async fn open_from(source: &str, gateway: SocketAddr, forwarded_for: Option<&str>) -> Result<Page, Error> {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(source.parse().unwrap(), 0)).unwrap();
    let stream = MaybeTlsStream::Plain(socket.connect(gateway).await.unwrap());
    let mut request = format!("ws://{gateway}/v1/stream").into_client_request().unwrap();
    request.headers_mut().insert("origin", ORIGIN.parse().unwrap());
    request.headers_mut().insert("user-agent", CHROME.parse().unwrap());
    if let Some(address) = forwarded_for {
        request.headers_mut().insert("x-forwarded-for", address.parse().unwrap());
    }
    let (socket, _) = tokio_tungstenite::client_async(request, stream).await?;
    Ok(Page { socket })
}

/// Changes the gateway's configuration and tells it.
fn reconfigure(gateway: &SecondGateway, change: impl Fn(&mut toml::Table)) {
    let mut config: toml::Table = std::fs::read_to_string(&gateway.file).unwrap().parse().unwrap();
    change(&mut config);
    std::fs::write(&gateway.file, config.to_string()).unwrap();
    gateway.hang_up();
}

/// Much more than the gateway holds of one connection.
const ENDLESS_BYTES: usize = 8 * 1024 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_http3_a_frame_that_announces_more_than_may_be_held_ends_its_stream_and_long_sessions_go_on() {
    let instance = Instance::start().await;
    let certificate = instance.data().join("run/certificate.pem");
    let gateway = instance.second_gateway("").await;
    let mut good = Session::open(gateway.tls, &certificate).await;
    let connect = || quic::connect(gateway.tls, &certificate, None);

    let connection = connect().await;
    let mut control = connection.open_uni().await.unwrap();
    control.write_all(&wire::CONTROL).await.unwrap();
    assert!(stopped_after(&mut control).await < ENDLESS_BYTES / 8, "the control stream");
    connection.closed().await;

    let connection = connect().await;
    let mut control = connection.open_uni().await.unwrap();
    control.write_all(&wire::CONTROL).await.unwrap();
    let (mut request, _answer) = connection.open_bi().await.unwrap();
    assert!(stopped_after(&mut request).await < ENDLESS_BYTES / 8, "a frame before the head");
    let (mut session, mut answer) = connection.open_bi().await.unwrap();
    let fields = [
        (":method", "CONNECT"),
        (":protocol", "webtransport"),
        (":scheme", "https"),
        (":authority", "localhost"),
        (":path", "/v1/stream"),
        ("origin", ORIGIN),
        ("user-agent", CHROME),
    ];
    session.write_all(&quic::headers(&fields)).await.unwrap();
    answer.read_exact(&mut [0]).await.unwrap();
    let (mut stream, _frames) = connection.open_bi().await.unwrap();
    stream.write_all(&[0x40, 0x41, u64::from(quinn::VarInt::from(session.id())) as u8]).await.unwrap();
    assert!(stopped_after(&mut session).await < ENDLESS_BYTES / 8, "the stream of a session's request");

    // In all more than is held at once: what has been read makes room.
    let stream = sid(now_ms());
    let path = format!("/{}", "x".repeat(1_900));
    for seq in 1..=60 {
        let batch = pageviews(stream, seq, now_ms(), &[path.as_str(), &path, &path, &path, &path]);
        good.batch(&batch).await;
        assert!(matches!(good.frame().await, Some(server_frame::Frame::Ack(_))));
    }
    instance.gateways_logged_no_error();
}

/// Begins a frame that never ends; how many bytes the gateway took of it before it stopped the stream or closed the connection.
async fn stopped_after(stream: &mut quinn::SendStream) -> usize {
    stream.write_all(&wire::ENDLESS_FRAME).await.unwrap();
    let mut taken = 0;
    while taken < ENDLESS_BYTES {
        match tokio::time::timeout(REPORT_MAX, stream.write(&[0; 4096])).await.expect("taken or stopped in time") {
            Ok(bytes) => taken += bytes,
            Err(_) => break,
        }
    }
    taken
}
