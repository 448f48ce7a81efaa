//! Raw rows on their way into `batches` and `events`: frames of all gateways that wait at the same time share an insert.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use proto::record::Record;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::StoreError;
use super::writer::Command;

/// Two inserts are at least this far apart, unless there is much: each makes a part of a table a month.
const INSERT_INTERVAL: Duration = Duration::from_secs(1);
/// This much is inserted at once, bytes: what one gateway sends without an answer.
const INSERT_BYTES: usize = 4 << 20;
/// Frames that wait; behind a full queue a gateway's stream waits.
pub(super) const RAW_QUEUE: usize = 16;

/// Rows of a gateway's log, as they came in one frame.
#[derive(Clone, Debug, Default)]
pub struct RawFrame {
    /// UUID of the log folder.
    pub gateway: String,
    /// Whose records they are.
    pub shard: u32,
    /// Everything up to here is in this frame or was in one before it, or has no row.
    pub last: u64,
    /// In the order of the log.
    pub rows: Vec<RawRow>,
    /// Bytes of the records.
    pub bytes: usize,
}

/// A record and its outcome.
#[derive(Clone, Debug, Default)]
pub struct RawRow {
    /// Its number in the gateway's log.
    pub lsn: u64,
    /// Of the outcome: the highest wins.
    pub epoch: u64,
    /// sid and seq of the batch that opened the visit; `None` if no event was counted.
    pub visit: Option<([u8; 16], u32)>,
    /// The record.
    pub record: Record,
}

/// How far the raw rows of each (gateway, shard) have come, since the store was opened.
pub(super) type Positions = Arc<Mutex<BTreeMap<(String, u32), u64>>>;

/// A frame in the queue, and who waits for it.
pub(super) type Waiting = (RawFrame, oneshot::Sender<Result<(), StoreError>>);

/// Gathers what waits, has it inserted, and tells everyone. Ends with the queue. The writer's sender is weak: the
/// writer's thread ends when the last handle on the store goes.
pub(super) async fn gather(
    mut frames: mpsc::Receiver<Waiting>,
    writer: mpsc::WeakSender<Command>,
    positions: Positions,
) {
    let mut due = Instant::now();
    while let Some(first) = frames.recv().await {
        let mut bytes = first.0.bytes;
        let mut waiting = vec![first];
        while bytes < INSERT_BYTES {
            match timeout_at(due, frames.recv()).await {
                Ok(Some(frame)) => {
                    bytes += frame.0.bytes;
                    waiting.push(frame);
                }
                Ok(None) | Err(_) => break,
            }
        }
        due = Instant::now() + INSERT_INTERVAL;
        let (frames, answers): (Vec<_>, Vec<_>) = waiting.into_iter().unzip();
        let reached: Vec<_> = frames.iter().map(|frame| ((frame.gateway.clone(), frame.shard), frame.last)).collect();
        let outcome = insert(&writer, frames).await;
        if outcome.is_ok() {
            let reached = reached.into_iter().filter(|((gateway, _), _)| !gateway.is_empty()); // no one's: a barrier
            positions.lock().unwrap_or_else(PoisonError::into_inner).extend(reached);
        }
        for answer in answers {
            let _ = answer.send(outcome.as_ref().copied().map_err(|message| StoreError::Raw(message.clone())));
        }
    }
}

async fn insert(writer: &mpsc::WeakSender<Command>, frames: Vec<RawFrame>) -> Result<(), String> {
    let rows = frames.into_iter().flat_map(|frame| {
        let RawFrame { gateway, shard, rows, .. } = frame;
        let gateway: Arc<str> = gateway.into();
        rows.into_iter().map(move |row| Placed { gateway: gateway.clone(), shard, row })
    });
    let rows: Vec<Placed> = rows.collect();
    if rows.is_empty() {
        return Ok(());
    }
    let closed = || StoreError::Closed.to_string();
    let (answer, answered) = oneshot::channel();
    let writer = writer.upgrade().ok_or_else(closed)?;
    writer.send(Command::Raw { rows, answer }).await.map_err(|_| closed())?;
    drop(writer);
    answered.await.map_err(|_| closed())?.map_err(|error| error.to_string())
}

/// A row and whose it is.
pub(super) struct Placed {
    pub(super) gateway: Arc<str>,
    pub(super) shard: u32,
    pub(super) row: RawRow,
}
