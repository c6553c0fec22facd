//! Which collections have chunks: where there are none, entities and numbers are one to one.

use std::collections::HashMap;

use allidb_storage::{Direction, Sequence};
use parking_lot::Mutex;

use crate::{
    error::Result,
    model::CollectionId,
    placement::PARTITIONS,
    replica::{Reader, Replica},
    row::key::collection_prefix,
};

/// What is known of collections: the sequence since which they have had no chunk; `None`: they may have some.
#[derive(Debug, Default)]
pub(crate) struct Chunked(Mutex<HashMap<CollectionId, Option<Sequence>>>);

impl Chunked {
    /// A chunk is about to be written. Told before anybody can see it.
    pub(crate) fn has(&self, collection: CollectionId) {
        self.0.lock().insert(collection, None);
    }
}

impl Reader<'_> {
    /// Whether the collection may have chunks.
    pub(crate) fn may_have_chunks(&self, collection: CollectionId) -> Result<bool> {
        let Replica { chunked, engine, keyspaces, .. } = self.replica;
        // What was there once is seen still by who reads as of then.
        let may_have = |since: Option<Sequence>| since.is_none_or(|since| self.snapshot.sequence() < since);
        if let Some(since) = chunked.0.lock().get(&collection) {
            return Ok(may_have(*since));
        }
        let now = engine.snapshot();
        let mut has_some = false;
        for partition in 0..PARTITIONS {
            let prefix = collection_prefix(partition, self.tenant, collection);
            if let Some(row) = now.prefix(keyspaces.chunk, &prefix, Direction::Forward)?.next() {
                row?;
                has_some = true;
                break;
            }
        }
        let since = (!has_some).then(|| now.sequence());
        // Whoever wrote one meanwhile has said so, and is right.
        Ok(may_have(*chunked.0.lock().entry(collection).or_insert(since)))
    }
}
