//! One child process that is kept running: started, waited for until it is ready, started again whenever it dies, and
//! ended in good order.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use serde::Deserialize;
use thiserror::Error;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::ready::{self, Probe};
use crate::status::running::{Board, ProcessId, RunningRole};

/// Central checks and opens its database first, which is the slowest start there is: a few seconds.
const READY_WAIT: Duration = Duration::from_secs(60);
const READY_POLL: Duration = Duration::from_millis(30);
/// A gateway drains its connections, an aggregator its last cut: seconds.
const DRAIN_WAIT: Duration = Duration::from_secs(20);
const RESTART_DELAY_MIN: Duration = Duration::from_millis(200);
const RESTART_DELAY_MAX: Duration = Duration::from_secs(5);
/// A process that ran this long died of something new, and is started again without delay.
const HEALTHY_AFTER: Duration = Duration::from_secs(30);
/// A larger log is set aside before the next start, so that two of this size are the most that is kept.
const LOG_MAX_BYTES: u64 = 16 << 20;
const LOG_TAIL_BYTES: u64 = 4096;
const LOG_TAIL_LINES: usize = 5;

/// What to run, and how to see that it is ready.
#[derive(Clone, Debug)]
pub struct Spec {
    pub role: &'static str,
    pub program: PathBuf,
    pub arguments: Vec<OsString>,
    pub log: PathBuf,
    pub readiness: Readiness,
}

/// How a process shows that it is ready.
#[derive(Clone, Debug)]
pub enum Readiness {
    /// Redis answers on its socket.
    Redis { socket: PathBuf },
    /// A role writes its addresses here when it has bound them, then answers `GET /ready`.
    Role { address_file: PathBuf },
}

/// Where a process serves, as it says itself; Redis says nothing.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct Addresses {
    pub listen: Option<SocketAddr>,
    pub tls: Option<SocketAddr>,
    pub admin: Option<SocketAddr>,
    pub uplink: Option<SocketAddr>,
}

/// Why a process did not come up.
#[derive(Debug, Error)]
pub enum StartError {
    /// It could not even be started.
    #[error("cannot start {role} ({}): {source}", program.display())]
    Spawn { role: &'static str, program: PathBuf, source: std::io::Error },
    /// It ended before it was ready.
    #[error("{role} could not start ({status}): {reason} (its log: {})", log.display())]
    Ended { role: &'static str, status: ExitStatus, reason: String, log: PathBuf },
    /// It did not say that it is ready.
    #[error(
        "{role} was not ready within {} s; the last it said: {reason} (its log: {})", READY_WAIT.as_secs(), log.display()
    )]
    NotReady { role: &'static str, reason: String, log: PathBuf },
    /// The kernel does not say what became of it.
    #[error("cannot wait for {role}: {source}")]
    Wait { role: &'static str, source: std::io::Error },
}

/// A process that is kept running until it is drained.
#[derive(Debug)]
pub struct Kept {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Kept {
    /// Starts the process and returns when it is ready. Dropping the future kills it.
    pub async fn start(spec: Spec, probe: Probe, board: Arc<Board>) -> Result<(Self, Addresses), StartError> {
        let (mut child, log_start) = spec.spawn()?;
        let addresses = match timeout(READY_WAIT, spec.ready(&mut child, &probe, log_start)).await {
            Ok(ready) => ready?,
            Err(_) => {
                let reason = last_words(&spec.log, log_start);
                return Err(StartError::NotReady { role: spec.role, reason, log: spec.log });
            }
        };
        board.change(|running| running.roles.push(spec.entry(&child, addresses)));
        info!(role = spec.role, pid = child.id(), "role is ready");
        let stop = CancellationToken::new();
        let task = tokio::spawn(keep_running(spec, child, probe, board, stop.clone()));
        Ok((Self { stop, task }, addresses))
    }

    /// Ends the process: SIGTERM, time to drain, and SIGKILL if that was not enough.
    pub async fn drain(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            error!(%error, "the task that keeps a role running failed");
        }
    }
}

impl Spec {
    /// Starts the process and says where in its log this run begins.
    fn spawn(&self) -> Result<(Child, u64), StartError> {
        self.try_spawn().map_err(|source| StartError::Spawn { role: self.role, program: self.program.clone(), source })
    }

    fn try_spawn(&self) -> std::io::Result<(Child, u64)> {
        if let Readiness::Role { address_file } = &self.readiness {
            // What the last run wrote must not be taken for this one's.
            match std::fs::remove_file(address_file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        set_aside_if_large(&self.log)?;
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let log_start = log.metadata()?.len();
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // A group of its own: Ctrl-C in the terminal reaches `up` alone, which then drains in order.
        command.process_group(0).kill_on_drop(true);
        die_with_parent(&mut command);
        Ok((command.spawn()?, log_start))
    }

    /// Waits, without a limit of its own, until the process is ready or has ended.
    async fn ready(&self, child: &mut Child, probe: &Probe, log_start: u64) -> Result<Addresses, StartError> {
        loop {
            tokio::select! {
                status = child.wait() => {
                    let status = status.map_err(|source| StartError::Wait { role: self.role, source })?;
                    let reason = last_words(&self.log, log_start);
                    return Err(StartError::Ended { role: self.role, status, reason, log: self.log.clone() });
                }
                addresses = self.readiness.probe(probe) => match addresses {
                    Some(addresses) => return Ok(addresses),
                    None => sleep(READY_POLL).await,
                }
            }
        }
    }

    fn entry(&self, child: &Child, addresses: Addresses) -> RunningRole {
        let address = match &self.readiness {
            Readiness::Redis { socket } => socket.display().to_string(),
            Readiness::Role { .. } => {
                // An aggregator serves nobody; it is reached at its admin address only.
                let address = addresses.listen.or(addresses.admin);
                address.map(|address| address.to_string()).unwrap_or_default()
            }
        };
        let process = child.id().and_then(ProcessId::of);
        RunningRole { role: self.role.to_owned(), process, address, admin: addresses.admin, restarts: 0 }
    }
}

impl Readiness {
    async fn probe(&self, probe: &Probe) -> Option<Addresses> {
        match self {
            Self::Redis { socket } => ready::redis(socket).await.then(Addresses::default),
            Self::Role { address_file } => {
                let addresses: Addresses = serde_json::from_slice(&std::fs::read(address_file).ok()?).ok()?;
                probe.role(addresses.admin?).await.then_some(addresses)
            }
        }
    }
}

async fn keep_running(spec: Spec, mut child: Child, probe: Probe, board: Arc<Board>, stop: CancellationToken) {
    let mut deaths = 0;
    loop {
        let since = Instant::now();
        let status = tokio::select! {
            () = stop.cancelled() => return end(spec.role, child).await,
            status = child.wait() => status,
        };
        if since.elapsed() >= HEALTHY_AFTER {
            deaths = 0;
        }
        board.change_role(spec.role, |role| role.process = None);
        let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        warn!(role = spec.role, %status, log = %spec.log.display(), "role ended unexpectedly, starting it again");
        let Some((again, log_start)) = start_again(&spec, &mut deaths, &stop).await else { return };
        child = again;
        board.change_role(spec.role, |role| {
            role.process = child.id().and_then(ProcessId::of);
            role.restarts += 1;
        });
        tokio::select! {
            () = stop.cancelled() => {}
            ready = spec.ready(&mut child, &probe, log_start) => match ready {
                Ok(_) => info!(role = spec.role, pid = child.id(), "role is ready again"),
                Err(error) => error!(role = spec.role, %error, "role did not become ready again"),
            },
        }
    }
}

/// Starts the process after a delay that grows with every death in a row; none when it is to stop meanwhile.
async fn start_again(spec: &Spec, deaths: &mut u32, stop: &CancellationToken) -> Option<(Child, u64)> {
    loop {
        let delay = restart_delay(*deaths);
        *deaths += 1;
        tokio::select! {
            () = stop.cancelled() => return None,
            () = sleep(delay) => {}
        }
        match spec.spawn() {
            Ok(started) => return Some(started),
            Err(error) => error!(role = spec.role, %error, "cannot start the role again, trying on"),
        }
    }
}

fn restart_delay(deaths: u32) -> Duration {
    RESTART_DELAY_MIN.saturating_mul(1 << deaths.min(10)).min(RESTART_DELAY_MAX)
}

async fn end(role: &str, mut child: Child) {
    let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw) else { return };
    info!(role, "draining role");
    if let Err(error) = rustix::process::kill_process(pid, Signal::TERM) {
        warn!(role, %error, "cannot ask the role to stop");
    }
    match timeout(DRAIN_WAIT, child.wait()).await {
        Ok(Ok(status)) if status.success() => info!(role, "role stopped"),
        Ok(Ok(status)) => warn!(role, %status, "role stopped with an error"),
        Ok(Err(error)) => warn!(role, %error, "cannot wait for the role"),
        Err(_) => {
            warn!(role, waited_s = DRAIN_WAIT.as_secs(), "role did not stop in time, killing it");
            if let Err(error) = child.kill().await {
                warn!(role, %error, "cannot kill the role");
            }
        }
    }
}

/// However this process ends, its children end with it: a Redis or gateway left behind would hold the data folder and
/// the ports. Nothing is lost by the kill, since every role is made for it.
fn die_with_parent(command: &mut Command) {
    let parent = rustix::process::getpid();
    let bind_to_parent = move || {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have died before the line above.
        if rustix::process::getppid() == Some(parent) { Ok(()) } else { Err(rustix::io::Errno::SRCH.into()) }
    };
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; these are two system calls without
    // allocation or locks.
    unsafe { command.pre_exec(bind_to_parent) };
}

fn set_aside_if_large(log: &Path) -> std::io::Result<()> {
    match std::fs::metadata(log) {
        Ok(found) if found.len() > LOG_MAX_BYTES => std::fs::rename(log, log.with_extension("log.1")),
        _ => Ok(()),
    }
}

/// What a process said last: its error if there is one, otherwise a few lines.
fn last_words(log: &Path, from: u64) -> String {
    let text = read_end(log, from).unwrap_or_default();
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if let Some(error) = lines.iter().rev().find_map(|line| line.strip_prefix("error: ")) {
        return error.to_owned();
    }
    match lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join(" | ") {
        nothing if nothing.is_empty() => "it said nothing".to_owned(),
        words => words,
    }
}

fn read_end(log: &Path, from: u64) -> std::io::Result<String> {
    let mut file = std::fs::File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(from.max(length.saturating_sub(LOG_TAIL_BYTES))))?;
    let mut bytes = Vec::new();
    file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests;
