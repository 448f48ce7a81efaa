//! The one thread that writes. A flush is staged, listed in the manifest, folded: rollups and ledger are in their tables
//! from the first step on, under the flush's identity; visits and uniques, which replace or merge with what is there,
//! wait in staging tables until the manifest lists the flush. Whatever is cut short is undone or finished by `recover`.

use std::collections::HashMap;
use std::fs::{self, File};
use std::iter::once;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use proto::uplink::GatewayPosition;
use rustix::fs::{FlockOperation, flock};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use super::chdb::{Connection, Library};
use super::manifest::{Last, Manifest, Stream, Turn};
use super::native::Block;
use super::raw::Placed;
use super::raw_rows;
use super::reader::STACK_BYTES;
use super::rows::{self, Origin};
use super::{
    Accepted, AcceptedOfAll, Flush, READERS, Statement, StoreConfig, StoreError, library, number, schema, table, text,
};

/// Below this the engine cannot hold its own caches and one report.
const MEMORY_MIN_BYTES: u64 = 512 << 20;
/// Rows of a flush that are decoded and inserted together, encoded bytes.
const STAGED_BYTES_MAX: u64 = 16 << 20;

pub(super) enum Command {
    Accepted { region: String, shard: u32, answer: oneshot::Sender<Result<Accepted, StoreError>> },
    AcceptedOfAll { answer: oneshot::Sender<Result<AcceptedOfAll, StoreError>> },
    Accept { flush: Box<Flush>, answer: oneshot::Sender<Result<(), StoreError>> },
    DeleteUnfinished { answer: oneshot::Sender<Result<(), StoreError>> },
    Raw { rows: Vec<Placed>, answer: oneshot::Sender<Result<(), StoreError>> },
    Stop,
}

/// Starts the thread, which opens the engine, reports, and serves commands until the last sender is gone.
pub(super) fn spawn(
    config: StoreConfig,
    mut commands: mpsc::Receiver<Command>,
    opened: oneshot::Sender<Result<Vec<Connection>, StoreError>>,
) -> Result<JoinHandle<()>, StoreError> {
    let serve = move || {
        let mut writer = match Writer::open(&config) {
            Ok((writer, readers)) => {
                let _ = opened.send(Ok(readers));
                writer
            }
            Err(error) => {
                let _ = opened.send(Err(error));
                return;
            }
        };
        while let Some(command) = commands.blocking_recv() {
            match command {
                Command::Accepted { region, shard, answer } => drop(answer.send(writer.accepted(&region, shard))),
                Command::AcceptedOfAll { answer } => drop(answer.send(writer.accepted_of_all())),
                Command::Accept { flush, answer } => drop(answer.send(writer.accept(*flush))),
                Command::DeleteUnfinished { answer } => drop(answer.send(writer.delete_unfinished())),
                Command::Raw { rows, answer } => drop(answer.send(writer.insert_raw(&rows))),
                Command::Stop => return,
            }
        }
    };
    let thread = Builder::new().name("store-writer".to_owned()).stack_size(STACK_BYTES).spawn(serve);
    thread.map_err(|source| StoreError::Io { path: "store-writer".into(), source })
}

pub(super) struct Writer {
    connection: Connection,
    manifest: Manifest,
    /// A write failed part of the way: the tables, not the memory, know how far it came.
    unclear: bool,
}

impl Writer {
    pub(super) fn open(config: &StoreConfig) -> Result<(Self, Vec<Connection>), StoreError> {
        if config.memory_max_bytes < MEMORY_MIN_BYTES {
            let message = format!("`clickhouse.memory_max_bytes` is {}; at least 536870912", config.memory_max_bytes);
            return Err(StoreError::Config(message));
        }
        let lock = Arc::new(lock(config)?);
        let library = Library::load(&library::verified(config.libchdb.as_deref(), &config.path)?)?;
        let folder = config.path.join("engine");
        let connect = || Connection::open(library, &folder, lock.clone(), config.memory_max_bytes);
        let mut connection = connect()?;
        for statement in schema::statements() {
            connection.execute(&Statement::new(&statement))?;
        }
        let readers: Result<Vec<_>, _> = (0..READERS).map(|_| connect()).collect();
        let mut writer = Self { connection, manifest: Manifest::default(), unclear: true };
        writer.recover()?;
        Ok((writer, readers?))
    }

    pub(super) fn accepted(&mut self, region: &str, shard: u32) -> Result<Accepted, StoreError> {
        self.recover()?;
        Ok(self.manifest.accepted(region, shard))
    }

    fn accepted_of_all(&mut self) -> Result<AcceptedOfAll, StoreError> {
        self.recover()?;
        Ok(self.manifest.accepted_of_all())
    }

    pub(super) fn accept(&mut self, flush: Flush) -> Result<(), StoreError> {
        self.recover()?;
        let turn = self.manifest.turn(&flush)?;
        if turn == Turn::Accepted {
            return Ok(());
        }
        self.unclear = true;
        let src = match turn {
            Turn::Next(src) => src,
            _ => self.open_stream(&flush)?,
        };
        let cut = u32::try_from(flush.cut_ms / 1000).unwrap_or(u32::MAX);
        let origin = Origin { src, n: flush.id.n, epoch: flush.id.epoch, cut };
        self.stage(&flush, origin)?;
        self.list(&flush, origin)?;
        self.fold(src, flush.id.n)?;
        self.manifest.accept(&flush);
        self.unclear = false;
        Ok(())
    }

    /// Inserts raw rows. A repeat replaces itself, so nothing cut short has to be undone; the batches come last, since
    /// what is there of a batch says that its events are.
    pub(super) fn insert_raw(&mut self, rows: &[Placed]) -> Result<(), StoreError> {
        self.connection.insert(table::EVENTS, raw_rows::events(rows))?;
        self.connection.insert(table::BATCHES, raw_rows::batches(rows))
    }

    /// Deletes what an epoch that is over left behind.
    fn delete_unfinished(&mut self) -> Result<(), StoreError> {
        self.unclear = true;
        self.recover()
    }

    /// Inserts the rows of a flush that nothing lists yet.
    pub(super) fn stage(&mut self, flush: &Flush, origin: Origin) -> Result<(), StoreError> {
        for rows in flush.rows.groups(STAGED_BYTES_MAX) {
            let rows = rows.map_err(|source| StoreError::Io { path: "the parts of a flush".into(), source })?;
            self.connection.insert(table::ROLLUP_1M, rows::rollups(&rows, origin))?;
            self.connection.insert(table::LEDGER, rows::ledger(&rows, origin))?;
            self.connection.insert(table::UNIQUES_STAGED, rows::uniques(&rows, origin))?;
            self.connection.insert(table::VISITS_STAGED, rows::visits(&rows, origin))?;
        }
        Ok(())
    }

    /// Writes the manifest: from here on the flush counts.
    pub(super) fn list(&mut self, flush: &Flush, origin: Origin) -> Result<(), StoreError> {
        let gateways: Vec<String> = flush.vector.iter().map(|position| position.gateway.clone()).collect();
        let lsns: Vec<u64> = flush.vector.iter().map(|position| position.lsn).collect();
        let applied_by: Vec<String> = flush.vector.iter().map(|position| position.applied_by.clone()).collect();
        let block = Block::of(1)
            .u16("src", once(origin.src))
            .u64("n", once(origin.n))
            .u64("term", once(flush.term))
            .u64("watermark_ms", once(flush.watermark_ms))
            .time("cut", once(origin.cut))
            .text_lists("gateways", once(gateways.as_slice()))
            .u64_lists("lsns", once(lsns.as_slice()))
            .text_lists("applied_by", once(applied_by.as_slice()));
        self.connection.insert(table::FLUSHES, [block])
    }

    /// Copies what was staged into its tables. Repeating it changes nothing: a visit replaces itself, a union of
    /// visitors with itself is itself.
    pub(super) fn fold(&mut self, src: u16, n: u64) -> Result<(), StoreError> {
        let names = schema::VISIT_NAMES;
        let visits = format!("INSERT INTO {} ({names}) SELECT {names}", table::VISITS);
        let uniques = format!(
            "INSERT INTO {} (site, kind, value, t, visitors) \
             SELECT site, kind, value, t, arrayReduce('uniqCombined64State(14)', visitors)",
            table::UNIQUES
        );
        for (copy, staged) in [(visits, table::VISITS_STAGED), (uniques, table::UNIQUES_STAGED)] {
            self.execute(&format!("{copy} FROM {staged} WHERE src = {src} AND n = {n}"))?;
            self.drop_staged(staged, src, n)?;
        }
        Ok(())
    }

    /// Gives a (region, shard, epoch) that was never seen its number.
    pub(super) fn open_stream(&mut self, flush: &Flush) -> Result<u16, StoreError> {
        let (id, src) = (&flush.id, self.manifest.free_src()?);
        let block = Block::of(1)
            .u16("src", once(src))
            .text("region", once(id.region.as_str()))
            .u32("shard", once(id.shard))
            .u64("epoch", once(id.epoch));
        self.connection.insert(table::STREAMS, [block])?;
        self.manifest.insert(&id.region, id.shard, id.epoch, Stream { src, last: None });
        Ok(src)
    }

    /// Reads the manifest, deletes rows of flushes that it does not list, finishes flushes that it does.
    fn recover(&mut self) -> Result<(), StoreError> {
        if !self.unclear {
            return Ok(());
        }
        self.manifest = self.read_manifest()?;
        let listed = format!("(src, n) IN (SELECT src, n FROM {})", table::FLUSHES);
        for table in [table::ROLLUP_1M, table::LEDGER] {
            let count = self.rows(&format!("SELECT count() FROM {table} WHERE NOT {listed}"))?;
            let rows = count.first().map_or(Ok(0), |row| number(row, 0))?;
            if rows > 0 {
                tracing::info!(table, rows, "deleting rows of unfinished flushes");
                self.execute(&format!("DELETE FROM {table} WHERE NOT {listed}"))?;
            }
        }
        for staged in [table::VISITS_STAGED, table::UNIQUES_STAGED] {
            for row in self.rows(&format!("SELECT DISTINCT src, n, {listed} FROM {staged}"))? {
                let (src, n, listed) = (number(&row, 0)? as u16, number(&row, 1)?, number(&row, 2)? == 1);
                match listed {
                    true => self.fold(src, n)?,
                    false => self.drop_staged(staged, src, n)?,
                }
            }
        }
        self.unclear = false;
        Ok(())
    }

    fn read_manifest(&mut self) -> Result<Manifest, StoreError> {
        let flushes = table::FLUSHES;
        let mut lasts = HashMap::new();
        let last = format!(
            "SELECT src, max(n), argMax(term, n), max(watermark_ms), toUnixTimestamp(max(cut)) FROM {flushes} FINAL GROUP BY src"
        );
        for row in self.rows(&last)? {
            let last = Last { n: number(&row, 1)?, term: number(&row, 2)? };
            lasts.insert(number(&row, 0)? as u16, (last, number(&row, 3)?, number(&row, 4)? * 1000));
        }
        let mut vectors: HashMap<u16, Vec<GatewayPosition>> = HashMap::new();
        let highest = format!(
            "SELECT src, gateway, max(lsn), argMax(incarnation, (lsn, n)) FROM {flushes} FINAL ARRAY JOIN gateways AS gateway, \
             lsns AS lsn, arrayResize(applied_by, length(gateways)) AS incarnation GROUP BY src, gateway"
        );
        for row in self.rows(&highest)? {
            let (gateway, applied_by) = (text(&row, 1)?.to_owned(), text(&row, 3)?.to_owned());
            let position = GatewayPosition { gateway, lsn: number(&row, 2)?, applied_by };
            vectors.entry(number(&row, 0)? as u16).or_default().push(position);
        }
        let mut manifest = Manifest::default();
        // In the order of the epochs of each shard: of two positions that are the same the later epoch says who applied it.
        for row in
            self.rows(&format!("SELECT src, shard, epoch, region FROM {} FINAL ORDER BY epoch", table::STREAMS))?
        {
            let (src, shard, epoch, region) =
                (number(&row, 0)? as u16, number(&row, 1)? as u32, number(&row, 2)?, text(&row, 3)?);
            let (last, watermark_ms, cut_ms) = lasts.remove(&src).map_or((None, 0, 0), |(l, w, c)| (Some(l), w, c));
            manifest.insert(region, shard, epoch, Stream { src, last });
            manifest.reached(region, shard, vectors.remove(&src).unwrap_or_default(), watermark_ms, cut_ms);
        }
        Ok(manifest)
    }

    fn drop_staged(&mut self, staged: &str, src: u16, n: u64) -> Result<(), StoreError> {
        self.execute(&format!("ALTER TABLE {staged} DROP PARTITION ({src}, {n})"))
    }

    pub(super) fn execute(&mut self, statement: &str) -> Result<(), StoreError> {
        self.connection.execute(&Statement::new(statement))
    }

    #[cfg(test)]
    pub(super) fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    fn rows(&mut self, statement: &str) -> Result<Vec<Vec<Value>>, StoreError> {
        self.connection.rows(&Statement::new(statement))
    }
}

/// Makes the folder and takes it for this process.
fn lock(config: &StoreConfig) -> Result<File, StoreError> {
    let io = |path: &std::path::Path, source| StoreError::Io { path: path.to_owned(), source };
    fs::create_dir_all(&config.path).map_err(|source| io(&config.path, source))?;
    let path = config.path.join("lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(|source| io(&path, source))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| StoreError::InUse(config.path.clone()))?;
    Ok(file)
}
