//! Which tables answer a question. Rollups know an event's page or name and its minute, visits know everything about the
//! visit, uniques know who was seen with a page or an event: what crosses them is answered from raw events.

use proto::uplink::Kind;

use super::QueryError;
use super::period::{Buckets, Period};
use super::question::{Bucket, Dimension, Direction, ENTRY_PAGE, Filter, Key, Metric, Question};

/// A question with everything decided.
#[derive(Debug)]
pub(super) struct Plan {
    /// Its time dimension is resolved, its order complete.
    pub(super) question: Question,
    pub(super) period: Period,
    /// Of its time dimension.
    pub(super) buckets: Buckets,
    /// One to three; their rows are added up.
    pub(super) parts: Vec<Part>,
}

/// A table and the metrics it answers.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) source: Source,
    pub(super) metrics: Vec<Metric>,
    /// The question's, or what they are to this table.
    pub(super) dimensions: Vec<Dimension>,
    pub(super) filters: Vec<Filter>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Rollups(Kind),
    Uniques(Kind),
    Visits,
    /// Raw events, with the dimensions of their visits.
    Events,
    /// Visits, chosen by their raw events.
    VisitsByEvents,
}

impl Source {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Rollups(_) => "rollups",
            Self::Uniques(_) => "uniques",
            Self::Visits => "visits",
            Self::Events | Self::VisitsByEvents => "raw",
        }
    }

    /// Sketches estimate.
    pub(super) fn exact(self) -> bool {
        !matches!(self, Self::Uniques(_))
    }

    pub(super) fn is_raw(self) -> bool {
        matches!(self, Self::Events | Self::VisitsByEvents)
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

    /// What percentages are of: the visitors of the same question without its dimensions.
    pub(super) fn of_all_visitors(&self) -> Result<Self, QueryError> {
        let question = Question {
            metrics: vec![Metric::Visitors],
            dimensions: Vec::new(),
            order_by: Vec::new(),
            ..self.question.clone()
        };
        Self::of(question, self.period.clone())
    }

    pub(super) fn needs_raw(&self) -> bool {
        self.parts.iter().any(|part| part.source.is_raw())
    }
}

fn parts(question: &Question, bucket: Option<Bucket>) -> Result<Vec<Part>, QueryError> {
    let filtered = question.filters.iter().flat_map(Filter::dimensions);
    let used: Vec<&Dimension> = question.dimensions.iter().chain(filtered).collect();
    let of_events = used.iter().any(|dimension| dimension.is_of_events())
        || question.filters.iter().any(Filter::asks_what_was_done);
    let of_visits = used.iter().any(|dimension| matches!(dimension, Dimension::Visit(_)));
    match (of_events, of_visits) {
        (false, true) => Ok(vec![part(question, Source::Visits, question.metrics.clone())]),
        (false, false) => Ok(split(question, &question.metrics, Source::Rollups(Kind::Total), Source::Visits)),
        (true, _) => by_event(question, &used, bucket),
    }
}

/// Metrics of whole visits come from visits, everything else from rollups of the one thing asked for, or from raw events.
fn by_event(question: &Question, used: &[&Dimension], bucket: Option<Bucket>) -> Result<Vec<Part>, QueryError> {
    let (of_visits, of_events): (Vec<Metric>, Vec<Metric>) =
        question.metrics.iter().copied().partition(|metric| metric.is_of_visits());
    let mut parts = match rolled_up(question, used, &of_events, bucket) {
        Some(kind) => split(question, &of_events, Source::Rollups(kind), Source::Uniques(kind)),
        None if of_events.is_empty() => Vec::new(),
        None => vec![part(question, Source::Events, of_events)],
    };
    if let Some(metric) = of_visits.first() {
        parts.push(whole_visits(question, *metric, of_visits.clone())?);
    }
    Ok(parts)
}

/// The kind of rollup that knows all that is asked about events.
fn rolled_up(question: &Question, used: &[&Dimension], metrics: &[Metric], bucket: Option<Bucket>) -> Option<Kind> {
    let mut about = used.iter().filter(|dimension| !matches!(dimension, Dimension::Time(_)));
    let kind = match about.next()? {
        Dimension::Page => Kind::Page,
        Dimension::EventName => Kind::Event,
        _ => return None,
    };
    let first = used.iter().find(|dimension| !matches!(dimension, Dimension::Time(_)))?;
    let alone = about.all(|dimension| dimension == first);
    let done = question.filters.iter().any(Filter::asks_what_was_done);
    // Who was seen is known to the quarter of an hour; how many visits, not at all.
    let too_fine = bucket == Some(Bucket::Minute) && metrics.iter().any(|metric| is_of_visitors(*metric));
    (alone && !done && !too_fine && !metrics.contains(&Metric::Visits)).then_some(kind)
}

/// A bounce rate or duration by page is that of the visits that began there. Filters on events choose the visits that have
/// such an event.
fn whole_visits(question: &Question, metric: Metric, metrics: Vec<Metric>) -> Result<Part, QueryError> {
    let by_page = question.dimensions.contains(&Dimension::Page);
    if let Some(other) = question.dimensions.iter().find(|of| of.is_of_events() && **of != Dimension::Page) {
        return Err(QueryError::Invalid(format!(
            "{} by {} is not defined: a visit has many events; filter by {1}, or ask for visits",
            metric.name(),
            other.name()
        )));
    }
    let mut part = part(question, Source::Visits, metrics);
    if by_page {
        for dimension in part.dimensions.iter_mut().filter(|of| **of == Dimension::Page) {
            *dimension = Dimension::Visit(ENTRY_PAGE);
        }
        part.filters = part.filters.iter().map(Filter::of_entry_pages).collect();
    }
    if part.filters.iter().any(|filter| filter.is_of_events() || filter.asks_what_was_done()) {
        part.source = Source::VisitsByEvents;
    }
    Ok(part)
}

/// Pageviews and events from one source, everything else from another; a source that answers nothing is left out.
fn split(question: &Question, metrics: &[Metric], counts: Source, rest: Source) -> Vec<Part> {
    let is_count = |metric: &Metric| matches!(metric, Metric::Pageviews | Metric::Events);
    let (counted, other) = metrics.iter().copied().partition(is_count);
    let parts = [part(question, counts, counted), part(question, rest, other)];
    parts.into_iter().filter(|part| !part.metrics.is_empty()).collect()
}

fn part(question: &Question, source: Source, metrics: Vec<Metric>) -> Part {
    Part { source, metrics, dimensions: question.dimensions.clone(), filters: question.filters.clone() }
}

fn is_of_visitors(metric: Metric) -> bool {
    matches!(metric, Metric::Visitors | Metric::Percentage)
}
