//! Batches between their acceptance and Redis. The watermark stays below the oldest: until it is applied, the bits that tell
//! its repeats apart must not be deleted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// When each of them arrived.
#[derive(Clone, Debug, Default)]
pub struct InFlight(Arc<Mutex<BTreeMap<u64, usize>>>);

/// One batch on its way; dropped when it is applied or given up.
#[derive(Debug)]
pub struct Admission {
    in_flight: InFlight,
    arrived_ms: u64,
}

impl InFlight {
    /// From now on this arrival holds the watermark back.
    pub fn admit(&self, arrived_ms: u64) -> Admission {
        *self.lock().entry(arrived_ms).or_default() += 1;
        Admission { in_flight: self.clone(), arrived_ms }
    }

    /// The earliest arrival that is not applied.
    pub fn oldest_ms(&self) -> Option<u64> {
        self.lock().first_key_value().map(|(arrived_ms, _)| *arrived_ms)
    }

    /// How many are not applied.
    pub fn count(&self) -> usize {
        self.lock().values().sum()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let mut arrivals = self.in_flight.lock();
        if let Some(count) = arrivals.get_mut(&self.arrived_ms) {
            *count -= 1;
            if *count == 0 {
                arrivals.remove(&self.arrived_ms);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_holds_the_watermark_back_until_it_is_dropped() {
        let in_flight = InFlight::default();
        let (first, second) = (in_flight.admit(10), in_flight.admit(20));
        let twin = in_flight.admit(10);
        assert_eq!((in_flight.oldest_ms(), in_flight.count()), (Some(10), 3));
        drop(first);
        assert_eq!(in_flight.oldest_ms(), Some(10));
        drop(twin);
        assert_eq!(in_flight.oldest_ms(), Some(20));
        drop(second);
        assert_eq!(in_flight.oldest_ms(), None);
    }
}
