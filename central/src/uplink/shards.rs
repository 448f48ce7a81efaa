//! Who leads each shard, and which flush is its next. The one place where epoch, term and number are compared.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use jiff::Timestamp;
use proto::uplink::{self, Durable, GatewayPosition, Leadership};
use tracing::info;

use super::{
    Central, Ended,
    assembly::{Whole, row_count},
    refused,
};
use crate::{control::shards::ShardId, metrics::FlushResult};

/// The shards that were led since central started. There is one a shard of a region, so a deployment bounds them.
#[derive(Debug, Default)]
pub struct Shards {
    // A shard's lock is held from the comparison of a term to the end of what depends on it, so that no older leader
    // passes between the two.
    standings: Mutex<HashMap<ShardId, Arc<tokio::sync::Mutex<Standing>>>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Standing {
    epoch: u64,
    term: u64,
    next_flush: u64,
}

impl Standing {
    fn check(&self, id: &ShardId, epoch: u64, term: u64) -> Result<(), Ended> {
        let ShardId { region, shard } = id;
        if epoch != self.epoch {
            return Err(refused(format!("shard {region}/{shard} is in epoch {}, not {epoch}", self.epoch)));
        }
        if term < self.term {
            return Err(refused(format!(
                "another aggregator leads shard {region}/{shard} since: its term is {}, this one's {term}",
                self.term
            )));
        }
        if term > self.term {
            return Err(refused(format!("term {term} of shard {region}/{shard} was never given; say hello first")));
        }
        Ok(())
    }
}

impl Central {
    /// Makes the asker the leader of a shard: every older one loses from now on.
    pub(super) async fn lead(&self, id: &ShardId) -> Result<Leadership, Ended> {
        let standing = self.shards.of(id);
        let mut standing = standing.lock().await;
        let accepted = self.store.accepted(&id.region, id.shard).await?;
        let state = self.control.lead(id, accepted.epoch).await?;
        *standing = Standing { epoch: state.epoch, term: state.term, next_flush: accepted.next_flush };
        self.live.led(id, state.epoch, accepted.next_flush);
        info!(region = id.region, shard = id.shard, epoch = state.epoch, term = state.term, "shard has a new leader");
        Ok(Leadership {
            term: state.term,
            epoch: state.epoch,
            next_flush: accepted.next_flush,
            open_flush: state.open_flush,
            durable: state.durable.into_iter().map(|(gateway, lsn)| GatewayPosition { gateway, lsn }).collect(),
            accepted: accepted.vector,
            gateways: self.control.gateways(&id.region).await?,
            watermark_ms: accepted.watermark_ms,
        })
    }

    /// Accepts a flush, or finds that it was accepted before. After this it may be acknowledged.
    pub(super) async fn accept(&self, id: &ShardId, Whole { flush, bytes }: Whole) -> Result<(), Ended> {
        let standing = self.shards.of(id);
        let mut standing = standing.lock().await;
        standing.check(id, flush.id.epoch, flush.term)?;
        let (n, next) = (flush.id.n, standing.next_flush);
        if n < next {
            self.metrics.flush(FlushResult::Repeated);
            return Ok(());
        }
        if n > next {
            return Err(refused(format!(
                "flush {n} of shard {}/{} came where flush {next} is due; send every flush in its turn",
                id.region, id.shard
            )));
        }
        let (rows, unknown, cut_ms) = (row_count(&flush.rows), self.unknown_site_rows(&flush.rows), flush.cut_ms);
        let began = Instant::now();
        if let Err(error) = self.live.accept(id, flush).await {
            self.metrics.flush(FlushResult::Failed);
            return Err(error.into());
        }
        standing.next_flush = n + 1;
        self.metrics.flush(FlushResult::Accepted);
        self.metrics.accept_seconds.observe(began.elapsed().as_secs_f64());
        self.metrics.flush_rows.inc_by(rows);
        self.metrics.flush_bytes.inc_by(bytes as u64);
        self.metrics.unknown_site_rows.inc_by(unknown);
        self.metrics.flush_age_seconds.set(seconds_since(cut_ms));
        Ok(())
    }

    /// Keeps what the leader says is durable in its Redis. Returns the highest number of an open flush that is kept.
    pub(super) async fn keep(&self, id: &ShardId, durable: Durable) -> Result<u64, Ended> {
        let standing = self.shards.of(id);
        let standing = standing.lock().await;
        standing.check(id, durable.epoch, durable.term)?;
        let vector = durable.vector.into_iter().map(|position| (position.gateway, position.lsn));
        Ok(self.control.keep_durable(id, durable.open_flush, vector).await?)
    }

    /// Takes the live figures of a leader that still leads.
    pub(super) async fn hear(&self, id: &ShardId, term: u64, said: uplink::Live) -> Result<(), Ended> {
        let standing = self.shards.of(id);
        let standing = standing.lock().await;
        standing.check(id, said.epoch, term)?;
        self.live.said(id, said, Instant::now());
        Ok(())
    }

    /// The highest LSN known of a gateway, per shard: told as durable, or in the vector of an accepted flush.
    pub(super) async fn known(&self, region: &str, gateway: &str) -> Result<BTreeMap<u32, u64>, Ended> {
        let mut known = self.control.durable_of(region, gateway).await?;
        for shard in self.control.shards(region).await? {
            let accepted = self.store.accepted(region, shard).await?;
            if let Some(position) = accepted.vector.iter().find(|position| position.gateway == gateway) {
                let lsn = known.entry(shard).or_default();
                *lsn = position.lsn.max(*lsn);
            }
        }
        Ok(known)
    }

    /// Rows of sites that central does not know are stored like all others: no row may hold up a shard.
    fn unknown_site_rows(&self, rows: &uplink::FlushRows) -> u64 {
        let published = self.control.published();
        let sites = &published.borrow().sites;
        let names = rows.rollups.iter().map(|row| &row.site);
        let names = names.chain(rows.visits.iter().map(|row| &row.site));
        let names = names.chain(rows.uniques.iter().map(|row| &row.site));
        let names = names.chain(rows.ledger.iter().map(|row| &row.site));
        names.filter(|name| !sites.contains_key(*name)).count() as u64
    }
}

impl Shards {
    fn of(&self, id: &ShardId) -> Arc<tokio::sync::Mutex<Standing>> {
        // Nothing that could panic happens under this lock but an allocation.
        let mut standings = self.standings.lock().unwrap_or_else(PoisonError::into_inner);
        standings.entry(id.clone()).or_default().clone()
    }
}

fn seconds_since(cut_ms: u64) -> f64 {
    let now_ms = u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0);
    now_ms.saturating_sub(cut_ms) as f64 / 1000.0
}
