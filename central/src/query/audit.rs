//! Whether everything that central keeps of a site tells one story: events, batches, rollups, ledger and visits are counted
//! from the same records on different ways, so they must agree to the last one.
//!
//! The way: [`Position`]s say which records both ways have brought up; `checks` compares two tables each over them, key by
//! key; the first key that differs is named.

mod checks;

use serde_json::{Value, json};

use super::QueryError;
use super::days::Days;
use crate::store::{Statement, Store, StoreError, number};
use checks::Check;

/// How far a gateway's records have come on both ways.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// Of the log folder.
    pub gateway: String,
    /// Of the log.
    pub shard: u32,
    /// The last record that an accepted flush covers.
    pub accepted: u64,
    /// The last record whose raw row is there, or that has none.
    pub raw: u64,
}

/// The audit of a site over days, UTC, of what accepted flushes cover.
///
/// Answers `{site_id, from, to, timezone, state, waiting, difference, first_difference, checks}`. `state` is "clean",
/// "different", or "waiting" while gateways have not sent raw rows of all that flushes covered: then what is compared is not
/// whole, and a difference may be none. `difference` is how many batches, minutes, pages, names, reasons and visits differ.
/// `first_difference` is `{day, check, between, key, of, figures, left, right}`; a check is
/// `{check, between, figures, days: [{day, left, right, differing}]}`, where `left` and `right` are sums in the order of `figures`.
pub async fn answer(store: &Store, site: &str, days: Days, positions: &[Position]) -> Result<Value, QueryError> {
    let audited = Audited { site, days, positions };
    let mut first: Option<(u32, Value)> = None;
    let (mut difference, mut results) = (0, Vec::new());
    for check in &checks::ALL {
        let sums = store.rows(audited.sums(check)).await?;
        let by_day = sums.iter().map(|row| Day::of(row)).collect::<Result<Vec<_>, _>>()?;
        let differing: u64 = by_day.iter().map(|day| day.differing).sum();
        difference += differing;
        if differing > 0 {
            let found = store.rows(audited.first_difference(check)).await?;
            let found = found.first().map(|row| described(check, row)).transpose()?;
            // The earliest day; on one day the first check, which is nearest to the raw rows.
            first = match (first, found) {
                (Some(before), Some(found)) if found.0 >= before.0 => Some(before),
                (before, found) => found.or(before),
            };
        }
        results.push(json!({
            "check": check.name,
            "between": check.between,
            "figures": check.figures,
            "days": by_day.iter().map(Day::json).collect::<Vec<Value>>(),
        }));
    }
    let waiting: Vec<Value> = positions.iter().filter(|of| of.raw < of.accepted).map(Position::json).collect();
    let state = match (waiting.is_empty(), difference) {
        (false, _) => "waiting",
        (true, 0) => "clean",
        (true, _) => "different",
    };
    Ok(json!({
        "site_id": site,
        "from": Days::text(days.first),
        "to": Days::text(days.last),
        "timezone": "UTC",
        "state": state,
        "waiting": waiting,
        "difference": difference,
        "first_difference": first.map(|(_, difference)| difference),
        "checks": results,
    }))
}

impl Position {
    fn json(&self) -> Value {
        json!({ "gateway": self.gateway, "shard": self.shard, "accepted": self.accepted, "raw": self.raw })
    }
}

/// What is audited.
struct Audited<'a> {
    site: &'a str,
    days: Days,
    positions: &'a [Position],
}

impl Audited<'_> {
    /// A row a day: its sums on both sides, and how many keys differ.
    fn sums(&self, check: &Check) -> Statement {
        let mut statement = Statement::new("SELECT day, sumForEach(l), sumForEach(r), countIf(l != r) FROM (");
        self.push_compared(&mut statement, check);
        statement.push(") GROUP BY day ORDER BY day");
        statement
    }

    /// The first key that differs.
    fn first_difference(&self, check: &Check) -> Statement {
        let mut statement = Statement::new("SELECT day, key, l, r FROM (");
        self.push_compared(&mut statement, check);
        statement.push(") WHERE l != r ORDER BY day, key LIMIT 1");
        statement
    }

    /// Day, key, and the figures of both sides, zeros where a side lacks the key.
    fn push_compared(&self, statement: &mut Statement, check: &Check) {
        let zeros = format!("arrayWithConstant({}, toUInt64(0))", check.figures.len());
        statement.push("SELECT day, key, sumForEach(a) AS l, sumForEach(b) AS r FROM (");
        statement.push(&format!("SELECT day, key, v AS a, {zeros} AS b FROM ("));
        (check.left)(self, statement);
        statement.push(&format!(") UNION ALL SELECT day, key, {zeros} AS a, v AS b FROM ("));
        (check.right)(self, statement);
        statement.push(")) GROUP BY day, key");
    }
}

struct Day {
    day: u32,
    left: Value,
    right: Value,
    differing: u64,
}

impl Day {
    fn of(row: &[Value]) -> Result<Self, StoreError> {
        let figures = |column| row.get(column).cloned().unwrap_or(Value::Null);
        Ok(Self { day: number(row, 0)? as u32, left: figures(1), right: figures(2), differing: number(row, 3)? })
    }

    fn json(&self) -> Value {
        json!({ "day": Days::text(self.day), "left": self.left, "right": self.right, "differing": self.differing })
    }
}

fn described(check: &Check, row: &[Value]) -> Result<(u32, Value), StoreError> {
    let day = number(row, 0)? as u32;
    let key = row.get(1).and_then(Value::as_str).unwrap_or_default();
    let difference = json!({
        "day": Days::text(day),
        "check": check.name,
        "between": check.between,
        "of": check.key,
        "key": (check.shown)(key),
        "figures": check.figures,
        "left": row.get(2),
        "right": row.get(3),
    });
    Ok((day, difference))
}
