//! Compiles the protobuf contract without a system `protoc`: protox is a protobuf
//! compiler in Rust and brings the well-known types along. What the contract says in comments goes into `openapi.json` and into the reference in
//! `docs/api.md`, and is not kept for reflection.

#[path = "build/openapi.rs"]
mod openapi;
#[path = "build/reference.rs"]
mod reference;
#[path = "src/rest/routes.rs"]
mod routes;
#[path = "build/shapes.rs"]
mod shapes;

use std::{env, fs, path::PathBuf};

use prost::Message;
use protox::prost_reflect::{DescriptorPool, prost_types::source_code_info::Location};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for path in ["proto", "build", "src/rest/routes.rs"] {
        println!("cargo:rerun-if-changed={path}");
    }
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
    let contract = DescriptorPool::from_file_descriptor_set(descriptors.clone())?;
    fs::write(out.join("openapi.json"), openapi::document(&contract)?.to_string())?;
    fs::write(out.join("shapes.rs"), shapes::table(&contract))?;
    fs::write(out.join("api.md"), reference::pages(&contract))?;
    let mut bare = descriptors.clone();
    for file in &mut bare.file {
        file.source_code_info = None;
    }
    fs::write(out.join("allidb_descriptor.bin"), bare.encode_to_vec())?;
    let mut config = tonic_prost_build::Config::new();
    config.enable_type_names();
    tonic_prost_build::configure()
        .codec_path("crate::codec::WeighingCodec")
        .bytes(".allidb.v1")
        .btree_map(".allidb.v1")
        .extern_path(".google.rpc.Status", "::tonic_types::Status")
        .compile_fds_with_config(descriptors, config)?;
    Ok(())
}

/// What the contract says of something: the comment before it, in one line.
fn comment(file: &protox::prost_reflect::FileDescriptor, path: &[i32]) -> String {
    let info = file.file_descriptor_proto().source_code_info.as_ref();
    let found = info.and_then(|info| info.location.iter().find(|location| location.path == path));
    let lines = found.map(Location::leading_comments).unwrap_or_default();
    lines.split_whitespace().collect::<Vec<_>>().join(" ")
}
