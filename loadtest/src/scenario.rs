//! What a run is asked to do: the scenario file, read once and checked before anything connects.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;

/// Agents that one process can hold: an open file each, 20,000 files on a usual machine, the rest for everything else.
pub const AGENTS_MAX: u32 = 19_000;

/// A scenario file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Visitors, each an agent with a connection, an address and a user agent of its own: 1 to 19,000.
    pub agents: u32,
    /// How long events are made, seconds.
    pub duration_s: f64,
    /// Events a second over all agents, once all of them have started. An agent's events follow its own schedule.
    pub events_per_s: f64,
    /// How an agent's events follow one another: `poisson` (at random, the default) or `constant`.
    #[serde(default)]
    pub arrivals: Arrivals,
    /// The agents start evenly over this time, seconds. Default 0: all at once.
    #[serde(default)]
    pub ramp_s: f64,
    /// How long after the end agents may wait for acknowledgements, seconds. Default 30.
    #[serde(default = "default_drain_s")]
    pub drain_s: f64,
    /// How long the Stats API may take to count what was acknowledged, seconds. Default 60.
    #[serde(default = "default_count_s")]
    pub count_s: f64,
    /// The counts must stay right for this long, seconds: whatever is counted twice is often counted late. Default 11,
    /// one cut of the region and a little.
    #[serde(default = "default_settle_s")]
    pub settle_s: f64,
    /// The run fails if a larger share of its events is dropped, 0 to 1. Default 0: none may be.
    #[serde(default)]
    pub dropped_share_max: f64,
    /// Share of pageviews among the events, 0 to 1; the others are custom events. Default 0.8.
    #[serde(default = "default_pageview_share")]
    pub pageview_share: f64,
    /// How long an agent stays with one gateway on average before it reconnects, to any of those given, seconds. Default 0: as
    /// long as it can.
    #[serde(default)]
    pub moves_every_s: f64,
    /// Agents keep an outbox on their device (class long), and now and then close their page and come back late. Default:
    /// the outbox is in memory, and the page stays open.
    #[serde(default)]
    pub away: Option<Away>,
    /// The site's origin, sent as `Origin` and used in every page's URL. Default `https://shop.example`; `--origin` wins.
    #[serde(default = "default_origin")]
    pub origin: String,
    /// Seed of everything random but the visitors' addresses, which are new in every run. Default 1.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// Pages that are viewed. Default: a few pages.
    #[serde(default = "default_pages")]
    pub pages: Vec<Page>,
    /// Custom events. Default: one, `Signup`.
    #[serde(default = "default_events")]
    pub events: Vec<CustomEvent>,
    /// Where visitors come from. Default: half direct, half from a search engine.
    #[serde(default = "default_entries")]
    pub entries: Vec<Entry>,
}

/// When agents with an outbox on their device are away.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Away {
    /// How long an agent is there on average before its page is closed, seconds.
    pub every_s: f64,
    /// How long the device then has no network on average, seconds. The next page is opened at once, and its events wait too.
    pub for_s: f64,
}

/// How one event follows another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arrivals {
    /// Independent of each other: exponential gaps.
    #[default]
    Poisson,
    /// Equal gaps.
    Constant,
}

/// A page of the site.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Page {
    /// Path with its leading slash.
    pub path: String,
    /// How often, against the other pages. Default 1.
    #[serde(default = "default_weight")]
    pub weight: u32,
}

/// A custom event.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CustomEvent {
    /// Its name: anything but `pageview`.
    pub name: String,
    /// How often, against the other events. Default 1.
    #[serde(default = "default_weight")]
    pub weight: u32,
    /// Properties: each key with the values one of which is taken.
    #[serde(default)]
    pub props: BTreeMap<String, Vec<String>>,
}

/// A way to come to the site.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// How often, against the other entries. Default 1.
    #[serde(default = "default_weight")]
    pub weight: u32,
    /// The referrer's URL. Default none.
    #[serde(default)]
    pub referrer: String,
    /// What follows `?` in the entry page's URL, such as `utm_source=letters`. Default nothing.
    #[serde(default)]
    pub query: String,
}

/// The scenario cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// No such file, or it cannot be read.
    #[error("cannot read the scenario {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not TOML, an unknown key, a missing one, or a value of another type.
    #[error("the scenario {path} is not right: {source}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where and what.
        source: Box<toml::de::Error>,
    },
    /// A value that makes no sense.
    #[error("scenario: `{key}` is {value}, but must be {right}")]
    OutOfRange {
        /// The key.
        key: &'static str,
        /// What it is.
        value: String,
        /// What would be right.
        right: &'static str,
    },
}

impl Scenario {
    /// Reads and checks a file.
    pub fn read(path: &Path) -> Result<Self, ScenarioError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ScenarioError::Unreadable { path: path.to_owned(), source })?;
        let scenario: Self = toml::from_str(&text)
            .map_err(|source| ScenarioError::Malformed { path: path.to_owned(), source: Box::new(source) })?;
        scenario.checked()
    }

    /// The scenario, if it makes sense.
    pub fn checked(self) -> Result<Self, ScenarioError> {
        const SECONDS: &str = "a number of seconds, 0 or more";
        require((1..=AGENTS_MAX).contains(&self.agents), "agents", self.agents, "1 to 19000")?;
        require(positive(self.duration_s), "duration_s", self.duration_s, "a number of seconds above 0")?;
        require(positive(self.events_per_s), "events_per_s", self.events_per_s, "above 0")?;
        require(not_negative(self.drain_s), "drain_s", self.drain_s, SECONDS)?;
        require(not_negative(self.count_s), "count_s", self.count_s, SECONDS)?;
        require(not_negative(self.settle_s), "settle_s", self.settle_s, SECONDS)?;
        let ramp = not_negative(self.ramp_s) && self.ramp_s < self.duration_s;
        require(ramp, "ramp_s", self.ramp_s, "0 or more, and less than duration_s")?;
        let share = (0.0..=1.0).contains(&self.dropped_share_max);
        require(share, "dropped_share_max", self.dropped_share_max, "0 to 1")?;
        require((0.0..=1.0).contains(&self.pageview_share), "pageview_share", self.pageview_share, "0 to 1")?;
        check_origin(&self.origin)?;
        require(not_negative(self.moves_every_s), "moves_every_s", self.moves_every_s, SECONDS)?;
        if let Some(away) = &self.away {
            const ABOVE_0: &str = "a number of seconds above 0";
            require(positive(away.every_s), "away.every_s", away.every_s, ABOVE_0)?;
            require(positive(away.for_s), "away.for_s", away.for_s, ABOVE_0)?;
        }

        require(self.pages.iter().any(|page| page.weight > 0), "pages", "empty", "at least one page of weight 1")?;
        for page in &self.pages {
            require(page.path.starts_with('/'), "pages.path", &page.path, "a path that begins with /")?;
        }
        require(self.entries.iter().any(|entry| entry.weight > 0), "entries", "empty", "at least one of weight 1")?;
        for entry in &self.entries {
            let absolute = entry.referrer.is_empty() || entry.referrer.contains("://");
            require(absolute, "entries.referrer", &entry.referrer, "an absolute URL, or left out")?;
        }
        let some_event = self.pageview_share == 1.0 || self.events.iter().any(|event| event.weight > 0);
        require(some_event, "events", "empty", "at least one of weight 1 unless pageview_share is 1")?;
        for event in &self.events {
            let named = !event.name.is_empty() && event.name != proto::limits::PAGEVIEW;
            require(named, "events.name", &event.name, "a name other than pageview")?;
            let valued = event.props.values().all(|values| !values.is_empty());
            require(valued, "events.props", "empty", "a list of values for each key")?;
        }
        Ok(self)
    }

    /// The same scenario on another origin.
    pub fn with_origin(self, origin: &str) -> Result<Self, ScenarioError> {
        Self { origin: origin.to_owned(), ..self }.checked()
    }

    /// How long events are made.
    pub fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.duration_s)
    }

    /// The mean time between two events of one agent.
    pub fn gap(&self) -> Duration {
        Duration::from_secs_f64(f64::from(self.agents) / self.events_per_s)
    }
}

/// `scheme://host[:port]`, as a browser writes an origin.
pub(crate) fn check_origin(origin: &str) -> Result<(), ScenarioError> {
    let host = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
    let right = host.is_some_and(|host| !host.is_empty() && !host.contains(['/', '?', '#', ' ']));
    require(right, "origin", origin, "like https://shop.example, without a path")
}

fn require(
    holds: bool,
    key: &'static str,
    value: impl std::fmt::Display,
    right: &'static str,
) -> Result<(), ScenarioError> {
    if holds { Ok(()) } else { Err(ScenarioError::OutOfRange { key, value: value.to_string(), right }) }
}

/// A day is longer than any run: beyond it `Duration` and the schedule's arithmetic have nothing to gain.
const LARGEST: f64 = 1e9;

fn positive(number: f64) -> bool {
    number > 0.0 && number <= LARGEST
}

fn not_negative(number: f64) -> bool {
    (0.0..=LARGEST).contains(&number)
}

fn default_drain_s() -> f64 {
    30.0
}

fn default_count_s() -> f64 {
    60.0
}

fn default_settle_s() -> f64 {
    11.0
}

fn default_pageview_share() -> f64 {
    0.8
}

fn default_origin() -> String {
    "https://shop.example".to_owned()
}

fn default_seed() -> u64 {
    1
}

fn default_weight() -> u32 {
    1
}

fn default_pages() -> Vec<Page> {
    let page = |path: &str, weight| Page { path: path.to_owned(), weight };
    vec![page("/", 4), page("/pricing", 2), page("/blog/first", 1), page("/about", 1)]
}

fn default_events() -> Vec<CustomEvent> {
    let props = BTreeMap::from([("plan".to_owned(), vec!["free".to_owned(), "team".to_owned()])]);
    vec![CustomEvent { name: "Signup".to_owned(), weight: 1, props }]
}

fn default_entries() -> Vec<Entry> {
    vec![
        Entry { weight: 1, ..Entry::default() },
        Entry { weight: 1, referrer: "https://www.google.com/".to_owned(), ..Entry::default() },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = "agents = 2\nduration_s = 1\nevents_per_s = 4\n";

    fn parse(more: &str) -> Result<Scenario, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("{LEAST}{more}")).unwrap();
        Scenario::read(file.path()).map_err(|error| error.to_string())
    }

    #[test]
    fn three_keys_are_enough() {
        let scenario = parse("").unwrap();
        assert_eq!((scenario.drain_s, scenario.arrivals), (30.0, Arrivals::Poisson));
        assert_eq!(scenario.gap(), Duration::from_millis(500));
    }

    #[test]
    fn the_scenarios_that_ship_are_right() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let smoke = Scenario::read(&folder.join("smoke.toml")).unwrap();
        assert_eq!((smoke.agents, smoke.duration_s, smoke.events_per_s), (500, 60.0, 2000.0));
        let short = Scenario::read(&folder.join("short.toml")).unwrap();
        assert_eq!((short.agents, short.duration_s), (100, 10.0));
        let wander = Scenario::read(&folder.join("wander.toml")).unwrap();
        assert!(
            wander.away.is_some_and(|away| 2.0 * away.for_s < wander.drain_s),
            "the run waits for those who are away"
        );
    }

    #[test]
    fn what_is_wrong_is_named_with_what_would_be_right() {
        for (more, expected) in [
            ("agnets = 3", "unknown field `agnets`"),
            ("pageview_share = 1.5", "`pageview_share` is 1.5, but must be 0 to 1"),
            ("dropped_share_max = 2", "`dropped_share_max` is 2, but must be 0 to 1"),
            ("ramp_s = 1", "`ramp_s` is 1, but must be 0 or more, and less than duration_s"),
            ("moves_every_s = -1", "`moves_every_s` is -1"),
            ("away = { every_s = 0, for_s = 1 }", "`away.every_s` is 0, but must be a number of seconds above 0"),
            ("drain_s = nan", "`drain_s` is NaN"),
            ("arrivals = \"daily\"", "unknown variant `daily`, expected `poisson` or `constant`"),
            ("origin = \"shop.example\"", "`origin` is shop.example, but must be like https://shop.example"),
            ("origin = \"https://shop.example/\"", "without a path"),
            ("pages = []", "`pages` is empty"),
            ("pages = [{ path = \"home\" }]", "`pages.path` is home"),
            ("events = [{ name = \"pageview\" }]", "a name other than pageview"),
            ("events = [{ name = \"A\", props = { k = [] } }]", "a list of values"),
            ("entries = [{ referrer = \"google\" }]", "an absolute URL"),
        ] {
            let message = parse(more).expect_err(more);
            assert!(message.contains(expected), "{more}: {message}");
        }
    }

    #[test]
    fn no_agents_no_time_no_events_and_no_file_are_refused() {
        for (text, key) in [
            ("agents = 0\nduration_s = 1\nevents_per_s = 1", "`agents` is 0, but must be 1 to 19000"),
            ("agents = 19001\nduration_s = 1\nevents_per_s = 1", "`agents` is 19001"),
            ("agents = 1\nduration_s = 0\nevents_per_s = 1", "`duration_s` is 0"),
            ("agents = 1\nduration_s = inf\nevents_per_s = 1", "`duration_s` is inf"),
            ("agents = 1\nduration_s = 1\nevents_per_s = -1", "`events_per_s` is -1"),
        ] {
            let message = toml::from_str::<Scenario>(text).unwrap().checked().unwrap_err().to_string();
            assert!(message.contains(key), "{message}");
        }
        let missing = Scenario::read(Path::new("no-such.toml")).unwrap_err().to_string();
        assert!(missing.contains("cannot read the scenario no-such.toml"), "{missing}");
    }
}
