//! Mutations that other nodes have not acknowledged, kept until they do.

use std::{ops::Bound, sync::atomic::Ordering};

use allidb_storage::{Direction, Durability, Engine, Snapshot, WriteBatch};
use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    error::{Error, Result},
    keyspaces::Keyspaces,
    mutation::Mutation,
    replica::Replica,
    version::Version,
};

const HINT: &[u8] = b"hint/";
const OUTBOX: &[u8] = b"outbox/";

/// A mutation that is kept for another node.
#[derive(Clone, Debug)]
pub struct Hint {
    key: Bytes,
    /// As [`Mutation::encode`] gave it for that node.
    pub mutation: Bytes,
}

impl Hint {
    /// The mutation's version; zero if that cannot be read.
    pub fn version(&self) -> Version {
        Mutation::version_of(&self.mutation).unwrap_or_default()
    }

    /// When the mutation was planned, in milliseconds since the Unix epoch; 0 if that cannot be read.
    pub fn planned_ms(&self) -> u64 {
        self.version().millis()
    }

    /// Bytes that it takes, about.
    pub fn bytes(&self) -> u64 {
        Self::bytes_of(&self.mutation)
    }

    /// Bytes that a mutation takes as a hint, about.
    pub fn bytes_of(mutation: &[u8]) -> u64 {
        (HINT.len() + 8 + Version::BYTES + 8 + mutation.len()) as u64
    }
}

/// Bytes of what was in the outbox when the node went down.
pub(super) fn outbox_bytes(engine: &Engine, keyspaces: &Keyspaces) -> Result<u64> {
    bytes_kept(engine, keyspaces, OUTBOX)
}

fn bytes_kept(engine: &Engine, keyspaces: &Keyspaces, prefix: &[u8]) -> Result<u64> {
    let snapshot = engine.snapshot();
    let rows = snapshot.prefix(keyspaces.local, prefix, Direction::Forward)?;
    rows.map(|row| Ok(Hint::bytes_of(&row?.1))).sum()
}

/// The nodes for which something is kept, and the version of the oldest for each.
pub(super) fn oldest_hints(snapshot: &Snapshot, keyspaces: &Keyspaces) -> Result<Vec<(u64, Version)>> {
    let mut oldest = Vec::new();
    let mut from = HINT.to_vec();
    loop {
        let mut rows =
            snapshot.scan(keyspaces.local, Bound::Included(&from), Bound::Unbounded, Direction::Forward)?;
        let Some((key, _)) = rows.next().transpose()?.filter(|(key, _)| key.starts_with(HINT)) else {
            return Ok(oldest);
        };
        let (of_node, rest) = key.split_at_checked(HINT.len() + 8).unwrap_or((&key, &[]));
        let node = of_node.get(HINT.len()..).and_then(|node| node.try_into().ok()).map(u64::from_be_bytes);
        let version = rest.get(..Version::BYTES).and_then(Version::from_bytes);
        let both = node.zip(version);
        oldest.push(both.ok_or_else(|| Error::corrupt("local", &key, "it names no node or version"))?);
        // Behind all hints for this node.
        from = [of_node, &[u8::MAX; Version::BYTES + 9]].concat();
    }
}

/// The rows of the outbox.
pub(super) fn outbox_rows(
    snapshot: &Snapshot,
    keyspaces: &Keyspaces,
) -> Result<impl Iterator<Item = Result<(Bytes, Bytes)>>> {
    let rows = snapshot.prefix(keyspaces.local, OUTBOX, Direction::Forward)?;
    Ok(rows.map(|row| row.map_err(Error::from)))
}

fn prefix(node: u64) -> Vec<u8> {
    [HINT, &node.to_be_bytes()].concat()
}

/// By version; the same mutation, kept twice, is one.
fn row_key(prefix: &[u8], mutation: &[u8]) -> Vec<u8> {
    let version = Mutation::version_of(mutation).unwrap_or_default();
    [prefix, &version.to_bytes(), &xxh3_64(mutation).to_be_bytes()].concat()
}

impl Replica {
    /// The nodes for which writes are kept.
    ///
    /// # Errors
    /// If that cannot be read.
    pub fn kept_for(&self) -> Result<Vec<u64>> {
        let oldest = oldest_hints(&self.engine.snapshot(), &self.keyspaces)?;
        Ok(oldest.into_iter().map(|(node, _)| node).collect())
    }

    /// Keeps mutations for a node, durably, in the order of their versions. Gives the bytes that they take, about: one that is kept already
    /// takes none.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn keep_hints(&self, node: u64, mutations: &[Vec<u8>]) -> Result<u64> {
        let mut batch = WriteBatch::new();
        let mut bytes = 0;
        for mutation in mutations {
            let key = row_key(&prefix(node), mutation);
            if self.engine.get(self.keyspaces.local, &key)?.is_some() {
                continue;
            }
            bytes += Hint::bytes_of(mutation);
            batch.put(self.keyspaces.local, key, mutation.clone());
        }
        self.engine.write(batch, Durability::Sync)?;
        Ok(bytes)
    }

    /// The oldest that are kept for a node, after one of them: so many, and of so many bytes, at most, but one at least.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn hints(&self, node: u64, after: Option<&Hint>, most: usize, most_bytes: u64) -> Result<Vec<Hint>> {
        self.kept(&prefix(node), after, most, most_bytes)
    }

    /// Bytes of all that is kept for a node, about.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn hint_bytes(&self, node: u64) -> Result<u64> {
        bytes_kept(&self.engine, &self.keyspaces, &prefix(node))
    }

    /// Bytes of the outbox, about.
    pub fn outbox_bytes(&self) -> u64 {
        self.outbox_bytes.load(Ordering::Relaxed)
    }

    /// The oldest of what follows from writes here and must be done where others hold it, after one of them: so many, and of so many bytes, at
    /// most, but one at least.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn outbox(&self, after: Option<&Hint>, most: usize, most_bytes: u64) -> Result<Vec<Hint>> {
        self.kept(OUTBOX, after, most, most_bytes)
    }

    /// Has mutations be made where others hold what they are about, unless that turns out to be needless; gives them as they are kept.
    ///
    /// # Errors
    /// If they cannot be written, or were planned too long ago.
    pub fn post_all(&self, mutations: &[Mutation], durability: Durability) -> Result<Vec<Hint>> {
        let _floor = self.watermarks.may_post(mutations)?;
        let mut batch = WriteBatch::new();
        let mut posted = Vec::with_capacity(mutations.len());
        for mutation in mutations {
            let Some(bytes) = mutation.encode(|_| true)? else { continue };
            let hint = Hint { key: row_key(OUTBOX, &bytes).into(), mutation: bytes.into() };
            batch.put(self.keyspaces.local, hint.key.to_vec(), hint.mutation.to_vec());
            posted.push(hint);
        }
        self.engine.write(batch, durability)?;
        self.outbox_bytes.fetch_add(posted.iter().map(Hint::bytes).sum(), Ordering::Relaxed);
        Ok(posted)
    }

    /// Has a mutation be made where others hold what it is about, for sure, once the batch is written. Gives the bytes that the outbox has more
    /// then, about: see [`is_posted`](Self::is_posted).
    ///
    /// # Errors
    /// If it cannot be told whether it is there already.
    pub(super) fn post(&self, mutation: Vec<u8>, batch: &mut WriteBatch) -> Result<u64> {
        let key = row_key(OUTBOX, &mutation);
        if self.engine.get(self.keyspaces.local, &key)?.is_some() {
            return Ok(0);
        }
        let bytes = Hint::bytes_of(&mutation);
        batch.put(self.keyspaces.local, key, mutation);
        Ok(bytes)
    }

    /// Takes note that a batch is written that posted so many bytes.
    pub(super) fn is_posted(&self, bytes: u64) {
        self.outbox_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn kept(&self, prefix: &[u8], after: Option<&Hint>, most: usize, most_bytes: u64) -> Result<Vec<Hint>> {
        let mut hints = Vec::new();
        let mut bytes = 0;
        let rows = self.engine.snapshot();
        let from = match after {
            Some(after) => Bound::Excluded(&after.key[..]),
            None => Bound::Included(prefix),
        };
        for row in rows.scan(self.keyspaces.local, from, Bound::Unbounded, Direction::Forward)? {
            let (key, mutation) = row?;
            if hints.len() == most || !key.starts_with(prefix) {
                break;
            }
            let hint = Hint { key, mutation };
            bytes += hint.bytes();
            if bytes > most_bytes && !hints.is_empty() {
                break;
            }
            hints.push(hint);
        }
        Ok(hints)
    }

    /// Forgets what was delivered.
    ///
    /// # Errors
    /// If it cannot be written. They are there still then, and may be delivered again: that does no harm.
    pub fn forget_hints(&self, hints: &[Hint]) -> Result<()> {
        let (mut batch, mut bytes) = (WriteBatch::new(), 0);
        for hint in hints {
            // Whoever made it and whoever delivers it may both forget it.
            if hint.key.starts_with(OUTBOX) && self.engine.get(self.keyspaces.local, &hint.key)?.is_some() {
                bytes += hint.bytes();
            }
            batch.delete(self.keyspaces.local, hint.key.to_vec());
        }
        self.engine.write(batch, Durability::None)?;
        let less = |all: u64| Some(all.saturating_sub(bytes));
        // The closure always gives something.
        self.outbox_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).ok();
        Ok(())
    }
}
