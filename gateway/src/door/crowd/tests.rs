use proptest::prelude::*;

use super::*;

fn crowd(per_address: u32, per_network: u32) -> Crowd {
    let limits =
        Limits { connections_per_address: per_address, connections_per_network: per_network, ..Default::default() };
    let trusted = TrustedProxies::try_from(vec!["10.0.0.1".to_owned()]).unwrap();
    Crowd::new(&limits, trusted)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn refused(crowd: &Crowd, address: &str) -> Option<Crowded> {
    crowd.enter(ip(address)).err()
}

#[test]
fn an_address_over_its_limit_is_refused_and_its_neighbours_go_on() {
    let crowd = crowd(2, 100);
    let first = crowd.enter(ip("192.0.2.1")).unwrap();
    let _second = crowd.enter(ip("::ffff:192.0.2.1")).unwrap();
    assert_eq!(refused(&crowd, "192.0.2.1"), Some(Crowded::Address(2)));
    let _neighbour = crowd.enter(ip("192.0.2.2")).unwrap();
    drop(first);
    let _again = crowd.enter(ip("192.0.2.1")).unwrap();
    assert_eq!(refused(&crowd, "192.0.2.1"), Some(Crowded::Address(2)));
}

#[test]
fn addresses_of_a_network_share_its_limit() {
    for (a, b, c, elsewhere) in [
        ("192.0.2.1", "192.0.2.2", "192.0.2.255", "192.0.3.1"),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", "2001:db8:0:ffff::1", "2001:db8:1::1"),
    ] {
        let crowd = crowd(100, 2);
        let _seats = [crowd.enter(ip(a)).unwrap(), crowd.enter(ip(b)).unwrap()];
        assert_eq!(refused(&crowd, c), Some(Crowded::Network(2)));
        assert_eq!(refused(&crowd, elsewhere), None);
    }
}

#[test]
fn the_64_of_an_ipv6_address_is_one_address() {
    let crowd = crowd(1, 100);
    let _seat = crowd.enter(ip("2001:db8::1")).unwrap();
    assert_eq!(refused(&crowd, "2001:db8::ffff:2"), Some(Crowded::Address(1)));
    assert_eq!(refused(&crowd, "2001:db8:0:1::1"), None);
}

#[test]
fn a_trusted_proxy_is_not_counted_and_loopback_is() {
    let crowd = crowd(1, 1);
    let _proxies: Vec<_> = (0..10).map(|_| crowd.enter(ip("10.0.0.1")).unwrap()).collect();
    assert_eq!(crowd.lines(), (0, 0));
    let _own = crowd.enter(ip("127.0.0.1")).unwrap();
    assert_eq!(refused(&crowd, "127.0.0.1"), Some(Crowded::Address(1)));
}

#[test]
fn another_limit_is_for_whoever_comes_next() {
    let crowd = crowd(1, 100);
    let first = crowd.enter(ip("192.0.2.1")).unwrap();
    crowd.limit(&Limits { connections_per_address: 3, ..Default::default() });
    let (second, third) = (crowd.enter(ip("192.0.2.1")).unwrap(), crowd.enter(ip("192.0.2.1")).unwrap());
    crowd.limit(&Limits { connections_per_address: 1, ..Default::default() });
    drop((first, second));
    assert_eq!(refused(&crowd, "192.0.2.1"), Some(Crowded::Address(1)));
    drop(third);
    assert_eq!(refused(&crowd, "192.0.2.1"), None);
    assert_eq!(crowd.lines(), (0, 0), "nobody is connected");
}

#[test]
fn cores_that_accept_at_once_stay_below_the_limit_together() {
    let crowd = crowd(50, 80);
    let entered = |last: u8| {
        let crowd = crowd.clone();
        move || -> Vec<Seat> { (0..100).filter_map(|_| crowd.enter(IpAddr::from([192, 0, 2, last])).ok()).collect() }
    };
    let cores: Vec<_> = [1, 1, 2, 2].map(|last| std::thread::spawn(entered(last))).into();
    let seats: Vec<_> = cores.into_iter().flat_map(|core| core.join().unwrap()).collect();
    assert_eq!(seats.len(), 80);
    drop(seats);
    assert_eq!(crowd.lines(), (0, 0));
}

proptest! {
    /// Whoever comes and goes in whichever order: no limit is exceeded, nobody is refused below both, and nothing stays behind.
    #[test]
    fn what_is_counted_is_who_is_there(steps in prop::collection::vec((0u8..3, 0u8..3, any::<bool>()), 0..200)) {
        let crowd = crowd(3, 5);
        let mut seats: Vec<(u8, u8, Seat)> = Vec::new();
        for (net, host, comes) in steps {
            if comes {
                let of_address = seats.iter().filter(|(n, h, _)| (*n, *h) == (net, host)).count();
                let of_network = seats.iter().filter(|(n, ..)| *n == net).count();
                match crowd.enter(IpAddr::from([192, 0, net, host])) {
                    Ok(seat) => {
                        prop_assert!(of_address < 3 && of_network < 5);
                        seats.push((net, host, seat));
                    }
                    Err(Crowded::Address(limit)) => prop_assert_eq!(of_address, limit as usize),
                    Err(Crowded::Network(limit)) => prop_assert_eq!(of_network, limit as usize),
                }
            } else if let Some(at) = seats.iter().position(|(n, h, _)| (*n, *h) == (net, host)) {
                drop(seats.swap_remove(at));
            }
        }
        drop(seats);
        prop_assert_eq!(crowd.lines(), (0, 0));
    }
}
