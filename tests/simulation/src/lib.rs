//! The product's own code, from the agent's core to central's uplink, under one seed: virtual time, a network that loses and
//! delays, a Redis in memory that executes the real functions, disks that forget.
//!
//! [`run`] is one run: it starts everything, breaks things, heals them and asks the [`oracle`]. An event's way: [`agent`]s on their
//! devices, the gateways' [`door`], a [`gateway`], the region's [`redis`], [`central`]. Around them: the [`network`], the [`disk`],
//! [`time`], and chance ([`entropy`]). [`rules`] are those of the protocol, each of which a run can leave out;
//! [`alone`] a run is the same every time.

pub mod agent;
pub mod alone;
pub mod central;
pub mod disk;
pub mod door;
pub mod entropy;
pub mod gateway;
pub mod network;
pub mod oracle;
pub mod redis;
pub mod rules;
pub mod run;
pub mod time;
