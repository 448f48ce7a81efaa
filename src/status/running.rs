//! What runs in a data folder: the file `DIR/run/status.json`, written by `tideline up`, read by `tideline status`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tracing::error;

/// The file's name in the folder's `run`.
pub const FILE: &str = "status.json";

/// Everything that one `tideline up` runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Running {
    /// Where the demo shop is served, if it is.
    pub shop: Option<String>,
    /// In the order in which they were started.
    pub roles: Vec<RunningRole>,
}

/// A role, or Redis.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunningRole {
    pub role: String,
    /// None between a death and the next start.
    pub process: Option<ProcessId>,
    /// Where it serves: host and port, or the path of a Unix socket.
    pub address: String,
    /// Where `/ready` and `/metrics` are; Redis has none.
    pub admin: Option<SocketAddr>,
    /// How often it died and was started again.
    pub restarts: u32,
}

/// A process for certain: the kernel uses pids again, but not together with the time of their start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    pub pid: u32,
    /// In clock ticks since the machine started.
    started: u64,
}

impl ProcessId {
    /// The living process that has this pid now.
    pub fn of(pid: u32) -> Option<Self> {
        started(pid).map(|started| Self { pid, started })
    }

    /// Is it still this process, and no zombie?
    pub fn lives(self) -> bool {
        started(self.pid) == Some(self.started)
    }
}

/// The start of a living process, from `/proc/PID/stat`. Its second field is the program's name in parentheses, which
/// may hold anything, so the fields are counted from the last parenthesis.
fn started(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?;
    let start = fields.nth(18)?.parse().ok()?;
    (!matches!(state, "Z" | "X")).then_some(start)
}

/// The file and what it says; every change is on disk when the call returns.
#[derive(Debug)]
pub struct Board {
    path: PathBuf,
    running: Mutex<Running>,
}

impl Board {
    /// An empty board; a file of an earlier run is replaced with the first change.
    pub fn new(path: PathBuf) -> Self {
        Self { path, running: Mutex::default() }
    }

    /// Changes what runs. The file serves people and scripts, so that failing to write it stops nothing.
    pub fn change(&self, change: impl FnOnce(&mut Running)) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut running);
        if let Err(error) = write(&self.path, &running) {
            error!(path = %self.path.display(), %error, "cannot write the status file");
        }
    }

    /// Changes one role's entry, which its start has made.
    pub fn change_role(&self, role: &str, change: impl FnOnce(&mut RunningRole)) {
        self.change(|running| {
            if let Some(entry) = running.roles.iter_mut().find(|entry| entry.role == role) {
                change(entry);
            }
        });
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        // Nothing runs any more; a file left by a kill is told from a living one by its processes.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// What the folder's last `tideline up` wrote.
pub fn read(path: &Path) -> std::io::Result<Running> {
    Ok(serde_json::from_slice(&std::fs::read(path)?)?)
}

fn write(path: &Path, running: &Running) -> std::io::Result<()> {
    let new = path.with_extension("json.new");
    std::fs::write(&new, serde_json::to_vec_pretty(running)?)?;
    std::fs::rename(new, path)
}
