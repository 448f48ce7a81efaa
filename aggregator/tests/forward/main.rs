//! The aggregator against a real Redis and an uplink that does what central does, or fails in every way that central may.
#![allow(clippy::unwrap_used)] // a test that meets an error ends

mod bench;
mod central;
mod every_command;
mod flushes;
mod gateway;
mod interruptions;
mod leaders;
mod rebirth;
mod start_and_stop;

#[allow(dead_code, reason = "shared with the tests of regional-redis, which use all of it")]
#[path = "../../../regional-redis/tests/functions/redis_process.rs"]
mod redis_process;
