//! Reads and writes at several replicas.
//!
//! | module | concept |
//! |---|---|
//! | `again` | writes that met another topology |
//! | `anti_entropy` | comparing what replicas hold, and repairing it, whoever asks for it or not |
//! | `ask` | asking several nodes about much of what they hold |
//! | `bulk` | changes of much at a time |
//! | `catalogue` | changing it on all nodes |
//! | `choose` | agreeing on what comes next |
//! | `clocks` | whether this node's clock goes as those of the others do |
//! | `copy` | beginning with a copy of what lies at another node |
//! | `counts` | how often what happened |
//! | `decide` | writes on conditions |
//! | `forced` | going on without a quorum, when an operator says so |
//! | `heal` | taking part again after damage |
//! | `hints` | writes that a replica has not acknowledged, until it does |
//! | `latency` | when a read is hedged |
//! | `neighbors` | the edges of one entity |
//! | `purge` | forgetting what was deleted, once no node can bring it back |
//! | `quorum` | how many of which nodes must answer |
//! | `query` | seeds, expansion and score over nodes that hold parts |
//! | `read` | what a quorum holds |
//! | `reshape` | agreeing on another topology, and moving to it |
//! | `repair` | merging what replicas hold, and having them hold that, before the answer |
//! | `scan` | entities in the order of their ids |
//! | `survey` | counts |
//! | `send` | having one node make writes |
//! | `settle` | writes about which replicas are of several minds |
//! | `takeover` | holding what another layout says |
//! | `underway` | a write until it is decided |
//! | `unheard` | refused writes that a replica may have made |
//! | `upkeep` | what a node does of its own accord |
//! | `verdict` | how a write stands, and what that comes to |
//! | `walk` | along edges, hop by hop |
//! | `write` | to all replicas at once, answered when enough have acknowledged |
//! | `wrong` | being wrong on purpose, for simulations |
//!
//! Whoever takes a request coordinates it, be it a replica of what the request is about or not: there is no leader.

mod again;
mod anti_entropy;
mod ask;
mod bulk;
mod catalogue;
mod choose;
mod clocks;
mod copy;
mod counts;
mod decide;
mod forced;
mod heal;
mod hints;
mod key_uses;
mod latency;
mod neighbors;
mod purge;
mod query;
mod quorum;
mod read;
mod repair;
mod reshape;
mod scan;
mod send;
mod settle;
mod survey;
mod takeover;
mod underway;
mod unheard;
mod upkeep;
mod verdict;
mod walk;
mod whole;
mod write;
mod wrong;

use std::{
    collections::BTreeMap,
    ops::Deref,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use allidb_index::{Deadline, Replica, Result, model::TenantId};
use allidb_storage::{LatencyCounter, Throttle};
use parking_lot::RwLock;
use tokio::sync::Semaphore;

pub use anti_entropy::Repaired;
pub use clocks::ClockOffset;
pub use counts::RingCounts;
pub(crate) use counts::{Counters, count};
pub use heal::HealingCounts;
pub use hints::{HintCounts, HintLimits, OutboxCounts};
pub(crate) use purge::Deliveries;
pub use purge::{PurgeStage, PurgeTerms, Purged};
pub use reshape::Change;
pub use takeover::TakeoverCounts;
pub(crate) use takeover::TakingOver;
#[cfg(feature = "wrong")]
pub use wrong::Wrong;
#[cfg(not(feature = "wrong"))]
use wrong::Wrong;

use crate::{
    coordinator::Consistency,
    layout::{Layout, NodeId, Topology},
    peer::{Connections, Connector, Giving, Local, PeerService, Served},
    pool::{Pool, SPARES},
};
use anti_entropy::Comparisons;
use clocks::Clocks;
use decide::Turns;
use heal::Healing;
use hints::Hints;
use latency::Latency;
use quorum::Quorum;
use repair::Unrepaired;
use unheard::Unheard;

/// Doubts about writes that are resolved at a time.
const SETTLING: usize = 64;

/// What a node of a ring is made of, and how it deals with others.
pub struct RingOptions {
    /// What lies here.
    pub replica: Arc<Replica>,
    /// What the ring goes by, as far as this node knows.
    pub topology: Topology,
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
    /// When another replica is asked beside one that has not answered yet: until it is known how long they take, and at the latest.
    pub hedge_after: Duration,
    /// What is kept for nodes that have not acknowledged it.
    pub hints: HintLimits,
    /// How often what lies here is compared with what each other node holds of the same.
    pub repair_every: Duration,
    /// When what was deleted is forgotten.
    pub purge: PurgeTerms,
    /// Bytes a second that this node takes over while the ring changes its shape; 0: as many as it can.
    pub move_bytes_per_second: u64,
    /// How much must lie at another node for this one to begin with a copy of that; 0: it never does. Whoever opens a ring with this closes and opens it
    /// again when the replica [has a copy](Replica::has_copy).
    pub copy_from_bytes: u64,
    /// What it is to do wrong.
    #[cfg(feature = "wrong")]
    pub wrong: Option<Wrong>,
}

/// For whom something is read, and how.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Whose.
    pub tenant: TenantId,
    /// By how many replicas of everything.
    pub consistency: Consistency,
    /// When the caller stops waiting.
    pub deadline: Deadline,
    /// Whether what too few replicas answer for may be left out.
    pub may_be_partial: bool,
}

/// A node of a ring, as long as that goes by one topology. Cheap to clone, and to be had [as of now](Ring::now).
///
/// What is begun under a topology that is outdated before it is done may be refused as unavailable.
#[derive(Clone)]
pub struct Ring(Arc<Inner>);

struct Inner {
    served: Arc<Served>,
    shared: Arc<Shared>,
}

impl Deref for Inner {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}

/// What a node coordinates with, whichever topology it goes by.
struct Shared {
    hints: Hints,
    clocks: Clocks,
    latency: Latency,
    /// How long nodes take to answer what is about much of what they hold.
    searching: Latency,
    /// Where hints are kept: also when there is too much other work.
    keeping: Pool,
    /// Where trees are made and compared with rows: that takes long, and nobody waits for it.
    tending: Pool,
    /// Writes whose hints are not kept yet.
    writing: AtomicUsize,
    /// Whether what was not begun is to be left.
    is_closing: AtomicBool,
    hedge_after: Duration,
    unrepaired: Unrepaired,
    unheard: Unheard,
    healing: Healing,
    comparisons: Comparisons,
    repair_every: Duration,
    purge: PurgeTerms,
    /// What is taken over while the ring changes its shape.
    moving: Throttle,
    copy_from_bytes: u64,
    /// Whose turn it is to make a write on a condition.
    turns: Turns,
    /// Doubts about writes that are resolved at a time.
    settling: Semaphore,
    wrong: Option<Wrong>,
}

impl Ring {
    /// A node of the ring of this topology, which it keeps: a member, or one that holds nothing and coordinates what it is asked.
    ///
    /// # Errors
    /// If an address is none, a thread is refused, or the replica cannot keep the topology.
    pub fn open(options: RingOptions) -> Result<Self> {
        let RingOptions { replica, topology, .. } = options;
        let node = NodeId(replica.node());
        let work = match replica.is_inline() {
            true => Pool::inline("replica"),
            false => Pool::start("replica", options.threads, SPARES, options.queue)?,
        };
        let cores = std::thread::available_parallelism().map_or(2, |cores| cores.get());
        let searches = match replica.is_inline() {
            true => Pool::inline("search"),
            false => Pool::start("search", cores.max(2), SPARES, options.queue)?,
        };
        let keeping = match replica.is_inline() {
            true => Pool::inline("hints"),
            // Those that wait for the disk together share one fsync.
            false => Pool::start("hints", options.threads, 0, options.queue)?,
        };
        let tending = match replica.is_inline() {
            true => Pool::inline("trees"),
            false => Pool::start("trees", 1, 0, 1)?,
        };
        #[cfg(feature = "wrong")]
        let wrong = options.wrong;
        #[cfg(not(feature = "wrong"))]
        let wrong = None;
        let local = Arc::new(Local {
            node,
            life: replica.wall().now_ms(),
            newest: RwLock::new(Arc::new(topology)),
            adopting: RwLock::default(),
            replica,
            work,
            searches,
            peers: Connections::new(node, &options.addresses, options.connector)?,
            call_timeout: options.call_timeout,
            letting_go: Arc::default(),
            choosing: parking_lot::Mutex::default(),
            refreshed: tokio::sync::Mutex::default(),
            counters: Counters::default(),
            call_times: LatencyCounter::default(),
            deliveries: Deliveries::default(),
            taking_over: TakingOver::default(),
            giving: Giving::default(),
            checks_fence: wrong != Some(Wrong::NoFence),
        });
        let topology = Arc::clone(&local.newest.read());
        local.keep(&topology, None)?;
        let hints = Hints::open(&local.replica, topology.nodes(), options.hints)?;
        let shared = Shared {
            hints,
            clocks: Clocks::default(),
            latency: Latency::default(),
            searching: Latency::default(),
            keeping,
            tending,
            writing: AtomicUsize::new(0),
            is_closing: AtomicBool::new(false),
            hedge_after: options.hedge_after,
            unrepaired: Unrepaired::default(),
            unheard: Unheard::default(),
            healing: Healing::default(),
            comparisons: Comparisons::default(),
            repair_every: options.repair_every,
            purge: options.purge,
            moving: Throttle::new(options.move_bytes_per_second),
            copy_from_bytes: options.copy_from_bytes,
            turns: Turns::default(),
            settling: Semaphore::new(SETTLING),
            wrong,
        };
        Ok(Self(Arc::new(Inner { served: Served::new(local), shared: Arc::new(shared) })))
    }

    /// The same, under the topology that the node goes by now.
    pub fn now(&self) -> Self {
        if self.0.served.is_current() {
            return self.clone();
        }
        Self(Arc::new(Inner { served: self.0.served.now(), shared: Arc::clone(&self.0.shared) }))
    }

    /// Whether the node goes by another topology by now.
    pub(crate) fn is_outdated(&self) -> bool {
        !self.0.served.is_current()
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
        PeerService::server(Arc::new(OnceLock::from(self.served())))
    }

    pub(crate) fn served(&self) -> Arc<Served> {
        Arc::clone(&self.0.served)
    }

    /// What the ring goes by.
    pub fn topology(&self) -> &Arc<Topology> {
        &self.0.served.topology
    }

    /// Which nodes hold what, until all hold what the next layout says.
    pub fn layout(&self) -> &Layout {
        self.0.served.topology.layout()
    }

    /// Whether there are no other nodes.
    pub(crate) fn is_alone(&self) -> bool {
        self.topology().nodes() == [self.node()]
    }

    /// Does no more for others, nor for this node, once what is under way has left its hints. Blocks.
    pub(crate) fn close(&self) {
        self.0.is_closing.store(true, Ordering::SeqCst);
        // A node is given its time to answer, and once more if what it was for had to be found out.
        let until = Instant::now() + 3 * self.0.served.call_timeout;
        while self.0.writing.load(Ordering::SeqCst) > 0 && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.0.keeping.close();
        self.0.tending.close();
        self.0.served.work.close();
        self.0.served.searches.close();
    }

    /// What lies here.
    pub fn replica(&self) -> &Arc<Replica> {
        &self.0.served.replica
    }

    /// How often what happened.
    pub fn counts(&self) -> RingCounts {
        self.0.served.counters.counts()
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.0.served.node
    }
}

impl Inner {
    /// When a replica has taken so long that another one is asked, too.
    fn hedge_after(&self) -> Duration {
        self.latency.p95(self.hedge_after)
    }

    fn is_wrong(&self, how: Wrong) -> bool {
        self.wrong == Some(how)
    }

    /// Does work at this node's own replica.
    async fn here<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Served) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let served = Arc::clone(&self.served);
        self.served.work.run(move || work(&served)).await.flatten()
    }

    /// The same, if the node still goes by this topology; it goes by no other one before that is done.
    async fn here_as_of<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Served) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.here(move |served| served.as_of(work)).await
    }

    /// The nodes that hold a partition and, if they are others, those that are to.
    fn writers(&self, partition: u16) -> impl Iterator<Item = (&[NodeId], bool)> {
        let topology = &self.served.topology;
        let now = topology.layout().replicas(partition);
        let next = topology.next().map(|next| next.replicas(partition)).filter(|next| *next != now);
        std::iter::once((now, true)).chain(next.map(|next| (next, false)))
    }

    /// How many of those must answer a read that hold a partition.
    fn readers(&self, partition: u16, consistency: Consistency) -> Quorum {
        let replicas = self.served.topology.read_layouts().map(|layout| layout.replicas(partition));
        Quorum::of(replicas, consistency)
    }

    /// Whether a node is one of them.
    fn tells_of(&self, node: NodeId, partition: u16) -> bool {
        self.served.topology.read_layouts().any(|layout| layout.replicas(partition).contains(&node))
    }

    /// The same, by all active layouts.
    fn deciders(&self, partition: u16, consistency: Consistency) -> Quorum {
        Quorum::of(self.served.topology.layouts().map(|layout| layout.replicas(partition)), consistency)
    }
}
