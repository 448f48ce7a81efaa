//! When one agent's events are meant to happen. The schedule is made before anything is known of the answers and never
//! waits for them: that is what makes the load open and its latencies honest.

use std::time::Duration;

use rand::{RngExt, rngs::SmallRng};

use crate::scenario::Arrivals;

/// The intended times of one agent's events, counted from the start of the run, until `end`.
pub struct Schedule {
    arrivals: Arrivals,
    gap_s: f64,
    next_s: f64,
    end_s: f64,
    random: SmallRng,
}

impl Schedule {
    /// Events from `begin` until `end`, `gap` apart: exactly, or on average.
    pub fn new(arrivals: Arrivals, begin: Duration, end: Duration, gap: Duration, random: SmallRng) -> Self {
        let mut schedule =
            Self { arrivals, gap_s: gap.as_secs_f64(), next_s: begin.as_secs_f64(), end_s: end.as_secs_f64(), random };
        // With equal gaps the agents would beat in step; each begins somewhere in its first gap. With random gaps the
        // first one does that.
        schedule.next_s += match arrivals {
            Arrivals::Constant => schedule.random.random_range(0.0..1.0) * schedule.gap_s,
            Arrivals::Poisson => schedule.step_s(),
        };
        schedule
    }

    fn step_s(&mut self) -> f64 {
        match self.arrivals {
            Arrivals::Constant => self.gap_s,
            // 1 − u lies in (0, 1], so that the logarithm is finite.
            Arrivals::Poisson => -(1.0 - self.random.random_range(0.0..1.0_f64)).ln() * self.gap_s,
        }
    }
}

impl Iterator for Schedule {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        if self.next_s >= self.end_s {
            return None;
        }
        let at = self.next_s;
        self.next_s += self.step_s();
        Some(Duration::from_secs_f64(at))
    }
}

/// When agent `index` of `agents` starts: they come evenly over the ramp.
pub fn start_of(index: u32, agents: u32, ramp: Duration) -> Duration {
    ramp.mul_f64(f64::from(index) / f64::from(agents))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;

    use super::*;

    fn times(arrivals: Arrivals, begin_ms: u64, end_ms: u64, gap_ms: u64, seed: u64) -> Vec<Duration> {
        let ms = Duration::from_millis;
        Schedule::new(arrivals, ms(begin_ms), ms(end_ms), ms(gap_ms), SmallRng::seed_from_u64(seed)).collect()
    }

    proptest! {
        #[test]
        fn times_grow_and_stay_within_the_run(begin in 0u64..5_000, length in 0u64..60_000, gap in 5u64..5_000, seed: u64) {
            for arrivals in [Arrivals::Constant, Arrivals::Poisson] {
                let times = times(arrivals, begin, begin + length, gap, seed);
                prop_assert!(times.is_sorted());
                prop_assert!(times.iter().all(|at| (begin..=begin + length).contains(&(at.as_millis() as u64))));
            }
        }

        #[test]
        fn constant_is_the_rate_asked_for(gap in 5u64..2_000, seed: u64) {
            let count = times(Arrivals::Constant, 0, 60_000, gap, seed).len() as u64;
            prop_assert!(count.abs_diff(60_000 / gap) <= 1, "{count}");
        }

        #[test]
        fn the_same_seed_gives_the_same_times(seed: u64) {
            prop_assert_eq!(times(Arrivals::Poisson, 0, 10_000, 50, seed), times(Arrivals::Poisson, 0, 10_000, 50, seed));
        }

        #[test]
        fn agents_start_in_order_within_the_ramp(agents in 1u32..19_000, ramp_ms in 0u64..60_000) {
            let ramp = Duration::from_millis(ramp_ms);
            prop_assert_eq!(start_of(0, agents, ramp), Duration::ZERO);
            prop_assert!(start_of(agents - 1, agents, ramp) <= ramp);
        }
    }

    #[test]
    fn poisson_has_the_mean_and_the_spread_of_a_poisson_process() {
        // 100,000 gaps of mean 10 ms: mean and standard deviation are equal, each within 2 % by a wide margin.
        let times = times(Arrivals::Poisson, 0, 1_000_000, 10, 7);
        let gaps: Vec<f64> = times.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let deviation = (gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64).sqrt();
        assert!((mean - 0.01).abs() < 0.0002, "{mean}");
        assert!((deviation - 0.01).abs() < 0.0002, "{deviation}");
    }
}
