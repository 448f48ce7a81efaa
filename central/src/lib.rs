//! Central: receives what the regions counted, stores it, answers reports.
//!
//! The path of an event, by then a row of a flush: [`uplink`] assembles the chunks of a flush, compares epoch, term and
//! number with where the shard stands ([`control`]) and hands it to [`live`], which passes it on to the [`store`] and
//! moves it from the live figures to the flushed ones; the acknowledgement goes back once the store has it on disk. A
//! question comes in by [`http`], is answered by [`query`] from the store, or from the live figures alone.
//!
//! Around it: [`service`] starts and stops it all from a [`config`], in a locked data [`folder`]; [`secret`] is how keys
//! and tokens are compared; [`metrics`] is what central tells about itself.

pub mod config;
pub mod control;
pub mod folder;
pub mod http;
pub mod live;
pub mod metrics;
pub mod query;
pub mod secret;
pub mod service;
pub mod store;
pub mod uplink;

pub use config::Config;
pub use service::{Error, run};
