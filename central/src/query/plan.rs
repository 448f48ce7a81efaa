//! Which tables answer a question. Rollups know an event's page or name and its minute, visits know everything about the
//! visit, uniques know who was seen with a page or an event: what crosses them needs raw events.

use proto::uplink::Kind;

use super::QueryError;
use super::period::{Buckets, Period};
use super::question::{Bucket, Dimension, Direction, Key, Metric, Question};

/// A question with everything decided.
#[derive(Debug)]
pub(super) struct Plan {
    /// Its time dimension is resolved, its order complete.
    pub(super) question: Question,
    pub(super) period: Period,
    /// Of its time dimension.
    pub(super) buckets: Buckets,
    /// One or two; their rows are added up.
    pub(super) parts: Vec<Part>,
}

/// A table and the metrics it answers.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) source: Source,
    pub(super) metrics: Vec<Metric>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Rollups(Kind),
    Uniques(Kind),
    Visits,
}

impl Source {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Rollups(_) => "rollups",
            Self::Uniques(_) => "uniques",
            Self::Visits => "visits",
        }
    }

    /// Sketches estimate.
    pub(super) fn exact(self) -> bool {
        !matches!(self, Self::Uniques(_))
    }
}

impl Plan {
    pub(super) fn of(mut question: Question, period: Period) -> Result<Self, QueryError> {
        let mut buckets = Buckets::default();
        let mut bucket = None;
        for dimension in &mut question.dimensions {
            if let Dimension::Time(asked) = dimension {
                let resolved = asked.unwrap_or_else(|| period.natural_bucket());
                buckets = period.buckets(resolved)?;
                (*asked, bucket) = (Some(resolved), Some(resolved));
            }
        }
        if question.order_by.is_empty() {
            let time = question.dimensions.iter().position(|dimension| matches!(dimension, Dimension::Time(_)));
            let default = (Key::Metric(0), Direction::Descending);
            question.order_by.push(time.map_or(default, |at| (Key::Dimension(at), Direction::Ascending)));
        }
        let parts = parts(&question, bucket)?;
        Ok(Self { question, period, buckets, parts })
    }
}

fn parts(question: &Question, bucket: Option<Bucket>) -> Result<Vec<Part>, QueryError> {
    let filtered = question.filters.iter().flat_map(|filter| filter.dimensions());
    let used: Vec<Dimension> = question.dimensions.iter().copied().chain(filtered).collect();
    let first = |wanted: fn(&Dimension) -> bool| used.iter().copied().find(wanted);
    let visit = first(|dimension| matches!(dimension, Dimension::Visit(_)));
    let page = first(|dimension| *dimension == Dimension::Page);
    let name = first(|dimension| *dimension == Dimension::EventName);
    match (visit, page, name) {
        (Some(visit), Some(event), _) | (Some(visit), _, Some(event)) => Err(crossed(visit.name(), event.name())),
        (_, Some(page), Some(name)) => Err(crossed(page.name(), name.name())),
        (Some(_), None, None) => Ok(vec![Part { source: Source::Visits, metrics: question.metrics.clone() }]),
        (None, Some(page), None) => by_event(question, page, Kind::Page, bucket),
        (None, None, Some(name)) => by_event(question, name, Kind::Event, bucket),
        (None, None, None) => Ok(split(question, Source::Rollups(Kind::Total), Source::Visits)),
    }
}

fn by_event(
    question: &Question,
    dimension: Dimension,
    kind: Kind,
    bucket: Option<Bucket>,
) -> Result<Vec<Part>, QueryError> {
    let of_events = [Metric::Visitors, Metric::Pageviews, Metric::Events];
    if let Some(metric) = question.metrics.iter().find(|metric| !of_events.contains(metric)) {
        return Err(QueryError::NeedsRaw(format!(
            "{} by {} needs raw events, which are not kept yet; {} answers visitors, pageviews and events, and \
             visit:entry_page answers {}",
            metric.name(),
            dimension.name(),
            dimension.name(),
            metric.name()
        )));
    }
    if bucket == Some(Bucket::Minute) && question.metrics.contains(&Metric::Visitors) {
        return Err(QueryError::NeedsRaw(format!(
            "visitors by {} and minute needs raw events, which are not kept yet; time:hour is answered",
            dimension.name()
        )));
    }
    Ok(split(question, Source::Rollups(kind), Source::Uniques(kind)))
}

/// Pageviews and events from one source, everything else from another; a source that answers nothing is left out.
fn split(question: &Question, counts: Source, rest: Source) -> Vec<Part> {
    let is_count = |metric: &Metric| matches!(metric, Metric::Pageviews | Metric::Events);
    let (counted, other) = question.metrics.iter().copied().partition(is_count);
    let parts = [Part { source: counts, metrics: counted }, Part { source: rest, metrics: other }];
    parts.into_iter().filter(|part| !part.metrics.is_empty()).collect()
}

fn crossed(one: &str, other: &str) -> QueryError {
    QueryError::NeedsRaw(format!(
        "{one} together with {other} needs raw events, which are not kept yet; ask for one of them at a time"
    ))
}
