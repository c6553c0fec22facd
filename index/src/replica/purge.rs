//! Forgetting what was deleted: tombstones go, and entities of which nothing else is left, once the ring needs them no more.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use allidb_storage::{Direction, Durability, Snapshot, WriteBatch};
use bytes::Bytes;

use super::hints::{oldest_hints, outbox_rows};
use crate::{
    codec::Decoder,
    error::{Error, Result},
    merge::Register,
    merkle::{Kind, Sums, cleared, place_of},
    model::Value,
    mutation::Mutation,
    placement::PARTITIONS,
    replica::Replica,
    row::{
        EntityKey, EntityRow, Field, Scope,
        key::{collection_prefix, decode_entity},
        register_is_live, register_version,
    },
    version::Version,
};

/// Rows, or entities, that are looked at under their latches at a time.
const BATCH: usize = 512;
/// How long it rests at most between two partitions.
const LONGEST_REST: Duration = Duration::from_secs(1);

/// A row that says that something is gone.
struct Tombstone {
    kind: Kind,
    entity: EntityKey,
    key: Bytes,
    value: Bytes,
}

/// Whether deletions up to some version are gone from the outbox yet.
pub struct Outgoing {
    snapshot: Snapshot,
    /// What is known to be delivered.
    after: Option<Bytes>,
}

impl Replica {
    /// Plans nothing from now on that is not above a version. Gives the oldest version up to it that is kept here for other nodes and would not be
    /// taken there once they close; `None` if there is none.
    ///
    /// # Errors
    /// If it cannot be told what is kept.
    pub fn prepare_to_close(&self, upto: Version) -> Result<Option<Version>> {
        self.clock.observe(upto);
        self.watermarks.raise_floor(upto);
        let snapshot = self.engine.snapshot();
        let hints = oldest_hints(&snapshot, &self.keyspaces)?;
        let mut oldest: Vec<Version> = hints.into_iter().map(|(_, version)| version).collect();
        for row in outbox_rows(&snapshot, &self.keyspaces)? {
            let (_, bytes) = row?;
            // What cannot be read is dropped when it is to be delivered.
            let Ok(mutation) = Mutation::decode(&bytes) else { continue };
            if !mutation.only_ends_edges() {
                oldest.push(mutation.version);
            }
        }
        Ok(oldest.into_iter().filter(|version| *version <= upto).min())
    }

    /// Whether what was deleted is being removed.
    pub fn is_forgetting(&self) -> bool {
        self.watermarks.sweeping.is_locked()
    }

    /// Takes no write from now on that is not above a version, however it comes: durably, before this returns. What ends edges is taken still.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn close_up_to(&self, upto: Version) -> Result<()> {
        self.watermarks.close(&self.engine, upto)
    }

    /// Takes note that nothing lies here that says that something is gone: there is nothing that would have to be forgotten.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn begin_empty(&self) -> Result<()> {
        self.watermarks.is_swept(&self.engine, self.purged())
    }

    /// Up to where nothing is taken any more.
    pub fn closed(&self) -> Version {
        *self.watermarks.closed()
    }

    /// What is in the outbox now, of which [`is_delivered`](Self::is_delivered) tells when it is there no more.
    pub fn outgoing(&self) -> Outgoing {
        Outgoing { snapshot: self.engine.snapshot(), after: None }
    }

    /// Whether nothing of it is in the outbox any more.
    ///
    /// # Errors
    /// If that cannot be read.
    pub fn is_delivered(&self, outgoing: &mut Outgoing) -> Result<bool> {
        for row in outbox_rows(&outgoing.snapshot, &self.keyspaces)? {
            let (key, _) = row?;
            if outgoing.after.as_ref().is_some_and(|after| key <= *after) {
                continue;
            }
            if self.engine.get(self.keyspaces.local, &key)?.is_some() {
                return Ok(false);
            }
            outgoing.after = Some(key);
        }
        Ok(true)
    }

    /// Takes note of what lies here: what of it says that something is gone may go, if replicas compare now, and [`purge_up_to`](Self::purge_up_to)
    /// is called for the same round then.
    pub fn mark(&self, round: Version) {
        *self.watermarks.marked.lock() = Some((round, self.engine.snapshot(), self.wall().now_ms()));
    }

    /// Lets go of what was [marked](Self::mark) so long ago: whoever led through that round is gone, and what lay here then takes room.
    pub fn unmark_after(&self, age: Duration) {
        let now = self.wall().now_ms();
        let is_old = |at: u64| Duration::from_millis(now.saturating_sub(at)) >= age;
        drop(self.watermarks.marked.lock().take_if(|(_, _, at)| is_old(*at)));
    }

    /// Up to where all replicas hold the same, for good: what is read here from now on may be taken over by whoever knows of no more.
    pub fn purged(&self) -> Version {
        self.watermarks.purged()
    }

    /// Up to where deletions were forgotten here.
    pub fn swept(&self) -> Version {
        self.watermarks.swept()
    }

    /// Takes nothing over from now on that was read elsewhere before all replicas held the same up to a version, which they do: durably, before this
    /// returns. If what lay here was [marked](Self::mark) in the round that found this out, what says that something is gone goes then, in the
    /// background.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn purge_up_to(self: &Arc<Self>, upto: Version, round: Option<Version>) -> Result<()> {
        if upto > self.purged() {
            self.watermarks.purge(&self.engine, upto)?;
        }
        if round.is_none() {
            return Ok(());
        }
        let marked = self.watermarks.marked.lock().take_if(|(marked, ..)| Some(*marked) == round);
        let Some((_, snapshot, _)) = marked else { return Ok(()) };
        let replica = Arc::clone(self);
        let work = move || match replica.forget_deletions(&snapshot, upto) {
            Ok(rows) => tracing::info!(rows, ?upto, "removed what was deleted"),
            Err(error) => tracing::error!(%error, "what was deleted is not removed; the next purge does it"),
        };
        self.background.run("purge", Box::new(work));
        Ok(())
    }

    /// Removes what says in a snapshot, at a version up to `upto`, that something is gone, and is as it was. Gives how many rows it was.
    fn forget_deletions(&self, snapshot: &Snapshot, upto: Version) -> Result<u64> {
        let _sweeping = self.watermarks.sweeping.lock();
        let mut rows = 0;
        for partition in (0..PARTITIONS).filter(|partition| self.holds(*partition)) {
            let begun = Instant::now();
            // Of whose rows some went.
            let mut touched = BTreeSet::new();
            for (tenant, collection) in self.catalogue().owned() {
                let prefix = collection_prefix(partition, tenant, collection.id);
                rows += self.forget_registers(snapshot, &prefix, upto, &mut touched)?;
                rows += self.forget_entities(snapshot, &prefix, upto, &mut touched)?;
                rows += self.forget_acceptors(snapshot, &prefix, upto)?;
            }
            let touched: Vec<EntityKey> = touched.into_iter().collect();
            touched.chunks(BATCH).try_for_each(|entities| self.forget_names(entities))?;
            if !self.background.is_inline() {
                // There is no hurry: others get the disk half of the time at least.
                std::thread::sleep(begun.elapsed().min(LONGEST_REST));
            }
        }
        self.watermarks.is_swept(&self.engine, upto)?;
        Ok(rows)
    }

    fn forget_registers(
        &self,
        snapshot: &Snapshot,
        prefix: &[u8],
        upto: Version,
        touched: &mut BTreeSet<EntityKey>,
    ) -> Result<u64> {
        let mut rows = 0;
        for (kind, keyspace, name) in self.kinds() {
            let mut found = Vec::new();
            for row in snapshot.prefix(keyspace, prefix, Direction::Forward)? {
                self.check_open()?;
                let (key, value) = row?;
                let corrupt = |error| Error::corrupt(name, &key, error);
                if register_is_live(&value) || register_version(&value).map_err(corrupt)? > upto {
                    continue;
                }
                let entity = decode_entity(&mut Decoder::new(&key)).map_err(corrupt)?;
                found.push(Tombstone { kind, entity, key, value });
                if found.len() == BATCH {
                    rows += self.remove_registers(&std::mem::take(&mut found), touched)?;
                }
            }
            rows += self.remove_registers(&found, touched)?;
        }
        Ok(rows)
    }

    fn remove_registers(&self, found: &[Tombstone], touched: &mut BTreeSet<EntityKey>) -> Result<u64> {
        let mut rows = 0;
        self.change_in_place(found.iter().map(|row| &row.entity), |batch, mut sums| {
            let mut of: BTreeMap<&EntityKey, EntityRow> = BTreeMap::new();
            let kinds = self.kinds();
            for Tombstone { kind, entity, key, value } in found {
                let keyspace = kinds.iter().find(|(of, _, _)| of == kind).map(|(_, keyspace, _)| *keyspace);
                let Some(keyspace) = keyspace else { continue };
                if self.engine.get(keyspace, key)?.as_ref() != Some(value) {
                    continue;
                }
                batch.delete(keyspace, key.to_vec());
                rows += 1;
                touched.insert(entity.clone());
                let Some(sums) = &mut sums else { continue };
                if !of.contains_key(entity) {
                    of.insert(entity, self.row_of(&self.engine.snapshot(), entity)?);
                }
                let version = register_version(value).map_err(|error| Error::corrupt("row", key, error))?;
                if of.get(entity).is_none_or(|row| version > cleared(row, *kind)) {
                    sums.subtract_row(place_of(entity), *kind, key, value);
                }
            }
            Ok(())
        })?;
        Ok(rows)
    }

    fn forget_entities(
        &self,
        snapshot: &Snapshot,
        prefix: &[u8],
        upto: Version,
        touched: &mut BTreeSet<EntityKey>,
    ) -> Result<u64> {
        let (mut rows, mut found) = (0, Vec::new());
        for row in snapshot.prefix(self.keyspaces.entity, prefix, Direction::Forward)? {
            self.check_open()?;
            let (key, value) = row?;
            let corrupt = |error| Error::corrupt("entity", &key, error);
            let row = EntityRow::decode(&value).map_err(corrupt)?;
            if is_over(&row, upto) || row.fields.iter().any(|field| is_unset(field, upto)) {
                found.push((decode_entity(&mut Decoder::new(&key)).map_err(corrupt)?, row));
            }
            if found.len() == BATCH {
                rows += self.remove_entities(&std::mem::take(&mut found), upto, touched)?;
            }
        }
        Ok(rows + self.remove_entities(&found, upto, touched)?)
    }

    fn remove_entities(
        &self,
        found: &[(EntityKey, EntityRow)],
        upto: Version,
        touched: &mut BTreeSet<EntityKey>,
    ) -> Result<u64> {
        let mut rows = 0;
        self.change_in_place(found.iter().map(|(entity, _)| entity), |batch, mut sums| {
            let snapshot = self.engine.snapshot();
            for (entity, was) in found {
                let is = self.row_of(&snapshot, entity)?;
                if is_over(was, upto) && is == *was {
                    let Some(beneath) = self.beneath(&snapshot, entity, &is, upto)? else { continue };
                    rows += 1;
                    touched.insert(entity.clone());
                    batch.delete(self.keyspaces.entity, entity.prefix());
                    if let Some(sums) = &mut sums {
                        sums.change_entity(entity, &is, &EntityRow::default());
                    }
                    for Tombstone { kind, key, value, .. } in beneath {
                        let keyspace =
                            if kind == Kind::Chunk { self.keyspaces.chunk } else { self.keyspaces.vector };
                        batch.delete(keyspace, key.to_vec());
                        let version =
                            register_version(&value).map_err(|error| Error::corrupt("row", &key, error))?;
                        if let Some(sums) = sums.as_mut().filter(|_| version > cleared(&is, kind)) {
                            sums.subtract_row(place_of(entity), kind, &key, &value);
                        }
                    }
                    continue;
                }
                let mut after = is.clone();
                after.fields.retain(|field, register| {
                    !(is_unset((field, register), upto) && was.fields.get(field) == Some(register))
                });
                if after != is && after != EntityRow::default() {
                    rows += 1;
                    batch.put(self.keyspaces.entity, entity.prefix(), after.encode());
                    if let Some(sums) = &mut sums {
                        sums.change_entity(entity, &is, &after);
                    }
                }
            }
            Ok(())
        })?;
        Ok(rows)
    }

    /// The chunks and vectors that go with an entity of which nothing else is left; `None` if something stays that its marker covers, or that is
    /// newer.
    fn beneath(
        &self,
        snapshot: &Snapshot,
        entity: &EntityKey,
        row: &EntityRow,
        upto: Version,
    ) -> Result<Option<Vec<Tombstone>>> {
        let mut beneath = Vec::new();
        for (kind, keyspace, name) in self.kinds() {
            let is_edge = matches!(kind, Kind::Edge | Kind::EdgeIn);
            for of_entity in snapshot.prefix(keyspace, &entity.prefix(), Direction::Forward)? {
                let (key, value) = of_entity?;
                let version = register_version(&value).map_err(|error| Error::corrupt(name, &key, error))?;
                let is_in_the_way = match is_edge {
                    // Their other ends know of it by the marker alone.
                    true => version <= row.cleared(Scope::Edges),
                    false => version > upto,
                };
                if is_in_the_way {
                    return Ok(None);
                }
                if !is_edge {
                    beneath.push(Tombstone { kind, entity: entity.clone(), key, value });
                }
            }
        }
        Ok(Some(beneath))
    }

    /// Takes entities of which no row is left from those that replicas compare.
    fn forget_names(&self, entities: &[EntityKey]) -> Result<()> {
        self.change_in_place(entities.iter(), |batch, _| {
            let snapshot = self.engine.snapshot();
            for entity in entities {
                let mut is_there = snapshot.get(self.keyspaces.entity, &entity.prefix())?.is_some();
                for (_, keyspace, _) in self.kinds() {
                    is_there = is_there
                        || snapshot.prefix(keyspace, &entity.prefix(), Direction::Forward)?.next().is_some();
                }
                if !is_there {
                    batch.delete(self.keyspaces.token, entity.token_row());
                }
            }
            Ok(())
        })
    }

    /// Changes rows of entities so that nobody who reads sees another thing, and has the trees follow.
    fn change_in_place<'e>(
        &self,
        entities: impl Iterator<Item = &'e EntityKey> + Clone,
        change: impl FnOnce(&mut WriteBatch, Option<&mut Sums>) -> Result<()>,
    ) -> Result<()> {
        let _gate = self.catalogue_gate.read();
        let _latched = self.latches.acquire(entities);
        let mut following = self.trees.enter();
        let mut batch = WriteBatch::new();
        change(&mut batch, following.sums.as_mut())?;
        if batch.is_empty() {
            return Ok(());
        }
        let sums = following.sums.take();
        if let Some(sums) = &sums {
            self.trees.put(sums, &mut batch)?;
        }
        // It makes room.
        batch.use_reserve();
        let trees = Arc::clone(&self.trees);
        let publish = move |_| sums.iter().for_each(|sums| trees.follow(sums));
        self.engine.commit(batch, Durability::None, publish)?;
        Ok(())
    }
}

/// Whether an entity is gone, and nothing of its row is newer. Other names of what it was merged into stay.
fn is_over(row: &EntityRow, upto: Version) -> bool {
    let is_name = |field: &Field| matches!(field, Field::MergedInto | Field::LeadsTo(_));
    !row.exists() && row.highest_version() <= upto && !row.fields.keys().any(is_name)
}

/// Whether a field says that it is gone.
fn is_unset((_, register): (&Field, &Register<Value>), upto: Version) -> bool {
    register.value.is_none() && register.version <= upto
}
