//! A role's configuration: one TOML file, then the environment, nothing else.

use std::path::PathBuf;

use figment::Figment;
use figment::error::Kind;
use figment::providers::{Env, Format, Toml};
use serde::de::DeserializeOwned;
use thiserror::Error;

/// The prefix of every variable that configures a role: `TIDELINE__GATEWAY__LISTEN=127.0.0.1:8080`.
const PREFIX: &str = "TIDELINE__";
const ROLES: [&str; 3] = ["GATEWAY", "AGGREGATOR", "CENTRAL"];

/// What every role is started with.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The role's configuration (TOML); variables TIDELINE__ROLE__KEY override it, e.g. TIDELINE__GATEWAY__LISTEN
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Why a role's configuration cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// `--config` names something that cannot be read.
    #[error("cannot read the configuration {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    /// A variable that no role would ever read.
    #[error(
        "the variable {0} belongs to no role: use {PREFIX}GATEWAY__KEY, {PREFIX}AGGREGATOR__KEY or {PREFIX}CENTRAL__KEY"
    )]
    UnknownVariable(String),
    /// A key without a default that nobody gave.
    #[error(
        "the configuration of {role} lacks `{key}`: write it into --config FILE or give {}",
        variable(role, &key.replace('.', "__"))
    )]
    Missing { role: &'static str, key: String },
    /// A key that is unknown or of the wrong kind.
    #[error("the configuration of {role} is wrong: {source}")]
    Invalid { role: &'static str, source: Box<figment::Error> },
}

impl Args {
    /// As `--config` gives them.
    #[cfg(test)]
    pub fn of_file(config: &std::path::Path) -> Self {
        Self { config: Some(config.to_owned()) }
    }

    /// Reads the configuration of `role`. The variables carry the role's name, so that one environment can serve all
    /// roles of a machine and an unknown key is still an error.
    pub fn load<C: DeserializeOwned>(&self, role: &'static str) -> Result<C, ConfigError> {
        if let Some(name) = unknown_variable(std::env::vars_os().filter_map(|(name, _)| name.into_string().ok())) {
            return Err(ConfigError::UnknownVariable(name));
        }
        let mut figment = Figment::new();
        if let Some(path) = &self.config {
            // Figment takes a missing file for an empty one.
            std::fs::metadata(path).map_err(|source| ConfigError::Unreadable { path: path.clone(), source })?;
            figment = figment.merge(Toml::file_exact(path));
        }
        figment.merge(Env::prefixed(&variable(role, "")).split("__")).extract().map_err(|source| explain(role, source))
    }
}

fn variable(role: &str, key: &str) -> String {
    format!("{PREFIX}{role}__{key}").to_uppercase()
}

fn explain(role: &'static str, error: figment::Error) -> ConfigError {
    match &error.kind {
        Kind::MissingField(field) => {
            let key = error.path.iter().map(String::as_str).chain([field.as_ref()]).collect::<Vec<_>>().join(".");
            ConfigError::Missing { role, key }
        }
        _ => ConfigError::Invalid { role, source: Box::new(error) },
    }
}

fn unknown_variable(names: impl Iterator<Item = String>) -> Option<String> {
    names.into_iter().find(|name| {
        name.strip_prefix(PREFIX).is_some_and(|rest| {
            !rest.split_once("__").is_some_and(|(role, key)| ROLES.contains(&role) && !key.is_empty())
        })
    })
}

#[cfg(test)]
mod edge_config;
#[cfg(test)]
mod tests;
