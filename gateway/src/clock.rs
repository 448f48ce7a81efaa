//! The region's clock: the time of its Redis, carried on by this machine's monotonic clock. It never goes backwards, because a
//! batch that was too late must not become acceptable again; and it does not follow a Redis whose time jumps, because a day
//! ahead would refuse every agent.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Beyond this the gateway is not ready: acceptance would differ too much from one gateway to the next.
pub const SKEW_MAX_MS: u64 = 2_000;

/// What a machine's own clocks say.
pub trait Machine: fmt::Debug + Send + Sync {
    /// Milliseconds since some moment. Never goes back; stands still while the machine is suspended.
    fn steady_ms(&self) -> u64;
    /// Unix milliseconds. Whoever administers the machine may set them.
    fn wall_ms(&self) -> u64;
}

/// Unix milliseconds, the same for all cores.
#[derive(Debug)]
pub struct Clock {
    machine: Box<dyn Machine>,
    /// Unix ms when the steady clock stood at 0.
    base_ms: AtomicI64,
    floor_ms: AtomicU64,
    /// How far the region was ahead of this machine's wall clock when it was last followed; none before that.
    ahead_of_wall_ms: Mutex<Option<i64>>,
    agrees: AtomicBool,
}

impl Clock {
    /// By this machine's time, until the region's is known.
    pub fn new() -> Self {
        Self::with(ThisMachine(Instant::now()))
    }

    /// On other clocks than this machine's.
    pub fn with(machine: impl Machine + 'static) -> Self {
        let base = signed(machine.wall_ms()) - signed(machine.steady_ms());
        Self {
            machine: Box::new(machine),
            base_ms: AtomicI64::new(base),
            floor_ms: AtomicU64::new(0),
            ahead_of_wall_ms: Mutex::new(None),
            agrees: AtomicBool::new(true),
        }
    }

    /// Now.
    pub fn now_ms(&self) -> u64 {
        let now = self.base_ms.load(Ordering::Relaxed) + signed(self.machine.steady_ms());
        let now = u64::try_from(now).unwrap_or(0);
        now.max(self.floor_ms.fetch_max(now, Ordering::Relaxed))
    }

    /// Follows the region's time, except for a jump that this machine's own clocks know nothing of, or one backwards. Answers how
    /// far the two are apart: beyond [`SKEW_MAX_MS`] this gateway's time is not the region's.
    ///
    /// The first time it is told it believes the region, which is older than this process. Later its monotonic clock has to
    /// agree, or for a jump forward its wall clock: a machine that was suspended, or a time that was set on all machines.
    pub fn follow(&self, region_ms: u64) -> u64 {
        let mut ahead_of_wall_ms = self.ahead_of_wall_ms.lock().unwrap_or_else(PoisonError::into_inner);
        let (region, steady) = (signed(region_ms), signed(self.machine.steady_ms()));
        let ahead = region - (self.base_ms.load(Ordering::Relaxed) + steady);
        let ahead_of_wall = region - signed(self.machine.wall_ms());
        let little = |ms: i64| ms.unsigned_abs() <= SKEW_MAX_MS;
        let believed = match *ahead_of_wall_ms {
            None => true,
            Some(before) => ahead > 0 && (little(ahead_of_wall) || little(ahead_of_wall - before)),
        };
        if little(ahead) || believed {
            self.base_ms.store(region - steady, Ordering::Relaxed);
            *ahead_of_wall_ms = Some(ahead_of_wall);
        }
        let apart = self.now_ms().abs_diff(region_ms);
        let skew = if believed && !little(ahead) { apart } else { apart.max(ahead.unsigned_abs()) };
        self.say(skew, ahead, ahead_of_wall);
        skew
    }

    /// Never earlier than this again.
    pub fn raise_floor(&self, floor_ms: u64) {
        self.floor_ms.fetch_max(floor_ms, Ordering::Relaxed);
    }

    /// Once when the clocks part, and once when they meet again.
    fn say(&self, skew_ms: u64, region_ahead_ms: i64, region_ahead_of_wall_ms: i64) {
        let agrees = skew_ms <= SKEW_MAX_MS;
        match (self.agrees.swap(agrees, Ordering::Relaxed), agrees) {
            (true, false) => tracing::error!(
                skew_ms,
                region_ahead_ms,
                region_ahead_of_wall_ms,
                "the time of redis is not this gateway's: it is not followed, and the gateway is not ready until they agree; \
                 is the clock of one of the machines wrong?"
            ),
            (false, true) => tracing::info!(skew_ms, "the time of redis and this gateway's agree again"),
            _ => {}
        }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

#[derive(Debug)]
struct ThisMachine(Instant);

impl Machine for ThisMachine {
    fn steady_ms(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn wall_ms(&self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
    }
}

/// A time so large that it does not fit is further away than any clock will come.
fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX / 4)
}

#[cfg(test)]
mod tests;
