//! Real processes under faults: killed, stopped, starved and cut off, each alone, while pages send. What was acknowledged is
//! counted once.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod kill;
