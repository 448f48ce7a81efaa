//! A question after parsing: what it may contain, and the names of it.

use jiff::{Timestamp, civil::Date};

/// What is asked.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) metrics: Vec<Metric>,
    pub(super) dates: Dates,
    pub(super) dimensions: Vec<Dimension>,
    /// All of them hold.
    pub(super) filters: Vec<Filter>,
    /// Empty: the default order.
    pub(super) order_by: Vec<(Key, Direction)>,
    pub(super) include: Include,
    pub(super) pagination: Pagination,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Metric {
    Visitors,
    Visits,
    Pageviews,
    /// Pageviews and custom events.
    Events,
    BounceRate,
    VisitDuration,
    ViewsPerVisit,
}

impl Metric {
    pub(super) const ALL: [Self; 7] = [
        Self::Visitors,
        Self::Visits,
        Self::Pageviews,
        Self::Events,
        Self::BounceRate,
        Self::VisitDuration,
        Self::ViewsPerVisit,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Visitors => "visitors",
            Self::Visits => "visits",
            Self::Pageviews => "pageviews",
            Self::Events => "events",
            Self::BounceRate => "bounce_rate",
            Self::VisitDuration => "visit_duration",
            Self::ViewsPerVisit => "views_per_visit",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dimension {
    /// `None`: the period chooses.
    Time(Option<Bucket>),
    Page,
    EventName,
    Visit(VisitDimension),
}

impl Dimension {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Time(None) => "time",
            Self::Time(Some(bucket)) => bucket.name(),
            Self::Page => "event:page",
            Self::EventName => "event:name",
            Self::Visit(dimension) => dimension.name,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bucket {
    Minute,
    Hour,
    Day,
    Week,
    Month,
}

impl Bucket {
    pub(super) const ALL: [Self; 5] = [Self::Minute, Self::Hour, Self::Day, Self::Week, Self::Month];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Minute => "time:minute",
            Self::Hour => "time:hour",
            Self::Day => "time:day",
            Self::Week => "time:week",
            Self::Month => "time:month",
        }
    }
}

/// A property of a visit: its name in questions, its column, and how its absence is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct VisitDimension {
    pub(super) name: &'static str,
    pub(super) column: &'static str,
    pub(super) empty: &'static str,
}

pub(super) const VISIT_DIMENSIONS: [VisitDimension; 19] = [
    of_visit("visit:source", "source", "Direct / None"),
    of_visit("visit:channel", "channel", "(not set)"),
    of_visit("visit:referrer", "referrer", "Direct / None"),
    of_visit("visit:utm_source", "utm_source", "(not set)"),
    of_visit("visit:utm_medium", "utm_medium", "(not set)"),
    of_visit("visit:utm_campaign", "utm_campaign", "(not set)"),
    of_visit("visit:utm_content", "utm_content", "(not set)"),
    of_visit("visit:utm_term", "utm_term", "(not set)"),
    of_visit("visit:entry_page", "entry_page", "(not set)"),
    of_visit("visit:exit_page", "exit_page", "(not set)"),
    of_visit("visit:country", "country", "(not set)"),
    of_visit("visit:region", "region", "(not set)"),
    of_visit("visit:city", "city", "(not set)"),
    of_visit("visit:browser", "browser", "(not set)"),
    of_visit("visit:browser_version", "browser_version", "(not set)"),
    of_visit("visit:os", "os", "(not set)"),
    of_visit("visit:os_version", "os_version", "(not set)"),
    of_visit("visit:device", "device", "(not set)"),
    of_visit("visit:screen", "screen", "(not set)"),
];

const fn of_visit(name: &'static str, column: &'static str, empty: &'static str) -> VisitDimension {
    VisitDimension { name, column, empty }
}

#[derive(Debug, Clone)]
pub(super) enum Filter {
    Match(Match),
    All(Vec<Filter>),
    Any(Vec<Filter>),
    Not(Box<Filter>),
}

impl Filter {
    /// The dimensions it looks at.
    pub(super) fn dimensions(&self) -> Vec<Dimension> {
        match self {
            Self::Match(of) => vec![of.dimension],
            Self::All(filters) | Self::Any(filters) => filters.iter().flat_map(Self::dimensions).collect(),
            Self::Not(filter) => filter.dimensions(),
        }
    }
}

/// A dimension compared with values: it holds if any of them does, or, negated, if none does.
#[derive(Debug, Clone)]
pub(super) struct Match {
    pub(super) dimension: Dimension,
    pub(super) operator: Operator,
    pub(super) negated: bool,
    pub(super) values: Vec<String>,
    pub(super) case_sensitive: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Is,
    Contains,
    Matches,
}

impl Operator {
    /// The name in questions, plain and negated.
    pub(super) fn names(self) -> [&'static str; 2] {
        match self {
            Self::Is => ["is", "is_not"],
            Self::Contains => ["contains", "contains_not"],
            Self::Matches => ["matches", "matches_not"],
        }
    }
}

/// What results are ordered by: a place in `metrics` or in `dimensions`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Metric(usize),
    Dimension(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Ascending,
    Descending,
}

impl Direction {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ascending => "asc",
            Self::Descending => "desc",
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Include {
    pub(super) time_labels: bool,
    pub(super) total_rows: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Pagination {
    pub(super) limit: u64,
    pub(super) offset: u64,
}

/// The dates as they were asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dates {
    Named(Named),
    /// Both included.
    Days(Date, Date),
    /// Both included, to the second.
    Instants(Timestamp, Timestamp),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Named {
    Day,
    Last24Hours,
    /// Today and the days before it, so many together.
    LastDays(i32),
    Month,
    /// This month and the months before it, so many together.
    LastMonths(i32),
    Year,
    All,
}

pub(super) const NAMED: [(&str, Named); 11] = [
    ("day", Named::Day),
    ("24h", Named::Last24Hours),
    ("7d", Named::LastDays(7)),
    ("28d", Named::LastDays(28)),
    ("30d", Named::LastDays(30)),
    ("91d", Named::LastDays(91)),
    ("month", Named::Month),
    ("6mo", Named::LastMonths(6)),
    ("12mo", Named::LastMonths(12)),
    ("year", Named::Year),
    ("all", Named::All),
];
