//! What nodes of a ring ask each other.
//!
//! | module | concept |
//! |---|---|
//! | `connections` | the ways to the other nodes |
//! | `giving` | a copy of what lies here, for another node |
//! | `fence` | refusing calls of nodes that go by another layout, or whose clock is wrong |
//! | `question` | what a node is asked about much of what it holds |
//! | `security` | who may be a node |
//! | `served` | what a node answers with, and asks with |
//! | `service` | answering |

mod connections;
mod fence;
mod giving;
pub(crate) mod question;
mod security;
mod served;
mod service;

/// Generated from `proto/allidb/peer/v1/peer.proto`.
#[expect(clippy::all, clippy::pedantic, unreachable_pub, reason = "generated")]
pub(crate) mod proto {
    tonic::include_proto!("allidb.peer.v1");
}

pub(crate) use connections::Connections;
pub use connections::{Connector, NodeCalls, endpoint, plaintext};
pub(crate) use fence::{Fence, MAX_DRIFT_MS};
pub(crate) use giving::{Giving, PIECE_BYTES};
pub use security::PeerTls;
pub(crate) use security::{connector, incoming, with_causes};
pub(crate) use served::{Local, Served};
pub(crate) use service::{PeerService, outcome};

/// What asks a node.
pub(crate) type Client = proto::peer_client::PeerClient<crate::trace::Traced>;
