use std::path::Path;

use serde::Deserialize;

use super::*;

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Config {
    listen: String,
    #[serde(default)]
    clickhouse: Clickhouse,
}

#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Clickhouse {
    memory_max_bytes: u64,
}

fn load(path: &Path) -> Result<Config, ConfigError> {
    Args::of_file(path).load("central")
}

fn written(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

#[test]
fn a_file_is_read_with_its_sections() {
    let file = written("listen = '127.0.0.1:1'\n[clickhouse]\nmemory_max_bytes = 7\n");
    let config = load(file.path()).unwrap();
    assert_eq!(config, Config { listen: "127.0.0.1:1".into(), clickhouse: Clickhouse { memory_max_bytes: 7 } });
}

#[test]
fn a_named_file_that_is_missing_is_an_error() {
    let error = load(Path::new("/nowhere/central.toml")).unwrap_err().to_string();
    assert!(error.contains("/nowhere/central.toml") && error.contains("No such file"), "{error}");
}

#[test]
fn an_unknown_key_is_an_error_that_names_it_and_its_file() {
    let file = written("listen = 'x'\nlisten_port = 3\n");
    let error = load(file.path()).unwrap_err().to_string();
    assert!(error.contains("listen_port") && error.contains("expected"), "{error}");
    assert!(error.contains(file.path().file_name().unwrap().to_str().unwrap()), "{error}");
}

#[test]
fn a_missing_key_is_named_with_both_ways_to_give_it() {
    let error = Args { config: None }.load::<Config>("central").unwrap_err().to_string();
    assert!(error.contains("lacks `listen`") && error.contains("TIDELINE__CENTRAL__LISTEN"), "{error}");
}

#[test]
fn only_variables_of_a_role_are_taken() {
    let unknown = |name: &str| unknown_variable([name.to_owned()].into_iter()).is_some();
    assert!(!unknown("TIDELINE__CENTRAL__CLICKHOUSE__LIBCHDB"));
    assert!(!unknown("TIDELINE__GATEWAY__LISTEN"));
    assert!(!unknown("TIDELINE_CACHE"));
    assert!(!unknown("PATH"));
    assert!(unknown("TIDELINE__LISTEN"));
    assert!(unknown("TIDELINE__GATEWAY__"));
    assert!(unknown("TIDELINE__GATEAWY__LISTEN"));
}
