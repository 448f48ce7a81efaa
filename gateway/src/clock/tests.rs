use std::sync::Arc;

use proptest::prelude::*;

use super::*;

const HOUR_MS: u64 = 60 * 60 * 1000;
const START_MS: u64 = 1_800_000_000_000;

/// Clocks that a test sets.
#[derive(Clone, Debug, Default)]
struct Hands(Arc<(AtomicU64, AtomicI64)>);

impl Hands {
    /// Time passes for the whole machine.
    fn pass(&self, ms: u64) {
        self.0.0.fetch_add(ms, Ordering::Relaxed);
    }

    /// The wall clock alone is moved.
    fn set(&self, by_ms: i64) {
        self.0.1.fetch_add(by_ms, Ordering::Relaxed);
    }
}

impl Machine for Hands {
    fn steady_ms(&self) -> u64 {
        self.0.0.load(Ordering::Relaxed)
    }

    fn wall_ms(&self) -> u64 {
        (START_MS + self.steady_ms()).saturating_add_signed(self.0.1.load(Ordering::Relaxed))
    }
}

/// A clock that has followed a region whose time is its machine's.
fn followed() -> (Hands, Clock) {
    let hands = Hands::default();
    let clock = Clock::with(hands.clone());
    assert_eq!(clock.follow(START_MS), 0);
    (hands, clock)
}

#[test]
fn the_region_is_believed_at_the_start_and_followed_where_the_clocks_agree() {
    let hands = Hands::default();
    let clock = Clock::with(hands.clone());
    assert_eq!(clock.follow(START_MS + HOUR_MS), 0);
    assert_eq!(clock.now_ms(), START_MS + HOUR_MS);
    hands.pass(1_000);
    assert_eq!(clock.now_ms(), START_MS + HOUR_MS + 1_000);
    assert_eq!(clock.follow(START_MS + HOUR_MS + 1_500), 500);
    assert_eq!(clock.now_ms(), START_MS + HOUR_MS + 1_500);
}

#[test]
fn a_region_that_jumps_alone_is_not_followed_until_it_comes_back() {
    for jumped_ms in [START_MS + 24 * HOUR_MS, START_MS - 24 * HOUR_MS, START_MS + 2_001 + 1_000] {
        let (hands, clock) = followed();
        hands.pass(1_000);
        assert!(clock.follow(jumped_ms) > SKEW_MAX_MS);
        assert_eq!(clock.now_ms(), START_MS + 1_000, "it goes on by itself");
        hands.pass(1_000);
        assert!(clock.follow(jumped_ms + 1_000) > SKEW_MAX_MS, "still not");
        assert_eq!(clock.follow(START_MS + 2_100), 100);
        assert_eq!(clock.now_ms(), START_MS + 2_100);
    }
}

#[test]
fn a_suspended_machine_follows_forward() {
    let (hands, clock) = followed();
    hands.set(HOUR_MS as i64); // the steady clock stood still meanwhile
    assert_eq!(clock.follow(START_MS + HOUR_MS), 0);
    assert_eq!(clock.now_ms(), START_MS + HOUR_MS);
}

#[test]
fn a_time_set_forward_everywhere_is_followed_although_the_walls_differ() {
    let hands = Hands::default();
    let clock = Clock::with(hands.clone());
    clock.follow(START_MS + 5 * HOUR_MS); // a machine whose wall clock was never right
    hands.set(HOUR_MS as i64);
    assert_eq!(clock.follow(START_MS + 6 * HOUR_MS), 0);
}

#[test]
fn a_region_that_was_wrong_and_now_agrees_with_the_wall_is_followed_forward() {
    let hands = Hands::default();
    let clock = Clock::with(hands.clone());
    clock.follow(START_MS - HOUR_MS);
    hands.pass(1_000);
    assert_eq!(clock.follow(START_MS + 1_000), 0);
    assert_eq!(clock.now_ms(), START_MS + 1_000);
}

#[test]
fn a_time_set_back_everywhere_is_not_followed() {
    let (hands, clock) = followed();
    hands.set(-(HOUR_MS as i64));
    assert!(clock.follow(START_MS - HOUR_MS) > SKEW_MAX_MS);
    assert_eq!(clock.now_ms(), START_MS);
}

#[test]
fn a_clock_that_waits_at_its_floor_does_not_agree_with_the_region() {
    let (hands, clock) = followed();
    clock.raise_floor(START_MS + 5_000);
    assert_eq!(clock.follow(START_MS), 5_000);
    assert_eq!(clock.now_ms(), START_MS + 5_000);
    hands.pass(4_000);
    assert_eq!(clock.follow(START_MS + 4_000), 1_000);
}

proptest! {
    /// Whatever the region says, and whatever happens to the machine.
    #[test]
    fn it_never_goes_backwards(steps in proptest::collection::vec((0..10_000u64, -100_000_000..100_000_000i64, any::<u64>(), 0..4u8), 1..60)) {
        let hands = Hands::default();
        let clock = Clock::with(hands.clone());
        let mut last_ms = clock.now_ms();
        for (pass_ms, set_ms, told_ms, what) in steps {
            hands.pass(pass_ms);
            match what {
                0 => hands.set(set_ms),
                1 => _ = clock.follow(hands.wall_ms().saturating_add_signed(set_ms / 1_000)),
                2 => _ = clock.follow(told_ms % (4 * START_MS)),
                _ => clock.raise_floor(last_ms.saturating_add_signed(set_ms)),
            }
            let now_ms = clock.now_ms();
            prop_assert!(now_ms >= last_ms);
            last_ms = now_ms;
        }
    }
}
