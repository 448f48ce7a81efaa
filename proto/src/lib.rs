//! The wire contract, in the order in which an event passes it: `agent` (page to gateway), `record` (the gateway's log),
//! `uplink` (region to central). `schema/` holds the source of all three; `origin` says what an origin of a site may be.
//!
//! Without the feature `native` the crate is `no_std` and holds [`limits`], [`sid`] and [`wire`] alone: what the agent's
//! core is built on.
#![cfg_attr(not(any(feature = "native", test)), no_std)]

#[cfg(feature = "native")]
pub mod dial;
pub mod limits;
#[cfg(feature = "native")]
pub mod origin;
#[cfg(feature = "native")]
mod redacted;
pub mod sid;
pub mod wire;

/// Page and gateway.
#[cfg(feature = "native")]
#[allow(missing_docs, clippy::all)]
pub mod agent {
    tonic::include_proto!("tideline.agent.v1");
}

/// The gateway's log.
#[cfg(feature = "native")]
#[allow(missing_docs, clippy::all)]
pub mod record {
    tonic::include_proto!("tideline.record.v1");
}

/// Region and central.
#[cfg(feature = "native")]
#[allow(missing_docs, clippy::all)]
pub mod uplink {
    tonic::include_proto!("tideline.uplink.v1");
}

#[cfg(feature = "native")]
pub use prost::Message;
