//! Whether everything that central keeps of a site tells one story: events, batches, rollups, ledger and visits are counted
//! from the same records on different ways, so they must agree to the last one.
//!
//! The way: [`Position`]s say which records both ways have brought up; `checks` compares two tables each over them, key by
//! key; the first key that differs is named.

mod checks;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::QueryError;
use super::days::Days;
use crate::store::{Statement, Store, StoreError, number, table};
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
    /// It is retired: what has not come will not.
    pub retired: bool,
}

impl Position {
    /// Raw rows of what flushes covered are on their way.
    pub fn is_waiting(&self) -> bool {
        !self.retired && self.raw < self.accepted
    }
}

/// How far every gateway has come. `retired` has the ids of those that are.
pub async fn positions(store: &Store, retired: &BTreeSet<String>) -> Result<Vec<Position>, QueryError> {
    let told = store.raw_positions();
    let mut positions: Vec<Position> = Vec::new();
    for (of, accepted) in store.accepted_of_all().await? {
        positions.extend(accepted.vector.into_iter().map(|position| Position {
            raw: told.get(&(position.gateway.clone(), of.shard)).copied().unwrap_or(0),
            retired: retired.contains(&position.gateway),
            gateway: position.gateway,
            shard: of.shard,
            accepted: position.lsn,
        }));
    }
    // After a restart a gateway that has nothing to send says nothing, but rows come in the order of its log.
    if positions.iter().any(|position| position.raw == 0) {
        let newest =
            format!("SELECT toString(gateway), shard, max(lsn) FROM {} GROUP BY gateway, shard", table::BATCHES);
        for row in store.rows(Statement::new(&newest)).await? {
            let gateway = row.first().and_then(Value::as_str).unwrap_or_default();
            let (shard, lsn) = (number(&row, 1)? as u32, number(&row, 2)?);
            for position in positions.iter_mut().filter(|of| of.gateway == gateway && of.shard == shard) {
                position.raw = position.raw.max(lsn);
            }
        }
    }
    Ok(positions)
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
    let waiting: Vec<Value> = positions.iter().filter(|of| of.is_waiting()).map(Position::json).collect();
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

/// When the newest batch of each gateway arrived, Unix ms.
pub async fn last_arrivals(store: &Store) -> Result<BTreeMap<String, u64>, QueryError> {
    let newest = format!("SELECT toString(gateway), max(arrived_ms) FROM {} GROUP BY gateway", table::BATCHES);
    let rows = store.rows(Statement::new(&newest)).await?;
    let arrival =
        |row: &Vec<Value>| Ok((row.first().and_then(Value::as_str).unwrap_or_default().to_owned(), number(row, 1)?));
    rows.iter().map(arrival).collect()
}

impl Position {
    /// `{gateway, shard, accepted, raw}`
    pub(crate) fn json(&self) -> Value {
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
