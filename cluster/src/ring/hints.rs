//! Hints: writes that a replica has not acknowledged, kept by who coordinated them until it does. They never count towards a consistency.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use allidb_index::{Deadline, Error, Hint, Mutation, Replica, Result};
use allidb_storage::{Durability::Sync, Throttle};
use bytes::Bytes;
use parking_lot::RwLock;
use tokio::time::{Instant, sleep};

use super::{
    Inner, Ring,
    send::Taken,
    wrong::{Wrong, later},
};
use crate::{
    coordinator::{Consistency, WriteOptions},
    layout::NodeId,
    peer::Served,
};

/// Hints that are delivered in one call, and their bytes.
const BATCH: usize = 256;
const BATCH_BYTES: u64 = 4 << 20;

/// Bounds on what is kept for one node, and on how fast it is delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HintLimits {
    /// Bytes that are kept. What comes then is dropped, and counted.
    pub bytes: u64,
    /// How long a write is kept. What is older is dropped, and counted: only repair brings it to the node.
    pub age: Duration,
    /// Bytes that are delivered a second; 0: as many as the node takes.
    pub bytes_per_second: u64,
    /// Bytes of edges whose ends lie apart, and of what follows from deletions, that are kept for all nodes together until a quorum at each end has
    /// them. Beyond, such edges are refused.
    pub outbox_bytes: u64,
}

impl Default for HintLimits {
    fn default() -> Self {
        Self {
            bytes: 4 << 30,
            age: Duration::from_hours(24),
            bytes_per_second: 16 << 20,
            outbox_bytes: 256 << 20,
        }
    }
}

/// What is kept for one node.
#[derive(Debug)]
struct Kept {
    bytes: AtomicU64,
    dropped: AtomicU64,
    delivered: AtomicU64,
    delivery: tokio::sync::Mutex<()>,
    /// How often the batch is to be halved that is tried next.
    halvings: AtomicU32,
    throttle: Throttle,
}

impl Kept {
    fn new(bytes: u64, limits: HintLimits) -> Self {
        Self {
            bytes: AtomicU64::new(bytes),
            dropped: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            delivery: tokio::sync::Mutex::default(),
            halvings: AtomicU32::new(0),
            throttle: Throttle::new(limits.bytes_per_second),
        }
    }

    fn release(&self, bytes: u64) {
        let less = |all: u64| Some(all.saturating_sub(bytes));
        // The closure always gives something.
        self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).ok();
    }
}

/// Figures of the hints for one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HintCounts {
    /// For whom.
    pub node: NodeId,
    /// Bytes that are kept, about.
    pub bytes: u64,
    /// Writes that found no room, or were too old, since the start: only repair brings them to the node.
    pub dropped: u64,
    /// Writes that were delivered, since the start.
    pub delivered: u64,
}

/// How much is kept for whom.
#[derive(Debug)]
pub(super) struct Hints {
    of: RwLock<BTreeMap<NodeId, Arc<Kept>>>,
    pub(super) limits: HintLimits,
    /// What this node is to tell others is told by one at a time.
    outbox: tokio::sync::Mutex<()>,
    /// Writes of the outbox that were delivered.
    outbox_delivered: AtomicU64,
}

/// Figures of the outbox: what is to be made at other nodes for sure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutboxCounts {
    /// Bytes that are kept, about.
    pub bytes: u64,
    /// Writes that were delivered, since the start.
    pub delivered: u64,
}

impl Hints {
    /// Counts what was kept before, also for nodes that have left; this node may be among those for which something is: it may have had too much to do.
    pub(super) fn open(replica: &Replica, nodes: Vec<NodeId>, limits: HintLimits) -> Result<Self> {
        let (outbox, outbox_delivered) = (tokio::sync::Mutex::default(), AtomicU64::new(0));
        let hints = Self { of: RwLock::default(), limits, outbox, outbox_delivered };
        let before = replica.kept_for()?.into_iter().map(NodeId);
        nodes.into_iter().chain(before).try_for_each(|node| hints.of(replica, node).map(drop))?;
        Ok(hints)
    }

    /// What is kept for a node, if anything was since this node was started, or had been before.
    ///
    /// # Errors
    /// If that cannot be read.
    fn of(&self, replica: &Replica, node: NodeId) -> Result<Arc<Kept>> {
        if let Some(kept) = self.of.read().get(&node) {
            return Ok(Arc::clone(kept));
        }
        // Nobody keeps any meanwhile: whoever does asks for this first.
        let mut of = self.of.write();
        if let Some(kept) = of.get(&node) {
            return Ok(Arc::clone(kept));
        }
        let kept = Arc::new(Kept::new(replica.hint_bytes(node.0)?, self.limits));
        of.insert(node, Arc::clone(&kept));
        Ok(kept)
    }
}

impl Inner {
    /// Keeps mutations for a node that has not acknowledged them, if there is room.
    pub(super) async fn keep_hints(&self, node: NodeId, mutations: Vec<Vec<u8>>) {
        if self.is_wrong(Wrong::NoHints) {
            return;
        }
        let kept = match self.hints.of(&self.served.replica, node) {
            Ok(kept) => kept,
            Err(error) => {
                tracing::error!(%node, %error, "what is kept for a node cannot be read, and no more is kept for it");
                return;
            }
        };
        let (count, bytes) =
            (mutations.len() as u64, mutations.iter().map(|mutation| Hint::bytes_of(mutation)).sum::<u64>());
        // Room is taken before, so that a delivery that comes at once does not give back what was not taken yet.
        if kept.bytes.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) > self.hints.limits.bytes {
            kept.release(bytes);
            kept.dropped.fetch_add(count, Ordering::Relaxed);
            return;
        }
        let replica = Arc::clone(&self.served.replica);
        match self.keeping.run(move || replica.keep_hints(node.0, &mutations)).await.flatten() {
            Ok(kept_bytes) => kept.release(bytes.saturating_sub(kept_bytes)),
            Err(error) => {
                kept.release(bytes);
                tracing::error!(%node, %error, "writes that a node did not acknowledge cannot be kept for it");
                kept.dropped.fetch_add(count, Ordering::Relaxed);
            }
        }
    }
}

impl Inner {
    /// Delivers writes to a node, and forgets those that it took, or never will. Says how many it took, and how many it does not take yet.
    async fn deliver(
        &self,
        node: NodeId,
        kept: &Kept,
        hints: Vec<Hint>,
        deadline: Deadline,
    ) -> Result<(u64, u64)> {
        let now = self.served.replica.wall().now_ms();
        let mutation = |hint: &Hint| match self.is_wrong(Wrong::HintsLoseVersions) {
            true => later(&hint.mutation, now).into(),
            false => hint.mutation.clone(),
        };
        // What of it the node holds by now: another layout may have come since it was kept.
        let of_now = |hint: &Hint| -> Result<Option<Bytes>> {
            let holds = |partition: u16| self.served.topology.holds(node, partition);
            match Mutation::decode(&hint.mutation) {
                Ok(read) if !read.partitions().all(holds) => {
                    Ok(self.encoded_for(node, &read)?.map(Bytes::from))
                }
                // What cannot be read the node says.
                _ => Ok(Some(mutation(hint))),
            }
        };
        let (mut sent, mut mutations) = (Vec::new(), Vec::new());
        for hint in &hints {
            let of_now = of_now(hint)?;
            sent.push(of_now.is_some());
            mutations.extend(of_now);
        }
        let mut told = match mutations.is_empty() {
            true => Vec::new(),
            false => self.taken(node, mutations, deadline).await?,
        }
        .into_iter();
        let taken = |is_sent: bool| if is_sent { told.next().unwrap_or(Taken::NotYet) } else { Taken::Never };
        let taken: Vec<Taken> = sent.into_iter().map(taken).collect();
        let count = |what: Taken| taken.iter().filter(|taken| **taken == what).count() as u64;
        let (yes, not_yet, never) = (count(Taken::Yes), count(Taken::NotYet), count(Taken::Never));
        let done = hints.into_iter().zip(&taken).filter(|(_, taken)| **taken != Taken::NotYet);
        let done: Vec<Hint> = done.map(|(hint, _)| hint).collect();
        let bytes = done.iter().map(Hint::bytes).sum();
        self.here(move |served| served.replica.forget_hints(&done)).await?;
        kept.release(bytes);
        kept.delivered.fetch_add(yes, Ordering::Relaxed);
        kept.dropped.fetch_add(never, Ordering::Relaxed);
        Ok((yes, not_yet))
    }

    /// Whether as many replicas of everything that a write touches may answer as a quorum needs.
    fn is_within_reach(&self, mutation: &Mutation) -> bool {
        let answers = |node: &&NodeId| **node == self.served.node || !self.served.peers.is_paused(**node);
        mutation.partitions().all(|partition| {
            let quorum = self.deciders(partition, Consistency::Quorum);
            quorum.is_met(&quorum.nodes().iter().filter(answers).copied().collect::<Vec<_>>())
        })
    }
}

impl Ring {
    /// Drops what has been kept for a node for too long, or until others went on without this one. Says how many writes it were.
    ///
    /// # Errors
    /// If it cannot be read, or not be forgotten.
    pub async fn drop_old_hints(&self, node: NodeId) -> Result<u64> {
        let inner = &self.0;
        let kept = inner.hints.of(self.replica(), node)?;
        // What is under way is not counted as dropped.
        let _delivery = kept.delivery.lock().await;
        let age = u64::try_from(inner.hints.limits.age.as_millis()).unwrap_or(u64::MAX);
        let before = match self.topology().has(node) {
            true => self.replica().wall().now_ms().saturating_sub(age),
            // It has left.
            false => u64::MAX,
        };
        let given_up = self.replica().given_up();
        // Mostly the first is not old.
        let (mut dropped, mut most) = (0, 1);
        loop {
            let forget_old = move |replica: &Replica| {
                let mut old = replica.hints(node.0, None, most, BATCH_BYTES)?;
                // The oldest come first.
                old.retain(|hint| hint.planned_ms() < before || hint.version() <= given_up);
                replica.forget_hints(&old)?;
                Ok(old)
            };
            let old = inner.here(move |served| forget_old(&served.replica)).await?;
            if old.is_empty() {
                break;
            }
            most = BATCH;
            dropped += old.len() as u64;
            kept.release(old.iter().map(Hint::bytes).sum());
            kept.dropped.fetch_add(old.len() as u64, Ordering::Relaxed);
        }
        if dropped > 0 {
            tracing::warn!(%node, dropped, "writes that were kept for a node for too long are dropped");
        }
        Ok(dropped)
    }

    /// Delivers what is kept for a node, until nothing is left or the deadline has passed; not faster than it may be. Says how many writes it
    /// were.
    ///
    /// # Errors
    /// If the node does not take them; what it took is forgotten.
    pub async fn deliver_hints(&self, node: NodeId, deadline: Deadline) -> Result<u64> {
        let inner = &self.0;
        let kept = inner.hints.of(self.replica(), node)?;
        // One at a time: what is delivered twice would be counted twice.
        let _delivery = kept.delivery.lock().await;
        let (mut delivered, mut refused, mut after) = (0, 0, None);
        while !deadline.has_passed() {
            let most = BATCH >> kept.halvings.load(Ordering::Relaxed);
            let last: Option<Hint> = after.clone();
            let read = move |served: &Served| served.replica.hints(node.0, last.as_ref(), most, BATCH_BYTES);
            let hints = inner.here(read).await?;
            let Some(last) = hints.last().cloned() else { break };
            let (count, bytes) = (hints.len(), hints.iter().map(|hint| hint.mutation.len()).sum());
            let taken = match inner.deliver(node, &kept, hints.clone(), deadline).await {
                // It will never understand this one, and others wait behind it.
                Err(Error::Invalid { why, .. }) if hints.len() == 1 => {
                    tracing::error!(%node, why, "a write that was kept for a node is dropped");
                    kept.dropped.fetch_add(1, Ordering::Relaxed);
                    kept.release(hints.iter().map(Hint::bytes).sum());
                    inner.here(move |served| served.replica.forget_hints(&hints)).await.map(|()| (0, 0))
                }
                taken => taken,
            };
            // It may be that it cannot do so much at a time.
            let halvings = match taken.is_ok() {
                true => kept.halvings.load(Ordering::Relaxed).saturating_sub(1),
                false => (BATCH / most).ilog2() + 1,
            };
            kept.halvings.store(halvings.min(BATCH.ilog2()), Ordering::Relaxed);
            let (yes, not_yet) = taken?;
            delivered += yes;
            refused += not_yet;
            // It takes nothing: its disk may be full.
            if yes == 0 && not_yet as usize == count {
                break;
            }
            // What it does not take yet keeps nothing else waiting.
            after = Some(last);
            // Not beyond the deadline: the debt is not forgotten.
            let wait = kept.throttle.delay(bytes, Instant::now().into_std());
            sleep(wait.min(deadline.remaining())).await;
        }
        match refused {
            0 => Ok(delivered),
            _ => Err(Error::FailedPrecondition(format!(
                "node {node} refused {refused} writes that were kept for it"
            ))),
        }
    }

    /// Has what follows from writes here be made where others hold it. Says how many writes it were.
    ///
    /// # Errors
    /// If too few of those who hold it can be reached; the others have been served.
    pub async fn deliver_outbox(&self, deadline: Deadline) -> Result<u64> {
        let inner = &self.0;
        let _delivery = inner.hints.outbox.lock().await;
        let replica = self.replica();
        let (mut delivered, mut failure, mut after) = (0, None, None);
        // Edges that are being made are taken back, mostly.
        let made_ms = u64::try_from(2 * inner.served.call_timeout.as_millis()).unwrap_or(u64::MAX);
        let before = replica.wall().now_ms().saturating_sub(made_ms);
        while !deadline.has_passed() {
            let posted =
                inner.here(move |served| served.replica.outbox(after.as_ref(), BATCH, BATCH_BYTES)).await?;
            let Some(last) = posted.last() else { break };
            after = Some(last.clone());
            let (mut mutations, mut readable, mut done) = (Vec::new(), Vec::new(), Vec::new());
            for hint in posted {
                match Mutation::decode(&hint.mutation) {
                    // With its collection all of it has gone.
                    Ok(mutation) if mutation.entities().any(|entity| replica.is_dropped(entity)) => {
                        done.push(hint);
                    }
                    Ok(_) if hint.version() <= replica.given_up() => done.push(hint),
                    Ok(mutation) if mutation.is_edge() && hint.planned_ms() > before => {}
                    Ok(mutation) if !inner.is_within_reach(&mutation) => {
                        let why = "too few replicas answer of what follows from writes here";
                        failure = Some(Error::Unavailable(why.to_owned()));
                    }
                    Ok(mutation) => {
                        mutations.push(mutation);
                        readable.push(hint);
                    }
                    Err(error) => {
                        tracing::error!(%error, "what is to be done at other nodes cannot be read, and is dropped");
                        done.push(hint);
                    }
                }
            }
            let (durability, consistency) = (Sync, Consistency::Quorum);
            let options = WriteOptions { durability, consistency, deadline };
            for (hint, result) in readable.into_iter().zip(self.write_posted(mutations, options).await) {
                match result {
                    Ok(_) => done.push(hint),
                    // Nothing is closed before what is in the outbox: this was delivered once, and forgotten by a node that lost that.
                    Err(Error::Late { .. }) => done.push(hint),
                    Err(error) => failure = Some(error),
                }
            }
            delivered += done.len() as u64;
            inner.hints.outbox_delivered.fetch_add(done.len() as u64, Ordering::Relaxed);
            inner.here(move |served| served.replica.forget_hints(&done)).await?;
        }
        failure.map_or(Ok(delivered), Err)
    }

    /// Figures of the outbox.
    pub fn outbox(&self) -> OutboxCounts {
        OutboxCounts {
            bytes: self.replica().outbox_bytes(),
            delivered: self.0.hints.outbox_delivered.load(Ordering::Relaxed),
        }
    }

    /// Whether writes are kept for a node.
    ///
    /// # Errors
    /// If that cannot be read.
    pub(super) fn has_hints(&self, node: NodeId) -> Result<bool> {
        Ok(self.0.hints.of(self.replica(), node)?.bytes.load(Ordering::Relaxed) > 0)
    }

    /// Figures of what is kept for others.
    pub fn hints(&self) -> Vec<HintCounts> {
        let counts = |(node, kept): (&NodeId, &Arc<Kept>)| HintCounts {
            node: *node,
            bytes: kept.bytes.load(Ordering::Relaxed),
            dropped: kept.dropped.load(Ordering::Relaxed),
            delivered: kept.delivered.load(Ordering::Relaxed),
        };
        self.0.hints.of.read().iter().map(counts).collect()
    }
}
