//! Rules as they are written, and as they are asked.

use std::collections::HashSet;
use std::sync::Arc;

use http::{HeaderName, Method};
use prometheus_client::metrics::counter::Counter;
use regex::bytes::{Regex, RegexBuilder};
use serde::Deserialize;

use super::Asked;
use super::condition::{Condition, Header};
use super::rate::{NoRate, Rate, RateText};
use crate::door::address::{self, NotANetwork};
use crate::door::networks::Networks;
use crate::ingest::geo::Geo;
use crate::metrics::{Metrics, RuleLabel};
use crate::watched_file::Unreadable;

const RULES_MAX: usize = 1_000;
/// Rules with a `rate`: each remembers its clients.
const RATES_MAX: usize = 32;
const NAME_BYTES_MAX: usize = 64;
/// Of all rules together, as they are written.
const PATTERN_BYTES_MAX: usize = 64 * 1024;
const PATTERNS_MAX: usize = 1_000;
/// Of one pattern when it is compiled, and of what each core keeps to match it: 64 MiB of the most patterns there can be.
const COMPILED_BYTES_MAX: usize = 64 * 1024;

/// What a file says, in its order.
#[derive(Default)]
pub(super) struct Rules {
    pub(super) all: Vec<Rule>,
}

/// One rule.
pub(super) struct Rule {
    pub(super) name: Arc<str>,
    pub(super) mode: Mode,
    conditions: Vec<Condition>,
    rate: Option<Rate>,
    /// How often it hit.
    pub(super) hit: Counter,
}

/// What becomes of a request that a rule hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Mode {
    /// It is counted.
    Observe,
    /// It is counted and turned away.
    Block,
}

impl From<Unreadable> for Wrong {
    fn from(unreadable: Unreadable) -> Self {
        match unreadable {
            Unreadable::TooLong(_) => Self::TooLong(unreadable),
            Unreadable::Io(_) => Self::Unreadable(unreadable),
        }
    }
}

/// Why a file of rules cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Wrong {
    /// It is too long.
    #[error("{0}; name networks instead of their addresses, or block what is blocked for good in a firewall")]
    TooLong(Unreadable),
    /// It is not there, or is no text.
    #[error(transparent)]
    Unreadable(Unreadable),
    /// It is no TOML.
    #[error("not TOML: {0}")]
    Syntax(#[from] toml::de::Error),
    /// Something else than rules.
    #[error("unknown key `{0}`: the file holds tables [[rule]] and nothing else")]
    Key(String),
    /// `[rule]` or `rule = …`.
    #[error("`rule` is no list: begin each rule with [[rule]]")]
    NoList,
    /// Too many.
    #[error("{0} rules: {RULES_MAX} at most")]
    TooMany(usize),
    /// Too many rates.
    #[error("{0} rules have a `rate`: {RATES_MAX} at most, because each remembers its clients")]
    TooManyRates(usize),
    /// Too many patterns, or too long ones.
    #[error(
        "{patterns} patterns of {bytes} bytes in all: at most {PATTERNS_MAX} of {PATTERN_BYTES_MAX} bytes, because each costs \
         every request time"
    )]
    TooManyPatterns {
        /// In all rules.
        patterns: usize,
        /// As they are written.
        bytes: usize,
    },
    /// One rule.
    #[error("rule {number}{}: {wrong}", name.as_ref().map(|name| format!(" {name:?}")).unwrap_or_default())]
    Rule {
        /// Its place in the file; the first is 1.
        number: usize,
        /// If it says one.
        name: Option<String>,
        /// What is wrong.
        wrong: WrongRule,
    },
}

/// Why a rule cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WrongRule {
    /// An unknown key, a missing one, or one of the wrong kind.
    #[error("{0}")]
    Keys(String),
    /// The name.
    #[error("a `name` is 1 to {NAME_BYTES_MAX} of the characters a-z A-Z 0-9 . - _: it is what a client is told")]
    Name,
    /// The name again.
    #[error("an earlier rule has this name; the metrics could not tell them apart")]
    SameName,
    /// Nothing is asked.
    #[error(
        "it would hit every request: give it `methods`, `paths`, `networks`, `user_agents`, `headers`, `countries` or `rate`"
    )]
    NoCondition,
    /// An empty list.
    #[error("`{0}` is empty and would hit nothing: leave it out, or write what it is to hit")]
    Empty(&'static str),
    /// A network.
    #[error("`networks`: {0}")]
    Network(#[from] NotANetwork),
    /// A country.
    #[error("`countries` has {0:?}: write two letters such as \"DE\" (ISO 3166-1)")]
    Country(String),
    /// Countries, and no way to tell them.
    #[error("`countries` needs `geo_database` in the gateway's configuration: without it every place is unknown")]
    NoPlaces,
    /// A path.
    #[error("`paths` has {0:?}: write the beginning of a path, from its first slash on, such as \"/v1/batch\"")]
    Path(String),
    /// A method.
    #[error("`methods` has {0:?}: write a method in capitals, such as \"POST\"")]
    Method(String),
    /// A header's name.
    #[error("`headers` has the name {0:?}: write one such as \"accept-language\"")]
    HeaderName(String),
    /// What is asked of a header.
    #[error("`headers`: of {0:?} write either `value`, a pattern, or `absent = true`")]
    Header(String),
    /// A pattern.
    #[error("the pattern {pattern:?} in `{key}`: {source}; write a long choice as several patterns")]
    Pattern {
        /// `user_agents` or `headers`.
        key: &'static str,
        /// As it is written.
        pattern: String,
        /// What the compiler says.
        source: regex::Error,
    },
    /// The rate.
    #[error(transparent)]
    Rate(#[from] NoRate),
}

/// A rule as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleText {
    name: String,
    mode: Mode,
    methods: Option<Vec<String>>,
    paths: Option<Vec<String>>,
    networks: Option<Vec<String>>,
    user_agents: Option<Vec<String>>,
    headers: Option<Vec<HeaderText>>,
    countries: Option<Vec<String>>,
    rate: Option<RateText>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HeaderText {
    name: String,
    value: Option<String>,
    #[serde(default)]
    absent: bool,
}

impl Rules {
    /// All rules of a file, or what is wrong with the first that cannot be. `places`: there is a database of them.
    pub(super) fn parse(text: &str, places: bool) -> Result<Self, Wrong> {
        let mut file: toml::Table = toml::from_str(text)?;
        let rules = match file.remove("rule") {
            None => Vec::new(),
            Some(toml::Value::Array(rules)) => rules,
            Some(_) => return Err(Wrong::NoList),
        };
        if let Some(key) = file.keys().next() {
            return Err(Wrong::Key(key.clone()));
        }
        if rules.len() > RULES_MAX {
            return Err(Wrong::TooMany(rules.len()));
        }
        let texts = rules.into_iter().enumerate().map(|(at, rule)| {
            let name = rule.get("name").and_then(toml::Value::as_str).map(str::to_owned);
            let text = rule.try_into::<RuleText>().map_err(|error| WrongRule::Keys(error.message().to_owned()));
            text.map_err(|wrong| Wrong::Rule { number: at + 1, name, wrong })
        });
        let texts: Vec<RuleText> = texts.collect::<Result<_, _>>()?;
        bounded(&texts)?;
        let mut names = HashSet::new();
        let rules = texts.into_iter().enumerate().map(|(at, text)| {
            let name = text.name.clone();
            let rule = if names.insert(name.clone()) { Rule::try_new(text, places) } else { Err(WrongRule::SameName) };
            rule.map_err(|wrong| Wrong::Rule { number: at + 1, name: Some(name), wrong })
        });
        rules.collect::<Result<_, _>>().map(|all| Self { all })
    }

    /// From now on hits are counted where Prometheus reads them, from 0 for a rule that is new.
    pub(super) fn count_with(&mut self, metrics: &Metrics) {
        for rule in &mut self.all {
            rule.hit = metrics.waf_hits.get_or_create(&rule.label()).clone();
        }
    }

    /// Drops the counts of rules that were there before and are not any more.
    pub(super) fn forget_counts(&self, before: &Self, metrics: &Metrics) {
        let kept: HashSet<RuleLabel> = self.all.iter().map(Rule::label).collect();
        for gone in before.all.iter().map(Rule::label).filter(|label| !kept.contains(label)) {
            metrics.waf_hits.remove(&gone);
        }
    }

    /// Forgets clients that are back at a full allowance, and says how many requests passed unremembered since it was last asked.
    pub(super) fn forget_idle(&self) -> u64 {
        self.all.iter().filter_map(|rule| rule.rate.as_ref()).map(Rate::forget_idle).sum()
    }
}

impl Rule {
    fn try_new(text: RuleText, places: bool) -> Result<Self, WrongRule> {
        let of_a_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        if !(1..=NAME_BYTES_MAX).contains(&text.name.len()) || !text.name.bytes().all(of_a_name) {
            return Err(WrongRule::Name);
        }
        let conditions = [
            condition("methods", text.methods, method)?.map(Condition::Methods),
            condition("paths", text.paths, path)?.map(Condition::Paths),
            condition("networks", text.networks, |network| Ok(address::network(&network)?))?
                .map(|networks| Condition::Networks(Networks::new(&networks))),
            condition("user_agents", text.user_agents, |text| pattern("user_agents", text))?.map(Condition::UserAgents),
            condition("headers", text.headers, header)?.map(Condition::Headers),
            condition("countries", text.countries, country)?.map(Condition::Countries),
        ];
        let conditions: Vec<_> = conditions.into_iter().flatten().collect();
        if !places && conditions.iter().any(|condition| matches!(condition, Condition::Countries(_))) {
            return Err(WrongRule::NoPlaces);
        }
        let rate = text.rate.map(Rate::try_new).transpose()?;
        if conditions.is_empty() && rate.is_none() {
            return Err(WrongRule::NoCondition);
        }
        Ok(Self { name: text.name.into(), mode: text.mode, conditions, rate, hit: Counter::default() })
    }

    /// Whether all of it is true of the request. A rate counts only what all else is true of.
    pub(super) fn hits(&self, asked: &Asked<'_>, geo: Option<&Geo>) -> bool {
        self.conditions.iter().all(|condition| condition.holds(asked, geo))
            && self.rate.as_ref().is_none_or(|rate| rate.exceeded(asked.address))
    }

    fn label(&self) -> RuleLabel {
        RuleLabel { rule: self.name.to_string(), mode: self.mode.label() }
    }
}

impl Mode {
    /// As it is written.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Block => "block",
        }
    }
}

/// What costs memory and time is counted before any of it is made.
fn bounded(rules: &[RuleText]) -> Result<(), Wrong> {
    let rates = rules.iter().filter(|rule| rule.rate.is_some()).count();
    if rates > RATES_MAX {
        return Err(Wrong::TooManyRates(rates));
    }
    let user_agents = rules.iter().flat_map(|rule| rule.user_agents.iter().flatten());
    let headers =
        rules.iter().flat_map(|rule| rule.headers.iter().flatten()).filter_map(|header| header.value.as_ref());
    let (mut patterns, mut bytes) = (0, 0);
    for pattern in user_agents.chain(headers) {
        (patterns, bytes) = (patterns + 1, bytes + pattern.len());
    }
    if patterns > PATTERNS_MAX || bytes > PATTERN_BYTES_MAX {
        return Err(Wrong::TooManyPatterns { patterns, bytes });
    }
    Ok(())
}

/// A key's list, each entry read.
fn condition<T, E>(
    key: &'static str,
    entries: Option<Vec<T>>,
    read: impl Fn(T) -> Result<E, WrongRule>,
) -> Result<Option<Vec<E>>, WrongRule> {
    match entries {
        Some(entries) if entries.is_empty() => Err(WrongRule::Empty(key)),
        entries => entries.map(|entries| entries.into_iter().map(read).collect()).transpose(),
    }
}

fn method(text: String) -> Result<Method, WrongRule> {
    let capitals = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_uppercase());
    Method::from_bytes(text.as_bytes()).ok().filter(|_| capitals).ok_or(WrongRule::Method(text))
}

fn path(text: String) -> Result<String, WrongRule> {
    if text.starts_with('/') { Ok(text) } else { Err(WrongRule::Path(text)) }
}

fn country(text: String) -> Result<String, WrongRule> {
    let two_letters = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_alphabetic());
    if two_letters { Ok(text.to_ascii_uppercase()) } else { Err(WrongRule::Country(text)) }
}

fn header(HeaderText { name, value, absent }: HeaderText) -> Result<Header, WrongRule> {
    let Ok(header) = HeaderName::from_bytes(name.as_bytes()) else { return Err(WrongRule::HeaderName(name)) };
    let value = match (value, absent) {
        (Some(value), false) => Some(pattern("headers", value)?),
        (None, true) => None,
        _ => return Err(WrongRule::Header(name)),
    };
    Ok(Header { name: header, value })
}

/// Over bytes, because a header need not be text; case matters unless it says `(?i)`; classes such as `\w` are ASCII, which keeps
/// them small. Matching takes a time that grows with the length of what is matched and no faster.
fn pattern(key: &'static str, pattern: String) -> Result<Regex, WrongRule> {
    let mut builder = RegexBuilder::new(&pattern);
    builder.unicode(false).size_limit(COMPILED_BYTES_MAX).dfa_size_limit(COMPILED_BYTES_MAX);
    builder.build().map_err(|source| WrongRule::Pattern { key, pattern, source })
}
