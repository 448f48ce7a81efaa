//! The region's clock: the time of its Redis, carried on by this machine's monotonic clock. It never goes backwards, because a
//! batch that was too late must not become acceptable again.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Beyond this the gateway is not ready: acceptance would differ too much from one gateway to the next.
pub const SKEW_MAX_MS: u64 = 2_000;

/// Unix milliseconds, the same for all cores.
#[derive(Debug)]
pub struct Clock {
    started: Instant,
    /// Unix ms at `started`.
    base_ms: AtomicI64,
    floor_ms: AtomicU64,
}

impl Clock {
    /// By this machine's time, until the region's is known.
    pub fn new() -> Self {
        let base = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64);
        Self { started: Instant::now(), base_ms: AtomicI64::new(base), floor_ms: AtomicU64::new(0) }
    }

    /// Now.
    pub fn now_ms(&self) -> u64 {
        let now = self.base_ms.load(Ordering::Relaxed) + self.started.elapsed().as_millis() as i64;
        let now = u64::try_from(now).unwrap_or(0);
        now.max(self.floor_ms.fetch_max(now, Ordering::Relaxed))
    }

    /// Follows the region's time; answers how far this clock was from it.
    pub fn follow(&self, region_ms: u64) -> u64 {
        let elapsed = self.started.elapsed().as_millis() as i64;
        let base = region_ms as i64 - elapsed;
        self.base_ms.swap(base, Ordering::Relaxed).abs_diff(base)
    }

    /// Never earlier than this again.
    pub fn raise_floor(&self, floor_ms: u64) {
        self.floor_ms.fetch_max(floor_ms, Ordering::Relaxed);
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_region_and_never_goes_back() {
        let clock = Clock::new();
        let now = clock.now_ms();
        assert!(clock.follow(now + 60_000) >= 59_000);
        let ahead = clock.now_ms();
        assert!(ahead >= now + 60_000);
        clock.follow(now);
        assert!(clock.now_ms() >= ahead);
        clock.raise_floor(ahead + 5_000);
        assert!(clock.now_ms() >= ahead + 5_000);
    }
}
