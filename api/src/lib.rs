//! The gRPC contract `allidb.v1` and the services that keep it.

/// The generated messages, clients and servers of `allidb.v1`.
#[allow(missing_docs, clippy::all, unreachable_pub, rust_2018_idioms, reason = "generated code")]
pub mod v1 {
    tonic::include_proto!("allidb.v1");
}

/// The descriptors of every proto file, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("allidb_descriptor");
