//! How many connections and sessions one address and one network may have open at once, over all cores.
//!
//! Sessions count beside their connections because one connection of HTTP/2 carries a hundred of them. Only who is connected has a
//! line here, so what it holds is bounded by the connections that the cores take.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::Limits;
use crate::door::address::{TrustedProxies, network_of, subscriber_of};

/// So that cores that accept at once seldom meet at the same lock.
const PARTS: usize = 16;

/// Who is connected. A clone is the same crowd.
#[derive(Clone)]
pub struct Crowd(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    per_address: AtomicU32,
    per_network: AtomicU32,
    /// A trusted proxy connects for everybody behind it: its own connections are not counted.
    trusted: TrustedProxies,
    /// An address is in the part of its network, so that one lock holds both counts.
    parts: [Mutex<Part>; PARTS],
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct Part {
    addresses: HashMap<IpAddr, u32>,
    networks: HashMap<IpAddr, u32>,
}

/// The place of one connection or session; dropped, it is free again. That of a trusted proxy takes nobody's.
#[derive(Debug)]
#[must_use = "a seat that is dropped is free"]
pub struct Seat(Option<Taken>);

#[derive(Debug)]
struct Taken {
    crowd: Arc<Shared>,
    address: IpAddr,
}

/// There is no place for another one. The limit and not the count: the count is higher for a moment after the limit is
/// lowered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Crowded {
    /// As many as one address may have: an IPv4 address, or the /64 of an IPv6 one.
    #[error("this address has {0} connections and sessions open, and may have no more")]
    Address(u32),
    /// As many as one network may have: a /24 of IPv4, a /48 of IPv6.
    #[error("the network of this address has {0} connections and sessions open, and may have no more")]
    Network(u32),
}

impl Crowd {
    /// Nobody is there yet.
    pub fn new(limits: &Limits, trusted: TrustedProxies) -> Self {
        Self(Arc::new(Shared {
            per_address: AtomicU32::new(limits.connections_per_address),
            per_network: AtomicU32::new(limits.connections_per_network),
            trusted,
            parts: Default::default(),
            hasher: RandomState::new(),
        }))
    }

    /// Takes a place for a connection of this address, or for a session of a client behind every trusted proxy.
    pub fn enter(&self, address: IpAddr) -> Result<Seat, Crowded> {
        if self.0.trusted.contain(address) {
            return Ok(Seat(None));
        }
        let address = address.to_canonical();
        let (subscriber, network) = (subscriber_of(address), network_of(address));
        let (per_address, per_network) =
            (self.0.per_address.load(Ordering::Relaxed), self.0.per_network.load(Ordering::Relaxed));
        let mut part = self.0.part(network);
        let open = |connections: Option<&u32>| connections.copied().unwrap_or(0);
        if open(part.addresses.get(&subscriber)) >= per_address {
            return Err(Crowded::Address(per_address));
        }
        if open(part.networks.get(&network)) >= per_network {
            return Err(Crowded::Network(per_network));
        }
        *part.addresses.entry(subscriber).or_default() += 1;
        *part.networks.entry(network).or_default() += 1;
        Ok(Seat(Some(Taken { crowd: Arc::clone(&self.0), address })))
    }

    /// Other limits, for whoever connects from now on: nobody is sent away.
    pub fn limit(&self, limits: &Limits) {
        self.0.per_address.store(limits.connections_per_address, Ordering::Relaxed);
        self.0.per_network.store(limits.connections_per_network, Ordering::Relaxed);
    }

    /// Addresses and networks that have a line.
    #[cfg(test)]
    fn lines(&self) -> (usize, usize) {
        let parts = self.0.parts.iter().map(|part| part.lock().unwrap());
        parts.fold((0, 0), |(a, n), part| (a + part.addresses.len(), n + part.networks.len()))
    }
}

impl Crowded {
    /// As the metrics call it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Address(_) => "address",
            Self::Network(_) => "network",
        }
    }
}

impl Shared {
    fn part(&self, network: IpAddr) -> MutexGuard<'_, Part> {
        let part = self.hasher.hash_one(network) as usize % PARTS;
        self.parts[part].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Some(Taken { crowd, address }) = &self.0 else { return };
        let (subscriber, network) = (subscriber_of(*address), network_of(*address));
        let mut part = crowd.part(network);
        leave(&mut part.addresses, subscriber);
        leave(&mut part.networks, network);
    }
}

fn leave(open: &mut HashMap<IpAddr, u32>, who: IpAddr) {
    if let Some(connections) = open.get_mut(&who) {
        *connections -= 1;
        if *connections == 0 {
            open.remove(&who);
        }
    }
}

#[cfg(test)]
mod tests;
