//! A region of real processes, each with its own port and folder, so that a test can kill, stop, move or starve one alone.
//!
//! A [`region`] holds [`process`]es: a Redis, a central, an aggregator, gateways. A [`load`] of pages sends to its gateways
//! and keeps what each batch was; the [`audit`] asks central whether exactly that was counted. [`strace`] kills a process
//! at a system call, [`proxy`] stands between two processes; [`torture`] does it all for hours,
//! [`attack`] lets strangers in.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

pub mod attack;
pub mod audit;
pub mod files;
pub mod load;
pub mod page;
pub mod process;
pub mod proxy;
pub mod quic;
pub mod region;
pub mod small_disk;
pub mod strace;
pub mod tls;
pub mod torture;
pub mod webtransport;

/// The site of every test.
pub const SITE: &str = "shop";
/// Its origin.
pub const ORIGIN: &str = "https://shop.example";
