//! What replicas of an entity tell each other of it.

use std::{collections::BTreeMap, sync::atomic::Ordering, time::Duration};

use allidb_storage::{Direction, Durability, Keyspace, Snapshot, WriteBatch};

use crate::{
    error::{Error, Result},
    merge::{EntityState, Register},
    model::{Entity, EntityRef, ReadMask, TenantId, Timestamp, Written, validate_id},
    mutation::{Condition, Kind, Mutation, Part},
    replica::{
        CLOCK_SLACK_MS, GIVEN, Replica,
        assemble::{assemble, check_mask},
        loaded::register,
    },
    row::{
        Content, DecodeError, EntityKey, EntityRow, StoredRow,
        key::{decode_chunk_key, decode_edge_key, decode_vector_key},
    },
    version::Version,
};

/// Which of an entity's rows, beside its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Chunks, and all vectors.
    pub contents: bool,
    /// Edges out and in.
    pub edges: bool,
}

impl Extent {
    /// None of them.
    pub const NOTHING: Self = Self { contents: false, edges: false };

    /// All of them.
    pub const ALL: Self = Self { contents: true, edges: true };

    /// Those that a read of the entity with this mask needs.
    pub fn of(mask: &ReadMask) -> Self {
        Self { contents: mask.chunks || mask.chunk_vectors || mask.wants_vectors(), edges: false }
    }
}

impl Replica {
    /// What a reference names, on every node.
    ///
    /// # Errors
    /// If there is no such collection, or the id is none.
    pub fn entity_key(&self, tenant: TenantId, entity: &EntityRef) -> Result<EntityKey> {
        validate_id("ref.id", &entity.id)?;
        let catalogue = self.catalogue();
        Ok(EntityKey::new(tenant, catalogue.get(tenant, &entity.collection)?.id, &entity.id))
    }

    /// What lies here of each entity, all as of one moment: tombstones, and what has expired, too.
    ///
    /// # Errors
    /// If a row cannot be read.
    pub fn held(&self, entities: &[EntityKey], extent: Extent) -> Result<Vec<EntityState>> {
        let snapshot = self.engine.snapshot();
        entities.iter().map(|entity| self.held_as_of(&snapshot, entity, extent)).collect()
    }

    /// The same, encoded, of as many of the first as are of so many bytes together, but of one at least.
    ///
    /// # Errors
    /// If a row cannot be read.
    #[tracing::instrument(level = "debug", skip_all, fields(entities = entities.len()))]
    pub fn held_encoded(
        &self,
        entities: &[EntityKey],
        extent: Extent,
        most_bytes: usize,
    ) -> Result<Vec<Vec<u8>>> {
        let snapshot = self.engine.snapshot();
        let (mut states, mut bytes) = (Vec::new(), 0);
        for entity in entities {
            let state = self.held_as_of(&snapshot, entity, extent)?.encode();
            bytes += state.len();
            if bytes > most_bytes && !states.is_empty() {
                break;
            }
            states.push(state);
        }
        Ok(states)
    }

    fn held_as_of(&self, snapshot: &Snapshot, entity: &EntityKey, extent: Extent) -> Result<EntityState> {
        let (keyspaces, prefix) = (&self.keyspaces, entity.prefix());
        let mut state = EntityState::default();
        if let Some(bytes) = snapshot.get(keyspaces.entity, &prefix)? {
            state.row =
                EntityRow::decode(&bytes).map_err(|error| Error::corrupt("entity", &prefix, error))?;
        }
        if extent.contents {
            let chunks = (keyspaces.chunk, "chunk");
            state.chunks = registers(snapshot, chunks, &prefix, |key| decode_chunk_key(key).map(|of| of.1))?;
            let vectors = (keyspaces.vector, "vector");
            state.vectors =
                registers(snapshot, vectors, &prefix, |key| decode_vector_key(key).map(|of| of.1))?;
        }
        if extent.edges {
            let name = |key: &[u8]| decode_edge_key(key).map(|of| of.1);
            state.edges = registers(snapshot, (keyspaces.edge, "edge"), &prefix, name)?;
            state.edges_in = registers(snapshot, (keyspaces.edge_in, "edge_in"), &prefix, name)?;
        }
        // Of more edges than are swept at a time some lie beneath the marker still.
        Ok(state.merge(EntityState::default()))
    }

    /// Merges what other replicas hold into what lies here; of edges also at the other ends that do. `read_at` is what whoever read it knew to be
    /// [`purged`](Self::purged) when it began, as did those replicas when they were read.
    ///
    /// # Errors
    /// [`Error::Purged`] if it is from before deletions were forgotten; if it cannot be written. Some of it may be then.
    #[tracing::instrument(level = "debug", skip_all, fields(entities = states.len()))]
    pub fn absorb(
        &self,
        states: Vec<(EntityKey, EntityState)>,
        read_at: Version,
        durability: Durability,
    ) -> Result<()> {
        let _purged = self.watermarks.may_absorb(read_at)?;
        let catalogue = self.catalogue();
        let mut mutations = Vec::with_capacity(states.len());
        for (entity, mut delta) in states {
            // What was dropped here is dropped everywhere.
            let Some(collection) = catalogue.by_id(entity.collection) else { continue };
            self.end_edges_of_the_deleted(&entity, &mut delta)?;
            let subject = EntityRef::new(&collection.name, &entity.id);
            // Before the entity itself: what is only begun is begun again then.
            for parts in self.at_other_ends(&entity, &delta)? {
                let version = parts.iter().map(|part| part.delta.highest_version()).max().unwrap_or_default();
                let bytes = parts.iter().map(|part| part.delta.bytes()).sum();
                let subject = subject.clone();
                mutations.push(Mutation { version, subject, kind: Kind::Edge, parts: parts.into(), bytes });
            }
            let (version, bytes) = (delta.highest_version(), delta.bytes());
            let parts = vec![Part { entity, delta, condition: Condition::None }];
            mutations.push(Mutation { version, subject, kind: Kind::Plain, parts, bytes });
        }
        self.observe_all(&mutations);
        for result in self.apply(mutations, durability) {
            match result {
                Ok(_) | Err(Error::UnknownCollection(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Has all that was done without being durable be so.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn sync(&self) -> Result<()> {
        Ok(self.engine.sync()?)
    }

    /// Does what other nodes planned, unless that was too long ago. What this one plans from now on is newer.
    pub fn receive(&self, mutations: Vec<Mutation>, durability: Durability) -> Vec<Result<Written>> {
        // Before: whoever closes waits for those that are under way, and others for it.
        if let Err(error) = self.wait_for_room(&mutations) {
            return vec![Err(error); mutations.len()];
        }
        let closed = self.watermarks.closed();
        let late = |mutation: &Mutation| {
            let is_late = mutation.version <= *closed && !mutation.only_ends_edges();
            is_late.then_some(Error::Late { version: mutation.version, closed: *closed })
        };
        let late: Vec<Option<Error>> = mutations.iter().map(late).collect();
        let timely = mutations.into_iter().zip(&late).filter(|(_, late)| late.is_none());
        let timely: Vec<Mutation> = timely.map(|(mutation, _)| mutation).collect();
        self.observe_all(&timely);
        let mut results = self.apply(timely, durability).into_iter();
        let missing = || Err(Error::Internal("there are fewer answers than writes".to_owned()));
        late.into_iter()
            .map(|late| late.map_or_else(|| results.next().unwrap_or_else(missing), Err))
            .collect()
    }

    fn observe_all(&self, mutations: &[Mutation]) {
        if let Some(highest) = mutations.iter().map(|mutation| mutation.version).max() {
            self.clock.observe(highest);
        }
    }

    /// A mutation that something newer overtook, as it is to be made whatever replicas know: at a version above that.
    #[must_use]
    pub fn renewed(&self, mutation: &Mutation, newer: Version) -> Mutation {
        self.clock.observe(newer);
        mutation.clone().settled().again_at(self.clock.next())
    }

    /// A mutation over something that had expired by what a quorum holds, of which nothing was newer than `newest`, as it is to be made whatever
    /// replicas know; `asked` is the version at which it was planned first. If something newer hides it, at a version above that.
    #[must_use]
    pub fn settled_over_expired(
        &self,
        mutation: &Mutation,
        newest: Version,
        asked: Version,
        newer: Option<Version>,
    ) -> Mutation {
        // Nothing of it is to go with what had expired, be it made by some already.
        let newer = newer.max(Some(newest).filter(|newest| *newest >= mutation.version()));
        let at = newer.map(|newer| {
            self.clock.observe(newer);
            self.clock.next()
        });
        mutation.clone().settled_over_expired(newest, asked, at)
    }

    /// A version that nothing else has, newer than all that this node has heard of.
    #[must_use]
    pub fn next_version(&self) -> Version {
        self.clock.next()
    }

    /// A mutation of which nobody has heard, as it would be if it was planned now.
    #[must_use]
    pub fn planned_anew(&self, mutation: Mutation) -> Mutation {
        mutation.at(self.clock.next())
    }

    /// Takes note of what a read found: what this node plans from now on is newer.
    pub fn observe(&self, state: &EntityState) {
        self.observe_version(state.highest_version());
    }

    /// Takes note of a version: what this node plans from now on is newer.
    pub fn observe_version(&self, version: Version) {
        self.clock.observe(version);
    }

    /// Whether the next start begins above all versions that were given here until now: nobody may hear of another one before.
    pub fn is_clock_recorded(&self) -> bool {
        self.is_clock_within(CLOCK_SLACK_MS << 16)
    }

    fn is_clock_within(&self, slack: u64) -> bool {
        let recorded = self.recorded.load(Ordering::SeqCst).saturating_add(slack);
        self.clock.last() <= recorded.max(self.clock_floor)
    }

    /// Records the newest version that was given here, also to what lies elsewhere: durably, before this returns. Does nothing if the next start
    /// begins well above it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn record_clock(&self) -> Result<()> {
        let given = self.clock.last();
        if self.is_clock_within(CLOCK_SLACK_MS << 15) {
            return Ok(());
        }
        // Of several at once an older one must not take the place of a newer.
        let _alone = self.recording.lock();
        if self.recorded.load(Ordering::SeqCst) >= given {
            return Ok(());
        }
        let mut batch = WriteBatch::new();
        batch.put(self.keyspaces.local, GIVEN, given.to_be_bytes().to_vec());
        // It takes the place of what is there already.
        batch.use_reserve();
        self.engine.write(batch, Durability::Sync)?;
        self.recorded.store(given, Ordering::SeqCst);
        Ok(())
    }

    /// How long until this node's clock is past all versions that it may have given before its start.
    pub fn lags_for(&self) -> Duration {
        let ahead = (self.clock.last() >> 16).saturating_sub(self.clock.wall().now_ms());
        Duration::from_millis(ahead)
    }

    /// The time by this node's clock.
    pub(crate) fn wall_time(&self) -> Timestamp {
        self.clock.wall().now()
    }

    /// Whether the entity that a state is of is there now.
    pub fn is_live(&self, state: &EntityState) -> bool {
        state.row.is_live(self.clock.wall().now())
    }

    /// Whether the entity that a state is of was there, and has expired.
    pub fn has_expired(&self, state: &EntityState) -> bool {
        state.row.exists() && !self.is_live(state)
    }

    /// The entity that a state is of.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it is not there now.
    pub fn entity_of(&self, key: &EntityKey, state: &EntityState, mask: &ReadMask) -> Result<Entity> {
        let catalogue = self.catalogue();
        let collection = catalogue.by_id(key.collection);
        let collection = collection.ok_or_else(|| Error::UnknownCollection(key.collection.0.to_string()))?;
        check_mask(mask, collection)?;
        let row = StoredRow::new(state.row.encode().into());
        let row = row.map_err(|error| Error::corrupt("entity", &key.prefix(), error))?;
        if !row.is_live(self.clock.wall().now()) {
            return Err(Error::NotFound { collection: collection.name.clone(), id: key.id.clone() });
        }
        assemble(key, &row, state, collection, mask)
    }
}

/// The registers of one kind whose keys begin with a prefix.
fn registers<K: Ord, C: Content>(
    snapshot: &Snapshot,
    (keyspace, label): (Keyspace, &'static str),
    prefix: &[u8],
    name: impl Fn(&[u8]) -> Result<K, DecodeError>,
) -> Result<BTreeMap<K, Register<C>>> {
    let rows = snapshot.prefix(keyspace, prefix, Direction::Forward)?.map(|row| {
        let (key, bytes) = row?;
        let name = name(&key).map_err(|error| Error::corrupt(label, &key, error))?;
        Ok((name, register(label, &key, &bytes)?))
    });
    rows.collect()
}
