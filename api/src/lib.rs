//! The gRPC contract `allidb.v1` and the services that keep it.
//!
//! | module | what it is |
//! |---|---|
//! | [`v1`] | the generated messages, clients and servers |
//! | `convert` | messages ⇄ the data model, with errors that name the field |
//! | [`status`] | every error as a `google.rpc.Status` with stable reasons |
//! | [`embedding`] | texts in place of vectors |
//! | `services` | one file for each service of the contract |
//! | `page_token`, `deadline` | what several services need of a request |
//! | [`access`] | who calls, and whether they may |
//! | [`layer`], [`metrics`], `arrival`, `body`, `oversize`, `rate`, `share`, `unread`, `weight` | around every call: span, metrics, bounds |
//! | `aside` | threads for answers that may be large |
//! | `codec` | messages off the wire, weighed before they are unpacked |
//! | [`rest`] | the contract as JSON, and for pages |
//! | `slow` | the log of slow queries |
//! | [`server`], [`http`] | the two listeners |
//!
//! Nothing here knows a row or an index: every call ends in [`allidb_cluster::Coordinator`].

pub mod access;
mod arrival;
mod aside;
mod body;
mod codec;
mod convert;
mod deadline;
pub mod embedding;
pub mod http;
pub mod layer;
pub mod metrics;
mod oversize;
mod page_token;
mod rate;
pub mod rest;
pub mod server;
mod services;
mod share;
mod slow;
pub mod status;
mod unread;
mod weight;

/// The generated messages, clients and servers of `allidb.v1`.
#[allow(missing_docs, clippy::all, unreachable_pub, rust_2018_idioms, reason = "generated code")]
pub mod v1 {
    tonic::include_proto!("allidb.v1");
}

/// The descriptors of every proto file, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("allidb_descriptor");
