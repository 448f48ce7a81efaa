//! Rates of a rule: how many requests of one client pass before the rule hits the rest.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::state::keyed::ShrinkableKeyedStateStore;
use governor::{Quota, RateLimiter};
use serde::Deserialize;

use crate::door::address::{network_of, subscriber_of};
use crate::door::throttle::Timer;

/// Clients that one rate remembers: some 4 MiB. Who comes when it is full passes, as everybody does who comes for the first time, and
/// whoever has a full allowance again makes room every few seconds.
const CLIENTS_MAX: usize = 65_536;
/// More at once or a longer time is no rate any more.
const REQUESTS_MAX: u32 = 1_000_000;
const SECONDS_MAX: u32 = 24 * 60 * 60;

/// Whose requests are counted together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum By {
    /// An IPv4 address, or the /64 of an IPv6 one.
    #[default]
    Address,
    /// A /24 of IPv4, a /48 of IPv6.
    Network,
}

/// As it is written: `{ requests = 600, per_s = 60, by = "network" }`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RateText {
    pub(super) requests: u32,
    pub(super) per_s: u32,
    #[serde(default)]
    pub(super) by: By,
}

/// Of one rule.
pub(super) struct Rate {
    limiter: RateLimiter<IpAddr, Clients, Timer>,
    /// Requests that passed because there was no room to remember their client.
    unremembered: Arc<AtomicU64>,
    by: By,
}

/// The numbers of a rate are none.
#[derive(Debug, thiserror::Error)]
#[error(
    "its `rate` has requests = {requests} and per_s = {per_s}: write 1 to {REQUESTS_MAX} requests per 1 to {SECONDS_MAX} seconds"
)]
pub struct NoRate {
    requests: u32,
    per_s: u32,
}

impl Rate {
    /// As many requests at once, and as many again over so many seconds.
    pub(super) fn try_new(RateText { requests, per_s, by }: RateText) -> Result<Self, NoRate> {
        let possible = (1..=REQUESTS_MAX).contains(&requests) && (1..=SECONDS_MAX).contains(&per_s);
        let quota = Quota::with_period(Duration::from_secs(per_s.into()) / requests.max(1)).filter(|_| possible);
        let (Some(quota), Ok(burst)) = (quota, requests.try_into()) else {
            return Err(NoRate { requests, per_s });
        };
        let clients = Clients::default();
        let unremembered = Arc::clone(&clients.unremembered);
        Ok(Self { limiter: RateLimiter::new(quota.allow_burst(burst), clients, Timer), unremembered, by })
    }

    /// Counts a request of this address, and says whether it was one too many.
    pub(super) fn exceeded(&self, address: IpAddr) -> bool {
        let client = match self.by {
            By::Address => subscriber_of(address),
            By::Network => network_of(address),
        };
        self.limiter.check_key(&client).is_err()
    }

    /// Forgets whoever is back at a full allowance, and says how many requests passed unremembered since it was last asked.
    pub(super) fn forget_idle(&self) -> u64 {
        self.limiter.retain_recent();
        self.unremembered.swap(0, Ordering::Relaxed)
    }
}

/// How far each client is. Never more than [`CLIENTS_MAX`].
#[derive(Default)]
struct Clients {
    known: Mutex<HashMap<IpAddr, Nanos>>,
    unremembered: Arc<AtomicU64>,
}

impl Clients {
    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Nanos>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StateStore for Clients {
    type Key = IpAddr;

    fn measure_and_replace<T, F, E>(&self, client: &IpAddr, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut clients = self.lock();
        let before = clients.get(client).copied();
        let (measured, after) = measure(before)?;
        if before.is_some() || clients.len() < CLIENTS_MAX {
            clients.insert(*client, after);
        } else {
            self.unremembered.fetch_add(1, Ordering::Relaxed);
        }
        Ok(measured)
    }
}

impl ShrinkableKeyedStateStore<IpAddr> for Clients {
    fn retain_recent(&self, drop_below: Nanos) {
        self.lock().retain(|_, at| *at > drop_below);
    }

    fn len(&self) -> usize {
        self.lock().len()
    }

    fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(requests: u32, per_s: u32, by: By) -> Rate {
        Rate::try_new(RateText { requests, per_s, by }).unwrap()
    }

    #[test]
    fn as_many_as_written_pass_and_again_with_time() {
        let slow = rate(3, 3_600, By::Address);
        assert_eq!((0..10).filter(|_| !slow.exceeded([192, 0, 2, 1].into())).count(), 3);
        slow.forget_idle();
        assert_eq!(slow.limiter.len(), 1, "who has used up the allowance is remembered");

        let quick = rate(10, 1, By::Address);
        while !quick.exceeded([192, 0, 2, 1].into()) {}
        eventually("an allowance grows again", || !quick.exceeded([192, 0, 2, 1].into()));
        eventually("whoever has a full allowance is forgotten", || {
            quick.forget_idle();
            quick.limiter.is_empty()
        });
    }

    fn eventually(what: &str, mut so: impl FnMut() -> bool) {
        let since = std::time::Instant::now();
        while !so() {
            assert!(since.elapsed() < Duration::from_secs(60), "{what}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn clients_are_counted_apart_by_address_or_by_network() {
        for (by, of_the_same) in [(By::Address, "2001:db8::2"), (By::Network, "2001:db8:0:9::2")] {
            let rate = rate(1, 60, by);
            assert!(!rate.exceeded("2001:db8::1".parse().unwrap()));
            assert!(rate.exceeded(of_the_same.parse().unwrap()), "{by:?}");
            assert!(!rate.exceeded("2001:db8:1::1".parse().unwrap()), "{by:?}");
        }
    }

    #[test]
    fn a_full_table_lets_newcomers_pass_and_does_not_grow() {
        let rate = rate(1, 60, By::Address);
        for number in 0..CLIENTS_MAX as u32 + 10 {
            assert!(!rate.exceeded(std::net::Ipv4Addr::from_bits(number).into()));
        }
        assert_eq!(rate.limiter.len(), CLIENTS_MAX);
        assert!(rate.exceeded([0, 0, 0, 1].into()), "who is known is still known");
        assert!(!rate.exceeded([255, 0, 0, 1].into()));
        assert_eq!(rate.forget_idle(), 11, "it says so");
        assert_eq!(rate.forget_idle(), 0, "once");
    }

    #[test]
    fn numbers_that_are_no_rate_are_named() {
        for (requests, per_s) in [(0, 1), (1, 0), (REQUESTS_MAX + 1, 1), (1, SECONDS_MAX + 1), (u32::MAX, 1)] {
            let error = Rate::try_new(RateText { requests, per_s, by: By::Address }).err().unwrap().to_string();
            assert!(error.contains(&format!("requests = {requests} and per_s = {per_s}")), "{error}");
        }
        assert!(Rate::try_new(RateText { requests: REQUESTS_MAX, per_s: 1, by: By::Address }).is_ok());
    }
}
