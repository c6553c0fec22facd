//! Filling an index that was declared when entities were there already.
//!
//! Writes keep a declared index from the moment on that it is in the catalogue. The build goes through the rows, a partition after the
//! other, and adds the postings of each entity as it is then, under its latch. How far it came is written with what it adds, so that a
//! restart goes on from there. Only when all is there is the index used.

use std::sync::{Arc, atomic::Ordering};

use allidb_storage::{Direction, Durability, WriteBatch};

use super::posting::posting;
use crate::{
    codec::Decoder,
    error::{Error, Result},
    model::{CollectionId, IndexId, TenantId},
    placement::PARTITIONS,
    replica::Replica,
    row::{
        EntityKey, EntityRow,
        key::{collection_prefix, decode_entity},
    },
    secondary::term::terms_of,
};

/// Entities that are latched together.
const BATCH_ENTITIES: usize = 256;

pub(crate) const BUILT: &[u8] = b"index/";

/// The row, and its value, that says that the partitions before `partition` are in an index.
pub(crate) fn built_row(collection: CollectionId, index: IndexId, partition: u16) -> (Vec<u8>, Vec<u8>) {
    (built_key(collection, index), partition.to_be_bytes().to_vec())
}

fn built_key(collection: CollectionId, index: IndexId) -> Vec<u8> {
    [BUILT, &collection.0.to_be_bytes(), &index.0.to_be_bytes()].concat()
}

impl Replica {
    /// The partition that the build of an index goes on with; [`PARTITIONS`] if it is whole.
    pub(crate) fn built_upto(&self, collection: CollectionId, index: IndexId) -> Result<u16> {
        let key = built_key(collection, index);
        let Some(value) = self.engine.get(self.keyspaces.local, &key)? else { return Ok(0) };
        let partition = value[..].try_into().map(u16::from_be_bytes);
        partition.map_err(|_| Error::corrupt("local", &key, "it is not two bytes long"))
    }

    /// Forgets how far an index was built.
    pub(crate) fn forget_build(&self, collection: CollectionId, index: IndexId, batch: &mut WriteBatch) {
        batch.delete(self.keyspaces.local, built_key(collection, index));
    }

    /// Builds indexes one after the other, or what is missing of them.
    pub(crate) fn build_in_background(
        self: &Arc<Self>,
        tenant: TenantId,
        collection: CollectionId,
        indexes: Vec<IndexId>,
    ) {
        let replica = Arc::clone(self);
        let build = move |index: IndexId| {
            if let Err(error) = replica.build_index(tenant, collection, index)
                && !replica.closed.load(Ordering::Acquire)
            {
                tracing::error!(
                    %error, collection = collection.0, index = index.0,
                    "an index could not be built and is not used; a restart goes on with it"
                );
            }
        };
        let work = move || indexes.into_iter().for_each(build);
        self.background.run("index-build", Box::new(work));
    }

    fn build_index(&self, tenant: TenantId, collection: CollectionId, index: IndexId) -> Result<()> {
        let begun = std::time::Instant::now();
        let mut entities = 0;
        for partition in self.built_upto(collection, index)?..PARTITIONS {
            let prefix = collection_prefix(partition, tenant, collection);
            let snapshot = self.engine.snapshot();
            let mut rows = snapshot.prefix(self.keyspaces.entity, &prefix, Direction::Forward)?;
            loop {
                if self.closed.load(Ordering::Acquire) {
                    return Err(Error::FailedPrecondition("the replica is closing".into()));
                }
                let mut keys = Vec::with_capacity(BATCH_ENTITIES);
                for row in rows.by_ref().take(BATCH_ENTITIES) {
                    let (key, _) = row?;
                    let decoded = decode_entity(&mut Decoder::new(&key));
                    keys.push(decoded.map_err(|error| Error::corrupt("entity", &key, error))?);
                }
                entities += keys.len();
                let is_last = keys.len() < BATCH_ENTITIES;
                let done = is_last.then_some(partition + 1);
                if !self.add_postings(collection, index, &keys, done)? {
                    // It was dropped.
                    return Ok(());
                }
                if is_last {
                    break;
                }
            }
        }
        let catalogue = self.catalogue();
        let built = catalogue.by_id(collection).and_then(|collection| collection.index_by_id(index));
        if let Some(built) = built {
            built.state.set_built();
            tracing::info!(field = %built.field, entities, took = ?begun.elapsed(), "an index was built");
        }
        Ok(())
    }

    /// Adds the postings of some entities as they are now. False if there is no such index any more.
    fn add_postings(
        &self,
        collection: CollectionId,
        index: IndexId,
        entities: &[EntityKey],
        done: Option<u16>,
    ) -> Result<bool> {
        // Held until they are written, so that what is dropped is swept after them.
        let _gate = self.catalogue_gate.read();
        let catalogue = self.catalogue();
        let found = catalogue.by_id(collection).and_then(|collection| collection.index_by_id(index));
        let Some(found) = found else { return Ok(false) };
        let _latched = self.latches.acquire(entities.iter());
        let mut batch = WriteBatch::new();
        for entity in entities {
            let key = entity.prefix();
            let Some(bytes) = self.engine.get(self.keyspaces.entity, &key)? else { continue };
            let row = EntityRow::decode(&bytes).map_err(|error| Error::corrupt("entity", &key, error))?;
            let terms = terms_of(&found.field, &row);
            if terms.is_empty() {
                continue;
            }
            let number = self.numbered_entity(entity, &mut batch)?;
            for term in terms {
                batch.put(self.keyspaces.posting, posting(collection, index, &term, number), Vec::new());
            }
        }
        if let Some(partition) = done {
            let (key, value) = built_row(collection, index, partition);
            batch.put(self.keyspaces.local, key, value);
        }
        if !batch.is_empty() {
            self.engine.write(batch, Durability::None)?;
        }
        Ok(true)
    }
}
