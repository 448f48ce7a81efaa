//! The aggregator: it leads one shard's regional Redis and forwards what was counted there to central.
//!
//! The way of a flush: [`lead`] says hello to central, unless another aggregator leads ([`standby`]), compares Redis with it
//! ([`compare`]) and approves Redis, so that gateways may count. A Redis that is behind is emptied and rebuilt first
//! ([`rebuild`]). From then on, every ten seconds, [`cut`] closes the open bucket, raises the [`barrier`], tells
//! central what is durable, reads the bucket, sends it in chunks ([`flush`]) over the stream ([`uplink`]), waits for the
//! acknowledgement and settles it. [`live`] sends the figures of what is not flushed yet over the same stream.
//!
//! Every step may be repeated: a flush has the same number and the same bytes until it is settled. So whatever breaks,
//! the next leadership starts over from the comparison and goes on with the flush that it finds.

mod barrier;
mod compare;
mod config;
mod cut;
mod flush;
mod lead;
mod live;
mod memory;
mod metrics;
mod rebuild;
mod service;
mod standby;
mod uplink;

pub use config::Config;
pub use lead::{Interrupted, Leader};
pub use metrics::Metrics;
pub use service::{Error, Readiness, run};
pub use uplink::{Central, UplinkError};
