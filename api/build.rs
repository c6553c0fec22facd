//! Compiles the protobuf contract without a system `protoc`: protox is a protobuf
//! compiler in Rust and brings the well-known types along.

use std::{env, fs, path::PathBuf};

use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let services = [
        "cluster",
        "collections",
        "entities",
        "graph",
        "keys",
        "maintenance",
        "quotas",
        "search",
        "snapshots",
    ];
    let files = services.map(|service| format!("allidb/v1/{service}.proto"));
    let descriptors = protox::compile(files, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("allidb_descriptor.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".allidb.v1")
        .btree_map(".allidb.v1")
        .extern_path(".google.rpc.Status", "::tonic_types::Status")
        .compile_fds(descriptors)?;
    Ok(())
}
