//! Compiles `proto/node.proto`, without protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/node.proto");
    let descriptors = protox::compile(["proto/node.proto"], ["proto"])?;
    // What holds secrets shows none of them: see `src/node.rs`.
    let secretive = ["EnrolRequest", "RelayServer", "Signal"].map(|name| format!(".switchd.node.v1.{name}"));
    tonic_prost_build::configure().skip_debug(secretive).compile_fds(descriptors)?;
    Ok(())
}
