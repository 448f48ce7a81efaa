//! What an operator sets.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use regional_redis::Server;
use serde::{Deserialize, Serialize};

/// Settings of the aggregator. Unknown keys are errors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The region's name, the same as that of its gateways. Default "local".
    pub region: String,

    /// The shard that this process leads. There is one so far: 0, which is the default.
    pub shard: u32,

    /// The shard's Redis: `redis://host:port` or `unix:///path`. It must be 7.0 or newer with `appendonly yes`,
    /// `appendfsync always` (from 7.2 on `everysec` will do) and `maxmemory-policy noeviction`. Default
    /// redis://127.0.0.1:6379.
    pub redis: String,

    /// How many replicas must have a flush on disk before it leaves, besides the master: as many as there are, for any
    /// of them may be promoted. More than 0 needs Redis 7.2. Default 0.
    pub replicas: u32,

    /// Central's uplink. Default http://127.0.0.1:50051.
    pub uplink: String,

    /// Holds the token that central asks for. Default ./data/uplink-token.
    pub uplink_token_file: PathBuf,

    /// Where `/live`, `/ready` and `/metrics` listen; port 0 takes a free one. Default 127.0.0.1:9102.
    pub admin: SocketAddr,

    /// Written once all sockets are bound: JSON with the address `admin`. Default: none.
    pub address_file: Option<PathBuf>,

    /// From one cut to the next, ms. Default 10,000: a report is 15 s behind at most, and central inserts a shard's
    /// rows six times a minute.
    pub cut_interval_ms: u64,

    /// From one live figure to the next, ms. Default 1,000: the live view is 2 s behind at most.
    pub live_interval_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            region: "local".into(),
            shard: 0,
            redis: "redis://127.0.0.1:6379".into(),
            replicas: 0,
            uplink: "http://127.0.0.1:50051".into(),
            uplink_token_file: "./data/uplink-token".into(),
            admin: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9102),
            address_file: None,
            cut_interval_ms: 10_000,
            live_interval_ms: 1_000,
        }
    }
}

impl Config {
    /// What is wrong with the values, if anything.
    pub(crate) fn problem(&self) -> Option<String> {
        let interval = |name: &str, value: u64| {
            (value == 0).then(|| format!("`{name}` is 0: it is a time in milliseconds, 1 or more"))
        };
        if self.region.is_empty() {
            return Some("`region` is empty: give the name that the region's gateways have".into());
        }
        if self.shard != 0 {
            return Some(format!("`shard` is {}: gateways fill shard 0 and no other so far; give 0", self.shard));
        }
        if let Some(problem) = Server::from(self.redis.as_str()).problem() {
            return Some(format!("`redis`: {problem}"));
        }
        interval("cut_interval_ms", self.cut_interval_ms)
            .or_else(|| interval("live_interval_ms", self.live_interval_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_has_a_default() {
        let config: Config = serde_json::from_str("{}").unwrap();
        assert_eq!(config, Config::default());
        assert_eq!(config.problem(), None);
    }

    #[test]
    fn an_unknown_key_is_an_error() {
        assert!(serde_json::from_str::<Config>(r#"{"cut_interval":1}"#).is_err());
    }

    #[test]
    fn values_that_cannot_work_are_named() {
        let problem = |json: &str| serde_json::from_str::<Config>(json).unwrap().problem().unwrap();
        assert!(problem(r#"{"cut_interval_ms":0}"#).contains("cut_interval_ms"));
        assert!(problem(r#"{"region":""}"#).contains("region"));
        assert!(problem(r#"{"redis":"localhost"}"#).contains("redis://host:port"));
        assert!(problem(r#"{"shard":1}"#).contains("give 0"));
    }
}
