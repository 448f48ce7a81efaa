//! A question after parsing: what it may contain, and the names of it.

use std::borrow::Cow;
use std::sync::Arc;

use jiff::{Timestamp, civil::Date};

/// What is asked.
#[derive(Debug, Clone)]
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
    /// Visitors in percent of those without dimensions.
    Percentage,
}

impl Metric {
    pub(super) const ALL: [Self; 8] = [
        Self::Visitors,
        Self::Visits,
        Self::Pageviews,
        Self::Events,
        Self::BounceRate,
        Self::VisitDuration,
        Self::ViewsPerVisit,
        Self::Percentage,
    ];

    /// Of whole visits: what a visit's single events cannot tell.
    pub(super) fn is_of_visits(self) -> bool {
        matches!(self, Self::BounceRate | Self::VisitDuration | Self::ViewsPerVisit)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Visitors => "visitors",
            Self::Visits => "visits",
            Self::Pageviews => "pageviews",
            Self::Events => "events",
            Self::BounceRate => "bounce_rate",
            Self::VisitDuration => "visit_duration",
            Self::ViewsPerVisit => "views_per_visit",
            Self::Percentage => "percentage",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Dimension {
    /// `None`: the period chooses.
    Time(Option<Bucket>),
    Page,
    EventName,
    Hostname,
    /// An event's property, by its key.
    Property(Arc<str>),
    Visit(VisitDimension),
}

/// How the name of a property's dimension begins; its key follows.
pub(super) const PROPERTY: &str = "event:props:";

impl Dimension {
    pub(super) fn name(&self) -> Cow<'static, str> {
        match self {
            Self::Time(None) => "time".into(),
            Self::Time(Some(bucket)) => bucket.name().into(),
            Self::Page => "event:page".into(),
            Self::EventName => "event:name".into(),
            Self::Hostname => "event:hostname".into(),
            Self::Property(key) => format!("{PROPERTY}{key}").into(),
            Self::Visit(dimension) => dimension.name.into(),
        }
    }

    /// Whether it is of single events.
    pub(super) fn is_of_events(&self) -> bool {
        matches!(self, Self::Page | Self::EventName | Self::Hostname | Self::Property(_))
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
    ENTRY_PAGE,
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

/// What a page is to the metrics of visits.
pub(super) const ENTRY_PAGE: VisitDimension = of_visit("visit:entry_page", "entry_page", "(not set)");

const fn of_visit(name: &'static str, column: &'static str, empty: &'static str) -> VisitDimension {
    VisitDimension { name, column, empty }
}

#[derive(Debug, Clone)]
pub(super) enum Filter {
    Match(Match),
    All(Vec<Filter>),
    Any(Vec<Filter>),
    Not(Box<Filter>),
    /// Some event of the visit passes it.
    Done(Box<Filter>),
}

impl Filter {
    /// The dimensions it looks at.
    pub(super) fn dimensions(&self) -> Vec<&Dimension> {
        match self {
            Self::Match(of) => vec![&of.dimension],
            Self::All(filters) | Self::Any(filters) => filters.iter().flat_map(Self::dimensions).collect(),
            Self::Not(filter) | Self::Done(filter) => filter.dimensions(),
        }
    }

    /// Whether it asks what else happened in a visit.
    pub(super) fn asks_what_was_done(&self) -> bool {
        match self {
            Self::Match(_) => false,
            Self::All(filters) | Self::Any(filters) => filters.iter().any(Self::asks_what_was_done),
            Self::Not(filter) => filter.asks_what_was_done(),
            Self::Done(_) => true,
        }
    }

    /// Whether it can be true of one event of a visit and false of another.
    pub(super) fn is_of_events(&self) -> bool {
        match self {
            Self::Match(of) => of.dimension.is_of_events(),
            Self::All(filters) | Self::Any(filters) => filters.iter().any(Self::is_of_events),
            Self::Not(filter) => filter.is_of_events(),
            Self::Done(_) => false,
        }
    }

    /// The same with each page an entry page.
    pub(super) fn of_entry_pages(&self) -> Self {
        match self {
            Self::Match(of) if of.dimension == Dimension::Page => {
                Self::Match(Match { dimension: Dimension::Visit(ENTRY_PAGE), ..of.clone() })
            }
            Self::Match(_) | Self::Done(_) => self.clone(),
            Self::All(filters) => Self::All(filters.iter().map(Self::of_entry_pages).collect()),
            Self::Any(filters) => Self::Any(filters.iter().map(Self::of_entry_pages).collect()),
            Self::Not(filter) => Self::Not(Box::new(filter.of_entry_pages())),
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

#[derive(Debug, Clone, Default)]
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
