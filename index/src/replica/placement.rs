//! Which part of what the ring holds lies here.

use std::sync::atomic::{AtomicBool, Ordering};

use allidb_storage::{Durability, Engine, WriteBatch};
use bytes::Bytes;

use crate::{
    error::{Error, Result},
    keyspaces::Keyspaces,
    placement::PARTITIONS,
    replica::Replica,
};

const TOPOLOGY: &[u8] = b"topology";
/// Where a layout was kept before it could change.
const LAYOUT: &[u8] = b"layout";
const ADDRESSES: &[u8] = b"addresses";
pub(super) const LEFTOVERS: &[u8] = b"leftovers";
const KEEPS_DELETES: &[u8] = b"keeps_deletes";

/// What others hold, too, and what they alone hold.
#[derive(Debug)]
pub(super) struct Placement {
    /// Whether there are others, so that what is deleted must be remembered.
    keeps_deletes: AtomicBool,
    /// For each partition, whether only others hold it.
    elsewhere: Box<[AtomicBool]>,
    /// For each partition, whether only others hold it by now, and something may lie here still.
    left: Box<[AtomicBool]>,
    /// Whether it was said since the start which partitions lie here.
    is_known: AtomicBool,
}

impl Placement {
    pub(super) fn open(engine: &Engine, keyspaces: &Keyspaces) -> Result<Self> {
        let keeps_deletes = engine.get(keyspaces.local, KEEPS_DELETES)?.is_some();
        let left = engine.get(keyspaces.local, LEFTOVERS)?.unwrap_or_default();
        let is_left = |partition: u16| {
            left.get(usize::from(partition / 8)).is_some_and(|bits| bits >> (partition % 8) & 1 == 1)
        };
        Ok(Self {
            keeps_deletes: AtomicBool::new(keeps_deletes),
            elsewhere: (0..PARTITIONS).map(|_| AtomicBool::new(false)).collect(),
            left: (0..PARTITIONS).map(|partition| AtomicBool::new(is_left(partition))).collect(),
            is_known: AtomicBool::new(false),
        })
    }

    /// Whether something of a partition may lie here that only others hold.
    pub(super) fn is_left(&self, partition: u16) -> bool {
        self.left.get(usize::from(partition)).is_some_and(|left| left.load(Ordering::SeqCst))
    }

    fn is_now(&self, partition: u16, is_held: bool, is_left: bool) {
        for (of, is) in [(&self.elsewhere, !is_held), (&self.left, is_left)] {
            of.get(usize::from(partition)).into_iter().for_each(|of| of.store(is, Ordering::SeqCst));
        }
    }

    pub(super) fn is_let_go(&self, partition: u16) {
        self.left
            .get(usize::from(partition))
            .into_iter()
            .for_each(|left| left.store(false, Ordering::SeqCst));
    }
}

/// A bit for each partition of which something is left.
pub(super) fn encode_left(left: &[bool]) -> Vec<u8> {
    let byte = |bits: &[bool]| bits.iter().enumerate().map(|(at, left)| u8::from(*left) << at).sum();
    left.chunks(8).map(byte).collect()
}

/// The key of what was promised and accepted of something.
fn ballot_row(of: &str) -> Vec<u8> {
    format!("ballot {of}").into_bytes()
}

impl Replica {
    /// The layout of the ring that an earlier release kept, as it was handed over.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn layout(&self) -> Result<Option<Bytes>> {
        Ok(self.engine.get(self.keyspaces.cluster, LAYOUT)?)
    }

    /// The topology of the ring that was kept last, as it was handed over.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn topology(&self) -> Result<Option<Bytes>> {
        Ok(self.engine.get(self.keyspaces.cluster, TOPOLOGY)?)
    }

    /// What was promised and accepted last of what is to come, of the topology or whatever else nodes choose, as it was handed over.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn ballot(&self, of: &str) -> Result<Option<Bytes>> {
        Ok(self.engine.get(self.keyspaces.cluster, &ballot_row(of))?)
    }

    /// Keeps what was promised and accepted of what is to come: durably, before this returns.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn keep_ballot(&self, of: &str, ballot: Vec<u8>) -> Result<()> {
        let mut batch = WriteBatch::new();
        batch.put(self.keyspaces.cluster, ballot_row(of), ballot);
        batch.use_reserve();
        self.engine.write(batch, Durability::Sync)?;
        Ok(())
    }

    /// Keeps the topology of the ring: durably, before this returns. If there are other nodes, then from now on what is deleted leaves
    /// tombstones, for as long as the node lives. `holds` says of each partition whether it lies here.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn keep_topology(
        &self,
        topology: Vec<u8>,
        has_others: bool,
        holds: impl Fn(u16) -> bool,
    ) -> Result<()> {
        let mut batch = WriteBatch::new();
        batch.put(self.keyspaces.cluster, TOPOLOGY, topology);
        batch.delete(self.keyspaces.cluster, LAYOUT);
        if let Some(partition) = self.leftovers().into_iter().find(|partition| holds(*partition)) {
            return Err(Error::FailedPrecondition(format!(
                "something lies here still of partition {partition}, which this node held before"
            )));
        }
        // As long as the node has not heard what it holds, that is as it was kept.
        let was_known = self.placement.is_known.load(Ordering::SeqCst);
        let is_left = |partition: u16| {
            self.placement.is_left(partition) || (was_known && self.holds(partition) && !holds(partition))
        };
        let left: Vec<bool> = (0..PARTITIONS).map(is_left).collect();
        batch.put(self.keyspaces.local, LEFTOVERS, encode_left(&left));
        // Also when the disk is full: others may take it over then.
        batch.use_reserve();
        if has_others {
            batch.put(self.keyspaces.local, KEEPS_DELETES, Vec::new());
            // Before, so that no write in between purges; one tombstone too many does no harm.
            self.placement.keeps_deletes.store(true, Ordering::SeqCst);
        }
        self.engine.write(batch, Durability::Sync)?;
        for (partition, is_left) in (0..PARTITIONS).zip(left) {
            self.placement.is_now(partition, holds(partition), is_left);
        }
        self.placement.is_known.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// Where other nodes are, as it was handed over last.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn addresses(&self) -> Result<Option<Bytes>> {
        Ok(self.engine.get(self.keyspaces.local, ADDRESSES)?)
    }

    /// Keeps where other nodes are, so that they are found again though none of them is asked.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn keep_addresses(&self, addresses: Vec<u8>) -> Result<()> {
        let mut batch = WriteBatch::new();
        batch.put(self.keyspaces.local, ADDRESSES, addresses);
        self.engine.write(batch, Durability::Flush)?;
        Ok(())
    }

    pub(super) fn keeps_deletes(&self) -> bool {
        self.placement.keeps_deletes.load(Ordering::SeqCst)
    }

    /// Whether a partition lies here.
    pub(super) fn holds(&self, partition: u16) -> bool {
        let elsewhere = self.placement.elsewhere.get(usize::from(partition));
        elsewhere.is_none_or(|elsewhere| !elsewhere.load(Ordering::SeqCst))
    }
}
