//! What was acknowledged against what central counts.

use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::{
    scenario::Scenario,
    stats_api::{Counts, StatsApi, StatsApiError},
    tally::{Events, Sums},
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
    /// One an agent of which something was acknowledged. Absent where gaps between events may end a visit.
    pub visits: Option<Line>,
    /// One an agent of which something was acknowledged.
    pub visitors: Line,
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

/// What a run expects to find counted.
#[derive(Debug, Clone, Copy)]
pub struct Expected {
    sent: Events,
    acknowledged: Events,
    dropped: Events,
    agents: u64,
    one_visit_each: bool,
}

impl Expected {
    /// From what the agents know.
    pub fn of(sums: &Sums, scenario: &Scenario) -> Self {
        Self {
            sent: sums.sent,
            acknowledged: sums.acknowledged,
            dropped: sums.dropped,
            agents: sums.agents_acknowledged,
            one_visit_each: scenario.gap() <= VISIT_GAP_MAX,
        }
    }

    /// The comparison with what central counted before and counts now.
    pub fn against(&self, before: Counts, now: Counts) -> Audit {
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
            visits: self.one_visit_each.then(|| Line::new(self.agents, since(now.visits, before.visits))),
            visitors: Line::new(self.agents, since(now.visitors, before.visitors)),
            right_after_s: None,
        }
    }
}

impl Audit {
    /// Whether every count is what it should be.
    pub fn passed(&self) -> bool {
        self.difference == 0
            && self.pageviews.difference == 0
            && self.custom_events.difference == 0
            && self.visits.is_none_or(|line| line.difference == 0)
            && self.visitors.difference == 0
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
    expected: Expected,
    before: Counts,
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
                let audit = expected.against(before, now);
                if !audit.passed() {
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn expected(sent: Events, acknowledged: Events, dropped: Events, agents: u64) -> Expected {
        Expected { sent, acknowledged, dropped, agents, one_visit_each: true }
    }

    fn events(pageviews: u64, custom: u64) -> Events {
        Events { pageviews, custom }
    }

    const BEFORE: Counts = Counts { pageviews: 100, events: 130, visits: 10, visitors: 9 };

    fn grown(pageviews: u64, custom: u64, visits: u64) -> Counts {
        Counts {
            pageviews: BEFORE.pageviews + pageviews,
            events: BEFORE.events + pageviews + custom,
            visits: BEFORE.visits + visits,
            visitors: BEFORE.visitors + visits,
        }
    }

    #[test]
    fn everything_acknowledged_and_counted_is_no_difference() {
        let audit = expected(events(8, 3), events(8, 2), events(0, 1), 2).against(BEFORE, grown(8, 2, 2));
        assert!(audit.passed());
        assert_eq!(
            (audit.sent, audit.acknowledged, audit.counted, audit.dropped, audit.difference),
            (11, 10, 10, 1, 0)
        );
        assert_eq!(audit.unacknowledged, 0);
    }

    #[test]
    fn a_lost_event_is_above_zero_and_a_doubled_one_below() {
        let expected = expected(events(8, 2), events(8, 2), events(0, 0), 2);
        assert_eq!(expected.against(BEFORE, grown(7, 2, 2)).difference, 1);
        assert_eq!(expected.against(BEFORE, grown(8, 3, 2)).difference, -1);
    }

    #[test]
    fn a_pageview_counted_as_an_event_does_not_pass() {
        let audit = expected(events(8, 2), events(8, 2), events(0, 0), 2).against(BEFORE, grown(7, 3, 2));
        assert_eq!(audit.difference, 0);
        assert_eq!((audit.pageviews.difference, audit.custom_events.difference), (1, -1));
        assert!(!audit.passed());
    }

    #[test]
    fn an_event_without_an_answer_is_no_difference_only_if_it_is_counted() {
        let expected = expected(events(8, 2), events(7, 2), events(0, 0), 2);
        assert!(expected.against(BEFORE, grown(8, 2, 2)).passed());
        let lost = expected.against(BEFORE, grown(7, 2, 2));
        assert_eq!((lost.difference, lost.unacknowledged), (1, 1));
    }

    #[test]
    fn a_visit_too_many_does_not_pass() {
        let audit = expected(events(8, 2), events(8, 2), events(0, 0), 2).against(BEFORE, grown(8, 2, 3));
        assert_eq!(audit.visits.unwrap().difference, -1);
        assert!(!audit.passed());
    }

    proptest! {
        #[test]
        fn it_passes_exactly_when_what_is_due_is_counted(
            sent_views in 0u64..1000, sent_custom in 0u64..1000, views in 0u64..1000, custom in 0u64..1000,
        ) {
            let sent = events(sent_views, sent_custom);
            let audit = expected(sent, sent, events(0, 0), 1).against(BEFORE, grown(views, custom, 1));
            prop_assert_eq!(audit.passed(), (views, custom) == (sent_views, sent_custom));
            prop_assert_eq!(audit.difference, (sent_views + sent_custom) as i64 - (views + custom) as i64);
        }
    }
}
