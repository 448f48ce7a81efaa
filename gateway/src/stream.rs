//! A session: one agent on one WebSocket, on one core, from its Hello to its end.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use futures_util::{FutureExt, SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use proto::Message as _;
use proto::agent::{Config, Drain, Envelope, Reason, ServerFrame, Welcome, client_frame, server_frame::Frame};
use proto::limits::{FRAME_BYTES_MAX, MESSAGE_BYTES_MAX};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::CapacityError;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use crate::answer::{self, Answer, Refusal, frame, throttle};
use crate::door::Door;
use crate::ingest::Client;
use crate::throttle::ConnectionThrottle;
use crate::validate;

/// Batches of one session between arrival and answer; beyond it the session reads no further. Agents keep to 8.
const IN_FLIGHT_MAX: usize = 64;
/// A small buffer a connection: what an idle agent costs. A larger message grows it for as long as it takes.
const BUFFER_BYTES: usize = 1024;
/// How long an open batch may wait in the agent.
const FLUSH_INTERVAL_MS: u32 = 500;
/// Agents leave a draining gateway within this time, each at a random moment of it.
const DRAIN_WITHIN_MS: u32 = 2_000;
const DRAIN_MAX: Duration = Duration::from_secs(5);
/// A client that does not read its answers is cut.
const WRITE_MAX: Duration = Duration::from_secs(10);

/// `GET /v1/stream`: switches to WebSocket.
pub async fn upgrade(State(door): State<Arc<Door>>, mut request: Request) -> Response {
    let Some(accept) = accept_key(request.headers()) else {
        let message = "this is a WebSocket endpoint: connect with an agent, or POST one batch to /v1/batch\n";
        return (StatusCode::UPGRADE_REQUIRED, [(header::UPGRADE, "websocket")], message).into_response();
    };
    let client = door.client(&request);
    let Some(upgrade) = request.extensions_mut().remove::<OnUpgrade>() else {
        return (StatusCode::BAD_REQUEST, "this connection cannot be upgraded\n").into_response();
    };
    let sessions = door.sessions.clone();
    sessions.spawn(async move {
        match upgrade.await {
            Ok(upgraded) => Session::new(upgraded, client, door).await.run().await,
            Err(error) => tracing::debug!(%error, "an upgrade did not complete"),
        }
    });
    let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    response
}

fn accept_key(headers: &HeaderMap) -> Option<HeaderValue> {
    let has = |name, wanted: &str| {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|value| value.trim().eq_ignore_ascii_case(wanted))
    };
    let asked = has(header::CONNECTION, "upgrade")
        && has(header::UPGRADE, "websocket")
        && has(header::SEC_WEBSOCKET_VERSION, "13");
    let key = headers.get(header::SEC_WEBSOCKET_KEY).filter(|_| asked)?;
    HeaderValue::try_from(derive_accept_key(key.as_bytes())).ok()
}

struct Session {
    socket: WebSocketStream<TokioIo<Upgraded>>,
    client: Client,
    door: Arc<Door>,
    throttle: ConnectionThrottle,
    /// Named by the Hello.
    site: Option<String>,
    answers: mpsc::Receiver<Answer>,
    answer_to: mpsc::Sender<Answer>,
    in_flight: usize,
}

/// How a session ends.
enum End {
    /// The other side is gone.
    Gone,
    /// With these words.
    Close(CloseCode, Option<Refusal>),
}

impl From<WsError> for End {
    fn from(error: WsError) -> Self {
        match error {
            WsError::Capacity(CapacityError::MessageTooLong { .. }) => {
                Self::Close(CloseCode::Size, Some(Refusal::of_frame(Reason::FrameTooLarge)))
            }
            WsError::Protocol(_) | WsError::Utf8(_) | WsError::Capacity(_) => {
                Self::Close(CloseCode::Protocol, Some(Refusal::of_frame(Reason::Malformed)))
            }
            _ => Self::Gone,
        }
    }
}

impl Session {
    async fn new(upgraded: Upgraded, client: Client, door: Arc<Door>) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(BUFFER_BYTES)
            .write_buffer_size(BUFFER_BYTES)
            .max_frame_size(Some(FRAME_BYTES_MAX))
            .max_message_size(Some(MESSAGE_BYTES_MAX));
        let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
        let (answer_to, answers) = mpsc::channel(IN_FLIGHT_MAX);
        let throttle = door.throttles.connection();
        Self { socket, client, door, throttle, site: None, answers, answer_to, in_flight: 0 }
    }

    async fn run(mut self) {
        let connections = self.door.metrics.connections.clone();
        connections.inc();
        let end = match self.serve().await {
            Ok(()) => End::Close(CloseCode::Normal, None),
            Err(end) => end,
        };
        if let End::Close(code, refusal) = end {
            // Who is refused hears why; then the socket closes. Nobody is waited for longer than a write may take.
            let _ = tokio::time::timeout(WRITE_MAX, self.close(code, refusal)).await;
        }
        connections.dec();
    }

    /// Until the agent says Bye, the gateway leaves, or the connection is at its end.
    async fn serve(&mut self) -> Result<(), End> {
        let idle = Duration::from_secs(self.door.limits.idle_s);
        let (mut heard, mut asked) = (Instant::now(), false);
        let mut answered = Vec::new();
        let mut leaving: Option<Instant> = None;
        loop {
            let deadline = leaving.unwrap_or(heard + idle * if asked { 2 } else { 1 });
            tokio::select! {
                count = self.answers.recv_many(&mut answered, IN_FLIGHT_MAX) => {
                    self.in_flight -= count;
                    self.send(&answer::frames(&answered, self.door.ingest.clock.now_ms())).await?;
                    answered.clear();
                    if leaving.is_some() && self.in_flight == 0 {
                        return Ok(());
                    }
                }
                message = self.socket.next(), if self.in_flight < IN_FLIGHT_MAX => {
                    (heard, asked) = (Instant::now(), false);
                    if self.take_all(message).await? {
                        leaving = Some(Instant::now() + DRAIN_MAX);
                        if self.in_flight == 0 {
                            return Ok(());
                        }
                    }
                }
                () = self.door.stop.cancelled(), if leaving.is_none() => {
                    self.send(&[frame(Frame::Drain(Drain { within_ms: DRAIN_WITHIN_MS }))]).await?;
                    leaving = Some(Instant::now() + DRAIN_MAX);
                    if self.in_flight == 0 {
                        return Ok(());
                    }
                }
                () = tokio::time::sleep_until(deadline) => {
                    if leaving.is_some() || asked {
                        return Err(End::Close(CloseCode::Away, None));
                    }
                    asked = true;
                    self.write(Message::Ping(bytes::Bytes::new())).await?;
                }
            }
        }
    }

    /// This message and every other that is there already: their batches share a flush and their answers a write. True after a Bye.
    async fn take_all(&mut self, first: Option<Result<Message, WsError>>) -> Result<bool, End> {
        let mut next = Some(first);
        while let Some(message) = next {
            let bytes = match message.ok_or(End::Gone)?? {
                Message::Binary(bytes) => bytes,
                Message::Text(_) => {
                    return Err(End::Close(CloseCode::Unsupported, Some(Refusal::of_frame(Reason::TextFrame))));
                }
                Message::Close(_) => return Err(End::Gone),
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => bytes::Bytes::new(),
            };
            if !bytes.is_empty() && self.take(&bytes).await? {
                return Ok(true);
            }
            next = if self.in_flight < IN_FLIGHT_MAX { self.socket.next().now_or_never() } else { None };
        }
        Ok(false)
    }

    async fn take(&mut self, bytes: &[u8]) -> Result<bool, End> {
        let malformed = |reason| End::Close(CloseCode::Invalid, Some(Refusal::of_frame(reason)));
        match validate::decode_frame(bytes).map_err(malformed)?.frame {
            Some(client_frame::Frame::Hello(hello)) => {
                let admitted = self.door.ingest.sites.table().admit(&hello.site, self.client.origin.as_deref());
                admitted.map_err(|reason| End::Close(CloseCode::Policy, Some(Refusal::of_frame(reason))))?;
                self.site = Some(hello.site);
                let welcome = Welcome {
                    server_ms: self.door.ingest.clock.now_ms(),
                    region: self.door.region.clone(),
                    config: Some(Config { flush_interval_ms: FLUSH_INTERVAL_MS }),
                };
                self.send(&[frame(Frame::Welcome(welcome))]).await?;
            }
            Some(client_frame::Frame::Batch(envelope)) => self.take_batch(&envelope).await?,
            Some(client_frame::Frame::Bye(_)) => return Ok(true),
            None => {} // of a later version
        }
        Ok(false)
    }

    async fn take_batch(&mut self, envelope: &Envelope) -> Result<(), End> {
        let site = match &self.site {
            Some(site) if envelope.site.is_empty() || envelope.site == *site => site,
            Some(_) => return Err(End::Close(CloseCode::Policy, Some(Refusal::of_frame(Reason::UnknownSite)))),
            None => return Err(End::Close(CloseCode::Policy, Some(Refusal::of_frame(Reason::HelloMissing)))),
        };
        if let Err(wait) = self.door.throttles.take(Some(&self.throttle), self.client.address, site) {
            self.door.metrics.throttled.inc();
            let wait_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX).max(1);
            let (sid, seq) = answer::name_of(&envelope.batch);
            return self.send(&[throttle(sid, seq, wait_ms)]).await;
        }
        match self.door.ingest.take(&self.client, site, envelope) {
            Ok(accepted) => {
                self.in_flight += 1;
                if self.door.submit(accepted, "websocket", &self.answer_to).await {
                    Ok(())
                } else {
                    Err(End::Close(CloseCode::Away, None))
                }
            }
            Err(refusal) if refusal.sid.is_empty() => Err(End::Close(CloseCode::Invalid, Some(refusal))),
            Err(refusal) => {
                self.door.metrics.refused(refusal.reason);
                self.send(&[refusal.to_frame(self.door.ingest.clock.now_ms())]).await
            }
        }
    }

    /// All of them in one write.
    async fn send(&mut self, frames: &[ServerFrame]) -> Result<(), End> {
        let write = async {
            for frame in frames {
                self.socket.feed(Message::binary(frame.encode_to_vec())).await?;
            }
            self.socket.flush().await
        };
        tokio::time::timeout(WRITE_MAX, write).await.map_err(|_| End::Gone)?.map_err(End::from)
    }

    async fn write(&mut self, message: Message) -> Result<(), End> {
        tokio::time::timeout(WRITE_MAX, self.socket.send(message)).await.map_err(|_| End::Gone)?.map_err(End::from)
    }

    async fn close(&mut self, code: CloseCode, refusal: Option<Refusal>) -> Result<(), End> {
        let mut reason = "";
        if let Some(refusal) = refusal {
            self.door.metrics.refused(refusal.reason);
            reason = validate::label(refusal.reason);
            self.send(&[refusal.to_frame(self.door.ingest.clock.now_ms())]).await?;
        }
        self.socket.close(Some(CloseFrame { code, reason: reason.into() })).await?;
        // The other side's Close, so that its last bytes are not answered with a reset that takes ours with it.
        while let Some(Ok(_)) = self.socket.next().await {}
        Ok(())
    }
}
