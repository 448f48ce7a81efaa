//! Rows of a table that a question is about: of its site, in its period, passing its filters.

use proto::limits::PAGEVIEW;
use proto::uplink::Kind;

use super::period::Period;
use super::plan::{Part, Source};
use super::question::{Dimension, Filter, Match, Operator, VISIT_DIMENSIONS, VisitDimension};
use crate::store::{Statement, table};

/// How the absence of a property is shown, and found.
const NO_PROPERTY: &str = "(none)";

/// Which rows filters look at.
#[derive(Clone, Copy)]
pub(super) struct Scope<'a> {
    pub(super) site: &'a str,
    pub(super) period: &'a Period,
    pub(super) source: Source,
}

impl Scope<'_> {
    /// What follows FROM, as far as the site and the period limit it.
    pub(super) fn push_rows(self, statement: &mut Statement, part: &Part) {
        let (from, to) = (u64::from(self.period.start_s()), u64::from(self.period.end_s()));
        let (tables, time, unit) = match self.source {
            Source::Rollups(kind) => {
                (format!("{} FINAL WHERE {}", table::ROLLUP_1M, kinds(kind, Kind::Total)), "t", 60)
            }
            Source::Uniques(kind) => (format!("{} WHERE {}", table::UNIQUES, kinds(kind, Kind::Page)), "t", 15 * 60),
            Source::Visits | Source::VisitsByEvents => (format!("{} FINAL WHERE 1", table::VISITS), "start_ms", 1),
            Source::Events => {
                let filtered = part.filters.iter().flat_map(Filter::dimensions);
                return self.push_events(statement, part.dimensions.iter().chain(filtered));
            }
        };
        statement.push(&format!("{tables} AND site = ")).bind(self.site);
        match time {
            "start_ms" => statement.push(&format!(" AND {time} >= {} AND {time} < {}", from * 1000, to * 1000)),
            // A minute or quarter belongs to the period that its start is in; the period's first one may have begun before.
            _ => statement
                .push(&format!(" AND {time} >= toDateTime({}) AND {time} < toDateTime({to})", from - from % unit)),
        };
    }

    /// Counted events, joined with their visits where dimensions of these are used. An event whose visit has not come up
    /// yet has no dimensions that could be told apart from absent ones: it is left out of those answers until it has.
    fn push_events<'d>(self, statement: &mut Statement, used: impl Iterator<Item = &'d Dimension>) {
        let (from, to) = (u64::from(self.period.start_s()) * 1000, u64::from(self.period.end_s()) * 1000);
        let used: Vec<&Dimension> = used.collect();
        let is_used =
            |of: &&VisitDimension| used.iter().any(|dimension| matches!(dimension, Dimension::Visit(o) if o == *of));
        let columns: Vec<&str> = VISIT_DIMENSIONS.iter().filter(is_used).map(|of| of.column).collect();
        let counted = format!("{} FINAL WHERE counted = 1 AND site = ", table::EVENTS);
        let period = format!(" AND at_ms >= {from} AND at_ms < {to}");
        if columns.is_empty() {
            statement.push(&counted).bind(self.site).push(&period);
            return;
        }
        let columns: String = columns.iter().map(|column| format!(", {column} AS visit_{column}")).collect();
        statement
            .push("(SELECT at_ms, name, hostname, path, prop_keys, prop_values, visitor, visit_sid, visit_seq FROM ");
        statement.push(&counted).bind(self.site).push(&period);
        statement
            .push(&format!(") AS e INNER JOIN (SELECT sid, seq{columns} FROM {} FINAL WHERE site = ", table::VISITS));
        statement.bind(self.site).push(&format!(" AND start_ms < {to} AND last_ms >= {from}"));
        statement.push(") AS v ON e.visit_sid = v.sid AND e.visit_seq = v.seq WHERE 1");
    }

    /// The visits of the events that pass all of these.
    fn push_visits_of(self, statement: &mut Statement, filters: &[&Filter]) {
        let (sid, seq) = match self.source {
            Source::Events => ("visit_sid", "visit_seq"),
            _ => ("sid", "seq"),
        };
        statement.push(&format!("({sid}, {seq}) IN (SELECT visit_sid, visit_seq FROM "));
        let scope = Self { source: Source::Events, ..self };
        scope.push_events(statement, filters.iter().flat_map(|filter| filter.dimensions()));
        for filter in filters {
            statement.push(" AND ");
            push(statement, filter, scope);
        }
        statement.push(")");
    }
}

/// Appends ` AND …` for each filter. Of visits, those on events must all be true of one event.
pub(super) fn push_all(statement: &mut Statement, filters: &[Filter], scope: Scope<'_>) {
    let of_other_rows = |filter: &&Filter| scope.source == Source::VisitsByEvents && filter.is_of_events();
    let (by_events, own): (Vec<&Filter>, Vec<&Filter>) = filters.iter().partition(of_other_rows);
    for filter in own {
        statement.push(" AND ");
        push(statement, filter, scope);
    }
    if !by_events.is_empty() {
        statement.push(" AND ");
        scope.push_visits_of(statement, &by_events);
    }
}

fn push(statement: &mut Statement, filter: &Filter, scope: Scope<'_>) {
    match filter {
        Filter::Match(of) => push_match(statement, of, scope.source),
        Filter::Not(filter) => {
            statement.push("NOT ");
            push(statement, filter, scope);
        }
        Filter::Done(filter) => scope.push_visits_of(statement, &[filter.as_ref()]),
        Filter::All(filters) | Filter::Any(filters) => {
            let joint = if matches!(filter, Filter::All(_)) { " AND " } else { " OR " };
            statement.push("(");
            for (index, filter) in filters.iter().enumerate() {
                statement.push(if index > 0 { joint } else { "" });
                push(statement, filter, scope);
            }
            statement.push(")");
        }
    }
}

/// An expression for a dimension's value in a table's row, empty where a visit has none.
pub(super) fn value(statement: &mut Statement, dimension: &Dimension, source: Source) -> String {
    match (dimension, source) {
        (Dimension::Visit(of), Source::Events) => format!("toString(visit_{})", of.column),
        (Dimension::Visit(of), _) => format!("toString({})", of.column),
        (Dimension::Property(key), _) => {
            let key = statement.string(key);
            format!("if(has(prop_keys, {key}), prop_values[indexOf(prop_keys, {key})], '{NO_PROPERTY}')")
        }
        (Dimension::Hostname, _) => "toString(hostname)".to_owned(),
        (Dimension::Page, Source::Events) => "toString(path)".to_owned(),
        (Dimension::EventName, Source::Events) => "toString(name)".to_owned(),
        (_, Source::Rollups(Kind::Event) | Source::Uniques(Kind::Event)) => {
            format!("if(kind = {}, toString(value), '{PAGEVIEW}')", Kind::Event as u8)
        }
        _ => "toString(value)".to_owned(),
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

fn push_match(statement: &mut Statement, of: &Match, source: Source) {
    let empty = match of.dimension {
        Dimension::Visit(dimension) => Some(dimension.empty),
        _ => None,
    };
    let column = value(statement, &of.dimension, source);
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
