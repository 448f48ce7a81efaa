//! The batches of a site that were counted, one by one: what a client's own record of acknowledgements is compared with.

use serde_json::{Value, json};

use super::QueryError;
use crate::store::{Statement, Store, number, table};

/// Rows of one page: about 10 MB in memory.
const PAGE_ROWS: usize = 50_000;

/// Where the next page begins: behind this batch.
#[derive(Debug, Clone)]
pub struct Cursor {
    stamp: u64,
    sid: String,
    seq: u64,
}

/// The batches that arrived from `from_ms` up to, not including, `to_ms`, by sid and seq, each as
/// `{sid (hex), seq, events, dropped, gateway, lsn, arrived_ms}`: `events` were counted, `dropped` were not; and where to
/// go on, if there are more. A batch is there once its outcome is durable in its region and its row has come up.
pub async fn page(
    store: &Store,
    site: &str,
    from_ms: u64,
    to_ms: u64,
    after: Option<&Cursor>,
) -> Result<(Vec<Value>, Option<Cursor>), QueryError> {
    let mut statement = Statement::new(
        "SELECT toUInt32(stamp), lower(hex(sid)), seq, events, arraySum(dropped_events), toString(gateway), lsn, arrived_ms",
    );
    statement.push(&format!(" FROM {} FINAL WHERE site = ", table::BATCHES)).bind(site);
    statement.push(&format!(" AND arrived_ms >= {from_ms} AND arrived_ms < {to_ms}"));
    if let Some(Cursor { stamp, sid, seq }) = after {
        statement.push(&format!(" AND (toUInt32(stamp), sid, seq) > ({stamp}, toFixedString(unhex(")).bind(sid);
        statement.push(&format!("), 16), {seq}) AND stamp >= toDateTime({stamp})"));
    }
    statement.push(&format!(" ORDER BY stamp, sid, seq LIMIT {PAGE_ROWS}"));
    let rows = store.rows(statement).await?;
    let next = match rows.last() {
        Some(last) if rows.len() == PAGE_ROWS => {
            let sid = last.get(1).and_then(Value::as_str).unwrap_or_default().to_owned();
            Some(Cursor { stamp: number(last, 0)?, sid, seq: number(last, 2)? })
        }
        _ => None,
    };
    let batches = rows.iter().map(|row| {
        Ok(json!({
            "sid": row.get(1), "seq": number(row, 2)?, "events": number(row, 3)?, "dropped": number(row, 4)?,
            "gateway": row.get(5), "lsn": number(row, 6)?, "arrived_ms": number(row, 7)?,
        }))
    });
    Ok((batches.collect::<Result<_, QueryError>>()?, next))
}
