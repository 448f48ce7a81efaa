//! kill -9 at an exact system call.

use std::ffi::OsString;
use std::path::Path;

/// A place at which a process dies: its nth call of `call` in one of its threads, before the call does anything.
#[derive(Debug, Clone, Copy)]
pub struct Death {
    /// The system call's name.
    pub call: &'static str,
    /// Which call of it, from 1. Every thread counts for itself.
    pub nth: u32,
}

impl Death {
    /// What a program is started under ([`Process::start_under`](crate::process::Process::start_under)). With `path` only calls
    /// on that file count.
    pub fn wrapper(self, path: Option<&Path>) -> Vec<OsString> {
        let Self { call, nth } = self;
        // -D: the program keeps the process id, strace watches from beside it. Not with --seccomp-bpf, under which strace 6.1
        // injects at the first call or never.
        let mut words: Vec<OsString> = ["strace", "-D", "-f", "-qq", "-o", "/dev/null"].map(Into::into).into();
        words.extend(["-e".into(), format!("trace={call}").into()]);
        words.extend(["-e".into(), format!("inject={call}:signal=KILL:when={nth}").into()]);
        if let Some(path) = path {
            words.extend(["-P".into(), path.into()]);
        }
        words
    }
}
