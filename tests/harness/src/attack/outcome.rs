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
    /// Of the pages' p99 in them.
    pub median: Median,
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

/// Of the rounds of one kind of attack.
#[derive(Debug, Serialize)]
pub struct Median {
    /// In the quiet times.
    pub before_ms: f64,
    /// In the attacks.
    pub during_ms: f64,
    /// Of each round's attack as a multiple of its quiet time.
    pub ratio: f64,
}

/// Resident in one kind of attack.
#[derive(Debug, Serialize)]
pub struct Memory {
    /// In front of its first round.
    pub before_bytes: u64,
    /// In all its rounds and quiet times.
    pub highest_bytes: u64,
    /// Behind its last round.
    pub after_bytes: u64,
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
        Self { before_bytes: known(before), highest_bytes: known(highest), after_bytes: known(after) }
    }
}

impl Measured {
    pub(super) fn new(
        kind: Kind,
        flooded: Flooded,
        rounds: Vec<Round>,
        after: Phase,
        memory: Memory,
        broken: u64,
    ) -> Self {
        let median = Median {
            before_ms: median(rounds.iter().map(|round| round.before.p99_ms)),
            during_ms: median(rounds.iter().map(|round| round.during.p99_ms)),
            ratio: median(rounds.iter().map(|round| round.during.p99_ms / round.before.p99_ms)),
        };
        Self { kind, flooded, rounds, median, after, memory, broken }
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
        let Median { before_ms, during_ms, ratio } = self.median;
        let after_ms = after.p99_ms;
        write!(f, "{}: {} tries, {} {}; ", kind.name(), flooded.tries, flooded.done, kind.unit())?;
        write!(f, "p99 {before_ms:.1} → {during_ms:.1} ms ({ratio:.2}) → {after_ms:.1} ms, ")?;
        let [before, highest, after] = [memory.before_bytes, memory.highest_bytes, memory.after_bytes].map(mib);
        write!(f, "memory {before} → {highest} → {after} MiB, {broken} connections of pages broke")
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
            let Median { before_ms, during_ms, ratio } = attack.median;
            table.add_row([
                attack.kind.name(),
                attack.flooded.tries.to_string(),
                format!("{} {}", attack.flooded.done, attack.kind.unit()),
                ms(before_ms),
                ms(during_ms),
                ms(attack.after.p99_ms),
                format!("{ratio:.2}"),
                mib(attack.memory.before_bytes),
                mib(attack.memory.highest_bytes),
                mib(attack.memory.after_bytes),
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

/// NaN of nothing.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    match (values.len() / 2, values.len() % 2) {
        (0, 0) => f64::NAN,
        (middle, 0) => (values[middle - 1] + values[middle]) / 2.0,
        (middle, _) => values[middle],
    }
}

fn mib(bytes: u64) -> String {
    format!("{:.0}", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_medians_and_memory_is_that_of_the_whole() {
        let phase = |p99_ms| Phase { acknowledged: 1, p50_ms: 1.0, p99_ms };
        let round = |(before, during)| Round { before: phase(before), during: phase(during) };
        let rounds = [(2.0, 8.0), (4.0, 4.0), (1.0, 100.0)].map(round).into();
        let measured =
            Measured::new(Kind::Botnet, Flooded { tries: 1, done: 1 }, rounds, phase(1.0), Memory::of(&[3, 9, 4]), 0);
        let Median { before_ms, during_ms, ratio } = measured.median;
        assert_eq!([before_ms, during_ms, ratio], [2.0, 8.0, 4.0]);
        let Memory { before_bytes, highest_bytes, after_bytes } = measured.memory;
        assert_eq!([before_bytes, highest_bytes, after_bytes], [3, 9, 4]);
        assert_eq!(median([4.0, 1.0, 2.0, 9.0].into_iter()), 3.0);
        assert!(median([].into_iter()).is_nan());
    }
}
