//! What a run knows of its own events: each was sent, and then acknowledged, dropped or neither.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::walk::Event;

/// Everything the agents of a run report, shared by all of them.
#[derive(Default)]
pub struct Tally {
    sums: Mutex<Sums>,
}

impl Tally {
    /// The sums, for reading and adding. Never held across an await.
    pub fn lock(&self) -> MutexGuard<'_, Sums> {
        // Sums stay meaningful if another agent's task panicked: each addition is whole.
        self.sums.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Pageviews and custom events, apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Events {
    /// Pageviews.
    pub pageviews: u64,
    /// All others.
    pub custom: u64,
}

impl Events {
    /// One event.
    pub fn one(is_pageview: bool) -> Self {
        if is_pageview { Self { pageviews: 1, custom: 0 } } else { Self { pageviews: 0, custom: 1 } }
    }

    /// Both kinds.
    pub fn all(&self) -> u64 {
        self.pageviews + self.custom
    }
}

impl std::ops::AddAssign for Events {
    fn add_assign(&mut self, other: Self) {
        self.pageviews += other.pageviews;
        self.custom += other.custom;
    }
}

/// What was sent and not dropped, by the rows of the reports in which it is to be found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Due {
    /// Pageviews by their page's URL, without its query.
    pub pages: BTreeMap<String, u64>,
    /// Events by their name; a pageview's is `pageview`.
    pub names: BTreeMap<String, u64>,
}

impl Due {
    /// The event was sent.
    pub fn add(&mut self, event: &Event) {
        self.change(event, |count| count + 1);
    }

    /// The event was dropped.
    pub fn remove(&mut self, event: &Event) {
        self.change(event, |count| count.saturating_sub(1));
    }

    fn change(&mut self, event: &Event, to: fn(u64) -> u64) {
        let change = |counts: &mut BTreeMap<String, u64>, key: &str| match counts.get_mut(key) {
            Some(count) => *count = to(*count),
            None => drop(counts.insert(key.to_owned(), to(0))),
        };
        change(&mut self.names, &event.name);
        if event.is_pageview() {
            change(&mut self.pages, event.url.split(['?', '#']).next().unwrap_or_default());
        }
    }
}

/// An acknowledged batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// Its sid.
    pub sid: [u8; 16],
    /// Its number.
    pub seq: u32,
    /// Its events.
    pub events: u32,
}

/// Sums over all agents.
#[derive(Default)]
pub struct Sums {
    /// Handed to an agent.
    pub sent: Events,
    /// In a batch that was acknowledged.
    pub acknowledged: Events,
    /// Finally refused by a gateway, or given up by an agent.
    pub dropped: Events,
    /// What was acknowledged, batch by batch: 24 bytes each.
    pub receipts: Vec<Receipt>,
    /// `sent` without `dropped`, one by one.
    pub due: Due,
    /// `dropped` by reason.
    pub reasons: BTreeMap<String, u64>,
    /// Agents of which at least one event was acknowledged.
    pub agents_acknowledged: u64,
    /// Agents that ended with everything answered.
    pub agents_settled: u64,
    /// Agents that a gateway told to stop: unknown site or wrong origin.
    pub agents_stopped: u64,
    /// The last refusal's sentence for developers.
    pub refusal: Option<String>,
    /// Connections.
    pub connections: Connections,
    /// Batches.
    pub batches: Batches,
    /// Bytes.
    pub bytes: Bytes,
    /// From an event's intended time to the acknowledgement of its batch.
    pub latency: Latencies,
    /// From a batch's first transmission to its acknowledgement.
    pub answer: Latencies,
    /// From an event's intended time to the moment its agent got it: how late the load itself was.
    pub lateness: Latencies,
}

/// Connections over the run.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Connections {
    /// Open now.
    #[serde(skip)]
    pub open: u64,
    /// Opened.
    pub opened: u64,
    /// Opened by an agent that had one before.
    pub reconnects: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Why the last one failed.
    pub last_failure: Option<String>,
}

/// Batches over the run.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Batches {
    /// Distinct (sid, seq).
    pub numbered: u64,
    /// Times that a batch was put on a connection.
    pub transmissions: u64,
    /// Batches acknowledged.
    pub acknowledged: u64,
    /// Refused for now, under a number that will not be used again.
    pub renumbered: u64,
    /// Transmissions whose bytes differ from the first one's: never, unless an agent is broken.
    pub altered: u64,
    /// Answers that could not be read, or that named a batch that was never sent.
    pub unknown_answers: u64,
}

/// Bytes of WebSocket frames, their headers included; TCP's and the handshake's are not.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Bytes {
    /// By agents.
    pub sent: u64,
    /// By gateways.
    pub received: u64,
}

/// A histogram of durations: three significant digits from a microsecond to an hour, 20 KiB or so.
pub struct Latencies(Histogram<u64>);

const HOUR_US: u64 = 3_600_000_000;

impl Default for Latencies {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, HOUR_US, 3).expect("three digits and these bounds are valid"))
    }
}

impl Latencies {
    /// Adds a duration. What is longer than an hour counts as an hour.
    pub fn record(&mut self, latency: Duration) {
        self.0.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(HOUR_US).max(1));
    }

    /// What a report says of it.
    pub fn summary(&self) -> Summary {
        let ms = |us: u64| us as f64 / 1000.0;
        let at = |quantile| ms(self.0.value_at_quantile(quantile));
        Summary {
            count: self.0.len(),
            mean_ms: (self.0.mean() / 10.0).round() / 100.0,
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: ms(self.0.max()),
        }
    }
}

/// A distribution in a few numbers, milliseconds.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// How many there were.
    pub count: u64,
    /// Mean.
    pub mean_ms: f64,
    /// Median.
    pub p50_ms: f64,
    /// One in ten is longer.
    pub p90_ms: f64,
    /// One in a hundred is longer.
    pub p99_ms: f64,
    /// One in a thousand is longer.
    pub p999_ms: f64,
    /// The longest.
    pub max_ms: f64,
}
