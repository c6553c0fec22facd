//! Changing the catalogue, and what is stored with it.

use std::sync::Arc;

use allidb_storage::Durability;

use super::{CURSOR_KEY, Replica};
use crate::{
    catalogue::{Catalogue, Dropped, DroppedPart},
    error::Result,
    model::{Collection, CollectionChange, CollectionSpec, IndexId, TenantId},
    placement::PARTITIONS,
    row::EntityKey,
    secondary::built_row,
    vector::{Shape, SpaceDefinition},
};

impl Replica {
    /// Creates a collection.
    pub fn create_collection(
        &self,
        tenant: TenantId,
        name: &str,
        spec: CollectionSpec,
    ) -> Result<Arc<Collection>> {
        let _change = self.catalogue_change.lock();
        let now = self.clock.wall().now();
        let (catalogue, collection) = self.catalogue().create(tenant, name, spec, now)?;
        self.install(tenant, catalogue, &collection, &[], true)?;
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
        self.install(tenant, catalogue, &collection, &dropped, false)?;
        self.build_indexes(tenant, &collection);
        dropped.into_iter().for_each(|dropped| self.sweep_in_background(dropped));
        Ok(collection)
    }

    /// Drops a collection: it is gone at once, its rows are removed in the background.
    pub fn drop_collection(self: &Arc<Self>, tenant: TenantId, name: &str) -> Result<()> {
        let _change = self.catalogue_change.lock();
        let (catalogue, collection) = self.catalogue().without(tenant, name)?;
        self.remove(tenant, catalogue, &collection)
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

    /// Whether the id of the entity's collection was given already, as far as this node knows.
    pub fn has_heard_of(&self, entity: &EntityKey) -> bool {
        self.catalogue().has_given(entity.collection)
    }

    /// How often an encoded catalogue was changed.
    ///
    /// # Errors
    /// If these bytes are none.
    pub fn version_of_catalogue(encoded: &[u8]) -> Result<u64> {
        Ok(Catalogue::decode(encoded)?.0.version())
    }

    /// How often the catalogue was changed.
    pub fn catalogue_version(&self) -> u64 {
        self.catalogue().version()
    }

    /// Makes the catalogue be as it is elsewhere, durably, unless it is as new here or newer. Says whether it was older.
    ///
    /// # Errors
    /// If these bytes are no catalogue, or it cannot be written. What is done then is done again the next time.
    pub fn adopt_catalogue(self: &Arc<Self>, encoded: &[u8]) -> Result<bool> {
        let _change = self.catalogue_change.lock();
        let (next, cursor_key) = Catalogue::decode(encoded)?;
        if next.version() <= self.catalogue().version() {
            return Ok(false);
        }
        let gone: Vec<_> = (self.catalogue().owned())
            .filter(|(_, collection)| next.by_id(collection.id).is_none())
            .map(|(tenant, collection)| (tenant, collection.name.clone()))
            .collect();
        for (tenant, name) in gone {
            let (catalogue, collection) = self.catalogue().without(tenant, &name)?;
            self.remove(tenant, catalogue.counted_as(&self.catalogue()), &collection)?;
        }
        for (tenant, collection) in next.owned() {
            let (catalogue, collection, dropped) = self.catalogue().adopt(tenant, collection);
            let was = self.catalogue().by_id(collection.id).cloned();
            if was.as_ref() == Some(&collection) {
                continue;
            }
            self.install(tenant, catalogue, &collection, &dropped, was.is_none())?;
            self.build_indexes(tenant, &collection);
            dropped.into_iter().for_each(|dropped| self.sweep_in_background(dropped));
        }
        let mut current = self.catalogue.write();
        let catalogue = current.counted_as(&next);
        let mut batch = catalogue.numbers(self.keyspaces.cluster);
        batch.put(self.keyspaces.cluster, CURSOR_KEY, cursor_key.to_vec());
        self.engine.write(batch, Durability::Sync)?;
        *self.cursor_key.write() = cursor_key;
        *current = Arc::new(catalogue);
        Ok(true)
    }

    /// Takes a collection out of the catalogue, and its rows out of the store in the background.
    fn remove(
        self: &Arc<Self>,
        tenant: TenantId,
        catalogue: Catalogue,
        collection: &Collection,
    ) -> Result<()> {
        let dropped = Dropped { tenant, collection: collection.id, part: DroppedPart::Everything };
        // Looked for before, so that it does not take long until nobody walks through them any more.
        let (nodes, segments) = self.graph.nodes_of(tenant, collection.id, &[])?;
        self.install(tenant, catalogue, collection, &[dropped], false)?;
        for space in collection.spaces.values() {
            self.spaces.drop_space(collection.id, space.id);
        }
        self.texts.drop_collection(collection.id);
        self.graph.forget_nodes(&nodes);
        match self.graph.nodes_of(tenant, collection.id, &segments) {
            Ok((nodes, _)) => self.graph.forget_nodes(&nodes),
            Err(error) => {
                tracing::error!(%error, "until a restart walks may lead through a dropped collection");
            }
        }
        self.sweep_in_background(dropped);
        Ok(())
    }

    /// Builds those indexes of a collection that are not whole, and that nobody builds.
    pub(super) fn build_indexes(self: &Arc<Self>, tenant: TenantId, collection: &Collection) {
        let missing = collection.indexes.iter().filter(|index| index.state.begin_build());
        let missing: Vec<IndexId> = missing.map(|index| index.id).collect();
        if !missing.is_empty() {
            self.build_in_background(tenant, collection.id, missing);
        }
    }

    /// Makes a new catalogue durable, then current. Waits for writes under the old one.
    fn install(
        &self,
        tenant: TenantId,
        catalogue: Catalogue,
        collection: &Collection,
        dropped: &[Dropped],
        is_new: bool,
    ) -> Result<()> {
        let mut current = self.catalogue.write();
        let mut batch = catalogue.rows(self.keyspaces.cluster, tenant, collection, dropped);
        if !dropped.is_empty() {
            // On a full disk this is what makes room.
            batch.use_reserve();
        }
        let mut founded = Vec::new();
        if catalogue.by_id(collection.id).is_some() {
            let is_new = |definition: &SpaceDefinition| {
                self.spaces.get(definition.collection, definition.space).is_none()
            };
            founded.extend(spaces_of(tenant, collection).filter(is_new));
        }
        for definition in &founded {
            self.spaces.found(*definition, &mut batch)?;
        }
        // Of a new collection they are whole from the beginning.
        for index in collection.indexes.iter().filter(|_| is_new) {
            let (key, value) = built_row(collection.id, index.id, PARTITIONS);
            batch.put(self.keyspaces.local, key, value);
            index.state.set_built();
        }
        self.engine.write(batch, Durability::Sync)?;
        founded.into_iter().for_each(|definition| self.spaces.add(definition));
        for dropped in dropped {
            if let DroppedPart::Space(space) = dropped.part {
                self.spaces.drop_space(dropped.collection, space);
            }
        }
        *current = Arc::new(catalogue);
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
