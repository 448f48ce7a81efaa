//! How fast one connection, one address and one site may send. Beyond that a batch is not refused: it is asked to come later.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::Clock as _;
use governor::state::{InMemoryState, NotKeyed, keyed::DefaultKeyedStateStore};
use governor::{NotUntil, Quota, RateLimiter};

use crate::address::subscriber_of;
use crate::config::Limits;

/// Shared by the cores.
pub struct Throttles {
    addresses: RateLimiter<IpAddr, DefaultKeyedStateStore<IpAddr>, Timer>,
    sites: RateLimiter<String, DefaultKeyedStateStore<String>, Timer>,
    connection: Quota,
}

/// Of one connection.
pub struct ConnectionThrottle(RateLimiter<NotKeyed, InMemoryState, Timer>);

/// The clock of the runtime's timers: whoever is asked to wait waits by the same.
#[derive(Clone)]
pub(crate) struct Timer;

impl governor::clock::Clock for Timer {
    type Instant = std::time::Instant;

    fn now(&self) -> Self::Instant {
        tokio::time::Instant::now().into_std()
    }
}

impl Throttles {
    /// From the settings.
    pub fn new(limits: &Limits) -> Self {
        Self {
            addresses: RateLimiter::dashmap_with_clock(
                quota(limits.address_batches_per_s, limits.address_batches_burst),
                Timer,
            ),
            sites: RateLimiter::dashmap_with_clock(quota(limits.site_batches_per_s, limits.site_batches_burst), Timer),
            connection: quota(limits.connection_batches_per_s, limits.connection_batches_burst),
        }
    }

    /// For a new connection.
    pub fn connection(&self) -> ConnectionThrottle {
        ConnectionThrottle(RateLimiter::direct_with_clock(self.connection, Timer))
    }

    /// One batch; how long to wait if it comes too early.
    pub fn take(&self, connection: Option<&ConnectionThrottle>, address: IpAddr, site: &str) -> Result<(), Duration> {
        let wait = |not_until: NotUntil<_>| not_until.wait_time_from(Timer.now());
        if let Some(ConnectionThrottle(limiter)) = connection {
            limiter.check().map_err(wait)?;
        }
        self.addresses.check_key(&subscriber_of(address)).map_err(wait)?;
        self.sites.check_key(&site.to_owned()).map_err(wait)
    }

    /// Forgets whoever is back at a full allowance: the tables hold only who sent lately.
    pub fn forget_idle(&self) {
        self.addresses.retain_recent();
        self.addresses.shrink_to_fit();
        self.sites.retain_recent();
    }
}

fn quota(per_s: u32, burst: u32) -> Quota {
    let at_least_one = |n: u32| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
    Quota::per_second(at_least_one(per_s)).allow_burst(at_least_one(burst))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_the_next_is_asked_to_wait() {
        let limits = Limits { connection_batches_per_s: 1, connection_batches_burst: 3, ..Default::default() };
        let throttles = Throttles::new(&limits);
        let (connection, address) = (throttles.connection(), IpAddr::from([127, 0, 0, 1]));
        for _ in 0..3 {
            assert_eq!(throttles.take(Some(&connection), address, "shop"), Ok(()));
        }
        let wait = throttles.take(Some(&connection), address, "shop").unwrap_err();
        assert!(wait > Duration::ZERO && wait <= Duration::from_secs(1));
        assert_eq!(throttles.take(Some(&throttles.connection()), address, "shop"), Ok(()));
    }

    #[test]
    fn addresses_of_a_64_share_an_allowance() {
        let limits = Limits { address_batches_per_s: 1, address_batches_burst: 1, ..Default::default() };
        let throttles = Throttles::new(&limits);
        assert!(throttles.take(None, "2001:db8::1".parse().unwrap(), "shop").is_ok());
        assert!(throttles.take(None, "2001:db8::2".parse().unwrap(), "shop").is_err());
        assert!(throttles.take(None, "2001:db8:0:1::1".parse().unwrap(), "shop").is_ok());
    }
}
