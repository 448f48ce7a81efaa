//! Generates the messages from `schema/` with a protobuf compiler written in Rust, so that no `protoc` is needed.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=schema");
    if std::env::var_os("CARGO_FEATURE_NATIVE").is_none() {
        return Ok(()); // without std only the primitives in `wire` are built
    }
    let files = protox::compile(["agent.proto", "uplink.proto", "record.proto"], ["schema"])?;
    tonic_prost_build::configure().compile_fds(files)?;
    Ok(())
}
