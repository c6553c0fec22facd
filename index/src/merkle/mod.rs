//! Merkle trees over what lies here: one for each partition, of two levels, so that two replicas find out with little said which of their
//! entities differ (as in Dynamo, §4.7; kept as sums, so that a write changes one leaf, and nothing is ever read again for it).
//!
//! | module | what it holds |
//! |---|---|
//! | `sums` | rows added up |
//!
//! A batch of writes carries what it changes of the sums as a row of its own, numbered; the trees in memory follow it. Now and then they are
//! saved, each with the number from which on rows are to be added when it is read again, and older rows go. So the trees are exact whenever the
//! node ends.

mod sums;

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use allidb_storage::{Direction, Durability, Engine, Keyspace, Snapshot, WriteBatch};
use parking_lot::{Mutex, MutexGuard, RwLock, RwLockReadGuard};

pub use sums::Sum;
pub(crate) use sums::{Kind, Place, Sums, cleared, kind_of, leaf_of, place_of, tokens_of};

use crate::{
    error::{Error, Result},
    placement::PARTITIONS,
};

/// Leaves of a partition's tree.
pub const LEAVES: u16 = 64 * 64;
/// Leaves of a branch, and branches of a tree.
pub const BRANCH: u16 = 64;
/// Changes of leaves from which on the trees are saved: some 40 MB of rows, as much as all trees are.
const SAVED_EVERY: u64 = 1 << 20;

const TREE: u8 = 0;
const CHANGE: u8 = 1;
/// That the trees are whole, and how they hash.
const WHOLE: &[u8] = &[4];

/// The leaves of a partition's tree.
type Tree = Box<[Sum]>;

/// The trees of all partitions.
pub(crate) struct Trees {
    keyspace: Keyspace,
    /// `None`: nothing is there.
    trees: Vec<Mutex<Option<Tree>>>,
    changed: Vec<AtomicBool>,
    /// Held by whoever writes until the trees have followed, and by whoever needs them as of one moment.
    gate: RwLock<()>,
    /// Whether writes are followed.
    follows: AtomicBool,
    /// Whether all that lies here is in them.
    is_whole: AtomicBool,
    seed: AtomicU64,
    /// The number of the next change.
    next: AtomicU64,
    /// Leaves that changed since the trees were saved, each time counted.
    waiting: AtomicU64,
    /// How often everything was forgotten. Held by whoever writes trees to the disk, or removes them; taken before the gate.
    generation: Mutex<u64>,
}

/// A batch that is being made, and what it changes of the sums if writes are followed. To be kept until it is committed.
pub(crate) struct Change<'t> {
    _gate: RwLockReadGuard<'t, ()>,
    pub(crate) sums: Option<Sums>,
}

fn tree_key(partition: u16) -> Vec<u8> {
    [&[TREE][..], &partition.to_be_bytes()].concat()
}

fn change_key(number: u64) -> Vec<u8> {
    [&[CHANGE][..], &number.to_be_bytes()].concat()
}

fn corrupt(key: &[u8], why: impl ToString) -> Error {
    Error::corrupt("merkle", key, why.to_string())
}

impl Trees {
    /// The trees as they were when the node ended, if it kept any that hash with this seed.
    pub(crate) fn open(engine: &Engine, keyspace: Keyspace, seed: u64) -> Result<Arc<Self>> {
        let flags = || std::iter::repeat_with(AtomicBool::default).take(usize::from(PARTITIONS)).collect();
        let trees = Self {
            keyspace,
            trees: std::iter::repeat_with(Mutex::default).take(usize::from(PARTITIONS)).collect(),
            changed: flags(),
            gate: RwLock::default(),
            follows: AtomicBool::new(false),
            is_whole: AtomicBool::new(false),
            seed: AtomicU64::new(seed),
            next: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            generation: Mutex::default(),
        };
        let whole = engine.get(keyspace, WHOLE)?;
        if whole.is_some_and(|bytes| bytes[..] == seed.to_be_bytes()) {
            // A node that cannot read them serves nevertheless: they are made anew.
            let is_loaded = match trees.load(&engine.snapshot()) {
                Ok(()) => true,
                Err(error) => {
                    tracing::error!(%error, "the Merkle trees cannot be read, and are made anew");
                    false
                }
            };
            trees.follows.store(is_loaded, Ordering::SeqCst);
            trees.is_whole.store(is_loaded, Ordering::SeqCst);
        }
        Ok(Arc::new(trees))
    }

    fn load(&self, snapshot: &Snapshot) -> Result<()> {
        let mut from = vec![0_u64; usize::from(PARTITIONS)];
        let mut next = 0;
        for row in snapshot.prefix(self.keyspace, &[TREE], Direction::Forward)? {
            let (key, value) = row?;
            let partition = key.get(1..).and_then(|bytes| bytes.try_into().ok()).map(u16::from_be_bytes);
            let partition = partition.ok_or_else(|| corrupt(&key, "it names no partition"))?;
            let (saved, leaves): (u64, Vec<(u16, Sum)>) =
                postcard::from_bytes(&value).map_err(|error| corrupt(&key, error))?;
            let place = from.get_mut(usize::from(partition));
            *place.ok_or_else(|| corrupt(&key, "there is no such partition"))? = saved;
            next = next.max(saved);
            for (leaf, sum) in leaves {
                self.add((partition, leaf), sum);
            }
        }
        for row in snapshot.prefix(self.keyspace, &[CHANGE], Direction::Forward)? {
            let (key, value) = row?;
            let number = key.get(1..).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes);
            let number = number.ok_or_else(|| corrupt(&key, "it has no number"))?;
            let sums: Vec<(Place, Sum)> =
                postcard::from_bytes(&value).map_err(|error| corrupt(&key, error))?;
            self.waiting.fetch_add(sums.len() as u64, Ordering::SeqCst);
            for (place @ (partition, _), sum) in sums {
                if from.get(usize::from(partition)).is_some_and(|from| number >= *from) {
                    self.add(place, sum);
                    self.has_changed(partition);
                }
            }
            next = next.max(number + 1);
        }
        self.next.store(next, Ordering::SeqCst);
        Ok(())
    }

    fn add(&self, (partition, leaf): Place, sum: Sum) {
        let Some(tree) = self.trees.get(usize::from(partition)) else { return };
        let mut tree = tree.lock();
        let tree = tree.get_or_insert_with(|| vec![Sum::default(); usize::from(LEAVES)].into());
        if let Some(leaf) = tree.get_mut(usize::from(leaf)) {
            leaf.add(sum);
        }
    }

    fn has_changed(&self, partition: u16) {
        if let Some(changed) = self.changed.get(usize::from(partition)) {
            changed.store(true, Ordering::SeqCst);
        }
    }

    /// Before anything is read that a batch is made from.
    pub(crate) fn enter(&self) -> Change<'_> {
        let gate = self.gate.read();
        let sums = self.follows.load(Ordering::SeqCst).then(|| self.fresh());
        Change { _gate: gate, sums }
    }

    /// What rows are added up in.
    pub(crate) fn fresh(&self) -> Sums {
        Sums::new(self.seed.load(Ordering::SeqCst))
    }

    /// Puts what a batch changes of the sums into it. When it is visible, [`follow`](Self::follow) is to be called.
    pub(crate) fn put(&self, sums: &Sums, batch: &mut WriteBatch) -> Result<()> {
        if sums.is_nothing() {
            return Ok(());
        }
        let number = self.next.fetch_add(1, Ordering::SeqCst);
        let rows: Vec<(&Place, &Sum)> = sums.by_place.iter().collect();
        let encoded = postcard::to_allocvec(&rows)
            .map_err(|error| Error::Internal(format!("sums cannot be encoded: {error}")))?;
        batch.put(self.keyspace, change_key(number), encoded);
        self.waiting.fetch_add(rows.len() as u64, Ordering::SeqCst);
        Ok(())
    }

    /// A batch is visible.
    pub(crate) fn follow(&self, sums: &Sums) {
        for (place, sum) in &sums.by_place {
            self.add(*place, *sum);
            self.has_changed(place.0);
        }
    }

    /// Whether so much has changed that the trees are to be saved.
    pub(crate) fn is_due(&self) -> bool {
        self.is_whole() && self.waiting.load(Ordering::SeqCst) >= SAVED_EVERY
    }

    /// Saves what changed, if the trees are whole.
    pub(crate) fn save(&self, engine: &Engine) -> Result<()> {
        let generation = self.generation.lock();
        match self.is_whole() {
            true => self.save_all(engine, &generation),
            false => Ok(()),
        }
    }

    fn save_all(&self, engine: &Engine, _generation: &MutexGuard<'_, u64>) -> Result<()> {
        let (next, changed) = {
            let _all = self.gate.write();
            let changed: Vec<(u16, Option<Tree>)> = (0..PARTITIONS)
                .zip(&self.changed)
                .filter(|(_, changed)| changed.swap(false, Ordering::SeqCst))
                .map(|(partition, _)| (partition, self.tree(partition)))
                .collect();
            self.waiting.store(0, Ordering::SeqCst);
            (self.next.load(Ordering::SeqCst), changed)
        };
        let mut rest = changed.into_iter();
        while let Some((partition, tree)) = rest.next() {
            if let Err(error) = self.save_tree(engine, partition, next, tree.as_deref()) {
                // Those that are not saved are the next time.
                self.has_changed(partition);
                rest.for_each(|(partition, _)| self.has_changed(partition));
                return Err(error);
            }
        }
        // The log is gapless: who finds this gone finds those written.
        let mut batch = WriteBatch::new();
        batch.delete_range(self.keyspace, change_key(0), Some(change_key(next).into()));
        batch.put(self.keyspace, WHOLE, self.seed.load(Ordering::SeqCst).to_be_bytes().to_vec());
        engine.write(batch, Durability::Flush)?;
        Ok(())
    }

    fn save_tree(&self, engine: &Engine, partition: u16, next: u64, tree: Option<&[Sum]>) -> Result<()> {
        let leaves: Vec<(u16, Sum)> = (0..LEAVES)
            .zip(tree.unwrap_or_default().iter().copied())
            .filter(|(_, sum)| *sum != Sum::default())
            .collect();
        let encoded = postcard::to_allocvec(&(next, leaves))
            .map_err(|error| Error::Internal(format!("a tree cannot be encoded: {error}")))?;
        let mut batch = WriteBatch::new();
        batch.put(self.keyspace, tree_key(partition), encoded);
        engine.write(batch, Durability::None)?;
        Ok(())
    }

    /// Whether all that lies here is in the trees.
    pub(crate) fn is_whole(&self) -> bool {
        self.is_whole.load(Ordering::SeqCst)
    }

    /// Forgets everything, and follows no more: until the trees are made anew.
    pub(crate) fn forget(&self, engine: &Engine, seed: u64) -> Result<()> {
        let mut generation = self.generation.lock();
        let _all = self.gate.write();
        *generation += 1;
        self.clear(engine, seed, false)
    }

    /// Forgets everything, follows what is written from now on, and gives what lies here at this moment, to be added with
    /// [`fill`](Self::fill), and which generation that is.
    pub(crate) fn begin(&self, engine: &Engine, seed: u64) -> Result<(Snapshot, u64)> {
        let mut generation = self.generation.lock();
        let _all = self.gate.write();
        *generation += 1;
        self.clear(engine, seed, true)?;
        Ok((engine.snapshot(), *generation))
    }

    fn clear(&self, engine: &Engine, seed: u64, follows: bool) -> Result<()> {
        self.is_whole.store(false, Ordering::SeqCst);
        self.follows.store(false, Ordering::SeqCst);
        let mut batch = WriteBatch::new();
        batch.delete_prefix(self.keyspace, vec![TREE]);
        batch.delete_prefix(self.keyspace, vec![CHANGE]);
        batch.delete(self.keyspace, WHOLE.to_vec());
        batch.use_reserve();
        engine.write(batch, Durability::None)?;
        for (tree, changed) in self.trees.iter().zip(&self.changed) {
            *tree.lock() = None;
            changed.store(false, Ordering::SeqCst);
        }
        self.seed.store(seed, Ordering::SeqCst);
        self.waiting.store(0, Ordering::SeqCst);
        self.follows.store(follows, Ordering::SeqCst);
        Ok(())
    }

    /// Adds what lay here when it began, of everything, unless everything was forgotten since then.
    pub(crate) fn fill(&self, engine: &Engine, sums: &Sums, begun: u64) -> Result<()> {
        let generation = self.generation.lock();
        if *generation == begun {
            self.follow(sums);
            self.save_all(engine, &generation)?;
            self.is_whole.store(true, Ordering::SeqCst);
        }
        Ok(())
    }

    /// What lies here at this moment, and the tree of a partition then.
    pub(crate) fn as_of_now(&self, engine: &Engine, partition: u16) -> (Snapshot, Option<Tree>) {
        let _all = self.gate.write();
        (engine.snapshot(), self.tree(partition))
    }

    /// The leaves of a partition's tree; `None`: nothing is there.
    pub(crate) fn tree(&self, partition: u16) -> Option<Tree> {
        self.trees.get(usize::from(partition))?.lock().clone()
    }
}
