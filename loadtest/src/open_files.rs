//! Room for a connection an agent.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files that a run needs besides its agents' connections: output, queries, the runtime's own.
const OTHER_FILES: u64 = 200;

/// The operating system does not allow so many connections.
#[derive(Debug, thiserror::Error)]
#[error(
    "{agents} agents need {needed} open files, but this process may have {allowed}: raise `ulimit -Hn` or run fewer"
)]
pub struct TooFewFiles {
    agents: u32,
    needed: u64,
    allowed: u64,
}

/// Raises the soft limit of open files to the hard one, which is all a process may do, and says if that is not enough.
pub fn allow(agents: u32) -> Result<(), TooFewFiles> {
    let limit = getrlimit(Resource::Nofile);
    // Where this fails the limit stays what it was, and the check below speaks.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let needed = u64::from(agents) + OTHER_FILES;
    match getrlimit(Resource::Nofile).current {
        Some(allowed) if allowed < needed => Err(TooFewFiles { agents, needed, allowed }),
        _ => Ok(()),
    }
}
