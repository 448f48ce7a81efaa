//! The product's own code, from the agent's core to central's uplink, under one seed: virtual time, a network that loses and
//! delays, a Redis in memory that executes the real functions, disks that tear.
//!
//! [`redis`] is the region's Redis, [`network`] what lies between the processes.

pub mod agent;
pub mod central;
pub mod door;
pub mod entropy;
pub mod gateway;
pub mod network;
pub mod oracle;
pub mod redis;
pub mod rules;
pub mod run;
pub mod time;
