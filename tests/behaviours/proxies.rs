//! Whose visit it is, behind proxies and in front of liars.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tokio_tungstenite::MaybeTlsStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::instance::{Instance, ORIGIN, SITE, end};
use crate::page::{CHROME, Page, Visitor, now_ms, pageviews, sid};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_visitors_behind_haproxy_are_two_by_header_and_by_proxy_protocol() {
    let instance = Instance::start().await;
    // They trust HAProxy alone: the visitors come from other addresses of the same machine.
    let by_header = instance.second_gateway("trusted_proxies = [\"127.0.0.1/32\"]").await;
    let by_protocol = instance.second_gateway("trusted_proxies = [\"127.0.0.1/32\"]\nproxy_protocol = true").await;
    let proxies = [
        HaProxy::start(&format!("server gateway {}", by_header.address), "option forwardfor"),
        HaProxy::start(&format!("server gateway {} send-proxy-v2", by_protocol.address), ""),
    ];
    for (proxy, pageviews_so_far) in proxies.iter().zip([2.0, 4.0]) {
        for source in ["127.0.0.2", "127.0.0.3"] {
            // What they claim themselves is the same for both: believed, it would make them one.
            let mut page = open_over(proxy.connect_from(source), "203.0.113.50").await;
            page.batch(&pageviews(sid(now_ms()), 1, now_ms(), &["/"])).await;
            page.acknowledged().await;
        }
        // By the second way they are the same two.
        instance.expect(&["visitors", "pageviews"], &[2.0, pageviews_so_far]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_header_from_an_untrusted_address_changes_nothing() {
    let instance = Instance::start().await;
    let untrusting = instance.second_gateway("trusted_proxies = []").await;
    for forged in [None, Some("203.0.113.7"), Some("203.0.113.8, 198.51.100.1")] {
        let visitor = Visitor { forwarded_for: forged, ..Default::default() };
        let mut page = Page::open_as(untrusting.address, &visitor).await;
        page.batch(&pageviews(sid(now_ms()), 1, now_ms(), &["/"])).await;
        page.acknowledged().await;
    }
    instance.expect(&["pageviews", "visitors"], &[3.0, 1.0]).await;

    // From a trusted proxy the rightmost untrusted address counts, and what a client put before it does not.
    for forwarded in ["203.0.113.7", "1.2.3.4, 203.0.113.7", "203.0.113.9"] {
        let visitor = Visitor { forwarded_for: Some(forwarded), ..Default::default() };
        let mut page = Page::open_as(instance.gateway(), &visitor).await;
        page.batch(&pageviews(sid(now_ms()), 1, now_ms(), &["/"])).await;
        page.acknowledged().await;
    }
    instance.expect(&["pageviews", "visitors"], &[6.0, 3.0]).await;
}

/// Debian's HAProxy in front of one gateway.
struct HaProxy {
    child: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl HaProxy {
    fn start(server: &str, option: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = format!(
            "global\n  maxconn 100\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n  timeout tunnel 60s\n  {option}\n\
             frontend pages\n  bind 0.0.0.0:{port}\n  default_backend gateways\nbackend gateways\n  {server}\n"
        );
        let file = folder.path().join("haproxy.cfg");
        std::fs::write(&file, config).unwrap();
        let child = Command::new("haproxy")
            .arg("-db")
            .arg("-f")
            .arg(&file)
            .stderr(Stdio::null())
            .spawn()
            .expect("Debian's haproxy is installed");
        let started = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(started.elapsed() < Duration::from_secs(20), "haproxy did not start");
            std::thread::sleep(Duration::from_millis(50));
        }
        Self { child, port, _folder: folder }
    }

    /// A connection that HAProxy sees coming from this address.
    fn connect_from(&self, source: &str) -> std::net::TcpStream {
        let socket =
            rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None).unwrap();
        let source: std::net::Ipv4Addr = source.parse().unwrap();
        rustix::net::bind(&socket, &std::net::SocketAddrV4::new(source, 0)).unwrap();
        rustix::net::connect(&socket, &std::net::SocketAddrV4::new([127, 0, 0, 1].into(), self.port)).unwrap();
        let stream = std::net::TcpStream::from(socket);
        stream.set_nonblocking(true).unwrap();
        stream
    }
}

impl Drop for HaProxy {
    fn drop(&mut self) {
        end(&mut self.child, Duration::from_secs(5));
    }
}

async fn open_over(stream: std::net::TcpStream, claims_to_be: &str) -> Page {
    let mut request = format!("ws://{}/v1/stream", stream.peer_addr().unwrap()).into_client_request().unwrap();
    request.headers_mut().insert("origin", ORIGIN.parse().unwrap());
    request.headers_mut().insert("user-agent", CHROME.parse().unwrap());
    request.headers_mut().insert("x-forwarded-for", claims_to_be.parse().unwrap());
    let stream = MaybeTlsStream::Plain(tokio::net::TcpStream::from_std(stream).unwrap());
    let (socket, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    let mut page = Page { socket };
    page.hello(SITE).await;
    assert!(page.frame().await.is_some());
    page
}
