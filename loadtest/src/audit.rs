//! What was acknowledged against what central counts.

pub mod batches;

use std::{collections::BTreeMap, time::Duration};

use reqwest::Url;
use serde::{Serialize, Serializer};
use tokio::time::Instant;

use crate::{
    scenario::Scenario,
    stats_api::{Counts, StatsApi, StatsApiError},
    tally::{Batches, Due, Events, Sums},
};

/// Between two looks at the counts.
const POLL: Duration = Duration::from_secs(1);
/// Visits end after half an hour without an event. Gaps of a Poisson process are longer than 30 times their mean once in
/// 10^13, so up to this mean gap each agent makes exactly one visit.
const VISIT_GAP_MAX: Duration = Duration::from_secs(60);

/// The outcome. Everything is the difference between two looks: before the first event and after the last.
#[derive(Debug, Clone, Serialize)]
pub struct Audit {
    /// Events handed to agents.
    pub sent: u64,
    /// Events in acknowledged batches.
    pub acknowledged: u64,
    /// Events that central counts.
    pub counted: u64,
    /// Events finally refused or given up, with a reason.
    pub dropped: u64,
    /// `sent − counted − dropped`: 0, or something was lost (above 0) or counted twice (below 0).
    pub difference: i64,
    /// Neither acknowledged nor dropped when the run ended.
    pub unacknowledged: u64,
    /// The same for pageviews alone.
    pub pageviews: Line,
    /// The same for custom events alone.
    pub custom_events: Line,
    /// The same for each page that was viewed: its pageviews.
    pub pages: BTreeMap<String, Line>,
    /// The same for each name of an event, `pageview` among them.
    pub event_names: BTreeMap<String, Line>,
    /// One an agent of which something was acknowledged. Absent where gaps between events may end a visit.
    pub visits: Option<Line>,
    /// One an agent of which something was acknowledged.
    pub visitors: Line,
    /// The same for each acknowledged batch, if that was asked for.
    pub batches: Option<batches::BatchAudit>,
    /// From the end of the load until the counts were right, seconds; absent if they never were.
    pub right_after_s: Option<f64>,
}

/// One comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Line {
    /// What should be counted.
    pub expected: u64,
    /// What is counted.
    pub counted: u64,
    /// `expected − counted`.
    pub difference: i64,
}

impl Line {
    fn new(expected: u64, counted: u64) -> Self {
        Self { expected, counted, difference: expected as i64 - counted as i64 }
    }
}

/// Why a run does not pass.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum Fault {
    /// Central counts something else than was sent and not dropped.
    #[error("the counts are wrong")]
    WrongCounts,
    /// Central does not list what was acknowledged.
    #[error(
        "of the acknowledged batches {missing} are missing, {different} have other events, and {repeated} are listed twice"
    )]
    WrongBatches {
        /// Not listed.
        missing: u64,
        /// Listed with other events.
        different: u64,
        /// Listed more than once.
        repeated: u64,
    },
    /// The ledger and the reports tell two stories.
    #[error("the ledger has {ledger} counted events, the reports {reports}")]
    WrongLedger {
        /// By the ledger.
        ledger: u64,
        /// By the reports.
        reports: u64,
    },
    /// Then right counts prove nothing.
    #[error("nothing was acknowledged")]
    NothingAcknowledged,
    /// More than the scenario allows.
    #[error("{dropped} of {sent} events were dropped, and dropped_share_max is {share_max}")]
    Dropped {
        /// Events dropped.
        dropped: u64,
        /// Events sent.
        sent: u64,
        /// What the scenario allows.
        share_max: f64,
    },
    /// An agent is broken.
    #[error("{0} transmissions changed the bytes of their batch")]
    AlteredBatches(u64),
    /// An agent or a gateway is broken.
    #[error("{0} answers were unreadable or for nothing that was sent")]
    UnknownAnswers(u64),
}

impl Serialize for Fault {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What a run expects to find counted.
#[derive(Debug, Clone)]
pub struct Expected {
    sent: Events,
    acknowledged: Events,
    dropped: Events,
    /// Pageviews by page, as central names it.
    pages: BTreeMap<String, u64>,
    /// Events by name.
    names: BTreeMap<String, u64>,
    agents: u64,
    one_visit_each: bool,
}

impl Expected {
    /// From what the agents know.
    pub fn of(sums: &Sums, scenario: &Scenario) -> Self {
        let Due { pages, names } = &sums.due;
        Self {
            sent: sums.sent,
            acknowledged: sums.acknowledged,
            dropped: sums.dropped,
            pages: by_path(pages),
            names: names.clone(),
            agents: sums.agents_acknowledged,
            one_visit_each: scenario.gap() <= VISIT_GAP_MAX,
        }
    }

    /// The comparison with what central counted before and counts now.
    pub fn against(&self, before: &Counts, now: &Counts) -> Audit {
        let since = |now: u64, before: u64| now.saturating_sub(before);
        let pageviews = since(now.pageviews, before.pageviews);
        let counted = since(now.events, before.events);
        let due = |sent: u64, dropped: u64| sent.saturating_sub(dropped);
        Audit {
            sent: self.sent.all(),
            acknowledged: self.acknowledged.all(),
            counted,
            dropped: self.dropped.all(),
            difference: self.sent.all() as i64 - counted as i64 - self.dropped.all() as i64,
            unacknowledged: due(self.sent.all(), self.dropped.all() + self.acknowledged.all()),
            pageviews: Line::new(due(self.sent.pageviews, self.dropped.pageviews), pageviews),
            custom_events: Line::new(due(self.sent.custom, self.dropped.custom), counted.saturating_sub(pageviews)),
            pages: lines(&self.pages, &before.pages, &now.pages),
            event_names: lines(&self.names, &before.names, &now.names),
            visits: self.one_visit_each.then(|| Line::new(self.agents, since(now.visits, before.visits))),
            visitors: Line::new(self.agents, since(now.visitors, before.visitors)),
            batches: None,
            right_after_s: None,
        }
    }
}

/// By what central counts as the page: the URL's path as the standard writes it.
fn by_path(urls: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let mut pages = BTreeMap::new();
    for (url, count) in urls {
        let page = Url::parse(url).map_or_else(|_| url.clone(), |url| url.path().to_owned());
        *pages.entry(page).or_default() += count;
    }
    pages
}

/// A line for each key that something is expected of, and for each that something was counted of since.
fn lines(
    expected: &BTreeMap<String, u64>,
    before: &BTreeMap<String, u64>,
    now: &BTreeMap<String, u64>,
) -> BTreeMap<String, Line> {
    let of = |counts: &BTreeMap<String, u64>, key: &String| counts.get(key).copied().unwrap_or(0);
    let line = |key: &String| Line::new(of(expected, key), of(now, key).saturating_sub(of(before, key)));
    let all = expected.keys().chain(now.keys()).map(|key| (key.clone(), line(key)));
    all.filter(|(_, line)| line.expected > 0 || line.counted > 0).collect()
}

impl Audit {
    /// Whether every count is what it should be.
    pub fn counts_are_right(&self) -> bool {
        let totals = [Some(self.pageviews), Some(self.custom_events), self.visits, Some(self.visitors)];
        let mut lines = totals.iter().flatten().chain(self.pages.values()).chain(self.event_names.values());
        self.difference == 0 && lines.all(|line| line.difference == 0)
    }

    /// All that is wrong with the run: right counts alone do not prove that it did what it was to do.
    pub fn faults(&self, batches: &Batches, dropped_share_max: f64) -> Vec<Fault> {
        let &Self { sent, acknowledged, counted, dropped, .. } = self;
        let ledger = self.batches.as_ref().map(|batches| batches.ledger.counted);
        let batch_audit = self.batches.clone().unwrap_or_default();
        let batches::BatchAudit { missing, different, repeated, .. } = batch_audit;
        let share = dropped as f64 / sent.max(1) as f64;
        let checks = [
            (!self.counts_are_right(), Fault::WrongCounts),
            (!batch_audit.is_right(), Fault::WrongBatches { missing, different, repeated }),
            (
                ledger.is_some_and(|ledger| ledger != counted),
                Fault::WrongLedger { ledger: ledger.unwrap_or(0), reports: counted },
            ),
            (acknowledged == 0, Fault::NothingAcknowledged),
            (share > dropped_share_max, Fault::Dropped { dropped, sent, share_max: dropped_share_max }),
            (batches.altered > 0, Fault::AlteredBatches(batches.altered)),
            (batches.unknown_answers > 0, Fault::UnknownAnswers(batches.unknown_answers)),
        ];
        checks.into_iter().filter_map(|(wrong, fault)| wrong.then_some(fault)).collect()
    }
}

/// The counts before a run. If the site was busy a moment ago, they are taken once they stand still for `settle`: what
/// is counted late belongs to whoever sent it, not to this run.
pub async fn before(api: &StatsApi, settle: Duration) -> Result<Counts, StatsApiError> {
    /// A site that never stands still cannot be audited, but its run may still be of use.
    const LOOKS_MAX: u32 = 3;

    let mut counts = api.counts().await?;
    if api.current_visitors().await? == 0 {
        return Ok(counts);
    }
    eprintln!("the site was busy a moment ago: the load begins once its counts stand still for {} s", settle.as_secs());
    for _ in 0..LOOKS_MAX {
        tokio::time::sleep(settle).await;
        let again = api.counts().await?;
        if again == counts {
            return Ok(again);
        }
        counts = again;
    }
    tracing::warn!("the site has other visitors: the audit will count them as a difference");
    Ok(counts)
}

/// Looks until the counts are right and stay so for `settle`, or until `limit` has passed; then says what they are.
pub async fn after(
    api: &StatsApi,
    expected: &Expected,
    before: &Counts,
    limit: Duration,
    settle: Duration,
) -> Result<Audit, StatsApiError> {
    let begin = Instant::now();
    let mut right_since: Option<Instant> = None;
    loop {
        // One failed look is not the end: central may be restarting.
        let looked = api.counts().await;
        let late = begin.elapsed() >= limit;
        match looked {
            Err(error) if late => return Err(error),
            Err(error) => tracing::warn!(%error, "central did not answer, asking again"),
            Ok(now) => {
                let audit = expected.against(before, &now);
                if !audit.counts_are_right() {
                    right_since = None;
                    if late {
                        return Ok(audit);
                    }
                } else if right_since.get_or_insert_with(Instant::now).elapsed() >= settle {
                    let right_after = right_since.map(|right| (right - begin).as_secs_f64());
                    return Ok(Audit { right_after_s: right_after, ..audit });
                }
            }
        }
        tokio::time::sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests;
