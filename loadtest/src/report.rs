//! What a run says at its end: a table for people, JSON for programs.

use std::{collections::BTreeMap, fmt, time::Duration};

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::{
    audit::{Audit, Fault, Line, batches::BatchAudit},
    stats_api::Ledger,
    tally::{Batches, Bytes, Connections, Summary, Sums},
};

/// The outcome of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The scenario's file.
    pub scenario: String,
    /// The site that was visited.
    pub site: String,
    /// Whether no fault was found.
    pub passed: bool,
    /// What was wrong.
    pub faults: Vec<Fault>,
    /// Ended before its time, by a signal.
    pub interrupted: bool,
    /// What was acknowledged against what is counted.
    pub audit: Audit,
    /// Agents.
    pub agents: Agents,
    /// Over the time in which events were made.
    pub throughput: Throughput,
    /// From an event's intended time to its acknowledgement: includes the wait of an open batch for more events.
    pub latency: Summary,
    /// From a batch's first transmission to its acknowledgement.
    pub answer: Summary,
    /// From an event's intended time to its agent: how late the load itself was.
    pub lateness: Summary,
    /// Connections.
    pub connections: Connections,
    /// Batches.
    pub batches: Batches,
    /// Bytes on the WebSocket.
    pub bytes: BytesReport,
    /// Events dropped, by reason.
    pub dropped: BTreeMap<String, u64>,
}

/// Agents of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Agents {
    /// Asked for.
    pub started: u32,
    /// Of which something was acknowledged.
    pub acknowledged: u64,
    /// That ended with an answer to everything.
    pub settled: u64,
}

/// Events and batches a second.
#[derive(Debug, Clone, Serialize)]
pub struct Throughput {
    /// How long events were made, seconds.
    pub duration_s: f64,
    /// Events sent a second.
    pub sent_per_s: f64,
    /// Events acknowledged a second.
    pub acknowledged_per_s: f64,
    /// Batches acknowledged a second.
    pub batches_per_s: f64,
}

/// Bytes of a run.
#[derive(Debug, Clone, Serialize)]
pub struct BytesReport {
    /// Both directions.
    #[serde(flatten)]
    pub total: Bytes,
    /// What an event costs its page, resends included.
    pub sent_per_event: f64,
}

impl Report {
    /// Puts together what the agents know and what the audit found.
    pub fn new(sums: &Sums, audit: Audit, dropped_share_max: f64, run: Run) -> Self {
        let faults = audit.faults(&sums.batches, dropped_share_max);
        let seconds = run.duration.as_secs_f64();
        let per_s = |count: u64| rounded(count as f64 / seconds.max(0.001));
        Self {
            scenario: run.scenario,
            site: run.site,
            passed: faults.is_empty(),
            faults,
            interrupted: run.interrupted,
            audit,
            agents: Agents {
                started: run.agents,
                acknowledged: sums.agents_acknowledged,
                settled: sums.agents_settled,
            },
            throughput: Throughput {
                duration_s: rounded(seconds),
                sent_per_s: per_s(sums.sent.all()),
                acknowledged_per_s: per_s(sums.acknowledged.all()),
                batches_per_s: per_s(sums.batches.acknowledged),
            },
            latency: sums.latency.summary(),
            answer: sums.answer.summary(),
            lateness: sums.lateness.summary(),
            connections: sums.connections.clone(),
            batches: sums.batches.clone(),
            bytes: BytesReport {
                total: sums.bytes.clone(),
                sent_per_event: rounded(sums.bytes.sent as f64 / sums.sent.all().max(1) as f64),
            },
            dropped: sums.reasons.clone(),
        }
    }
}

/// What a report says of the run itself.
pub struct Run {
    /// The scenario's file.
    pub scenario: String,
    /// The site.
    pub site: String,
    /// Agents started.
    pub agents: u32,
    /// How long events were made.
    pub duration: Duration,
    /// Whether a signal ended it.
    pub interrupted: bool,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", self.figures())?;
        writeln!(f, "{}\n", self.latencies())?;
        writeln!(f, "{}", self.comparison())?;
        for (reason, events) in &self.dropped {
            writeln!(f, "dropped: {events} events, {reason}")?;
        }
        if let Some(batches) = &self.audit.batches {
            let BatchAudit { acknowledged, listed, ledger, examples, .. } = batches;
            let Ledger { counted, dropped, given_up, duplicates } = ledger;
            writeln!(f, "batches: {acknowledged} acknowledged, {listed} listed")?;
            writeln!(
                f,
                "ledger: {counted} counted, {dropped} dropped, {given_up} given up, {duplicates} duplicates suppressed"
            )?;
            for example in examples {
                writeln!(f, "batch {example} is not as it was acknowledged")?;
            }
        }
        for fault in &self.faults {
            writeln!(f, "FAULT: {fault}")?;
        }
        f.write_str(&self.verdict())
    }
}

impl Report {
    fn figures(&self) -> Table {
        let mut table = table(["", "per second", "in all"]);
        let Throughput { sent_per_s, acknowledged_per_s, batches_per_s, .. } = self.throughput;
        let mut row = |name: &str, per_s: String, all: String| {
            table.add_row([name.to_owned(), per_s, all]);
        };
        row("events sent", sent_per_s.to_string(), self.audit.sent.to_string());
        row("events acknowledged", acknowledged_per_s.to_string(), self.audit.acknowledged.to_string());
        row("batches acknowledged", batches_per_s.to_string(), self.batches.acknowledged.to_string());
        let resent = self.batches.transmissions - self.batches.numbered.min(self.batches.transmissions);
        row("batches resent", String::new(), resent.to_string());
        row("reconnects", String::new(), self.connections.reconnects.to_string());
        row("bytes sent per event", String::new(), self.bytes.sent_per_event.to_string());
        align_right(table)
    }

    fn latencies(&self) -> Table {
        let mut table = table(["milliseconds", "p50", "p90", "p99", "p99.9", "max"]);
        for (name, summary) in [
            ("intended time to acknowledgement", &self.latency),
            ("first transmission to acknowledgement", &self.answer),
            ("lateness of the load itself", &self.lateness),
        ] {
            let Summary { p50_ms, p90_ms, p99_ms, p999_ms, max_ms, .. } = summary;
            let cells = [p50_ms, p90_ms, p99_ms, p999_ms, max_ms].map(|ms| format!("{ms:.1}"));
            table.add_row([vec![name.to_owned()], cells.to_vec()].concat());
        }
        align_right(table)
    }

    fn comparison(&self) -> Table {
        let mut table = table(["audit", "expected", "counted", "difference"]);
        let lines = [
            ("pageviews", Some(self.audit.pageviews)),
            ("custom events", Some(self.audit.custom_events)),
            ("visits", self.audit.visits),
            ("visitors", Some(self.audit.visitors)),
        ];
        let whole = lines.into_iter().filter_map(|(name, line)| Some((name.to_owned(), line?)));
        let wrong = |(_, line): &(&String, &Line)| line.difference != 0;
        let pages = self.audit.pages.iter().filter(wrong).map(|(page, line)| (format!("pageviews of {page}"), *line));
        let names = self.audit.event_names.iter().filter(wrong).map(|(name, line)| (format!("events {name}"), *line));
        for (name, line) in whole.chain(pages).chain(names) {
            table.add_row([name, line.expected.to_string(), line.counted.to_string(), line.difference.to_string()]);
        }
        align_right(table)
    }

    fn verdict(&self) -> String {
        let Audit { sent, counted, dropped, difference, unacknowledged, .. } = self.audit;
        let sum = format!("sent {sent} = counted {counted} + dropped {dropped} + difference {difference}");
        match (self.passed, unacknowledged) {
            (true, 0) => format!("{sum}: every event is accounted for."),
            (true, _) => format!("{sum}: every event is accounted for, though {unacknowledged} were not acknowledged."),
            (false, 0) => format!("{sum}: THE RUN FAILED."),
            (false, _) => format!("{sum}: THE RUN FAILED. {unacknowledged} events were not acknowledged."),
        }
    }
}

fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header(header);
    table
}

fn align_right(mut table: Table) -> Table {
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn rounded(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}
