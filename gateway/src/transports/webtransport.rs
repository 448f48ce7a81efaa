//! A session's frames over WebTransport: one stream that the client opens, each frame behind its length as a varint.
//!
//! The request that began the session stays open beside it: its end is the session's, and what is said on it is why.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h3::server::RequestStream;
use h3_quinn::SendStream;
use http::{HeaderValue, Request, Response, header};
use proto::Message as _;
use proto::agent::{Reason, ServerFrame};
use proto::limits::MESSAGE_BYTES_MAX;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};

use crate::door::Door;
use crate::ingest::{Client, validate};
use crate::transports::http3::{self, Budget, CountedRecv, SessionStream};
use crate::transports::session::{self, Close, Gone, Received, Transport};
use crate::transports::websocket;

/// Where sessions are, as on every other transport.
pub const PATH: &str = "/v1/stream";
/// A small buffer a connection; a larger frame grows it for as long as it takes.
const BUFFER_BYTES: usize = 1024;
/// Bytes of the longest varint there is.
const VARINT_BYTES_MAX: usize = 10;
/// The capsule's type, 0x2843, as a varint of two bytes.
const CLOSE_CAPSULE: u16 = 0x6843;
/// The same numbers as a WebSocket's close codes.
const CODE_DONE: u16 = 1000;
const CODE_AWAY: u16 = 1001;
/// How often a silent client's packets are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After the last frame the client has this long to take it, before its connection is closed.
const LINGER: Duration = Duration::from_secs(2);

/// Chromium sends no user agent with the request for a session. So pages name it in the query, where it is looked for if the header
/// is missing: without one a client passes for a program, and a visitor's sessions and requests for those of two.
pub fn name_user_agent(request: &mut Request<()>) {
    if request.headers().contains_key(header::USER_AGENT) {
        return;
    }
    let query = request.uri().query().unwrap_or_default();
    let named = url::form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == "user-agent");
    let value = named.and_then(|(_, value)| HeaderValue::from_str(&value).ok());
    if let Some(value) = value {
        request.headers_mut().insert(header::USER_AGENT, value);
    }
}

/// The answer to the request for a session.
pub fn accept() -> Response<()> {
    let mut response = Response::new(());
    // Browsers ask for it: the version of the draft that is spoken.
    response.headers_mut().insert("sec-webtransport-http3-draft", HeaderValue::from_static("draft02"));
    response
}

/// A session that has been accepted.
pub struct Session {
    /// The request's own stream.
    request: RequestStream<SendStream<Bytes>, Bytes>,
    /// Its other half: its end is the session's. What comes on it is read by nobody, and its budget not renewed.
    ended: RequestStream<CountedRecv, Bytes>,
    quic: quinn::Connection,
}

impl Session {
    /// Behind this request.
    pub fn new(request: http3::Stream, quic: quinn::Connection) -> Self {
        let (request, ended) = request.split();
        Self { request, ended, quic }
    }

    /// Serves the agent on the other end of `stream` until the session is over.
    pub async fn serve(self, stream: SessionStream, budget: Arc<Budget>, client: Client, door: Arc<Door>) {
        let transport = WebTransport { session: self, stream, budget, buffer: BytesMut::new(), asked: None };
        session::serve(transport, client, door).await;
    }
}

struct WebTransport {
    session: Session,
    stream: SessionStream,
    budget: Arc<Budget>,
    /// What has come of the next frames.
    buffer: BytesMut,
    /// Packets that had come when the client was asked whether it is there. QUIC asks, this only looks.
    asked: Option<u64>,
}

impl Transport for WebTransport {
    const NAME: &'static str = "webtransport";

    async fn receive(&mut self) -> Received {
        let Self { session: Session { ended, quic, .. }, stream, budget, buffer, asked } = self;
        // Whoever has begun a frame and does not end it is not alive, whatever its packets say.
        let alive = alive(quic, asked.filter(|_| buffer.is_empty()));
        let received = tokio::select! {
            biased;
            received = read(stream, budget, buffer) => received,
            () = end(ended) => Received::Gone,
            () = alive => Received::Alive,
        };
        *asked = None;
        received
    }

    async fn send(&mut self, frames: &[ServerFrame]) -> Result<(), Gone> {
        let mut bytes = BytesMut::new();
        for frame in frames {
            frame.encode_length_delimited(&mut bytes).map_err(|_| Gone)?; // a buffer that grows takes it
        }
        self.stream.write_all_buf(&mut bytes).await.map_err(|_| Gone)
    }

    async fn ask(&mut self) -> Result<(), Gone> {
        self.asked = Some(packets(&self.session.quic));
        Ok(())
    }

    async fn close(mut self, close: &Close) {
        let (code, reason) = match close {
            Close::Done => (CODE_DONE, ""),
            Close::Away => (CODE_AWAY, ""),
            Close::Refused(refusal) => {
                (u16::from(websocket::close_code(refusal.reason)), validate::label(refusal.reason))
            }
        };
        let Session { request, ended, .. } = &mut self.session;
        // A browser forgets what a page has not read of a session that ends. So its stream ends first, and who has read that goes.
        if self.stream.shutdown().await.is_err() || timeout(LINGER, end(ended)).await.is_ok() {
            return;
        }
        if request.send_data(capsule(code, reason)).await.is_ok() && request.finish().await.is_ok() {
            let _ = timeout(LINGER, end(ended)).await;
        }
    }
}

/// The end of a session, as the draft has it (CLOSE_WEBTRANSPORT_SESSION): a page reads it from `closed`.
fn capsule(code: u16, reason: &'static str) -> Bytes {
    let mut capsule = BytesMut::new();
    capsule.put_u16(CLOSE_CAPSULE);
    capsule.put_u8((size_of::<u32>() + reason.len()) as u8); // a varint of one byte: reasons are short
    capsule.put_u32(code.into());
    capsule.put_slice(reason.as_bytes());
    capsule.freeze()
}

/// Until the client ends the session. Dropped before that, it has lost nothing that anybody reads.
async fn end(ended: &mut RequestStream<CountedRecv, Bytes>) {
    while let Ok(Some(_)) = ended.recv_data().await {}
}

/// The next frame. Dropped before it is ready, it has lost nothing: what has come is in `buffer`.
async fn read(stream: &mut SessionStream, budget: &Budget, buffer: &mut BytesMut) -> Received {
    loop {
        match split_frame(buffer) {
            Ok(Some(frame)) => return Received::Frame(frame),
            Ok(None) => {}
            Err(reason) => return Received::Refused(reason),
        }
        if buffer.is_empty() {
            *buffer = BytesMut::with_capacity(BUFFER_BYTES); // gives back what a large frame took
        }
        match stream.read_buf(buffer).await {
            Ok(0) | Err(_) => return Received::Gone,
            Ok(_) => budget.renew(),
        }
    }
}

/// Until another packet has come than those `before`; for ever, if nobody was asked.
async fn alive(quic: &quinn::Connection, before: Option<u64>) {
    let Some(before) = before else { return std::future::pending().await };
    while packets(quic) == before {
        sleep(LOOK_EVERY).await;
    }
}

fn packets(quic: &quinn::Connection) -> u64 {
    quic.stats().udp_rx.datagrams
}

/// The first frame in `buffer`, if all of it is there.
fn split_frame(buffer: &mut BytesMut) -> Result<Option<Bytes>, Reason> {
    let mut rest: &[u8] = buffer;
    let length = match prost::encoding::decode_varint(&mut rest) {
        Ok(length) => usize::try_from(length).unwrap_or(usize::MAX),
        Err(_) if buffer.len() < VARINT_BYTES_MAX => return Ok(None),
        Err(_) => return Err(Reason::Malformed),
    };
    if length > MESSAGE_BYTES_MAX {
        return Err(Reason::FrameTooLarge);
    }
    let prefix = buffer.len() - rest.len();
    if rest.len() < length {
        return Ok(None); // nothing is reserved for what is only announced
    }
    buffer.advance(prefix);
    Ok(Some(buffer.split_to(length).freeze()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in_however_they_are_cut(
            frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..8),
            piece in 1..64usize,
        ) {
            let mut wire = BytesMut::new();
            for frame in &frames {
                prost::encoding::encode_varint(frame.len() as u64, &mut wire);
                wire.extend_from_slice(frame);
            }
            let (mut buffer, mut split) = (BytesMut::new(), Vec::new());
            for piece in wire.chunks(piece) {
                buffer.extend_from_slice(piece);
                while let Some(frame) = split_frame(&mut buffer).unwrap() {
                    split.push(frame.to_vec());
                }
            }
            prop_assert_eq!(split, frames);
            prop_assert!(buffer.is_empty());
        }

        #[test]
        fn no_bytes_are_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut buffer = BytesMut::from(bytes.as_slice());
            while let Ok(Some(_)) = split_frame(&mut buffer) {}
        }
    }

    #[test]
    fn a_user_agent_is_taken_from_the_query_where_there_is_no_header() {
        let named = |header: Option<&str>, query: &str| {
            let mut request = Request::get(format!("https://gateway/v1/stream{query}")).body(()).unwrap();
            if let Some(value) = header {
                request.headers_mut().insert(header::USER_AGENT, HeaderValue::from_str(value).unwrap());
            }
            name_user_agent(&mut request);
            request.headers().get(header::USER_AGENT).map(|value| value.to_str().unwrap().to_owned())
        };
        let query = "?user-agent=Mozilla%2F5.0+(X11%3B+Linux)";
        assert_eq!(named(None, query).as_deref(), Some("Mozilla/5.0 (X11; Linux)"));
        assert_eq!(named(Some("Firefox"), query).as_deref(), Some("Firefox"));
        assert_eq!(named(None, ""), None);
        assert_eq!(named(None, "?user-agent=%0d%0ax"), None, "no header could hold it");
    }

    #[test]
    fn every_reason_fits_its_capsule() {
        for reason in (0..128).filter_map(|reason| Reason::try_from(reason).ok()) {
            let capsule = capsule(1008, validate::label(reason));
            assert!(capsule[2] < 64, "the length is a varint of one byte: {reason:?}");
            assert_eq!(usize::from(capsule[2]), capsule.len() - 3, "{reason:?}");
        }
    }

    #[test]
    fn an_announced_length_beyond_a_message_and_a_length_without_end_are_refused() {
        let mut announced = BytesMut::new();
        prost::encoding::encode_varint(MESSAGE_BYTES_MAX as u64 + 1, &mut announced);
        assert_eq!(split_frame(&mut announced), Err(Reason::FrameTooLarge));
        assert_eq!(split_frame(&mut BytesMut::from([0xff; 10].as_slice())), Err(Reason::Malformed));
        assert_eq!(split_frame(&mut BytesMut::from([0xff; 9].as_slice())), Ok(None), "its end may come yet");
    }
}
