//! The bucket of a cut flush, read and turned into rows. It does not change any more, so it is read in steps.

use std::collections::{BTreeMap, BTreeSet};

use proto::uplink::{FlushRows, LedgerRow, Outcomes, RollupRow, UniqueRow};
use redis::FromRedisValue;

use crate::counter::{Counter, Metric, Sighting, Tally, UnknownField};
use crate::link::{Link, LinkError};
use crate::{outcome, visit};

/// Fields asked for at a time: a step stays well below a millisecond of Redis's one thread.
const SCAN_COUNT: usize = 1000;

/// All rows of flush `n`, which is cut.
pub async fn read(link: &mut Link, n: u64) -> Result<FlushRows, LinkError> {
    let mut counters = scan_hash(link, &format!("wt:{n}")).await?;
    counters.append(&mut scan_hash(link, &format!("w:{n}")).await?);
    let uniques: BTreeSet<Vec<u8>> = scan(link, "SSCAN", &format!("wu:{n}")).await?;
    let states: BTreeMap<Vec<u8>, Vec<u8>> = scan_hash(link, &format!("wv:{n}")).await?;

    let (rollups, ledger) = rows_of_counters(&counters)?;
    let visits = states.values().map(|state| visit::unpack(state)).collect::<Result<_, _>>()?;
    let outcomes = rows_of_outcomes(&scan_hash(link, &format!("wo:{n}")).await?)?;
    Ok(FlushRows { rollups, visits, uniques: rows_of_sightings(&uniques)?, ledger, outcomes })
}

/// Rollup and ledger rows, in the order of their keys: the same bucket gives the same bytes each time.
pub(crate) fn rows_of_counters(
    counters: &BTreeMap<Vec<u8>, u64>,
) -> Result<(Vec<RollupRow>, Vec<LedgerRow>), LinkError> {
    let mut rollups: BTreeMap<_, RollupRow> = BTreeMap::new();
    let mut ledger: BTreeMap<_, LedgerRow> = BTreeMap::new();
    for (field, count) in counters {
        match Counter::from_field(field)? {
            Counter::Rollup { kind, metric, minute, site, value } => {
                let row = rollups.entry((site.clone(), kind, value.clone(), minute)).or_insert_with(|| RollupRow {
                    site,
                    kind: kind.into(),
                    value,
                    minute,
                    ..Default::default()
                });
                match metric {
                    Metric::Pageviews => row.pageviews += count,
                    Metric::Events => row.events += count,
                    Metric::EngagedMs => row.engaged_ms += count,
                }
            }
            Counter::Ledger { reason, tally, day, site } => {
                let row = ledger.entry((site.clone(), day, reason)).or_insert_with(|| LedgerRow {
                    site,
                    day,
                    reason: reason as u32,
                    ..Default::default()
                });
                match tally {
                    Tally::Events => row.events += count,
                    Tally::Batches => row.batches += count,
                    Tally::Duplicates => row.duplicates += count,
                }
            }
        }
    }
    Ok((rollups.into_values().collect(), ledger.into_values().collect()))
}

fn rows_of_sightings(members: &BTreeSet<Vec<u8>>) -> Result<Vec<UniqueRow>, LinkError> {
    let mut rows: BTreeMap<_, Vec<u64>> = BTreeMap::new();
    for member in members {
        let Sighting { kind, quarter, site, value, visitor } = Sighting::from_member(member)?;
        rows.entry((site, kind, value, quarter)).or_default().push(visitor);
    }
    let row = |((site, kind, value, quarter), mut visitors): (_, Vec<u64>)| {
        visitors.sort_unstable();
        UniqueRow { site, kind: proto::uplink::Kind::into(kind), value, quarter, visitors }
    };
    Ok(rows.into_iter().map(row).collect())
}

/// In the order of each gateway's log.
fn rows_of_outcomes(stored: &BTreeMap<Vec<u8>, Vec<u8>>) -> Result<Vec<Outcomes>, LinkError> {
    let row = |(field, packed): (&Vec<u8>, &Vec<u8>)| -> Option<Outcomes> {
        let (gateway, last) = std::str::from_utf8(field).ok()?.rsplit_once(':')?;
        Some(Outcomes { gateway: gateway.to_owned(), ..outcome::unpack(last.as_bytes(), packed).ok()? })
    };
    let rows = stored.iter().map(|stored| row(stored).ok_or_else(|| UnknownField(stored.0.clone())));
    let mut rows = rows.collect::<Result<Vec<_>, _>>()?;
    rows.sort_unstable_by(|a, b| (&a.gateway, a.last).cmp(&(&b.gateway, b.last)));
    Ok(rows)
}

/// All fields of a hash.
pub(crate) async fn scan_hash<T: FromRedisValue>(
    link: &mut Link,
    name: &str,
) -> Result<BTreeMap<Vec<u8>, T>, LinkError> {
    scan(link, "HSCAN", name).await
}

/// Every element of a hash or set. A scan may show an element twice when the table grows or shrinks meanwhile: the
/// collection keeps one, the later.
async fn scan<C, T>(link: &mut Link, command: &str, name: &str) -> Result<C, LinkError>
where
    C: Default + Extend<T>,
    T: FromRedisValue,
{
    let key = link.shard.key(name);
    let (mut cursor, mut all) = (0u64, C::default());
    loop {
        let mut step = redis::cmd(command);
        step.arg(&key).arg(cursor).arg("COUNT").arg(SCAN_COUNT);
        let (next, elements): (u64, Vec<T>) = step.query_async(&mut link.connection).await?;
        all.extend(elements);
        cursor = next;
        if cursor == 0 {
            return Ok(all);
        }
    }
}
