//! How bytes come and go. [`listen`] takes the connections, a runtime a core, with [`tls`] or without; [`quic`] has one socket for all
//! cores and hands theirs to them ([`http3`]); [`proxy_protocol`] reads whom a proxy speaks for, [`idle`] cuts who asks for nothing.
//! [`routes`] leads a request to [`websocket`], [`webtransport`] or [`grpc`] for a [`session`], to [`post`] or [`grpc`] for one batch
//! ([`unary`]), or to [`agent_files`]. What a frame means is the same on each of them.

use std::time::Duration;

pub mod agent_files;
pub mod grpc;
pub mod http3;
pub mod idle;
pub mod listen;
pub mod post;
pub mod proxy_protocol;
pub mod quic;
pub mod routes;
pub mod session;
pub mod tls;
pub mod unary;
pub mod websocket;
pub mod webtransport;

/// A client that takes nothing of an answer for so long is cut, on whatever protocol.
pub const WRITE_MAX: Duration = Duration::from_secs(10);
/// Of one request, and what HTTP/1 reads ahead.
pub const HEADER_BYTES_MAX: usize = 16 * 1024;
