//! A session's frames over WebTransport: one stream that the client opens, each frame behind its length as a varint.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use proto::Message as _;
use proto::agent::{Reason, ServerFrame};
use proto::limits::MESSAGE_BYTES_MAX;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};

use crate::door::Door;
use crate::ingest::Client;
use crate::session::{self, Close, Gone, Received, Transport};

/// Where sessions are, as on every other transport.
pub const PATH: &str = "/v1/stream";
/// A small buffer a connection; a larger frame grows it for as long as it takes.
const BUFFER_BYTES: usize = 1024;
/// Bytes of the longest varint there is.
const VARINT_BYTES_MAX: usize = 10;
/// How often a silent client's packets are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After the last frame the client has this long to take it, before its connection is closed.
const LINGER: Duration = Duration::from_secs(2);

/// The stream of one session.
pub type Stream = h3_webtransport::stream::BidiStream<h3_quinn::BidiStream<Bytes>, Bytes>;

/// Serves the agent on the other end until its session is over.
pub async fn serve(stream: Stream, quic: quinn::Connection, client: Client, door: Arc<Door>) {
    let transport = WebTransport { stream, quic, buffer: BytesMut::new(), asked: None };
    session::serve(transport, client, door).await;
}

struct WebTransport {
    stream: Stream,
    quic: quinn::Connection,
    /// What has come of the next frames.
    buffer: BytesMut,
    /// Packets that had come when the client was asked whether it is there. QUIC asks, this only looks.
    asked: Option<u64>,
}

impl Transport for WebTransport {
    const NAME: &'static str = "webtransport";

    async fn receive(&mut self) -> Received {
        let Self { stream, quic, buffer, asked } = self;
        // Whoever has begun a frame and does not end it is not alive, whatever its packets say.
        let alive = alive(quic, asked.filter(|_| buffer.is_empty()));
        let received = tokio::select! {
            biased;
            received = read(stream, buffer) => received,
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
        self.asked = Some(packets(&self.quic));
        Ok(())
    }

    async fn close(mut self, _: &Close) {
        if self.stream.shutdown().await.is_ok() {
            // The client closes its end once it has read ours.
            let _ = timeout(LINGER, async {
                while !matches!(read(&mut self.stream, &mut self.buffer).await, Received::Gone) {}
            })
            .await;
        }
    }
}

/// The next frame. Dropped before it is ready, it has lost nothing: what has come is in `buffer`.
async fn read(stream: &mut Stream, buffer: &mut BytesMut) -> Received {
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
            Ok(_) => {}
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
    fn an_announced_length_beyond_a_message_and_a_length_without_end_are_refused() {
        let mut announced = BytesMut::new();
        prost::encoding::encode_varint(MESSAGE_BYTES_MAX as u64 + 1, &mut announced);
        assert_eq!(split_frame(&mut announced), Err(Reason::FrameTooLarge));
        assert_eq!(split_frame(&mut BytesMut::from([0xff; 10].as_slice())), Err(Reason::Malformed));
        assert_eq!(split_frame(&mut BytesMut::from([0xff; 9].as_slice())), Ok(None), "its end may come yet");
    }
}
