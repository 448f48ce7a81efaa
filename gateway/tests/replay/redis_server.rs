use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use regional_redis::Link;
use regional_redis::counter::{Counter, Metric};

use crate::bench::{ANSWER_MAX, SHARD};

/// A process of its own, on a socket in a folder of its own.
pub struct RedisServer {
    child: Child,
    folder: tempfile::TempDir,
}

impl RedisServer {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("redis.sock");
        let child = Command::new("redis-server")
            .args(["--port", "0", "--appendonly", "yes", "--appendfsync", "always", "--save", "", "--dir"])
            .arg(folder.path())
            .arg("--unixsocket")
            .arg(&socket)
            .stdout(Stdio::null())
            .spawn()
            .expect("Debian's redis-server is installed");
        let started = Instant::now();
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            assert!(started.elapsed() < ANSWER_MAX, "redis-server did not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { child, folder }
    }

    pub fn url(&self) -> String {
        format!("unix://{}", self.folder.path().join("redis.sock").display())
    }

    pub async fn link(&self) -> Link {
        Link::connect(&self.url().into(), SHARD).await.unwrap()
    }

    pub async fn connection(&self) -> redis::aio::MultiplexedConnection {
        redis::Client::open(self.url()).unwrap().get_multiplexed_async_connection().await.unwrap()
    }

    pub async fn command(&self, words: &[&str]) {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.exec_async(&mut self.connection().await).await.unwrap();
    }

    /// Everything it holds.
    pub async fn dump(&self) -> Vec<(String, Vec<u8>)> {
        let mut connection = self.connection().await;
        let keys: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut connection).await.unwrap();
        let mut all = Vec::new();
        for key in keys {
            let value: Vec<u8> = redis::cmd("DUMP").arg(&key).query_async(&mut connection).await.unwrap();
            all.push((key, value));
        }
        all
    }

    /// In one step, as a replica that was promoted too early would look.
    pub async fn restore(&self, all: &[(String, Vec<u8>)]) {
        let mut pipe = redis::pipe();
        pipe.atomic().cmd("FLUSHALL");
        for (key, value) in all {
            pipe.cmd("RESTORE").arg(key).arg(0).arg(value);
        }
        pipe.exec_async(&mut self.connection().await).await.unwrap();
    }

    /// Of the open bucket.
    pub async fn pageviews(&self) -> u64 {
        let command = redis::cmd("HGETALL").arg("{0}:wt:0").to_owned();
        let counters: Vec<(Vec<u8>, u64)> = command.query_async(&mut self.connection().await).await.unwrap();
        let is_pageviews = |field: &[u8]| {
            matches!(Counter::from_field(field).unwrap(), Counter::Rollup { metric: Metric::Pageviews, .. })
        };
        counters.iter().filter(|(field, _)| is_pageviews(field)).map(|(_, count)| count).sum()
    }

    pub async fn expect_pageviews(&self, wanted: u64) {
        let asked = Instant::now();
        while self.pageviews().await != wanted {
            assert!(asked.elapsed() < ANSWER_MAX, "{} pageviews, not {wanted}", self.pageviews().await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
