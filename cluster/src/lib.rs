//! The ring: which node holds what, and the coordinator through which every read and write goes.
//!
//! | module | what it holds |
//! |---|---|
//! | `asker` | for whom something is done |
//! | `connection` | connections that others open: certificates, handshakes |
//! | [`coordinator`](Coordinator) | plans a request, finds its partitions' replicas, and runs it there |
//! | `formats` | which formats are written |
//! | `founding` | how the first members of a ring come to one layout |
//! | [`layout`](Layout) | which nodes hold each partition |
//! | `maintenance` | compaction and scrub that an operator asks for |
//! | `member` | a node's life in a ring |
//! | `membership` | who is there: gossip |
//! | `pace` | what is done now and then at most |
//! | `peer` | what nodes ask each other |
//! | `pool` | bounded threads for the replica's blocking work, shared by turns |
//! | [`ring`](Ring) | reads and writes at several replicas: quorums, read repair, hints |
//! | `snapshot` | all that a ring holds, kept elsewhere |
//! | [`trace`](TraceParent) | which trace a call belongs to, from node to node |
//!
//! One node is a ring of one, and answers for all replicas: what others would have to be asked is looked up at once.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing))]

mod asker;
mod connection;
mod coordinator;
mod formats;
mod founding;
mod layout;
mod maintenance;
mod member;
mod membership;
mod pace;
mod peer;
mod pool;
mod ring;
mod snapshot;
mod trace;

pub use allidb_index::{
    Deadline, PARTITIONS, ScanPage, ScanRequest, SourceDeletion, TextCounts, VectorCounts, graph::GraphCounts,
};
pub use allidb_storage::{Damage, ScrubOptions};
pub use asker::{Asker, OnBehalf};
pub use connection::{
    Caller, Calls, CertificateError, CertificateFiles, Certificates, Connection, Incoming, Protocol,
    Security, Shown, UnderWay, network,
};
pub use coordinator::{
    Config, Consistency, Coordinator, Counts, FacetsRequest, Move, NodeChange, Tenant, WriteOptions, moves,
};
pub use formats::FORMATS;
pub use layout::{
    DamagedLayout, Layout, LayoutError, MAX_REPLICATION, Member, NodeId, Phase, Staged, Topology,
    TopologyError,
};
pub use maintenance::{CompactProgress, Job, PurgeProgress, RepairProgress, ScrubProgress};
pub use member::MemberOptions;
pub use membership::{GossipCounts, Load, NodeView};
pub use pace::Pace;
pub use peer::{Connector, NodeCalls, PeerTls, endpoint, plaintext};
#[cfg(feature = "wrong")]
pub use ring::Wrong;
pub use ring::{
    Change, ClockOffset, HealingCounts, HintCounts, HintLimits, OutboxCounts, PurgeStage, PurgeTerms, Purged,
    Repaired, Ring, RingCounts, RingOptions, TakeoverCounts, Terms,
};
pub use snapshot::{Snapshot, SnapshotPlace, SnapshotPlaceError, SnapshotProgress};
pub use trace::{TraceId, TraceParent, note_code};
