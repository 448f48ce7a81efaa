//! A Redis, a central, an aggregator and gateways, not under `tideline up`, so that each can be touched alone.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::process::{Process, free_port, tideline};
use crate::{ORIGIN, SITE};

/// An overloaded machine opens the store in tens of seconds.
pub const READY_MAX: Duration = Duration::from_secs(90);
/// A cut a second, so that a test need not wait ten for each.
pub const CUT_MS: i64 = 1_000;
const KEY: &str = "a-key-of-the-tests-alone";
const POLL: Duration = Duration::from_millis(50);
/// Central lists a hundred thousand batches in seconds.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// One region and its central. Everything ends when it is dropped.
pub struct Region {
    /// Gateways are added with [`Region::add_gateway`].
    pub gateways: Vec<Role>,
    /// The one aggregator.
    pub aggregator: Role,
    /// The store.
    pub central: Role,
    /// The one shard's Redis.
    pub redis: Redis,
    folder: TempDir,
    http: reqwest::Client,
}

/// A `redis-server` with its own folder and port.
pub struct Redis {
    /// The server.
    pub process: Process,
    /// Where its files are.
    pub folder: PathBuf,
    port: u16,
}

/// One role of `tideline` with its configuration.
pub struct Role {
    /// The process.
    pub process: Process,
    /// Where it keeps what it keeps.
    pub data: PathBuf,
    kind: &'static str,
    file: PathBuf,
    config: toml::Table,
}

impl Redis {
    /// In a new folder below `parent`, with the settings that Tideline asks for; not started.
    pub fn new(parent: &Path) -> Self {
        let folder = parent.join("redis");
        std::fs::create_dir_all(&folder).unwrap();
        let port = free_port();
        let mut redis = Self { process: Process::new("redis", "", vec![], PathBuf::new()), folder, port };
        redis.configure(&[]);
        redis
    }

    /// Other settings from the next start on; what is named here goes before the usual ones.
    pub fn configure(&mut self, settings: &[(&str, &str)]) {
        let usual = [
            ("appendonly", "yes"),
            ("appendfsync", "always"),
            ("save", ""),
            ("maxmemory", "256mb"),
            ("maxmemory-policy", "noeviction"),
        ];
        let mut arguments: Vec<OsString> = vec!["--port".into(), self.port.to_string().into()];
        arguments.extend(["--dir".into(), self.folder.clone().into_os_string()]);
        let other = |name: &str| settings.iter().all(|(named, _)| *named != name);
        for (name, value) in usual.iter().filter(|(name, _)| other(name)).chain(settings) {
            arguments.extend([format!("--{name}").into(), value.into()]);
        }
        let log = self.folder.parent().unwrap().join("redis.log");
        self.process = Process::new("redis", "redis-server", arguments, log);
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address())
    }

    /// Its append-only files.
    pub fn append_only(&self) -> PathBuf {
        self.folder.join("appendonlydir")
    }

    /// Starts it and waits until it answers.
    pub async fn start(&mut self) {
        self.start_under(&[]).await;
    }

    /// As [`Redis::start`], as the argument of another program.
    pub async fn start_under(&mut self, wrapper: &[OsString]) {
        self.process.kill();
        self.process.start_under(wrapper);
        let started = Instant::now();
        while !self.answers() {
            assert!(self.process.runs(), "redis ended\n{}", self.process.last_words(20));
            assert!(started.elapsed() < READY_MAX, "redis does not answer\n{}", self.process.last_words(20));
            tokio::time::sleep(POLL).await;
        }
    }

    /// It answers PING, which it does not while it loads its files.
    pub fn answers(&self) -> bool {
        use std::io::{Read, Write};
        let ask = || -> std::io::Result<[u8; 5]> {
            let mut stream = std::net::TcpStream::connect_timeout(&self.address(), Duration::from_secs(1))?;
            stream.set_read_timeout(Some(Duration::from_secs(1)))?;
            stream.write_all(b"PING\r\n")?;
            let mut answer = [0; 5];
            stream.read_exact(&mut answer)?;
            Ok(answer)
        };
        ask().is_ok_and(|answer| &answer == b"+PONG")
    }
}

impl Role {
    fn new(kind: &'static str, name: &str, folder: &Path, config: toml::Table) -> Self {
        let file = folder.join(format!("{name}.toml"));
        let arguments = vec![kind.into(), "--config".into(), file.clone().into_os_string()];
        let process = Process::new(name, tideline(), arguments, folder.join(format!("{name}.log")));
        let data = folder.join(name);
        let mut role = Self { process, data, kind, file, config };
        role.configure("admin", format!("127.0.0.1:{}", free_port()));
        role
    }

    /// A setting, from the next start on.
    pub fn configure(&mut self, key: &str, value: impl Into<toml::Value>) {
        self.config.insert(key.to_owned(), value.into());
        std::fs::write(&self.file, self.config.to_string()).unwrap();
    }

    /// Another role with the same settings but its own addresses, log and folder; not started.
    pub fn copy(&self, name: &str) -> Self {
        let folder = self.file.parent().unwrap();
        let mut copy = Self::new(self.kind, name, folder, self.config.clone());
        copy.configure("listen", format!("127.0.0.1:{}", free_port()));
        copy.configure("data", copy.data.to_str().unwrap().to_owned());
        copy
    }

    /// A port with TLS too, from the next start on, with certificate and key from this file.
    pub fn serve_tls(&mut self, certificate: &Path) -> SocketAddr {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut tls = toml::Table::new();
        tls.insert("listen".into(), address.to_string().into());
        for file in ["certificate", "key"] {
            tls.insert(file.into(), certificate.to_str().unwrap().into());
        }
        self.configure("tls", tls);
        address
    }

    fn address(&self, key: &str) -> SocketAddr {
        self.config[key].as_str().unwrap().parse().unwrap()
    }

    /// Where it serves pages or reports.
    pub fn listen(&self) -> SocketAddr {
        self.address("listen")
    }

    /// Health and metrics.
    pub fn admin_address(&self) -> SocketAddr {
        self.address("admin")
    }

    /// Central's uplink.
    pub fn uplink(&self) -> SocketAddr {
        self.address("uplink")
    }

    /// `GET` of its admin address: status and body; `None` if nobody answers.
    pub async fn admin(&self, http: &reqwest::Client, path: &str) -> Option<(u16, String)> {
        let url = format!("http://{}{path}", self.admin_address());
        let answer = http.get(url).timeout(Duration::from_secs(2)).send().await.ok()?;
        Some((answer.status().as_u16(), answer.text().await.ok()?))
    }

    /// One of its metrics, of those without labels.
    pub async fn metric(&self, http: &reqwest::Client, name: &str) -> f64 {
        let (status, metrics) = self.admin(http, "/metrics").await.unwrap_or_default();
        let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
        value.unwrap_or_else(|| panic!("{} has no metric {name}: {status} {metrics}", self.process.name()))
    }

    /// The segment that a gateway writes now.
    pub fn newest_segment(&self) -> PathBuf {
        let entries = |folder: &Path| std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
        let log = entries(&self.data).find(|path| name(path).starts_with("log-")).unwrap();
        entries(&log.join("shard-0")).filter(|path| name(path).ends_with(".log")).max().unwrap()
    }
}

impl Region {
    /// Everything started and ready, with one site and so many gateways.
    pub async fn start(gateways: usize) -> Self {
        let mut region = Self::new(gateways).await;
        region.start_all().await;
        region
    }

    /// As [`Region::start`], but nothing runs yet.
    pub async fn new(gateways: usize) -> Self {
        let folder = tempfile::Builder::new().prefix("tideline-").tempdir().unwrap();
        let at = folder.path();
        std::fs::write(at.join("token"), "a-token-of-the-tests-alone").unwrap();
        std::fs::write(at.join("key"), KEY).unwrap();
        for private in ["token", "key"] {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
            std::fs::set_permissions(at.join(private), mode).unwrap();
        }
        let redis = Redis::new(at);
        let local = || format!("127.0.0.1:{}", free_port());
        let path = |name: &str| at.join(name).to_str().unwrap().to_owned();
        let mut central = toml::Table::new();
        for (key, value) in [
            ("listen", local()),
            ("uplink", local()),
            ("data", path("central")),
            ("api_key_file", path("key")),
            ("uplink_token_file", path("token")),
        ] {
            central.insert(key.into(), value.into());
        }
        let uplink = format!("http://{}", central["uplink"].as_str().unwrap());
        let central = Role::new("central", "central", at, central);
        let mut aggregator = toml::Table::new();
        for (key, value) in [("redis", redis.url()), ("uplink", uplink), ("uplink_token_file", path("token"))] {
            aggregator.insert(key.into(), value.into());
        }
        aggregator.insert("cut_interval_ms".into(), CUT_MS.into());
        let aggregator = Role::new("aggregator", "aggregator", at, aggregator);
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let mut region = Self { gateways: vec![], aggregator, central, redis, folder, http };
        for _ in 0..gateways {
            region.add_gateway();
        }
        region
    }

    /// One more, not started.
    pub fn add_gateway(&mut self) -> &mut Role {
        let mut config = toml::Table::new();
        for key in ["redis", "uplink", "uplink_token_file"] {
            config.insert(key.into(), self.aggregator.config[key].clone());
        }
        config.insert("cores".into(), 1.into());
        config.insert("trusted_proxies".into(), vec!["127.0.0.0/8"].into());
        let name = format!("gateway-{}", self.gateways.len() + 1);
        let mut gateway = Role::new("gateway", &name, self.folder.path(), config);
        gateway.configure("listen", format!("127.0.0.1:{}", free_port()));
        gateway.configure("data", gateway.data.to_str().unwrap().to_owned());
        self.gateways.push(gateway);
        self.gateways.last_mut().unwrap()
    }

    /// Starts what does not run, makes the site, and waits until all are ready.
    pub async fn start_all(&mut self) {
        self.redis.start().await;
        self.start_all_but_redis().await;
    }

    /// As [`Region::start_all`], with a Redis that runs.
    pub async fn start_all_but_redis(&mut self) {
        self.central.process.start();
        self.ready(&["central"]).await;
        self.make_site().await;
        self.start_rest().await;
    }

    /// As [`Region::start_all`], with a Redis and a central that run.
    pub async fn start_rest(&mut self) {
        self.aggregator.process.start();
        for gateway in &mut self.gateways {
            gateway.process.start();
        }
        self.all_ready().await;
    }

    /// As [`Region::start_all`], but the gateways are left to the test.
    pub async fn start_all_but_gateways(&mut self) {
        self.redis.start().await;
        self.central.process.start();
        self.ready(&["central"]).await;
        self.make_site().await;
        self.aggregator.process.start();
        self.ready(&["aggregator"]).await;
    }

    /// The tests' one site; made again, it stays as it is.
    pub async fn make_site(&self) {
        self.make_other_site(SITE).await;
    }

    /// As [`Region::make_site`], another one.
    pub async fn make_other_site(&self, site: &str) {
        let body = json!({ "site_id": site, "origins": [ORIGIN], "timezone": "UTC" });
        let url = format!("http://{}/api/v2/sites", self.central.listen());
        let answer = self.http.post(url).bearer_auth(KEY).json(&body).send().await.unwrap();
        assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
    }

    /// From one cut to the next, as the aggregator is told.
    pub fn cut_interval(&self) -> Duration {
        let ms = self.aggregator.config["cut_interval_ms"].as_integer().unwrap();
        Duration::from_millis(ms.try_into().unwrap())
    }

    /// Whether every process runs and none ever panicked.
    pub fn is_whole(&self) -> Result<(), String> {
        for process in self.roles().map(|role| &role.process).chain([&self.redis.process]) {
            let name = process.name();
            if !process.lives() {
                return Err(format!("{name} does not run any more\n{}", process.last_words(30)));
            }
            if let Some(panic) = process.said().lines().find(|line| line.contains("panicked")) {
                return Err(format!("{name} panicked: {panic}\n{}", process.last_words(30)));
            }
        }
        Ok(())
    }

    /// Its folder stays when it is dropped, for whoever wants to know what happened.
    pub fn keep_folder(&mut self) -> PathBuf {
        self.folder.disable_cleanup(true);
        self.folder.path().to_owned()
    }

    /// Where pages connect, every gateway.
    pub fn doors(&self) -> Vec<SocketAddr> {
        self.gateways.iter().map(Role::listen).collect()
    }

    /// Where things are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The file with a key for all sites.
    pub fn key_file(&self) -> PathBuf {
        self.folder.path().join("key")
    }

    /// For questions to an admin address.
    pub fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// Every role.
    pub fn roles(&self) -> impl Iterator<Item = &Role> {
        [&self.central, &self.aggregator].into_iter().chain(&self.gateways)
    }

    /// Every role, to be changed.
    pub fn roles_mut(&mut self) -> impl Iterator<Item = &mut Role> {
        [&mut self.central, &mut self.aggregator].into_iter().chain(&mut self.gateways)
    }

    /// Waits until every role that was started says that it is ready.
    pub async fn all_ready(&mut self) {
        let names: Vec<String> = self.roles().map(|role| role.process.name().to_owned()).collect();
        self.ready(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    }

    /// Waits until these say that they are ready.
    pub async fn ready(&mut self, names: &[&str]) {
        let asked = Instant::now();
        for name in names {
            loop {
                let http = self.http.clone();
                let role = self.roles_mut().find(|role| role.process.name() == *name).unwrap();
                let answer = role.admin(&http, "/ready").await;
                if answer.as_ref().is_some_and(|(status, _)| *status == 200) {
                    break;
                }
                if let Some(status) = role.process.ended() {
                    panic!("{name} ended ({status}) instead of getting ready\n{}", self.words());
                }
                assert!(asked.elapsed() < READY_MAX, "{name} is not ready: {answer:?}\n{}", self.words());
                tokio::time::sleep(POLL).await;
            }
        }
    }

    /// Runs a command of `tideline` that asks central: its exit code and what it said.
    pub fn tideline(&self, words: &[&str]) -> (Option<i32>, String) {
        let mut command = std::process::Command::new(tideline());
        command.args(words).args(["--url", &format!("http://{}", self.central.listen()), "--key-file"]);
        let output = command.arg(self.key_file()).env("NO_COLOR", "1").output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&said).into_owned())
    }

    /// Waits until central has every record of this gateway that it accepted, raw rows included.
    pub async fn until_shipped(&self, gateway: &str) {
        let asked = Instant::now();
        let mut before = None;
        loop {
            let (code, said) = self.tideline(&["gateways", "--json"]);
            assert_eq!(code, Some(0), "{said}");
            let gateways: Value = serde_json::from_str(&said).unwrap();
            let mut known = gateways["gateways"].as_array().unwrap().iter();
            let shard = known.find(|known| known["id"] == gateway).unwrap()["shards"][0].clone();
            // Two equal looks more than a cut apart: nothing of it is on its way any more.
            if shard["accepted"] == shard["raw"] && before.as_ref() == Some(&shard) {
                return;
            }
            assert!(asked.elapsed() < READY_MAX, "central has not everything of it: {shard}\n{}", self.words());
            before = Some(shard);
            tokio::time::sleep(self.cut_interval() * 3 / 2).await;
        }
    }

    /// The last lines of every process, for a failing test's message.
    pub fn words(&self) -> String {
        let redis = self.redis.process.last_words(8);
        self.roles().fold(redis, |text, role| text + &role.process.last_words(16))
    }

    /// Asks central's Stats API: a route below `/api/v2`, and a body to post if there is one. `None` while it does not answer.
    pub async fn ask(&self, route: &str, body: Option<&Value>) -> Option<Value> {
        self.ask_text(route, body).await.map(|text| serde_json::from_str(&text).unwrap())
    }

    /// As [`Region::ask`], for a route that answers a line of JSON for each of many things.
    pub async fn ask_lines(&self, route: &str) -> Option<Vec<Value>> {
        let text = self.ask_text(route, None).await?;
        Some(text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
    }

    async fn ask_text(&self, route: &str, body: Option<&Value>) -> Option<String> {
        let url = format!("http://{}/api/v2/{route}", self.central.listen());
        let request = match body {
            Some(body) => self.http.post(url).json(body),
            None => self.http.get(url),
        };
        let answer = request.bearer_auth(KEY).timeout(ANSWER_MAX).send().await.ok()?;
        let status = answer.status();
        let text = answer.text().await.ok()?;
        assert!(status.is_success() || status.is_server_error(), "{route}: {status}: {text}");
        status.is_success().then_some(text)
    }
}
