//! One statement for a plan: each part is a sub-select that yields the dimensions and the sums that metrics are made of;
//! they are united, added up by dimension, ordered and cut to the page asked for.

use proto::uplink::Kind;

use super::plan::{Part, Plan, Source};
use super::question::{Dimension, Direction, Filter, Key, Match, Metric, Operator};
use crate::store::{Statement, table};

/// The sums that all metrics are made of.
const SUMS: [Sum; 7] =
    [Sum::Pageviews, Sum::Events, Sum::Visitors, Sum::Visits, Sum::Bounces, Sum::DurationMs, Sum::VisitPageviews];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sum {
    Pageviews,
    /// Custom events.
    Events,
    Visitors,
    Visits,
    Bounces,
    DurationMs,
    VisitPageviews,
}

/// The rows of the page asked for: dimensions, then metrics.
pub(super) fn results(site: &str, plan: &Plan) -> Statement {
    let question = &plan.question;
    let dimensions = (0..question.dimensions.len()).map(|index| format!("d{index}"));
    let metrics = question.metrics.iter().enumerate().map(|(index, metric)| format!("{} AS m{index}", value(*metric)));
    let columns: Vec<String> = dimensions.chain(metrics).collect();
    let mut statement = Statement::new(&format!("SELECT {} FROM (", columns.join(", ")));
    push_parts(&mut statement, site, plan);
    statement.push(")");
    push_groups(&mut statement, plan);
    let page = question.pagination;
    statement.push(&format!(" ORDER BY {} LIMIT {} OFFSET {}", order(plan), page.limit, page.offset));
    statement
}

/// How many rows there are on all pages.
pub(super) fn total(site: &str, plan: &Plan) -> Statement {
    let mut statement = Statement::new("SELECT count() FROM (SELECT 1 FROM (");
    push_parts(&mut statement, site, plan);
    statement.push(")");
    push_groups(&mut statement, plan);
    statement.push(")");
    statement
}

fn push_parts(statement: &mut Statement, site: &str, plan: &Plan) {
    let starts = statement.numbers(&plan.buckets.starts);
    let labels = statement.numbers(&plan.buckets.label_of);
    for (index, part) in plan.parts.iter().enumerate() {
        if index > 0 {
            statement.push(" UNION ALL ");
        }
        push_part(statement, site, plan, part, &format!("{starts}, {labels}"));
    }
}

fn push_part(statement: &mut Statement, site: &str, plan: &Plan, part: &Part, buckets: &str) {
    let dimensions = plan.question.dimensions.iter().enumerate();
    let dimensions = dimensions.map(|(index, of)| format!("{} AS d{index}", dimension(*of, part.source, buckets)));
    let sums = SUMS.iter().map(|sum| format!("{} AS {}", gather(*sum, part), column(*sum)));
    let columns: Vec<String> = dimensions.chain(sums).collect();
    let (from, to) = (u64::from(plan.period.start_s()), u64::from(plan.period.end_s()));
    let (tables, seconds, unit) = match part.source {
        Source::Rollups(kind) => (format!("{} FINAL WHERE {}", table::ROLLUP_1M, kinds(kind, Kind::Total)), "t", 60),
        Source::Uniques(kind) => (format!("{} WHERE {}", table::UNIQUES, kinds(kind, Kind::Page)), "t", 15 * 60),
        Source::Visits => (format!("{} FINAL WHERE 1", table::VISITS), "start_ms", 1),
    };
    statement.push(&format!("SELECT {} FROM {tables} AND site = ", columns.join(", "))).bind(site);
    match part.source {
        Source::Visits => statement.push(&format!(" AND {seconds} >= {} AND {seconds} < {}", from * 1000, to * 1000)),
        // A minute or quarter belongs to the period that its start is in; the period's first one may have begun before.
        _ => statement
            .push(&format!(" AND {seconds} >= toDateTime({}) AND {seconds} < toDateTime({to})", from - from % unit)),
    };
    for filter in &plan.question.filters {
        statement.push(" AND ");
        push_filter(statement, filter, part.source);
    }
    let groups = plan.question.dimensions.len();
    if groups > 0 {
        let names: Vec<String> = (0..groups).map(|index| format!("d{index}")).collect();
        statement.push(&format!(" GROUP BY {}", names.join(", ")));
    }
}

/// Rows that hold nothing of what was asked (a page that was only scrolled, say) are no results.
fn push_groups(statement: &mut Statement, plan: &Plan) {
    let groups = plan.question.dimensions.len();
    if groups > 0 {
        let names: Vec<String> = (0..groups).map(|index| format!("d{index}")).collect();
        let present = [Sum::Pageviews, Sum::Events, Sum::Visitors, Sum::Visits];
        let present = present.map(|sum| format!("sum({})", column(sum))).join(" + ");
        statement.push(&format!(" GROUP BY {} HAVING {present} > 0", names.join(", ")));
    }
}

/// What was asked for, then the remaining dimensions: pages of one answer must not overlap.
fn order(plan: &Plan) -> String {
    let question = &plan.question;
    let rest = (0..question.dimensions.len()).map(|index| (Key::Dimension(index), Direction::Ascending));
    let keys = question.order_by.iter().copied().chain(rest).map(|(key, direction)| match key {
        Key::Metric(index) => format!("m{index} {}", direction.name()),
        Key::Dimension(index) => format!("d{index} {}", direction.name()),
    });
    let keys: Vec<String> = keys.collect();
    keys.join(", ")
}

fn dimension(dimension: Dimension, source: Source, buckets: &str) -> String {
    match dimension {
        Dimension::Time(_) => {
            let starts = buckets.split(", ").next().unwrap_or_default();
            let second = match source {
                Source::Visits => "toUInt32(intDiv(start_ms, 1000))",
                _ => "toUInt32(t)",
            };
            format!("transform(roundDown({second}, {starts}), {buckets})")
        }
        Dimension::Page | Dimension::EventName => event_value(source),
        Dimension::Visit(of) => format!("if({0} = '', '{1}', toString({0}))", of.column, of.empty),
    }
}

/// The kind of row that a part reads. By the name of the event, a pageview is one too, but its rows are not among the
/// custom events': they are the `pageviews` kind, which is the whole site's rollups, and the visitors of all pages.
fn kinds(kind: Kind, pageviews: Kind) -> String {
    match kind {
        Kind::Event => format!("kind IN ({}, {})", pageviews as u8, kind as u8),
        _ => format!("kind = {}", kind as u8),
    }
}

fn event_value(source: Source) -> String {
    match source {
        Source::Rollups(Kind::Event) | Source::Uniques(Kind::Event) => {
            format!("if(kind = {}, toString(value), '{}')", Kind::Event as u8, proto::limits::PAGEVIEW)
        }
        _ => "toString(value)".to_owned(),
    }
}

/// How a part computes a sum; 0 where another part does.
fn gather(sum: Sum, part: &Part) -> &'static str {
    if !part.metrics.iter().any(|metric| needs(*metric).contains(&sum)) {
        return "toUInt64(0)";
    }
    match (part.source, sum) {
        (Source::Uniques(_), _) => "uniqCombined64Merge(14)(visitors)",
        (Source::Rollups(Kind::Event), Sum::Pageviews) => "sum(if(kind = 0, pageviews, 0))",
        (Source::Rollups(Kind::Event), Sum::Events) => "sum(if(kind = 2, events, 0))",
        (_, Sum::Pageviews | Sum::VisitPageviews) => "sum(toUInt64(pageviews))",
        (_, Sum::Events) => "sum(toUInt64(events))",
        (_, Sum::Visitors) => "uniqExact(visitor)",
        (_, Sum::Visits) => "count()",
        (_, Sum::Bounces) => "countIf(pageviews = 1 AND events = 0)",
        (_, Sum::DurationMs) => "sum(toUInt64(greatest(last_ms, start_ms) - start_ms))",
    }
}

fn needs(metric: Metric) -> &'static [Sum] {
    match metric {
        Metric::Visitors => &[Sum::Visitors],
        Metric::Visits => &[Sum::Visits],
        Metric::Pageviews => &[Sum::Pageviews],
        Metric::Events => &[Sum::Pageviews, Sum::Events],
        Metric::BounceRate => &[Sum::Bounces, Sum::Visits],
        Metric::VisitDuration => &[Sum::DurationMs, Sum::Visits],
        Metric::ViewsPerVisit => &[Sum::VisitPageviews, Sum::Visits],
    }
}

fn value(metric: Metric) -> &'static str {
    match metric {
        Metric::Visitors => "sum(s_visitors)",
        Metric::Visits => "sum(s_visits)",
        Metric::Pageviews => "sum(s_pageviews)",
        Metric::Events => "sum(s_pageviews) + sum(s_events)",
        Metric::BounceRate => "if(sum(s_visits) = 0, 0, round(100 * sum(s_bounces) / sum(s_visits)))",
        Metric::VisitDuration => "if(sum(s_visits) = 0, 0, round(sum(s_duration_ms) / 1000 / sum(s_visits)))",
        Metric::ViewsPerVisit => "if(sum(s_visits) = 0, 0, round(sum(s_visit_pageviews) / sum(s_visits), 2))",
    }
}

/// Named apart from the tables' columns, which an alias would hide.
fn column(sum: Sum) -> &'static str {
    match sum {
        Sum::Pageviews => "s_pageviews",
        Sum::Events => "s_events",
        Sum::Visitors => "s_visitors",
        Sum::Visits => "s_visits",
        Sum::Bounces => "s_bounces",
        Sum::DurationMs => "s_duration_ms",
        Sum::VisitPageviews => "s_visit_pageviews",
    }
}

fn push_filter(statement: &mut Statement, filter: &Filter, source: Source) {
    match filter {
        Filter::Match(of) => push_match(statement, of, source),
        Filter::Not(filter) => {
            statement.push("NOT ");
            push_filter(statement, filter, source);
        }
        Filter::All(filters) | Filter::Any(filters) => {
            let joint = if matches!(filter, Filter::All(_)) { " AND " } else { " OR " };
            statement.push("(");
            for (index, filter) in filters.iter().enumerate() {
                statement.push(if index > 0 { joint } else { "" });
                push_filter(statement, filter, source);
            }
            statement.push(")");
        }
    }
}

fn push_match(statement: &mut Statement, of: &Match, source: Source) {
    let (column, empty) = match of.dimension {
        Dimension::Visit(dimension) => (dimension.column.to_owned(), Some(dimension.empty)),
        _ => (event_value(source), None),
    };
    statement.push(if of.negated { "NOT (" } else { "(" });
    for (index, value) in of.values.iter().enumerate() {
        statement.push(if index > 0 { " OR " } else { "" });
        // What is shown for an empty value finds the empty value.
        let value = if of.operator == Operator::Is && empty == Some(value) { "" } else { value };
        let [before, between, after] = match (of.operator, of.case_sensitive) {
            (Operator::Is, true) => ["", " = ", ""],
            (Operator::Is, false) => ["lowerUTF8(", ") = lowerUTF8(", ")"],
            (Operator::Contains, true) => ["position(", ", ", ") > 0"],
            (Operator::Contains, false) => ["positionCaseInsensitiveUTF8(", ", ", ") > 0"],
            (Operator::Matches, true) => ["match(", ", ", ")"],
            (Operator::Matches, false) => ["match(", ", concat('(?i)', ", "))"],
        };
        statement.push(before).push(&column).push(between).bind(value).push(after);
    }
    statement.push(")");
}
