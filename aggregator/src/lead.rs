//! One leadership after the other: hello, comparison, approval or rebuild, then flushes until something breaks.

use std::time::Duration;

use proto::uplink::Leadership;
use regional_redis::{Approval, Link, LinkError, Server, Shard, Sign};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::compare::{Mismatch, Verdict, compare};
use crate::config::Config;
use crate::cut::{Cutter, accepted};
use crate::metrics::Metrics;
use crate::rebuild::{self, Rebuild};
use crate::service::{Error, Readiness};
use crate::standby::{self, Standby};
use crate::uplink::{Central, Uplink, UplinkError};
use crate::{barrier, live, memory};

/// A history that does not match stays so until someone acts: asking more often would only cost terms.
const MISMATCH_RETRY: Duration = Duration::from_secs(3);

/// Leads the shard until it is told to stop; while another aggregator leads it, this one stands by.
pub struct Leader {
    /// Settings; where Redis and central are is said below.
    pub config: Config,
    /// The shard's Redis.
    pub server: Server,
    /// The other end of the uplink.
    pub central: Central,
    /// What is told about it.
    pub metrics: Metrics,
    /// Whether it leads.
    pub readiness: Readiness,
}

/// What ends a leadership before its time.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum Interrupted {
    #[error(transparent)]
    Redis(#[from] LinkError),
    #[error(transparent)]
    Uplink(#[from] UplinkError),
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    #[error("redis was led under a higher term than {given}, which central gave: another one is asked for")]
    LowTerm { given: u64 },
    #[error("redis does not take this leader's orders any more")]
    Fenced,
    #[error("another aggregator leads this shard, under term {term}: this one stands by")]
    StandBy { term: u64 },
}

impl Leader {
    /// Ends with the last flush after `stop`. Errors are those that trying again does not mend.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Error> {
        let (mut backoff, mut standby, mut said) = (Backoff::default(), Standby::default(), String::new());
        let mut memory = memory::Level::default();
        while !stop.is_cancelled() {
            let Err(interrupted) = self.lead(&mut backoff, &mut standby, &mut memory, &stop).await else { break };
            self.metrics.leading.set(0);
            self.metrics.interruptions.inc();
            let message = interrupted.to_string();
            self.readiness.not_ready(&message);
            let (wait, is_alarm) = match &interrupted {
                Interrupted::Redis(LinkError::Unfit(_)) => {
                    let Interrupted::Redis(unfit) = interrupted else { continue };
                    return Err(Error::Redis(unfit));
                }
                Interrupted::Mismatch(_) => (MISMATCH_RETRY, true),
                Interrupted::StandBy { .. } => (standby::POLL, false),
                _ => (backoff.next(), false),
            };
            self.metrics.mismatch.set(is_alarm.into());
            // Loud once: the same trouble again and again is one line.
            match (message == said, &interrupted) {
                (true, _) => debug!(reason = message, "still not leading"),
                (false, Interrupted::Mismatch(_)) => error!(reason = message, "nothing is counted until someone acts"),
                (false, Interrupted::StandBy { .. }) => info!(reason = message, "not leading"),
                (false, _) => warn!(reason = message, "not leading, trying again"),
            }
            said = message;
            let _ = stop.run_until_cancelled(tokio::time::sleep(wait)).await;
        }
        Ok(())
    }

    /// One leadership, to its end.
    async fn lead(
        &self,
        backoff: &mut Backoff,
        standby: &mut Standby,
        memory: &mut memory::Level,
        stop: &CancellationToken,
    ) -> Result<(), Interrupted> {
        let Some(opened) = stop.run_until_cancelled(self.open(standby, memory)).await else { return Ok(()) };
        let (mut link, uplink, leadership) = opened?;
        let term = leadership.term;
        let outcome = tokio::select! {
            biased;
            outcome = self.lead_under(link.clone(), uplink, leadership, backoff, memory, stop) => outcome,
            ended = standby::give_signs(link.clone(), term) => Err(ended),
        };
        standby.led(term);
        match outcome {
            Ok(()) => {
                // Whoever stands by waits a little longer if Redis has gone meanwhile.
                let _ = link.leave(term).await;
                Ok(())
            }
            Err(interrupted @ (Interrupted::Fenced | Interrupted::Uplink(UplinkError::Refused(_)))) => {
                Err(standby.successor(&mut link, term).await.map_or(interrupted, |term| Interrupted::StandBy { term }))
            }
            Err(interrupted) => Err(interrupted),
        }
    }

    /// From nothing to a term, unless another leader is alive.
    async fn open(
        &self,
        standby: &mut Standby,
        memory: &mut memory::Level,
    ) -> Result<(Link, Uplink, Leadership), Interrupted> {
        let Config { region, shard, replicas, .. } = &self.config;
        let mut link = Link::connect(&self.server, Shard(*shard)).await?.with_replicas(*replicas);
        link.check_durable().await?;
        if let Some(term) = standby.another(&mut link).await? {
            return Err(Interrupted::StandBy { term });
        }
        // While central is away nothing leaves Redis: that is when it fills up.
        memory.look(&mut link, &self.metrics).await?;
        let (uplink, leadership) = self.central.lead(region, *shard).await?;
        Ok((link, uplink, leadership))
    }

    /// From a term to a Redis that counts, and on until something breaks or `stop`.
    async fn lead_under(
        &self,
        mut link: Link,
        mut uplink: Uplink,
        leadership: Leadership,
        backoff: &mut Backoff,
        memory: &mut memory::Level,
        stop: &CancellationToken,
    ) -> Result<(), Interrupted> {
        let approve = self.approve(&mut link, &mut uplink, &leadership);
        let Some(approved) = stop.run_until_cancelled(approve).await else { return Ok(()) };
        let Approved { leader, epoch } = approved?;
        // At once: whoever starts now must see it.
        link.sign_of_life(Sign { term: leader.term, count: 0 }).await?;
        let Config { region, shard, .. } = &self.config;
        info!(region, shard, term = leader.term, epoch, "leading");
        self.metrics.leading.set(1);
        self.metrics.mismatch.set(0);
        self.metrics.epoch.set(epoch.try_into().unwrap_or(i64::MAX));

        let interval = Duration::from_millis(self.config.live_interval_ms);
        let figures = live::report(link.clone(), uplink.outgoing(), epoch, interval, &self.metrics);
        let mut rebuild = Rebuild { link: link.clone(), shard: *shard, epoch, leader: leader.clone() };
        let mut cutter = Cutter {
            link,
            uplink,
            leader,
            epoch,
            config: &self.config,
            metrics: &self.metrics,
            backoff,
            accepted: accepted(&leadership),
            memory,
        };
        let flushes = async {
            let rebuilt = rebuild.wait(&mut cutter.uplink, &self.metrics, &self.readiness);
            let Some(rebuilt) = stop.run_until_cancelled(rebuilt).await else { return Ok(()) };
            rebuilt?;
            self.readiness.ready();
            cutter.run(stop).await
        };
        tokio::select! {
            biased;
            outcome = flushes => outcome,
            gone = figures => Err(gone.into()),
        }
    }

    /// Lets Redis count, or prepares it: then gateways may register, and remember.
    async fn approve(
        &self,
        link: &mut Link,
        uplink: &mut Uplink,
        leadership: &Leadership,
    ) -> Result<Approved, Interrupted> {
        let Leadership { term, epoch, .. } = *leadership;
        let (owner, region) = (link.claim(&self.config.region).await?, self.config.region.clone());
        if owner != region {
            return Err(Mismatch::Region { owner, region }.into());
        }
        let verdict = compare(leadership, &link.position().await?)?;
        link.load_functions().await?;
        match verdict {
            Verdict::Counts => {
                let leader = link.approve(term, epoch).await?.ok_or(Interrupted::LowTerm { given: term })?;
                link.say_replicas().await?;
                barrier::raise(link).await?; // also what an earlier leader wrote and died before
                Ok(Approved { leader, epoch })
            }
            Verdict::Behind(behind) => {
                let reason = behind.to_string();
                error!(
                    reason,
                    "this redis is behind central: it is rebuilt from what central has and from the gateways' logs"
                );
                self.readiness.not_ready(&format!("redis is rebuilt: {reason}"));
                self.metrics.rebuilds.inc();
                rebuild::prepare(link, uplink, self.config.shard, leadership, reason).await
            }
        }
    }
}

/// A Redis that this leader approved.
pub struct Approved {
    /// Term, epoch and process.
    pub leader: Approval,
    /// The epoch alone.
    pub epoch: u64,
}

/// Growing waits, never in step with anyone else's.
#[derive(Debug)]
pub struct Backoff {
    last: Duration,
}

impl Backoff {
    const MIN: Duration = Duration::from_millis(100);
    const MAX: Duration = Duration::from_secs(5);

    /// A random time between the shortest and three times the last.
    pub fn next(&mut self) -> Duration {
        self.last = rand::random_range(Self::MIN..=self.last * 3).min(Self::MAX);
        self.last
    }

    /// Something worked.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self { last: Self::MIN }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_their_bound_and_start_small_again() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..200).map(|_| backoff.next()).collect();
        assert!(waits.iter().all(|wait| (Backoff::MIN..=Backoff::MAX).contains(wait)));
        assert!(waits[0] <= Backoff::MIN * 3 && waits.contains(&Backoff::MAX));
        backoff.reset();
        assert!(backoff.next() <= Backoff::MIN * 3);
    }
}
