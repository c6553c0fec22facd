//! Latches: one writer at a time for each entity, and one deletion of an end for each edge.

use std::{collections::HashSet, hash::BuildHasher};

use parking_lot::{Condvar, Mutex};
use xxhash_rust::xxh3::Xxh3DefaultBuilder;

use crate::row::EntityKey;

/// What is being written. A set is taken whole or waited for, so that there is no deadlock.
#[derive(Default)]
pub(crate) struct Latches {
    /// Hashes of it; two that collide merely wait for each other.
    held: Mutex<HashSet<u64>>,
    released: Condvar,
}

impl Latches {
    /// Waits until none of the entities is being written, then takes them all.
    pub(crate) fn acquire<'a>(&self, entities: impl Iterator<Item = &'a EntityKey>) -> Latched<'_> {
        self.acquire_all(entities.map(hash_of).collect())
    }

    /// The same of edges between two entities, whichever of both is called first.
    pub(crate) fn acquire_between<'a>(
        &self,
        ends: impl Iterator<Item = (&'a EntityKey, EntityKey)>,
    ) -> Latched<'_> {
        self.acquire_all(ends.map(|(one, other)| hash_between(one, &other)).collect())
    }

    fn acquire_all(&self, mut wanted: Vec<u64>) -> Latched<'_> {
        wanted.sort_unstable();
        wanted.dedup();
        let mut held = self.held.lock();
        while wanted.iter().any(|hash| held.contains(hash)) {
            self.released.wait(&mut held);
        }
        held.extend(&wanted);
        Latched { latches: self, hashes: wanted }
    }
}

fn hash_of(entity: &EntityKey) -> u64 {
    Xxh3DefaultBuilder::new().hash_one(entity)
}

fn hash_between(one: &EntityKey, other: &EntityKey) -> u64 {
    hash_of(one).wrapping_add(hash_of(other))
}

/// Gives them back when dropped.
pub(crate) struct Latched<'a> {
    latches: &'a Latches,
    /// In order.
    hashes: Vec<u64>,
}

impl Latched<'_> {
    /// Whether edges between two entities are among what is held.
    pub(crate) fn holds_between(&self, one: &EntityKey, other: &EntityKey) -> bool {
        self.hashes.binary_search(&hash_between(one, other)).is_ok()
    }
}

impl Drop for Latched<'_> {
    fn drop(&mut self) {
        let mut held = self.latches.held.lock();
        self.hashes.iter().for_each(|hash| {
            held.remove(hash);
        });
        self.latches.released.notify_all();
    }
}
