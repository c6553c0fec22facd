//! Reads and writes at several replicas.
//!
//! | module | concept |
//! |---|---|
//! | `hints` | writes that a replica has not acknowledged, until it does |
//! | `read` | what a quorum holds |
//! | `repair` | merging what replicas hold, and having them hold that, before the answer |
//! | `send` | having one node make writes |
//! | `verdict` | how a write stands, and what that comes to |
//! | `write` | to all replicas at once, answered when enough have acknowledged |
//! | `wrong` | being wrong on purpose, for simulations |
//!
//! Whoever takes a request coordinates it, be it a replica of what the request is about or not: there is no leader.

mod hints;
mod read;
mod repair;
mod send;
mod verdict;
mod write;
mod wrong;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use allidb_index::{Deadline, Error, Replica, Result};
use tokio::time::timeout;
use tonic::Status;

pub use hints::HintCounts;
#[cfg(feature = "wrong")]
pub use wrong::Wrong;
#[cfg(not(feature = "wrong"))]
use wrong::Wrong;

use crate::{
    layout::{Layout, NodeId},
    peer::{Connections, Connector, Fence, PeerService, Served, proto},
    pool::Pool,
};
use hints::Hints;

/// What a node of a ring is made of, and how it deals with others.
pub struct RingOptions {
    /// What lies here.
    pub replica: Arc<Replica>,
    /// Which nodes hold what; this one is among them.
    pub layout: Layout,
    /// Where the other members are: `host:port`.
    pub addresses: BTreeMap<NodeId, String>,
    /// How they are reached.
    pub connector: Connector,
    /// Where work of others and of this node's own runs.
    pub threads: usize,
    /// Pieces of work that may wait for a thread.
    pub queue: usize,
    /// How long a replica may take before it counts as one that does not answer.
    pub call_timeout: Duration,
    /// When another replica is asked beside one that has not answered yet.
    pub hedge_after: Duration,
    /// Bytes of hints that are kept for one node. What comes then is dropped, and counted.
    pub hint_bytes: u64,
    /// What it is to do wrong.
    #[cfg(feature = "wrong")]
    pub wrong: Option<Wrong>,
}

/// A node of a ring. Cheap to clone.
#[derive(Clone)]
pub struct Ring(Arc<Inner>);

struct Inner {
    served: Arc<Served>,
    fence: Fence,
    peers: Connections,
    hints: Hints,
    call_timeout: Duration,
    hedge_after: Duration,
    wrong: Option<Wrong>,
}

impl Ring {
    /// A node of the ring of this layout, which it keeps.
    ///
    /// # Errors
    /// If an address is none, a thread is refused, or the replica cannot keep the layout.
    pub fn open(options: RingOptions) -> Result<Self> {
        let RingOptions { replica, layout, .. } = options;
        let node = NodeId(replica.node());
        if !layout.members().iter().any(|member| member.node == node) {
            return Err(Error::FailedPrecondition(format!("node {node} is no member of the ring")));
        }
        replica.keep_layout(layout.encode(), layout.members().len() > 1, |partition| {
            layout.replicas(partition).contains(&node)
        })?;
        let work = match replica.is_inline() {
            true => Pool::inline("replica"),
            false => Pool::start("replica", options.threads, options.queue)?,
        };
        #[cfg(feature = "wrong")]
        let wrong = options.wrong;
        #[cfg(not(feature = "wrong"))]
        let wrong = None;
        // This one is among them: it may have had too much to do.
        let members = layout.members().iter().map(|member| member.node);
        let hints = Hints::open(&replica, members, options.hint_bytes)?;
        Ok(Self(Arc::new(Inner {
            fence: Fence::of(&layout),
            peers: Connections::to(&options.addresses, &options.connector)?,
            hints,
            call_timeout: options.call_timeout,
            hedge_after: options.hedge_after,
            wrong,
            served: Arc::new(Served {
                node,
                layout,
                replica,
                work,
                checks_fence: wrong != Some(Wrong::NoFence),
            }),
        })))
    }

    /// Answers what other nodes ask; to be served where they reach this one.
    pub fn service(
        &self,
    ) -> impl tonic::codegen::Service<
        http::Request<tonic::body::Body>,
        Response = http::Response<tonic::body::Body>,
        Error = std::convert::Infallible,
        Future: Send,
    > + tonic::server::NamedService
    + Clone
    + Sync
    + use<> {
        PeerService::server(Arc::clone(&self.0.served))
    }

    /// Which nodes hold what.
    pub fn layout(&self) -> &Layout {
        &self.0.served.layout
    }

    /// What lies here.
    pub fn replica(&self) -> &Arc<Replica> {
        &self.0.served.replica
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.0.served.node
    }
}

impl Inner {
    fn is_wrong(&self, how: Wrong) -> bool {
        self.wrong == Some(how)
    }

    fn sent_fence(&self) -> Option<proto::Fence> {
        self.fence.sent(self.served.replica.wall())
    }

    /// What a node answers in time.
    async fn call<T>(
        &self,
        node: NodeId,
        deadline: Deadline,
        answer: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Result<T> {
        let within = self.call_timeout.min(deadline.remaining());
        match timeout(within, answer).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => {
                let (code, message) = (status.code(), status.message());
                Err(Error::Unavailable(format!("node {node} answered {code:?}: {message}")))
            }
            Err(_) => Err(Error::Unavailable(format!("node {node} did not answer within {within:?}"))),
        }
    }

    /// Does work at this node's own replica.
    async fn here<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Served) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let served = Arc::clone(&self.served);
        self.served.work.run(move || work(&served)).await.flatten()
    }
}
