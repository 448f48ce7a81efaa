//! Debian's HAProxy in front of gateways.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

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
    /// gets no new connection; open ones stay until it closes them.
    pub fn start_checking(gateways: &[(SocketAddr, SocketAddr)], folder: &Path) -> Self {
        let (port, stats) = (free_port(), free_port());
        let mut config = format!(
            "global\n  maxconn 1000\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n  \
             timeout tunnel 1h\n  retries 3\n  option redispatch\nfrontend pages\n  bind 127.0.0.1:{port}\n  \
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
