//! How fast one connection, one address, one site and one tenant may send. Beyond that a batch is not refused: it is asked to come later.

use std::hash::Hash;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use governor::clock::Clock as _;
use governor::state::{InMemoryState, NotKeyed, keyed::DefaultKeyedStateStore};
use governor::{NotUntil, Quota, RateLimiter};

use crate::config::Limits;
use crate::door::address::subscriber_of;

/// Shared by the cores.
pub struct Throttles(RwLock<Rates>);

struct Rates {
    addresses: Keyed<IpAddr>,
    sites: Keyed<String>,
    tenants: Keyed<String>,
    connection: Quota,
}

struct Keyed<K: Hash + Eq + Clone> {
    quota: Quota,
    limiter: RateLimiter<K, DefaultKeyedStateStore<K>, Timer>,
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
        Self(RwLock::new(Rates {
            addresses: Keyed::new(quota(limits.address_batches_per_s, limits.address_batches_burst)),
            sites: Keyed::new(quota(limits.site_batches_per_s, limits.site_batches_burst)),
            tenants: Keyed::new(quota(limits.tenant_batches_per_s, limits.tenant_batches_burst)),
            connection: quota(limits.connection_batches_per_s, limits.connection_batches_burst),
        }))
    }

    /// Other settings, for connections that begin now, and for every address, site and tenant where its rate is another: they begin with
    /// a full allowance.
    pub fn limit(&self, limits: &Limits) {
        let new = Self::new(limits).0.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut rates = self.0.write().unwrap_or_else(PoisonError::into_inner);
        rates.connection = new.connection;
        if rates.addresses.quota != new.addresses.quota {
            rates.addresses = new.addresses;
        }
        if rates.sites.quota != new.sites.quota {
            rates.sites = new.sites;
        }
        if rates.tenants.quota != new.tenants.quota {
            rates.tenants = new.tenants;
        }
    }

    /// For a new connection.
    pub fn connection(&self) -> ConnectionThrottle {
        ConnectionThrottle(RateLimiter::direct_with_clock(self.rates().connection, Timer))
    }

    /// One batch of a site, and of its tenant unless that is empty; how long to wait if it comes too early.
    pub fn take(
        &self,
        connection: Option<&ConnectionThrottle>,
        address: IpAddr,
        site: &str,
        tenant: &str,
    ) -> Result<(), Duration> {
        let wait = |not_until: NotUntil<_>| not_until.wait_time_from(Timer.now());
        if let Some(ConnectionThrottle(limiter)) = connection {
            limiter.check().map_err(wait)?;
        }
        let rates = self.rates();
        rates.addresses.limiter.check_key(&subscriber_of(address)).map_err(wait)?;
        rates.sites.limiter.check_key(&site.to_owned()).map_err(wait)?;
        if tenant.is_empty() { Ok(()) } else { rates.tenants.limiter.check_key(&tenant.to_owned()).map_err(wait) }
    }

    /// Forgets whoever is back at a full allowance: the tables hold only who sent lately.
    pub fn forget_idle(&self) {
        let rates = self.rates();
        rates.addresses.limiter.retain_recent();
        rates.addresses.limiter.shrink_to_fit();
        rates.sites.limiter.retain_recent();
        rates.tenants.limiter.retain_recent();
    }

    fn rates(&self) -> RwLockReadGuard<'_, Rates> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Hash + Eq + Clone> Keyed<K> {
    fn new(quota: Quota) -> Self {
        Self { quota, limiter: RateLimiter::dashmap_with_clock(quota, Timer) }
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
            assert_eq!(throttles.take(Some(&connection), address, "shop", ""), Ok(()));
        }
        let wait = throttles.take(Some(&connection), address, "shop", "").unwrap_err();
        assert!(wait > Duration::ZERO && wait <= Duration::from_secs(1));
        assert_eq!(throttles.take(Some(&throttles.connection()), address, "shop", ""), Ok(()));
    }

    #[test]
    fn another_rate_is_for_what_comes_next_and_leaves_the_others_alone() {
        let limits = Limits { address_batches_per_s: 1, address_batches_burst: 1, ..Default::default() };
        let throttles = Throttles::new(&limits);
        let (address, before) = (IpAddr::from([192, 0, 2, 1]), throttles.connection());
        assert!(throttles.take(Some(&before), address, "shop", "").is_ok());
        throttles.limit(&Limits { connection_batches_burst: 1, site_batches_burst: 5, ..limits.clone() });
        assert!(throttles.take(None, address, "shop", "").is_err(), "the rate of addresses is the same, and used up");
        throttles.limit(&Limits { address_batches_burst: 3, connection_batches_burst: 1, ..limits });
        assert!(
            throttles.take(Some(&before), address, "shop", "").is_ok(),
            "a connection keeps the rate that it began with"
        );
        let after = throttles.connection();
        assert!(throttles.take(Some(&after), address, "shop", "").is_ok());
        assert!(throttles.take(Some(&after), address, "shop", "").is_err());
        assert!(throttles.take(Some(&before), address, "shop", "").is_ok());
    }

    #[test]
    fn addresses_of_a_64_share_an_allowance() {
        let limits = Limits { address_batches_per_s: 1, address_batches_burst: 1, ..Default::default() };
        let throttles = Throttles::new(&limits);
        assert!(throttles.take(None, "2001:db8::1".parse().unwrap(), "shop", "").is_ok());
        assert!(throttles.take(None, "2001:db8::2".parse().unwrap(), "shop", "").is_err());
        assert!(throttles.take(None, "2001:db8:0:1::1".parse().unwrap(), "shop", "").is_ok());
    }

    #[test]
    fn the_sites_of_a_tenant_share_an_allowance_and_a_site_without_one_has_its_own() {
        let limits = Limits { tenant_batches_per_s: 1, tenant_batches_burst: 2, ..Default::default() };
        let throttles = Throttles::new(&limits);
        let take = |site, tenant| throttles.take(None, IpAddr::from([127, 0, 0, 1]), site, tenant);
        assert_eq!([take("shop", "acme"), take("blog", "acme")], [Ok(()), Ok(())]);
        let wait = take("shop", "acme").unwrap_err();
        assert!(wait > Duration::ZERO && wait <= Duration::from_secs(1));
        assert!(take("blog", "acme").is_err(), "whichever site it is");
        assert!(take("shop", "other").is_ok());
        for _ in 0..5 {
            assert!(take("acme", "").is_ok(), "no tenant, though a site has the name of one");
        }
        throttles.limit(&Limits { site_batches_burst: 5, ..limits.clone() });
        assert!(take("shop", "acme").is_err(), "the rate of tenants is the same, and used up");
        throttles.limit(&Limits { tenant_batches_burst: 3, ..limits });
        assert!(take("shop", "acme").is_ok());
    }
}
