//! Entities put together from their rows, as far as a read mask asks.

use std::{collections::BTreeMap, sync::Arc};

use allidb_storage::Direction;

use crate::{
    error::{Error, Result},
    merge::EntityState,
    model::{Chunk, Collection, Entity, ReadMask, SpaceId},
    replica::{Reader, register},
    row::{
        ChunkContent, EntityKey, StoredRow, VectorContent,
        key::{decode_chunk_key, decode_vector_key},
    },
};

/// A vector as it lies in the store.
pub(crate) struct StoredVector {
    /// Whose it is; empty: the entity's own.
    pub(crate) chunk: String,
    pub(crate) space: SpaceId,
    pub(crate) numbers: Arc<[f32]>,
}

/// A vector space named by a read mask must exist.
pub(crate) fn check_mask(mask: &ReadMask, collection: &Collection) -> Result<()> {
    mask.vector_spaces.iter().try_for_each(|space| collection.space(space).map(|_| ()))
}

impl Reader<'_> {
    /// The entity with everything that the mask asks for.
    pub(crate) fn materialise(
        &self,
        key: &EntityKey,
        row: &StoredRow,
        collection: &Collection,
        mask: &ReadMask,
    ) -> Result<Entity> {
        let mut entity = self.fields(key, row, mask)?;
        self.add_chunks(key, &mut entity, mask)?;
        if mask.wants_vectors() || mask.chunk_vectors {
            // A key that ends after an empty chunk id is the entity's own.
            let prefix = if mask.chunk_vectors { key.prefix() } else { key.chunk("") };
            for vector in self.vectors(&prefix)? {
                add_vector(&mut entity, collection, mask, vector);
            }
        }
        Ok(entity)
    }

    fn add_chunks(&self, key: &EntityKey, entity: &mut Entity, mask: &ReadMask) -> Result<()> {
        if !mask.chunks {
            return Ok(());
        }
        for row in self.snapshot.prefix(self.replica.keyspaces.chunk, &key.prefix(), Direction::Forward)? {
            let (row_key, bytes) = row?;
            let (_, id) =
                decode_chunk_key(&row_key).map_err(|error| Error::corrupt("chunk", &row_key, error))?;
            let content = register::<ChunkContent>("chunk", &row_key, &bytes)?.value;
            if let Some(content) = content {
                entity.chunks.insert(id, chunk_of(content));
            }
        }
        Ok(())
    }

    /// The vectors whose keys begin with `prefix`.
    pub(crate) fn vectors(&self, prefix: &[u8]) -> Result<Vec<StoredVector>> {
        let mut vectors = Vec::new();
        for row in self.snapshot.prefix(self.replica.keyspaces.vector, prefix, Direction::Forward)? {
            let (key, bytes) = row?;
            let (_, name) = decode_vector_key(&key).map_err(|error| Error::corrupt("vector", &key, error))?;
            if let Some(VectorContent(vector)) = register("vector", &key, &bytes)?.value {
                vectors.push(StoredVector { chunk: name.chunk, space: name.space, numbers: vector });
            }
        }
        Ok(vectors)
    }
}

/// The entity of a state, with everything that the mask asks for. Whether it is there is told by its row.
pub(super) fn assemble(
    key: &EntityKey,
    row: &StoredRow,
    state: &EntityState,
    collection: &Collection,
    mask: &ReadMask,
) -> Result<Entity> {
    let entity = row.entity(&key.id, mask);
    let mut entity = entity.map_err(|error| Error::corrupt("entity", &key.prefix(), error))?;
    for (id, chunk) in state.chunks.iter().filter(|_| mask.chunks) {
        chunk.value.clone().map(|content| entity.chunks.insert(id.clone(), chunk_of(content)));
    }
    for (name, vector) in state.vectors.iter().filter(|(name, _)| mask.chunk_vectors || name.chunk.is_empty())
    {
        let Some(VectorContent(numbers)) = vector.value.clone() else { continue };
        let (chunk, space) = (name.chunk.clone(), name.space);
        add_vector(&mut entity, collection, mask, StoredVector { chunk, space, numbers });
    }
    Ok(entity)
}

fn chunk_of(ChunkContent { text, metadata, sources }: ChunkContent) -> Chunk {
    Chunk { text, metadata, sources, vectors: BTreeMap::new() }
}

/// Adds a vector to whom it belongs, if the mask asks for it.
fn add_vector(
    entity: &mut Entity,
    collection: &Collection,
    mask: &ReadMask,
    StoredVector { chunk, space, numbers }: StoredVector,
) {
    let Some(space) = collection.space_by_id(space) else { return };
    let is_it = |asked: &String| collection.space(asked).is_ok_and(|asked| asked.id == space.id);
    let to = match entity.chunks.get_mut(&chunk) {
        Some(chunk) => &mut chunk.vectors,
        None if chunk.is_empty() && (mask.vectors || mask.vector_spaces.iter().any(is_it)) => {
            &mut entity.vectors
        }
        None => return,
    };
    to.insert(space.spec.name.clone(), numbers.to_vec());
}
