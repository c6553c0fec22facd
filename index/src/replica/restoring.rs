//! Which snapshot is being restored, until all of it is here: a node that ends before says so when it is back, and goes on when it is told to.

use allidb_storage::{Durability, WriteBatch};

use super::Replica;
use crate::{
    catalogue::Catalogue,
    error::{Error, Result},
};

/// The row that names it.
const RESTORING: &[u8] = b"restoring";

impl Replica {
    /// The snapshot of which a part may be missing, as its restoring was begun at this node and did not end.
    ///
    /// # Errors
    /// If that cannot be read.
    pub fn restoring(&self) -> Result<Option<String>> {
        let Some(row) = self.engine.get(self.keyspaces.local, RESTORING)? else { return Ok(None) };
        let unreadable = |_| Error::corrupt("local", RESTORING, "it names no snapshot");
        String::from_utf8(row.to_vec()).map(Some).map_err(unreadable)
    }

    /// Whether the collections of a snapshot's catalogue are those that are here: of each the id, the name, and when it was created.
    ///
    /// # Errors
    /// If these bytes are no catalogue.
    pub fn has_restored(&self, encoded: &[u8]) -> Result<bool> {
        let (restored, _) = Catalogue::decode(encoded)?;
        let current = self.catalogue();
        Ok(restored.owned().all(|(tenant, of)| {
            let here = current.get(tenant, &of.name);
            here.is_ok_and(|here| (here.id, here.created_at) == (of.id, of.created_at))
        }))
    }

    /// Keeps which snapshot is being restored; `None`: none is any more.
    ///
    /// # Errors
    /// If that cannot be written.
    pub fn keep_restoring(&self, snapshot: Option<&str>) -> Result<()> {
        let mut batch = WriteBatch::new();
        match snapshot {
            Some(id) => batch.put(self.keyspaces.local, RESTORING.to_vec(), id.as_bytes().to_vec()),
            None => batch.delete(self.keyspaces.local, RESTORING.to_vec()),
        }
        self.engine.commit(batch, Durability::Sync, |_| ())?;
        Ok(())
    }
}
