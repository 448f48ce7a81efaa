//! What is thrown at everything that reads bytes from outside. A target is a function of bytes that panics where a law is broken.
//!
//! In the order in which bytes come in: [`proxy_header`] (whose connection it is), [`waf_rules`] (what the
//! operator turns away), [`frame`] and [`batch`] (what an agent sent),
//! [`log_record`] (what a disk gives back); [`wire`] are the primitives of both ends, [`agent_frames`] is the other end.
//!
//! `make fuzz` runs them under libFuzzer. `gateway/tests/fuzz_corpora.rs` includes this file and runs them over what is committed in
//! `corpus/`, so that what was found once is looked for in every test run. A new target is a module here, three lines in `fuzz_targets/`,
//! a `[[bin]]` in Cargo.toml, a folder in `corpus/` and a line in [`TARGETS`].

pub mod agent_frames;
pub mod batch;
pub mod frame;
pub mod log_record;
pub mod proxy_header;
pub mod waf_rules;
pub mod wire;

/// A target.
pub type Run = fn(&[u8]);

/// Every target and the name of its folder.
pub const TARGETS: [(&str, Run); 7] = [
    ("agent_frames", agent_frames::run),
    ("batch", batch::run),
    ("frame", frame::run),
    ("log_record", log_record::run),
    ("proxy_header", proxy_header::run),
    ("waf_rules", waf_rules::run),
    ("wire", wire::run),
];
