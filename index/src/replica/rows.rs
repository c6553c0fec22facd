//! Entity rows that a request reads, each once.

use foldhash::{HashMap, HashMapExt};

use crate::{
    error::Result,
    replica::Reader,
    row::{EntityKey, StoredRow},
};

/// Rows that requests of a batch keep for each other at most.
const MAX_SHARED_ROWS: usize = 10_000;

/// Entity rows that were read; `None`: not there.
#[derive(Default)]
pub(crate) struct Rows(HashMap<EntityKey, Option<StoredRow>>);

impl Rows {
    /// The row of an entity.
    pub(crate) fn get(&mut self, reader: &Reader<'_>, entity: &EntityKey) -> Result<Option<&StoredRow>> {
        if !self.0.contains_key(entity) {
            let row = reader.row(entity)?.map(StoredRow::detached);
            self.0.insert(entity.clone(), row);
        }
        Ok(self.0.get(entity).and_then(Option::as_ref))
    }

    /// Forgets rows, if it has so many that they are better read again.
    pub(crate) fn trim(&mut self) {
        if self.0.len() > MAX_SHARED_ROWS {
            self.0 = HashMap::new();
        }
    }
}
