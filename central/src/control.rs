//! What central keeps besides the figures: sites, keys and sessions, salts, registered gateways, and where each shard
//! stands. One SQLite file, every commit on disk before it counts.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use sqlx::{
    Connection as _, Sqlite, SqlitePool, Transaction,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use tokio::sync::{Mutex, watch};

pub mod access;
pub mod gateways;
pub mod outcomes;
pub mod rules;
pub mod salts;
pub mod shards;
pub mod site_keys;
pub mod sites;

use salts::SaltKey;
use sites::Site;

/// The control data, shared by reference.
#[derive(Debug)]
pub struct Control {
    pool: SqlitePool,
    published: watch::Sender<Arc<Published>>,
    /// Held from the reading to the sending: of two that publish at once, the later reader must also be the later sender.
    publishing: Mutex<()>,
}

/// What every gateway is told, and every request looks its site up in. Replaced as a whole when a part changes.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Published {
    /// By name.
    pub sites: BTreeMap<String, Site>,
    /// Since when raw rows of a site come, Unix ms, 0 since its first event; sites that send none are not in it.
    pub raw_since_ms: BTreeMap<String, u64>,
    /// By calendar date, YYYY-MM-DD.
    pub salts: BTreeMap<String, SaltKey>,
    /// Gateways that must not come back.
    pub retired: BTreeSet<String>,
}

/// The control data could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The file does not open.
    #[error("control data {path} cannot be opened: {source}; restore the file or start with an empty data folder")]
    Open {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        source: sqlx::Error,
    },
    /// Written by a later version.
    #[error("control data has schema {found} and this version knows {known} at most; run a newer version")]
    Newer {
        /// In the file.
        found: i64,
        /// In this program.
        known: i64,
    },
    /// A statement failed.
    #[error("control data: {0}")]
    Database(#[from] sqlx::Error),
    /// A row holds what this version would not write.
    #[error("control data: {0} is not what this version writes")]
    Damaged(String),
    /// A number that does not fit.
    #[error("control data: {0} is beyond what can be kept, 2^63 - 1")]
    TooLarge(u64),
}

/// One file a version of the schema. Each ends by setting `user_version` to its own number.
const SCHEMA: [&str; 6] = [
    include_str!("control/schema/001.sql"),
    include_str!("control/schema/002.sql"),
    include_str!("control/schema/003.sql"),
    include_str!("control/schema/004.sql"),
    include_str!("control/schema/005.sql"),
    include_str!("control/schema/006.sql"),
];

impl Control {
    /// Opens `control.sqlite` in the folder, makes or upgrades its tables, and reads what is published.
    pub async fn open(folder: &Path) -> Result<Self, ControlError> {
        let path = folder.join("control.sqlite");
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            // A deleted salt or session must be gone from the file, not only from the tables.
            .pragma("secure_delete", "ON")
            .busy_timeout(Duration::from_secs(5));
        let pool = SqlitePoolOptions::new()
            .max_connections(4) // SQLite has one writer; the rest serve look-ups
            .acquire_timeout(Duration::from_secs(10))
            // A disk that is full at COMMIT makes SQLite roll back by itself; sqlx then counts a transaction on the connection that is
            // not there, and would refuse every later one on it.
            .before_acquire(|connection, _| Box::pin(async { Ok(!connection.is_in_transaction()) }))
            .connect_with(options)
            .await
            .map_err(|source| ControlError::Open { path, source })?;
        let control = Self { pool, published: watch::Sender::default(), publishing: Mutex::default() };
        control.upgrade().await?;
        control.publish().await?;
        Ok(control)
    }

    /// What is published now, and a notice of every change.
    pub fn published(&self) -> watch::Receiver<Arc<Published>> {
        self.published.subscribe()
    }

    /// A site by its name.
    pub fn site(&self, name: &str) -> Option<Site> {
        self.published.borrow().sites.get(name).cloned()
    }

    /// Ends all connections, after the statements that run.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    async fn upgrade(&self) -> Result<(), ControlError> {
        let found: i64 = sqlx::query_scalar("PRAGMA user_version").fetch_one(&self.pool).await?;
        let known = SCHEMA.len() as i64;
        if found > known {
            return Err(ControlError::Newer { found, known });
        }
        for statements in SCHEMA.into_iter().skip(usize::try_from(found).unwrap_or(0)) {
            let mut transaction = self.write().await?;
            sqlx::raw_sql(statements).execute(&mut *transaction).await?;
            transaction.commit().await?;
        }
        Ok(())
    }

    /// Reads what is published and tells everyone, if it changed.
    async fn publish(&self) -> Result<(), ControlError> {
        let _one_at_a_time = self.publishing.lock().await;
        let published = Arc::new(Published {
            sites: self.read_sites().await?,
            raw_since_ms: self.read_raw_since_ms().await?,
            salts: self.read_salts().await?,
            retired: self.read_retired().await?,
        });
        self.published.send_if_modified(|before| {
            let changed = *before != published;
            *before = published;
            changed
        });
        Ok(())
    }

    /// A transaction that holds the right to write from its start: one that only asks for it later can be refused.
    async fn write(&self) -> Result<Transaction<'static, Sqlite>, ControlError> {
        Ok(self.pool.begin_with("BEGIN IMMEDIATE").await?)
    }
}

/// A number as SQLite keeps it.
fn kept(number: u64) -> Result<i64, ControlError> {
    i64::try_from(number).map_err(|_| ControlError::TooLarge(number))
}

/// A number that [`kept`] wrote.
fn read(number: i64) -> Result<u64, ControlError> {
    u64::try_from(number).map_err(|_| ControlError::Damaged(number.to_string()))
}

#[cfg(test)]
mod tests;
