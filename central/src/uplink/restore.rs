//! What a leader is sent to rebuild a lost Redis from, in parts of at most a chunk.

use proto::{
    Message as _,
    uplink::{GatewayPosition, OpenEpoch, Remembered, Restore, StandIn, VisitRow, central_frame},
};
use tokio::sync::mpsc;

use super::{CHUNK_BYTES_MAX, Conversation, Ended};
use crate::{control::shards::ShardId, store::Accepted};

/// A visit goes on if its next event comes within 30 minutes; twice that leaves room for events that come late.
const RUNNING_MS: u64 = 60 * 60 * 1000;

/// Rows on their way from the books to the peer.
const ROWS_AHEAD: usize = 1024;

/// Opens the next epoch and sends everything that central knows for it.
pub(super) async fn open_epoch(with: &Conversation, id: &ShardId, open: OpenEpoch) -> Result<(), Ended> {
    let central = &with.central;
    let (epoch, accepted) = central.open_epoch(id, open.term, &open.reason).await?;
    let gateways = central.books.gateways(&id.region).await?;
    let watermark_ms = accepted.watermark_ms;
    let mut parts = Parts::new(with, Restore { epoch, watermark_ms, ..Restore::default() });
    parts.next.waiting = gateways.entered;
    parts.next.retired.clone_from(&gateways.retired);

    // What is accepted holds nothing that central has not: these states are complete.
    let from_ms = accepted.cut_ms.saturating_sub(RUNNING_MS);
    parts.visits(id, from_ms).await?;
    parts.remembered(id, &covered(&accepted, &gateways.retired), watermark_ms).await?;
    parts.end().await
}

/// Sends what stands in for those that were retired since the rebuild began to wait for them.
pub(super) async fn stand_in(with: &Conversation, id: &ShardId, asked: StandIn) -> Result<(), Ended> {
    let central = &with.central;
    let accepted = central.rebuilding(id, asked.epoch, asked.term).await?;
    let gateways = central.books.gateways(&id.region).await?;
    let retired: Vec<String> = asked.waiting.into_iter().filter(|id| gateways.retired.contains(id)).collect();
    let watermark_ms = accepted.watermark_ms;
    let mut parts = Parts::new(with, Restore { epoch: asked.epoch, watermark_ms, ..Restore::default() });
    parts.next.retired.clone_from(&retired);
    parts.remembered(id, &covered(&accepted, &retired), watermark_ms).await?;
    parts.end().await
}

/// How far flushes cover the logs of these gateways. What is behind that was lost with its Redis, also where its raw row had
/// left already: a bit for it would make a duplicate of what nothing counts.
fn covered(accepted: &Accepted, gateways: &[String]) -> Vec<GatewayPosition> {
    gateways.iter().map(|gateway| accepted.of(gateway)).collect()
}

/// A restore on its way: rows gather in `next` until it is full.
struct Parts<'a> {
    with: &'a Conversation,
    next: Restore,
    bytes: usize,
}

impl<'a> Parts<'a> {
    fn new(with: &'a Conversation, first: Restore) -> Self {
        Self { with, next: first, bytes: 0 }
    }

    async fn visits(&mut self, id: &ShardId, from_ms: u64) -> Result<(), Ended> {
        let books = self.with.central.books.clone();
        let (out, mut visits) = mpsc::channel(ROWS_AHEAD);
        let read = books.running_visits(id, from_ms, out);
        let send = async move {
            while let Some(visit) = visits.recv().await {
                self.visit(visit).await?;
            }
            Ok::<_, Ended>(())
        };
        let (read, sent) = tokio::join!(read, send);
        sent?;
        Ok(read?)
    }

    async fn visit(&mut self, visit: VisitRow) -> Result<(), Ended> {
        self.make_room(visit.encoded_len()).await?;
        self.next.visits.push(visit);
        Ok(())
    }

    async fn remembered(&mut self, id: &ShardId, gateways: &[GatewayPosition], watermark_ms: u64) -> Result<(), Ended> {
        let books = self.with.central.books.clone();
        let (out, mut batches) = mpsc::channel(ROWS_AHEAD);
        let read = books.remembered(id, gateways, watermark_ms, out);
        let send = async move {
            while let Some(batches) = batches.recv().await {
                self.batches(batches).await?;
            }
            Ok::<_, Ended>(())
        };
        let (read, sent) = tokio::join!(read, send);
        sent?;
        Ok(read?)
    }

    async fn batches(&mut self, batches: Remembered) -> Result<(), Ended> {
        self.make_room(batches.encoded_len()).await?;
        self.next.batches.push(batches);
        Ok(())
    }

    /// The few bytes of a row's own tag and length, and the numbers of the part, are within what a frame may have more.
    async fn make_room(&mut self, bytes: usize) -> Result<(), Ended> {
        const TAG_AND_LENGTH: usize = 6;
        if self.bytes > 0 && self.bytes + bytes + TAG_AND_LENGTH > CHUNK_BYTES_MAX {
            let Restore { epoch, watermark_ms, .. } = self.next;
            let following = Restore { epoch, watermark_ms, ..Restore::default() };
            let full = std::mem::replace(&mut self.next, following);
            self.with.answer(central_frame::Frame::Restore(full)).await?;
            self.bytes = 0;
        }
        self.bytes += bytes + TAG_AND_LENGTH;
        Ok(())
    }

    async fn end(mut self) -> Result<(), Ended> {
        self.next.last = true;
        self.with.answer(central_frame::Frame::Restore(self.next)).await
    }
}
