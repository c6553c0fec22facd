//! Changing the catalogue, and what is stored with it.

use std::sync::{Arc, atomic::Ordering};

use allidb_storage::{Durability, WriteBatch};

use super::{CURSOR_KEY, Replica};
use crate::{
    catalogue::{Catalogue, Dropped, DroppedPart},
    error::{Error, Result},
    model::{Collection, CollectionChange, CollectionSpec, IndexId, TenantId},
    placement::PARTITIONS,
    row::EntityKey,
    secondary::built_row,
    vector::{Shape, SpaceDefinition},
};

/// A collection as it is from now on, or was until now.
pub(super) struct Change {
    tenant: TenantId,
    collection: Arc<Collection>,
    /// What of it goes.
    dropped: Vec<Dropped>,
    is_new: bool,
}

impl Change {
    fn dropping(tenant: TenantId, collection: Arc<Collection>) -> Self {
        let dropped = Dropped { tenant, collection: collection.id, part: DroppedPart::Everything };
        Self { tenant, collection, dropped: vec![dropped], is_new: false }
    }

    fn is_dropping(&self) -> bool {
        self.dropped.iter().any(|dropped| dropped.part == DroppedPart::Everything)
    }
}

impl Replica {
    /// Creates a collection.
    pub fn create_collection(
        self: &Arc<Self>,
        tenant: TenantId,
        name: &str,
        spec: CollectionSpec,
    ) -> Result<Arc<Collection>> {
        let _change = self.catalogue_change.lock();
        let now = self.clock.wall().now();
        let (catalogue, collection) = self.catalogue().create(tenant, name, spec, now)?;
        let change =
            Change { tenant, collection: Arc::clone(&collection), dropped: Vec::new(), is_new: true };
        self.install(catalogue, &[change], None)?;
        Ok(collection)
    }

    /// Changes a collection's spaces, aliases and indexes, all or none. Indexes that are added are built in the background.
    pub fn update_collection(
        self: &Arc<Self>,
        tenant: TenantId,
        name: &str,
        change: CollectionChange,
    ) -> Result<Arc<Collection>> {
        let _change = self.catalogue_change.lock();
        let (catalogue, collection, dropped) = self.catalogue().update(tenant, name, change)?;
        let change = Change { tenant, collection: Arc::clone(&collection), dropped, is_new: false };
        self.install(catalogue, &[change], None)?;
        Ok(collection)
    }

    /// Drops a collection: it is gone at once, its rows are removed in the background.
    pub fn drop_collection(self: &Arc<Self>, tenant: TenantId, name: &str) -> Result<()> {
        let _change = self.catalogue_change.lock();
        let (catalogue, collection) = self.catalogue().without(tenant, name)?;
        self.install(catalogue, &[Change::dropping(tenant, collection)], None)
    }

    /// The catalogue with a collection created, for the ring to agree on.
    ///
    /// # Errors
    /// If it cannot be created.
    pub fn with_created(&self, tenant: TenantId, name: &str, spec: CollectionSpec) -> Result<Vec<u8>> {
        let (catalogue, _) = self.catalogue().create(tenant, name, spec, self.clock.wall().now())?;
        Ok(catalogue.encode(self.cursor_key()))
    }

    /// The catalogue with a collection changed, for the ring to agree on.
    ///
    /// # Errors
    /// If it cannot be changed so.
    pub fn with_updated(&self, tenant: TenantId, name: &str, change: CollectionChange) -> Result<Vec<u8>> {
        let (catalogue, ..) = self.catalogue().update(tenant, name, change)?;
        Ok(catalogue.encode(self.cursor_key()))
    }

    /// The catalogue without a collection, for the ring to agree on.
    ///
    /// # Errors
    /// If there is none of this name.
    pub fn with_dropped(&self, tenant: TenantId, name: &str) -> Result<Vec<u8>> {
        let (catalogue, _) = self.catalogue().without(tenant, name)?;
        Ok(catalogue.encode(self.cursor_key()))
    }

    /// The catalogue as it is here.
    pub fn encoded_catalogue(&self) -> Vec<u8> {
        self.catalogue().encode(self.cursor_key())
    }

    /// The catalogue of a snapshot, to follow the one that is here.
    ///
    /// # Errors
    /// If there was ever another one here: entities of both would have the same ids of collections; and of the same ring, what was deleted since
    /// would be back where that is forgotten.
    pub fn with_restored(&self, encoded: &[u8]) -> Result<Vec<u8>> {
        let (restored, cursor_key) = Catalogue::decode(encoded)?;
        let current = self.catalogue();
        if current.is_forced() {
            let why = "the ring went on without nodes that were lost, and these may know collections of the ids that the snapshot has: begin with empty directories";
            return Err(Error::FailedPrecondition(why.to_owned()));
        }
        if current.has_given_any() || !current.keys(None).is_empty() {
            let why = "a snapshot is restored where there never were collections, and no keys are: begin with empty directories";
            return Err(Error::FailedPrecondition(why.to_owned()));
        }
        Ok(restored.of_version(current.version() + 1).encode(cursor_key))
    }

    /// Whether the entity's collection was there, and was dropped.
    pub fn is_dropped(&self, entity: &EntityKey) -> bool {
        let catalogue = self.catalogue();
        catalogue.by_id(entity.collection).is_none() && catalogue.has_given(entity.collection)
    }

    /// The names of all collections, of whichever tenant.
    pub fn collection_names(&self) -> Vec<String> {
        self.catalogue().owned().map(|(_, collection)| collection.name.clone()).collect()
    }

    /// Whether there was ever a collection here.
    pub fn had_collections(&self) -> bool {
        self.catalogue().has_given_any()
    }

    /// The version of an encoded catalogue.
    ///
    /// # Errors
    /// If these bytes are none.
    pub fn version_of_catalogue(encoded: &[u8]) -> Result<u64> {
        Ok(Catalogue::decode(encoded)?.0.version())
    }

    /// Grows with every change of the catalogue.
    pub fn catalogue_version(&self) -> u64 {
        self.catalogue_version.load(Ordering::SeqCst)
    }

    /// Makes the catalogue be as it is elsewhere, durably and at once, unless it is as new here or newer. Says whether it was older.
    ///
    /// # Errors
    /// If these bytes are no catalogue, or it cannot be written.
    pub fn adopt_catalogue(self: &Arc<Self>, encoded: &[u8]) -> Result<bool> {
        let _change = self.catalogue_change.lock();
        let (next, cursor_key) = Catalogue::decode(encoded)?;
        let current = self.catalogue();
        if next.version() <= current.version() {
            return Ok(false);
        }
        let mut changes = Vec::new();
        let is_gone = |collection: &Arc<Collection>| next.by_id(collection.id).is_none();
        let gone = current.owned().filter(|(_, collection)| is_gone(collection));
        changes.extend(gone.map(|(tenant, collection)| Change::dropping(tenant, Arc::clone(collection))));
        let mut catalogue = next.clone();
        for (tenant, theirs) in next.owned() {
            let ours = current.by_id(theirs.id);
            let (adopted, dropped) = current.adopted(tenant, theirs);
            catalogue = catalogue.with(tenant, adopted.clone());
            if ours.is_none_or(|ours| **ours != adopted) {
                let (collection, is_new) = (Arc::new(adopted), ours.is_none());
                changes.push(Change { tenant, collection, dropped, is_new });
            }
        }
        self.install(catalogue, &changes, Some(cursor_key))?;
        Ok(true)
    }

    /// Builds those indexes of a collection that are not whole, and that nobody builds.
    pub(super) fn build_indexes(self: &Arc<Self>, tenant: TenantId, collection: &Collection) {
        let missing = collection.indexes.iter().filter(|index| index.state.begin_build());
        let missing: Vec<IndexId> = missing.map(|index| index.id).collect();
        if !missing.is_empty() {
            self.build_in_background(tenant, collection.id, missing);
        }
    }

    /// Whether there is a collection of each name.
    pub fn knows<'n>(&self, tenant: TenantId, mut named: impl Iterator<Item = &'n str>) -> bool {
        let catalogue = self.catalogue();
        named.all(|name| catalogue.get(tenant, name).is_ok())
    }

    /// Makes a new catalogue durable, with all that belongs to the changes that lead to it, and then current. Waits for writes under the old
    /// one.
    pub(super) fn install(
        self: &Arc<Self>,
        catalogue: Catalogue,
        changes: &[Change],
        cursor_key: Option<[u8; 32]>,
    ) -> Result<()> {
        // Looked for before, so that it does not take long until nobody walks through them any more.
        let dropping = || changes.iter().filter(|change| change.is_dropping());
        let nodes_of = |change: &Change| self.graph.nodes_of(change.tenant, change.collection.id, &[]);
        let nodes = dropping().map(nodes_of).collect::<Result<Vec<_>>>()?;

        let gate = self.catalogue_gate.write();
        let mut batch = WriteBatch::new();
        let mut founded = Vec::new();
        for change in changes {
            self.stage(&catalogue, change, &mut batch, &mut founded)?;
        }
        catalogue.put_keys(&self.catalogue(), self.keyspaces.cluster, &mut batch);
        catalogue.put_quotas(&self.catalogue(), self.keyspaces.cluster, &mut batch);
        catalogue.put_numbers(self.keyspaces.cluster, &mut batch);
        if let Some(key) = cursor_key {
            batch.put(self.keyspaces.cluster, CURSOR_KEY, key.to_vec());
        }
        self.engine.write(batch, Durability::Sync)?;
        let is_rows = |dropped: &Dropped| !matches!(dropped.part, DroppedPart::Index(_));
        if changes.iter().flat_map(|change| &change.dropped).any(is_rows) {
            self.forget_trees(self.cursor_key())?;
        }
        founded.into_iter().for_each(|definition| self.spaces.add(definition));
        for Dropped { collection, part, .. } in changes.iter().flat_map(|change| &change.dropped) {
            if let DroppedPart::Space(space) = part {
                self.spaces.drop_space(*collection, *space);
            }
        }
        if let Some(key) = cursor_key.filter(|key| *key != self.cursor_key()) {
            *self.cursor_key.write() = key;
            self.forget_trees(key)?;
        }
        self.catalogue_is(catalogue);
        drop(gate);
        let dropping_some = changes.iter().filter(|change| !change.dropped.is_empty());
        self.usage.forget_dropped(dropping_some.map(|change| change.tenant));

        for (change, (nodes, segments)) in dropping().zip(nodes) {
            let id = change.collection.id;
            for space in change.collection.spaces.values() {
                self.spaces.drop_space(id, space.id);
            }
            self.texts.drop_collection(id);
            self.graph.forget_nodes(&nodes);
            match self.graph.nodes_of(change.tenant, id, &segments) {
                Ok((nodes, _)) => self.graph.forget_nodes(&nodes),
                Err(error) => {
                    tracing::error!(%error, "until a restart walks may lead through a dropped collection");
                }
            }
        }
        for change in changes {
            if !change.is_dropping() {
                self.build_indexes(change.tenant, &change.collection);
            }
            change.dropped.iter().for_each(|dropped| self.sweep_in_background(*dropped));
        }
        Ok(())
    }

    /// Has a catalogue that is durable be the current one.
    pub(super) fn catalogue_is(&self, catalogue: Catalogue) {
        let version = catalogue.version();
        *self.catalogue.write() = Arc::new(catalogue);
        // After it: who is told of the version is told by the catalogue, too.
        self.catalogue_version.store(version, Ordering::SeqCst);
    }

    /// The rows of a change, and the spaces that come with it.
    fn stage(
        &self,
        catalogue: &Catalogue,
        Change { tenant, collection, dropped, is_new }: &Change,
        batch: &mut WriteBatch,
        founded: &mut Vec<SpaceDefinition>,
    ) -> Result<()> {
        catalogue.put_rows(self.keyspaces.cluster, *tenant, collection, dropped, batch);
        if !dropped.is_empty() {
            // On a full disk this is what makes room.
            batch.use_reserve();
        }
        if catalogue.by_id(collection.id).is_some() {
            for definition in spaces_of(*tenant, collection) {
                if self.spaces.get(definition.collection, definition.space).is_none() {
                    self.spaces.found(definition, batch)?;
                    founded.push(definition);
                }
            }
        }
        // Of a new collection they are whole from the beginning.
        for index in collection.indexes.iter().filter(|_| *is_new) {
            let (key, value) = built_row(collection.id, index.id, PARTITIONS);
            batch.put(self.keyspaces.local, key, value);
            index.state.set_built();
        }
        Ok(())
    }
}

/// The spaces of a collection.
pub(super) fn spaces_of(tenant: TenantId, collection: &Collection) -> impl Iterator<Item = SpaceDefinition> {
    let collection_id = collection.id;
    collection.spaces.values().map(move |space| SpaceDefinition {
        tenant,
        collection: collection_id,
        space: space.id,
        shape: Shape {
            metric: space.spec.metric,
            dimension: space.spec.dimension as usize,
            codes: space.spec.codes,
        },
    })
}
