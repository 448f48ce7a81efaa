//! The uplink's other end: a stream a process, opened by an aggregator or a gateway, which says which in its first frame.
//!
//! `uplink` checks the token and tells the two apart; `uplink::aggregator` takes a shard's flushes and opens its epochs
//! (`uplink::restore`), `uplink::gateway` registers a gateway, keeps it told and takes its raw rows (`uplink::raw`). They
//! run over [`Books`], where everything durable is; a [`Conversation`] takes frames from anywhere. What a peer does wrong ends its own stream with a `Refusal` that says why;
//! what central cannot do now ends it with a status, and the peer comes again.

use std::{
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
};

use proto::uplink::{
    CentralFrame, Refusal, RegionFrame, central_frame, region_frame,
    uplink_server::{Uplink, UplinkServer},
};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::{Stream, StreamExt as _, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, Streaming, metadata::MetadataMap, transport::server::TcpIncoming};
use tracing::{info, warn};

mod aggregator;
mod assembly;
mod books;
mod disk;
mod gateway;
mod raw;
mod restore;
mod shards;

use crate::{metrics::Metrics, secret::SecretHash};
pub use books::{Books, BooksError, Durably};
pub use disk::DiskBooks;
use shards::Shards;

/// Frames on their way to one peer. When full, the stream's task waits, and with it what the peer sends.
const OUTGOING_FRAMES_MAX: usize = 16;

/// The largest frame a peer may send: a chunk of rows of [`CHUNK_BYTES_MAX`] with its numbers around it.
const FRAME_BYTES_MAX: usize = CHUNK_BYTES_MAX + 64 * 1024;

/// The rows of one chunk, and what one answer of several parts holds, bytes.
const CHUNK_BYTES_MAX: usize = 1 << 20;

/// What every stream works with.
pub struct Central {
    books: Arc<dyn Books>,
    metrics: Metrics,
    shards: Shards,
    /// Where large flushes wait until they are whole; `None` is memory.
    spool: Option<PathBuf>,
}

/// Frames of a peer.
pub type Incoming = Pin<Box<dyn Stream<Item = Result<RegionFrame, Status>> + Send>>;

/// Why a stream ends before its peer wants it to.
#[derive(Debug, thiserror::Error)]
enum Ended {
    /// The peer did what it must not do; the message goes to the peer.
    #[error("{0}")]
    Refused(String),
    /// Central can keep nothing now; the peer is told only that.
    #[error(transparent)]
    Books(#[from] BooksError),
    /// A large flush could not be put aside.
    #[error("spool: {0}")]
    Spool(#[source] std::io::Error),
    /// The connection broke, or a frame was not one.
    #[error("{0}")]
    Transport(#[from] Status),
    /// The peer does not take its answers any more.
    #[error("the peer is gone")]
    Gone,
    /// Central is stopping.
    #[error("central is stopping")]
    Stopping,
}

impl Central {
    /// Everything that the uplink needs, put together.
    pub fn new(books: Arc<dyn Books>, metrics: Metrics, spool: Option<PathBuf>) -> Self {
        Self { books, metrics, shards: Shards::default(), spool }
    }

    /// Serves peers that show the token until `stop`, then ends their streams between two frames.
    pub async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        token: SecretHash,
        stop: CancellationToken,
    ) -> Result<(), tonic::transport::Error> {
        let service = UplinkServer::new(Receiver { central: self, token, stop: stop.clone() })
            .max_decoding_message_size(FRAME_BYTES_MAX);
        tonic::transport::Server::builder()
            // A peer that vanished without a word is noticed within 30 s.
            .http2_keepalive_interval(Some(std::time::Duration::from_secs(20)))
            .http2_keepalive_timeout(Some(std::time::Duration::from_secs(10)))
            .add_service(service)
            .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), async move {
                stop.cancelled().await
            })
            .await
    }
}

struct Receiver {
    central: Arc<Central>,
    token: SecretHash,
    stop: CancellationToken,
}

#[tonic::async_trait]
impl Uplink for Receiver {
    type ForwardStream = Pin<Box<dyn Stream<Item = Result<CentralFrame, Status>> + Send>>;

    async fn forward(&self, request: Request<Streaming<RegionFrame>>) -> Result<Response<Self::ForwardStream>, Status> {
        if !authorized(&self.token, request.metadata()) {
            self.central.metrics.uplink_unauthorized.inc();
            return Err(Status::unauthenticated(
                "the uplink token is missing or wrong; give this process the file that central's uplink_token_file names",
            ));
        }
        let peer = request.remote_addr();
        let (outgoing, answers) = mpsc::channel(OUTGOING_FRAMES_MAX);
        let incoming = Box::pin(request.into_inner());
        let conversation = Conversation::new(self.central.clone(), incoming, outgoing, self.stop.clone());
        // The task ends with the connection: its incoming side then yields an error, its outgoing side refuses.
        tokio::spawn(async move {
            info!(?peer, "uplink stream opened");
            conversation.run().await;
            info!(?peer, "uplink stream closed");
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}

fn authorized(token: &SecretHash, metadata: &MetadataMap) -> bool {
    let presented = metadata.get("authorization").and_then(|value| value.to_str().ok());
    presented
        .and_then(|value| value.strip_prefix("Bearer "))
        .is_some_and(|presented| token.matches(&SecretHash::of(presented.trim())))
}

/// One stream, from its first frame to its last.
pub struct Conversation {
    central: Arc<Central>,
    /// Never locked: one task reads it, and the mutex lets that task share the rest of the conversation.
    incoming: Mutex<Incoming>,
    outgoing: mpsc::Sender<Result<CentralFrame, Status>>,
    stop: CancellationToken,
}

impl Conversation {
    /// With a peer whose frames come in by `incoming` and are answered by `outgoing`.
    pub fn new(
        central: Arc<Central>,
        incoming: Incoming,
        outgoing: mpsc::Sender<Result<CentralFrame, Status>>,
        stop: CancellationToken,
    ) -> Self {
        Self { central, incoming: Mutex::new(incoming), outgoing, stop }
    }

    /// Until the peer has said all it wanted, did what it must not, is gone, or `stop`.
    pub async fn run(mut self) {
        let Err(ended) = self.converse().await else { return };
        let last = match ended {
            Ended::Gone => return,
            Ended::Refused(message) => {
                warn!(%message, "uplink peer refused");
                self.central.metrics.uplink_refusals.inc();
                Ok(CentralFrame { frame: Some(central_frame::Frame::Refusal(Refusal { message })) })
            }
            Ended::Books(error) => {
                warn!(%error, "what central keeps failed an uplink stream");
                Err(Status::unavailable("central can keep nothing now; come again"))
            }
            Ended::Spool(error) => {
                warn!(%error, "a large flush could not be put aside");
                Err(Status::unavailable("central can keep nothing now; come again"))
            }
            // A peer that stops resets its stream; so does central's end of it, once it stops itself.
            Ended::Transport(status) if status.code() == Code::Cancelled || self.stop.is_cancelled() => return,
            Ended::Transport(status) => {
                info!(code = ?status.code(), message = status.message(), "uplink stream broke");
                Err(status)
            }
            Ended::Stopping => Err(Status::unavailable("central is stopping; come again")),
        };
        let _ = self.outgoing.send(last).await; // a peer that is gone needs no last word
    }

    async fn converse(&mut self) -> Result<(), Ended> {
        match self.next().await? {
            None => Ok(()),
            Some(region_frame::Frame::Aggregator(hello)) => aggregator::converse(self, hello).await,
            Some(region_frame::Frame::Gateway(hello)) => gateway::converse(self, hello).await,
            Some(_) => Err(refused("the first frame of a stream must be AggregatorHello or GatewayHello")),
        }
    }

    /// The peer's next frame; `None` when it has said all it wanted.
    async fn next(&mut self) -> Result<Option<region_frame::Frame>, Ended> {
        let incoming = self.incoming.get_mut().unwrap_or_else(PoisonError::into_inner);
        let frame = tokio::select! {
            biased;
            () = self.stop.cancelled() => return Err(Ended::Stopping),
            frame = incoming.next() => frame.transpose()?,
        };
        match frame {
            None => Ok(None),
            Some(RegionFrame { frame: Some(frame) }) => Ok(Some(frame)),
            Some(RegionFrame { frame: None }) => {
                Err(refused("a frame is empty, or of a kind that this version of central does not know"))
            }
        }
    }

    async fn answer(&self, frame: central_frame::Frame) -> Result<(), Ended> {
        self.outgoing.send(Ok(CentralFrame { frame: Some(frame) })).await.map_err(|_| Ended::Gone)
    }
}

fn refused(message: impl Into<String>) -> Ended {
    Ended::Refused(message.into())
}

/// The longest name of a region, bytes.
const REGION_BYTES_MAX: usize = 64;

/// Region names are labels and keys everywhere, so they are kept plain.
fn check_region(region: &str) -> Result<(), Ended> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if !region.is_empty() && region.len() <= REGION_BYTES_MAX && region.bytes().all(plain) {
        return Ok(());
    }
    Err(refused(format!("region {region:?} must be 1 to {REGION_BYTES_MAX} of the characters a-z A-Z 0-9 - _ .")))
}

/// Gateways are known by the UUID of their log folder, in its one usual spelling: it is a key.
fn check_gateway(id: &str) -> Result<(), Ended> {
    match uuid::Uuid::try_parse(id) {
        Ok(uuid) if uuid.to_string() == id => Ok(()),
        _ => Err(refused(format!("gateway {id:?} must be a UUID in lowercase with hyphens"))),
    }
}

/// The highest number that can be kept: epochs, terms, flushes and LSNs start at 0 or 1 and count up.
fn check_number(what: &str, number: u64) -> Result<(), Ended> {
    if number < i64::MAX as u64 { Ok(()) } else { Err(refused(format!("{what} {number} is beyond 2^63 - 2"))) }
}
