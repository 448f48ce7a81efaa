//! What a visitor does: which page follows which, and which events happen on them.

use std::{sync::Arc, time::Duration};

use proto::limits::PAGEVIEW;
use rand::{RngExt, rngs::SmallRng, seq::IndexedRandom};

use crate::{scenario::Scenario, schedule::Schedule};

/// An event with the moment it is meant to happen, counted from the start of the run.
#[derive(Debug, Clone, PartialEq)]
pub struct Intended {
    /// Since the start of the run.
    pub at: Duration,
    /// What happens.
    pub event: Event,
}

/// What a page tells its agent.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// `pageview`, or the name of a custom event.
    pub name: String,
    /// The page's absolute URL.
    pub url: String,
    /// Where the page was reached from; empty when nowhere.
    pub referrer: String,
    /// Keys and values.
    pub props: Vec<(String, String)>,
    /// Time that the page was in use since the event before, milliseconds.
    pub engaged_ms: u32,
}

impl Event {
    /// Whether it is a pageview.
    pub fn is_pageview(&self) -> bool {
        self.name == PAGEVIEW
    }
}

/// A visitor of a load test: enters by one of the scenario's entries with a pageview, then views pages and fires events
/// by their weights, at the times of its schedule. It makes one event at a time, so that its length costs no memory.
pub struct Walk {
    scenario: Arc<Scenario>,
    schedule: Schedule,
    random: SmallRng,
    /// The page it is on; empty before it has entered.
    url: String,
    last: Duration,
}

impl Walk {
    /// A walk through the scenario's pages.
    pub fn new(scenario: Arc<Scenario>, schedule: Schedule, random: SmallRng) -> Self {
        Self { scenario, schedule, random, url: String::new(), last: Duration::ZERO }
    }

    fn enter(&mut self) -> Event {
        let entry = weighted(&self.scenario.entries, |entry| entry.weight, &mut self.random);
        let page = weighted(&self.scenario.pages, |page| page.weight, &mut self.random);
        self.url = format!("{}{}", self.scenario.origin, page.path);
        let url = if entry.query.is_empty() { self.url.clone() } else { format!("{}?{}", self.url, entry.query) };
        Event { name: PAGEVIEW.to_owned(), url, referrer: entry.referrer.clone(), props: Vec::new(), engaged_ms: 0 }
    }

    fn view(&mut self, engaged_ms: u32) -> Event {
        let page = weighted(&self.scenario.pages, |page| page.weight, &mut self.random);
        let url = format!("{}{}", self.scenario.origin, page.path);
        let referrer = std::mem::replace(&mut self.url, url.clone());
        Event { name: PAGEVIEW.to_owned(), url, referrer, props: Vec::new(), engaged_ms }
    }

    fn act(&mut self, engaged_ms: u32) -> Event {
        let custom = weighted(&self.scenario.events, |event| event.weight, &mut self.random);
        let props = custom
            .props
            .iter()
            .map(|(key, values)| (key.clone(), values.choose(&mut self.random).cloned().unwrap_or_default()))
            .collect();
        Event { name: custom.name.clone(), url: self.url.clone(), referrer: String::new(), props, engaged_ms }
    }
}

impl Iterator for Walk {
    type Item = Intended;

    fn next(&mut self) -> Option<Intended> {
        let at = self.schedule.next()?;
        let engaged_ms = (at - self.last).as_millis().min(60_000) as u32;
        self.last = at;
        let event = if self.url.is_empty() {
            self.enter()
        } else if self.random.random_bool(self.scenario.pageview_share) {
            self.view(engaged_ms)
        } else {
            self.act(engaged_ms)
        };
        Some(Intended { at, event })
    }
}

/// One of `from`, by weight.
fn weighted<'a, T>(from: &'a [T], weight: impl Fn(&T) -> u32, random: &mut SmallRng) -> &'a T {
    from.choose_weighted(random, weight).expect("a checked scenario has something of weight above 0")
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn events(text: &str) -> Vec<Event> {
        let scenario = Arc::new(toml::from_str::<Scenario>(text).unwrap().checked().unwrap());
        let random = SmallRng::seed_from_u64(3);
        let schedule =
            Schedule::new(scenario.arrivals, Duration::ZERO, scenario.duration(), scenario.gap(), random.clone());
        Walk::new(scenario, schedule, random).map(|intended| intended.event).collect()
    }

    #[test]
    fn a_visit_begins_with_a_pageview_and_pages_refer_to_each_other() {
        let events =
            events("agents = 1\nduration_s = 1000\nevents_per_s = 1\nentries = [{ query = \"utm_source=x\" }]");
        assert!(events.len() > 500);
        assert!(events[0].is_pageview() && events[0].url.ends_with("?utm_source=x"));
        let mut page = events[0].url.split('?').next().unwrap().to_owned();
        for event in &events[1..] {
            if event.is_pageview() {
                assert_eq!(event.referrer, page);
                page.clone_from(&event.url);
            } else {
                assert_eq!((event.url.as_str(), event.name.as_str()), (page.as_str(), "Signup"));
                assert!(matches!(event.props[0].1.as_str(), "free" | "team"));
            }
        }
    }

    #[test]
    fn the_share_of_pageviews_is_the_one_asked_for() {
        let events = events("agents = 1\nduration_s = 20000\nevents_per_s = 1\npageview_share = 0.6");
        let share = events.iter().filter(|event| event.is_pageview()).count() as f64 / events.len() as f64;
        assert!((share - 0.6).abs() < 0.02, "{share}");
    }
}
