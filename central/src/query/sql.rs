//! One statement for a plan: each part is a sub-select that yields the dimensions and the sums that metrics are made of;
//! they are united, added up by dimension, ordered and cut to the page asked for.

use proto::uplink::Kind;

use super::filters::{self, Scope};
use super::plan::{Part, Plan, Source};
use super::question::{Dimension, Direction, Key, Metric};
use crate::store::Statement;

/// The sums that all metrics are made of.
const SUMS: [Sum; 8] = [
    Sum::Pageviews,
    Sum::Events,
    Sum::Visitors,
    Sum::Visits,
    Sum::WholeVisits,
    Sum::Bounces,
    Sum::DurationMs,
    Sum::VisitPageviews,
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sum {
    Pageviews,
    /// Custom events.
    Events,
    Visitors,
    Visits,
    /// Those that bounces, durations and their pageviews are of; events can tell visits, but not these.
    WholeVisits,
    Bounces,
    DurationMs,
    VisitPageviews,
}

/// The rows of the page asked for: dimensions, then metrics. Percentages are of `all_visitors`.
pub(super) fn results(site: &str, plan: &Plan, all_visitors: u64) -> Statement {
    let question = &plan.question;
    let dimensions = (0..question.dimensions.len()).map(|index| format!("d{index}"));
    let metrics = question.metrics.iter().enumerate();
    let metrics = metrics.map(|(index, metric)| format!("{} AS m{index}", value(*metric, all_visitors)));
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
    let scope = Scope { site, period: &plan.period, source: part.source };
    let dimensions = part.dimensions.iter().enumerate();
    let dimensions: Vec<String> = dimensions
        .map(|(index, of)| format!("{} AS d{index}", dimension(statement, of, part.source, buckets)))
        .collect();
    let sums = SUMS.iter().map(|sum| format!("{} AS {}", gather(*sum, part), column(*sum)));
    let columns: Vec<String> = dimensions.into_iter().chain(sums).collect();
    statement.push(&format!("SELECT {} FROM ", columns.join(", ")));
    scope.push_rows(statement, part);
    filters::push_all(statement, &part.filters, scope);
    let groups = part.dimensions.len();
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
        let present = [Sum::Pageviews, Sum::Events, Sum::Visitors, Sum::Visits, Sum::WholeVisits];
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

fn dimension(statement: &mut Statement, dimension: &Dimension, source: Source, buckets: &str) -> String {
    match dimension {
        Dimension::Time(_) => {
            let starts = buckets.split(", ").next().unwrap_or_default();
            let second = match source {
                Source::Visits | Source::VisitsByEvents => "toUInt32(intDiv(start_ms, 1000))",
                Source::Events => "toUInt32(intDiv(at_ms, 1000))",
                Source::Rollups(_) | Source::Uniques(_) => "toUInt32(t)",
            };
            format!("transform(roundDown({second}, {starts}), {buckets})")
        }
        Dimension::Visit(of) => {
            let value = filters::value(statement, dimension, source);
            format!("if({value} = '', '{}', {value})", of.empty)
        }
        _ => filters::value(statement, dimension, source),
    }
}

/// How a part computes a sum; 0 where another part does.
fn gather(sum: Sum, part: &Part) -> &'static str {
    if !part.metrics.iter().any(|metric| needs(*metric).contains(&sum)) {
        return "toUInt64(0)";
    }
    match (part.source, sum) {
        (Source::Uniques(_), _) => "uniqCombined64Merge(14)(visitors)",
        (Source::Events, Sum::Pageviews) => "countIf(name = 'pageview')",
        (Source::Events, Sum::Events) => "countIf(name != 'pageview')",
        (Source::Events, Sum::Visits) => "uniqExact(visit_sid, visit_seq)",
        (Source::Rollups(Kind::Event), Sum::Pageviews) => "sum(if(kind = 0, pageviews, 0))",
        (Source::Rollups(Kind::Event), Sum::Events) => "sum(if(kind = 2, events, 0))",
        (_, Sum::Pageviews | Sum::VisitPageviews) => "sum(toUInt64(pageviews))",
        (_, Sum::Events) => "sum(toUInt64(events))",
        (_, Sum::Visitors) => "uniqExact(visitor)",
        (_, Sum::Visits | Sum::WholeVisits) => "count()",
        (_, Sum::Bounces) => "countIf(pageviews = 1 AND events = 0)",
        (_, Sum::DurationMs) => "sum(toUInt64(greatest(last_ms, start_ms) - start_ms))",
    }
}

fn needs(metric: Metric) -> &'static [Sum] {
    match metric {
        Metric::Visitors | Metric::Percentage => &[Sum::Visitors],
        Metric::Visits => &[Sum::Visits],
        Metric::Pageviews => &[Sum::Pageviews],
        Metric::Events => &[Sum::Pageviews, Sum::Events],
        Metric::BounceRate => &[Sum::Bounces, Sum::WholeVisits],
        Metric::VisitDuration => &[Sum::DurationMs, Sum::WholeVisits],
        Metric::ViewsPerVisit => &[Sum::VisitPageviews, Sum::WholeVisits],
    }
}

fn value(metric: Metric, all_visitors: u64) -> String {
    let value = match metric {
        Metric::Visitors => "sum(s_visitors)",
        Metric::Visits => "sum(s_visits)",
        Metric::Pageviews => "sum(s_pageviews)",
        Metric::Events => "sum(s_pageviews) + sum(s_events)",
        Metric::BounceRate => "if(sum(s_whole_visits) = 0, 0, round(100 * sum(s_bounces) / sum(s_whole_visits)))",
        Metric::VisitDuration => {
            "if(sum(s_whole_visits) = 0, 0, round(sum(s_duration_ms) / 1000 / sum(s_whole_visits)))"
        }
        Metric::ViewsPerVisit => {
            "if(sum(s_whole_visits) = 0, 0, round(sum(s_visit_pageviews) / sum(s_whole_visits), 2))"
        }
        Metric::Percentage if all_visitors == 0 => "NULL",
        Metric::Percentage => return format!("round(100 * sum(s_visitors) / {all_visitors}, 1)"),
    };
    value.to_owned()
}

/// Named apart from the tables' columns, which an alias would hide.
fn column(sum: Sum) -> &'static str {
    match sum {
        Sum::Pageviews => "s_pageviews",
        Sum::Events => "s_events",
        Sum::Visitors => "s_visitors",
        Sum::Visits => "s_visits",
        Sum::WholeVisits => "s_whole_visits",
        Sum::Bounces => "s_bounces",
        Sum::DurationMs => "s_duration_ms",
        Sum::VisitPageviews => "s_visit_pageviews",
    }
}
