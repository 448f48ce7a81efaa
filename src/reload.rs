//! A gateway's limits, read again while it runs: SIGHUP says that the configuration has changed.

use anyhow::Context;
use gateway::{Config, Limits};
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::role::{Args, ConfigError};

/// The limits of `running`, and those of the file and the environment after each SIGHUP. Other settings stay as they are until the
/// next start; a configuration that would not start a gateway changes nothing.
pub fn on_hangup(args: Args, running: Config) -> anyhow::Result<watch::Receiver<Limits>> {
    let mut hangup = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
    let (limits, told) = watch::channel(running.limits.clone());
    tokio::spawn(async move {
        while hangup.recv().await.is_some() && !limits.is_closed() {
            match read_again(&args, &running) {
                Ok(Again { limits: new, need_a_restart }) => {
                    let changed = differing(&*limits.borrow(), &new);
                    limits.send_replace(new);
                    info!(?changed, "the configuration was read again; its limits are in force");
                    if !need_a_restart.is_empty() {
                        warn!(keys = ?need_a_restart, "what has changed besides the limits needs a restart");
                    }
                }
                Err(error) => warn!(%error, "the changed configuration cannot be used; the limits stay as they are"),
            }
        }
    });
    Ok(told)
}

/// What a configuration holds that a running gateway can take, and what it cannot.
#[derive(Debug, PartialEq, Eq)]
struct Again {
    limits: Limits,
    /// Keys besides `limits` that are not what the gateway was started with.
    need_a_restart: Vec<String>,
}

/// A configuration that would not start a gateway.
#[derive(Debug, Error)]
enum Unusable {
    #[error(transparent)]
    Unreadable(#[from] ConfigError),
    #[error("{0}")]
    Wrong(String),
}

fn read_again(args: &Args, running: &Config) -> Result<Again, Unusable> {
    let new: Config = args.load("gateway")?;
    if let Some(problem) = new.problem() {
        return Err(Unusable::Wrong(problem));
    }
    let mut need_a_restart = differing(running, &new);
    need_a_restart.retain(|key| key != "limits");
    Ok(Again { limits: new.limits, need_a_restart })
}

/// The keys of which two configurations say different things.
fn differing<C: serde::Serialize>(before: &C, after: &C) -> Vec<String> {
    let keys = |config| match serde_json::to_value(config) {
        Ok(serde_json::Value::Object(keys)) => keys,
        _ => serde_json::Map::new(),
    };
    let before = keys(before);
    keys(after).into_iter().filter(|(key, value)| before.get(key) != Some(value)).map(|(key, _)| key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn again(text: &str) -> Result<Again, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        let args = Args::of_file(file.path());
        std::fs::write(file.path(), "region = 'north'\n[limits]\nidle_s = 7\n").unwrap();
        let running = args.load("gateway").unwrap();
        std::fs::write(file.path(), text).unwrap();
        read_again(&args, &running).map_err(|error| error.to_string())
    }

    #[test]
    fn limits_are_taken_and_what_else_changed_is_named() {
        let limits = Limits { idle_s: 9, ..Default::default() };
        let expected = |keys: &[&str]| {
            Ok(Again { limits: limits.clone(), need_a_restart: keys.iter().map(|key| (*key).to_owned()).collect() })
        };
        assert_eq!(again("region = 'north'\n[limits]\nidle_s = 9\n"), expected(&[]));
        assert_eq!(again("region = 'south'\ncores = 3\n[limits]\nidle_s = 9\n"), expected(&["cores", "region"]));
    }

    #[test]
    fn a_configuration_that_would_start_no_gateway_is_refused_whole() {
        for (wrong, said) in [
            ("region = 'north'\n[limits]\nidle_s = 0\n", "`limits.idle_s` is 0"),
            ("region = ''\n[limits]\nidle_s = 9\n", "`region` is empty"),
            ("region = 'north'\n[limits]\nidle = 9\n", "idle"),
            ("region = ", "gateway"),
        ] {
            let error = again(wrong).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn the_limits_that_differ_are_named() {
        let after = Limits { idle_s: 1, connections_per_address: 2, ..Default::default() };
        let mut changed = differing(&Limits::default(), &after);
        changed.sort();
        assert_eq!(changed, ["connections_per_address", "idle_s"]);
        assert!(differing(&after, &after).is_empty());
    }
}
