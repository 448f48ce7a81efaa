//! The configuration files of the roles, as `tideline up` writes them into `DIR/run`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::up::certificate::OwnCertificate;
use crate::up::folder::DataFolder;
use crate::up::process::Addresses;
use crate::up::{port, redis};

/// The one region of a machine.
const REGION: &str = "local";
/// A rollup is in a report within 15 s: a cut every 10 s, and a few to travel.
const CUT_INTERVAL_MS: u64 = 10_000;
/// A reverse proxy on this machine may say who the client is; nobody else.
const TRUSTED_PROXIES: [&str; 2] = ["127.0.0.0/8", "::1/128"];
/// The first start takes any free port; every later one takes the same again, so that the others find it.
const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// What people chose for all roles.
#[derive(Clone, Debug)]
pub struct Choices {
    pub gateway_listen: SocketAddr,
    pub tls: Tls,
    /// The one in `tls`, if nobody gave another.
    pub own_certificate: Option<OwnCertificate>,
    pub central_listen: SocketAddr,
    /// The gateway's URL as pages reach it.
    pub gateway_url: String,
    pub geo_database: Option<PathBuf>,
}

/// The gateway's second port.
#[derive(Clone, Debug, Serialize)]
pub struct Tls {
    pub listen: SocketAddr,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

#[derive(Serialize)]
struct Central {
    listen: SocketAddr,
    uplink: SocketAddr,
    admin: SocketAddr,
    data: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    public_url: Option<String>,
    gateway_url: String,
    api_key_file: PathBuf,
    uplink_token_file: PathBuf,
    address_file: PathBuf,
}

#[derive(Serialize)]
struct Aggregator {
    region: &'static str,
    shard: u32,
    redis: String,
    uplink: String,
    uplink_token_file: PathBuf,
    admin: SocketAddr,
    address_file: PathBuf,
    cut_interval_ms: u64,
}

#[derive(Serialize)]
struct Gateway {
    listen: SocketAddr,
    admin: SocketAddr,
    data: PathBuf,
    region: &'static str,
    redis: String,
    uplink: String,
    uplink_token_file: PathBuf,
    public_url: String,
    trusted_proxies: [&'static str; 2],
    #[serde(skip_serializing_if = "Option::is_none")]
    geo_database: Option<PathBuf>,
    address_file: PathBuf,
    tls: Tls,
}

/// The file of `role`'s configuration.
pub fn file(folder: &DataFolder, role: &str) -> PathBuf {
    folder.run(&format!("{role}.toml"))
}

/// Where `role` writes its addresses.
pub fn address_file(folder: &DataFolder, role: &str) -> PathBuf {
    folder.run(&format!("{role}.addresses.json"))
}

/// Central's; `known` are its addresses of an earlier start.
pub fn write_central(folder: &DataFolder, choices: &Choices, known: Addresses) -> std::io::Result<()> {
    let listen = known.listen.unwrap_or(choices.central_listen);
    let config = Central {
        listen,
        uplink: known.uplink.unwrap_or(ANY_PORT),
        admin: known.admin.unwrap_or(ANY_PORT),
        data: folder.root().join("central"),
        // With port 0 central names the port that it got.
        public_url: (listen.port() != 0).then(|| port::url(listen)),
        gateway_url: choices.gateway_url.clone(),
        api_key_file: folder.api_key_file(),
        uplink_token_file: folder.uplink_token_file(),
        address_file: address_file(folder, "central"),
    };
    write(&file(folder, "central"), &config)
}

/// The aggregator's; `uplink` is where central takes its stream.
pub fn write_aggregator(folder: &DataFolder, uplink: SocketAddr, known: Addresses) -> std::io::Result<()> {
    let config = Aggregator {
        region: REGION,
        shard: 0,
        redis: redis::url(&folder.redis_socket()),
        uplink: port::url(uplink),
        uplink_token_file: folder.uplink_token_file(),
        admin: known.admin.unwrap_or(ANY_PORT),
        address_file: address_file(folder, "aggregator"),
        cut_interval_ms: CUT_INTERVAL_MS,
    };
    write(&file(folder, "aggregator"), &config)
}

/// The gateway's; `uplink` is where central takes its stream.
pub fn write_gateway(
    folder: &DataFolder,
    choices: &Choices,
    uplink: SocketAddr,
    known: Addresses,
) -> std::io::Result<()> {
    let config = Gateway {
        listen: known.listen.unwrap_or(choices.gateway_listen),
        admin: known.admin.unwrap_or(ANY_PORT),
        data: folder.root().join("gateway"),
        region: REGION,
        redis: redis::url(&folder.redis_socket()),
        uplink: port::url(uplink),
        uplink_token_file: folder.uplink_token_file(),
        public_url: choices.gateway_url.clone(),
        trusted_proxies: TRUSTED_PROXIES,
        geo_database: choices.geo_database.clone(),
        address_file: address_file(folder, "gateway"),
        tls: Tls { listen: known.tls.unwrap_or(choices.tls.listen), ..choices.tls.clone() },
    };
    write(&file(folder, "gateway"), &config)
}

fn write(path: &Path, config: &impl Serialize) -> std::io::Result<()> {
    let text = toml::to_string(config).map_err(std::io::Error::other)?;
    let new = path.with_extension("toml.new");
    std::fs::write(&new, format!("# Written by `tideline up` at every start.\n{text}"))?;
    std::fs::rename(new, path)
}

#[cfg(test)]
mod tests;
