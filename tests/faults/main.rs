//! Real processes under faults: killed, stopped, starved and cut off, each alone, while pages send. What was acknowledged is
//! counted once.
//!
//! The processes are those of the program `tideline` beside the tests: `cargo test --workspace` builds it, `cargo test -p harness`
//! alone does not.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod damage;
mod disk;
mod kill;
mod network;
mod overload;
mod redis_lost;
mod refused;
mod system_calls;
mod two_gateways;
