//! What lies here of a partition, page by page, for whoever is to hold it, too.

use std::ops::Bound;

use allidb_storage::Direction;
use serde::{Deserialize, Serialize};

use crate::{
    deadline::Deadline,
    error::{Error, Result},
    model::TenantId,
    replica::{Extent, Replica},
    row::{EntityKey, key::decode_token_row},
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
        let states = self.held_encoded(&entities, Extent::ALL, MOST_BYTES)?;
        Ok(entities.into_iter().zip(states).collect())
    }
}
