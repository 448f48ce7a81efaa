//! A real `redis-server` on a Unix socket in a temporary folder, with every write on disk before it is answered.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use regional_redis::{Link, Shard};
use tempfile::TempDir;

/// Ends with its value.
pub struct RedisProcess {
    folder: TempDir,
    child: Child,
    settings: Vec<String>,
}

impl RedisProcess {
    /// One that keeps what it answers.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Pairs of a setting and its value, after those that make it durable.
    pub async fn start_with(settings: &[&str]) -> Self {
        let process = Self::try_start_with(settings);
        process.answers().await;
        process
    }

    /// The same, without waiting for it: a replica answers no link.
    pub fn try_start_with(settings: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let settings: Vec<String> = settings.iter().map(|it| (*it).to_owned()).collect();
        let child = spawn(&folder, &settings);
        Self { folder, child, settings }
    }

    /// Kills the process as a power cut would, and starts another one in the same folder.
    pub async fn kill_and_restart(&mut self) {
        self.kill();
        self.restart().await;
    }

    /// Nothing runs after it.
    pub fn kill(&mut self) {
        self.child.kill().expect("redis-server was running");
        self.child.wait().expect("a killed process ends");
    }

    /// Another process in the same folder.
    pub async fn restart(&mut self) {
        self.child = spawn(&self.folder, &self.settings);
        self.answers().await;
    }

    /// Kills the process and empties its folder: what a lost disk leaves behind.
    pub async fn lose_everything(&mut self) {
        self.kill();
        std::fs::remove_dir_all(self.folder.path().join("appendonlydir")).expect("the log was there");
        self.restart().await;
    }

    /// Kills the process and keeps a copy of its folder; then another process goes on.
    pub async fn back_up(&mut self) -> TempDir {
        self.kill();
        let backup = tempfile::tempdir().expect("a temporary folder");
        copy(&self.folder.path().join("appendonlydir"), backup.path());
        self.restart().await;
        backup
    }

    /// Kills the process, and starts another one with an older copy of the folder.
    pub async fn roll_back_to(&mut self, backup: &TempDir) {
        self.kill();
        let log = self.folder.path().join("appendonlydir");
        std::fs::remove_dir_all(&log).expect("the log was there");
        std::fs::create_dir(&log).expect("the folder is ours");
        copy(backup.path(), &log);
        self.restart().await;
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("unix://{}/redis.sock", self.folder.path().display())
    }

    /// A link to shard 0.
    pub async fn link(&self) -> Link {
        Link::connect(&self.url().into(), Shard(0)).await.expect("redis-server runs")
    }

    /// A connection for what no function does.
    pub async fn connection(&self) -> redis::aio::MultiplexedConnection {
        let client = redis::Client::open(self.url()).expect("the URL is ours");
        client.get_multiplexed_async_connection().await.expect("redis-server runs")
    }

    async fn answers(&self) {
        for _ in 0..200 {
            if let Ok(mut link) = Link::connect(&self.url().into(), Shard(0)).await
                && link.ping().await
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("redis-server does not answer after 5 s");
    }
}

fn copy(from: &Path, to: &Path) {
    for file in std::fs::read_dir(from).expect("a folder") {
        let file = file.expect("an entry");
        std::fs::copy(file.path(), to.join(file.file_name())).expect("a copy");
    }
}

impl Drop for RedisProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(folder: &TempDir, settings: &[String]) -> Child {
    // A newer one than the machine's: scripts/test-newer-redis.sh.
    let program = std::env::var_os("TIDELINE_REDIS_SERVER").unwrap_or_else(|| "redis-server".into());
    let mut command = Command::new(program);
    command.current_dir(folder.path()).stdout(Stdio::null()).stderr(Stdio::null());
    command.args(["--port", "0", "--unixsocket", "redis.sock", "--save", "", "--maxmemory-policy", "noeviction"]);
    command.args(["--appendonly", "yes", "--appendfsync", "always"]).args(settings);
    command.spawn().expect("redis-server 7 is installed (apt-get install redis-server)")
}
