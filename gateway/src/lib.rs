//! A gateway: where an event enters the region. Its way, folder by folder:
//!
//! 1. [`transports`]: connections and requests, by WebSocket, WebTransport, gRPC and POST, become frames.
//! 2. [`door`]: who may come in, and how fast.
//! 3. [`ingest`]: a transmission becomes a record.
//! 4. [`delivery`]: the record is logged, counted, acknowledged, shipped and forgotten.
//!
//! Beside them: [`config`] (what an operator sets; [`watched_file`]: and changes), [`metrics`] and [`admin`] (what an operator sees), [`clock`];
//! [`controls`] leaves a rule out for the simulation.

pub mod admin;
pub mod clock;
pub mod config;
pub mod controls;
pub mod delivery;
pub mod door;
pub mod ingest;
pub mod metrics;
mod service;
pub mod transports;
pub mod watched_file;

pub use config::{Config, Limits};
pub use service::{Error, run};
