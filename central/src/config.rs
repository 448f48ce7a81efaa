//! What an operator sets.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

/// Settings of central. Unknown keys are errors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the dashboard and the Stats API listen. Default 127.0.0.1:8000; port 0 takes a free one.
    #[serde(default = "default_listen")]
    pub listen: SocketAddr,

    /// Where aggregators and gateways connect. Default 127.0.0.1:50051.
    #[serde(default = "default_uplink")]
    pub uplink: SocketAddr,

    /// Where `/live`, `/ready` and `/metrics` listen. Default 127.0.0.1:9103.
    #[serde(default = "default_admin")]
    pub admin: SocketAddr,

    /// The folder of everything that central keeps; made with mode 700 if it is not there. One instance at a time.
    /// Default ./data/central.
    #[serde(default = "default_data")]
    pub data: PathBuf,

    /// The dashboard's URL as people reach it, for sign-in links and cookies. Default: http:// and `listen`.
    #[serde(default)]
    pub public_url: Option<String>,

    /// A gateway's URL as browsers reach it, for the snippet of a site. Default http://127.0.0.1:8080.
    #[serde(default = "default_gateway_url")]
    pub gateway_url: String,

    /// A file that holds the key for all sites. Default: none, and then only keys kept in the data folder count.
    #[serde(default)]
    pub api_key_file: Option<PathBuf>,

    /// A file that holds the token which aggregators and gateways show. No default.
    pub uplink_token_file: PathBuf,

    /// Written once all sockets are bound: JSON with the addresses `listen`, `uplink` and `admin`. Default: none.
    #[serde(default)]
    pub address_file: Option<PathBuf>,

    /// The embedded ClickHouse.
    #[serde(default)]
    pub clickhouse: ClickHouseConfig,
}

/// Settings of the embedded ClickHouse.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClickHouseConfig {
    /// The engine's library, libchdb.so. Default: the one that `make build` fetched into the cache folder.
    pub libchdb: Option<PathBuf>,

    /// What the engine may take in all, bytes. Default 2 GiB: it opens with about 210 MB, and reports over a year of
    /// twenty million visits were measured with 4 GiB to spare for many people at once.
    pub memory_max_bytes: u64,
}

impl Default for ClickHouseConfig {
    fn default() -> Self {
        Self { libchdb: None, memory_max_bytes: 2 << 30 }
    }
}

fn default_listen() -> SocketAddr {
    loopback(8000)
}

fn default_uplink() -> SocketAddr {
    loopback(50051)
}

fn default_admin() -> SocketAddr {
    loopback(9103)
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

fn default_data() -> PathBuf {
    PathBuf::from("data/central")
}

fn default_gateway_url() -> String {
    "http://127.0.0.1:8080".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_file_is_all_that_must_be_given() {
        let config: Config = serde_json::from_str(r#"{"uplink_token_file":"/t"}"#).unwrap();
        assert_eq!(config.listen.port(), 8000);
        assert_eq!(config.uplink.port(), 50051);
        assert_eq!(config.admin.port(), 9103);
        assert_eq!(config.clickhouse.memory_max_bytes, 2 << 30);
    }

    #[test]
    fn an_unknown_key_is_an_error() {
        assert!(serde_json::from_str::<Config>(r#"{"uplink_token_file":"/t","lisen":"127.0.0.1:1"}"#).is_err());
        assert!(serde_json::from_str::<Config>(r#"{"uplink_token_file":"/t","clickhouse":{"memory":1}}"#).is_err());
    }
}
