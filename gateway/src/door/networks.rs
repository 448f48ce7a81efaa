//! Many networks, and whether an address is in one of them.

use std::net::IpAddr;

use ipnet::IpNet;

/// First and last address of each network, in order; none lies in another.
#[derive(Debug, Default)]
pub struct Networks(Vec<(IpAddr, IpAddr)>);

impl Networks {
    /// Networks overlap only where one lies in the other: then the outer one is kept.
    pub fn new(networks: &[IpNet]) -> Self {
        let mut ranges: Vec<_> = networks.iter().map(|network| (network.network(), network.broadcast())).collect();
        ranges.sort_unstable();
        let mut apart: Vec<(IpAddr, IpAddr)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match apart.last_mut() {
                Some((_, before)) if first <= *before => *before = last.max(*before),
                _ => apart.push((first, last)),
            }
        }
        Self(apart)
    }

    /// By bisection: a list of tens of thousands costs a request next to nothing.
    pub fn contain(&self, address: IpAddr) -> bool {
        let behind = self.0.partition_point(|(first, _)| *first <= address);
        behind.checked_sub(1).and_then(|at| self.0.get(at)).is_some_and(|(_, last)| address <= *last)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    fn networks() -> impl Strategy<Value = Vec<IpNet>> {
        let v4 = (any::<[u8; 2]>(), 12u8..=32).prop_map(|([c, d], bits)| format!("10.0.{c}.{d}/{bits}"));
        let v6 = (0u16..4, any::<u8>(), 40u8..=128).prop_map(|(c, h, bits)| format!("2001:db8:{c:x}::{h:x}/{bits}"));
        prop::collection::vec(prop_oneof![v4, v6].prop_map(|text| text.parse().unwrap()), 0..20)
    }

    fn with_neighbours(address: IpAddr) -> [IpAddr; 3] {
        let beside = |to: fn(u128, u128) -> u128| match address {
            IpAddr::V4(v4) => IpAddr::V4(Ipv4Addr::from_bits(to(v4.to_bits().into(), 1) as u32)),
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(to(v6.to_bits(), 1))),
        };
        [address, beside(u128::wrapping_add), beside(u128::wrapping_sub)]
    }

    proptest! {
        /// It says what asking each network would say, at the borders too.
        #[test]
        fn an_address_is_in_the_list_where_it_is_in_one_network(networks in networks(), c in any::<u8>(), d in any::<u8>()) {
            let list = Networks::new(&networks);
            let borders = networks.iter().flat_map(|network| [network.network(), network.broadcast()]);
            let inside = [IpAddr::from([10, 0, c, d]), IpAddr::from([0x2001, 0xdb8, 1, 0, 0, 0, 0, c.into()])];
            for address in borders.flat_map(with_neighbours).chain(inside) {
                let in_one = networks.iter().any(|network| network.contains(&address));
                prop_assert_eq!(list.contain(address), in_one, "{}", address);
            }
        }
    }

    #[test]
    fn a_network_of_everything_is_of_one_family() {
        let list = |networks: &[&str]| {
            Networks::new(&networks.iter().map(|network| network.parse().unwrap()).collect::<Vec<_>>())
        };
        let (v4, v6) = (IpAddr::from([192, 0, 2, 1]), "2001:db8::1".parse().unwrap());
        let has = |list: &Networks| (list.contain(v4), list.contain(v6));
        assert_eq!(has(&list(&["0.0.0.0/0", "10.0.0.0/8"])), (true, false));
        assert_eq!(has(&list(&["::/0", "::1/128"])), (false, true));
        assert_eq!(has(&list(&["0.0.0.0/0", "::/0"])), (true, true));
        assert_eq!(has(&list(&[])), (false, false));
    }
}
