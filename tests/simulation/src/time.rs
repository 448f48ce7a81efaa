//! The time of the simulated world. tokio's paused clock drives it; nobody reads the machine's.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use jiff::Timestamp;
use tokio::time::Instant;

/// Starts at a time of day of its own, and passes as tokio's clock does.
#[derive(Clone, Debug)]
pub struct World {
    started: Instant,
    start_ms: u64,
    /// What the region's Redis is ahead of the world.
    redis_ahead_ms: Arc<AtomicI64>,
    /// What all machines of the region are ahead of the world, Redis's among them.
    region_ahead_ms: Arc<AtomicI64>,
}

impl World {
    /// Now it is `start_ms`, Unix ms.
    pub fn new(start_ms: u64) -> Self {
        Self { started: Instant::now(), start_ms, redis_ahead_ms: Arc::default(), region_ahead_ms: Arc::default() }
    }

    /// Unix ms.
    pub fn now_ms(&self) -> u64 {
        self.start_ms + self.elapsed_ms()
    }

    /// Since the start.
    pub fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Now.
    pub fn timestamp(&self) -> Timestamp {
        Timestamp::from_millisecond(i64::try_from(self.now_ms()).unwrap_or(0)).unwrap_or_default()
    }

    /// What Redis answers to TIME, Unix ms.
    pub fn redis_ms(&self) -> u64 {
        self.region_ms().saturating_add_signed(self.redis_ahead_ms.load(Ordering::Relaxed))
    }

    /// What the other machines of the region take for the time, Unix ms.
    pub fn region_ms(&self) -> u64 {
        self.now_ms().saturating_add_signed(self.region_ahead_ms.load(Ordering::Relaxed))
    }

    /// Somebody sets the clock of Redis's machine.
    pub fn set_redis_ahead(&self, ms: i64) {
        self.redis_ahead_ms.store(ms, Ordering::Relaxed);
    }

    /// The region's machines are set all at once, as by the server of time that they ask.
    pub fn set_region_ahead(&self, ms: i64) {
        self.region_ahead_ms.store(ms, Ordering::Relaxed);
    }
}
