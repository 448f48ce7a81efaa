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
    /// One behind the other.
    pub rounds: Vec<Round>,
    /// A quiet time behind the last.
    pub after: Phase,
    /// The gateway's memory.
    pub memory: Memory,
    /// Connections of pages that broke meanwhile.
    pub broken: u64,
}

/// Of one round.
#[derive(Debug, Serialize)]
pub struct Round {
    /// A quiet time.
    pub before: Phase,
    /// The attack.
    pub during: Phase,
}

/// Of one kind of attack, resident bytes.
#[derive(Debug, Serialize)]
pub struct Memory {
    /// In front of its first round.
    pub before: u64,
    /// In all its rounds and quiet times.
    pub highest: u64,
    /// Behind its last round.
    pub after: u64,
}

/// A time of it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Phase {
    /// Batches that were acknowledged.
    pub acknowledged: usize,
    /// From a batch's first transmission to its acknowledgement, milliseconds.
    pub p50_ms: f64,
    /// Likewise.
    pub p99_ms: f64,
}

impl Phase {
    pub(super) fn of(mut latencies: Vec<Duration>) -> Self {
        latencies.sort_unstable();
        let at = |share: f64| {
            let place = (latencies.len() as f64 * share) as usize;
            latencies.get(place.min(latencies.len().saturating_sub(1))).map_or(f64::NAN, |ms| ms.as_secs_f64() * 1e3)
        };
        Self { acknowledged: latencies.len(), p50_ms: at(0.5), p99_ms: at(0.99) }
    }
}

impl Memory {
    pub(super) fn of(samples: &[u64]) -> Self {
        let [before, highest, after] = [samples.first(), samples.iter().max(), samples.last()];
        let known = |sample: Option<&u64>| sample.copied().unwrap_or(0);
        Self { before: known(before), highest: known(highest), after: known(after) }
    }
}

fn mib(bytes: u64) -> String {
    format!("{:.0}", bytes as f64 / f64::from(1 << 20))
}

impl Measured {
    /// The pages' p99 before the attack and during it, milliseconds, and the second as a multiple of the first; of each the rounds' median.
    pub fn p99(&self) -> [f64; 3] {
        let median = |of: fn(&Round) -> f64| {
            let mut of_rounds: Vec<_> = self.rounds.iter().map(of).collect();
            of_rounds.sort_by(f64::total_cmp);
            of_rounds.get(of_rounds.len() / 2).copied().unwrap_or(f64::NAN)
        };
        [
            median(|round| round.before.p99_ms),
            median(|round| round.during.p99_ms),
            median(|round| round.during.p99_ms / round.before.p99_ms),
        ]
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
        let Self { kind, flooded, after, memory, broken, .. } = self;
        let [before, during, ratio] = self.p99();
        write!(
            f,
            "{}: {} tries, {} {}; p99 {before:.1} → {during:.1} ({ratio:.2}) → {:.1} ms, memory {} → {} → {} MiB, {broken} connections of pages broke",
            kind.name(),
            flooded.tries,
            flooded.done,
            kind.unit(),
            after.p99_ms,
            mib(memory.before),
            mib(memory.highest),
            mib(memory.after),
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
            "highest",
            "after",
            "broke",
        ]);
        for attack in &self.attacks {
            let ms = |ms: f64| format!("{ms:.1}");
            let [before, during, ratio] = attack.p99();
            table.add_row([
                attack.kind.name(),
                attack.flooded.tries.to_string(),
                format!("{} {}", attack.flooded.done, attack.kind.unit()),
                ms(before),
                ms(during),
                ms(attack.after.p99_ms),
                format!("{ratio:.2}"),
                mib(attack.memory.before),
                mib(attack.memory.highest),
                mib(attack.memory.after),
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
