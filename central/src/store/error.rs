use std::path::PathBuf;

/// Why the store cannot do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No library at the place.
    #[error("libchdb is not at {}: `make build` fetches it; or set `clickhouse.libchdb` to where it is", .0.display())]
    LibraryMissing(PathBuf),
    /// The library is there but it is not the one this build was tested with.
    #[error(
        "{} is not libchdb {version}: its SHA-256 is {found}, expected {expected}; remove it and run `make build`, or set \
         `clickhouse.libchdb` to the right one", path.display()
    )]
    LibraryWrong {
        /// Where it is.
        path: PathBuf,
        /// The version wanted.
        version: &'static str,
        /// Its hash.
        found: String,
        /// The hash wanted.
        expected: &'static str,
    },
    /// The dynamic linker refuses it.
    #[error("libchdb cannot be loaded: {0}")]
    LibraryUnusable(#[from] libloading::Error),
    /// The folder belongs to another process.
    #[error("{} belongs to another running instance: stop it, or choose another folder", .0.display())]
    InUse(PathBuf),
    /// A file or folder cannot be used.
    #[error("{}: {source}; central must be able to read and write it", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A setting that cannot work.
    #[error("{0}")]
    Config(String),
    /// The engine does not start on the folder.
    #[error("the engine does not open {}: a process opens one store at a time, and the folder must be its own", .0.display())]
    Open(PathBuf),
    /// The engine refuses or fails a statement.
    #[error("the engine answered: {message}")]
    Engine {
        /// ClickHouse's error code, 0 if it named none.
        code: u32,
        /// Its words.
        message: String,
    },
    /// An insert did not write what was sent.
    #[error("{table}: {sent} rows sent, {written} written")]
    RowsLost {
        /// Where to.
        table: &'static str,
        /// Rows in the flush.
        sent: u64,
        /// Rows the engine reported.
        written: u64,
    },
    /// A flush ahead of its turn.
    #[error("flush {n} does not follow: flush {expected} is next")]
    Gap {
        /// The number sent.
        n: u64,
        /// The number that would be accepted.
        expected: u64,
    },
    /// A flush of an epoch that is over.
    #[error("flush of epoch {epoch}: the shard is in epoch {current}")]
    StaleEpoch {
        /// The epoch sent.
        epoch: u64,
        /// The epoch in force.
        current: u64,
    },
    /// A flush of a leader that was replaced.
    #[error("flush of term {term}: term {current} has already sent one")]
    StaleTerm {
        /// The term sent.
        term: u64,
        /// The highest term accepted from.
        current: u64,
    },
    /// An insert that several frames shared.
    #[error("raw rows: {0}")]
    Raw(String),
    /// `close` was called, or the engine's thread died.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// The engine answered something else than its contract says.
    pub(super) fn unexpected(what: &str) -> Self {
        Self::Engine { code: 0, message: format!("unexpected answer: {what}") }
    }
}
