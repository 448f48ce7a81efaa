//! What stands between two processes: Debian's HAProxy in front of gateways, toxiproxy where a network is to be bad.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::process::{Process, free_port};

const START_MAX: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(50);

/// A proxy that sends pages to the gateways whose `/ready` says yes.
pub struct HaProxy {
    port: u16,
    stats: u16,
    http: reqwest::Client,
    _process: Process,
}

impl HaProxy {
    /// In front of these gateways, each with its admin address, which is asked five times a second. A gateway that is not ready
    /// gets no new connection; open ones stay until it closes them. One that only takes its time to say so is ready.
    pub fn start_checking(gateways: &[(SocketAddr, SocketAddr)], folder: &Path) -> Self {
        let (port, stats) = (free_port(), free_port());
        let mut config = format!(
            "global\n  maxconn 1000\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n  \
             timeout tunnel 1h\n  timeout check 5s\n  retries 3\n  option redispatch\nfrontend pages\n  bind 127.0.0.1:{port}\n  \
             default_backend gateways\nfrontend stats\n  bind 127.0.0.1:{stats}\n  stats enable\n  stats uri /stats\n\
             backend gateways\n  balance leastconn\n  option httpchk GET /ready\n"
        );
        for (number, (listen, admin)) in gateways.iter().enumerate() {
            let check = format!("check inter 200ms fall 1 rise 1 addr {} port {}", admin.ip(), admin.port());
            writeln!(config, "  server gateway-{number} {listen} {check}").expect("a string grows");
        }
        let file = folder.join("haproxy.cfg");
        std::fs::write(&file, config).unwrap();
        let arguments = vec!["-db".into(), "-f".into(), file.into_os_string()];
        let mut process = Process::new("haproxy", "haproxy", arguments, folder.join("haproxy.log"));
        process.start();
        let started = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(started.elapsed() < START_MAX, "haproxy did not start\n{}", process.last_words(10));
            std::thread::sleep(POLL);
        }
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { port, stats, http, _process: process }
    }

    /// Where pages connect.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Waits until it sends pages to so many gateways.
    pub async fn until_all_up(&self, gateways: usize) {
        let asked = Instant::now();
        loop {
            let url = format!("http://127.0.0.1:{}/stats;csv", self.stats);
            let csv = self.http.get(url).send().await.unwrap().text().await.unwrap();
            let up = csv.lines().filter(|line| line.starts_with("gateways,gateway-") && line.contains(",UP,")).count();
            if up == gateways {
                return;
            }
            assert!(asked.elapsed() < START_MAX, "{up} gateways are up:\n{csv}");
            tokio::time::sleep(POLL).await;
        }
    }
}

/// A toxiproxy between two processes, and what is wrong with it now.
pub struct BadNetwork {
    api: String,
    listen: SocketAddr,
    http: reqwest::Client,
    _process: Process,
}

/// What a network can do to a connection.
#[derive(Debug, Clone, Copy)]
pub enum Toxic {
    /// Every packet takes this long, up to half of it more or less.
    Latency(Duration),
    /// Connections break after so many bytes of what is asked.
    LimitCalls(u32),
    /// Connections break after so many bytes of answers.
    LimitAnswers(u32),
    /// Connections are reset after this time.
    Reset(Duration),
    /// Nothing that is asked arrives, and nothing is closed.
    NothingArrives,
    /// Everything that is asked arrives; no answer comes back, and nothing is closed.
    NoAnswer,
}

impl BadNetwork {
    /// In front of this address; nothing is wrong yet.
    pub async fn start(upstream: SocketAddr, name: &str, folder: &Path) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/fetch-toxiproxy.sh");
        let fetched = Command::new(script).output().unwrap();
        assert!(fetched.status.success(), "{}", String::from_utf8_lossy(&fetched.stderr));
        let program = String::from_utf8(fetched.stdout).unwrap().trim().to_owned();
        let (port, control) = (free_port(), free_port());
        let arguments = ["-host", "127.0.0.1", "-port", &control.to_string()].map(Into::into).into();
        let mut process = Process::new("toxiproxy", program, arguments, folder.join(format!("toxiproxy-{name}.log")));
        process.start();
        let started = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", control)).is_err() {
            assert!(started.elapsed() < START_MAX, "toxiproxy did not start\n{}", process.last_words(10));
            tokio::time::sleep(POLL).await;
        }
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let listen = SocketAddr::from(([127, 0, 0, 1], port));
        let network = Self { api: format!("http://127.0.0.1:{control}/proxies"), listen, http, _process: process };
        network.post("", &json!({ "name": "all", "listen": listen, "upstream": upstream, "enabled": true })).await;
        network
    }

    /// What to connect to instead.
    pub fn address(&self) -> SocketAddr {
        self.listen
    }

    /// From now on, for open connections as well.
    pub async fn suffer(&self, toxic: Toxic) {
        let (kind, stream, attributes) = match toxic {
            Toxic::Latency(by) => (
                "latency",
                "downstream",
                json!({ "latency": by.as_millis() as u64, "jitter": by.as_millis() as u64 / 2 }),
            ),
            Toxic::LimitCalls(bytes) => ("limit_data", "upstream", json!({ "bytes": bytes })),
            Toxic::LimitAnswers(bytes) => ("limit_data", "downstream", json!({ "bytes": bytes })),
            Toxic::Reset(after) => ("reset_peer", "downstream", json!({ "timeout": after.as_millis() as u64 })),
            Toxic::NothingArrives => ("timeout", "upstream", json!({ "timeout": 0 })),
            Toxic::NoAnswer => ("timeout", "downstream", json!({ "timeout": 0 })),
        };
        let body = json!({ "name": "now", "type": kind, "stream": stream, "toxicity": 1.0, "attributes": attributes });
        self.post("/all/toxics", &body).await;
    }

    /// A good network again.
    pub async fn recover(&self) {
        let answer = self.http.delete(format!("{}/all/toxics/now", self.api)).send().await.unwrap();
        assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
    }

    async fn post(&self, route: &str, body: &Value) {
        let answer = self.http.post(format!("{}{route}", self.api)).json(body).send().await.unwrap();
        assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
    }
}
