//! Rows of postings: collection, index, term, number of the entity. They have no value.

use std::collections::BTreeSet;

use allidb_storage::{Keyspace, WriteBatch};

use super::term::terms_of;
use crate::{
    error::{Error, Result},
    model::{Collection, CollectionId, IndexId},
    row::EntityRow,
};

/// What all postings of a collection begin with.
pub(crate) fn postings_of_collection(collection: CollectionId) -> Vec<u8> {
    collection.0.to_be_bytes().to_vec()
}

/// What all postings of an index begin with.
pub(crate) fn postings_of_index(collection: CollectionId, index: IndexId) -> Vec<u8> {
    [collection.0.to_be_bytes(), index.0.to_be_bytes()].concat()
}

pub(super) fn posting(collection: CollectionId, index: IndexId, term: &[u8], number: u64) -> Vec<u8> {
    [&postings_of_index(collection, index), term, &number.to_be_bytes()].concat()
}

/// The number at the end of a posting.
pub(super) fn number_of(posting: &[u8]) -> Result<u64> {
    let number = posting.last_chunk().map(|number| u64::from_be_bytes(*number));
    number.ok_or_else(|| Error::corrupt("posting", posting, "it is too short"))
}

/// The terms of an entity in each index that a write changes.
#[derive(Debug, Default)]
pub(crate) struct ChangedPostings(Vec<(IndexId, Terms, Terms)>);

type Terms = BTreeSet<Vec<u8>>;

/// What changes in the indexes of a collection where a row becomes another one.
pub(crate) fn changed_postings(
    collection: &Collection,
    before: &EntityRow,
    after: &EntityRow,
) -> ChangedPostings {
    let changed = collection.indexes.iter().filter_map(|index| {
        let (before, after) = (terms_of(&index.field, before), terms_of(&index.field, after));
        (before != after).then_some((index.id, before, after))
    });
    ChangedPostings(changed.collect())
}

impl ChangedPostings {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether there are postings after the write that need a number.
    pub(crate) fn adds(&self) -> bool {
        self.0.iter().any(|(_, _, after)| !after.is_empty())
    }

    /// Adds the changed postings of the entity with this number to a batch.
    pub(crate) fn write(
        &self,
        keyspace: Keyspace,
        collection: CollectionId,
        number: u64,
        batch: &mut WriteBatch,
    ) {
        for (index, before, after) in &self.0 {
            for term in before.difference(after) {
                batch.delete(keyspace, posting(collection, *index, term, number));
            }
            for term in after.difference(before) {
                batch.put(keyspace, posting(collection, *index, term, number), Vec::new());
            }
        }
    }
}
