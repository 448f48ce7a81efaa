//! A Redis that is behind central is emptied and rebuilt: from what central has accepted, and from the gateways' logs.
//!
//! Nothing is applied, cut or settled before every gateway that had counted in the shard has remembered what. Whatever breaks
//! on the way, the next leadership finds it out by the comparison, and begins again or goes on.

use std::collections::BTreeSet;
use std::time::Duration;

use proto::uplink::{Leadership, Restore};
use regional_redis::{Approval, Link};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::barrier;
use crate::compare::Mismatch;
use crate::cut::leads;
use crate::lead::{Approved, Interrupted};
use crate::metrics::Metrics;
use crate::service::Readiness;
use crate::uplink::{Uplink, UplinkError};

/// From one look at who is waited for to the next.
const POLL: Duration = Duration::from_secs(1);

/// Empties Redis under an epoch that central opens, and gives it what central has accepted. From then on gateways may
/// register.
pub async fn prepare(
    link: &mut Link,
    uplink: &mut Uplink,
    shard: u32,
    leadership: &Leadership,
    reason: String,
) -> Result<Approved, Interrupted> {
    let (began, term) = (Instant::now(), leadership.term);
    let mut part = uplink.open_epoch(shard, term, reason).await?;
    let (epoch, horizon_ms) = (part.epoch, part.watermark_ms);
    let (waiting, retired) = (std::mem::take(&mut part.waiting), std::mem::take(&mut part.retired));
    everyone_is_named(leadership, &waiting, &retired)?;
    let preparing = link.begin_rebuild(term, epoch).await?.ok_or(Interrupted::LowTerm { given: term })?;
    leads(link.wipe(&preparing).await?)?;
    let mut visits = 0;
    loop {
        of_epoch(&part, epoch)?;
        visits += part.visits.len();
        leads(link.restore_visits(&preparing, &part.visits).await?)?;
        leads(link.remember_all(&preparing, &part.batches).await?)?;
        if part.last {
            break;
        }
        part = uplink.restore("epoch").await?;
    }
    let opened = link.open_rebuild(&preparing, horizon_ms, &waiting, &retired).await?;
    let leader = opened.ok_or(Interrupted::Fenced)?;
    barrier::raise(link).await?;
    let (waiting, retired, batches) = (waiting.len(), retired.len(), link.remembered().await?);
    info!(
        epoch,
        visits,
        batches,
        waiting,
        retired,
        seconds = began.elapsed().as_secs_f64(),
        "redis holds what central has accepted"
    );
    Ok(Approved { leader, epoch })
}

/// A rebuild that waits for gateways, if it does.
pub struct Rebuild {
    /// To the Redis that is rebuilt.
    pub link: Link,
    /// Which is rebuilt.
    pub shard: u32,
    /// Under which it is rebuilt.
    pub epoch: u64,
    /// Who leads it.
    pub leader: Approval,
}

impl Rebuild {
    /// Returns when every gateway has remembered or was retired: at once if Redis waits for nobody.
    pub async fn wait(
        &mut self,
        uplink: &mut Uplink,
        metrics: &Metrics,
        readiness: &Readiness,
    ) -> Result<(), Interrupted> {
        let (began, mut said) = (Instant::now(), Vec::new());
        loop {
            let waiting = self.link.waiting().await?;
            metrics.rebuilding.set((!waiting.is_empty()).into());
            metrics.waiting_gateways.set(waiting.len().try_into().unwrap_or(i64::MAX));
            if waiting.is_empty() {
                break;
            }
            if waiting != said {
                let gateways = waiting.join(", ");
                let epoch = self.epoch;
                warn!(
                    epoch,
                    gateways,
                    "the rebuild waits for gateways; one that is lost must be retired (tideline retire-gateway ID)"
                );
                readiness.not_ready(&format!(
                    "redis is rebuilt under epoch {epoch}, which waits for the gateways {gateways}"
                ));
                said.clone_from(&waiting);
            }
            self.stand_in(uplink, waiting).await?;
            tokio::select! {
                biased;
                ended = uplink.ended() => return Err(ended.into()),
                () = tokio::time::sleep(POLL) => {}
            }
        }
        if !said.is_empty() {
            barrier::raise(&mut self.link).await?;
            let (batches, seconds) = (self.link.remembered().await?, began.elapsed().as_secs_f64());
            info!(
                epoch = self.epoch,
                batches, seconds, "redis is rebuilt: every gateway has remembered what it had counted"
            );
        }
        Ok(())
    }

    /// Central's rows take the place of the logs of those that were retired meanwhile: their bits first.
    async fn stand_in(&mut self, uplink: &mut Uplink, waiting: Vec<String>) -> Result<(), Interrupted> {
        let mut retired = BTreeSet::new();
        let mut part = uplink.stand_in(self.shard, self.leader.term, self.epoch, waiting.clone()).await?;
        loop {
            of_epoch(&part, self.epoch)?;
            retired.append(&mut part.retired.drain(..).collect());
            leads(self.link.remember_all(&self.leader, &part.batches).await?)?;
            if part.last {
                break;
            }
            part = uplink.restore("question for retired gateways").await?;
        }
        let retired: Vec<String> = waiting.into_iter().filter(|gateway| retired.contains(gateway)).collect();
        if retired.is_empty() {
            return Ok(());
        }
        leads(self.link.stand_in(&self.leader, &retired).await?)?;
        warn!(gateways = retired.join(", "), "retired: central's raw rows stand in for their logs");
        Ok(())
    }
}

/// Nobody else would set the bits of what a gateway had counted.
fn everyone_is_named(leadership: &Leadership, waiting: &[String], retired: &[String]) -> Result<(), Mismatch> {
    let mut counted = leadership.accepted.iter().filter(|position| position.lsn > 0).map(|position| &position.gateway);
    let nobodys = counted.find(|gateway| !waiting.contains(gateway) && !retired.contains(gateway));
    nobodys.map_or(Ok(()), |gateway| Err(Mismatch::Nobodys { gateway: gateway.clone() }))
}

/// A part of another epoch belongs to a rebuild that was given up.
fn of_epoch(part: &Restore, epoch: u64) -> Result<(), UplinkError> {
    if part.epoch == epoch {
        return Ok(());
    }
    Err(UplinkError::Unexpected(format!("a part of a restore under epoch {}", part.epoch), "rebuild of another"))
}
