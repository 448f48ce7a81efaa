//! What the pages noticed of each attack and what the gateway kept, as a table and as JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use comfy_table::{Table, presets};
use serde::Serialize;

use super::Kind;
use super::flood::Flooded;

/// Of the whole run.
#[derive(Debug, Default, Serialize)]
pub struct Outcome {
    /// Well-behaved pages.
    pub agents: u32,
    /// One attack after the other.
    pub attacks: Vec<Measured>,
    /// Events that the pages sent.
    pub sent: u64,
    /// Of these neither counted nor dropped for a reason, once everything was audited.
    pub difference: Option<i64>,
    /// Connections of pages that broke, by what was seen of it.
    pub broken: BTreeMap<String, u64>,
    /// What must not be.
    pub failure: Option<String>,
}

/// Of one attack.
#[derive(Debug, Serialize)]
pub struct Measured {
    /// Which.
    pub kind: Kind,
    /// What the attackers did, all rounds together.
    pub flooded: Flooded,
    /// A quiet time.
    pub before: Phase,
    /// The attack.
    pub during: Phase,
    /// A quiet time again.
    pub after: Phase,
    /// Connections of pages that broke meanwhile.
    pub broken: u64,
}

/// The same time of all rounds.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Phase {
    /// Batches that were acknowledged.
    pub acknowledged: usize,
    /// From a batch's first transmission to its acknowledgement, milliseconds.
    pub p50_ms: f64,
    /// Likewise.
    pub p99_ms: f64,
    /// The gateway's memory at its largest.
    pub rss_bytes: u64,
}

impl Phase {
    pub(super) fn of(mut latencies: Vec<Duration>, rss: &[u64]) -> Self {
        latencies.sort_unstable();
        let at = |share: f64| {
            let place = (latencies.len() as f64 * share) as usize;
            latencies.get(place.min(latencies.len().saturating_sub(1))).map_or(f64::NAN, |ms| ms.as_secs_f64() * 1e3)
        };
        let rss_bytes = rss.iter().copied().max().unwrap_or(0);
        Self { acknowledged: latencies.len(), p50_ms: at(0.5), p99_ms: at(0.99), rss_bytes }
    }

    fn mib(&self) -> String {
        format!("{:.0}", self.rss_bytes as f64 / f64::from(1 << 20))
    }
}

impl Measured {
    /// The pages' p99 during the attack, as a multiple of that before it.
    pub fn p99_ratio(&self) -> f64 {
        self.during.p99_ms / self.before.p99_ms
    }
}

impl Outcome {
    /// Everything was counted, no page lost its connection, the gateway lives. How long batches took is for the reader to judge.
    pub fn holds(&self) -> bool {
        self.failure.is_none() && self.difference == Some(0) && self.broken.is_empty()
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, flooded, before, during, after, broken } = self;
        write!(
            f,
            "{}: {} tries, {} {}; p99 {:.1} → {:.1} → {:.1} ms, memory {} → {} → {} MiB, {broken} connections of pages broke",
            kind.name(),
            flooded.tries,
            flooded.done,
            kind.unit(),
            before.p99_ms,
            during.p99_ms,
            after.p99_ms,
            before.mib(),
            during.mib(),
            after.mib(),
        )
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN).set_header([
            "attack",
            "tries",
            "what attackers did",
            "p99 before, ms",
            "during",
            "after",
            "during / before",
            "MiB before",
            "during",
            "after",
            "broke",
        ]);
        for attack in &self.attacks {
            let ms = |ms: f64| format!("{ms:.1}");
            table.add_row([
                attack.kind.name(),
                attack.flooded.tries.to_string(),
                format!("{} {}", attack.flooded.done, attack.kind.unit()),
                ms(attack.before.p99_ms),
                ms(attack.during.p99_ms),
                ms(attack.after.p99_ms),
                format!("{:.2}", attack.p99_ratio()),
                attack.before.mib(),
                attack.during.mib(),
                attack.after.mib(),
                attack.broken.to_string(),
            ]);
        }
        writeln!(f, "{table}")?;
        writeln!(f, "pages: {}, events sent: {}, connections that broke: {:?}", self.agents, self.sent, self.broken)?;
        match (&self.failure, self.difference) {
            (Some(failure), _) => write!(f, "ATTACK FAILED: {failure}"),
            (None, Some(difference)) => write!(f, "audit difference: {difference}"),
            (None, None) => write!(f, "nothing was audited"),
        }
    }
}
