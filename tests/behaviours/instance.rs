//! One running `tideline up`, and what is asked of it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub use harness::{ORIGIN, SITE};
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};
use tempfile::TempDir;

pub const TIDELINE: &str = env!("CARGO_BIN_EXE_tideline");
/// An overloaded machine opens the store in tens of seconds.
const START_MAX: Duration = Duration::from_secs(90);
/// A cut every ten seconds, and the rest of the way.
pub const REPORT_MAX: Duration = Duration::from_secs(45);

/// The cut's interval, and a little.
const ANOTHER_CUT: Duration = Duration::from_secs(12);

/// Stops when it is dropped.
pub struct Instance {
    child: Child,
    pub folder: TempDir,
}

impl Instance {
    /// With one site of one origin, on free ports.
    pub async fn start() -> Self {
        Self::start_in("UTC").await
    }

    /// The same, whose site is in this timezone.
    pub async fn start_in(timezone: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let site = format!("{SITE}={ORIGIN};{timezone}");
        let child = Command::new(TIDELINE)
            .args(["up", "--gateway", "127.0.0.1:0", "--central", "127.0.0.1:0", "--site", &site, "--data"])
            .arg(folder.path().join("data"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let instance = Self { child, folder };
        let started = Instant::now();
        while !instance.all_ready() {
            assert!(started.elapsed() < START_MAX, "not ready: {:?}\n{}", instance.try_status(), instance.logs());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        // The gateway takes the site once central has told it.
        let started = Instant::now();
        while instance.snippet_site().await != Some(SITE.to_owned()) {
            assert!(started.elapsed() < START_MAX, "the site was not made\n{}", instance.logs());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        instance
    }

    /// In good order, before it is dropped.
    pub fn end(&mut self) {
        end(&mut self.child, Duration::from_secs(30));
    }

    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub fn role(&self, name: &str) -> Value {
        let status = self.try_status().expect("it runs");
        status["roles"].as_array().unwrap().iter().find(|role| role["role"] == name).unwrap().clone()
    }

    pub fn pid(&self, role: &str) -> Option<Pid> {
        self.role(role)["pid"].as_i64().and_then(|pid| Pid::from_raw(pid as i32))
    }

    pub fn gateway(&self) -> SocketAddr {
        self.role("gateway")["address"].as_str().unwrap().parse().unwrap()
    }

    pub fn central(&self) -> SocketAddr {
        self.role("central")["address"].as_str().unwrap().parse().unwrap()
    }

    pub fn api_key(&self) -> String {
        std::fs::read_to_string(self.data().join("api-key")).unwrap().trim().to_owned()
    }

    /// kill -9 of a role, and waiting until another process has taken its place.
    pub async fn kill(&self, role: &str) {
        let pid = self.pid(role).expect("it lives");
        rustix::process::kill_process(pid, Signal::KILL).unwrap();
        let killed = Instant::now();
        while self.pid(role).is_none_or(|now| now == pid) || !self.all_ready() {
            assert!(killed.elapsed() < START_MAX, "{role} did not come back\n{}", self.logs());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub async fn query(&self, body: Value) -> Value {
        let url = format!("http://{}/api/v2/query", self.central());
        let answer = reqwest::Client::new().post(url).bearer_auth(self.api_key()).json(&body).send().await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        assert!(status.is_success(), "{status}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    /// These metrics of the site, over all time.
    pub async fn metrics(&self, metrics: &[&str]) -> Vec<f64> {
        let answer = self.query(json!({ "site_id": SITE, "metrics": metrics, "date_range": "all" })).await;
        let row = &answer["results"][0]["metrics"];
        row.as_array().unwrap().iter().map(|metric| metric.as_f64().unwrap_or(0.0)).collect()
    }

    /// Waits until the report says this, and then for another cut: what is counted twice would show by then.
    pub async fn expect(&self, metrics: &[&str], wanted: &[f64]) {
        let asked = Instant::now();
        loop {
            let found = self.metrics(metrics).await;
            if found == wanted {
                break;
            }
            assert!(asked.elapsed() < REPORT_MAX, "{metrics:?} are {found:?}, not {wanted:?}\n{}", self.logs());
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        tokio::time::sleep(ANOTHER_CUT).await;
        let found = self.metrics(metrics).await;
        assert_eq!(found, wanted, "{metrics:?} went on after they were right\n{}", self.logs());
    }

    /// A second gateway in the same region, beside the one of `up`.
    pub async fn second_gateway(&self, settings: &str) -> SecondGateway {
        let first = std::fs::read_to_string(self.data().join("run/gateway.toml")).unwrap();
        let mut config: toml::Table = first.parse().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let addresses = folder.path().join("addresses.json");
        config.insert("listen".into(), "127.0.0.1:0".into());
        config.insert("admin".into(), "127.0.0.1:0".into());
        config["tls"]["listen"] = "127.0.0.1:0".into();
        config.insert("data".into(), folder.path().join("gateway").to_str().unwrap().into());
        config.insert("address_file".into(), addresses.to_str().unwrap().into());
        for (key, value) in settings.parse::<toml::Table>().unwrap() {
            config.insert(key, value);
        }
        let file = folder.path().join("gateway.toml");
        std::fs::write(&file, config.to_string()).unwrap();
        // Beside those of `up`, under a name of its own.
        let name = folder.path().file_name().unwrap().display();
        let log = std::fs::File::create(self.data().join(format!("logs/gateway-{name}.log"))).unwrap();
        let child = Command::new(TIDELINE).args(["gateway", "--config"]).arg(&file).stderr(log).spawn().unwrap();
        let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut gateway =
            SecondGateway { child, address: unknown, tls: unknown, admin: unknown, file, _folder: folder };
        let started = Instant::now();
        loop {
            assert!(started.elapsed() < START_MAX, "the second gateway did not get ready");
            let bound =
                std::fs::read_to_string(&addresses).ok().and_then(|text| serde_json::from_str::<Value>(&text).ok());
            if let Some(bound) = bound {
                gateway.address = bound["listen"].as_str().unwrap().parse().unwrap();
                gateway.tls = bound["tls"].as_str().unwrap().parse().unwrap();
                gateway.admin = bound["admin"].as_str().unwrap().parse().unwrap();
                // Not on `listen`: there a test may ask for a PROXY header first.
                let ready = format!("http://{}/ready", gateway.admin);
                if reqwest::get(ready).await.is_ok_and(|answer| answer.status().is_success()) {
                    return gateway;
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The end of every log, for a failing test's message.
    pub fn logs(&self) -> String {
        let Ok(entries) = std::fs::read_dir(self.data().join("logs")) else { return "no logs".into() };
        let mut text = String::new();
        for entry in entries.flatten() {
            let log = std::fs::read_to_string(entry.path()).unwrap_or_default();
            let tail: Vec<_> = log.lines().rev().take(12).collect();
            text += &format!("--- {}\n", entry.file_name().display());
            text.extend(tail.into_iter().rev().flat_map(|line| [line, "\n"]));
        }
        text
    }

    /// What clients do wrong is no error of a gateway's, and nobody panics of it.
    pub fn gateways_logged_no_error(&self) {
        let mut gateways = 0;
        for entry in std::fs::read_dir(self.data().join("logs")).unwrap().flatten() {
            let (name, log) = (entry.file_name(), std::fs::read_to_string(entry.path()).unwrap());
            assert!(!log.contains("panicked"), "{}: {log}", name.display());
            if name.to_string_lossy().starts_with("gateway") {
                let errors: Vec<_> = harness::process::errors(&log).collect();
                assert!(!log.is_empty() && errors.is_empty(), "{}: {errors:#?}", name.display());
                gateways += 1;
            }
        }
        assert!(gateways > 0, "no gateway has a log");
    }

    fn try_status(&self) -> Option<Value> {
        let output = Command::new(TIDELINE).args(["status", "--json", "--data"]).arg(self.data()).output().unwrap();
        output.status.success().then(|| serde_json::from_slice(&output.stdout).ok())?
    }

    fn all_ready(&self) -> bool {
        let ready = |status: Value| {
            let roles = status["roles"].as_array().cloned().unwrap_or_default();
            roles.len() == 4 && roles.iter().all(|role| role["ready"] == true)
        };
        self.try_status().is_some_and(ready)
    }

    async fn snippet_site(&self) -> Option<String> {
        let url = format!("http://{}/api/v2/sites", self.central());
        let answer = reqwest::Client::new().get(url).bearer_auth(self.api_key()).send().await.ok()?;
        Some(answer.json::<Value>().await.ok()?["sites"][0]["site_id"].as_str()?.to_owned())
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        end(&mut self.child, Duration::from_secs(30));
    }
}

/// Ends when it is dropped.
pub struct SecondGateway {
    child: Child,
    pub address: SocketAddr,
    /// With the certificate of the one of `up`.
    pub tls: SocketAddr,
    admin: SocketAddr,
    /// Its configuration.
    pub file: PathBuf,
    _folder: TempDir,
}

impl SecondGateway {
    /// SIGHUP.
    pub fn hang_up(&self) {
        rustix::process::kill_process(Pid::from_child(&self.child), Signal::HUP).unwrap();
    }

    /// The value of a metric, as it is written before its value: `tideline_gateway_log_full` or `…_total{reason="address"}`.
    pub async fn metric(&self, name: &str) -> Option<f64> {
        let text = reqwest::get(format!("http://{}/metrics", self.admin)).await.unwrap().text().await.unwrap();
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    }

    /// Waits until the metric has the value.
    pub async fn until(&self, metric: &str, value: f64) {
        let asked = Instant::now();
        while self.metric(metric).await != Some(value) {
            let now = self.metric(metric).await;
            assert!(asked.elapsed() < REPORT_MAX, "{metric} is {now:?}, not {value}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Drop for SecondGateway {
    fn drop(&mut self) {
        end(&mut self.child, Duration::from_secs(15));
    }
}

/// SIGTERM, and SIGKILL to what has not ended by then.
pub fn end(child: &mut Child, within: Duration) {
    let _ = rustix::process::kill_process(Pid::from_child(child), Signal::TERM);
    let asked = Instant::now();
    while asked.elapsed() < within {
        if matches!(child.try_wait(), Ok(Some(_))) {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// Runs a command that is expected to end by itself; its exit code and what it said.
pub fn run_to_end(mut command: Command, within: Duration) -> (Option<i32>, String) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if started.elapsed() > within {
            end(&mut child, Duration::from_secs(10));
            let output = child.wait_with_output().unwrap();
            panic!("still running after {within:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let output = child.wait_with_output().unwrap();
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr),
    )
}
