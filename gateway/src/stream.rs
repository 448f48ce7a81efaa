//! A session's frames over a WebSocket: one binary message a frame.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, StatusCode, header};
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
use crate::session::{self, Close, Gone, Received, Transport};
use crate::validate;

/// A small buffer a connection: what an idle agent costs. A larger message grows it for as long as it takes.
const BUFFER_BYTES: usize = 1024;

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
            Ok(upgraded) => session::serve(WebSocket::new(upgraded).await, client, door).await,
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

/// The server's end of one.
struct WebSocket {
    socket: WebSocketStream<TokioIo<Upgraded>>,
    /// What came broke the rules of WebSockets, not only ours.
    broken: bool,
}

impl WebSocket {
    async fn new(upgraded: Upgraded) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(BUFFER_BYTES)
            .write_buffer_size(BUFFER_BYTES)
            .max_frame_size(Some(FRAME_BYTES_MAX))
            .max_message_size(Some(MESSAGE_BYTES_MAX));
        let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
        Self { socket, broken: false }
    }

    fn code(&self, reason: Reason) -> CloseCode {
        match reason {
            _ if self.broken => CloseCode::Protocol,
            Reason::FrameTooLarge => CloseCode::Size,
            Reason::TextFrame => CloseCode::Unsupported,
            Reason::UnknownSite | Reason::WrongOrigin | Reason::HelloMissing => CloseCode::Policy,
            _ => CloseCode::Invalid,
        }
    }
}

impl Transport for WebSocket {
    const NAME: &'static str = "websocket";

    async fn receive(&mut self) -> Received {
        match self.socket.next().await {
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
            Close::Refused(refusal) => (self.code(refusal.reason), validate::label(refusal.reason)),
        };
        if self.socket.close(Some(CloseFrame { code, reason: reason.into() })).await.is_ok() {
            // The other side's Close, so that its last bytes are not answered with a reset that takes ours with it.
            while let Some(Ok(_)) = self.socket.next().await {}
        }
    }
}
