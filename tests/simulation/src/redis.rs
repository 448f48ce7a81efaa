//! A Redis in memory: the functions run in the same Lua, over the same commands. `tests/equality.rs` holds it against a real one.

mod connection;
mod packed;
mod script;
mod store;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use connection::Server;
pub use store::{Reply, Store};

use crate::rules::Kept;
use script::Library;

/// States since the last barrier that a crash may fall back to, at most.
const HISTORY_MAX: usize = 64;

/// One Redis: its processes come and go, its data stay as long as its disk does.
pub struct Redis {
    store: Arc<Mutex<Store>>,
    library: Option<Library>,
    /// The library's text as it was loaded.
    text: String,
    /// Which process this is.
    run: u64,
    /// What the disk may hold after a crash: the state at the last barrier, and some of those since.
    history: Vec<Store>,
    rules: Kept,
}

impl Default for Redis {
    fn default() -> Self {
        Self {
            store: Arc::default(),
            library: None,
            text: String::new(),
            run: 1,
            history: vec![Store::default()],
            rules: Kept::default(),
        }
    }
}

impl Redis {
    /// An empty one that keeps these rules.
    pub fn new(rules: Kept) -> Self {
        Self { rules, ..Self::default() }
    }

    /// The process's name.
    pub fn run_id(&self) -> String {
        format!("{:040x}", if self.rules.holds("11-run") { self.run } else { 1 })
    }

    /// The number of the open flush.
    pub fn open_flush(&self) -> u64 {
        self.text("{0}:n").parse().unwrap_or(0)
    }

    /// A leader has compared this process with central, and no gateway is waited for.
    pub fn counts(&self) -> bool {
        let waits = self.store().execute(&[b"EXISTS".to_vec(), b"{0}:r".to_vec()]);
        matches!(waits, Reply::Int(0)) && self.text("{0}:e").ends_with(&self.run_id())
    }

    fn text(&self, key: &str) -> String {
        match self.store().execute(&[b"GET".to_vec(), key.into()]) {
            Reply::Bulk(text) => String::from_utf8_lossy(&text).into_owned(),
            _ => String::new(),
        }
    }

    /// Unix ms; keys expire by it.
    pub fn set_time(&mut self, now_ms: u64) {
        self.store().now_ms = now_ms;
    }

    /// Its data.
    pub fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// States that the disk may hold, the oldest first.
    pub fn history(&self) -> &[Store] {
        &self.history
    }

    /// The process ends, and another one begins with what the disk holds: `None` if the disk is lost.
    pub fn restart(&mut self, disk: Option<Store>) {
        let now_ms = self.store().now_ms;
        let mut disk = disk.unwrap_or_default();
        disk.now_ms = now_ms;
        if disk.is_empty() {
            self.library = None; // it is kept with the data
            self.text.clear();
        }
        self.history = vec![disk.clone()];
        *self.store() = disk;
        self.run += 1;
    }

    /// Everything answered so far is on disk.
    pub fn barrier(&mut self) {
        let now = self.store().clone();
        self.history = vec![now];
    }

    /// Runs one command.
    pub fn execute(&mut self, command: &[Vec<u8>]) -> Reply {
        let before = self.store().writes;
        let reply = self.run_command(command);
        if self.store().writes != before {
            let now = self.store().clone();
            if self.history.len() == HISTORY_MAX {
                self.history.remove(HISTORY_MAX / 2);
            }
            self.history.push(now);
        }
        reply
    }

    fn run_command(&mut self, command: &[Vec<u8>]) -> Reply {
        let words: Vec<String> =
            command.iter().take(2).map(|word| String::from_utf8_lossy(word).to_ascii_uppercase()).collect();
        match (words.first().map_or("", String::as_str), command) {
            ("PING", _) => Reply::Status("PONG"),
            ("INFO", _) => Reply::Bulk(
                format!(
                    "run_id:{}\r\nredis_version:7.2.0\r\nrole:master\r\nused_memory:1\r\nmaxmemory:0\r\n",
                    self.run_id()
                )
                .into_bytes(),
            ),
            ("CONFIG", [_, _, name]) => {
                let value: &[u8] = match name.as_slice() {
                    b"appendonly" => b"yes",
                    b"no-appendfsync-on-rewrite" => b"no",
                    b"maxmemory-policy" => b"noeviction",
                    b"appendfsync" => b"everysec",
                    _ => return Reply::Array(Vec::new()),
                };
                Reply::Array(vec![Reply::Bulk(name.clone()), Reply::Bulk(value.to_vec())])
            }
            ("WAITAOF", _) => {
                if self.rules.holds("6-barrier") {
                    self.barrier();
                }
                Reply::Array(vec![Reply::Int(1), Reply::Int(0)])
            }
            ("FUNCTION", [_, _, given @ ..]) => match (words[1].as_str(), given) {
                ("LOAD", [.., text]) => self.load(&String::from_utf8_lossy(text)),
                _ => Reply::Array(vec![Reply::Bulk(self.text.clone().into_bytes())]),
            },
            ("FCALL", [_, name, keys, rest @ ..]) => {
                let keys = String::from_utf8_lossy(keys).parse().unwrap_or(0).min(rest.len());
                let (keys, arguments) = rest.split_at(keys);
                match &self.library {
                    Some(library) => library.call(&String::from_utf8_lossy(name), keys, arguments),
                    None => store::error("ERR Function not found"),
                }
            }
            _ => self.store().execute(command),
        }
    }

    fn load(&mut self, text: &str) -> Reply {
        let mut patched = text.to_owned();
        for (from, to) in self.rules.patches() {
            assert!(patched.contains(from), "the functions have no {from:?} any more: write the patch anew");
            patched = patched.replace(from, to);
        }
        match Library::load(&patched, &self.store) {
            Ok(library) => {
                self.library = Some(library);
                self.text = text.to_owned();
                Reply::Bulk(b"tideline".to_vec())
            }
            Err(error) => Reply::Error(format!("ERR {error}")),
        }
    }
}
