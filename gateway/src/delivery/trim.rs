//! Now and then the front of the log goes, and what is known of it: [`crate::delivery::log::Trimmer`] decides what nobody needs any more.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::delivery::log::{LogError, Trimmer, read};
use crate::delivery::progress::Delivery;
use crate::metrics::Metrics;

/// A segment is hours old when it goes.
const TRIM_EVERY: Duration = Duration::from_secs(10);

/// One shard's log.
#[derive(Debug)]
pub struct Trimming {
    folder: PathBuf,
    trimmer: Trimmer,
    delivery: Arc<Delivery>,
    metrics: Arc<Metrics>,
}

impl Trimming {
    /// Of the log in `folder`.
    pub fn new(folder: PathBuf, delivery: Arc<Delivery>, metrics: Arc<Metrics>) -> Self {
        Self { trimmer: Trimmer::new(&folder), folder, delivery, metrics }
    }

    /// Trims now and then, for ever.
    pub async fn run(mut self) {
        loop {
            if let Err(error) = self.trim() {
                tracing::error!(%error, "the log cannot be trimmed; it grows");
            }
            tokio::time::sleep(TRIM_EVERY).await;
        }
    }

    /// Deletes what may go. A crash leaves outcomes of records that are gone: the next time they go too.
    pub fn trim(&mut self) -> Result<(), LogError> {
        self.delivery.keep()?;
        let gone = self.trimmer.trim(self.delivery.allowed())?;
        let segments = read::segments(&self.folder)?;
        if let Some((first, _)) = segments.first() {
            self.delivery.trim(*first)?;
            if gone > 0 {
                self.metrics.trimmed_segments.inc_by(gone);
                tracing::info!(segments = gone, %first, "the front of the log is trimmed");
            }
        }
        let bytes: u64 = segments.iter().filter_map(|(_, path)| fs::metadata(path).ok()).map(|found| found.len()).sum();
        self.metrics.log_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        Ok(())
    }
}
