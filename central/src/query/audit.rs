//! Whether everything that central keeps of a site tells one story: events, batches, rollups, ledger and visits are counted
//! from the same records on different ways, so they must agree to the last one.
//!
//! The way: a [`Reach`] says which records both ways have brought up; `checks` compares two sides each over them, key by
//! key; a key that differs in two looks is named.

mod checks;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::QueryError;
use super::days::Days;
use crate::store::{Statement, Store, StoreError, number, table, text};
use checks::{Check, Over};

/// One statement holds the numbers of all batches of so many days in memory: about a GB at a million batches a day.
const SLICE_DAYS: u32 = 7;
/// One look can fall between two rows of one record; a flush that is accepted meanwhile moves visits.
const LOOKS: u32 = 4;
/// Keys of one look that are sought again in the next.
const SOUGHT_MAX: usize = 1000;

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

/// How far everything has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reach {
    /// Of every gateway.
    pub positions: Vec<Position>,
    /// Stream (`src`) to the number of its last accepted flush. Together they hold exactly the records up to the positions.
    pub flushes: BTreeMap<u16, u64>,
}

impl Position {
    /// Raw rows of what flushes covered are on their way.
    pub fn is_waiting(&self) -> bool {
        !self.retired && self.raw < self.accepted
    }

    /// `{gateway, shard, accepted, raw}`
    pub(crate) fn json(&self) -> Value {
        json!({ "gateway": self.gateway, "shard": self.shard, "accepted": self.accepted, "raw": self.raw })
    }
}

impl Reach {
    /// Raw rows of what flushes covered are on their way.
    pub fn is_waiting(&self) -> bool {
        self.positions.iter().any(Position::is_waiting)
    }
}

/// How far everything has come now. `retired` has the ids of gateways that are.
pub async fn reach(store: &Store, retired: &BTreeSet<String>) -> Result<Reach, QueryError> {
    let accepted = store.accepted_of_all().await?;
    let positions = accepted.shards.into_iter().flat_map(|(of, accepted)| {
        accepted.vector.into_iter().map(move |position| Position {
            raw: 0,
            retired: retired.contains(&position.gateway),
            gateway: position.gateway,
            shard: of.shard,
            accepted: position.lsn,
        })
    });
    let mut positions: Vec<Position> = positions.collect();
    let key = |of: &Position| (of.gateway.clone(), of.shard);
    // After a restart a gateway that has nothing to send says nothing, and a retired one never will. But rows come in the
    // order of its log, so what is there tells, and is looked for once.
    let told = store.raw_positions();
    if positions.iter().any(|position| !told.contains_key(&key(position))) {
        let newest =
            format!("SELECT toString(gateway), shard, max(lsn) FROM {} GROUP BY gateway, shard", table::BATCHES);
        let rows = store.rows(Statement::new(&newest)).await?;
        let found = rows.iter().map(|row| Ok(((text(row, 0)?.to_owned(), number(row, 1)? as u32), number(row, 2)?)));
        let found: Vec<_> = found.collect::<Result<_, StoreError>>()?;
        store.keep_raw_positions(positions.iter().map(|position| (key(position), 0)).chain(found));
    }
    let told = store.raw_positions();
    for position in &mut positions {
        position.raw = told.get(&key(position)).copied().unwrap_or(0);
    }
    Ok(Reach { positions, flushes: accepted.flushes })
}

/// The audit of a site over days, UTC, of what accepted flushes cover. `raw_from_ms`: from when on raw rows are whole; days
/// that begin before, or all if it is `None`, are compared without them. `look` tells the [`Reach`] of the moment.
///
/// Answers `{site_id, from, to, timezone, raw_from, state, waiting, moving, difference, first_difference, split_visits, checks}`.
/// `raw_from` is the first day whose raw rows are compared, or null. `state` is "clean", "different", or "waiting" while what is
/// compared is not whole, so that a difference may be none: gateways have not sent raw rows of all that flushes covered
/// (`waiting`), or flushes moved what checks compare as often as they looked (`moving`, names of checks). `difference` is how
/// many batches, minutes, pages, names, reasons and visits differ. `first_difference` is
/// `{day, check, between, key, of, figures, left, right}`; a check is `{check, between, figures, days: [{day, left, right, differing}]}`,
/// where `left` and `right` are sums in the order of `figures`. `split_visits` are no difference: visits that events alone
/// would make one with another.
pub async fn answer<F, L>(
    store: &Store,
    site: &str,
    days: Days,
    raw_from_ms: Option<u64>,
    look: F,
) -> Result<Value, QueryError>
where
    F: Fn() -> L,
    L: Future<Output = Result<Reach, QueryError>>,
{
    let raw_days = raw_from_ms.and_then(|from_ms| days.beginning_from(from_ms));
    let of = |days: Days| Audited { store, site, days, end_s: days.end() };
    let all: Vec<Audited<'_>> = days.slices(SLICE_DAYS).map(of).collect();
    let mut raw = Vec::new();
    for slice in raw_days.iter().flat_map(|days| days.slices(SLICE_DAYS)) {
        raw.push(of(slice).until_visits_end().await?);
    }
    let ever: Vec<Audited<'_>> = if raw_days == Some(days) { vec![] } else { vec![of(days)] };
    let mut reach = look().await?;
    let mut first: Option<(u32, Value)> = None;
    let (mut difference, mut split_visits) = (0, 0);
    let (mut results, mut moving) = (Vec::new(), Vec::new());
    for check in &checks::ALL {
        let slices = match check.over {
            Over::Days => &all,
            Over::RawDays => &raw,
            Over::Ever => &ever,
        };
        if slices.is_empty() {
            continue;
        }
        let mut by_day = Vec::new();
        for audited in slices {
            let compared = audited.compare(check, &mut reach, &look).await?;
            difference += compared.days.iter().map(|day| day.differing).sum::<u64>();
            if compared.moving && moving.last() != Some(&check.name) {
                moving.push(check.name);
            }
            // The earliest day; on one day the first check, which is nearest to the raw rows.
            first = match (first, compared.first) {
                (Some(before), Some(found)) if found.0 >= before.0 => Some(before),
                (before, found) => found.or(before),
            };
            by_day.extend(compared.days);
        }
        results.push(json!({
            "check": check.name,
            "between": check.between,
            "figures": check.figures,
            "days": by_day.iter().map(Day::json).collect::<Vec<Value>>(),
        }));
    }
    for audited in &raw {
        split_visits += audited.split_visits(&reach).await?;
    }
    let waiting: Vec<Value> = match raw_days {
        Some(_) => reach.positions.iter().filter(|of| of.is_waiting()).map(Position::json).collect(),
        None => vec![],
    };
    let state = match (waiting.is_empty() && moving.is_empty(), difference) {
        (true, 0) => "clean",
        (true, _) => "different",
        (false, _) => "waiting",
    };
    Ok(json!({
        "site_id": site,
        "from": Days::text(days.first),
        "to": Days::text(days.last),
        "timezone": "UTC",
        "raw_from": raw_days.map(|days| Days::text(days.first)),
        "state": state,
        "waiting": waiting,
        "moving": moving,
        "difference": difference,
        "first_difference": first.map(|(_, difference)| difference),
        "split_visits": split_visits,
        "checks": results,
    }))
}

/// When the newest batch of each gateway arrived, Unix ms.
pub async fn last_arrivals(store: &Store) -> Result<BTreeMap<String, u64>, QueryError> {
    let newest = format!("SELECT toString(gateway), max(arrived_ms) FROM {} GROUP BY gateway", table::BATCHES);
    let rows = store.rows(Statement::new(&newest)).await?;
    let arrival = |row: &Vec<Value>| Ok((text(row, 0)?.to_owned(), number(row, 1)?));
    rows.iter().map(arrival).collect()
}

/// What is audited.
struct Audited<'a> {
    store: &'a Store,
    site: &'a str,
    days: Days,
    /// Unix seconds: the end of the days, and, if raw rows are compared, of all visits that began on them.
    end_s: u64,
}

/// What a check found.
struct Compared {
    days: Vec<Day>,
    /// The first key that differs, and its day.
    first: Option<(u32, Value)>,
    /// What differed was another thing at each look.
    moving: bool,
}

impl Audited<'_> {
    async fn until_visits_end(self) -> Result<Self, QueryError> {
        let mut statement = Statement::new(&format!("SELECT max(last_ms) FROM {} WHERE ", table::VISITS));
        self.push_stamped(&mut statement);
        let rows = self.store.rows(statement).await?;
        let last_ms = rows.first().map_or(Ok(0), |row| number(row, 0))?;
        Ok(Self { end_s: self.end_s.max(last_ms / 1000 + 1), ..self })
    }

    /// Looks until nothing differs, or the same thing differs twice. The second reach knows of every flush that the look
    /// before could see a part of, so what stays the same after it is not on its way.
    async fn compare<F, L>(&self, check: &Check, reach: &mut Reach, look: &F) -> Result<Compared, QueryError>
    where
        F: Fn() -> L,
        L: Future<Output = Result<Reach, QueryError>>,
    {
        let mut before: Vec<Vec<Value>> = Vec::new();
        let mut looks = 0;
        loop {
            looks += 1;
            let sums = self.store.rows(self.sums(check, reach)).await?;
            let days = sums.iter().map(|row| Day::of(row)).collect::<Result<Vec<_>, _>>()?;
            if days.iter().all(|day| day.differing == 0) {
                return Ok(Compared { days, first: None, moving: false });
            }
            let found = self.store.rows(self.differences(check, reach)).await?;
            // Day, key and what is stored; the other side is counted up to the reach.
            let lasting = found.iter().find(|row| before.iter().any(|seen| seen.get(..3) == row.get(..3)));
            let incomplete = check.over == Over::RawDays && reach.is_waiting();
            if let Some(row) = lasting.or(found.first().filter(|_| incomplete)) {
                return Ok(Compared { days, first: Some(described(check, row)?), moving: false });
            }
            if looks == LOOKS {
                return Ok(Compared { days, first: None, moving: true });
            }
            before = found;
            *reach = look().await?;
        }
    }

    /// A row a day: its sums on both sides, and how many keys differ.
    fn sums(&self, check: &Check, reach: &Reach) -> Statement {
        let mut statement = Statement::new("SELECT day, sumForEach(l), sumForEach(r), countIf(l != r) FROM (");
        self.push_compared(&mut statement, check, reach);
        statement.push(") GROUP BY day ORDER BY day");
        statement
    }

    /// The keys that differ.
    fn differences(&self, check: &Check, reach: &Reach) -> Statement {
        let mut statement = Statement::new("SELECT day, key, l, r FROM (");
        self.push_compared(&mut statement, check, reach);
        statement.push(&format!(") WHERE l != r ORDER BY day, key LIMIT {SOUGHT_MAX}"));
        statement
    }

    /// Day, key, and the figures of both sides, zeros where a side lacks the key.
    fn push_compared(&self, statement: &mut Statement, check: &Check, reach: &Reach) {
        let zeros = format!("arrayWithConstant({}, toUInt64(0))", check.figures.len());
        statement.push("SELECT day, key, sumForEach(a) AS l, sumForEach(b) AS r FROM (");
        statement.push(&format!("SELECT day, key, v AS a, {zeros} AS b FROM ("));
        (check.left)(self, reach, statement);
        statement.push(&format!(") UNION ALL SELECT day, key, {zeros} AS a, v AS b FROM ("));
        (check.right)(self, reach, statement);
        statement.push(")) GROUP BY day, key");
    }

    async fn split_visits(&self, reach: &Reach) -> Result<u64, QueryError> {
        let mut statement = Statement::new("SELECT countIf(later) FROM (");
        self.push_sessions(&mut statement, reach);
        statement.push(")");
        let rows = self.store.rows(statement).await?;
        Ok(rows.first().map_or(Ok(0), |row| number(row, 0))?)
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
