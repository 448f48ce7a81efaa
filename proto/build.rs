//! Generates the messages from `schema/` with a protobuf compiler written in Rust, so that no `protoc` is needed.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=schema");
    if std::env::var_os("CARGO_FEATURE_NATIVE").is_none() {
        return Ok(()); // without std only the primitives in `wire` are built
    }
    tonic_prost_build::configure().compile_fds(protox::compile(["agent.proto", "uplink.proto"], ["schema"])?)?;
    // A record holds messages of the uplink: named by the path they have in this crate.
    let mut record = protox::compile(["record.proto"], ["schema"])?;
    record.file.retain(|file| file.name() == "record.proto");
    tonic_prost_build::configure().extern_path(".tideline.uplink.v1", "crate::uplink").compile_fds(record)?;
    Ok(())
}
