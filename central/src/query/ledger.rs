//! What became of everything that a site's pages sent: counted, dropped and why, missing, given up.
//!
//! `sent = counted + dropped` holds by reason and by day over distinct batches; what never came stands beside it.

mod reasons;

use std::collections::BTreeMap;

use jiff::Timestamp;
use proto::limits::{ACCEPT_LONG_MS, ACCEPT_SHORT_MS, SID_ROTATES_MS};
use serde_json::{Value, json};

use super::QueryError;
use super::days::Days;
use crate::store::{Statement, Store, StoreError, number, table};
use reasons::Kind;

/// Said with every figure of completeness.
const COMPLETENESS: &str = "counted / (sent + missing + given up), in events: a missing batch counts as the average \
    batch of the period. A batch that its page gave up may also be missing in the numbering, and then counts twice: the figure \
    may be lower than the truth for it, never higher. What a page never numbered and never reported, because it was closed without a network, is unknown \
    to everyone and not in it";

/// What happened to the events of one day, or of all days.
#[derive(Debug, Default, Clone)]
struct Sums {
    counted: u64,
    /// Distinct batches.
    batches: u64,
    /// Transmissions of a batch that was there before.
    duplicates: u64,
    /// Reason to events.
    dropped: BTreeMap<u32, u64>,
    /// Reason to events and numbered batches.
    given_up: BTreeMap<u32, (u64, u64)>,
}

/// Batches whose numbers were never seen though a later one of their stream was.
#[derive(Debug, Default, Clone, Copy)]
struct Missing {
    /// They are not accepted any more.
    batches: u64,
    /// They may still come.
    awaited: u64,
}

/// The ledger of a site over days of arrival, UTC. `raw_from_ms`: from when on central has all of the site's batches, without
/// which nobody knows of missing ones.
///
/// Answers `{site_id, from, to, timezone, sent, counted, batches, dropped: {events, reasons}, duplicates,
/// given_up: {events, batches, reasons}, missing: {batches, awaited, events_estimated} or null, completeness (percent, null
/// without events), completeness_definition, days: [{day, sent, counted, batches, dropped, duplicates, given_up}]}`; a reason
/// is `{reason, events, what, advice}`.
pub async fn answer(
    store: &Store,
    site: &str,
    raw_from_ms: Option<u64>,
    days: Days,
    now: Timestamp,
) -> Result<Value, QueryError> {
    let by_day = read(store, site, days).await?;
    let missing = match raw_from_ms {
        Some(from_ms) => Some(missing(store, site, from_ms, days, now).await?),
        None => None,
    };
    let mut all = Sums::default();
    for sums in by_day.values() {
        all.add(sums);
    }
    Ok(shape(site, days, &by_day, &all, missing))
}

/// The name of a reason by its number, as the ledger keeps it.
pub(super) fn reason(number: &str) -> String {
    number.parse().map_or_else(|_| number.to_owned(), reasons::name)
}

async fn read(store: &Store, site: &str, days: Days) -> Result<BTreeMap<u32, Sums>, StoreError> {
    let mut statement = Statement::new("SELECT day, reason, sum(events), sum(batches), sum(duplicates)");
    statement.push(&format!(" FROM {} FINAL WHERE site = ", table::LEDGER)).bind(site);
    statement.push(&format!(" AND day >= {} AND day <= {} GROUP BY day, reason", days.first, days.last));
    let mut by_day: BTreeMap<u32, Sums> = BTreeMap::new();
    for row in store.rows(statement).await? {
        let (day, reason) = (number(&row, 0)? as u32, number(&row, 1)? as u32);
        by_day.entry(day).or_default().take(reason, number(&row, 2)?, number(&row, 3)?, number(&row, 4)?);
    }
    Ok(by_day)
}

/// Holes below the highest number of each stream that began on these days, and not before raw rows came.
async fn missing(store: &Store, site: &str, from_ms: u64, days: Days, now: Timestamp) -> Result<Missing, StoreError> {
    let start_s = days.start().max(from_ms.div_ceil(1000)).min(u32::MAX.into());
    let now_s = u64::try_from(now.as_second()).unwrap_or(0);
    let [short_s, long_s] = [ACCEPT_SHORT_MS, ACCEPT_LONG_MS].map(|accept| (SID_ROTATES_MS + accept) / 1000);
    let mut statement = Statement::new(&format!(
        "SELECT sumIf(holes, open), sumIf(holes, NOT open) FROM (SELECT max(seq) - uniqExact(seq) AS holes, \
         intDiv(toUInt32(any(stamp)), 3600) * 3600 + if(any(class) = 0, {short_s}, {long_s}) >= {now_s} AS open"
    ));
    statement.push(&format!(" FROM {} WHERE site = ", table::BATCHES)).bind(site);
    statement.push(&format!(" AND stamp >= {start_s} AND stamp < {} GROUP BY sid)", days.end()));
    let rows = store.rows(statement).await?;
    rows.first()
        .map_or(Ok(Missing::default()), |row| Ok(Missing { awaited: number(row, 0)?, batches: number(row, 1)? }))
}

impl Sums {
    fn take(&mut self, reason: u32, events: u64, batches: u64, duplicates: u64) {
        self.duplicates += duplicates;
        match reasons::kind(reason) {
            Kind::Counted => {
                self.counted += events;
                self.batches += batches;
            }
            Kind::Dropped => *self.dropped.entry(reason).or_default() += events,
            Kind::GivenUp => {
                let of = self.given_up.entry(reason).or_default();
                *of = (of.0 + events, of.1 + batches);
            }
        }
    }

    fn add(&mut self, other: &Self) {
        self.counted += other.counted;
        self.batches += other.batches;
        self.duplicates += other.duplicates;
        for (reason, events) in &other.dropped {
            *self.dropped.entry(*reason).or_default() += events;
        }
        for (reason, (events, batches)) in &other.given_up {
            let of = self.given_up.entry(*reason).or_default();
            *of = (of.0 + events, of.1 + batches);
        }
    }

    fn dropped(&self) -> u64 {
        self.dropped.values().sum()
    }

    fn given_up(&self) -> u64 {
        self.given_up.values().map(|(events, _)| events).sum()
    }

    fn sent(&self) -> u64 {
        self.counted + self.dropped()
    }
}

fn shape(site: &str, days: Days, by_day: &BTreeMap<u32, Sums>, all: &Sums, missing: Option<Missing>) -> Value {
    let given_up_batches: u64 = all.given_up.values().map(|(_, batches)| batches).sum();
    let missing_events = missing.map_or(0, |of| match all.batches {
        0 => 0,
        batches => (u128::from(of.batches) * u128::from(all.sent())).div_ceil(u128::from(batches)) as u64,
    });
    let expected = all.sent() + missing_events + all.given_up();
    let each_day = by_day.iter().map(|(day, sums)| {
        json!({
            "day": Days::text(*day), "sent": sums.sent(), "counted": sums.counted, "batches": sums.batches,
            "dropped": sums.dropped(), "duplicates": sums.duplicates, "given_up": sums.given_up(),
        })
    });
    json!({
        "site_id": site,
        "from": Days::text(days.first),
        "to": Days::text(days.last),
        "timezone": "UTC",
        "sent": all.sent(),
        "counted": all.counted,
        "batches": all.batches,
        "dropped": {
            "events": all.dropped(),
            "reasons": listed(all.dropped.iter().map(|(reason, events)| (*reason, *events))),
        },
        "duplicates": all.duplicates,
        "given_up": {
            "events": all.given_up(),
            "batches": given_up_batches,
            "reasons": listed(all.given_up.iter().map(|(reason, (events, _))| (*reason, *events))),
        },
        "missing": missing.map(|of| json!({
            "batches": of.batches, "awaited": of.awaited, "events_estimated": missing_events,
        })),
        "completeness": percent(all.counted, expected),
        "completeness_definition": COMPLETENESS,
        "days": each_day.collect::<Vec<Value>>(),
    })
}

/// The most frequent first.
fn listed(reasons: impl Iterator<Item = (u32, u64)>) -> Vec<Value> {
    let mut reasons: Vec<(u32, u64)> = reasons.filter(|(_, events)| *events > 0).collect();
    reasons.sort_by_key(|(reason, events)| (std::cmp::Reverse(*events), *reason));
    let described = |(reason, events)| {
        let [what, advice] = reasons::words(reason);
        json!({ "reason": reasons::name(reason), "events": events, "what": what, "advice": advice })
    };
    reasons.into_iter().map(described).collect()
}

/// To two digits, rounded down: only what is whole is called 100.
fn percent(part: u64, whole: u64) -> Option<f64> {
    let hundredths = (u128::from(part) * 10_000).checked_div(u128::from(whole))?;
    Some(hundredths as f64 / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_whole_is_complete() {
        assert_eq!((percent(0, 0), percent(1, 1)), (None, Some(100.0)));
        assert_eq!((percent(999_999, 1_000_000), percent(1, 3)), (Some(99.99), Some(33.33)));
    }
}
