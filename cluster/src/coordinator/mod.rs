//! The coordinator: the seam through which every read and write goes.
//!
//! It plans a request, finds the partitions it touches and the replicas that hold them, and runs it there.
//! With one node every partition's only replica is the local one.
//!
//! | module | concept |
//! |---|---|
//! | `chores` | what operators ask for |
//! | `collections` | made, changed, dropped and told |
//! | `opening` | alone, or as a member of a ring |
//! | `requests` | reads and writes |
//! | `shape` | changes of the ring's shape |
//! | `snapshots` | made, restored, kept |

mod chores;
mod collections;
mod keys;
mod opening;
mod quotas;
mod requests;
mod shape;
mod snapshots;

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Instant,
};

use allidb_index::{
    Deadline, Error, Replica, Result, TextCounts, VectorCounts,
    graph::GraphCounts,
    model::{Limits, TenantId},
};
use allidb_storage::{Durability, Latency, Stats};

pub use opening::Config;
pub use quotas::Tenant;
pub use requests::FacetsRequest;
pub use shape::{Move, NodeChange, moves};

use crate::{
    layout::{NodeId, Topology},
    maintenance::Jobs,
    member::Life,
    membership::{GossipCounts, NodeView},
    peer::NodeCalls,
    pool::Pool,
    ring::{ClockOffset, HintCounts, OutboxCounts, Ring, RingCounts, Terms},
    snapshot::SnapshotPlace,
};

/// Chores that may wait for the one before.
const CHORES: usize = 4;

/// How many replicas must agree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Consistency {
    /// One.
    One,
    /// A majority.
    #[default]
    Quorum,
    /// Every one.
    All,
}

impl Consistency {
    /// How many of `replicas` must answer.
    pub fn needed(self, replicas: usize) -> usize {
        match self {
            Self::One => 1,
            Self::Quorum => replicas / 2 + 1,
            Self::All => replicas,
        }
    }
}

/// How a write is made.
#[derive(Clone, Copy, Debug)]
pub struct WriteOptions {
    /// When it is acknowledged.
    pub durability: Durability,
    /// By how many.
    pub consistency: Consistency,
    /// When the caller stops waiting.
    pub deadline: Deadline,
}

impl WriteOptions {
    /// How that is read on which the write depends.
    fn terms(self, tenant: TenantId) -> Terms {
        let consistency = self.consistency.max(Consistency::Quorum);
        Terms { tenant, consistency, deadline: self.deadline, may_be_partial: false }
    }
}

/// Figures for metrics.
#[derive(Clone, Debug)]
pub struct Counts {
    /// The storage engine's.
    pub storage: Stats,
    /// The vector index's.
    pub vectors: VectorCounts,
    /// The text index's.
    pub texts: TextCounts,
    /// Of the graph.
    pub graph: GraphCounts,
    /// Writes that wait for a thread.
    pub writes_queued: usize,
    /// Reads that wait for a thread.
    pub reads_queued: usize,
}

/// The coordinator of this node. Cheap to clone.
#[derive(Clone)]
pub struct Coordinator(Arc<Inner>);

struct Inner {
    ring: Ring,
    /// Unless it is alone.
    life: Option<Life>,
    replica: Arc<Replica>,
    writes: Pool,
    reads: Pool,
    /// Gets and the catalogue: short, and not to wait behind searches.
    gets: Pool,
    /// What operators ask for and wait for.
    chores: Pool,
    jobs: Jobs,
    snapshots: Option<SnapshotPlace>,
    ring_name: String,
    is_drained: AtomicBool,
    opened_at: Instant,
}

impl Inner {
    /// The ring, under the topology that it has now.
    fn ring(&self) -> Ring {
        self.ring.now()
    }

    /// Whether this node is no member of a ring, nor can become one as long as it lives.
    fn is_alone(&self) -> bool {
        self.life.is_none()
    }

    /// # Errors
    /// If it is not alone.
    fn check_alone(&self, what: &str) -> Result<()> {
        match self.is_alone() {
            true => Ok(()),
            false => Err(Error::FailedPrecondition(format!("{what} is not done over a ring yet"))),
        }
    }
}

impl Coordinator {
    /// Bounds on requests.
    pub fn limits(&self) -> &Limits {
        self.0.replica.limits()
    }

    /// What the ring goes by: which nodes hold what.
    pub fn topology(&self) -> Arc<Topology> {
        Arc::clone(self.0.ring().topology())
    }

    /// 32 random bytes made when the ring was founded; page tokens are authenticated under it.
    pub fn cursor_key(&self) -> [u8; 32] {
        self.0.replica.cursor_key()
    }

    /// Whether it can serve: opening returned, so it is recovered, its engine takes writes, and it is not drained.
    pub fn is_ready(&self) -> bool {
        self.check_takes_requests().is_ok() && self.0.replica.engine().stats().poisoned.is_none()
    }

    /// All nodes of the ring that are heard of, as they say of themselves; none if this one is alone.
    pub fn nodes(&self) -> Vec<NodeView> {
        self.0.life.as_ref().map(Life::nodes).unwrap_or_default()
    }

    /// What became of messages of gossip; `None` if this node is alone.
    pub fn gossip_counts(&self) -> Option<GossipCounts> {
        self.0.life.as_ref().map(Life::gossip_counts)
    }

    /// How far the clocks of other nodes are from this one's, of those that said so lately.
    pub fn clocks(&self) -> Vec<ClockOffset> {
        self.0.ring().clocks()
    }

    /// How often which mechanism of the ring was at work; `None` if this node is alone.
    pub fn ring_counts(&self) -> Option<RingCounts> {
        (!self.0.is_alone()).then(|| self.0.ring.counts())
    }

    /// How long other nodes took to answer calls; `None` if this node is alone.
    pub fn call_times(&self) -> Option<Latency> {
        (!self.0.is_alone()).then(|| self.0.ring.served().call_times.read())
    }

    /// How often collections were changed.
    pub fn catalogue_version(&self) -> u64 {
        self.0.replica.catalogue_version()
    }

    /// Figures of what is kept for other nodes.
    pub fn hints(&self) -> Vec<HintCounts> {
        self.0.ring.hints()
    }

    /// How calls to other nodes stand.
    pub fn calls(&self) -> Vec<NodeCalls> {
        self.0.ring.served().peers.calls()
    }

    /// Figures of what is to be made at other nodes for sure.
    pub fn outbox(&self) -> OutboxCounts {
        self.0.ring.outbox()
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.0.ring.node()
    }

    /// Figures for metrics.
    pub fn counts(&self) -> Counts {
        Counts {
            storage: self.0.replica.engine().stats(),
            vectors: self.0.replica.vector_counts(),
            texts: self.0.replica.text_counts(),
            graph: self.0.replica.graph_counts(),
            writes_queued: self.0.writes.queued(),
            reads_queued: self.0.reads.queued() + self.0.gets.queued(),
        }
    }

    /// Takes no more work, finishes what is queued, flushes and closes the store. Blocks.
    pub fn close(&self) -> Result<()> {
        if let Some(life) = &self.0.life {
            life.end();
        }
        self.0.writes.close();
        self.0.reads.close();
        self.0.gets.close();
        self.0.chores.close();
        self.0.ring.close();
        self.0.replica.close()
    }
}
