//! Absolute figures of what is not flushed yet, read every second: they never mix with flushed rows.

use proto::uplink::{Live, LiveBucket, LiveSite};

use crate::bucket::{rows_of_counters, scan_hash};
use crate::link::{Link, LinkError};

/// A visitor counts as present this long after their last arrival.
const PRESENT_MS: u64 = 5 * 60 * 1000;
/// Minutes that a live figure shows, and some for the clocks to differ by. After a long time without a cut the open
/// bucket holds many more.
const MINUTES: u64 = 35;

/// The last minutes' totals in the open bucket and in one that is cut but not settled, and each site's current visitors.
pub async fn read(link: &mut Link, epoch: u64, now_ms: u64) -> Result<Live, LinkError> {
    let shard = link.shard;
    let since_ms = now_ms.saturating_sub(PRESENT_MS);
    // One transaction: a cut in between would hide a bucket.
    let mut pipe = redis::pipe();
    pipe.atomic().cmd("GET").arg(shard.key("n")).cmd("HKEYS").arg(shard.key("c"));
    pipe.cmd("ZRANGE").arg(shard.key("ls")).arg(since_ms).arg("+inf").arg("BYSCORE");
    let (open, cut, sites): (Option<u64>, Vec<u64>, Vec<String>) = pipe.query_async(&mut link.connection).await?;

    let first_minute = (now_ms / 60_000).saturating_sub(MINUTES);
    let mut buckets = Vec::with_capacity(cut.len() + 1);
    for n in cut.into_iter().chain([open.unwrap_or(0)]) {
        let counters = scan_hash(link, &format!("wt:{n}")).await?;
        let (mut totals, _) = rows_of_counters(&counters)?;
        totals.retain(|row| u64::from(row.minute) >= first_minute);
        buckets.push(LiveBucket { n, totals });
    }
    let mut pipe = redis::pipe();
    for site in &sites {
        pipe.cmd("ZCOUNT").arg(shard.key(&format!("l:{site}"))).arg(since_ms).arg("+inf");
    }
    let present: Vec<u64> = if sites.is_empty() { Vec::new() } else { pipe.query_async(&mut link.connection).await? };
    let sites = sites.into_iter().zip(present).map(|(site, current_visitors)| LiveSite { site, current_visitors });
    Ok(Live { shard: shard.0, epoch, buckets, sites: sites.collect() })
}
