//! A page that speaks the protocol frame by frame, so that a test can say things no agent would.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use proto::Message as _;
use proto::agent::{Ack, Batch, ClientFrame, Envelope, Event, Hello, Reject, ServerFrame, client_frame, server_frame};
use proto::sid::Sid;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::{ORIGIN, SITE};

/// The usual browser.
pub const CHROME: &str =
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Safari/537.36";
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// A connection that has said Hello.
pub struct Page {
    /// The WebSocket itself.
    pub socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

/// Who a page says it is.
pub struct Visitor<'a> {
    /// The header.
    pub user_agent: &'a str,
    /// What a proxy says of the client's address.
    pub forwarded_for: Option<&'a str>,
    /// The page's.
    pub origin: &'a str,
}

impl Default for Visitor<'_> {
    fn default() -> Self {
        Self { user_agent: CHROME, forwarded_for: None, origin: ORIGIN }
    }
}

impl Page {
    /// As the usual visitor.
    pub async fn open(gateway: SocketAddr) -> Self {
        Self::open_as(gateway, &Visitor::default()).await
    }

    /// Connected, and welcome.
    pub async fn open_as(gateway: SocketAddr, visitor: &Visitor<'_>) -> Self {
        let mut page = Self::connect(gateway, visitor).await;
        page.hello(SITE).await;
        assert!(matches!(page.frame().await, Some(server_frame::Frame::Welcome(_))));
        page
    }

    /// Without a Hello.
    pub async fn connect(gateway: SocketAddr, visitor: &Visitor<'_>) -> Self {
        Self::try_connect(gateway, visitor).await.unwrap()
    }

    /// As [`Page::connect`], where nobody may be there.
    pub async fn try_connect(gateway: SocketAddr, visitor: &Visitor<'_>) -> Result<Self, Error> {
        let mut request = format!("ws://{gateway}/v1/stream").into_client_request().unwrap();
        request.headers_mut().insert("origin", visitor.origin.parse().unwrap());
        request.headers_mut().insert("user-agent", visitor.user_agent.parse().unwrap());
        if let Some(address) = visitor.forwarded_for {
            request.headers_mut().insert("x-forwarded-for", address.parse().unwrap());
        }
        let (socket, _) = tokio_tungstenite::connect_async(request).await?;
        Ok(Self { socket })
    }

    /// Names the site.
    pub async fn hello(&mut self, site: &str) {
        self.try_hello(site).await.unwrap();
    }

    /// As [`Page::hello`], on a connection that may be gone.
    pub async fn try_hello(&mut self, site: &str) -> Result<(), Error> {
        let hello = Hello { site: site.into(), agent_version: "test".into(), ..Default::default() };
        self.try_send(client_frame::Frame::Hello(hello)).await
    }

    /// Sends any frame.
    pub async fn send(&mut self, frame: client_frame::Frame) {
        self.try_send(frame).await.unwrap();
    }

    /// As [`Page::send`], on a connection that may be gone.
    pub async fn try_send(&mut self, frame: client_frame::Frame) -> Result<(), Error> {
        let bytes = ClientFrame { frame: Some(frame) }.encode_to_vec();
        self.socket.send(Message::binary(bytes)).await
    }

    /// Sends a batch as it is now.
    pub async fn batch(&mut self, batch: &Batch) {
        self.send(client_frame::Frame::Batch(envelope(batch))).await;
    }

    /// The next frame; `None` once the gateway has closed.
    pub async fn frame(&mut self) -> Option<server_frame::Frame> {
        tokio::time::timeout(ANSWER_MAX, self.frame_or_closed()).await.expect("an answer in time")
    }

    /// As [`Page::frame`], for as long as it takes.
    pub async fn frame_or_closed(&mut self) -> Option<server_frame::Frame> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Binary(bytes))) => return ServerFrame::decode(&bytes[..]).unwrap().frame,
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(_)) | Some(Err(_)) | None => return None,
            }
        }
    }

    /// The next frame, an acknowledgement.
    pub async fn acknowledged(&mut self) -> Ack {
        match self.frame().await {
            Some(server_frame::Frame::Ack(ack)) => ack,
            other => panic!("an acknowledgement was expected, not {other:?}"),
        }
    }

    /// The next frame, a refusal.
    pub async fn rejected(&mut self) -> Reject {
        match self.frame().await {
            Some(server_frame::Frame::Reject(reject)) => reject,
            other => panic!("a refusal was expected, not {other:?}"),
        }
    }
}

/// As it leaves now.
pub fn envelope(batch: &Batch) -> Envelope {
    Envelope { site: SITE.into(), sent_ms: now_ms(), batch: batch.encode_to_vec(), ..Default::default() }
}

/// Between two pageviews, milliseconds: of more than 20 a second nobody believes that a person opened them.
const APART_MS: u32 = 100;

/// The batch with its events one after the other, the last at the time at which all of them were.
pub fn one_by_one(mut batch: Batch) -> Batch {
    batch.base_ms -= u64::from(APART_MS) * batch.events.len() as u64;
    batch.events.iter_mut().for_each(|event| event.delta_ms = APART_MS.into());
    batch
}

/// A batch of pageviews of these paths, all at this time of the device.
pub fn pageviews(sid: Sid, seq: u32, at_ms: u64, paths: &[&str]) -> Batch {
    let mut strings = vec!["pageview".to_owned()];
    strings.extend(paths.iter().map(|path| format!("{ORIGIN}{path}")));
    let events = (2..).take(paths.len()).map(|url| Event { name: 1, url, ..Default::default() }).collect();
    Batch { sid: sid.as_bytes().to_vec(), seq, base_ms: at_ms, strings, events, ..Default::default() }
}

/// A fresh stream, stamped so long ago.
pub fn sid(stamp_ms: u64) -> Sid {
    Sid::from_parts(stamp_ms, rand::random())
}

/// The time, Unix milliseconds.
pub fn now_ms() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64
}
