//! The regional Redis, between the gateways and the aggregator: a state machine that stores its input position together
//! with its state.
//!
//! A gateway's [`apply::Call`] (many batches, merged) moves `functions.lua` one step: bits against repeats, visits, counters.
//! The aggregator's [`Link::cut`] closes the open bucket, [`bucket::read`] turns it into rows, [`Link::settle`] removes it.
//! [`Link::barrier`] makes sure that Redis will not forget; a Redis that forgot all the same is [rebuilt](rebuild).

pub mod apply;
pub mod bucket;
pub mod connect;
pub mod counter;
pub mod durable;
pub mod lead;
pub mod link;
pub mod live;
pub mod outcome;
mod pack;
pub mod rebuild;
pub mod register;
mod reply;
mod time;
pub mod visit;

pub use connect::{Connect, Connection, Server};
pub use durable::Memory;
pub use lead::{Approval, Approved, Cut, Position, Sign};
pub use link::{FUNCTIONS, Link, LinkError};
pub use register::{Rebuilding, Registered, Reported};

use std::fmt;

/// A shard's number; every key of a shard is in one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Shard(pub u32);

impl Shard {
    fn key(self, name: &str) -> String {
        format!("{{{}}}:{name}", self.0)
    }
}

/// Position in one gateway's log of one shard: 1, 2, …; 0 is before the first record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lsn(pub u64);

impl Lsn {
    /// The position after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
