//! A session's frames over a WebSocket: one binary message a frame.

mod paced;

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use hyper::ext::Protocol;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use proto::Message as _;
use proto::agent::{Reason, ServerFrame};
use proto::limits::{FRAME_BYTES_MAX, MESSAGE_BYTES_MAX};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::CapacityError;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use crate::door::Door;
use crate::ingest::validate;
use crate::transports::idle::Usage;
use crate::transports::session::{self, Close, Gone, Received, Transport};

pub use paced::Paced;

/// A small buffer a connection: what an idle agent costs. A larger message grows it for as long as it takes.
const BUFFER_BYTES: usize = 1024;

/// The stream under a WebSocket.
pub type Socket = WebSocketStream<Paced<TokioIo<Upgraded>>>;

/// `GET /v1/stream` by HTTP/1, extended `CONNECT` (RFC 8441) by HTTP/2: from here on a session.
pub async fn upgrade(State(door): State<Arc<Door>>, mut request: Request) -> Response {
    let client = door.client_of(&request);
    let (response, upgrade) = match accept(&mut request) {
        Ok(accepted) => accepted,
        Err(refused) => return *refused,
    };
    // By HTTP/2 the connection is that of other streams too, and in use for as long as this one lasts.
    let in_use = request.extensions().get::<Arc<Usage>>().map(Usage::begin);
    let sessions = door.sessions.clone();
    sessions.spawn(async move {
        let _in_use = in_use;
        match upgrade.await {
            Ok(upgraded) => session::serve(WebSocket::new(upgraded).await, client, door).await,
            Err(error) => tracing::debug!(%error, "an upgrade did not complete"),
        }
    });
    response
}

/// The handshake alone: the response, and the connection once that has been sent. `Err` is the response to a request that asks
/// for no WebSocket.
pub fn accept(request: &mut Request) -> Result<(Response, OnUpgrade), Box<Response>> {
    let response = if request.method() == Method::CONNECT {
        let asks = request.extensions().get::<Protocol>().is_some_and(|protocol| protocol.as_str() == "websocket");
        if !asks || !has(request.headers(), header::SEC_WEBSOCKET_VERSION, "13") {
            let message = "by HTTP/2 ask with :protocol = websocket and sec-websocket-version = 13\n";
            return Err((StatusCode::BAD_REQUEST, message).into_response().into());
        }
        StatusCode::OK.into_response()
    } else {
        let Some(key) = accept_key(request.headers()) else {
            let message = "this is a WebSocket endpoint: connect with an agent, or POST one batch to /v1/batch\n";
            return Err((StatusCode::UPGRADE_REQUIRED, [(header::UPGRADE, "websocket")], message)
                .into_response()
                .into());
        };
        let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, key);
        response
    };
    match request.extensions_mut().remove::<OnUpgrade>() {
        Some(upgrade) => Ok((response, upgrade)),
        None => Err((StatusCode::BAD_REQUEST, "this connection cannot be upgraded\n").into_response().into()),
    }
}

/// The stream over an accepted connection, as the server's end. Whoever takes a message from it tells it so ([`Paced::finished`]).
pub async fn socket(upgraded: Upgraded, frame_bytes_max: usize, message_bytes_max: usize) -> Socket {
    let config = WebSocketConfig::default()
        .read_buffer_size(BUFFER_BYTES)
        .write_buffer_size(BUFFER_BYTES)
        .max_frame_size(Some(frame_bytes_max))
        .max_message_size(Some(message_bytes_max));
    let stream = Paced::new(TokioIo::new(upgraded), message_bytes_max);
    WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await
}

fn accept_key(headers: &HeaderMap) -> Option<HeaderValue> {
    let asked = has(headers, header::CONNECTION, "upgrade")
        && has(headers, header::UPGRADE, "websocket")
        && has(headers, header::SEC_WEBSOCKET_VERSION, "13");
    let key = headers.get(header::SEC_WEBSOCKET_KEY).filter(|_| asked)?;
    HeaderValue::try_from(derive_accept_key(key.as_bytes())).ok()
}

fn has(headers: &HeaderMap, name: header::HeaderName, wanted: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|value| value.trim().eq_ignore_ascii_case(wanted))
}

/// The server's end of one.
struct WebSocket {
    socket: Socket,
    /// What came broke the rules of WebSockets, not only ours.
    broken: bool,
}

impl WebSocket {
    async fn new(upgraded: Upgraded) -> Self {
        Self { socket: socket(upgraded, FRAME_BYTES_MAX, MESSAGE_BYTES_MAX).await, broken: false }
    }
}

/// How a session ends whose client sent what is not taken.
pub fn close_code(reason: Reason) -> CloseCode {
    match reason {
        Reason::FrameTooLarge => CloseCode::Size,
        Reason::TextFrame => CloseCode::Unsupported,
        Reason::UnknownSite | Reason::WrongOrigin | Reason::WrongKey | Reason::HelloMissing => CloseCode::Policy,
        Reason::Unavailable => CloseCode::Again,
        _ => CloseCode::Invalid,
    }
}

impl Transport for WebSocket {
    const NAME: &'static str = "websocket";

    async fn receive(&mut self) -> Received {
        let next = self.socket.next().await;
        if matches!(next, Some(Ok(Message::Binary(_)))) {
            self.socket.get_mut().finished();
        }
        match next {
            Some(Ok(Message::Binary(bytes))) => Received::Frame(bytes),
            Some(Ok(Message::Text(_))) => Received::Refused(Reason::TextFrame),
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => Received::Alive,
            Some(Err(WsError::Capacity(CapacityError::MessageTooLong { .. }))) => {
                Received::Refused(Reason::FrameTooLarge)
            }
            Some(Err(WsError::Protocol(_) | WsError::Utf8(_) | WsError::Capacity(_))) => {
                self.broken = true;
                Received::Refused(Reason::Malformed)
            }
            Some(Err(_)) if self.socket.get_ref().is_endless() => Received::Refused(Reason::FrameTooLarge),
            Some(Ok(Message::Close(_)) | Err(_)) | None => Received::Gone,
        }
    }

    async fn send(&mut self, frames: &[ServerFrame]) -> Result<(), Gone> {
        for frame in frames {
            self.socket.feed(Message::binary(frame.encode_to_vec())).await.map_err(|_| Gone)?;
        }
        self.socket.flush().await.map_err(|_| Gone)
    }

    async fn ask(&mut self) -> Result<(), Gone> {
        self.socket.send(Message::Ping(bytes::Bytes::new())).await.map_err(|_| Gone)
    }

    async fn close(mut self, close: &Close) {
        let (code, reason) = match close {
            Close::Done => (CloseCode::Normal, ""),
            Close::Away => (CloseCode::Away, ""),
            Close::Refused(refusal) if self.broken => (CloseCode::Protocol, validate::label(refusal.reason)),
            Close::Refused(refusal) => (close_code(refusal.reason), validate::label(refusal.reason)),
        };
        if self.socket.close(Some(CloseFrame { code, reason: reason.into() })).await.is_ok() {
            // The other side's Close, so that its last bytes are not answered with a reset that takes ours with it.
            while let Some(Ok(_)) = self.socket.next().await {}
        }
    }
}
