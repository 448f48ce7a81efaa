//! A gateway's settings. Unknown keys are errors.

use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use regional_redis::Server;
use serde::{Deserialize, Serialize};

use crate::door::address::ForwardedHeader;
use crate::door::capacity::WhenRedisIsAway;

/// Settings of `tideline gateway`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where agents connect. Port 0 takes a free one. Default 127.0.0.1:8080.
    pub listen: SocketAddr,
    /// `/live`, `/ready` and `/metrics`. Default 127.0.0.1:9101.
    pub admin: SocketAddr,
    /// Where to write the bound addresses, as JSON. Default none.
    pub address_file: Option<PathBuf>,
    /// The gateway's log and id: one gateway a folder. Default ./data/gateway.
    pub data: PathBuf,
    /// Name of the region, as agents hear it, and the same as that of its aggregator. Default "local".
    pub region: String,
    /// The region's Redis, `unix:///path` or `redis://host:port`. Default redis://127.0.0.1:6379.
    pub redis: String,
    /// Central's uplink. Default http://127.0.0.1:50051.
    pub uplink: String,
    /// Holds the token that central asks for. Default ./data/uplink-token.
    pub uplink_token_file: PathBuf,
    /// The URL under which pages reach this gateway; printed, never listened on. Default none: http://LISTEN.
    pub public_url: Option<String>,
    /// Networks of the proxies whose word about a client's address counts; their own connections are not counted against
    /// `limits`. Default none.
    pub trusted_proxies: Vec<IpNet>,
    /// The one header the trusted proxies write. Default "x-forwarded-for".
    pub forwarded_header: ForwardedHeader,
    /// Connections from trusted proxies start with a PROXY protocol v2 header. Default false.
    pub proxy_protocol: bool,
    /// A City or Country database in MaxMind's format. Default none: places are unknown.
    pub geo_database: Option<PathBuf>,
    /// Rules over requests, a TOML file: what is only counted, and what is turned away. Looked at again every two seconds. Default
    /// none.
    pub waf_rules: Option<PathBuf>,
    /// Networks of data centres, one a line: events from there are dropped as those of programs. Default none.
    pub data_centres: Option<PathBuf>,
    /// Threads that serve agents, each with a listener of its own. Default 0: one a core.
    pub cores: usize,
    /// What becomes of batches while Redis does not count. `refuse`: their agents keep them. `store_and_forward`: they are
    /// acknowledged once they are in this gateway's log. Default "refuse".
    pub when_redis_is_away: WhenRedisIsAway,
    /// Seconds between saying "not ready" and leaving, so that whoever asks `/ready` notices. Default 0: a proxy that tries the
    /// next gateway when a connection is refused need not ask.
    pub leave_after_s: u64,
    /// A second port, with TLS and HTTP/3. Default none.
    pub tls: Option<Tls>,
    /// What one client may ask for. Alone among the settings these can change while a gateway runs: [`run`](crate::run).
    pub limits: Limits,
}

/// A port with TLS, and QUIC on the UDP port of the same number.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// Where agents connect. Port 0 takes a free one. Default 127.0.0.1:8443.
    #[serde(default = "Tls::default_listen")]
    pub listen: SocketAddr,
    /// A chain in PEM form, the gateway's own certificate first. Looked at every few seconds.
    pub certificate: PathBuf,
    /// Its private key, in PEM form.
    pub key: PathBuf,
    /// HTTP/3 and WebTransport too. Default true.
    #[serde(default = "Tls::default_http3")]
    pub http3: bool,
    /// The UDP port as clients see it, if something in between gives it another number. Default none: that of `listen`.
    pub http3_public_port: Option<u16>,
}

impl Tls {
    fn default_listen() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 8443))
    }

    fn default_http3() -> bool {
        true
    }
}

/// What one client may ask for, and what one site may name. Beyond a rate the answer is a throttle that says how long to wait; nothing
/// is dropped for it. A connection too many is refused. None may be 0.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Open connections a core; more are refused. Default 9,000: two cores stay below 20,000 open files.
    pub connections_per_core: usize,
    /// Connections and sessions that one address has open at once, over all cores; more are refused. An IPv6 address counts with
    /// its whole /64. Default 4,000: 1,000 visitors behind one exit, each with two pages in sight, each of those with a connection
    /// and its session.
    pub connections_per_address: u32,
    /// Likewise of one network: a /24 of IPv4, a /48 of IPv6. Default 12,000: three such exits of a mobile carrier side by side.
    pub connections_per_network: u32,
    /// Batches a second on one connection, and as many more at once as `connection_batches_burst`. An agent sends two a second. Default 20.
    pub connection_batches_per_s: u32,
    /// Default 100: an outbox of 50 batches twice over.
    pub connection_batches_burst: u32,
    /// Batches a second from one address: an office or a mobile carrier's exit with 1,000 visitors. Default 500.
    pub address_batches_per_s: u32,
    /// Default 2,000.
    pub address_batches_burst: u32,
    /// Batches a second of one site, on this gateway. Default 50,000.
    pub site_batches_per_s: u32,
    /// Default 100,000.
    pub site_batches_burst: u32,
    /// Batches a second of all sites of one tenant together, on this gateway. Default 100,000: two of its sites at their own rate.
    pub tenant_batches_per_s: u32,
    /// Default 200,000.
    pub tenant_batches_burst: u32,
    /// Different paths that events of one site have in one of its days, as this process has seen it; what is beyond becomes `(other)`.
    /// Default 50,000.
    pub site_paths_per_day: u32,
    /// Likewise names of events. Default 1,000.
    pub site_event_names_per_day: u32,
    /// Likewise keys of properties. Default 300.
    pub site_prop_keys_per_day: u32,
    /// Likewise values of each of those keys. Default 5,000.
    pub site_prop_values_per_day: u32,
    /// Seconds until a connection must have sent its request. Default 5.
    pub handshake_s: u64,
    /// Seconds without a frame after which a connection is asked, and after as many more closed. Default 60.
    pub idle_s: u64,
}

impl Config {
    /// What is wrong with the values, if anything.
    pub fn problem(&self) -> Option<String> {
        if self.region.is_empty() {
            return Some("`region` is empty: give the name that the region's aggregator has".into());
        }
        if let Some(problem) = Server::from(self.redis.as_str()).problem() {
            return Some(format!("`redis`: {problem}"));
        }
        self.limits.problem()
    }
}

impl Limits {
    /// None of them can be 0: nobody could send anything, or every connection would be closed at once.
    fn problem(&self) -> Option<String> {
        let zero = |name: &str, value: u64| {
            (value == 0).then(|| format!("`limits.{name}` is 0: give 1 or more; a large number is as good as no limit"))
        };
        zero("connections_per_core", self.connections_per_core as u64)
            .or_else(|| zero("connections_per_address", self.connections_per_address.into()))
            .or_else(|| zero("connections_per_network", self.connections_per_network.into()))
            .or_else(|| zero("connection_batches_per_s", self.connection_batches_per_s.into()))
            .or_else(|| zero("connection_batches_burst", self.connection_batches_burst.into()))
            .or_else(|| zero("address_batches_per_s", self.address_batches_per_s.into()))
            .or_else(|| zero("address_batches_burst", self.address_batches_burst.into()))
            .or_else(|| zero("site_batches_per_s", self.site_batches_per_s.into()))
            .or_else(|| zero("site_batches_burst", self.site_batches_burst.into()))
            .or_else(|| zero("tenant_batches_per_s", self.tenant_batches_per_s.into()))
            .or_else(|| zero("tenant_batches_burst", self.tenant_batches_burst.into()))
            .or_else(|| zero("site_paths_per_day", self.site_paths_per_day.into()))
            .or_else(|| zero("site_event_names_per_day", self.site_event_names_per_day.into()))
            .or_else(|| zero("site_prop_keys_per_day", self.site_prop_keys_per_day.into()))
            .or_else(|| zero("site_prop_values_per_day", self.site_prop_values_per_day.into()))
            .or_else(|| zero("handshake_s", self.handshake_s))
            .or_else(|| zero("idle_s", self.idle_s))
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            admin: SocketAddr::from(([127, 0, 0, 1], 9101)),
            address_file: None,
            data: "./data/gateway".into(),
            region: "local".into(),
            redis: "redis://127.0.0.1:6379".into(),
            uplink: "http://127.0.0.1:50051".into(),
            uplink_token_file: "./data/uplink-token".into(),
            public_url: None,
            trusted_proxies: Vec::new(),
            forwarded_header: ForwardedHeader::default(),
            proxy_protocol: false,
            geo_database: None,
            waf_rules: None,
            data_centres: None,
            cores: 0,
            when_redis_is_away: WhenRedisIsAway::default(),
            leave_after_s: 0,
            tls: None,
            limits: Limits::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_per_core: 9_000,
            connections_per_address: 4_000,
            connections_per_network: 12_000,
            connection_batches_per_s: 20,
            connection_batches_burst: 100,
            address_batches_per_s: 500,
            address_batches_burst: 2_000,
            site_batches_per_s: 50_000,
            site_batches_burst: 100_000,
            tenant_batches_per_s: 100_000,
            tenant_batches_burst: 200_000,
            site_paths_per_day: 50_000,
            site_event_names_per_day: 1_000,
            site_prop_keys_per_day: 300,
            site_prop_values_per_day: 5_000,
            handshake_s: 5,
            idle_s: 60,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_cannot_work_are_named() {
        assert_eq!(Config::default().problem(), None);
        let problem = |json: &str| serde_json::from_str::<Config>(json).unwrap().problem().unwrap();
        assert!(problem(r#"{"region":""}"#).contains("region"));
        for redis in ["localhost", "localhost:6379", "/run/redis.sock", "http://localhost"] {
            let said = problem(&serde_json::json!({ "redis": redis }).to_string());
            assert!(said.contains("redis://host:port or unix:///path"), "{said}");
        }
        let named = serde_json::to_value(Limits::default()).unwrap();
        for limit in named.as_object().unwrap().keys() {
            let said = problem(&serde_json::json!({ "limits": { limit: 0 } }).to_string());
            assert!(said.contains(&format!("`limits.{limit}` is 0: give 1")), "{said}");
        }
        for redis in ["redis://localhost", "redis://:secret@host:6379/1", "unix:///run/redis.sock"] {
            assert_eq!(Config { redis: redis.into(), ..Config::default() }.problem(), None, "{redis}");
        }
    }
}
