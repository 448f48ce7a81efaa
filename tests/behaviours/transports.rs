//! Every way to the gateway: the same frames, the same counts.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use harness::webtransport::Session;
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use proto::Message as _;
use proto::agent::agent_client::AgentClient;
use proto::agent::{Ack, Batch, ClientFrame, Hello, Reason, ServerFrame, client_frame, server_frame::Frame};
use proto::sid::Sid;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::Role;
use tonic::Request;
use tonic::transport::{Channel, Endpoint};

use crate::instance::{Instance, ORIGIN, SITE};
use crate::page::{CHROME, Page, envelope, now_ms, pageviews, sid};

const ANSWER_MAX: Duration = Duration::from_secs(20);

impl Instance {
    fn gateway_with_tls(&self) -> SocketAddr {
        let text = std::fs::read_to_string(self.data().join("run/gateway.addresses.json")).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()["tls"].as_str().unwrap().parse().unwrap()
    }

    fn certificate(&self) -> PathBuf {
        self.data().join("run/certificate.pem")
    }
}

/// One pageview of its own.
fn batch(stream: Sid, seq: u32) -> Batch {
    pageviews(stream, seq, now_ms(), &[&format!("/{seq}")])
}

fn connector(certificate: &Path, protocol: &[u8]) -> TlsConnector {
    TlsConnector::from(Arc::new(harness::tls::client(certificate, protocol)))
}

async fn handshake(gateway: SocketAddr, certificate: &Path, protocol: &[u8]) -> TlsStream<TcpStream> {
    let stream = TcpStream::connect(gateway).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    connector(certificate, protocol).connect(name, stream).await.unwrap()
}

/// Says Hello and sends these batches, over whatever carries the WebSocket; each is acknowledged.
async fn converse<S: AsyncRead + AsyncWrite + Unpin>(mut socket: WebSocketStream<S>, batches: &[Batch]) {
    use futures_util::{SinkExt, StreamExt};
    let hello = Hello { site: SITE.into(), agent_version: "test".into(), ..Default::default() };
    let frames = batches.iter().map(|batch| client_frame::Frame::Batch(envelope(batch)));
    for frame in [client_frame::Frame::Hello(hello)].into_iter().chain(frames) {
        let is_batch = matches!(frame, client_frame::Frame::Batch(_));
        socket.send(Message::binary(ClientFrame { frame: Some(frame) }.encode_to_vec())).await.unwrap();
        let answer = tokio::time::timeout(ANSWER_MAX, socket.next()).await.expect("an answer in time");
        let Some(Ok(Message::Binary(bytes))) = answer else { panic!("{answer:?}") };
        let answer = ServerFrame::decode(&bytes[..]).unwrap().frame;
        assert_eq!(matches!(answer, Some(Frame::Ack(_))), is_batch, "{answer:?}");
    }
}

async fn websocket_with_tls(gateway: SocketAddr, certificate: &Path, batches: &[Batch]) {
    let stream = handshake(gateway, certificate, b"http/1.1").await;
    let mut request = format!("wss://localhost:{}/v1/stream", gateway.port()).into_client_request().unwrap();
    request.headers_mut().insert("origin", ORIGIN.parse().unwrap());
    request.headers_mut().insert("user-agent", CHROME.parse().unwrap());
    let (socket, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    converse(socket, batches).await;
}

/// RFC 8441.
async fn websocket_by_http2(gateway: SocketAddr, certificate: &Path, batches: &[Batch]) {
    let stream = handshake(gateway, certificate, b"h2").await;
    let (mut http, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    http.ready().await.unwrap();
    let request = http::Request::connect(format!("https://localhost:{}/v1/stream", gateway.port()))
        .extension(hyper::ext::Protocol::from_static("websocket"))
        .header("sec-websocket-version", "13")
        .header("origin", ORIGIN)
        .header("user-agent", CHROME)
        .body(Empty::<Bytes>::new())
        .unwrap();
    let response = http.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    let upgraded = hyper::upgrade::on(response).await.unwrap();
    converse(WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, None).await, batches).await;
}

async fn webtransport(gateway: SocketAddr, certificate: &Path, batches: &[Batch]) {
    let mut session = Session::open(gateway, certificate).await;
    for batch in batches {
        session.batch(batch).await;
        assert!(matches!(session.frame().await, Some(Frame::Ack(ack)) if ack.seqs == [batch.seq]));
    }
}

pub async fn grpc(gateway: SocketAddr) -> AgentClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{gateway}")).unwrap();
    AgentClient::new(endpoint.connect().await.unwrap())
}

pub fn call<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("origin", ORIGIN.parse().unwrap());
    request.metadata_mut().insert("tideline-user-agent", CHROME.parse().unwrap());
    request
}

async fn grpc_session(gateway: SocketAddr, batches: &[Batch]) {
    let hello = Hello { site: SITE.into(), agent_version: "test".into(), ..Default::default() };
    let sent = batches.iter().map(|batch| client_frame::Frame::Batch(envelope(batch)));
    let frames = [client_frame::Frame::Hello(hello)].into_iter().chain(sent);
    // As `Bye` does: the session ends once everything is answered.
    let frames = frames.chain([client_frame::Frame::Bye(Default::default())]);
    let frames: Vec<_> = frames.map(|frame| ClientFrame { frame: Some(frame) }).collect();
    let mut answers = grpc(gateway).await.connect(call(futures_util::stream::iter(frames))).await.unwrap().into_inner();
    let mut acknowledged = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        match answer.frame {
            Some(Frame::Ack(ack)) => acknowledged.extend(ack.seqs),
            Some(Frame::Welcome(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    acknowledged.sort_unstable();
    assert_eq!(acknowledged, batches.iter().map(|batch| batch.seq).collect::<Vec<_>>());
}

async fn grpc_send(gateway: SocketAddr, batches: &[Batch]) {
    let mut client = grpc(gateway).await;
    for batch in batches {
        let answer = client.send(call(envelope(batch))).await.unwrap().into_inner();
        assert!(matches!(answer.frame, Some(Frame::Ack(Ack { seqs, .. })) if seqs == [batch.seq]));
    }
}

/// One message and the trailers of a call by gRPC-Web.
async fn grpc_web(gateway: SocketAddr, method: &str, message: &[u8]) -> (Option<ServerFrame>, String) {
    let mut body = vec![0];
    body.extend((message.len() as u32).to_be_bytes());
    body.extend(message);
    let answer = reqwest::Client::new()
        .post(format!("http://{gateway}/tideline.agent.v1.Agent/{method}"))
        .header("content-type", "application/grpc-web+proto")
        .header("x-grpc-web", "1")
        .header("origin", ORIGIN)
        .header("user-agent", CHROME)
        .body(body)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.headers()["access-control-allow-origin"], ORIGIN);
    let status = answer.headers().get("grpc-status").map(|status| format!("grpc-status:{}", status.to_str().unwrap()));
    let mut bytes = answer.bytes().await.unwrap();
    let (mut frame, mut trailers) = (None, status.unwrap_or_default());
    while bytes.len() >= 5 {
        let head = bytes.split_to(5);
        let part = bytes.split_to(u32::from_be_bytes(head[1..].try_into().unwrap()) as usize);
        match head[0] {
            0 => frame = Some(ServerFrame::decode(part).unwrap()),
            _ => trailers += std::str::from_utf8(&part).unwrap(),
        }
    }
    (frame, trailers)
}

async fn grpc_web_send(gateway: SocketAddr, batches: &[Batch]) {
    for batch in batches {
        let (frame, trailers) = grpc_web(gateway, "Send", &envelope(batch).encode_to_vec()).await;
        assert!(matches!(frame.unwrap().frame, Some(Frame::Ack(Ack { seqs, .. })) if seqs == [batch.seq]));
        assert!(trailers.contains("grpc-status:0"), "{trailers}");
    }
}

async fn post(gateway: SocketAddr, batches: &[Batch]) {
    for batch in batches {
        let request = reqwest::Client::new().post(format!("http://{gateway}/v1/batch"));
        let request = request.header("origin", ORIGIN).header("user-agent", CHROME);
        let answer = request.body(envelope(batch).encode_to_vec()).send().await.unwrap();
        assert_eq!(answer.status(), 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_came_by_every_transport_counts_once_and_so_does_each_that_came_by_one() {
    let instance = Instance::start().await;
    let (plain, tls, certificate) = (instance.gateway(), instance.gateway_with_tls(), instance.certificate());
    let stream = sid(now_ms());
    let shared = batch(stream, 1);
    let mut seq = 1;
    let mut next = || {
        seq += 1;
        vec![shared.clone(), batch(stream, seq)]
    };

    let mut page = Page::open(plain).await;
    for batch in next() {
        page.batch(&batch).await;
        assert_eq!(page.acknowledged().await.seqs, [batch.seq]);
    }
    websocket_with_tls(tls, &certificate, &next()).await;
    websocket_by_http2(tls, &certificate, &next()).await;
    webtransport(tls, &certificate, &next()).await;
    grpc_session(plain, &next()).await;
    grpc_send(plain, &next()).await;
    grpc_web_send(plain, &next()).await;
    post(plain, &next()).await;
    instance.expect(&["pageviews", "visits"], &[9.0, 1.0]).await;
    instance.gateways_logged_no_error();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_by_grpc_says_why_in_its_own_words() {
    let instance = Instance::start().await;
    let hello = Hello { site: "no-such-site".into(), agent_version: "test".into(), ..Default::default() };
    let (frame, trailers) = grpc_web(instance.gateway(), "Subscribe", &hello.encode_to_vec()).await;
    assert!(matches!(frame.unwrap().frame, Some(Frame::Reject(reject)) if reject.reason() == Reason::UnknownSite));
    assert!(trailers.contains("grpc-status:5"), "{trailers}");

    let mut client = grpc(instance.gateway()).await;
    let refused = client.send(envelope(&batch(sid(now_ms()), 1))).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::PermissionDenied, "without an origin: {refused:?}");
    assert!(refused.message().contains("origin"), "{refused:?}");
    let refused = client.send(call(proto::agent::Envelope::default())).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::NotFound, "without a site: {refused:?}");
    instance.gateways_logged_no_error();
}

/// Passes datagrams on, and can begin to do so from another port: a client's network that gave it a new address.
struct Network {
    address: SocketAddr,
    moves: tokio::sync::mpsc::Sender<()>,
}

impl Network {
    async fn start(gateway: SocketAddr) -> Self {
        let inside = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = inside.local_addr().unwrap();
        let (moves, mut moved) = tokio::sync::mpsc::channel(1);
        tokio::spawn(async move {
            let outside = || async {
                let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
                socket.connect(gateway).await.unwrap();
                socket
            };
            let mut socket = outside().await;
            let (mut client, mut to, mut from) = (None, [0; 2048], [0; 2048]);
            loop {
                tokio::select! {
                    Ok((length, source)) = inside.recv_from(&mut to) => {
                        client = Some(source);
                        let _ = socket.send(&to[..length]).await;
                    }
                    Ok(length) = socket.recv(&mut from) => if let Some(client) = client {
                        let _ = inside.send_to(&from[..length], client).await;
                    },
                    moved = moved.recv() => match moved {
                        Some(()) => socket = outside().await,
                        None => return,
                    },
                }
            }
        });
        Self { address, moves }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_go_on_when_their_clients_get_another_address() {
    let instance = Instance::start().await;
    let (tls, certificate) = (instance.gateway_with_tls(), instance.certificate());
    // More than there are cores, so that each has some.
    let mut sessions = Vec::new();
    for _ in 0..4 {
        let network = Network::start(tls).await;
        let session = Session::open(network.address, &certificate).await;
        sessions.push((network, session, sid(now_ms())));
    }
    for seq in 1..=5 {
        for (network, session, stream) in &mut sessions {
            session.batch(&batch(*stream, seq)).await;
            assert!(matches!(session.frame().await, Some(Frame::Ack(ack)) if ack.seqs == [seq]));
            network.moves.send(()).await.unwrap();
        }
    }
    instance.expect(&["pageviews"], &[20.0]).await;
    instance.gateways_logged_no_error();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_certificate_is_shown_and_open_connections_go_on() {
    let instance = Instance::start().await;
    let (tls, certificate) = (instance.gateway_with_tls(), instance.certificate());
    let mut open = Session::open(tls, &certificate).await;
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(&certificate, made.cert.pem() + &made.signing_key.serialize_pem()).unwrap();

    let began = Instant::now();
    while !shows(tls, &certificate).await {
        assert!(began.elapsed() < ANSWER_MAX, "the old one is shown\n{}", instance.logs());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    open.batch(&batch(sid(now_ms()), 1)).await;
    assert!(matches!(open.frame().await, Some(Frame::Ack(_))), "opened under the old one");
    websocket_with_tls(tls, &certificate, &[batch(sid(now_ms()), 1)]).await;
}

/// Whether a handshake shows this certificate: a client that trusts no other takes it.
async fn shows(gateway: SocketAddr, certificate: &Path) -> bool {
    let stream = TcpStream::connect(gateway).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    connector(certificate, b"http/1.1").connect(name, stream).await.is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_connects_and_asks_for_nothing_or_for_half_is_cut() {
    let instance = Instance::start().await;
    let gateway = instance.second_gateway("[limits]\nhandshake_s = 1").await;
    let plain = || async { TcpStream::connect(gateway.address).await.unwrap() };

    let silent = plain().await;
    let mut slow_preface = plain().await;
    slow_preface.write_all(b"PRI * HT").await.unwrap();
    let mut only_preface = plain().await;
    only_preface.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut slow_head = plain().await;
    slow_head.write_all(b"GET /live HTTP/1.1\r\nhost: a\r\nx-slow: ").await.unwrap();
    let mut no_body = plain().await;
    let call = "POST /tideline.agent.v1.Agent/Send HTTP/1.1\r\nhost: a\r\ncontent-type: application/grpc-web+proto\r\n";
    no_body.write_all(format!("{call}content-length: 100\r\n\r\n").as_bytes()).await.unwrap();
    let mut no_handshake = TcpStream::connect(gateway.tls).await.unwrap();
    no_handshake.write_all(&[22, 3, 1]).await.unwrap();
    for (what, mut stream) in [
        ("silent", silent),
        ("half a preface", slow_preface),
        ("a preface", only_preface),
        ("half a head", slow_head),
        ("a call without its body", no_body),
        ("half a TLS record", no_handshake),
    ] {
        let mut bytes = Vec::new();
        // What the gateway still says (its settings, a 408) is not looked at; that it ends is.
        let ended = tokio::time::timeout(ANSWER_MAX, stream.read_to_end(&mut bytes)).await;
        assert!(ended.is_ok(), "{what}: the connection is still open");
    }
    let mut patient = Page::open(gateway.address).await;
    patient.batch(&batch(sid(now_ms()), 1)).await;
    patient.acknowledged().await;
    instance.gateways_logged_no_error();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_http2_who_takes_nothing_of_an_answer_is_cut() {
    const HEADERS: u8 = 1;
    const GO_AWAY: u8 = 7;
    let instance = Instance::start().await;
    let mut stream = TcpStream::connect(instance.gateway()).await.unwrap();
    // A window of no bytes, and a file asked for: :method, :scheme, :path, :authority.
    let get = b"\x82\x86\x04\x0c/tideline.js\x01\x01a";
    let head = [0, 0, get.len() as u8, HEADERS, 5, 0, 0, 0, 1];
    let settings = b"\0\0\x06\x04\0\0\0\0\0\0\x04\0\0\0\0";
    stream.write_all(&[&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], settings, &head, get].concat()).await.unwrap();
    let mut bytes = Vec::new();
    let ended = tokio::time::timeout(2 * ANSWER_MAX, stream.read_to_end(&mut bytes)).await;
    assert!(ended.is_ok(), "the connection is still open");
    let mut of_the_stream = Vec::new();
    while let [a, b, c, kind, _, _, _, _, id, rest @ ..] = &bytes[..] {
        if *id == 1 || *kind == GO_AWAY {
            of_the_stream.push(*kind);
        }
        bytes = rest[u32::from_be_bytes([0, *a, *b, *c]) as usize..].to_vec();
    }
    assert_eq!(of_the_stream, [HEADERS], "it was answered, and nothing was wrong with how it asked");
    instance.gateways_logged_no_error();
}
