//! The books of a running central: control data in SQLite, figures in the store, both on disk.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use jiff::Timestamp;
use proto::uplink::{self, GatewayPosition, Outcomes, Remembered, VisitRow};
use tokio::sync::{mpsc, watch};

use super::books::{Books, BooksError, Durably};
use crate::{
    control::{
        Control, Published,
        gateways::{Gateways, Introduction, Registration},
        shards::{ShardId, ShardState},
    },
    live::Live,
    store::{Accepted, Flush, RawFrame, Store},
};

/// Books on disk. Flushes go to the store by way of the live figures.
pub struct DiskBooks {
    /// Sites, gateways, shards, outcomes.
    pub control: Arc<Control>,
    /// What was accepted, raw rows.
    pub store: Store,
    /// Counts a flush, or the bucket that it was, at every moment one of the two.
    pub live: Arc<Live>,
}

#[tonic::async_trait]
impl Books for DiskBooks {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn published(&self) -> watch::Receiver<Arc<Published>> {
        self.control.published()
    }

    async fn shards(&self, region: &str) -> Result<BTreeMap<u32, u64>, BooksError> {
        Ok(self.control.shards(region).await?)
    }

    async fn lead(&self, shard: &ShardId, accepted_epoch: u64) -> Result<ShardState, BooksError> {
        Ok(self.control.lead(shard, accepted_epoch).await?)
    }

    async fn open_epoch(&self, shard: &ShardId) -> Result<u64, BooksError> {
        Ok(self.control.open_epoch(shard).await?)
    }

    async fn delete_unfinished(&self) -> Result<(), BooksError> {
        Ok(self.store.delete_unfinished().await?)
    }

    async fn keep_durable(
        &self,
        shard: &ShardId,
        open_flush: u64,
        vector: Vec<GatewayPosition>,
    ) -> Result<u64, BooksError> {
        let vector = vector.into_iter().map(|position| (position.gateway, position.lsn));
        Ok(self.control.keep_durable(shard, open_flush, vector).await?)
    }

    async fn durable_of(&self, region: &str, gateway: &str) -> Result<BTreeMap<u32, u64>, BooksError> {
        Ok(self.control.durable_of(region, gateway).await?)
    }

    async fn register_gateway(&self, gateway: Introduction<'_>) -> Result<Registration, BooksError> {
        Ok(self.control.register_gateway(gateway, self.now()).await?)
    }

    async fn gateways(&self, region: &str) -> Result<Gateways, BooksError> {
        Ok(self.control.gateways(region).await?)
    }

    async fn accepted(&self, shard: &ShardId) -> Result<Accepted, BooksError> {
        Ok(self.store.accepted(&shard.region, shard.shard).await?)
    }

    async fn accept(&self, shard: &ShardId, flush: Flush) -> Result<(), BooksError> {
        Ok(self.live.accept(shard, flush).await?)
    }

    async fn keep_outcomes(&self, shard: &ShardId, outcomes: &[Outcomes]) -> Result<(), BooksError> {
        Ok(self.control.keep_outcomes(shard, outcomes).await?)
    }

    async fn outcomes(&self, shard: &ShardId, gateway: &str, after: u64) -> Result<Vec<Outcomes>, BooksError> {
        Ok(self.control.outcomes(shard, gateway, after).await?)
    }

    async fn forget_outcomes(&self, shard: &ShardId, gateway: &str, logged: u64) -> Result<(), BooksError> {
        Ok(self.control.forget_outcomes(shard, gateway, logged).await?)
    }

    async fn take_raw(&self, frame: RawFrame) -> Result<Durably, BooksError> {
        let durable = self.store.take_raw(frame).await?;
        Ok(Box::pin(async move { Ok(durable.await?) }))
    }

    async fn running_visits(
        &self,
        shard: &ShardId,
        from_ms: u64,
        out: mpsc::Sender<VisitRow>,
    ) -> Result<(), BooksError> {
        Ok(self.store.running_visits(&shard.region, shard.shard, from_ms, out).await?)
    }

    async fn remembered(
        &self,
        shard: &ShardId,
        gateways: &[GatewayPosition],
        watermark_ms: u64,
        out: mpsc::Sender<Remembered>,
    ) -> Result<(), BooksError> {
        Ok(self.store.remembered(shard.shard, gateways, watermark_ms, out).await?)
    }

    fn led(&self, shard: &ShardId, epoch: u64, next_flush: u64) {
        self.live.led(shard, epoch, next_flush);
    }

    fn said(&self, shard: &ShardId, said: uplink::Live) {
        self.live.said(shard, said, Instant::now());
    }
}
