//! How fresh and whole raw events are: they come up behind the rollups, each gateway at its own pace.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::period::Period;
use super::{QueryError, audit};
use crate::store::{Statement, Store, number, table};

/// `{complete, events, counted, newest}`: events in raw rows and events in rollups over the period, whole minutes; complete
/// if none is lacking, and no gateway has raw rows of what flushes covered on their way; the newest arrival of any raw row
/// of the site, null without one.
pub(super) async fn of(
    store: &Store,
    site: &str,
    period: &Period,
    retired: &BTreeSet<String>,
) -> Result<Value, QueryError> {
    let (from, to) = (u64::from(period.start_s()), u64::from(period.end_s()));
    let from = from - from % 60;
    let mut statement = Statement::new(&format!("SELECT (SELECT count() FROM {} FINAL", table::EVENTS));
    statement.push(" WHERE counted = 1 AND site = ").bind(site);
    statement.push(&format!(" AND at_ms >= {} AND at_ms < {}), ", from * 1000, to.next_multiple_of(60) * 1000));
    statement.push(&format!("(SELECT sum(pageviews) + sum(events) FROM {} FINAL", table::ROLLUP_1M));
    statement.push(" WHERE kind = 0 AND site = ").bind(site);
    statement.push(&format!(" AND t >= toDateTime({from}) AND t < toDateTime({to})), "));
    statement.push(&format!("(SELECT max(arrived_ms) FROM {} WHERE site = ", table::BATCHES)).bind(site).push(")");
    let rows = store.rows(statement).await?;
    let column = |column| rows.first().map_or(Ok(0), |row| number(row, column));
    let (events, counted, newest_ms) = (column(0)?, column(1)?, column(2)?);
    let newest = Timestamp::from_millisecond(newest_ms as i64).ok().filter(|_| newest_ms > 0);
    // Sums can be equal by chance: an event of a batch that no flush covers yet stands where another is lacking.
    let complete = events >= counted && !audit::reach(store, retired).await?.is_waiting();
    Ok(json!({
        "complete": complete,
        "events": events,
        "counted": counted,
        "newest": newest.map(|at| at.to_string()),
    }))
}
