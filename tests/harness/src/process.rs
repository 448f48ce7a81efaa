//! One program that a test starts, kills and starts again.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

const POLL: Duration = Duration::from_millis(20);

/// A program with its arguments and its log; runs at most once at a time, and ends when it is dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    program: PathBuf,
    arguments: Vec<OsString>,
    log: PathBuf,
    child: Option<Child>,
}

impl Process {
    /// Not started yet. What it says is appended to `log`.
    pub fn new(name: &str, program: impl Into<PathBuf>, arguments: Vec<OsString>, log: PathBuf) -> Self {
        Self { name: name.to_owned(), program: program.into(), arguments, log, child: None }
    }

    /// What it is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Starts it. It must not be running.
    pub fn start(&mut self) {
        self.start_under(&[]);
    }

    /// Starts it as the argument of another program, such as strace, that ends up in its place.
    pub fn start_under(&mut self, wrapper: &[OsString]) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let log = OpenOptions::new().create(true).append(true).open(&self.log).unwrap();
        let mut words = wrapper.to_vec();
        words.push(self.program.clone().into_os_string());
        words.extend(self.arguments.iter().cloned());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        // Its limits are the tests' own: colours in a log are noise, a filter of the environment would hide what is asserted.
        command.env("NO_COLOR", "1").env_remove("RUST_LOG");
        die_with_parent(&mut command);
        self.child = Some(command.spawn().unwrap_or_else(|error| panic!("cannot start {}: {error}", self.name)));
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        Pid::from_child(self.child.as_ref().unwrap_or_else(|| panic!("{} does not run", self.name)))
    }

    /// Whether it lives.
    pub fn runs(&mut self) -> bool {
        self.child.is_some() && self.ended().is_none()
    }

    /// As [`Process::runs`], for who may only look: what has ended is left to be waited for.
    pub fn lives(&self) -> bool {
        let only_look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let ended = |child| rustix::process::waitid(WaitId::Pid(Pid::from_child(child)), only_look).unwrap();
        self.child.as_ref().is_some_and(|child| ended(child).is_none())
    }

    /// Whether another program, such as strace, watches it.
    pub fn is_traced(&self) -> bool {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.pid().as_raw_nonzero())).unwrap_or_default();
        status.lines().any(|line| line.strip_prefix("TracerPid:").is_some_and(|tracer| tracer.trim() != "0"))
    }

    /// How it ended, if it was started and has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().unwrap()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        rustix::process::kill_process(self.pid(), signal).unwrap();
    }

    /// kill -9, and waits until it is gone. Nothing if it has ended by itself.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            child.wait().unwrap();
        }
    }

    /// Waits until it ends by itself and says how.
    pub async fn end_by_itself(&mut self, within: Duration) -> ExitStatus {
        let asked = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                self.child = None;
                return status;
            }
            assert!(asked.elapsed() < within, "{} goes on after {within:?}\n{}", self.name, self.last_words(30));
            tokio::time::sleep(POLL).await;
        }
    }

    /// SIGTERM, and waits until it has drained.
    pub async fn stop(&mut self, within: Duration) -> ExitStatus {
        self.signal(Signal::TERM);
        self.end_by_itself(within).await
    }

    /// Everything it ever said.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The last lines it said.
    pub fn last_words(&self, lines: usize) -> String {
        let text = self.said();
        let lines: Vec<_> = text.lines().rev().take(lines).collect();
        lines.into_iter().rev().fold(format!("--- {}\n", self.name), |text, line| text + line + "\n")
    }

    /// The first error it logged, or panic, as an error.
    pub fn said_no_error(&self) -> Result<(), String> {
        let said = self.said();
        match errors(&said).next() {
            Some(line) => Err(format!("{} logged an error: {line}\n{}", self.name, self.last_words(30))),
            None => Ok(()),
        }
    }

    /// Waits until its log has this text behind byte `since`.
    pub async fn until_it_says(&self, text: &str, since: usize, within: Duration) {
        self.until_it_says_one_of(&[text], since, within).await;
    }

    /// As [`Process::until_it_says`], for any of these texts.
    pub async fn until_it_says_one_of(&self, texts: &[&str], since: usize, within: Duration) {
        let asked = Instant::now();
        let says = |text: &&str| self.said().get(since..).is_some_and(|said| said.contains(*text));
        while !texts.iter().any(says) {
            assert!(asked.elapsed() < within, "{} did not say {texts:?}\n{}", self.name, self.last_words(30));
            tokio::time::sleep(POLL).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The program `tideline`: `$TIDELINE`, or the one that was built beside this program.
pub fn tideline() -> PathBuf {
    if let Some(path) = std::env::var_os("TIDELINE") {
        return path.into();
    }
    let own = std::env::current_exe().unwrap();
    let beside = |folder: &Path| folder.join("tideline");
    // A test lies one folder deeper, in `deps`.
    let found = own.ancestors().skip(1).take(2).map(beside).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("no program `tideline` beside {}: build it, or set TIDELINE", own.display()))
}

/// A port that is free now and that the kernel gives to no outgoing connection, so that it is still free after a restart. No two
/// callers of this process get the same: what it is for may be started, or started again, much later.
pub fn free_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let port = rand::random_range(12_000..32_000);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() && GIVEN.lock().unwrap().insert(port) {
            return port;
        }
    }
}

/// However a test ends, its processes end with it.
fn die_with_parent(command: &mut Command) {
    let bind_to_parent = || Ok(rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?);
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; this is one system call.
    unsafe { command.pre_exec(bind_to_parent) };
}

/// The lines of a role's log at level error, and panics.
pub fn errors(log: &str) -> impl Iterator<Item = &str> {
    log.lines().filter(|line| line.split_whitespace().nth(1) == Some("ERROR") || line.contains("panicked"))
}

#[cfg(test)]
mod tests {
    use super::errors;

    #[test]
    fn errors_and_panics_are_found_in_a_log_and_nothing_else() {
        let log = "2026-11-29T08:54:32.769529Z  INFO gateway: what an ERROR would be\n\
                   2026-11-29T08:54:33.769529Z ERROR gateway: the log cannot be trimmed\n\
                   thread 'core-0' panicked at gateway/src/door.rs:1:1:\n";
        assert_eq!(errors(log).collect::<Vec<_>>(), log.lines().skip(1).collect::<Vec<_>>());
    }
}
