//! What a node serves others with, and asks them with.

use std::{sync::Arc, time::Duration};

use allidb_index::{
    Deadline, EntityKey, EntityState, Error, Mutation, Replica, Result, Version, model::Written,
};
use allidb_storage::Durability;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Response, Status, transport::Channel};

use crate::{
    layout::{Layout, NodeId},
    peer::{
        Fence,
        connections::{Connections, Way},
        proto::{self, peer_client::PeerClient},
    },
    pool::Pool,
    ring::{Counters, Deliveries, count},
};

/// How far ahead of this node's clock versions may be: clocks differ, and one that was restarted begins a second ahead.
const MAX_AHEAD_MS: u64 = 2_000;

/// How often a question is asked again that did not get through, and when first; the time doubles.
const RETRIES: u32 = 2;
const RETRY_AFTER: Duration = Duration::from_millis(10);

/// What a node serves others with, and asks them with.
pub(crate) struct Served {
    pub(crate) node: NodeId,
    /// Since when it is there, in milliseconds since the Unix epoch: another one after each start.
    pub(crate) life: u64,
    pub(crate) layout: Layout,
    pub(crate) replica: Arc<Replica>,
    pub(crate) work: Pool,
    /// Where what burns CPU is done.
    pub(crate) searches: Pool,
    pub(crate) peers: Connections,
    /// How long a node may take before it counts as one that does not answer.
    pub(crate) call_timeout: Duration,
    /// One change of the catalogue at a time, where that is decided.
    pub(crate) deciding: tokio::sync::Mutex<()>,
    /// When the catalogues of others were looked at last: by one at a time.
    pub(crate) refreshed: tokio::sync::Mutex<Option<Instant>>,
    pub(crate) counters: Counters,
    pub(crate) deliveries: Deliveries,
    /// Unless it is wrong on purpose.
    pub(crate) checks_fence: bool,
}

impl Served {
    pub(crate) fn fence(&self) -> Fence {
        Fence::of(&self.layout, self.replica.catalogue_version(), self.replica.purged())
    }

    /// What a node answers in time; the question gets a fence. One that did not answer several times in a row is not asked for a while.
    pub(crate) async fn call<T, F>(
        &self,
        node: NodeId,
        deadline: Deadline,
        ask: impl Fn(PeerClient<Channel>, Option<proto::Fence>) -> F,
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
        ask: impl Fn(PeerClient<Channel>, Option<proto::Fence>) -> F,
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
            let mut has_learnt = false;
            for attempt in 0.. {
                let fence = self.fence().sent(self.replica.wall(), deadline);
                match ask(way.client(), fence).await {
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
        match timeout(within, again).await {
            Ok(Ok(response)) => {
                count(&self.counters.calls_answered);
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

    /// Takes over the catalogue of another node, if it is newer.
    async fn learn_from(&self, mut peer: PeerClient<Channel>, deadline: Deadline) -> Result<(), Status> {
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

    /// Merges mutations into what lies here.
    pub(crate) fn write(&self, mutations: Vec<Mutation>, durability: Durability) -> Vec<Result<Written>> {
        self.replica.receive(mutations, durability)
    }

    /// Merges states into what lies here, for good. `read_at` is what was known to be purged when they began to be read.
    pub(crate) fn absorb(&self, states: Vec<(EntityKey, EntityState)>, read_at: Version) -> Result<()> {
        self.replica.absorb(states, read_at, Durability::Sync)
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
