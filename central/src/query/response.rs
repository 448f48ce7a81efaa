//! The answer's JSON.

use serde_json::{Map, Value, json};

use super::plan::Plan;
use super::question::{Dimension, Filter, Key, Metric};

/// What an answer says besides its rows.
#[derive(Default)]
pub(super) struct Beside {
    /// On all pages together, if that was asked.
    pub(super) total_rows: Option<u64>,
    /// How fresh and whole the raw events are that it comes from.
    pub(super) raw: Option<Value>,
}

/// Rows as `sql` selects them: dimensions, then metrics.
pub(super) fn build(site: &str, plan: &Plan, rows: Vec<Vec<Value>>, beside: Beside) -> Value {
    let results: Vec<Value> = rows.into_iter().map(|row| result(plan, row)).collect();
    json!({ "results": results, "meta": meta(plan, beside), "query": echo(site, plan) })
}

fn result(plan: &Plan, mut row: Vec<Value>) -> Value {
    let metrics = row.split_off(plan.question.dimensions.len().min(row.len()));
    let dimensions = plan.question.dimensions.iter().zip(row).map(|(dimension, value)| match dimension {
        Dimension::Time(_) => {
            let label = value.as_u64().and_then(|index| plan.buckets.labels.get(index as usize));
            label.map_or(Value::Null, |label| label.as_str().into())
        }
        _ => value,
    });
    json!({ "metrics": metrics, "dimensions": dimensions.collect::<Vec<Value>>() })
}

/// Where the figures come from and whether they are exact, beside what was asked to be included.
fn meta(plan: &Plan, beside: Beside) -> Value {
    let mut sources: Vec<&str> = plan.parts.iter().map(|part| part.source.name()).collect();
    sources.dedup();
    let mut meta = Map::new();
    meta.insert("source".to_owned(), sources.join("+").into());
    meta.insert("exact".to_owned(), plan.parts.iter().all(|part| part.source.exact()).into());
    if plan.question.include.time_labels {
        meta.insert("time_labels".to_owned(), plan.buckets.labels.clone().into());
    }
    if let Some(total_rows) = beside.total_rows {
        meta.insert("total_rows".to_owned(), total_rows.into());
    }
    if let Some(raw) = beside.raw {
        meta.insert("raw".to_owned(), raw);
    }
    meta.into()
}

/// The question as it was understood.
fn echo(site: &str, plan: &Plan) -> Value {
    let question = &plan.question;
    let metrics: Vec<&str> = question.metrics.iter().copied().map(Metric::name).collect();
    let dimensions: Vec<_> = question.dimensions.iter().map(Dimension::name).collect();
    let order_by = question.order_by.iter().map(|(key, direction)| {
        let name = match key {
            Key::Metric(index) => metrics.get(*index).copied(),
            Key::Dimension(index) => dimensions.get(*index).map(AsRef::as_ref),
        };
        json!([name, direction.name()])
    });
    json!({
        "site_id": site,
        "date_range": plan.period.iso(),
        "order_by": order_by.collect::<Vec<Value>>(),
        "filters": question.filters.iter().map(filter).collect::<Vec<Value>>(),
        "include": { "time_labels": question.include.time_labels, "total_rows": question.include.total_rows },
        "pagination": { "limit": question.pagination.limit, "offset": question.pagination.offset },
        "metrics": metrics,
        "dimensions": dimensions,
    })
}

fn filter(of: &Filter) -> Value {
    match of {
        Filter::Match(of) => {
            let operator = of.operator.names()[usize::from(of.negated)];
            match of.case_sensitive {
                true => json!([operator, of.dimension.name(), of.values]),
                false => json!([operator, of.dimension.name(), of.values, { "case_sensitive": false }]),
            }
        }
        Filter::All(filters) => json!(["and", filters.iter().map(filter).collect::<Vec<Value>>()]),
        Filter::Any(filters) => json!(["or", filters.iter().map(filter).collect::<Vec<Value>>()]),
        Filter::Done(of) => json!(["has_done", filter(of)]),
        Filter::Not(of) => match of.as_ref() {
            Filter::Done(of) => json!(["has_not_done", filter(of)]),
            of => json!(["not", filter(of)]),
        },
    }
}
