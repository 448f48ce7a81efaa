//! The private Redis of `tideline up`: the machine's `redis-server`, alone with our data, on a Unix socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;
use tokio::process::Command;
use tokio::time::timeout;

use crate::up::folder::DataFolder;
use crate::up::process::{Readiness, Spec};

/// Functions, on which counting relies, came with Redis 7.0.
const VERSION_MIN: (u32, u32) = (7, 0);
const VERSION_WAIT: Duration = Duration::from_secs(5);
const INSTALL: &str = "install it (`apt-get install redis-server`)";
/// What counters of ten seconds and the running visits of a busy site need is tens of megabytes; the limit exists so
/// that the gateway can refuse before the machine runs out.
const MEMORY_MAX: &str = "1gb";

/// A `redis-server` that can do what we need.
#[derive(Debug)]
pub struct RedisServer(PathBuf);

/// Why there is no Redis to start.
#[derive(Debug, Error)]
pub enum RedisError {
    /// None on the PATH.
    #[error("there is no redis-server on this machine; {INSTALL}")]
    Missing,
    /// One that cannot be run.
    #[error("cannot run {}: {reason}; {INSTALL} anew", path.display())]
    Broken { path: PathBuf, reason: String },
    /// One that is too old.
    #[error("{} is version {found}; Tideline needs {}.{} or newer; {INSTALL} from a newer release", path.display(), VERSION_MIN.0, VERSION_MIN.1)]
    TooOld { path: PathBuf, found: String },
}

impl RedisServer {
    /// Looks for it on the PATH and asks its version.
    pub async fn find() -> Result<Self, RedisError> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&path).map(|folder| folder.join("redis-server")).find(|file| file.is_file());
        Self::check(found.ok_or(RedisError::Missing)?).await
    }

    async fn check(path: PathBuf) -> Result<Self, RedisError> {
        let broken = |reason: String| RedisError::Broken { path: path.clone(), reason };
        let asked = Command::new(&path).arg("--version").kill_on_drop(true).output();
        let answer = timeout(VERSION_WAIT, asked).await.map_err(|_| broken("it does not answer".to_owned()))?;
        let answer = answer.map_err(|error| broken(error.to_string()))?;
        let text = String::from_utf8_lossy(&answer.stdout).trim().to_owned();
        match version(&text) {
            None => Err(broken(format!("it does not say its version but {text:?}"))),
            Some((found, _)) if found < VERSION_MIN => {
                Err(RedisError::TooOld { found: format!("{}.{}", found.0, found.1), path })
            }
            Some(_) => Ok(Self(path)),
        }
    }

    /// Writes its configuration into the folder and says how to run it.
    pub fn spec(self, folder: &DataFolder) -> std::io::Result<Spec> {
        let configuration_file = folder.run("redis.conf");
        let socket = folder.redis_socket();
        std::fs::write(&configuration_file, configuration(&folder.root().join("redis"), &socket))?;
        Ok(Spec {
            role: "redis",
            program: self.0,
            arguments: vec![configuration_file.into_os_string()],
            log: folder.log("redis"),
            readiness: Readiness::Redis { socket },
        })
    }
}

/// The URL under which the roles reach it. Characters that mean something in a URL are percent-encoded.
pub fn url(socket: &Path) -> String {
    let mut url = "unix://".to_owned();
    for byte in socket.as_os_str().as_encoded_bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' | b'~' => url.push(char::from(*byte)),
            other => url.push_str(&format!("%{other:02X}")),
        }
    }
    url
}

/// `Redis server v=7.0.15 sha=…` → ((7, 0), "7.0.15").
fn version(text: &str) -> Option<((u32, u32), &str)> {
    let text = text.split_whitespace().find_map(|word| word.strip_prefix("v="))?;
    let mut numbers = text.split('.').map(str::parse);
    Some(((numbers.next()?.ok()?, numbers.next()?.ok()?), text))
}

fn configuration(dir: &Path, socket: &Path) -> String {
    let (dir, socket) = (quoted(dir), quoted(socket));
    format!(
        "# Written by `tideline up` at every start.\n\
         port 0\n\
         unixsocket {socket}\n\
         unixsocketperm 700\n\
         daemonize no\n\
         dir {dir}\n\
         # An acknowledged event must survive this process: every write is on disk before it is answered.\n\
         appendonly yes\n\
         appendfsync always\n\
         save \"\"\n\
         # Counters are not a cache.\n\
         maxmemory {MEMORY_MAX}\n\
         maxmemory-policy noeviction\n"
    )
}

/// A path as an argument in Redis's configuration.
fn quoted(path: &Path) -> String {
    let mut text = "\"".to_owned();
    for character in path.to_string_lossy().chars() {
        match character {
            '"' | '\\' => text.extend(['\\', character]),
            '\n' => text.push_str("\\n"),
            other => text.push(other),
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests;
