//! A gateway: where an event enters the region. Its way, file by file:
//!
//! [`listen`] takes the connection (one runtime a core), with [`tls`] or without; [`quic`] hands those of HTTP/3 to it
//! ([`http3`]). [`address`] says whose it is, [`crowd`] whether they have too many already, [`overload`]
//! whether newcomers are let in at all, [`idle`] whether it is used. [`waf`]
//! turns away what a rule blocks, [`routes`] leads any other request to [`websocket`], [`webtransport`] or [`grpc`] for a
//! [`session`], and to [`post`] or [`grpc`] for one batch ([`unary`]). [`door`] is what the cores share, and a transmission's way
//! in: [`capacity`] and [`throttle`] may ask it to come later, [`ingest`] turns a transmission into a record: [`sites`] admits,
//! [`validate`] decodes and judges, [`source`], [`user_agent`], [`data_centres`], [`geo`] and [`visitor`] resolve what the bytes
//! do not say, [`cardinality`] bounds how many things they name. [`log`]
//! makes the record durable, [`apply`] counts it in the regional Redis, [`answer`] tells the agent. Afterwards: [`outcomes`] keeps
//! what Redis decided, [`delivery`] how far each record has come, [`raw`] ships it over
//! the [`uplink`], [`trim`] forgets it.

pub mod address;
pub mod admin;
pub mod agent_files;
pub mod answer;
pub mod apply;
pub mod bots;
pub mod capacity;
pub mod cardinality;
pub mod clock;
pub mod config;
pub mod controls;
pub mod crowd;
pub mod data_centres;
pub mod delivery;
pub mod door;
pub mod folder;
pub mod geo;
pub mod grpc;
pub mod http3;
pub mod idle;
pub mod in_flight;
pub mod ingest;
pub mod listen;
pub mod log;
pub mod metrics;
pub mod networks;
pub mod outcomes;
pub mod overload;
pub mod post;
pub mod processes;
pub mod proxy_protocol;
pub mod quic;
pub mod raw;
pub mod routes;
mod service;
pub mod session;
pub mod sites;
pub mod source;
pub mod throttle;
pub mod tls;
pub mod trim;
pub mod unary;
pub mod uplink;
pub mod user_agent;
pub mod validate;
pub mod visitor;
pub mod waf;
pub mod watched_file;
pub mod websocket;
pub mod webtransport;

pub use config::{Config, Limits};
pub use service::{Error, run};
