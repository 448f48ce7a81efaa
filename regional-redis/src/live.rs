//! Absolute figures of what is not flushed yet, read every second: they never mix with flushed rows.

use proto::uplink::{Live, LiveBucket, LiveSite};

use crate::bucket::rows_of_counters;
use crate::link::{Link, LinkError};

/// A visitor counts as present this long after their last arrival.
const PRESENT_MS: u64 = 5 * 60 * 1000;

/// The totals of the open bucket and of one that is cut but not settled, and each site's current visitors.
pub async fn read(link: &mut Link, epoch: u64, now_ms: u64) -> Result<Live, LinkError> {
    let shard = link.shard;
    // One transaction: between a cut's two buckets nothing may slip from one to the other unseen.
    let mut pipe = redis::pipe();
    pipe.cmd("GET").arg(shard.key("n")).cmd("HKEYS").arg(shard.key("c"));
    pipe.cmd("ZRANGE").arg(shard.key("ls")).arg(now_ms.saturating_sub(PRESENT_MS)).arg("+inf").arg("BYSCORE");
    let (open, cut, sites): (Option<u64>, Vec<u64>, Vec<String>) = pipe.atomic().query_async(&mut link.connection).await?;

    let mut numbers = cut;
    numbers.push(open.unwrap_or(0));
    let mut pipe = redis::pipe();
    for n in &numbers {
        pipe.cmd("HGETALL").arg(shard.key(&format!("wt:{n}")));
    }
    for site in &sites {
        let key = shard.key(&format!("l:{site}"));
        pipe.cmd("ZREMRANGEBYSCORE").arg(&key).arg("-inf").arg(format!("({}", now_ms.saturating_sub(PRESENT_MS))).ignore();
        pipe.cmd("ZCARD").arg(&key);
    }
    let answers: Vec<redis::Value> = pipe.query_async(&mut link.connection).await?;
    let (totals, present) = answers.split_at(numbers.len().min(answers.len()));

    let mut buckets = Vec::with_capacity(numbers.len());
    for (n, value) in numbers.into_iter().zip(totals) {
        let counters: Vec<(Vec<u8>, u64)> = redis::from_redis_value(value.clone()).map_err(redis::RedisError::from)?;
        buckets.push(LiveBucket { n, totals: rows_of_counters(&counters)?.0 });
    }
    let mut live_sites = Vec::with_capacity(sites.len());
    for (site, value) in sites.into_iter().zip(present) {
        let current_visitors = redis::from_redis_value(value.clone()).map_err(redis::RedisError::from)?;
        live_sites.push(LiveSite { site, current_visitors });
    }
    Ok(Live { shard: shard.0, epoch, buckets, sites: live_sites })
}
