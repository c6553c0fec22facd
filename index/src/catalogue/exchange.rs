//! The catalogue as nodes of a ring tell it each other.

use std::{collections::BTreeMap, sync::Arc};

use prost::Message;

use super::{Catalogue, Dropped, DroppedPart, record};
use crate::{
    error::{Error, Result},
    model::{Collection, CollectionId, Index, TenantId},
};

impl Catalogue {
    /// How often it was changed.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// Whether this id was given already, be the collection there still or not.
    pub(crate) fn has_given(&self, id: CollectionId) -> bool {
        id.0 <= self.last_id
    }

    /// All of it, with the key of cursors.
    pub(crate) fn encode(&self, cursor_key: [u8; 32]) -> Vec<u8> {
        let collections = self.owned();
        let collections =
            collections.map(|(tenant, collection)| record::Collection::from_model(tenant, collection));
        let (version, last_id, cursor_key) = (self.version, self.last_id, cursor_key.to_vec());
        record::Catalogue { version, last_id, cursor_key, collections: collections.collect() }.encode_to_vec()
    }

    /// The inverse of [`encode`](Self::encode).
    pub(crate) fn decode(encoded: &[u8]) -> Result<(Self, [u8; 32])> {
        let garbled = |why: String| Error::invalid("catalogue", why);
        let record = record::Catalogue::decode(encoded)
            .map_err(|error| garbled(format!("cannot be read: {error}")))?;
        let cursor_key = record.cursor_key.try_into();
        let cursor_key = cursor_key.map_err(|_| garbled("has a key of another length".to_owned()))?;
        let mut catalogue = Self { version: record.version, last_id: record.last_id, ..Self::default() };
        for collection in record.collections {
            let (tenant, name) = (TenantId(collection.tenant), collection.name.clone());
            let unknown = || garbled(format!("has in collection {name:?} what this release does not know"));
            catalogue = catalogue.with(tenant, collection.try_into_model().ok_or_else(unknown)?);
        }
        Ok((catalogue, cursor_key))
    }

    /// With a collection as it is elsewhere; also that collection, whose indexes are as whole as they are here, and what of it was dropped.
    pub(crate) fn adopt(
        &self,
        tenant: TenantId,
        theirs: &Collection,
    ) -> (Catalogue, Arc<Collection>, Vec<Dropped>) {
        let mut adopted = theirs.clone();
        let mut dropped = Vec::new();
        let mut next = self.clone();
        if let Some(ours) = self.by_id(theirs.id) {
            let indexes: BTreeMap<_, &Index> = ours.indexes.iter().map(|index| (index.id, index)).collect();
            for index in &mut adopted.indexes {
                if let Some(ours) = indexes.get(&index.id) {
                    index.state = ours.state.clone();
                }
            }
            let keeps = |id| adopted.indexes.iter().any(|index| index.id == id);
            let indexes = indexes.keys().filter(|id| !keeps(**id)).map(|id| DroppedPart::Index(*id));
            let keeps = |id| adopted.spaces.values().any(|space| space.id == id);
            let spaces = ours.spaces.values().filter(|space| !keeps(space.id));
            let parts = indexes.chain(spaces.map(|space| DroppedPart::Space(space.id)));
            dropped.extend(parts.map(|part| Dropped { tenant, collection: theirs.id, part }));
            next.by_name.remove(&(tenant, ours.name.clone()));
        }
        (next.with(tenant, adopted.clone()), Arc::new(adopted), dropped)
    }

    /// The same, with the ids given and the changes made that another counts.
    pub(crate) fn counted_as(&self, other: &Self) -> Self {
        Self { version: other.version, last_id: other.last_id, ..self.clone() }
    }
}
