//! Who leads each shard, and which flush is its next. The one place where epoch, term and number are compared.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use proto::uplink::{self, Durable, GatewayPosition, Leadership, Outcomes, Progress};
use tokio::{sync::watch, time::Instant};
use tracing::{info, warn};

use super::{BooksError, Central, Ended, assembly::Whole, refused};
use crate::{
    control::shards::ShardId,
    metrics::FlushResult,
    store::{Accepted, Flush},
};

/// The shards that were led since central started. There is one a shard of a region, so a deployment bounds them.
#[derive(Debug, Default)]
pub struct Shards {
    // A shard's lock is held from the comparison of a term to the end of what depends on it, so that no older leader
    // passes between the two.
    standings: Mutex<HashMap<ShardId, Arc<tokio::sync::Mutex<Standing>>>>,
    /// Changes when a flush is accepted or an epoch opened.
    told: watch::Sender<BTreeMap<ShardId, Arc<Told>>>,
}

#[derive(Debug, Default)]
struct Standing {
    epoch: u64,
    term: u64,
    next_flush: u64,
    accepted: Accepted,
}

/// What gateways are told of a shard.
#[derive(Debug)]
pub(super) struct Told {
    epoch: u64,
    accepted: Accepted,
}

impl Standing {
    fn check(&self, id: &ShardId, epoch: u64, term: u64) -> Result<(), Ended> {
        let ShardId { region, shard } = id;
        if epoch != self.epoch {
            return Err(refused(format!("shard {region}/{shard} is in epoch {}, not {epoch}", self.epoch)));
        }
        self.check_term(id, term)
    }

    fn check_term(&self, id: &ShardId, term: u64) -> Result<(), Ended> {
        let ShardId { region, shard } = id;
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
        let accepted = self.books.accepted(id).await?;
        let state = self.books.lead(id, accepted.epoch).await?;
        let gateways = self.books.gateways(&id.region).await?;
        // Flushes of an epoch begin at 0, whatever was accepted of the one before.
        let next_flush = if accepted.epoch == state.epoch { accepted.next_flush } else { 0 };
        let watermark_ms = accepted.watermark_ms;
        // Redis need not know a retired gateway any more, so nothing is compared with what it had reached.
        let served = |gateway: &String| !gateways.retired.contains(gateway);
        let vector = accepted.vector.iter().filter(|position| served(&position.gateway)).cloned().collect();
        let durable = state.durable.into_iter().filter(|(gateway, _)| served(gateway));
        *standing = Standing { epoch: state.epoch, term: state.term, next_flush, accepted };
        self.shards.tell(id, &standing);
        self.books.led(id, state.epoch, next_flush);
        info!(region = id.region, shard = id.shard, epoch = state.epoch, term = state.term, "shard has a new leader");
        Ok(Leadership {
            term: state.term,
            epoch: state.epoch,
            next_flush,
            open_flush: state.open_flush,
            durable: durable.map(|(gateway, lsn)| GatewayPosition { gateway, lsn, ..Default::default() }).collect(),
            accepted: vector,
            gateways: gateways.entered,
            watermark_ms,
        })
    }

    /// Accepts a flush, or finds that it was accepted before. After this it may be acknowledged.
    pub(super) async fn accept(&self, id: &ShardId, Whole { flush, counts }: Whole) -> Result<(), Ended> {
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
        let began = Instant::now();
        let mut accepted = standing.accepted.clone();
        accepted.advance(&flush);
        let (bytes, cut_ms) = (flush.rows.bytes(), flush.cut_ms);
        if let Err(error) = self.keep_whole(id, &counts.outcomes, flush).await {
            self.metrics.flush(FlushResult::Failed);
            return Err(error.into());
        }
        (standing.next_flush, standing.accepted) = (n + 1, accepted);
        self.shards.tell(id, &standing);
        self.metrics.flush(FlushResult::Accepted);
        self.metrics.accept_seconds.observe(began.elapsed().as_secs_f64());
        self.metrics.flush_rows.inc_by(counts.rows);
        self.metrics.flush_bytes.inc_by(bytes);
        self.metrics.unknown_site_rows.inc_by(self.unknown_site_rows(&counts.of_site));
        self.metrics.flush_age_seconds.set(self.seconds_since(cut_ms));
        Ok(())
    }

    /// Outcomes first: of a flush that is accepted none may be missing, and those of one that is not are never asked for,
    /// or lose against the higher epoch of what replaced them.
    async fn keep_whole(&self, id: &ShardId, outcomes: &[Outcomes], flush: Flush) -> Result<(), BooksError> {
        if !outcomes.is_empty() {
            self.books.keep_outcomes(id, outcomes).await?;
        }
        self.books.accept(id, flush).await
    }

    /// Opens the next epoch of a shard for its leader: every flush of the one so far is refused from now on. Returns the
    /// epoch and what was accepted until now.
    pub(super) async fn open_epoch(&self, id: &ShardId, term: u64, reason: &str) -> Result<(u64, Accepted), Ended> {
        let standing = self.shards.of(id);
        let mut standing = standing.lock().await;
        standing.check_term(id, term)?;
        let epoch = self.books.open_epoch(id).await?;
        (standing.epoch, standing.next_flush) = (epoch, 0);
        self.shards.tell(id, &standing);
        self.books.led(id, epoch, 0);
        self.metrics.epochs.inc();
        warn!(region = id.region, shard = id.shard, epoch, term, reason, "shard is rebuilt under a new epoch");
        self.books.delete_unfinished().await?;
        Ok((epoch, standing.accepted.clone()))
    }

    /// What was accepted of a shard, for the leader of its rebuild.
    pub(super) async fn rebuilding(&self, id: &ShardId, epoch: u64, term: u64) -> Result<Accepted, Ended> {
        let standing = self.shards.of(id);
        let standing = standing.lock().await;
        standing.check(id, epoch, term)?;
        Ok(standing.accepted.clone())
    }

    /// Keeps what the leader says is durable in its Redis. Returns the highest number of an open flush that is kept.
    pub(super) async fn keep(&self, id: &ShardId, durable: Durable) -> Result<u64, Ended> {
        let standing = self.shards.of(id);
        let standing = standing.lock().await;
        standing.check(id, durable.epoch, durable.term)?;
        Ok(self.books.keep_durable(id, durable.open_flush, durable.vector).await?)
    }

    /// Takes the live figures of a leader that still leads.
    pub(super) async fn hear(&self, id: &ShardId, term: u64, said: uplink::Live) -> Result<(), Ended> {
        let standing = self.shards.of(id);
        let standing = standing.lock().await;
        standing.check(id, said.epoch, term)?;
        self.books.said(id, said);
        Ok(())
    }

    /// The retired among the gateways of a vector.
    pub(super) fn retired(&self, vector: &[GatewayPosition]) -> Vec<String> {
        let published = self.books.published();
        let published = published.borrow();
        let retired = vector.iter().filter(|position| published.retired.contains(&position.gateway));
        retired.map(|position| position.gateway.clone()).collect()
    }

    /// The highest LSN known of a gateway, per shard: told as durable, or in the vector of an accepted flush.
    pub(super) async fn known(&self, region: &str, gateway: &str) -> Result<BTreeMap<u32, u64>, Ended> {
        let mut known = self.books.durable_of(region, gateway).await?;
        for progress in self.progress(region, gateway).await? {
            if progress.accepted > 0 {
                let lsn = known.entry(progress.shard).or_default();
                *lsn = progress.accepted.max(*lsn);
            }
        }
        Ok(known)
    }

    /// A notice of every change of what [`Central::progress`] says.
    pub(super) fn progressing(&self) -> watch::Receiver<BTreeMap<ShardId, Arc<Told>>> {
        self.shards.told.subscribe()
    }

    /// How far a gateway has come in each shard of its region.
    pub(super) async fn progress(&self, region: &str, gateway: &str) -> Result<Vec<Progress>, Ended> {
        for (shard, epoch) in self.books.shards(region).await? {
            let id = ShardId { region: region.to_owned(), shard };
            if !self.shards.told.borrow().contains_key(&id) {
                self.look_up(&id, epoch).await?;
            }
        }
        let told = self.shards.told.borrow();
        let of_region = told.iter().filter(|(id, _)| id.region == region);
        Ok(of_region.map(|(id, told)| told.progress(id.shard, gateway)).collect())
    }

    /// Learns where a shard stands that nobody has led since central started.
    async fn look_up(&self, id: &ShardId, epoch: u64) -> Result<(), Ended> {
        let standing = self.shards.of(id);
        let mut standing = standing.lock().await;
        if standing.epoch == 0 {
            standing.accepted = self.books.accepted(id).await?;
            standing.epoch = epoch.max(standing.accepted.epoch);
            self.shards.tell(id, &standing);
        }
        Ok(())
    }

    /// What flushes carried of a gateway's outcomes behind `after`, and how far it was accepted at that moment.
    pub(super) async fn recall(
        &self,
        id: &ShardId,
        gateway: &str,
        after: u64,
    ) -> Result<(Progress, Vec<Outcomes>), Ended> {
        let epochs = self.books.shards(&id.region).await?;
        let Some(epoch) = epochs.get(&id.shard) else {
            return Err(refused(format!("shard {}/{} was never led", id.region, id.shard)));
        };
        self.look_up(id, *epoch).await?;
        let standing = self.shards.of(id);
        let standing = standing.lock().await; // no flush is accepted between the two
        let progress = Told::of(&standing).progress(id.shard, gateway);
        Ok((progress, self.books.outcomes(id, gateway, after).await?))
    }

    /// Rows of sites that central does not know are stored like all others: no row may hold up a shard.
    fn unknown_site_rows(&self, rows_of_site: &HashMap<String, u64>) -> u64 {
        let published = self.books.published();
        let sites = &published.borrow().sites;
        rows_of_site.iter().filter(|(site, _)| !sites.contains_key(*site)).map(|(_, rows)| rows).sum()
    }

    fn seconds_since(&self, cut_ms: u64) -> f64 {
        let now_ms = u64::try_from(self.books.now().as_millisecond()).unwrap_or(0);
        now_ms.saturating_sub(cut_ms) as f64 / 1000.0
    }
}

impl Told {
    fn of(standing: &Standing) -> Self {
        Self { epoch: standing.epoch, accepted: standing.accepted.clone() }
    }

    fn progress(&self, shard: u32, gateway: &str) -> Progress {
        let GatewayPosition { lsn, applied_by, .. } = self.accepted.of(gateway);
        Progress { shard, epoch: self.epoch, accepted: lsn, watermark_ms: self.accepted.watermark_ms, applied_by }
    }
}

impl Shards {
    fn of(&self, id: &ShardId) -> Arc<tokio::sync::Mutex<Standing>> {
        // Nothing that could panic happens under this lock but an allocation.
        let mut standings = self.standings.lock().unwrap_or_else(PoisonError::into_inner);
        standings.entry(id.clone()).or_default().clone()
    }

    fn tell(&self, id: &ShardId, standing: &Standing) {
        self.told.send_modify(|told| drop(told.insert(id.clone(), Arc::new(Told::of(standing)))));
    }
}
