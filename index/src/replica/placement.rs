//! Which part of what the ring holds lies here.

use std::sync::atomic::{AtomicBool, Ordering};

use allidb_storage::{Durability, Engine, WriteBatch};
use bytes::Bytes;
use parking_lot::RwLock;

use crate::{
    error::{Error, Result},
    keyspaces::Keyspaces,
    placement::PARTITIONS,
    replica::Replica,
    version::Version,
};

pub(super) const TOPOLOGY: &[u8] = b"topology";
/// Where a layout was kept before it could change.
const LAYOUT: &[u8] = b"layout";
const ADDRESSES: &[u8] = b"addresses";
pub(super) const LEFTOVERS: &[u8] = b"leftovers";
pub(super) const SHARED: &[u8] = b"shared";
pub(super) const HEALING: &[u8] = b"healing";
const KEEPS_DELETES: &[u8] = b"keeps_deletes";
const GIVEN_UP: &[u8] = b"given_up";

/// What it means to this node that some of a ring went on without the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forced {
    /// It goes on. What others make of the catalogue that stay in an earlier era is older.
    GoesOn {
        /// In this era.
        era: u32,
    },
    /// Others go on without it. What it keeps for them is from a ring that is no more.
    GivenUp,
}

/// Who holds a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// Only other nodes.
    Elsewhere,
    /// Only this node.
    Alone,
    /// This node, and others hold all that it does.
    Shared,
}

/// What others hold, too, and what they alone hold.
#[derive(Debug)]
pub(super) struct Placement {
    /// Whether there are others, so that what is deleted must be remembered.
    keeps_deletes: AtomicBool,
    /// For each partition, whether only others hold it.
    elsewhere: Box<[AtomicBool]>,
    /// For each partition, whether only others hold it by now, and something may lie here still.
    left: Box<[AtomicBool]>,
    /// For each partition, whether others hold all that is to lie here.
    shared: Box<[AtomicBool]>,
    /// For each partition, whether this node has no say about it, since what lay here was damaged.
    healing: Box<[AtomicBool]>,
    /// Whether it was said since the start which partitions lie here.
    is_known: AtomicBool,
    /// What is kept here for other nodes up to this version is void.
    given_up: RwLock<Version>,
}

impl Placement {
    pub(super) fn open(engine: &Engine, keyspaces: &Keyspaces) -> Result<Self> {
        let keeps_deletes = engine.get(keyspaces.local, KEEPS_DELETES)?.is_some();
        let kept = |key: &[u8]| -> Result<Box<[AtomicBool]>> {
            let bits = engine.get(keyspaces.local, key)?.unwrap_or_default();
            Ok(decode_partitions(&bits).into_iter().map(AtomicBool::new).collect())
        };
        let given_up = engine.get(keyspaces.local, GIVEN_UP)?;
        let garbled = || Error::corrupt("local", GIVEN_UP, "it is no version");
        let given_up = given_up.map(|bytes| Version::from_bytes(&bytes).ok_or_else(garbled)).transpose()?;
        Ok(Self {
            given_up: RwLock::new(given_up.unwrap_or_default()),
            keeps_deletes: AtomicBool::new(keeps_deletes),
            elsewhere: (0..PARTITIONS).map(|_| AtomicBool::new(false)).collect(),
            left: kept(LEFTOVERS)?,
            shared: kept(SHARED)?,
            healing: kept(HEALING)?,
            is_known: AtomicBool::new(false),
        })
    }

    /// Whether something of a partition may lie here that only others hold.
    pub(super) fn is_left(&self, partition: u16) -> bool {
        is_set(&self.left, partition)
    }

    pub(super) fn is_shared(&self, partition: u16) -> bool {
        is_set(&self.shared, partition)
    }

    pub(super) fn is_healing(&self, partition: u16) -> bool {
        is_set(&self.healing, partition)
    }

    fn is_now(&self, partition: u16, held: Held, is_left: bool) {
        set(&self.elsewhere, partition, held == Held::Elsewhere);
        set(&self.left, partition, is_left);
        set(&self.shared, partition, held != Held::Alone);
    }

    pub(super) fn is_let_go(&self, partition: u16) {
        set(&self.left, partition, false);
    }

    pub(super) fn is_healed(&self, partitions: &[u16]) {
        partitions.iter().for_each(|partition| set(&self.healing, *partition, false));
    }
}

fn is_set(of: &[AtomicBool], partition: u16) -> bool {
    of.get(usize::from(partition)).is_some_and(|is| is.load(Ordering::SeqCst))
}

fn set(of: &[AtomicBool], partition: u16, is: bool) {
    of.get(usize::from(partition)).into_iter().for_each(|of| of.store(is, Ordering::SeqCst));
}

/// A bit for each partition.
pub(super) fn encode_partitions(of: &[bool]) -> Vec<u8> {
    let byte = |bits: &[bool]| bits.iter().enumerate().map(|(at, is)| u8::from(*is) << at).sum();
    of.chunks(8).map(byte).collect()
}

/// The same for all partitions; what is not there is false.
pub(super) fn decode_partitions(bits: &[u8]) -> Vec<bool> {
    let is = |partition: u16| {
        bits.get(usize::from(partition / 8)).is_some_and(|bits| bits >> (partition % 8) & 1 == 1)
    };
    (0..PARTITIONS).map(is).collect()
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
    /// tombstones, for as long as the node lives. `held` says of each partition whether it lies here.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn keep_topology(
        &self,
        topology: Vec<u8>,
        has_others: bool,
        held: impl Fn(u16) -> Held,
        forced: Option<Forced>,
    ) -> Result<()> {
        let _change = self.catalogue_change.lock();
        let holds = |partition: u16| held(partition) != Held::Elsewhere;
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
        batch.put(self.keyspaces.local, LEFTOVERS, encode_partitions(&left));
        let shared: Vec<bool> = (0..PARTITIONS).map(|partition| held(partition) != Held::Alone).collect();
        batch.put(self.keyspaces.local, SHARED, encode_partitions(&shared));
        // Also when the disk is full: others may take it over then.
        batch.use_reserve();
        if has_others {
            batch.put(self.keyspaces.local, KEEPS_DELETES, Vec::new());
            // Before, so that no write in between purges; one tombstone too many does no harm.
            self.placement.keeps_deletes.store(true, Ordering::SeqCst);
        }
        let catalogue = match forced {
            Some(Forced::GoesOn { era }) => self.catalogue().in_era(era),
            Some(Forced::GivenUp) | None => None,
        };
        if let Some(catalogue) = &catalogue {
            catalogue.put_numbers(self.keyspaces.cluster, &mut batch);
        }
        // Whatever was planned or heard of until now; not the wall clock, which may be ahead and be set right again.
        let given_up =
            (forced == Some(Forced::GivenUp)).then(|| Version::from_time(self.clock.last(), u64::MAX));
        if let Some(upto) = given_up {
            batch.put(self.keyspaces.local, GIVEN_UP, upto.to_bytes().to_vec());
        }
        self.engine.write(batch, Durability::Sync)?;
        if let Some(catalogue) = catalogue {
            self.catalogue_is(catalogue);
        }
        if let Some(upto) = given_up {
            *self.placement.given_up.write() = upto;
        }
        for (partition, is_left) in (0..PARTITIONS).zip(left) {
            self.placement.is_now(partition, held(partition), is_left);
        }
        self.placement.is_known.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// Up to which version what is kept here for other nodes is void: others went on without this node then. Zero if they never did.
    pub fn given_up(&self) -> Version {
        *self.placement.given_up.read()
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
