//! The aggregator: it leads one shard's regional Redis and forwards what was counted there to central.
//!
//! The way of a flush: [`lead`] says hello to central, compares Redis with it ([`compare`]) and approves Redis, so that
//! gateways may count. From then on, every ten seconds, [`cut`] closes the open bucket, raises the [`barrier`], tells
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
mod metrics;
mod service;
mod uplink;

pub use config::Config;
pub use service::{Error, run};
