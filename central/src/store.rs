//! What central keeps: rollups, visits, uniques and the manifest, in a ClickHouse that runs inside this process.
//!
//! The way of a [`flush`](Flush): [`Store::accept`] hands it to the writer thread (`writer`), which encodes its rows (`rows`,
//! `native`), streams them into the tables (`schema`) through the C interface (`chdb`) of a verified library
//! (`library`) and writes the manifest. Questions ([`Store::minutes`], reports) go to the reader threads (`reader`) as
//! statements (`statement`) whose strings are parameters.

mod chdb;
mod error;
mod flush;
mod library;
mod manifest;
mod native;
mod raw;
mod raw_rows;
mod reader;
mod restore;
mod rows;
mod schema;
mod statement;
mod writer;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use proto::uplink::GatewayPosition;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use crate::control::shards::ShardId;
pub use error::StoreError;
pub use flush::{Flush, Parts};
pub use raw::{RawFrame, RawRow};
pub(crate) use schema::table;
pub(crate) use statement::Statement;

use writer::Command;

/// Flushes and questions about them that wait for the writer; behind a full queue `accept` waits. A flush is a few MiB
/// at most and shards send one each 10 s, so a queue this long means that the disk does not keep up.
const WRITER_QUEUE: usize = 8;
/// Statements that wait for a reader; behind a full queue the asker waits.
const READER_QUEUE: usize = 64;
/// Connections that answer questions. The engine spreads one statement over the cores by itself: a second reader only
/// keeps a short question from waiting behind a long one.
const READERS: usize = 2;

/// The embedded ClickHouse.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// Folder of the tables; made if it is not there. Default `data/clickhouse`.
    pub path: PathBuf,
    /// The library `libchdb.so`. Default: where `scripts/fetch-libchdb.sh` puts it.
    pub libchdb: Option<PathBuf>,
    /// Memory that the engine may use for everything, in bytes; at least 512 MiB. Default 2 GiB: a report over a year of
    /// a site with ten million pageviews takes less than a quarter of it.
    pub memory_max_bytes: u64,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self { path: PathBuf::from("data/clickhouse"), libchdb: None, memory_max_bytes: 2 << 30 }
    }
}

/// What was accepted of a shard.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Accepted {
    /// The highest epoch that a flush was accepted of; 0 if none ever was.
    pub epoch: u64,
    /// The number of the flush that would be accepted in that epoch; 0 if none ever was.
    pub next_flush: u64,
    /// Of each gateway the highest LSN that an accepted flush covers, whatever its epoch: the first flush of a new epoch
    /// knows nothing of gateways that were retired; and who applied it, as the last of these flushes says. In the order of their ids.
    pub vector: Vec<GatewayPosition>,
    /// The highest accepted watermark, Unix ms.
    pub watermark_ms: u64,
    /// The newest accepted cut, Unix ms, of whole seconds.
    pub cut_ms: u64,
}

impl Accepted {
    /// Goes on to a flush that was accepted now.
    pub fn advance(&mut self, flush: &Flush) {
        self.epoch = flush.id.epoch;
        self.next_flush = flush.id.n + 1;
        self.watermark_ms = self.watermark_ms.max(flush.watermark_ms);
        self.cut_ms = self.cut_ms.max(flush.cut_ms / 1000 * 1000);
        for position in &flush.vector {
            self.reach(position);
        }
    }

    /// The last record of a gateway that an accepted flush covers, 0 if none does, and who applied it.
    pub fn of(&self, gateway: &str) -> GatewayPosition {
        let none = |_| GatewayPosition { gateway: gateway.to_owned(), ..Default::default() };
        self.find(gateway).map_or_else(none, |at| self.vector[at].clone())
    }

    fn reach(&mut self, position: &GatewayPosition) {
        match self.find(&position.gateway) {
            Ok(at) if self.vector[at].lsn > position.lsn => {}
            Ok(at) => self.vector[at] = position.clone(),
            Err(at) => self.vector.insert(at, position.clone()),
        }
    }

    fn find(&self, gateway: &str) -> Result<usize, usize> {
        self.vector.binary_search_by(|position| position.gateway.as_str().cmp(gateway))
    }
}

/// What was accepted of everything, at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AcceptedOfAll {
    /// Of every shard of every region.
    pub shards: BTreeMap<ShardId, Accepted>,
    /// Stream (`src`) to the number of its last flush: rows of later ones are not accepted, or not yet.
    pub flushes: BTreeMap<u16, u64>,
}

/// Sums of a site's ledger for one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerSum {
    /// `tideline.agent.v1.Reason`; 0 is counted.
    pub reason: u32,
    /// Events.
    pub events: u64,
    /// Batches.
    pub batches: u64,
    /// Transmissions of a batch that was there before.
    pub duplicates: u64,
}

/// A handle on the tables; clones share the engine. [`Store::close`] ends its threads; so does the last handle, which
/// then waits for them: an engine still at work when the process exits would crash it.
#[derive(Clone)]
pub struct Store {
    // Dropped in this order: without senders the threads end.
    writer: mpsc::Sender<Command>,
    reader: mpsc::Sender<reader::Question>,
    raw: mpsc::Sender<raw::Waiting>,
    raw_positions: raw::Positions,
    threads: Arc<Threads>,
}

struct Threads(Mutex<Vec<JoinHandle<()>>>);

impl Threads {
    fn take(&self) -> Vec<JoinHandle<()>> {
        self.0.lock().map(|mut threads| threads.drain(..).collect()).unwrap_or_default()
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.take().into_iter().for_each(|thread| drop(thread.join()));
    }
}

impl Store {
    /// Opens the folder: makes the tables, deletes what no manifest covers, finishes what one does. A process opens one
    /// store at a time.
    pub async fn open(config: StoreConfig) -> Result<Self, StoreError> {
        let (opened, outcome) = oneshot::channel();
        let (writer, commands) = mpsc::channel(WRITER_QUEUE);
        let (reader, questions) = mpsc::channel(READER_QUEUE);
        let thread = writer::spawn(config, commands, opened)?;
        let connections = outcome.await.map_err(|_| StoreError::Closed)??;
        let mut threads = vec![thread];
        threads.extend(reader::spawn(connections, questions)?);
        let (raw, frames) = mpsc::channel(raw::RAW_QUEUE);
        let raw_positions = raw::Positions::default();
        tokio::spawn(raw::gather(frames, writer.downgrade(), raw_positions.clone()));
        Ok(Self { writer, reader, raw, raw_positions, threads: Arc::new(Threads(Mutex::new(threads))) })
    }

    /// What was accepted of a shard. What central goes on from after a restart.
    pub async fn accepted(&self, region: &str, shard: u32) -> Result<Accepted, StoreError> {
        let (answer, answered) = oneshot::channel();
        self.command(Command::Accepted { region: region.to_owned(), shard, answer }).await?;
        answered.await.map_err(|_| StoreError::Closed)?
    }

    /// Takes a flush; `Ok` means that it is durable, now or since an earlier call. Refuses a flush that does not follow
    /// the last accepted one, of an older epoch or of a lower term. After any other error the same flush can be sent again.
    pub async fn accept(&self, flush: Flush) -> Result<(), StoreError> {
        let (answer, answered) = oneshot::channel();
        self.command(Command::Accept { flush: Box::new(flush), answer }).await?;
        answered.await.map_err(|_| StoreError::Closed)?
    }

    /// Deletes rows of flushes that no manifest lists, of every shard.
    pub async fn delete_unfinished(&self) -> Result<(), StoreError> {
        let (answer, answered) = oneshot::channel();
        self.command(Command::DeleteUnfinished { answer }).await?;
        answered.await.map_err(|_| StoreError::Closed)?
    }

    /// Takes raw rows in their turn; what it returns becomes `Ok` once they are durable. A repeat replaces itself, and of
    /// several outcomes of one batch the highest epoch stays.
    pub async fn take_raw(
        &self,
        frame: RawFrame,
    ) -> Result<impl Future<Output = Result<(), StoreError>> + Send + use<>, StoreError> {
        let (answer, answered) = oneshot::channel();
        self.raw.send((frame, answer)).await.map_err(|_| StoreError::Closed)?;
        Ok(async move { answered.await.map_err(|_| StoreError::Closed)? })
    }

    /// Up to which LSN the raw rows of each (gateway, shard) are durable. Known again after a restart once the gateway has
    /// sent a frame, or somebody has looked for its rows.
    pub fn raw_positions(&self) -> BTreeMap<(String, u32), u64> {
        self.raw_positions.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keeps what was found in the tables of these, so that nobody has to look again; a frame that came meanwhile knows better.
    pub(crate) fn keep_raw_positions(&self, found: impl IntoIterator<Item = ((String, u32), u64)>) {
        let mut positions = self.raw_positions.lock().unwrap_or_else(PoisonError::into_inner);
        for (of, lsn) in found {
            let known = positions.entry(of).or_default();
            *known = lsn.max(*known);
        }
    }

    /// What was accepted of every shard of every region. Visits of all these flushes are in their table.
    pub async fn accepted_of_all(&self) -> Result<AcceptedOfAll, StoreError> {
        let (answer, answered) = oneshot::channel();
        self.command(Command::AcceptedOfAll { answer }).await?;
        answered.await.map_err(|_| StoreError::Closed)?
    }

    /// Pageviews and custom events of a site in each Unix minute from `from_minute` on that has any, oldest first.
    pub async fn minutes(&self, site: &str, from_minute: u32) -> Result<Vec<(u32, u64, u64)>, StoreError> {
        let mut statement = Statement::new("SELECT intDiv(toUInt32(t), 60) AS minute, sum(pageviews), sum(events)");
        statement.push(&format!(" FROM {} FINAL WHERE kind = 0 AND site = ", table::ROLLUP_1M)).bind(site);
        statement.push(&format!(" AND t >= toDateTime({}) GROUP BY t ORDER BY t", u64::from(from_minute) * 60));
        let rows = self.rows(statement).await?;
        rows.iter().map(|row| Ok((number(row, 0)? as u32, number(row, 1)?, number(row, 2)?))).collect()
    }

    /// The Unix minute of a site's earliest event.
    pub async fn first_event_minute(&self, site: &str) -> Result<Option<u32>, StoreError> {
        let mut statement = Statement::new("SELECT count(), intDiv(toUInt32(min(t)), 60)");
        statement.push(&format!(" FROM {} WHERE kind = 0 AND site = ", table::ROLLUP_1M)).bind(site);
        let rows = self.rows(statement).await?;
        let row = rows.first().ok_or_else(|| StoreError::unexpected("a count without a row"))?;
        Ok(if number(row, 0)? == 0 { None } else { Some(number(row, 1)? as u32) })
    }

    /// The ledger of a site over all days, a row a reason.
    pub async fn ledger(&self, site: &str) -> Result<Vec<LedgerSum>, StoreError> {
        let mut statement = Statement::new("SELECT reason, sum(events), sum(batches), sum(duplicates)");
        statement.push(&format!(" FROM {} FINAL WHERE site = ", table::LEDGER)).bind(site);
        statement.push(" GROUP BY reason ORDER BY reason");
        let sum = |row: &Vec<Value>| {
            Ok(LedgerSum {
                reason: number(row, 0)? as u32,
                events: number(row, 1)?,
                batches: number(row, 2)?,
                duplicates: number(row, 3)?,
            })
        };
        self.rows(statement).await?.iter().map(sum).collect()
    }

    /// Runs a question and returns its rows.
    pub(crate) async fn rows(&self, statement: Statement) -> Result<Vec<Vec<Value>>, StoreError> {
        let (answer, answered) = oneshot::channel();
        self.reader.send(reader::Question { statement, answer }).await.map_err(|_| StoreError::Closed)?;
        answered.await.map_err(|_| StoreError::Closed)?
    }

    /// Finishes what is under way, closes the engine and lets the folder go. Calls after it answer [`StoreError::Closed`].
    pub async fn close(&self) {
        let stopped = self.threads.take();
        let _ = self.writer.send(Command::Stop).await;
        for _ in 1..stopped.len() {
            let (answer, _) = oneshot::channel();
            let _ = self.reader.send(reader::Question { statement: Statement::stop(), answer }).await;
        }
        let joined = tokio::task::spawn_blocking(move || stopped.into_iter().for_each(|thread| drop(thread.join())));
        let _ = joined.await;
    }

    async fn command(&self, command: Command) -> Result<(), StoreError> {
        self.writer.send(command).await.map_err(|_| StoreError::Closed)
    }
}

/// An unsigned number in a row of an answer.
pub(crate) fn number(row: &[Value], column: usize) -> Result<u64, StoreError> {
    row.get(column).and_then(Value::as_u64).ok_or_else(|| StoreError::unexpected("a column that is not a number"))
}

/// A text in a row of an answer.
pub(crate) fn text(row: &[Value], column: usize) -> Result<&str, StoreError> {
    row.get(column).and_then(Value::as_str).ok_or_else(|| StoreError::unexpected("a column that is not a text"))
}
