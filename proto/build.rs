//! Generates the messages from `schema/` with a protobuf compiler written in Rust, so that no `protoc` is needed. Without
//! std only the primitives in `wire` are built, and neither compiler nor schema is.

#[cfg(feature = "native")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=schema");
    // Without the generated `connect`, whose name a call of the agent has: whoever dials brings a channel ([`dial`](src/dial.rs)).
    tonic_prost_build::configure()
        .build_transport(false)
        .skip_debug(["tideline.agent.v1.Hello", "tideline.agent.v1.Envelope"]) // they carry a key: src/redacted.rs
        .compile_fds(protox::compile(["agent.proto", "uplink.proto"], ["schema"])?)?;
    // A record holds messages of the uplink: named by the path they have in this crate.
    let mut record = protox::compile(["record.proto"], ["schema"])?;
    record.file.retain(|file| file.name() == "record.proto");
    tonic_prost_build::configure().extern_path(".tideline.uplink.v1", "crate::uplink").compile_fds(record)?;
    Ok(())
}

#[cfg(not(feature = "native"))]
fn main() {
    println!("cargo::rerun-if-changed=build.rs");
}
