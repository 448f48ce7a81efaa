//! One leadership after the other: hello, comparison, approval, then flushes until something breaks.

use std::time::Duration;

use proto::uplink::Leadership;
use regional_redis::{Approval, Link, LinkError, Shard};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::compare::{Mismatch, compare};
use crate::config::Config;
use crate::cut::{Cutter, accepted};
use crate::live;
use crate::metrics::Metrics;
use crate::service::{Error, Readiness};
use crate::uplink::{Central, Uplink, UplinkError};

/// A history that does not match stays so until someone acts: asking more often would only cost terms.
const MISMATCH_RETRY: Duration = Duration::from_secs(3);
/// Central names a new leader before that one has reached Redis. It does so within milliseconds.
const SUCCESSOR_WAIT: Duration = Duration::from_secs(3);
const SUCCESSOR_POLL: Duration = Duration::from_millis(100);

/// Leads the shard until it is told to stop, or until another aggregator leads it.
pub struct Leader {
    pub config: Config,
    pub central: Central,
    pub metrics: Metrics,
    pub readiness: Readiness,
}

/// What ends a leadership before its time.
#[derive(Debug, thiserror::Error)]
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
    #[error("another aggregator leads this shard since, under term {term}")]
    Deposed { term: u64 },
}

impl Leader {
    /// Ends with the last flush after `stop`. Errors are those that trying again does not mend.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Error> {
        let (mut backoff, mut said) = (Backoff::default(), String::new());
        while !stop.is_cancelled() {
            let Err(interrupted) = self.lead(&mut backoff, &stop).await else { break };
            self.metrics.leading.set(0);
            self.metrics.interruptions.inc();
            let message = interrupted.to_string();
            self.readiness.not_ready(&message);
            let (wait, is_alarm) = match interrupted {
                Interrupted::Redis(unfit @ LinkError::Unfit(_)) => return Err(Error::Redis(unfit)),
                Interrupted::Deposed { term } => return Err(Error::Deposed { term }),
                Interrupted::Mismatch(_) => (MISMATCH_RETRY, true),
                _ => (backoff.next(), false),
            };
            self.metrics.mismatch.set(is_alarm.into());
            // Loud once: the same trouble again and again is one line.
            match (message == said, is_alarm) {
                (true, _) => debug!(reason = message, "still not leading"),
                (false, true) => error!(reason = message, "nothing is counted until someone acts"),
                (false, false) => warn!(reason = message, "not leading, trying again"),
            }
            said = message;
            let _ = stop.run_until_cancelled(tokio::time::sleep(wait)).await;
        }
        Ok(())
    }

    async fn lead(&self, backoff: &mut Backoff, stop: &CancellationToken) -> Result<(), Interrupted> {
        let Some(approved) = stop.run_until_cancelled(self.approve()).await else { return Ok(()) };
        let (mut link, uplink, leadership, leader) = approved?;
        let (term, epoch) = (leader.term, leadership.epoch);
        info!(region = self.config.region, shard = self.config.shard, term, epoch, "leading");
        self.readiness.ready();
        self.metrics.leading.set(1);
        self.metrics.mismatch.set(0);

        let interval = Duration::from_millis(self.config.live_interval_ms);
        let figures = live::report(link.clone(), uplink.outgoing(), epoch, interval, &self.metrics);
        let mut cutter = Cutter {
            link: link.clone(),
            uplink,
            leader,
            epoch,
            config: &self.config,
            metrics: &self.metrics,
            backoff,
            accepted: accepted(&leadership),
        };
        let outcome = tokio::select! {
            outcome = cutter.run(stop) => outcome,
            gone = figures => Err(gone.into()),
        };
        if let Err(Interrupted::Fenced | Interrupted::Uplink(UplinkError::Refused(_))) = outcome
            && let Some(term) = successor(&mut link, term).await
        {
            return Err(Interrupted::Deposed { term });
        }
        outcome
    }

    /// From nothing to a Redis that counts.
    async fn approve(&self) -> Result<(Link, Uplink, Leadership, Approval), Interrupted> {
        let Config { region, shard, redis, .. } = &self.config;
        let mut link = Link::connect(&redis.as_str().into(), Shard(*shard)).await?;
        link.check_durable().await?;
        let (uplink, leadership) = self.central.lead(region, *shard).await?;
        compare(&leadership, &link.position().await?)?;
        link.load_functions().await?;
        let approval = link.approve(leadership.term, leadership.epoch).await?;
        let leader = approval.ok_or(Interrupted::LowTerm { given: leadership.term })?;
        Ok((link, uplink, leadership, leader))
    }
}

/// The term of a later leader, once it has reached Redis. A leader that came back to take the lead from it again would
/// be deposed in turn, for ever: so it gives up.
async fn successor(link: &mut Link, term: u64) -> Option<u64> {
    let reached = async {
        loop {
            match link.position().await {
                Ok(position) if position.term > term => return Some(position.term),
                Ok(_) => tokio::time::sleep(SUCCESSOR_POLL).await,
                Err(_) => return None,
            }
        }
    };
    tokio::time::timeout(SUCCESSOR_WAIT, reached).await.ok().flatten()
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
