//! What a node of a ring does of its own accord: it follows who is where, takes over newer catalogues, and delivers what it keeps for others.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use allidb_index::{Deadline, Error, PARTITIONS, Replica, Result};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{Purged, Repaired, Ring, count};
use crate::{
    layout::NodeId,
    membership::{Load, Membership, NodeView},
    peer::Served,
};

/// How often each is looked after.
const EVERY: Duration = Duration::from_millis(500);
/// How often a node that starts looks for the others.
const FIND_EVERY: Duration = Duration::from_millis(50);
/// How long it does so before it serves without those that it does not find: those of whom it does not know where they are, and others.
const FIND_WITHIN: Duration = Duration::from_secs(5);
const GREET_WITHIN: Duration = Duration::from_secs(1);
/// How long one delivery may go on.
const DELIVERY: Duration = Duration::from_secs(30);
/// How long at most until what could not be delivered is tried again.
const LONGEST_PAUSE: Duration = Duration::from_secs(4);
/// How often clocks are compared.
const COMPARE_EVERY: Duration = Duration::from_secs(1);
/// How often a node looks whether it is time to compare what it holds with what another one does, and how long that may take.
const REPAIR_LOOKS_EVERY: Duration = Duration::from_secs(1);
const REPAIR_WITHIN: Duration = Duration::from_hours(1);
/// How long at most until what could not be compared, or no trees be made of, is tried again.
const LONGEST_REPAIR_PAUSE: Duration = Duration::from_mins(10);
/// What is due is overdue after so many times as long.
pub(super) const OVERDUE: u32 = 3;
/// How often the tree of a partition is compared with its rows, so that all are once a day.
const VERIFY_EVERY: Duration = Duration::from_secs(24 * 3_600 / PARTITIONS as u64);
/// How often others are told how much lies here.
const LOAD_EVERY: Duration = Duration::from_secs(5);

impl Ring {
    /// Looks after the ring until it is aborted, and follows what gossip tells of it.
    pub(crate) fn keep_up(&self, membership: Arc<Membership>) -> JoinSet<()> {
        let mut tasks = self.look_after();
        let (ring, gossip) = (self.clone(), Arc::clone(&membership));
        tasks.spawn(async move {
            loop {
                ring.now().follow(&gossip).await;
                sleep(EVERY).await;
            }
        });
        let ring = self.clone();
        tasks.spawn(async move {
            loop {
                membership.bears(ring.load()).await;
                sleep(LOAD_EVERY).await;
            }
        });
        tasks
    }

    /// Compares clocks, and delivers what this node keeps for others, until it is aborted.
    pub fn look_after(&self) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        let ring = self.clone();
        tasks.spawn(async move {
            let mut was_wrong = false;
            loop {
                let ring = ring.now();
                ring.compare_clocks(Deadline::after(DELIVERY)).await;
                let checked = ring.check_clock();
                match &checked {
                    Err(error) if !was_wrong => tracing::error!(%error, "no writes are planned here"),
                    Ok(()) if was_wrong => tracing::info!("the clocks agree: writes are planned here again"),
                    _ => {}
                }
                was_wrong = checked.is_err();
                sleep(COMPARE_EVERY).await;
            }
        });
        let ring = self.clone();
        tasks.spawn(async move {
            let mut pause = EVERY;
            loop {
                pause = match ring.now().deliver_outbox(Deadline::after(DELIVERY)).await {
                    Ok(_) => EVERY,
                    Err(error) => {
                        tracing::warn!(%error, "what follows from writes here is not yet known where it belongs");
                        (pause * 2).min(LONGEST_PAUSE)
                    }
                };
                sleep(pause).await;
            }
        });
        let ring = self.clone();
        tasks.spawn(async move { ring.keep_trees().await });
        let ring = self.clone();
        tasks.spawn(async move { ring.keep_purged().await });
        let ring = self.clone();
        tasks.spawn(async move { ring.keep_shape().await });
        let ring = self.clone();
        tasks.spawn(async move { ring.keep_sound().await });
        let ring = self.clone();
        tasks.spawn(async move { ring.look_after_each().await });
        tasks
    }

    /// Looks after what concerns each node of the ring, those that come later too.
    async fn look_after_each(&self) {
        let (mut known, mut tasks) = (BTreeSet::new(), JoinSet::new());
        loop {
            // Also those that have left, and for which something is kept.
            let kept_for = self.hints().into_iter().map(|kept| kept.node);
            for node in self.now().topology().nodes().into_iter().chain(kept_for) {
                if !known.insert(node) {
                    continue;
                }
                // Of two nodes that which is first in order compares.
                if node > self.node() {
                    let ring = self.clone();
                    tasks.spawn(async move { ring.keep_alike(node).await });
                }
                let ring = self.clone();
                tasks.spawn(async move { ring.keep_delivering(node).await });
            }
            sleep(EVERY).await;
        }
    }

    async fn keep_delivering(&self, node: NodeId) {
        let mut pause = EVERY;
        loop {
            pause = match self.now().deliver_kept(node).await {
                Ok(()) => EVERY,
                Err(error) => {
                    tracing::debug!(%node, %error, "writes that are kept for a node wait on");
                    (pause * 2).min(LONGEST_PAUSE)
                }
            };
            sleep(pause).await;
        }
    }

    /// Does this node's part of a change of shape.
    async fn keep_shape(&self) {
        let mut may_have_copies = true;
        loop {
            let ring = self.now();
            let mut pause = EVERY;
            let is_settled = !ring.is_reshaping();
            if (is_settled && may_have_copies || self.0.served.giving.is_to_end(self.replica()))
                && let Err(error) = ring.end_copies(is_settled).await
            {
                tracing::warn!(%error, "a copy that nobody needs any more is not removed");
            }
            may_have_copies = !is_settled;
            if ring.is_reshaping()
                && let Err(error) = ring.go_on_reshaping(Deadline::after(REPAIR_WITHIN)).await
            {
                tracing::warn!(%error, "the change of the ring's shape does not go on yet");
                pause = REPAIR_LOOKS_EVERY;
            }
            // Others wait for the ring's shape, nobody for this.
            let ring = self.now();
            if let Err(error) = ring.let_go().await {
                tracing::warn!(%error, "what this node holds no more is not removed yet");
            }
            sleep(pause).await;
        }
    }

    /// Makes trees of what lies here if there are none, saves them, and compares them with the rows.
    async fn keep_trees(&self) {
        let (mut verified_at, mut partitions) = (Instant::now(), (0..PARTITIONS).cycle());
        let mut pause = REPAIR_LOOKS_EVERY;
        loop {
            sleep(pause).await;
            if let Err(error) = self.have_trees().await {
                match error {
                    Error::Exhausted(_) => {
                        tracing::debug!(%error, "trees of what lies here wait for other work")
                    }
                    _ => tracing::error!(%error, "no trees can be made of what lies here"),
                }
                pause = (pause * 2).min(LONGEST_REPAIR_PAUSE);
                continue;
            }
            pause = REPAIR_LOOKS_EVERY;
            if let Err(error) = self.tend(|replica| replica.save_trees()).await {
                tracing::warn!(%error, "the trees of what lies here are not saved");
            }
            if verified_at.elapsed() >= VERIFY_EVERY
                && let Some(partition) = partitions.next()
            {
                verified_at = Instant::now();
                self.verify(partition).await;
            }
        }
    }

    /// Compares what lies here with what a node holds of the same, now and then.
    async fn keep_alike(&self, node: NodeId) {
        let begun = Instant::now();
        let mut pause = REPAIR_LOOKS_EVERY;
        loop {
            sleep(pause).await;
            let ring = self.now();
            let holds_any = !ring.0.held_by_both([self.node(), node]).is_empty();
            let is_due = holds_any && self.compared(node).is_none_or(|(ago, _)| ago >= self.0.repair_every);
            // That it is away is told by other means.
            if !is_due || self.0.served.peers.is_paused(node) {
                pause = REPAIR_LOOKS_EVERY;
                continue;
            }
            match ring.repair_with(node, Deadline::after(REPAIR_WITHIN), |_| {}).await {
                Ok(Repaired { differing, repaired, failed, .. }) => {
                    pause = REPAIR_LOOKS_EVERY;
                    if failed > 0 {
                        tracing::warn!(%node, differing, repaired, failed, "not all that differs could be repaired");
                    } else if repaired > 0 {
                        tracing::info!(%node, differing, repaired, "repaired what was not the same at another node");
                    }
                }
                Err(error) => {
                    let ago = self.compared(node).map_or_else(|| begun.elapsed(), |(ago, _)| ago);
                    if ago >= self.0.repair_every.saturating_mul(OVERDUE) {
                        tracing::warn!(%node, %error, ?ago, "comparing what lies here with another node is overdue");
                    } else {
                        tracing::debug!(%node, %error, "cannot compare what lies here with another node");
                    }
                    pause = (pause * 2)
                        .min(LONGEST_REPAIR_PAUSE)
                        .min(self.0.repair_every.max(REPAIR_LOOKS_EVERY));
                }
            }
        }
    }

    /// Has all nodes forget what was deleted, now and then.
    async fn keep_purged(&self) {
        let mut pause = REPAIR_LOOKS_EVERY;
        loop {
            sleep(pause).await;
            pause = REPAIR_LOOKS_EVERY;
            let ring = self.now();
            ring.let_go_of_rounds(REPAIR_WITHIN);
            if !ring.is_purge_due() {
                continue;
            }
            let begun = Instant::now();
            match ring.purge(Deadline::after(REPAIR_WITHIN), |_, _| {}).await {
                Ok(Some(Purged { upto, repaired })) => {
                    tracing::info!(?upto, repaired, took = ?begun.elapsed(), "what was deleted is forgotten");
                }
                // Something is kept for others that is older.
                Ok(None) => pause = LONGEST_REPAIR_PAUSE.min(self.0.purge.every),
                Err(error) => {
                    if self.is_purge_overdue() {
                        tracing::warn!(%error, "forgetting what was deleted is overdue; all nodes must answer");
                    } else {
                        tracing::debug!(%error, "what was deleted is kept");
                    }
                    pause = LONGEST_REPAIR_PAUSE.min(self.0.purge.every);
                }
            }
        }
    }

    /// Removes a copy that is given to nobody any more and, once the ring has its shape, whatever is left of one that arrived.
    async fn end_copies(&self, is_settled: bool) -> Result<()> {
        let end = move |served: &Served| {
            served.giving.end(&served.replica, None)?;
            if is_settled { served.replica.forget_copy() } else { Ok(()) }
        };
        self.0.here(end).await
    }

    /// Does work that nobody waits for at this node's own replica.
    pub(super) async fn tend<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Replica) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let replica = Arc::clone(self.replica());
        self.0.tending.run(move || work(&replica)).await.flatten()
    }

    async fn verify(&self, partition: u16) {
        match self.tend(move |replica| replica.verify_tree(partition)).await {
            Ok(wrong) if wrong.is_empty() => {}
            Ok(wrong) => {
                count(&self.0.served.counters.trees_wrong);
                tracing::error!(
                    partition,
                    leaves = wrong.len(),
                    "a Merkle tree was not what its rows come to; all are made anew"
                );
            }
            Err(error) => tracing::warn!(partition, %error, "cannot compare a Merkle tree with its rows"),
        }
    }

    /// Delivers what is kept for a node, if it answers, and drops what has been for too long. What it may have made alone is compared.
    async fn deliver_kept(&self, node: NodeId) -> Result<()> {
        let has_hints = self.has_hints(node)?;
        if has_hints {
            self.drop_old_hints(node).await?;
        }
        if !self.topology().has(node) {
            return Ok(());
        }
        // It is tried by others, and these wait until it answers.
        if self.0.served.peers.is_failing(node) {
            return Ok(());
        }
        let delivered = match has_hints {
            true => self.deliver_hints(node, Deadline::after(DELIVERY)).await.map(drop),
            false => Ok(()),
        };
        self.compare_unheard(node, Deadline::after(DELIVERY)).await.and(delivered)
    }

    /// Waits for a while until all members are heard of; from those that are there the newest catalogue is taken over, and their clocks are
    /// looked at.
    pub(crate) async fn find_members(&self, membership: &Membership) {
        let begun = Instant::now();
        let is_known = |node: &NodeId| *node == self.node() || self.0.served.peers.get(*node).is_ok();
        loop {
            let ring = self.now();
            ring.follow(membership).await;
            let nodes = ring.topology().nodes();
            let heard: BTreeSet<NodeId> = membership.seen().iter().map(|view| view.node).collect();
            let within = if nodes.iter().all(is_known) { GREET_WITHIN } else { FIND_WITHIN };
            if nodes.iter().all(|node| heard.contains(node)) || begun.elapsed() >= within {
                break;
            }
            sleep(FIND_EVERY).await;
        }
        self.now().compare_clocks(Deadline::after(GREET_WITHIN)).await;
    }

    /// What this node bears now.
    fn load(&self) -> Load {
        let served = &self.0.served;
        let stats = served.replica.engine().stats();
        let tables = stats.keyspaces.iter().flat_map(|keyspace| &keyspace.levels).map(|level| level.bytes);
        Load {
            bytes: tables.sum::<u64>() + stats.blob_bytes + stats.wal_bytes,
            waiting: (served.work.queued() + served.searches.queued()) as u64,
        }
    }

    /// Keeps where others are, so that they are found again when all nodes start at once.
    async fn keep_addresses(&self) -> Result<()> {
        let addresses = self.0.served.peers.addresses();
        let addresses: BTreeMap<u64, String> =
            addresses.into_iter().map(|(node, address)| (node.0, address)).collect();
        let encoded = postcard::to_allocvec(&addresses)
            .map_err(|error| Error::Internal(format!("addresses cannot be encoded: {error}")))?;
        self.0.here(move |served| served.replica.keep_addresses(encoded)).await
    }

    /// Follows where members are, and what the catalogue is.
    async fn follow(&self, membership: &Membership) {
        let served = &self.0.served;
        let topology = &served.topology;
        membership.goes_by((topology.epoch(), topology.digest()), served.replica.catalogue_version()).await;
        let nodes = membership.nodes().await;
        // Also nodes that are no members yet: they may be called.
        let is_other = |view: &&NodeView| view.node != served.node;
        let mut has_moved = false;
        for view in nodes.iter().filter(is_other) {
            match served.peers.is_at(view.node, &view.address) {
                Ok(is_new) => has_moved |= is_new,
                Err(error) => {
                    tracing::warn!(node = %view.node, address = view.address, %error, "a node says it is where nothing can be");
                }
            }
        }
        for view in nodes.iter().filter(is_other) {
            served.peers.is_heard(view.node, view.is_alive);
        }
        if has_moved && let Err(error) = self.keep_addresses().await {
            tracing::warn!(%error, "where other nodes are is not kept");
        }
        // What this node has given out, others may hold: it must not give it again, though its clock be set back while it is down.
        let record = |served: &Served| served.replica.record_clock();
        if let Err(error) = self.0.here(record).await {
            tracing::warn!(%error, "the newest version is not recorded");
        }
        let ahead = |view: &&NodeView| is_other(view) && view.is_alive && view.epoch > topology.epoch();
        if let Some(view) = nodes.iter().filter(ahead).max_by_key(|view| view.epoch)
            && let Err(error) = self.exchange_topologies(view.node, Deadline::after(DELIVERY)).await
        {
            tracing::warn!(from = %view.node, %error, "cannot take over the topology");
        }
        let mut newer: Vec<&NodeView> = nodes.iter().filter(|view| is_other(view) && view.is_alive).collect();
        newer.sort_by_key(|view| Reverse(view.catalogue));
        for view in newer {
            if view.catalogue <= served.replica.catalogue_version() {
                return;
            }
            match self.pull_catalogue(view.node, Deadline::after(DELIVERY)).await {
                Ok(true) => {
                    tracing::info!(from = %view.node, version = view.catalogue, "took over the catalogue")
                }
                Ok(false) => {}
                Err(error) => tracing::warn!(from = %view.node, %error, "cannot take over the catalogue"),
            }
        }
    }
}
