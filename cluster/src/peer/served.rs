//! What a node serves others with, and asks them with.

use std::{ops::Deref, sync::Arc, time::Duration};

use allidb_index::{
    Deadline, EntityKey, EntityState, Error, Forced, Held, Mutation, Replica, Result, Version, model::Written,
};
use allidb_storage::{Durability, LatencyCounter};
use parking_lot::{Mutex, RwLock};
use tokio::{
    sync::OwnedMutexGuard,
    time::{Instant, sleep, timeout},
};
use tonic::{Code, Response, Status};
use tracing::Instrument;

use crate::{
    layout::{NodeId, Topology},
    peer::{
        Client, Fence, Giving,
        connections::{Connections, Way},
        fence, proto,
    },
    pool::Pool,
    ring::{Counters, Deliveries, TakingOver, count},
    trace,
};

/// How far ahead of this node's clock versions may be: clocks differ, and one that was restarted begins a second ahead.
const MAX_AHEAD_MS: u64 = 2_000;

/// How often a question is asked again that did not get through, and when first; the time doubles.
const RETRIES: u32 = 2;
const RETRY_AFTER: Duration = Duration::from_millis(10);

/// What a node serves others with, and asks them with, as long as it goes by one topology. Cheap to make.
pub(crate) struct Served {
    pub(crate) topology: Arc<Topology>,
    local: Arc<Local>,
}

impl Deref for Served {
    type Target = Local;

    fn deref(&self) -> &Local {
        &self.local
    }
}

/// The same, whichever topology it goes by.
pub(crate) struct Local {
    pub(crate) node: NodeId,
    /// What it goes by now.
    pub(crate) newest: RwLock<Arc<Topology>>,
    /// Held by whatever must be done before another topology is gone by.
    pub(crate) adopting: RwLock<()>,
    /// Since when it is there, in milliseconds since the Unix epoch: another one after each start.
    pub(crate) life: u64,
    pub(crate) replica: Arc<Replica>,
    pub(crate) work: Pool,
    /// Where what burns CPU is done.
    pub(crate) searches: Pool,
    pub(crate) peers: Connections,
    /// How long a node may take before it counts as one that does not answer.
    pub(crate) call_timeout: Duration,
    /// One removes what is not held here any more at a time.
    pub(crate) letting_go: Arc<tokio::sync::Mutex<()>>,
    /// One promises or accepts what comes next at a time.
    pub(crate) choosing: Mutex<()>,
    /// When the catalogues of others were looked at last: by one at a time.
    pub(crate) refreshed: tokio::sync::Mutex<Option<Instant>>,
    pub(crate) counters: Counters,
    /// How long nodes took to answer.
    pub(crate) call_times: LatencyCounter,
    pub(crate) deliveries: Deliveries,
    pub(crate) taking_over: TakingOver,
    /// What another node is given as a copy of what lies here.
    pub(crate) giving: Giving,
    /// Unless it is wrong on purpose.
    pub(crate) checks_fence: bool,
}

impl Served {
    pub(crate) fn new(local: Arc<Local>) -> Arc<Self> {
        let topology = Arc::clone(&local.newest.read());
        Arc::new(Self { topology, local })
    }

    /// The same as of now.
    pub(crate) fn now(&self) -> Arc<Self> {
        Self::new(Arc::clone(&self.local))
    }

    /// Whether the node still goes by this topology.
    pub(crate) fn is_current(&self) -> bool {
        self.newest.read().epoch() == self.topology.epoch()
    }

    /// # Errors
    /// If it does not.
    pub(crate) fn check_current(&self) -> Result<()> {
        match self.is_current() || !self.checks_fence {
            true => Ok(()),
            false => Err(Error::Unavailable(format!(
                "node {} goes by another topology by now than by that of epoch {}",
                self.node,
                self.topology.epoch()
            ))),
        }
    }

    /// Does something if the node still goes by this topology; it goes by no other one before that is done.
    pub(crate) fn as_of<T>(&self, work: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        let _not_meanwhile = self.adopting.read();
        self.check_current()?;
        work(self)
    }

    pub(crate) fn fence(&self) -> Fence {
        Fence::of(&self.topology, self.replica.catalogue_version(), self.replica.purged())
    }

    /// What a node answers in time; the question gets a fence. One that did not answer several times in a row is not asked for a while.
    pub(crate) async fn call<T, F>(
        &self,
        node: NodeId,
        deadline: Deadline,
        ask: impl Fn(Client, Option<proto::Fence>) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.call_within(self.call_timeout, node, deadline, ask).await
    }

    /// The same, of what may take longer than most. That it took too long tells nothing of the node.
    pub(crate) async fn call_within<T, F>(
        &self,
        patience: Duration,
        node: NodeId,
        deadline: Deadline,
        ask: impl Fn(Client, Option<proto::Fence>) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let way = self.peers.get(node)?;
        let Some(_under_way) = way.begin() else {
            count(&self.counters.calls_withheld);
            return Err(Error::Exhausted(format!("too much is asked of node {node}")));
        };
        if !way.admits() {
            count(&self.counters.calls_withheld);
            return Err(Error::Unavailable(format!("node {node} did not answer lately")));
        }
        // Nobody else tries it until this is over, also if whoever asks gives up.
        let _trial = way.is_tried().then(|| Trial(&way));
        let remaining = deadline.remaining();
        let (within, is_callers) = (patience.min(remaining), remaining <= patience);
        // A connection that broke while nothing was asked is noticed by the first question. All that is asked may be asked again.
        let again = async {
            let (mut has_learnt, mut has_taught, mut has_told) = (false, false, false);
            for attempt in 0.. {
                let fence = self.fence().sent(self.replica.wall(), deadline);
                match ask(way.client(), fence).await {
                    // What was asked follows from a topology that the ring goes by no more.
                    Err(status) if fence::says_behind(&status) => {
                        self.exchange_topologies(way.client()).await?;
                        return Err(status);
                    }
                    Err(status) if fence::says_ahead(&status) && !has_taught => {
                        has_taught = true;
                        self.exchange_topologies(way.client()).await?;
                    }
                    Err(status) if fence::says_unheard(&status) && !has_told => {
                        has_told = true;
                        self.tell_of_catalogue(way.client(), deadline).await?;
                    }
                    // It goes by a newer catalogue, and knows what is meant by what.
                    Err(status) if status.code() == Code::Aborted && !has_learnt => {
                        has_learnt = true;
                        self.learn_from(way.client(), deadline).await?;
                    }
                    Err(status) if is_of_transport(&status) && attempt < RETRIES => {
                        count(&self.counters.calls_retried);
                        sleep(way.jittered(RETRY_AFTER * (1 << attempt), attempt)).await;
                    }
                    answer => return answer,
                }
            }
            Err(Status::internal("there are no more numbers"))
        };
        let begun = Instant::now();
        let span = trace::calling(node);
        match timeout(within, again.instrument(span.clone())).await {
            Ok(Ok(response)) => {
                count(&self.counters.calls_answered);
                self.call_times.add(begun.elapsed());
                way.succeeded();
                // What may take longer than most tells nothing of the node.
                if patience == self.call_timeout {
                    way.answered_after(begun.elapsed());
                }
                Ok(response.into_inner())
            }
            Ok(Err(status)) => {
                if is_of_transport(&status) {
                    count(&self.counters.calls_failed);
                    way.failed();
                } else {
                    way.succeeded();
                }
                let (code, message) = (status.code(), status.message());
                trace::note_code(&span, code);
                Err(match code {
                    Code::InvalidArgument => Error::invalid("a call between nodes", message),
                    Code::DeadlineExceeded if is_callers => Error::DeadlineExceeded,
                    Code::ResourceExhausted | Code::OutOfRange => {
                        Error::Exhausted(format!("node {node}: {message}"))
                    }
                    _ => Error::Unavailable(format!("node {node} answered {code:?}: {message}")),
                })
            }
            Err(_) => {
                count(&self.counters.calls_failed);
                trace::note_code(&span, Code::DeadlineExceeded);
                // A caller in a hurry tells nothing of it.
                if within == self.call_timeout {
                    way.failed();
                }
                Err(match is_callers {
                    true => Error::DeadlineExceeded,
                    false => Error::Unavailable(format!("node {node} did not answer within {within:?}")),
                })
            }
        }
    }

    /// Tells another node what this one goes by, and hears what that one does; both go by the newer one then.
    async fn exchange_topologies(&self, mut peer: Client) -> Result<(), Status> {
        let topology = self.newest.read().encode().into();
        let theirs = peer.topology(proto::TopologyRequest { topology }).await?.into_inner().topology;
        self.adopt(&theirs).await.map_err(|error| {
            Status::unavailable(format!("a newer topology cannot be taken over: {error}"))
        })?;
        Ok(())
    }

    /// Goes by a topology from now on, if it is newer: durably, once nothing is under way here that goes by an older one. Says whether it is newer.
    ///
    /// # Errors
    /// If it is none, or cannot be kept.
    pub(crate) async fn adopt(&self, encoded: &[u8]) -> Result<bool> {
        let garbled = |error| Error::Unavailable(format!("a topology cannot be read: {error}"));
        let topology = Arc::new(Topology::decode(encoded).map_err(garbled)?);
        if topology.epoch() <= self.newest.read().epoch() {
            return Ok(false);
        }
        let local = Arc::clone(&self.local);
        // It goes on if whoever asked for it gives up, and nobody lets go of anything meanwhile.
        let adopted = tokio::spawn(async move {
            let alone = Arc::clone(&local.letting_go).lock_owned().await;
            let served = Self::new(Arc::clone(&local));
            served.work.run(move || local.go_by(topology, alone)).await.flatten()
        });
        adopted.await.unwrap_or_else(|error| Err(Error::Internal(format!("adopting broke off: {error}"))))
    }

    /// Has another node take over this one's catalogue.
    async fn tell_of_catalogue(&self, mut peer: Client, deadline: Deadline) -> Result<(), Status> {
        let fence = self.fence().sent(self.replica.wall(), deadline);
        let catalogue = self.replica.encoded_catalogue().into();
        peer.adopt_catalogue(proto::AdoptCatalogueRequest { fence, catalogue }).await.map(drop)
    }

    /// Takes over the catalogue of another node, if it is newer.
    async fn learn_from(&self, mut peer: Client, deadline: Deadline) -> Result<(), Status> {
        let fence = self.fence().sent(self.replica.wall(), deadline);
        let catalogue =
            peer.read_catalogue(proto::ReadCatalogueRequest { fence }).await?.into_inner().catalogue;
        let replica = Arc::clone(&self.replica);
        let adopted = self.work.run(move || replica.adopt_catalogue(&catalogue)).await.flatten();
        if matches!(adopted, Ok(true)) {
            count(&self.counters.catalogues_adopted);
        }
        adopted
            .map(drop)
            .map_err(|error| Status::unavailable(format!("a newer catalogue cannot be taken over: {error}")))
    }

    /// One version from far ahead would lift the clocks of all nodes.
    ///
    /// # Errors
    /// If it is.
    pub(crate) fn check_ahead(&self, version: Version) -> Result<()> {
        let now = self.replica.wall().now_ms();
        if version.millis() <= now + MAX_AHEAD_MS {
            return Ok(());
        }
        let ahead = version.millis() - now;
        let why = format!("version {version:?} is {ahead} ms ahead of the clock of node {}", self.node);
        Err(Error::Unavailable(why))
    }

    /// Merges mutations into what lies here; what does not, as it was kept for this node when it held that still, is refused, and what it heals.
    pub(crate) fn write(&self, mutations: Vec<Mutation>, durability: Durability) -> Vec<Result<Written>> {
        let holds = |partition: u16| self.topology.holds(self.node, partition);
        let refused = |mutation: &Mutation| match mutation.partitions().find(|partition| !holds(*partition)) {
            Some(partition) => Some(Error::invalid("a write", self.does_not_hold(partition))),
            None => self.check_sound(mutation.partitions()).err(),
        };
        let refused: Vec<Option<Error>> = mutations.iter().map(refused).collect();
        let held = mutations.into_iter().zip(&refused).filter(|(_, refused)| refused.is_none());
        let held = held.map(|(mutation, _)| mutation).collect();
        let mut made = self.replica.receive(held, durability).into_iter();
        let missing = || Err(Error::Internal("there are fewer answers than writes".to_owned()));
        let result = |refused: Option<Error>| match refused {
            Some(error) => Err(error),
            None => made.next().unwrap_or_else(missing),
        };
        refused.into_iter().map(result).collect()
    }

    pub(crate) fn does_not_hold(&self, partition: u16) -> String {
        format!("node {} does not hold partition {partition}", self.node)
    }

    /// Merges states into what lies here, for good. `read_at` is what was known to be purged when they began to be read.
    pub(crate) fn absorb(&self, states: Vec<(EntityKey, EntityState)>, read_at: Version) -> Result<()> {
        self.replica.absorb(states, read_at, Durability::Sync)
    }

    /// The same, for good once anything that comes after it is.
    pub(crate) fn absorb_for_now(
        &self,
        states: Vec<(EntityKey, EntityState)>,
        read_at: Version,
    ) -> Result<()> {
        self.replica.absorb(states, read_at, Durability::None)
    }
}

impl Local {
    /// See [`Served::adopt`].
    fn go_by(&self, topology: Arc<Topology>, _alone: OwnedMutexGuard<()>) -> Result<bool> {
        // Whoever had the move begin has seen that there are none; nobody writes to them before it is gone by.
        let left = self.replica.leftovers();
        for partition in left.into_iter().filter(|partition| topology.holds(self.node, *partition)) {
            self.replica.let_go_of(partition)?;
        }
        let _not_meanwhile = self.adopting.write();
        let before = Arc::clone(&self.newest.read());
        if topology.epoch() <= before.epoch() {
            return Ok(false);
        }
        let has_been_forced = topology.era() > before.era() && before.has(self.node);
        let forced = has_been_forced.then(|| match topology.has(self.node) {
            true => Forced::GoesOn { era: topology.era() },
            false => Forced::GivenUp,
        });
        self.keep(&topology, forced)?;
        if forced == Some(Forced::GivenUp) {
            tracing::warn!("others went on without this node: what it keeps for them is dropped");
        }
        let (epoch, phase) = (topology.epoch(), topology.phase().name());
        tracing::info!(epoch, phase, layout = topology.layout().version(), "the ring has another topology");
        *self.newest.write() = topology;
        Ok(true)
    }

    /// Keeps a topology, and takes nothing any more that it says to be closed.
    pub(crate) fn keep(&self, topology: &Topology, forced: Option<Forced>) -> Result<()> {
        self.replica.close_up_to(topology.closed())?;
        let has_others = topology.nodes().iter().any(|node| *node != self.node);
        let held = |partition: u16| match topology.holds(self.node, partition) {
            // By any layout: who else is one of its replicas may let go of it before this node hears of that.
            true if topology.layouts().any(|layout| layout.replicas(partition) == [self.node]) => Held::Alone,
            true => Held::Shared,
            false => Held::Elsewhere,
        };
        self.replica.keep_topology(topology.encode(), has_others, held, forced)
    }
}

/// A call that tries whether a node answers again.
struct Trial<'w>(&'w Way);

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        self.0.is_untried();
    }
}

/// Whether this is what the connection says, not the node.
fn is_of_transport(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
}
