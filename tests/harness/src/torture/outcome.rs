//! What a run did and found, as a table and as JSON; also of a run that failed.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use comfy_table::{Table, presets};
use serde::Serialize;

/// The outcome.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Outcome {
    /// Of the order of faults.
    pub seed: u64,
    /// Faults, or pairs, after which the region worked again.
    pub cycles: u32,
    /// How often each kind.
    pub faults: BTreeMap<String, u32>,
    /// Audits, batch by batch, that found nothing wrong.
    pub audits: u32,
    /// Events in batches that were numbered.
    pub sent: u64,
    /// Batches that were numbered.
    pub batches: u64,
    /// Batches that were acknowledged.
    pub acknowledged: u64,
    /// Events counted, by the last audit.
    pub counted: u64,
    /// Events dropped as they must be, by the last audit.
    pub dropped: u64,
    /// Transmissions of a batch that Redis recognised, by the last audit.
    pub duplicates: u64,
    /// Transmissions beyond the first of each batch.
    pub repeats: u64,
    /// Connections made again.
    pub reconnects: u64,
    /// `sent - counted - dropped`, once everything was audited.
    pub difference: Option<i64>,
    /// The longest time from a fault's end until the region worked again, seconds.
    pub longest_recovery_s: f64,
    /// The whole run, seconds.
    pub took_s: f64,
    /// Why the run ended early, and where its files are.
    pub failure: Option<Failure>,
}

/// The end of a run that found something.
#[derive(Debug, Clone, Serialize)]
pub struct Failure {
    /// Cycle and fault.
    pub at: String,
    /// What was wrong.
    pub why: String,
    /// The region's logs, data and configurations.
    pub folder: PathBuf,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN).set_header(["what", "how many"]);
        let mut row = |name: &str, value: String| {
            table.add_row([name.to_owned(), value]);
        };
        row("seed", self.seed.to_string());
        row("cycles", self.cycles.to_string());
        for (fault, times) in &self.faults {
            row(&format!("fault: {fault}"), times.to_string());
        }
        row("audits, batch by batch", self.audits.to_string());
        row("events sent", self.sent.to_string());
        row("batches sent", self.batches.to_string());
        row("batches acknowledged", self.acknowledged.to_string());
        row("events counted", self.counted.to_string());
        row("events dropped as they must be", self.dropped.to_string());
        row("transmissions beyond the first", self.repeats.to_string());
        row("duplicates suppressed", self.duplicates.to_string());
        row("connections made again", self.reconnects.to_string());
        row("longest time until it worked again, s", format!("{:.1}", self.longest_recovery_s));
        row("whole run, s", format!("{:.0}", self.took_s));
        row("difference", self.difference.map_or("not known".into(), |difference| difference.to_string()));
        write!(f, "{table}")?;
        match &self.failure {
            None => Ok(()),
            Some(Failure { at, why, folder }) => {
                write!(f, "\n\nTORTURE FAILED, seed {}, {at}: {why}\nfiles: {}", self.seed, folder.display())
            }
        }
    }
}
