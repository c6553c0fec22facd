//! What nodes of a ring ask each other.
//!
//! | module | concept |
//! |---|---|
//! | `connections` | the ways to the other nodes |
//! | `fence` | refusing calls of nodes that go by another layout, or whose clock is wrong |
//! | `service` | answering |

mod connections;
mod fence;
mod service;

/// Generated from `proto/allidb/peer/v1/peer.proto`.
#[expect(clippy::all, clippy::pedantic, unreachable_pub, reason = "generated")]
pub(crate) mod proto {
    tonic::include_proto!("allidb.peer.v1");
}

pub(crate) use connections::Connections;
pub use connections::{Connector, endpoint, plaintext};
pub(crate) use fence::Fence;
pub(crate) use service::{PeerService, Served};
