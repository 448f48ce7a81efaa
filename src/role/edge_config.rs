//! Proves that `edge-config/` shows every key of every role, with the defaults it claims.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

fn text(role: &str) -> String {
    std::fs::read_to_string(format!("{}/edge-config/{role}.toml", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// The same file with its examples in force: `# key = value` and `# [section]` lose their mark, sentences stay comments.
fn with_examples(text: &str) -> String {
    let is_section = |line: &str| line.starts_with('[') && line.ends_with(']');
    let is_key = |line: &str| {
        line.split_once(" = ")
            .is_some_and(|(key, _)| key.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit()))
    };
    let line =
        |line: &str| line.strip_prefix("# ").filter(|rest| is_key(rest) || is_section(rest)).unwrap_or(line).to_owned();
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

fn value(config: &impl Serialize) -> Map<String, Value> {
    serde_json::to_value(config).unwrap().as_object().unwrap().clone()
}

/// `required` is all that the role needs to be told; everything else in the file must be its default.
fn shows_every_key<C: DeserializeOwned + Serialize>(role: &str, required: &str) {
    let text = text(role);
    let written: C = toml::from_str(&text).unwrap_or_else(|error| panic!("{role}: {error}"));
    let default: C = toml::from_str(required).unwrap();
    assert_eq!(value(&written), value(&default), "{role}: what is written must be the default");

    let complete = with_examples(&text);
    let _: C = toml::from_str(&complete).unwrap_or_else(|error| panic!("{role}, examples: {error}"));
    let shown: toml::Table = toml::from_str(&complete).unwrap();
    let shown = value(&shown);
    for (key, default) in value(&default) {
        let shown = shown.get(&key).unwrap_or_else(|| panic!("{role} does not show `{key}`"));
        for inner in default.as_object().iter().flat_map(|section| section.keys()) {
            assert!(shown.get(inner).is_some(), "{role} does not show `{key}.{inner}`");
        }
    }
}

#[test]
fn the_gateway_is_shown_whole() {
    shows_every_key::<gateway::Config>("gateway", "");
}

#[test]
fn the_aggregator_is_shown_whole() {
    shows_every_key::<aggregator::Config>("aggregator", "");
}

#[test]
fn central_is_shown_whole() {
    shows_every_key::<central::Config>("central", "uplink_token_file = './data/uplink-token'");
}
