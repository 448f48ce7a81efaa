//! Who the visitors are: an address and a browser each, so that the gateway sees as many people as there are agents.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rand::{RngExt, rngs::SmallRng, seq::IndexedRandom};

/// One visitor's device, as it shows in what it sends.
#[derive(Debug, Clone)]
pub struct Visitor {
    /// What a proxy in front of the gateway would put into `X-Forwarded-For`.
    pub address: IpAddr,
    /// The browser's name for itself.
    pub user_agent: &'static str,
    /// BCP 47.
    pub language: &'static str,
    /// Width and height in CSS pixels.
    pub screen: (u32, u32),
}

/// The addresses of one run. They differ from those of every other run: the same scenario twice on one day gives twice
/// as many visitors.
pub struct Addresses {
    run: [u16; 5],
}

impl Addresses {
    /// Addresses of a run with this much randomness of its own.
    pub fn of_run(random: &mut impl rand::Rng) -> Self {
        Self { run: std::array::from_fn(|_| random.random()) }
    }

    /// The address of an agent, in the block that is reserved for documentation and so never a real person's. Each agent
    /// has a /64 of its own and shares a /48 with 255 others, since gateways limit networks too.
    pub fn of_agent(&self, index: u32) -> IpAddr {
        let [a, b, c, d, e] = self.run;
        let shared = a.wrapping_add((index / 256) as u16);
        Ipv6Addr::new(0x2001, 0x0db8, shared, index as u16, b, c, d, e).into()
    }
}

impl Visitor {
    /// A visitor of a load test.
    pub fn of_agent(index: u32, addresses: &Addresses, random: &mut SmallRng) -> Self {
        let (user_agent, screen) = browser(random);
        let (_, language, _) = country(random);
        Self { address: addresses.of_agent(index), user_agent, language, screen }
    }

    /// A visitor from somewhere: an address out of a large network of the country whose language the browser speaks, so
    /// that a geo database, if there is one, finds the country.
    pub fn from_somewhere(random: &mut SmallRng) -> Self {
        let (user_agent, screen) = browser(random);
        let ((first, second), language, _) = country(random);
        let address = Ipv4Addr::new(first, second, random.random(), random.random_range(1..255));
        Self { address: address.into(), user_agent, language, screen }
    }
}

fn browser(random: &mut SmallRng) -> (&'static str, (u32, u32)) {
    let (user_agent, screens, _) = BROWSERS.choose_weighted(random, |browser| browser.2).expect("weights are above 0");
    (user_agent, *screens.choose(random).expect("each browser has a screen"))
}

fn country(random: &mut SmallRng) -> Country {
    *COUNTRIES.choose_weighted(random, |country| country.2).expect("weights are above 0")
}

/// The first two bytes of a network, the language spoken there, how often.
type Country = ((u8, u8), &'static str, u32);

const COUNTRIES: [Country; 12] = [
    ((73, 162), "en-US", 24),
    ((86, 140), "en-GB", 20),
    ((91, 12), "de-DE", 14),
    ((90, 45), "fr-FR", 9),
    ((84, 26), "nl-NL", 7),
    ((90, 230), "sv-SE", 5),
    ((83, 36), "es-ES", 5),
    ((99, 230), "en-CA", 5),
    ((126, 40), "ja-JP", 4),
    ((117, 200), "en-IN", 4),
    ((179, 210), "pt-BR", 4),
    ((1, 124), "en-AU", 3),
];

const DESKTOP: &[(u32, u32)] = &[(1920, 1080), (1536, 864), (2560, 1440), (1440, 900)];
const MAC: &[(u32, u32)] = &[(1440, 900), (1512, 982), (1728, 1117)];
const IPHONE: &[(u32, u32)] = &[(393, 852), (402, 874), (430, 932)];
const ANDROID: &[(u32, u32)] = &[(412, 915), (360, 800), (384, 854)];
const IPAD: &[(u32, u32)] = &[(820, 1180), (1024, 1366)];

/// A user agent, the screens it is seen with, how often.
type Browser = (&'static str, &'static [(u32, u32)], u32);

/// User agents as browsers send them: reduced to the major version where the browser does so.
const BROWSERS: [Browser; 12] = [
    (
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/155.0.0.0 Safari/537.36",
        DESKTOP,
        22,
    ),
    (
        "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/155.0.0.0 Safari/537.36",
        MAC,
        9,
    ),
    (
        "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/155.0.0.0 Mobile Safari/537.36",
        ANDROID,
        20,
    ),
    (
        "Mozilla/5.0 (iPhone; CPU iPhone OS 18_7 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/26.1 Mobile/15E148 Safari/604.1",
        IPHONE,
        20,
    ),
    (
        "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/26.1 Safari/605.1.15",
        MAC,
        8,
    ),
    (
        "Mozilla/5.0 (iPad; CPU OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.6 Mobile/15E148 Safari/604.1",
        IPAD,
        3,
    ),
    ("Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:157.0) Gecko/20100101 Firefox/157.0", DESKTOP, 5),
    ("Mozilla/5.0 (X11; Linux x86_64; rv:157.0) Gecko/20100101 Firefox/157.0", DESKTOP, 3),
    (
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/155.0.0.0 Safari/537.36 Edg/155.0.0.0",
        DESKTOP,
        6,
    ),
    (
        "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) SamsungBrowser/29.0 Chrome/136.0.0.0 Mobile Safari/537.36",
        ANDROID,
        4,
    ),
    (
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/154.0.0.0 Safari/537.36 OPR/138.0.0.0",
        DESKTOP,
        2,
    ),
    (
        "Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/155.0.0.0 Safari/537.36",
        DESKTOP,
        2,
    ),
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use rand::SeedableRng;

    use super::*;

    #[test]
    fn every_agent_has_a_network_of_its_own_and_no_run_shares_one() {
        let mut random = SmallRng::seed_from_u64(1);
        let runs = [Addresses::of_run(&mut random), Addresses::of_run(&mut random)];
        let networks: HashSet<String> = runs
            .iter()
            .flat_map(|run| (0..crate::scenario::AGENTS_MAX).map(|index| run.of_agent(index)))
            .map(|address| match address {
                IpAddr::V6(address) => format!("{:?}", &address.octets()[..8]),
                IpAddr::V4(_) => unreachable!("load tests use documentation addresses"),
            })
            .collect();
        assert_eq!(networks.len(), 2 * crate::scenario::AGENTS_MAX as usize);
    }

    #[test]
    fn no_visitor_looks_like_a_program() {
        for (user_agent, ..) in BROWSERS {
            let lower = user_agent.to_lowercase();
            for word in ["bot", "crawl", "spider", "headless", "http:", "https:", "+"] {
                assert!(!lower.contains(word), "{user_agent} contains {word}");
            }
            assert!(user_agent.starts_with("Mozilla/5.0 ("));
        }
    }
}
