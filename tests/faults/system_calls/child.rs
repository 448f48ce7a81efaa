//! This test program once more, watched by strace.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

/// In the environment of a child: the folder that it works in.
const FOLDER: &str = "TIDELINE_TEST_CHILD";
/// Before each line of a child that is meant for its parent: the test runner says things as well.
const SAYS: &str = "> ";

/// The folder, in a process that was started to be killed.
pub fn folder_of_child() -> Option<PathBuf> {
    std::env::var_os(FOLDER).map(PathBuf::from)
}

/// To the parent, at once and in one write.
pub fn say(words: std::fmt::Arguments<'_>) {
    println!("{SAYS}{words}");
}

/// What of this output a child meant for its parent.
pub fn said(output: &str) -> impl Iterator<Item = &str> {
    output.lines().filter_map(|line| line.strip_prefix(SAYS))
}

/// The words that run one ignored test of this program.
pub fn words_for(test: &str) -> Vec<OsString> {
    let program = std::env::current_exe().unwrap().into_os_string();
    let test = format!("system_calls::{test}");
    let arguments = [test.as_str(), "--exact", "--ignored", "--nocapture", "--test-threads=2"].map(OsString::from);
    [vec![program], arguments.to_vec()].concat()
}

/// A command of these words for a child in this folder.
pub fn command(words: &[OsString], folder: &Path) -> Command {
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).env(FOLDER, folder).stdin(Stdio::null());
    command
}

/// What strace does at the nth call of one kind, in each thread for itself.
#[derive(Debug, Clone, Copy)]
pub enum Injected {
    /// kill -9, before the call does anything.
    Kill,
    /// The call does nothing and says that the disk is broken.
    InputOutputError,
}

/// A kind of system call, under the names that it has on different machines: as strace is told.
#[derive(Debug, Clone, Copy)]
pub struct Call(pub &'static str);

impl Call {
    /// What is done at the nth call, and which others are written down, into `trace`.
    pub fn strace(self, injected: Injected, nth: u32, others: &str, trace: &Path) -> Vec<OsString> {
        let Self(call) = self;
        let what = match injected {
            Injected::Kill => "signal=SIGKILL",
            Injected::InputOutputError => "error=EIO",
        };
        // -y: the files behind descriptors. Not with --seccomp-bpf, under which strace 6.1 injects at the first call or never.
        let mut words: Vec<OsString> = ["strace", "-f", "-q", "-y", "-o"].map(Into::into).into();
        words.push(trace.into());
        words.extend(["-e".into(), format!("trace={call}{others}").into()]);
        words.extend(["-e".into(), format!("inject={call}:{what}:when={nth}").into()]);
        words
    }
}

/// A child that has ended.
#[derive(Debug)]
pub struct Ended {
    status: ExitStatus,
    /// Everything it said.
    pub output: String,
    /// Its calls as strace wrote them.
    pub trace: String,
}

impl Ended {
    /// Runs a test of this program under strace to its end, whichever that is.
    pub fn run(test: &str, folder: &Path, mut strace: Vec<OsString>, trace: &Path) -> Self {
        strace.extend(words_for(test));
        let output = command(&strace, folder).output().expect("strace is there and can be started");
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        Self::new(output.status, text, trace)
    }

    /// Of a child that was watched otherwise.
    pub fn new(status: ExitStatus, output: String, trace: &Path) -> Self {
        Self { status, output, trace: std::fs::read_to_string(trace).unwrap_or_default() }
    }

    /// Killed by signal 9, or at its end without a complaint. Anything else (a panic, a refusal, strace that cannot watch) fails.
    pub fn was_killed(&self) -> bool {
        assert!(self.status.signal() == Some(9) || self.status.success(), "{self:#?}");
        !self.status.success()
    }

    /// Whether the call that was not to return was one on this folder.
    pub fn died_in(&self, folder: &Path) -> bool {
        let folder = folder.to_str().unwrap();
        let never_returned = |line: &&str| line.ends_with("= ?") || line.contains("<unfinished ...>");
        self.trace.lines().filter(never_returned).any(|line| line.contains(folder))
    }
}
