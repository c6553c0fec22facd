//! Hints: writes that a replica has not acknowledged, kept by who coordinated them until it does. They never count towards a consistency.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use allidb_index::{Deadline, Error, Hint, Replica, Result};

use super::{
    Inner, Ring,
    write::{Taken, taken},
    wrong::{Wrong, later},
};
use crate::{
    layout::NodeId,
    peer::proto::{Durability, WriteRequest},
};

/// Hints that are delivered in one call, and their bytes.
const BATCH: usize = 256;
const BATCH_BYTES: u64 = 4 << 20;

/// What is kept for one node.
#[derive(Debug, Default)]
struct Kept {
    bytes: AtomicU64,
    dropped: AtomicU64,
    delivered: AtomicU64,
    delivery: tokio::sync::Mutex<()>,
}

impl Kept {
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
    /// Writes that found no room, since the start: only repair brings them to the node.
    pub dropped: u64,
    /// Writes that were delivered, since the start.
    pub delivered: u64,
}

/// How much is kept for whom.
#[derive(Debug)]
pub(super) struct Hints {
    of: BTreeMap<NodeId, Kept>,
    most_bytes: u64,
}

impl Hints {
    /// Counts what was kept before.
    pub(super) fn open(
        replica: &Replica,
        nodes: impl Iterator<Item = NodeId>,
        most_bytes: u64,
    ) -> Result<Self> {
        let kept = |node: NodeId| {
            let hints = replica.hints(node.0, usize::MAX, u64::MAX)?;
            let bytes = AtomicU64::new(hints.iter().map(Hint::bytes).sum());
            Ok((node, Kept { bytes, ..Kept::default() }))
        };
        Ok(Self { of: nodes.map(kept).collect::<Result<_>>()?, most_bytes })
    }
}

impl Inner {
    /// Keeps mutations for a node that has not acknowledged them, if there is room.
    pub(super) async fn keep_hints(&self, node: NodeId, mutations: Vec<Vec<u8>>) {
        let Some(kept) = self.hints.of.get(&node).filter(|_| !self.is_wrong(Wrong::NoHints)) else { return };
        let (count, bytes) =
            (mutations.len() as u64, mutations.iter().map(|mutation| Hint::bytes_of(mutation)).sum::<u64>());
        // Room is taken before, so that a delivery that comes at once does not give back what was not taken yet.
        if kept.bytes.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) > self.hints.most_bytes {
            kept.release(bytes);
            kept.dropped.fetch_add(count, Ordering::Relaxed);
            return;
        }
        match self.here(move |served| served.replica.keep_hints(node.0, &mutations)).await {
            Ok(()) => {}
            Err(error) => {
                kept.release(bytes);
                tracing::error!(%node, %error, "writes that a node did not acknowledge cannot be kept for it");
                kept.dropped.fetch_add(count, Ordering::Relaxed);
            }
        }
    }
}

impl Ring {
    /// Delivers what is kept for a node, until nothing is left. Says how many writes it were.
    ///
    /// # Errors
    /// If the node does not take them; what it took is forgotten.
    pub async fn deliver_hints(&self, node: NodeId, deadline: Deadline) -> Result<u64> {
        let inner = &self.0;
        let Some(kept) = inner.hints.of.get(&node) else { return Ok(0) };
        // One at a time: what is delivered twice would be counted twice.
        let _delivery = kept.delivery.lock().await;
        let mut delivered = 0;
        loop {
            let hints = inner.here(move |served| served.replica.hints(node.0, BATCH, BATCH_BYTES)).await?;
            if hints.is_empty() {
                return Ok(delivered);
            }
            let now = inner.served.replica.wall().now_ms();
            let mutation = |hint: &Hint| match inner.is_wrong(Wrong::HintsLoseVersions) {
                true => later(&hint.mutation, now).into(),
                false => hint.mutation.clone(),
            };
            let mutations = hints.iter().map(mutation).collect();
            let durability = Durability::Sync.into();
            let request = WriteRequest { fence: inner.sent_fence(), mutations, durability };
            let mut peer = inner.peers.get(node)?;
            let reply = inner.call(node, deadline, peer.write(request)).await?;
            let taken = taken(node, &reply, hints.len())?;
            let count = |what: Taken| taken.iter().filter(|taken| **taken == what).count() as u64;
            let (yes, not_yet, never) = (count(Taken::Yes), count(Taken::NotYet), count(Taken::Never));
            let done = hints.into_iter().zip(&taken).filter(|(_, taken)| **taken != Taken::NotYet);
            let done: Vec<Hint> = done.map(|(hint, _)| hint).collect();
            let bytes = done.iter().map(Hint::bytes).sum();
            inner.here(move |served| served.replica.forget_hints(&done)).await?;
            kept.release(bytes);
            kept.delivered.fetch_add(yes, Ordering::Relaxed);
            kept.dropped.fetch_add(never, Ordering::Relaxed);
            delivered += yes;
            if not_yet > 0 {
                return Err(Error::Unavailable(format!(
                    "node {node} refused {not_yet} writes that were kept for it"
                )));
            }
        }
    }

    /// Figures of what is kept for others.
    pub fn hints(&self) -> Vec<HintCounts> {
        let counts = |(node, kept): (&NodeId, &Kept)| HintCounts {
            node: *node,
            bytes: kept.bytes.load(Ordering::Relaxed),
            dropped: kept.dropped.load(Ordering::Relaxed),
            delivered: kept.delivered.load(Ordering::Relaxed),
        };
        self.0.hints.of.iter().map(counts).collect()
    }
}
