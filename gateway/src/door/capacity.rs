//! Whether the gateway can take anything at all. Where it cannot, batches are not refused: they keep their numbers and are asked
//! to come later.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Of the region's memory: from here on an operator should know.
const MEMORY_ALARM_PERCENT: u64 = 70;
/// From here on nothing is taken: what is in the log must still fit, and the leader needs room to cut.
const MEMORY_FULL_PERCENT: u64 = 85;
/// A restart of Redis takes seconds, and its agents should be back soon after.
const AWAY_WAIT: Duration = Duration::from_secs(2);
/// Memory or a disk is made free by a flush or by a person: both take longer.
const FULL_WAIT: Duration = Duration::from_secs(10);

/// What a gateway does with batches while its Redis does not count: away, out of memory, or approved by nobody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenRedisIsAway {
    /// Agents keep them. A gateway's disk that is lost takes nothing with it that was acknowledged and is not in Redis.
    #[default]
    Refuse,
    /// The log keeps them, and its flush is what an acknowledgement stands for.
    StoreAndForward,
}

/// Told by the log and the applier, asked by the cores for each batch.
#[derive(Debug, Default)]
pub struct Capacity {
    policy: WhenRedisIsAway,
    away: AtomicBool,
    memory_alarm: AtomicBool,
    memory_full: AtomicBool,
    log_full: AtomicBool,
    outcomes_full: AtomicBool,
}

impl Capacity {
    /// Everything is there until somebody says otherwise.
    pub fn new(policy: WhenRedisIsAway) -> Self {
        Self { policy, ..Self::default() }
    }

    /// What the operator chose.
    pub fn policy(&self) -> WhenRedisIsAway {
        self.policy
    }

    /// Redis counts what this gateway sends it, or not.
    pub fn redis_counts(&self, counts: bool) {
        self.away.store(!counts, Ordering::Relaxed);
    }

    /// What Redis uses of what it may, in bytes; `max` 0 is no limit. Each threshold is logged once when it is crossed.
    pub fn redis_memory(&self, used: u64, max: u64) {
        let percent = used.saturating_mul(100).checked_div(max).unwrap_or(0);
        let full = percent >= MEMORY_FULL_PERCENT;
        let alarm = percent >= MEMORY_ALARM_PERCENT;
        if alarm && !self.memory_alarm.swap(alarm, Ordering::Relaxed) && !full {
            tracing::warn!(used, max, percent, "redis fills up; at {MEMORY_FULL_PERCENT} % no batch is taken any more");
        }
        self.memory_alarm.store(alarm, Ordering::Relaxed);
        match (self.memory_full.swap(full, Ordering::Relaxed), full) {
            (false, true) => {
                tracing::error!(
                    used,
                    max,
                    percent,
                    "redis is full; agents keep their batches. Is central away? Raise `maxmemory`"
                );
            }
            (true, false) => tracing::info!(used, max, percent, "redis has room again; batches are taken"),
            _ => {}
        }
    }

    /// Redis is gone, and nobody knows how full it will be when it is back.
    pub fn redis_memory_unknown(&self) {
        self.memory_alarm.store(false, Ordering::Relaxed);
        self.memory_full.store(false, Ordering::Relaxed);
    }

    /// There is, or is no, disk for what Redis decided: records in the log would only wait behind it.
    pub fn outcomes_full(&self, full: bool) {
        match (self.outcomes_full.swap(full, Ordering::Relaxed), full) {
            (false, true) => tracing::error!("the disk is full: nothing is acknowledged until there is room"),
            (true, false) => tracing::info!("the disk has room again; batches are taken"),
            _ => {}
        }
    }

    /// There is, or is no, disk for the log's next segment. Logged once when it changes.
    pub fn log_full(&self, full: bool) {
        match (self.log_full.swap(full, Ordering::Relaxed), full) {
            (false, true) => {
                tracing::error!("the disk has no room for the log's next segment; agents keep their batches")
            }
            (true, false) => tracing::info!("the disk has room for the log again; batches are taken"),
            _ => {}
        }
    }

    /// How long a batch should stay where it is; `None` takes it.
    pub fn wait(&self) -> Option<Duration> {
        let full = [&self.log_full, &self.outcomes_full, &self.memory_full];
        if full.iter().any(|full| full.load(Ordering::Relaxed)) {
            return Some(FULL_WAIT);
        }
        (self.policy == WhenRedisIsAway::Refuse && self.away.load(Ordering::Relaxed)).then_some(AWAY_WAIT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redis_that_is_away_is_waited_for_unless_the_log_stands_in() {
        for (policy, expected) in [(WhenRedisIsAway::Refuse, Some(AWAY_WAIT)), (WhenRedisIsAway::StoreAndForward, None)]
        {
            let capacity = Capacity::new(policy);
            assert_eq!(capacity.wait(), None);
            capacity.redis_counts(false);
            assert_eq!(capacity.wait(), expected);
            capacity.redis_counts(true);
            assert_eq!(capacity.wait(), None);
        }
    }

    #[test]
    fn memory_and_disk_stop_batches_whatever_the_policy() {
        for policy in [WhenRedisIsAway::Refuse, WhenRedisIsAway::StoreAndForward] {
            let capacity = Capacity::new(policy);
            capacity.redis_memory(84, 100);
            assert_eq!(capacity.wait(), None);
            capacity.redis_memory(85, 100);
            assert_eq!(capacity.wait(), Some(FULL_WAIT));
            capacity.redis_memory(u64::MAX, 0);
            assert_eq!(capacity.wait(), None, "no limit is no wall");
            capacity.log_full(true);
            assert_eq!(capacity.wait(), Some(FULL_WAIT));
            capacity.log_full(false);
            assert_eq!(capacity.wait(), None);
            capacity.outcomes_full(true);
            assert_eq!(capacity.wait(), Some(FULL_WAIT));
            capacity.outcomes_full(false);
            assert_eq!(capacity.wait(), None);
        }
    }

    #[test]
    fn a_redis_that_is_gone_is_not_full_any_more() {
        let capacity = Capacity::new(WhenRedisIsAway::StoreAndForward);
        capacity.redis_memory(90, 100);
        capacity.redis_counts(false);
        assert_eq!(capacity.wait(), Some(FULL_WAIT));
        capacity.redis_memory_unknown();
        assert_eq!(capacity.wait(), None, "the log stands in for the whole outage");
    }
}
