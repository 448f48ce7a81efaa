//! The functions in a real Redis: each rule of the delivery protocol that Redis decides.
#![allow(clippy::unwrap_used)] // a test that meets an error ends

mod apply;
mod bench;
mod buckets;
mod durable;
mod large;
mod leaders;
mod outcomes;
mod rebuild;
#[allow(dead_code, reason = "shared with the tests of the aggregator, which use all of it")]
mod redis_process;
mod visits;
mod waitaof;
mod watermarks;
