//! One visit to the shop: where it came from, its pages in the order of its links, what is bought.

use std::time::Duration;

use proto::limits::PAGEVIEW;
use rand::{RngExt, rngs::SmallRng, seq::IndexedRandom};

use crate::walk::{Event, Intended};

/// A visit, planned to its end.
#[derive(Debug)]
pub struct Stroll {
    events: Vec<Intended>,
    length: Duration,
}

/// No visit has more pages.
const PAGES_MAX: usize = 14;

impl Stroll {
    /// A visit to the shop at `origin`.
    pub fn new(origin: &str, random: &mut SmallRng) -> Self {
        let mut stroll = Planner { origin, at_s: 0.0, last_s: 0.0, events: Vec::new(), cart: Vec::new() };
        let source = pick(SOURCES, |source| source.weight, random);
        let entry = pick(source.entries, |entry| entry.1, random).0;
        stroll.view(entry, source.query, source.referrer);

        let mut page = entry;
        for _ in 1..PAGES_MAX {
            stroll.think(random);
            stroll.act(page, random);
            let Some(next) = next_page(page, random) else { break };
            stroll.view(next, "", &format!("{origin}{page}"));
            page = next;
        }
        Self { length: Duration::from_secs_f64(stroll.at_s + random.random_range(2.0..25.0)), events: stroll.events }
    }

    /// How long the visitor has the shop open.
    pub fn length(&self) -> Duration {
        self.length
    }
}

impl IntoIterator for Stroll {
    type Item = Intended;
    type IntoIter = std::vec::IntoIter<Intended>;

    fn into_iter(self) -> Self::IntoIter {
        self.events.into_iter()
    }
}

struct Planner<'a> {
    origin: &'a str,
    at_s: f64,
    last_s: f64,
    events: Vec<Intended>,
    cart: Vec<&'static Product>,
}

impl Planner<'_> {
    /// Most people glance, some read.
    fn think(&mut self, random: &mut SmallRng) {
        let glance = random.random_range(2.0..14.0);
        self.at_s += if random.random_bool(0.25) { glance + random.random_range(5.0..45.0) } else { glance };
    }

    fn view(&mut self, path: &str, query: &str, referrer: &str) {
        let question = if query.is_empty() { "" } else { "?" };
        let url = format!("{}{path}{question}{query}", self.origin);
        self.push(PAGEVIEW, url, referrer.to_owned(), Vec::new());
    }

    /// What may happen on a page before it is left.
    fn act(&mut self, page: &str, random: &mut SmallRng) {
        if let Some(product) = PRODUCTS.iter().find(|product| product.path == page)
            && random.random_bool(0.3)
        {
            self.fire("Add to cart", page, &[("product", product.name.to_owned()), ("price", price(product.pence))]);
            self.cart.push(product);
            self.at_s += random.random_range(1.0..4.0);
        }
        if page == CHECKOUT && !self.cart.is_empty() {
            let total = self.cart.drain(..).map(|product| product.pence).sum();
            let items = self.events.iter().filter(|intended| intended.event.name == "Add to cart").count();
            self.fire("Checkout", page, &[("items", items.to_string()), ("total", price(total))]);
        }
        if random.random_bool(0.04) {
            self.fire("Signup", page, &[("list", "letters".to_owned())]);
            self.at_s += random.random_range(1.0..3.0);
        }
    }

    fn fire(&mut self, name: &str, page: &str, props: &[(&str, String)]) {
        let props = props.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
        self.push(name, format!("{}{page}", self.origin), String::new(), props);
    }

    fn push(&mut self, name: &str, url: String, referrer: String, props: Vec<(String, String)>) {
        let engaged_ms = ((self.at_s - self.last_s) * 1000.0) as u32;
        self.last_s = self.at_s;
        let event = Event { name: name.to_owned(), url, referrer, props, engaged_ms };
        self.events.push(Intended { at: Duration::from_secs_f64(self.at_s), event });
    }
}

/// The page after this one, or nothing: the visitor leaves.
fn next_page(page: &str, random: &mut SmallRng) -> Option<&'static str> {
    let links = LINKS.iter().find(|(from, ..)| *from == page)?;
    if random.random_bool(links.1) { None } else { Some(pick(links.2, |link| link.1, random).0) }
}

fn pick<'a, T>(from: &'a [T], weight: impl Fn(&T) -> u32, random: &mut SmallRng) -> &'a T {
    from.choose_weighted(random, weight).expect("the tables below have weights above 0")
}

fn price(pence: u32) -> String {
    format!("£{}.{:02}", pence / 100, pence % 100)
}

struct Product {
    path: &'static str,
    name: &'static str,
    pence: u32,
}

const MUG: &str = "/products/enamel-mug.html";
const KETTLE: &str = "/products/pour-over-kettle.html";
const LANTERN: &str = "/products/storm-lantern.html";
const BLANKET: &str = "/products/wool-blanket.html";

const PRODUCTS: [Product; 4] = [
    Product { path: MUG, name: "Enamel mug", pence: 1450 },
    Product { path: KETTLE, name: "Pour-over kettle", pence: 5800 },
    Product { path: LANTERN, name: "Storm lantern", pence: 7200 },
    Product { path: BLANKET, name: "Wool blanket", pence: 12_900 },
];

const HOME: &str = "/";
const GALLEY: &str = "/collections/galley.html";
const CABIN: &str = "/collections/cabin.html";
const CART: &str = "/cart.html";
const CHECKOUT: &str = "/checkout.html";
const THANKS: &str = "/thanks.html";
const ABOUT: &str = "/about.html";
const BLOG: &str = "/blog.html";
const WICK: &str = "/blog/how-to-trim-a-wick.html";
const COFFEE: &str = "/blog/coffee-at-six-knots.html";
const PACKING: &str = "/app/";
const TIDES: &str = "/app/tides";
const KNOTS: &str = "/app/knots";

/// From a page: the share of visitors who leave there, and where the others go.
type Links = (&'static str, f64, &'static [(&'static str, u32)]);

const LINKS: &[Links] = &[
    (
        HOME,
        0.32,
        &[(GALLEY, 5), (CABIN, 5), (LANTERN, 4), (MUG, 4), (KETTLE, 2), (BLANKET, 2), (BLOG, 2), (PACKING, 2)],
    ),
    (GALLEY, 0.2, &[(MUG, 5), (KETTLE, 5), (CABIN, 2), (HOME, 1)]),
    (CABIN, 0.2, &[(LANTERN, 6), (BLANKET, 4), (GALLEY, 2), (HOME, 1)]),
    (MUG, 0.3, &[(CART, 4), (KETTLE, 3), (GALLEY, 2), (LANTERN, 1)]),
    (KETTLE, 0.3, &[(CART, 4), (MUG, 3), (COFFEE, 1), (GALLEY, 1)]),
    (LANTERN, 0.28, &[(CART, 4), (BLANKET, 3), (WICK, 2), (CABIN, 1)]),
    (BLANKET, 0.3, &[(CART, 4), (LANTERN, 3), (CABIN, 1)]),
    (CART, 0.3, &[(CHECKOUT, 7), (HOME, 2)]),
    (CHECKOUT, 0.15, &[(THANKS, 1)]),
    (THANKS, 0.8, &[(HOME, 1)]),
    (ABOUT, 0.5, &[(HOME, 2), (BLOG, 1)]),
    (BLOG, 0.25, &[(WICK, 1), (COFFEE, 1)]),
    (WICK, 0.62, &[(LANTERN, 4), (BLOG, 2)]),
    (COFFEE, 0.62, &[(KETTLE, 4), (BLOG, 2)]),
    (PACKING, 0.25, &[(TIDES, 4), (KNOTS, 3), (HOME, 1)]),
    (TIDES, 0.5, &[(KNOTS, 2), (PACKING, 1), (HOME, 1)]),
    (KNOTS, 0.5, &[(TIDES, 1), (HOME, 1), (ABOUT, 1)]),
];

/// Where a visitor comes from, and the pages that one enters by.
struct Source {
    weight: u32,
    referrer: &'static str,
    query: &'static str,
    entries: &'static [(&'static str, u32)],
}

const fn source(
    weight: u32,
    referrer: &'static str,
    query: &'static str,
    entries: &'static [(&'static str, u32)],
) -> Source {
    Source { weight, referrer, query, entries }
}

const SOURCES: &[Source] = &[
    source(28, "", "", &[(HOME, 8), (PACKING, 2), (LANTERN, 1)]),
    source(26, "https://www.google.com/", "", &[(WICK, 4), (LANTERN, 3), (HOME, 3), (COFFEE, 2), (BLANKET, 1)]),
    source(5, "https://duckduckgo.com/", "", &[(WICK, 2), (HOME, 1)]),
    source(4, "https://www.bing.com/", "", &[(KETTLE, 1), (HOME, 1)]),
    source(7, "https://news.ycombinator.com/", "", &[(COFFEE, 3), (PACKING, 1)]),
    source(6, "https://www.reddit.com/", "", &[(WICK, 2), (LANTERN, 1)]),
    source(5, "https://l.instagram.com/", "", &[(MUG, 2), (BLANKET, 2)]),
    source(4, "https://chatgpt.com/", "utm_source=chatgpt.com", &[(LANTERN, 2), (WICK, 1)]),
    source(3, "https://smallboats.example/galley-kit", "", &[(KETTLE, 2), (GALLEY, 1)]),
    source(
        9,
        "",
        "utm_source=letters&utm_medium=email&utm_campaign=first-frost",
        &[(BLANKET, 3), (CABIN, 2), (HOME, 1)],
    ),
    source(
        5,
        "https://www.google.com/",
        "utm_source=google&utm_medium=cpc&utm_campaign=lanterns&utm_term=storm+lantern",
        &[(LANTERN, 1)],
    ),
];

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, path::Path};

    use rand::SeedableRng;

    use super::*;

    #[test]
    fn every_page_of_the_stroll_is_in_the_shop() {
        let shop = Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo/shop");
        for (from, leaving, to) in LINKS {
            for page in std::iter::once(from).chain(to.iter().map(|(page, _)| page)) {
                assert!(LINKS.iter().any(|(known, ..)| known == page), "{page} has no links");
                let view = page.starts_with("/app/").then_some("/app/index.html");
                let file = if *page == "/" { "/index.html" } else { view.unwrap_or(page) };
                assert!(shop.join(&file[1..]).is_file(), "{page}");
            }
            assert!((0.0..=1.0).contains(leaving));
        }
    }

    #[test]
    fn visits_differ_some_bounce_and_some_buy() {
        let mut random = SmallRng::seed_from_u64(11);
        let strolls: Vec<Stroll> = (0..2000).map(|_| Stroll::new("http://shop.test", &mut random)).collect();
        let bounces = strolls.iter().filter(|stroll| stroll.events.len() == 1).count();
        assert!((400..1200).contains(&bounces), "{bounces}");
        let names: HashSet<&str> =
            strolls.iter().flat_map(|stroll| &stroll.events).map(|intended| intended.event.name.as_str()).collect();
        assert_eq!(names, HashSet::from([PAGEVIEW, "Add to cart", "Checkout", "Signup"]));
        for stroll in &strolls {
            assert!(stroll.events[0].event.is_pageview());
            assert!(stroll.events.is_sorted_by_key(|intended| intended.at));
            assert!(stroll.events.last().unwrap().at < stroll.length);
        }
    }
}
