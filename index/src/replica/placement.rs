//! Which part of what the ring holds lies here.

use std::sync::atomic::{AtomicBool, Ordering};

use allidb_storage::{Durability, WriteBatch};
use bytes::Bytes;

use crate::{error::Result, placement::PARTITIONS, replica::Replica};

const LAYOUT: &[u8] = b"layout";
const ADDRESSES: &[u8] = b"addresses";
pub(super) const KEEPS_DELETES: &[u8] = b"keeps_deletes";

/// What others hold, too, and what they alone hold.
#[derive(Debug)]
pub(super) struct Placement {
    /// Whether there are others, so that what is deleted must be remembered.
    keeps_deletes: AtomicBool,
    /// For each partition, whether only others hold it.
    elsewhere: Box<[AtomicBool]>,
}

impl Placement {
    pub(super) fn new(keeps_deletes: bool) -> Self {
        let elsewhere = (0..PARTITIONS).map(|_| AtomicBool::new(false)).collect();
        Self { keeps_deletes: AtomicBool::new(keeps_deletes), elsewhere }
    }
}

impl Replica {
    /// The layout of the ring that was kept last, as it was handed over.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn layout(&self) -> Result<Option<Bytes>> {
        Ok(self.engine.get(self.keyspaces.cluster, LAYOUT)?)
    }

    /// Keeps the layout of the ring: durably, before this returns. If there are other nodes, then from now on what is deleted leaves
    /// tombstones, for as long as the node lives. `holds` says of each partition whether it lies here.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn keep_layout(&self, layout: Vec<u8>, has_others: bool, holds: impl Fn(u16) -> bool) -> Result<()> {
        let mut batch = WriteBatch::new();
        batch.put(self.keyspaces.cluster, LAYOUT, layout);
        for (partition, elsewhere) in (0..PARTITIONS).zip(&self.placement.elsewhere) {
            elsewhere.store(!holds(partition), Ordering::SeqCst);
        }
        if has_others {
            batch.put(self.keyspaces.local, KEEPS_DELETES, Vec::new());
            // Before, so that no write in between purges; one tombstone too many does no harm.
            self.placement.keeps_deletes.store(true, Ordering::SeqCst);
        }
        self.engine.write(batch, Durability::Sync)?;
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
