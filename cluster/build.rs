//! Compiles what nodes say to each other, without a system `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(["allidb/peer/v1/peer.proto"], ["proto"])?;
    tonic_prost_build::configure().bytes(".allidb.peer.v1").compile_fds(descriptors)?;
    Ok(())
}
