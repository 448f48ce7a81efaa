//! Whether this gateway has more to do than it can: then newcomers are turned away, so that those who are connected are answered.
//!
//! Two signs are looked at twice a second: how long the oldest batch waits while many do, and how late a core gets to what it was to
//! do. While one of them shows, fewer and fewer newcomers are let in; once none does, a few more at a time. A newcomer that is turned
//! away has lost nothing: its batches keep their numbers, and it comes again, perhaps to another gateway, since `/ready` says so too.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::ingest::in_flight::InFlight;
use crate::metrics::Metrics;

const LOOK_EVERY: Duration = Duration::from_millis(500);
const FEEL_EVERY: Duration = Duration::from_millis(50);
/// Batches that wait for Redis: fewer are no load, however long a disk or a Redis takes for them.
const WAITING_MIN: usize = 256;
/// The oldest of so many waits for as long as a person would notice.
const AGE_MAX_MS: u64 = 1_000;
/// A core is this late, in every look of a second.
const LATE_MAX: Duration = Duration::from_millis(250);
const LATE_LOOKS: u32 = 2;
/// Of newcomers in a thousand.
const ALL: u32 = 1_000;
/// Some are let in whatever happens: only they show that it is over for newcomers, too.
const FEWEST: u32 = 20;
const MORE: u32 = 100;

/// Shared by the cores.
#[derive(Debug)]
pub struct Overload {
    /// Of a thousand newcomers.
    admits: AtomicU32,
    /// What newcomers have added up to since the last was let in.
    turn: AtomicU32,
    /// The latest that a core was since the last look, microseconds.
    late_us: AtomicU64,
}

impl Default for Overload {
    /// Everybody is let in.
    fn default() -> Self {
        Self { admits: AtomicU32::new(ALL), turn: AtomicU32::new(0), late_us: AtomicU64::new(0) }
    }
}

impl Overload {
    /// Whether newcomers are turned away.
    pub fn sheds(&self) -> bool {
        self.admits.load(Ordering::Relaxed) < ALL
    }

    /// Whether the next newcomer is let in: evenly, as many as there is room for.
    pub fn admits(&self) -> bool {
        let admits = self.admits.load(Ordering::Relaxed);
        if admits >= ALL {
            return true;
        }
        let before = self.turn.fetch_add(admits, Ordering::Relaxed);
        before % ALL + admits >= ALL
    }

    /// How late this core is, for as long as it serves.
    pub async fn feel(self: Arc<Self>) {
        loop {
            let until = Instant::now() + FEEL_EVERY;
            sleep(FEEL_EVERY).await;
            let late = u64::try_from(until.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.late_us.fetch_max(late, Ordering::Relaxed);
        }
    }

    /// Looks for as long as the gateway serves. `now_ms` is the clock of the arrivals in flight.
    pub async fn look(self: Arc<Self>, in_flight: InFlight, now_ms: impl Fn() -> u64, metrics: Arc<Metrics>) {
        let mut late_looks = 0;
        loop {
            sleep(LOOK_EVERY).await;
            let signs = Signs {
                waiting: in_flight.count(),
                age_ms: in_flight.oldest_ms().map_or(0, |arrived_ms| now_ms().saturating_sub(arrived_ms)),
                late: Duration::from_micros(self.late_us.swap(0, Ordering::Relaxed)),
            };
            late_looks = if signs.late > LATE_MAX { late_looks + 1 } else { 0 };
            let before = self.admits.load(Ordering::Relaxed);
            let after = next(before, signs.of_many_that_wait() || late_looks >= LATE_LOOKS);
            self.admits.store(after, Ordering::Relaxed);
            metrics.in_flight.set(i64::try_from(signs.waiting).unwrap_or(i64::MAX));
            metrics.overloaded.set(i64::from(after < ALL));
            match (before < ALL, after < ALL) {
                (false, true) => tracing::warn!(?signs, "overloaded: newcomers are turned away"),
                (true, false) => tracing::info!("not overloaded any more: newcomers are let in"),
                _ => {}
            }
        }
    }
}

/// Of one look.
#[derive(Clone, Copy, Debug)]
struct Signs {
    /// Batches on their way to Redis.
    waiting: usize,
    /// Of the oldest of them.
    age_ms: u64,
    /// The latest that a core was.
    late: Duration,
}

impl Signs {
    fn of_many_that_wait(self) -> bool {
        self.waiting >= WAITING_MIN && self.age_ms > AGE_MAX_MS
    }
}

/// Fewer at once, more by and by.
fn next(admits: u32, overloaded: bool) -> u32 {
    if overloaded { (admits / 2).max(FEWEST) } else { (admits + MORE).min(ALL) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newcomers_become_fewer_at_once_and_more_by_and_by() {
        let pressed: Vec<u32> = (0..8)
            .scan(ALL, |admits, _| {
                *admits = next(*admits, true);
                Some(*admits)
            })
            .collect();
        assert_eq!(pressed, [500, 250, 125, 62, 31, 20, 20, 20]);
        let mut admits = FEWEST;
        let looks = std::iter::repeat_with(|| {
            admits = next(admits, false);
            admits
        })
        .take_while(|admits| *admits < ALL);
        assert_eq!(looks.count(), 9);
    }

    #[test]
    fn as_many_are_let_in_as_there_is_room_for() {
        for admits in [FEWEST, 333, 500, 999, ALL] {
            let overload = Overload { admits: AtomicU32::new(admits), ..Default::default() };
            let let_in = (0..10_000).filter(|_| overload.admits()).count();
            assert!(let_in.abs_diff(admits as usize * 10) <= 1, "{admits} in a thousand: {let_in} of 10,000");
            assert_eq!(overload.sheds(), admits < ALL);
        }
    }

    #[test]
    fn many_that_wait_for_long_are_a_sign_and_few_or_quick_ones_are_none() {
        for (waiting, age_ms, sign) in [
            (WAITING_MIN, AGE_MAX_MS + 1, true),
            (WAITING_MIN - 1, u64::MAX, false), // a slow disk, and few who wait for it
            (usize::MAX, AGE_MAX_MS, false),
        ] {
            let signs = Signs { waiting, age_ms, late: Duration::ZERO };
            assert_eq!(signs.of_many_that_wait(), sign, "{signs:?}");
        }
    }
}
