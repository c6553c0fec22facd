//! What lies here of a partition, page by page, for whoever is to hold it, too.

use std::ops::Bound;

use allidb_storage::{Direction, Snapshot};
use serde::{Deserialize, Serialize};

use crate::{
    deadline::Deadline,
    error::{Error, Result},
    graph::Side,
    model::TenantId,
    replica::Replica,
    row::{
        EntityKey, StateRows, StoredRow,
        key::{decode_chunk_key, decode_token_row},
        register_version,
    },
    version::Version,
};

/// Entities of a page at most, and their bytes, unless one alone is larger.
const MOST: usize = 1_024;
const MOST_BYTES: usize = 4 << 20;

/// Asks for a page.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HoldingsRequest {
    /// Of which partition.
    pub partition: u16,
    /// What comes after this entity.
    pub after: Option<EntityKey>,
    /// Only what is in these leaves of its tree, which are in order; `None`: all.
    pub leaves: Option<Vec<u16>>,
}

impl Replica {
    /// The next entities of a partition, those that were deleted too, and what is held of each, as
    /// [`EntityState::encode`](crate::EntityState::encode) gives it; none if there are no more.
    ///
    /// # Errors
    /// If rows cannot be read.
    pub fn holdings(
        &self,
        _: TenantId,
        request: &HoldingsRequest,
        deadline: Deadline,
    ) -> Result<Vec<(EntityKey, Vec<u8>)>> {
        let prefix = request.partition.to_be_bytes();
        let after = request.after.as_ref().map(EntityKey::token_row);
        let lower = after.as_deref().map_or(Bound::Included(&prefix[..]), Bound::Excluded);
        let (snapshot, catalogue) = (self.engine.snapshot(), self.catalogue());
        let mut entities = Vec::new();
        for row in snapshot.scan(self.keyspaces.token, lower, Bound::Unbounded, Direction::Forward)? {
            deadline.check()?;
            let (key, _) = row?;
            if !key.starts_with(&prefix) || entities.len() == MOST {
                break;
            }
            let entity = decode_token_row(&key).map_err(|error| Error::corrupt("token", &key, error))?;
            let is_asked_for =
                request.leaves.as_ref().is_none_or(|leaves| leaves.binary_search(&entity.leaf()).is_ok());
            // What was dropped is being swept.
            if is_asked_for && catalogue.by_id(entity.collection).is_some() {
                entities.push(entity);
            }
        }
        let (mut held, mut bytes) = (Vec::with_capacity(entities.len()), 0);
        for entity in entities {
            let state = self.stored(&snapshot, &entity)?;
            bytes += state.len();
            if bytes > MOST_BYTES && !held.is_empty() {
                break;
            }
            held.push((entity, state));
        }
        Ok(held)
    }

    /// What lies here of an entity, encoded from its rows as they are stored.
    fn stored(&self, snapshot: &Snapshot, entity: &EntityKey) -> Result<Vec<u8>> {
        let (keyspaces, prefix) = (&self.keyspaces, entity.prefix());
        let rows_of = |keyspace| snapshot.prefix(keyspace, &prefix, Direction::Forward);
        let mut state = StateRows::new();
        let mut cleared = Version::ZERO;
        if let Some(bytes) = snapshot.get(keyspaces.entity, &prefix)? {
            state.put_entity(&bytes);
            let row = StoredRow::new(bytes).map_err(|error| Error::corrupt("entity", &prefix, error))?;
            cleared = row.edges_cleared();
        }
        for row in rows_of(keyspaces.vector)? {
            let (key, register) = row?;
            state.put_vector(&key[prefix.len()..], &register);
        }
        for row in rows_of(keyspaces.chunk)? {
            let (key, register) = row?;
            let (_, id) = decode_chunk_key(&key).map_err(|error| Error::corrupt("chunk", &key, error))?;
            state.put_chunk(&id, &register);
        }
        let sides = [(Side::Out, keyspaces.edge, "edge"), (Side::In, keyspaces.edge_in, "edge_in")];
        for (side, keyspace, keyspace_name) in sides {
            for row in rows_of(keyspace)? {
                let (key, register) = row?;
                let version = register_version(&register);
                // Of more edges than are swept at a time some lie beneath the marker still.
                if version.map_err(|error| Error::corrupt(keyspace_name, &key, error))? > cleared {
                    state.put_edge(side, &key[prefix.len()..], &register);
                }
            }
        }
        Ok(state.finish())
    }
}
