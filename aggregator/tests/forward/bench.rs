//! A Redis, a central and aggregators between them.

use std::path::PathBuf;
use std::time::Duration;

use aggregator::{Config, Error};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::central::{Central, TOKEN};
use crate::gateway::Gateway;
use crate::redis_process::RedisProcess;

pub struct Bench {
    pub redis: RedisProcess,
    pub central: Central,
    folder: TempDir,
}

pub struct Aggregator {
    pub stop: CancellationToken,
    pub task: JoinHandle<Result<(), Error>>,
    address_file: PathBuf,
}

impl Bench {
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), format!("{TOKEN}\n")).unwrap();
        Self { redis: RedisProcess::start().await, central: Central::start().await, folder }
    }

    /// Cuts ten times a second.
    pub fn config(&self) -> Config {
        Config {
            redis: self.redis.url(),
            uplink: format!("http://{}", self.central.address),
            uplink_token_file: self.folder.path().join("token"),
            admin: "127.0.0.1:0".parse().unwrap(),
            cut_interval_ms: 100,
            live_interval_ms: 50,
            ..Config::default()
        }
    }

    pub fn start(&self, name: &str) -> Aggregator {
        self.start_with(name, self.config())
    }

    pub fn start_with(&self, name: &str, config: Config) -> Aggregator {
        let address_file = self.folder.path().join(name);
        let config = Config { address_file: Some(address_file.clone()), ..config };
        let stop = CancellationToken::new();
        Aggregator { task: tokio::spawn(aggregator::run(config, stop.clone())), stop, address_file }
    }

    pub fn gateway(&self, name: &str) -> Gateway {
        Gateway::new(name, self.redis.url(), self.central.state.clone())
    }

    /// Waits until central has counted exactly this many pageviews.
    pub async fn counted(&self, pageviews: u64) {
        let what = format!("{pageviews} pageviews");
        until(&what, async || self.central.pageviews() >= pageviews).await;
        assert_eq!(self.central.pageviews(), pageviews);
    }
}

impl Aggregator {
    /// Stops it as a signal would, and waits.
    pub async fn stop(self) -> Result<(), Error> {
        self.stop.cancel();
        tokio::time::timeout(Duration::from_secs(15), self.task).await.expect("it stops in time").unwrap()
    }

    /// What it ended with by itself.
    pub async fn ended(self) -> Result<(), Error> {
        tokio::time::timeout(Duration::from_secs(15), self.task).await.expect("it ends by itself").unwrap()
    }

    /// Status and text of a path of its admin server.
    pub async fn admin(&self, path: &str) -> (u16, String) {
        until("its address", async || self.address_file.exists()).await;
        let addresses: serde_json::Value = serde_json::from_slice(&std::fs::read(&self.address_file).unwrap()).unwrap();
        let admin = addresses["admin"].as_str().unwrap();
        let answer = reqwest::get(format!("http://{admin}{path}")).await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    pub async fn is_ready(&self) {
        until("readiness", async || self.admin("/ready").await.0 == 200).await;
    }

    /// Waits until it says why it is not ready.
    pub async fn says(&self, reason: &str) {
        until(reason, async || {
            let (status, text) = self.admin("/ready").await;
            status == 503 && text.contains(reason)
        })
        .await;
    }
}

/// Waits, 15 s at most.
pub async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    for _ in 0..600 {
        if is_so().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("waited in vain for {what}");
}
