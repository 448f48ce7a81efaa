//! How many different things one site may name in a day: paths, names of events, keys and values of properties. What is beyond becomes
//! [`OTHER`], so that a page that writes an order's number into its path cannot fill Redis and central with rows of one event each.
//!
//! Counted by this process alone, from its start on. Nothing is kept but hashes under the day's salt, and no more of them than
//! [`HASHES_MAX`] whatever comes: the site whose last batch is longest ago is forgotten first, and begins anew if it comes again.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use proto::limits::PAGEVIEW;
use proto::record::RecordedEvent;

use crate::config::Limits;
use crate::ingest::visitor::{LocalDay, SaltKey};

/// Stands for what is beyond a limit.
pub const OTHER: &str = "(other)";
/// Sites whose hashes are kept; on two days at once a site is two.
const SITES_MAX: usize = 10_000;
/// Hashes that are kept, of all sites. A set takes 9 bytes for each place and is between 7/16 and 7/8 full: 86 MB at the most.
const HASHES_MAX: usize = 1 << 22;
/// Parts with a lock each. A core waits for another one only while both look at sites of one part.
const PARTS: usize = 1 << PARTS_BITS;
const PARTS_BITS: u32 = 4;

/// What a limit is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A path.
    Path,
    /// An event's name.
    Name,
    /// A property's key.
    Key,
    /// A property's value; each key has as many.
    Value,
}

/// What was replaced in a batch, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replaced([u32; 4]);

/// What sites have named so far; shared by the cores.
#[derive(Debug)]
pub struct Cardinality {
    /// By kind.
    limits: [AtomicU32; 4],
    parts: [Mutex<Part>; PARTS],
    bounds: Bounds,
}

/// Of one part.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    sites: usize,
    hashes: usize,
}

/// Some of the sites.
#[derive(Debug, Default)]
struct Part {
    /// By the hash of site and day.
    sites: HashMap<u64, Seen, BuildHasherDefault<AsItIs>>,
    /// Of all of them.
    hashes: usize,
    /// Batches so far.
    batches: u64,
}

/// What a site has named on a day.
#[derive(Debug, Default)]
struct Seen {
    /// Of every kind.
    hashes: HashSet<u64, BuildHasherDefault<AsItIs>>,
    paths: u32,
    names: u32,
    keys: u32,
    /// How many values a key has, by its hash.
    values: HashMap<u64, u32, BuildHasherDefault<AsItIs>>,
    /// The number of its last batch.
    last: u64,
}

/// What an event names, hashed before anything is locked.
struct Hashes {
    path: u64,
    /// None: a pageview.
    name: Option<u64>,
    /// Keys and values.
    props: Vec<[u64; 2]>,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Path, Self::Name, Self::Key, Self::Value];

    /// As a metric's label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Path => "path",
            Self::Name => "event_name",
            Self::Key => "prop_key",
            Self::Value => "prop_value",
        }
    }
}

impl Replaced {
    /// How many of a kind.
    pub fn of(self, kind: Kind) -> u32 {
        self.0[kind as usize]
    }
}

impl Cardinality {
    /// Nothing is named yet.
    pub fn new(limits: &Limits) -> Self {
        Self::with_bounds(limits, Bounds { sites: SITES_MAX / PARTS, hashes: HASHES_MAX / PARTS })
    }

    fn with_bounds(limits: &Limits, bounds: Bounds) -> Self {
        let cardinality = Self { limits: Default::default(), parts: Default::default(), bounds };
        cardinality.limit(limits);
        cardinality
    }

    /// Other limits, for what comes from now on: what was named under the old ones stays.
    pub fn limit(&self, limits: &Limits) {
        let limits = [
            limits.site_paths_per_day,
            limits.site_event_names_per_day,
            limits.site_prop_keys_per_day,
            limits.site_prop_values_per_day,
        ];
        for (limit, new) in self.limits.iter().zip(limits) {
            limit.store(new, Relaxed);
        }
    }

    /// Replaces in events of one site and local day what is beyond the limits. A pageview keeps its name, which no page chose.
    pub fn bound(&self, salt: &SaltKey, site: &str, day: LocalDay, events: &mut [RecordedEvent]) -> Replaced {
        let mut replaced = Replaced::default();
        if events.is_empty() {
            return replaced;
        }
        let hashes = hashes(salt, events);
        let site = salt.hash([b"site", site.as_bytes(), day.to_string().as_bytes()]);
        let limits = self.limits.each_ref().map(|limit| limit.load(Relaxed));
        let part = &self.parts[(site >> (u64::BITS - PARTS_BITS)) as usize];
        // Whole whatever panicked beside it: a hash that is missing is taken again.
        let mut part = part.lock().unwrap_or_else(PoisonError::into_inner);
        let bounds = self.bounds;
        part.visit(site, bounds, |seen| {
            for (event, hashes) in events.iter_mut().zip(&hashes) {
                seen.take(event, hashes, limits, bounds.hashes, &mut replaced);
            }
        });
        replaced
    }
}

/// Events of one page follow each other, and mostly have one name: what is the same is not hashed again.
fn hashes(salt: &SaltKey, events: &[RecordedEvent]) -> Vec<Hashes> {
    let hash = |of: &[u8], text: &str| salt.hash([of, text.as_bytes()]);
    let (mut path, mut name) = (("", hash(b"path", "")), ("", hash(b"name", "")));
    let mut hashes = Vec::with_capacity(events.len());
    for event in events {
        if path.0 != event.path {
            path = (&event.path, hash(b"path", &event.path));
        }
        if name.0 != event.name {
            name = (&event.name, hash(b"name", &event.name));
        }
        let prop = |[key, value]: &[String; 2]| [hash(b"key", key), hash(b"value", value)];
        hashes.push(Hashes {
            path: path.1,
            name: (event.name != PAGEVIEW).then_some(name.1),
            props: event.props.as_chunks().0.iter().map(prop).collect(),
        });
    }
    hashes
}

impl Part {
    /// Lets `take` see the site, and forgets others if there is no room for it beside them.
    fn visit(&mut self, site: u64, bounds: Bounds, take: impl FnOnce(&mut Seen)) {
        self.batches += 1;
        if self.sites.len() >= bounds.sites && !self.sites.contains_key(&site) {
            self.forget_longest_silent(site);
        }
        let seen = self.sites.entry(site).or_default();
        seen.last = self.batches;
        let before = seen.hashes.len();
        take(seen);
        self.hashes += seen.hashes.len() - before;
        while self.hashes > bounds.hashes && self.sites.len() > 1 {
            self.forget_longest_silent(site);
        }
    }

    /// Of the other sites.
    fn forget_longest_silent(&mut self, site: u64) {
        let others = self.sites.iter().filter(|(other, _)| **other != site);
        let longest = others.min_by_key(|(_, seen)| seen.last).map(|(other, _)| *other);
        if let Some(seen) = longest.and_then(|longest| self.sites.remove(&longest)) {
            self.hashes -= seen.hashes.len();
        }
    }
}

impl Seen {
    fn take(
        &mut self,
        event: &mut RecordedEvent,
        hashes: &Hashes,
        [paths_max, names_max, keys_max, values_max]: [u32; 4],
        hashes_max: usize,
        Replaced(replaced): &mut Replaced,
    ) {
        let Self { hashes: seen, paths, names, keys, values, .. } = self;
        let mut admit = |hash, count: &mut u32, max, kind: Kind, text: &mut String| {
            if seen.contains(&hash) {
                return true;
            }
            let fits = *count < max && seen.len() < hashes_max;
            if fits {
                seen.insert(hash);
                *count += 1;
            } else {
                OTHER.clone_into(text);
                replaced[kind as usize] += 1;
            }
            fits
        };
        admit(hashes.path, paths, paths_max, Kind::Path, &mut event.path);
        if let Some(name) = hashes.name {
            admit(name, names, names_max, Kind::Name, &mut event.name);
        }
        for ([key, value], &[key_hash, value_hash]) in event.props.as_chunks_mut().0.iter_mut().zip(&hashes.props) {
            // The keys that are beyond share one key's values.
            let of = if admit(key_hash, keys, keys_max, Kind::Key, key) { key_hash } else { 0 };
            let count = values.entry(of).or_default();
            admit(of ^ value_hash, count, values_max, Kind::Value, value);
        }
    }
}

/// Of what is a hash already, under a key that nobody outside knows.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SALT: SaltKey = SaltKey::new([7; 16]);

    fn limits(paths: u32, names: u32, keys: u32, values: u32) -> Limits {
        Limits {
            site_paths_per_day: paths,
            site_event_names_per_day: names,
            site_prop_keys_per_day: keys,
            site_prop_values_per_day: values,
            ..Limits::default()
        }
    }

    fn day(day: &str) -> LocalDay {
        day.parse().unwrap()
    }

    fn event(name: &str, path: &str, props: &[&str]) -> RecordedEvent {
        let props = props.iter().map(|&text| text.to_owned()).collect();
        RecordedEvent { name: name.into(), path: path.into(), props, ..Default::default() }
    }

    /// What becomes of events of the site on a day.
    fn bound(cardinality: &Cardinality, site: &str, mut events: Vec<RecordedEvent>) -> (Vec<RecordedEvent>, Replaced) {
        let replaced = cardinality.bound(&SALT, site, day("2026-11-28"), &mut events);
        (events, replaced)
    }

    fn paths(cardinality: &Cardinality, site: &str, paths: &[&str]) -> Vec<String> {
        let events = paths.iter().map(|path| event(PAGEVIEW, path, &[])).collect();
        bound(cardinality, site, events).0.into_iter().map(|event| event.path).collect()
    }

    #[test]
    fn what_is_beyond_a_limit_is_other_and_what_was_there_before_stays() {
        let cardinality = Cardinality::new(&limits(2, 1, 2, 2));
        assert_eq!(paths(&cardinality, "a", &["/1", "/2", "/3", "/1"]), ["/1", "/2", OTHER, "/1"]);
        assert_eq!(paths(&cardinality, "a", &["/3", "/2"]), [OTHER, "/2"]);
        assert_eq!(paths(&cardinality, "b", &["/3"]), ["/3"], "another site");

        let events = vec![
            event("Signup", "/1", &["plan", "free", "plan", "pro", "plan", "gold"]),
            event("Login", "/1", &["seats", "free", "colour", "red", "size", "red", "size", "blue", "size", "green"]),
            event(PAGEVIEW, "/1", &["plan", "pro"]),
        ];
        let expected = vec![
            event("Signup", "/1", &["plan", "free", "plan", "pro", "plan", OTHER]),
            event(OTHER, "/1", &["seats", "free", OTHER, "red", OTHER, "red", OTHER, "blue", OTHER, OTHER]),
            event(PAGEVIEW, "/1", &["plan", "pro"]),
        ];
        let (events, replaced) = bound(&cardinality, "a", events);
        assert_eq!(events, expected);
        assert_eq!(Kind::ALL.map(|kind| replaced.of(kind)), [0, 1, 4, 2]);
    }

    #[test]
    fn a_day_begins_anew_and_a_new_limit_is_for_what_comes() {
        let cardinality = Cardinality::new(&limits(1, 1, 1, 1));
        assert_eq!(paths(&cardinality, "a", &["/1", "/2"]), ["/1", OTHER]);
        let mut events = [event(PAGEVIEW, "/2", &[])];
        assert_eq!(cardinality.bound(&SALT, "a", day("2026-11-29"), &mut events), Replaced::default());
        cardinality.limit(&limits(2, 1, 1, 1));
        assert_eq!(paths(&cardinality, "a", &["/2", "/3", "/1"]), ["/2", OTHER, "/1"]);
        cardinality.limit(&limits(1, 1, 1, 1));
        assert_eq!(paths(&cardinality, "a", &["/2", "/3", "/1"]), ["/2", OTHER, "/1"]);
    }

    #[test]
    fn of_too_many_sites_the_one_that_was_silent_for_longest_begins_anew() {
        let cardinality = Cardinality::with_bounds(&limits(1, 1, 1, 1), Bounds { sites: 2, hashes: 1_000 });
        let sites: Vec<String> =
            (0..).map(|n| format!("site-{n}")).filter(|site| in_first_part(site)).take(3).collect();
        for site in &sites[..2] {
            assert_eq!(paths(&cardinality, site, &["/1"]), ["/1"]);
        }
        assert_eq!(paths(&cardinality, &sites[0], &["/2"]), [OTHER], "both are kept");
        assert_eq!(paths(&cardinality, &sites[2], &["/1"]), ["/1"]);
        assert_eq!(paths(&cardinality, &sites[0], &["/2"]), [OTHER], "it had come again meanwhile");
        assert_eq!(paths(&cardinality, &sites[1], &["/2"]), ["/2"], "it was forgotten");
    }

    fn in_first_part(site: &str) -> bool {
        let day = day("2026-11-28").to_string();
        SALT.hash([b"site", site.as_bytes(), day.as_bytes()]) >> (u64::BITS - PARTS_BITS) == 0
    }

    proptest! {
        #[test]
        fn no_more_is_kept_than_the_bounds_say(
            batches in prop::collection::vec((0u8..40, prop::collection::vec((0u8..30, 0u8..30, 0u8..30), 1..20)), 1..60),
        ) {
            let bounds = Bounds { sites: 3, hashes: 40 };
            let cardinality = Cardinality::with_bounds(&limits(20, 10, 5, 10), bounds);
            for (site, events) in batches {
                let events = events.iter().map(|(path, name, value)| {
                    event(&name.to_string(), &format!("/{path}"), &["key", &value.to_string()])
                });
                let sent: Vec<RecordedEvent> = events.collect();
                let (kept, replaced) = bound(&cardinality, &site.to_string(), sent.clone());
                let others = kept.iter().flat_map(|event| [&event.path, &event.name, &event.props[0], &event.props[1]]);
                let counted: u32 = Kind::ALL.iter().map(|&kind| replaced.of(kind)).sum();
                prop_assert_eq!(others.filter(|text| *text == OTHER).count(), counted as usize);
                for part in &cardinality.parts {
                    let part = part.lock().unwrap();
                    let hashes: usize = part.sites.values().map(|seen| seen.hashes.len()).sum();
                    prop_assert_eq!(hashes, part.hashes);
                    prop_assert!(part.sites.len() <= bounds.sites && hashes <= bounds.hashes);
                }
            }
        }
    }
}
