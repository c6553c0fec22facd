//! Names of entities that were merged into others.

use allidb_storage::{Engine, Snapshot};
use bytes::Bytes;

use crate::{
    error::{Error, Result},
    keyspaces::Keyspaces,
    replica::Reader,
    row::{EntityKey, StoredRow},
    version::Version,
};

/// So many entities may have been merged into the next one each. No name leads back to itself: each was merged later than the one before it.
const MAX_CHAIN: usize = 10_000;

/// The entity that a name means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Meant {
    pub(crate) entity: EntityKey,
    /// When the last entity was merged into it on the way from the name, if any was.
    pub(crate) since: Version,
}

/// What of a name's rows tells of it: as of a moment, or of now.
pub(crate) trait EntityRows {
    fn entity_row(&self, keyspaces: &Keyspaces, key: &[u8]) -> Result<Option<Bytes>>;
}

impl EntityRows for Snapshot {
    fn entity_row(&self, keyspaces: &Keyspaces, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.get(keyspaces.entity, key)?)
    }
}

impl EntityRows for Engine {
    fn entity_row(&self, keyspaces: &Keyspaces, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.get(keyspaces.entity, key)?)
    }
}

/// The entity that a name means: the one of that id, or the one that it was merged into. What became of an id on the way since that
/// entity was merged, too, is of no account: a name stands for an entity, not for whatever has its id.
pub(crate) fn meant(rows: &impl EntityRows, keyspaces: &Keyspaces, name: EntityKey) -> Result<Meant> {
    let mut meant = Meant { entity: name, since: Version::ZERO };
    for _ in 0..MAX_CHAIN {
        let key = meant.entity.prefix();
        let Some(bytes) = rows.entity_row(keyspaces, &key)? else { return Ok(meant) };
        let corrupt = |error| Error::corrupt("entity", &key, error);
        let row = StoredRow::new(bytes).map_err(corrupt)?;
        let alias = match meant.since {
            Version::ZERO => row.alias().cloned(),
            given => {
                let now = || row.alias().filter(|alias| alias.version > given).cloned();
                row.leads_to(given).map_err(corrupt)?.or_else(now)
            }
        };
        let Some(alias) = alias else { return Ok(meant) };
        (meant.since, meant.entity.id) = (alias.version, alias.into);
    }
    Err(Error::Exhausted(format!("more than {MAX_CHAIN} entities were merged into {:?}", meant.entity.id)))
}

impl Reader<'_> {
    /// The entity that a caller means by a name.
    pub(crate) fn meant(&self, name: EntityKey) -> Result<EntityKey> {
        meant(&self.snapshot, &self.replica.keyspaces, name).map(|meant| meant.entity)
    }
}
