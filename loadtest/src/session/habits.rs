//! What a visitor does beside visiting: changes the gateway, closes the page, has no network.

use std::time::Duration;

use agent_core::Class;
use tokio::time::Instant;

use crate::scenario::{Away, Scenario};

/// When the next of these happens; each follows the last at random, so that no two visitors do it in step.
#[derive(Debug, Default)]
pub struct Habits {
    moves_every_s: f64,
    away: Option<Away>,
    moves_at: Option<Instant>,
    leaves_at: Option<Instant>,
    back_at: Option<Instant>,
}

impl Habits {
    /// Those of a scenario's agents, from now on.
    pub fn of(scenario: &Scenario) -> Self {
        let mut habits = Self { moves_every_s: scenario.moves_every_s, away: scenario.away, ..Self::default() };
        let now = Instant::now();
        habits.moves_at = (habits.moves_every_s > 0.0).then(|| now + about(habits.moves_every_s));
        habits.leaves_at = habits.away.map(|away| now + about(away.every_s));
        habits
    }

    pub(super) fn class(&self) -> Class {
        if self.away.is_some() { Class::Long } else { Class::Short }
    }

    /// No more of it: the visitor waits for its last answers.
    pub(super) fn stay(&mut self) {
        (self.moves_at, self.leaves_at) = (None, None);
    }

    /// Whether it is time for another gateway.
    pub(super) fn moves(&mut self, now: Instant) -> bool {
        let due = self.moves_at.is_some_and(|at| at <= now);
        if due {
            self.moves_at = Some(now + about(self.moves_every_s));
        }
        due
    }

    /// Whether it is time to close the page. Then the device is away from now on, for a while.
    pub(super) fn leaves(&mut self, now: Instant) -> bool {
        let Some(away) = self.away.filter(|_| self.leaves_at.is_some_and(|at| at <= now)) else { return false };
        let back_at = now + about(away.for_s);
        self.back_at = Some(back_at);
        self.leaves_at = Some(back_at + about(away.every_s));
        true
    }

    /// It did not leave after all.
    pub(super) fn stays(&mut self, now: Instant) {
        self.back_at = None;
        self.leaves_at = self.away.map(|away| now + about(away.every_s));
    }

    /// When the device has a network, or had.
    pub(super) fn back_at(&self) -> Instant {
        self.back_at.unwrap_or_else(Instant::now)
    }

    /// When there is something to do.
    pub(super) fn next_at(&self) -> Option<Instant> {
        self.moves_at.into_iter().chain(self.leaves_at).min()
    }
}

/// A random time, on average this one, and at most twice as long: a run waits for those who are away.
fn about(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds * rand::random_range(0.0..2.0))
}
