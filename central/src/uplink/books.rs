//! What the uplink needs kept, apart from how it is kept: the state machines of [`super`] run over this alone.

use std::{collections::BTreeMap, future::Future, pin::Pin, sync::Arc};

use jiff::Timestamp;
use proto::uplink::{self, GatewayPosition, Outcomes, Remembered, VisitRow};
use tokio::sync::{mpsc, watch};

use crate::{
    control::{
        ControlError, Published,
        gateways::{Gateways, Introduction, Registration},
        shards::{ShardId, ShardState},
    },
    store::{Accepted, Flush, RawFrame, StoreError},
};

/// The books could not be read or written now; the same call can be made again.
#[derive(Debug, thiserror::Error)]
pub enum BooksError {
    /// The control data.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Books of another kind.
    #[error("{0}")]
    Unavailable(String),
}

/// Becomes `Ok` once what was taken is on disk.
pub type Durably = Pin<Box<dyn Future<Output = Result<(), BooksError>> + Send>>;

/// Everything durable behind the uplink, and its clock. What a call returns `Ok` for survives a crash.
///
/// The uplink calls `lead`, `open_epoch`, `keep_durable`, `keep_outcomes` and `accept` of one shard one at a time.
#[tonic::async_trait]
pub trait Books: Send + Sync + 'static {
    /// The time of day.
    fn now(&self) -> Timestamp;

    /// Sites, salts and retired gateways, and a notice of every change.
    fn published(&self) -> watch::Receiver<Arc<Published>>;

    /// The shards of a region that ever had a leader, and the epoch of each.
    async fn shards(&self, region: &str) -> Result<BTreeMap<u32, u64>, BooksError>;

    /// Raises the term of a shard by one; a shard unknown so far begins at term 1 of epoch 1. The epoch is at least
    /// `accepted_epoch`.
    async fn lead(&self, shard: &ShardId, accepted_epoch: u64) -> Result<ShardState, BooksError>;

    /// Raises the epoch of a shard by one, forgets what was durable and which flush was open, and returns the epoch.
    async fn open_epoch(&self, shard: &ShardId) -> Result<u64, BooksError>;

    /// Deletes the rows of flushes that were not accepted.
    async fn delete_unfinished(&self) -> Result<(), BooksError>;

    /// Keeps of each figure the highest that was told in this epoch; returns the open flush kept.
    async fn keep_durable(
        &self,
        shard: &ShardId,
        open_flush: u64,
        vector: Vec<GatewayPosition>,
    ) -> Result<u64, BooksError>;

    /// The LSN of this gateway that is kept as durable, per shard.
    async fn durable_of(&self, region: &str, gateway: &str) -> Result<BTreeMap<u32, u64>, BooksError>;

    /// Registers a gateway, and retires the one that it replaces, together.
    async fn register_gateway(&self, gateway: Introduction<'_>) -> Result<Registration, BooksError>;

    /// The gateways of a region.
    async fn gateways(&self, region: &str) -> Result<Gateways, BooksError>;

    /// What was accepted of a shard.
    async fn accepted(&self, shard: &ShardId) -> Result<Accepted, BooksError>;

    /// Accepts the flush that is next. A repeat after an error counts once.
    async fn accept(&self, shard: &ShardId, flush: Flush) -> Result<(), BooksError>;

    /// Keeps outcomes until their gateway has logged them or is retired.
    async fn keep_outcomes(&self, shard: &ShardId, outcomes: &[Outcomes]) -> Result<(), BooksError>;

    /// The outcomes kept of calls that end behind `after`.
    async fn outcomes(&self, shard: &ShardId, gateway: &str, after: u64) -> Result<Vec<Outcomes>, BooksError>;

    /// Forgets the outcomes of calls that end at `logged` or before.
    async fn forget_outcomes(&self, shard: &ShardId, gateway: &str, logged: u64) -> Result<(), BooksError>;

    /// Takes raw rows in their turn, and says when they are on disk. Of two outcomes of a batch the higher epoch stays.
    async fn take_raw(&self, frame: RawFrame) -> Result<Durably, BooksError>;

    /// Gives the newest accepted states of a shard's visits whose last event is not before `from_ms`.
    async fn running_visits(
        &self,
        shard: &ShardId,
        from_ms: u64,
        out: mpsc::Sender<VisitRow>,
    ) -> Result<(), BooksError>;

    /// Gives the batches of these gateways' raw rows, up to these positions, whose acceptance may not be over at
    /// `watermark_ms`, each sid once.
    async fn remembered(
        &self,
        shard: &ShardId,
        gateways: &[GatewayPosition],
        watermark_ms: u64,
        out: mpsc::Sender<Remembered>,
    ) -> Result<(), BooksError>;

    /// A leader was told where its shard stands, or opened an epoch of it.
    fn led(&self, _shard: &ShardId, _epoch: u64, _next_flush: u64) {}

    /// A leader said what is not flushed yet.
    fn said(&self, _shard: &ShardId, _said: uplink::Live) {}
}
