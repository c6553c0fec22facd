//! Edges of a deleted entity that were more than could go with it: hidden by its marker, they go bit by bit afterwards, at both their ends.
//!
//! A row in `local`, written with the deletion and removed after the last of them, says that there may be some, so that a restart goes on.

use allidb_storage::{Direction, Durability, WriteBatch};

use crate::{
    codec::Decoder,
    error::{Error, Result},
    merge::EntityState,
    model::EntityRef,
    mutation::{Condition, Kind, Mutation, Part},
    replica::Replica,
    row::{EntityKey, key::decode_entity, register_version},
    version::Version,
};

pub(super) const BENEATH: &[u8] = b"beneath/";

/// The row that says that edges of a deleted entity may be left.
pub(super) fn beneath_key(entity: &EntityKey) -> Vec<u8> {
    [BENEATH, &entity.prefix()].concat()
}

impl Replica {
    /// Has what is hidden by markers here go before this returns.
    ///
    /// # Errors
    /// If it cannot be read or written.
    pub fn sweep_beneath_markers(&self) -> Result<()> {
        let snapshot = self.engine.snapshot();
        for row in snapshot.prefix(self.keyspaces.local, BENEATH, Direction::Forward)? {
            let (key, _) = row?;
            let entity = decode_entity(&mut Decoder::new(&key[BENEATH.len()..]));
            self.sweep_beneath(&entity.map_err(|error| Error::corrupt("local", &key, error))?)?;
        }
        Ok(())
    }

    /// Goes on where the last run ended.
    pub(super) fn resume_sweeping(&self) -> Result<()> {
        let rows = self.engine.snapshot().prefix(self.keyspaces.local, BENEATH, Direction::Forward)?;
        match rows.take(1).count() {
            0 => Ok(()),
            _ => {
                self.in_background(|replica| replica.sweep_beneath_markers());
                Ok(())
            }
        }
    }

    /// Has the edges beneath the markers of these go, once nobody waits for that.
    pub(super) fn sweep_hidden(&self, entities: Vec<EntityKey>) {
        if !entities.is_empty() {
            self.in_background(move |replica| {
                entities.iter().try_for_each(|entity| replica.sweep_beneath(entity))
            });
        }
    }

    fn in_background(&self, work: impl FnOnce(&Self) -> Result<()> + Send + 'static) {
        let Some(replica) = self.me.upgrade() else { return };
        let work = move || {
            if let Err(error) = work(&replica) {
                tracing::error!(%error, "edges of what was deleted are hidden, but not removed; a restart goes on with it");
            }
        };
        self.background.run("sweep", Box::new(work));
    }

    fn sweep_beneath(&self, entity: &EntityKey) -> Result<()> {
        loop {
            self.check_open()?;
            let catalogue = self.catalogue();
            // What was dropped goes with its rows.
            if let Some(collection) = catalogue.by_id(entity.collection) {
                let part = Part {
                    entity: entity.clone(),
                    delta: EntityState::default(),
                    condition: Condition::None,
                };
                let sweep = Mutation {
                    version: Version::ZERO,
                    subject: EntityRef::new(&collection.name, &entity.id),
                    kind: Kind::Sweep,
                    parts: vec![part],
                    bytes: 0,
                };
                for result in self.apply(vec![sweep], Durability::None) {
                    match result {
                        Ok(_) | Err(Error::UnknownCollection(_)) => {}
                        Err(error) => return Err(error),
                    }
                }
            }
            // Nobody deletes it anew in between.
            let _latched = self.latches.acquire(std::iter::once(entity));
            if !self.hides_edges(entity)? {
                let mut batch = WriteBatch::new();
                batch.delete(self.keyspaces.local, beneath_key(entity));
                batch.use_reserve();
                self.engine.write(batch, Durability::None)?;
                return Ok(());
            }
        }
    }

    /// Whether there are edges beneath the marker of an entity.
    fn hides_edges(&self, entity: &EntityKey) -> Result<bool> {
        if self.catalogue().by_id(entity.collection).is_none() {
            return Ok(false);
        }
        let cleared = self.edges_cleared(entity)?;
        let snapshot = self.engine.snapshot();
        for keyspace in [self.keyspaces.edge, self.keyspaces.edge_in] {
            for row in snapshot.prefix(keyspace, &entity.prefix(), Direction::Forward)? {
                let (key, bytes) = row?;
                let version = register_version(&bytes);
                if version.map_err(|error| Error::corrupt("edge", &key, error))? <= cleared {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}
