//! From JSON to a question. Whatever is not understood is an error that lists what would be.

use jiff::{Timestamp, civil::Date};
use proto::limits::PROP_KEY_BYTES_MAX;
use serde_json::{Map, Value};

use super::QueryError;
use super::question::{
    Bucket, Dates, Dimension, Direction, Filter, Include, Key, Match, Metric, NAMED, Operator, PROPERTY, Pagination,
    Question, VISIT_DIMENSIONS,
};

/// Rows of an answer unless the question says otherwise.
const LIMIT_DEFAULT: u64 = 10_000;
/// Rows of one answer: more go page by page.
const LIMIT_MAX: u64 = 100_000;
const FILTER_VALUES_MAX: usize = 1_000;
const FILTER_VALUE_BYTES_MAX: usize = 2_000;
const FILTER_DEPTH_MAX: usize = 8;

const FIELDS: [&str; 8] =
    ["site_id", "metrics", "date_range", "dimensions", "filters", "order_by", "include", "pagination"];
const DATE_RANGES: &str = "\"day\", \"24h\", \"7d\", \"28d\", \"30d\", \"91d\", \"month\", \"6mo\", \"12mo\", \"year\", \
    \"all\", [\"2026-11-01\", \"2026-11-22\"] or [\"2026-11-22T12:00:00+01:00\", \"2026-11-22T15:59:59+01:00\"]";

/// Parses a body whose `site_id` must be `site`.
pub(super) fn question(body: &Value, site: &str) -> Result<Question, QueryError> {
    let body = object(body, "the body", &FIELDS)?;
    match body.get("site_id") {
        Some(Value::String(name)) if name == site => {}
        Some(other) => return invalid(format!("`site_id` is {other}; the site asked is {site:?}")),
        None => return invalid("`site_id` is missing; it is the name of a site, a string"),
    }
    let metrics = metrics(body.get("metrics"))?;
    let dimensions = unique(body.get("dimensions"), "dimensions", |item| dimension(item, "dimensions"))?;
    if dimensions.iter().filter(|dimension| matches!(dimension, Dimension::Time(_))).count() > 1 {
        return invalid("`dimensions` has more than one time dimension; one is allowed");
    }
    let order_by = list(body.get("order_by"), "order_by")?;
    let order_by = order_by.iter().map(|item| order(item, &metrics, &dimensions)).collect::<Result<_, _>>()?;
    let mut values = 0;
    let filters = list(body.get("filters"), "filters")?;
    let filters = filters.iter().map(|item| filter(item, 1, &mut values)).collect::<Result<_, _>>()?;
    let include = include(body.get("include"))?;
    if include.time_labels && !dimensions.iter().any(|dimension| matches!(dimension, Dimension::Time(_))) {
        return invalid("`include.time_labels` needs a time dimension in `dimensions`, such as \"time:day\"");
    }
    Ok(Question {
        dates: dates(body.get("date_range"))?,
        pagination: pagination(body.get("pagination"))?,
        metrics,
        dimensions,
        filters,
        order_by,
        include,
    })
}

fn metrics(value: Option<&Value>) -> Result<Vec<Metric>, QueryError> {
    let names = || Metric::ALL.map(Metric::name).join(", ");
    let metrics = unique(value, "metrics", |item| {
        let metric = Metric::ALL.into_iter().find(|metric| item == metric.name());
        metric.ok_or_else(|| QueryError::Invalid(format!("`metrics` has {item}; a metric is one of {}", names())))
    })?;
    if metrics.is_empty() {
        return invalid(format!("`metrics` is missing or empty; it is a list of {}", names()));
    }
    Ok(metrics)
}

fn dimension(item: &Value, field: &str) -> Result<Dimension, QueryError> {
    let name = item.as_str().unwrap_or_default();
    if let Some(key) = name.strip_prefix(PROPERTY).filter(|key| !key.is_empty()) {
        return match key.len() <= PROP_KEY_BYTES_MAX {
            true => Ok(Dimension::Property(key.into())),
            false => {
                invalid(format!("`{field}` has a property's key of over {PROP_KEY_BYTES_MAX} bytes; none is that long"))
            }
        };
    }
    let plain = [Dimension::Time(None), Dimension::Page, Dimension::EventName, Dimension::Hostname].into_iter();
    let timed = Bucket::ALL.into_iter().map(|bucket| Dimension::Time(Some(bucket)));
    let mut known = plain.chain(timed).chain(VISIT_DIMENSIONS.into_iter().map(Dimension::Visit));
    known.clone().find(|dimension| dimension.name() == name).ok_or_else(|| {
        let names: Vec<_> = known.by_ref().map(|dimension| dimension.name()).collect();
        QueryError::Invalid(format!("`{field}` has {item}; a dimension is one of {}, {PROPERTY}KEY", names.join(", ")))
    })
}

/// `[operator, dimension, values]`, `["and" | "or", [filter, …]]` or `["not", filter]`.
fn filter(item: &Value, depth: usize, values: &mut usize) -> Result<Filter, QueryError> {
    if depth > FILTER_DEPTH_MAX {
        return invalid(format!("`filters` nest deeper than {FILTER_DEPTH_MAX}"));
    }
    let items = item.as_array().map_or(&[][..], Vec::as_slice);
    let operator = items.first().and_then(Value::as_str).unwrap_or_default();
    match (operator, items) {
        ("and" | "or", [_, Value::Array(filters)]) if !filters.is_empty() => {
            let filters = filters.iter().map(|item| filter(item, depth + 1, values)).collect::<Result<_, _>>()?;
            Ok(if operator == "and" { Filter::All(filters) } else { Filter::Any(filters) })
        }
        ("not", [_, negated]) => Ok(Filter::Not(Box::new(filter(negated, depth + 1, values)?))),
        ("has_done" | "has_not_done", [_, done]) => {
            let done = Filter::Done(Box::new(filter(done, depth + 1, values)?));
            Ok(if operator == "has_done" { done } else { Filter::Not(Box::new(done)) })
        }
        (_, [_, dimension, clauses, modifiers @ ..]) if modifiers.len() <= 1 => {
            matching(operator, dimension, clauses, modifiers.first(), values).map(Filter::Match)
        }
        _ => invalid(format!(
            "`filters` has {item}; a filter is [operator, dimension, [value, …]], [\"and\", [filter, …]], \
             [\"or\", [filter, …]], [\"not\", filter], [\"has_done\", filter] or [\"has_not_done\", filter]"
        )),
    }
}

fn matching(
    operator: &str,
    item: &Value,
    clauses: &Value,
    modifiers: Option<&Value>,
    values: &mut usize,
) -> Result<Match, QueryError> {
    let known = [Operator::Is, Operator::Contains, Operator::Matches];
    let plain = if operator == "does_not_contain" { "contains_not" } else { operator };
    let found =
        known.into_iter().find_map(|known| Some((known, known.names().iter().position(|name| *name == plain)?)));
    let Some((known, negated)) = found else {
        let names = known.map(|known| known.names().join(", ")).join(", ");
        return invalid(format!(
            "a filter's operator is {operator:?}; it is one of {names}, and, or, not, has_done, has_not_done"
        ));
    };
    let dimension = dimension(item, "filters")?;
    if matches!(dimension, Dimension::Time(_)) {
        return invalid("a filter on time; `date_range` limits the time");
    }
    let clauses = match clauses.as_array().map(|clauses| clauses.iter().map(Value::as_str).collect::<Option<Vec<_>>>())
    {
        Some(Some(clauses)) if !clauses.is_empty() => clauses,
        _ => return invalid(format!("a filter on {} has the values {clauses}; they are strings", dimension.name())),
    };
    *values += clauses.len();
    if *values > FILTER_VALUES_MAX || clauses.iter().any(|clause| clause.len() > FILTER_VALUE_BYTES_MAX) {
        return invalid(format!(
            "the filters have too many or too long values; {FILTER_VALUES_MAX} of {FILTER_VALUE_BYTES_MAX} bytes each \
             are allowed"
        ));
    }
    let case_sensitive = match modifiers {
        None => true,
        Some(modifiers) => {
            let modifiers = object(modifiers, "a filter's modifiers", &["case_sensitive"])?;
            flag(modifiers, "case_sensitive", true)?
        }
    };
    let values = clauses.into_iter().map(str::to_owned).collect();
    Ok(Match { dimension, operator: known, negated: negated == 1, values, case_sensitive })
}

fn order(item: &Value, metrics: &[Metric], dimensions: &[Dimension]) -> Result<(Key, Direction), QueryError> {
    let (name, direction) = match item.as_array().map(Vec::as_slice) {
        Some([Value::String(name), Value::String(direction)]) => (name.as_str(), direction.as_str()),
        _ => return invalid(format!("`order_by` has {item}; an order is [metric or dimension, \"asc\" or \"desc\"]")),
    };
    let metric = metrics.iter().position(|metric| metric.name() == name).map(Key::Metric);
    let dimension = || dimensions.iter().position(|dimension| dimension.name() == name).map(Key::Dimension);
    let key = metric.or_else(dimension).ok_or_else(|| {
        QueryError::Invalid(format!("`order_by` has {name:?}, which is not among the metrics or dimensions asked for"))
    })?;
    match direction {
        "asc" => Ok((key, Direction::Ascending)),
        "desc" => Ok((key, Direction::Descending)),
        other => invalid(format!("`order_by` has the direction {other:?}; it is \"asc\" or \"desc\"")),
    }
}

fn dates(value: Option<&Value>) -> Result<Dates, QueryError> {
    let wrong = || match value {
        Some(value) => QueryError::Invalid(format!("`date_range` is {value}; it is {DATE_RANGES}")),
        None => QueryError::Invalid(format!("`date_range` is missing; it is {DATE_RANGES}")),
    };
    let range = match value {
        Some(Value::String(name)) => {
            let named = NAMED.iter().find(|(known, _)| known == name);
            Dates::Named(named.ok_or_else(wrong)?.1)
        }
        Some(Value::Array(ends)) => match ends.as_slice() {
            [Value::String(first), Value::String(last)] => days(first, last).or_else(|| instants(first, last)),
            _ => None,
        }
        .ok_or_else(wrong)?,
        _ => return Err(wrong()),
    };
    let backwards = match range {
        Dates::Days(first, last) => first > last,
        Dates::Instants(first, last) => first > last,
        Dates::Named(_) => false,
    };
    if backwards { invalid("`date_range` ends before it starts; the earlier date comes first") } else { Ok(range) }
}

/// The strict form alone: jiff would also read a date out of a longer text.
fn days(first: &str, last: &str) -> Option<Dates> {
    let date = |text: &str| (text.len() == 10).then(|| text.parse::<Date>().ok()).flatten();
    Some(Dates::Days(date(first)?, date(last)?))
}

fn instants(first: &str, last: &str) -> Option<Dates> {
    Some(Dates::Instants(first.parse::<Timestamp>().ok()?, last.parse::<Timestamp>().ok()?))
}

fn include(value: Option<&Value>) -> Result<Include, QueryError> {
    let Some(value) = value else { return Ok(Include::default()) };
    let value = object(value, "`include`", &["imports", "time_labels", "total_rows"])?;
    flag(value, "imports", false)?; // nothing was imported: asking for it changes nothing
    Ok(Include { time_labels: flag(value, "time_labels", false)?, total_rows: flag(value, "total_rows", false)? })
}

fn pagination(value: Option<&Value>) -> Result<Pagination, QueryError> {
    let Some(value) = value else { return Ok(Pagination { limit: LIMIT_DEFAULT, offset: 0 }) };
    let value = object(value, "`pagination`", &["limit", "offset"])?;
    let number = |name: &str, default: u64| match value.get(name) {
        None => Ok(default),
        Some(value) => value.as_u64().ok_or_else(|| {
            QueryError::Invalid(format!("`pagination.{name}` is {value}; it is a whole number, not negative"))
        }),
    };
    let (limit, offset) = (number("limit", LIMIT_DEFAULT)?, number("offset", 0)?);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return invalid(format!("`pagination.limit` is {limit}; it is between 1 and {LIMIT_MAX}"));
    }
    Ok(Pagination { limit, offset })
}

fn object<'a>(value: &'a Value, what: &str, fields: &[&str]) -> Result<&'a Map<String, Value>, QueryError> {
    let list = || fields.join(", ");
    let Some(object) = value.as_object() else {
        return invalid(format!("{what} is not an object; it is one with the fields {}", list()));
    };
    match object.keys().find(|key| !fields.contains(&key.as_str())) {
        Some(unknown) => invalid(format!("{what} has the field {unknown:?}; its fields are {}", list())),
        None => Ok(object),
    }
}

fn flag(object: &Map<String, Value>, name: &str, default: bool) -> Result<bool, QueryError> {
    match object.get(name) {
        None => Ok(default),
        Some(Value::Bool(value)) => Ok(*value),
        Some(other) => invalid(format!("`{name}` is {other}; it is true or false")),
    }
}

fn list<'a>(value: Option<&'a Value>, field: &str) -> Result<&'a [Value], QueryError> {
    match value {
        None => Ok(&[]),
        Some(Value::Array(items)) => Ok(items),
        Some(other) => invalid(format!("`{field}` is {other}; it is a list")),
    }
}

fn unique<T: PartialEq>(
    value: Option<&Value>,
    field: &str,
    parse: impl Fn(&Value) -> Result<T, QueryError>,
) -> Result<Vec<T>, QueryError> {
    let mut found = Vec::new();
    for item in list(value, field)? {
        let parsed = parse(item)?;
        if found.contains(&parsed) {
            return invalid(format!("`{field}` has {item} twice; once is enough"));
        }
        found.push(parsed);
    }
    Ok(found)
}

fn invalid<T>(message: impl Into<String>) -> Result<T, QueryError> {
    Err(QueryError::Invalid(message.into()))
}
