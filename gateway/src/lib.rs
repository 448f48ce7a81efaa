//! placeholder
pub mod address;
pub mod bots;
pub mod geo;
pub mod proxy_protocol;
pub mod source;
pub mod user_agent;
pub mod validate;
pub mod visitor;
