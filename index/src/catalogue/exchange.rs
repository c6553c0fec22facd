//! The catalogue as nodes of a ring tell it each other.

use std::{collections::BTreeMap, sync::Arc};

use prost::Message;

use super::{Catalogue, Dropped, DroppedPart, record};
use crate::{
    error::{Error, Result},
    model::{Collection, CollectionId, Index, TenantId},
};

/// Versions and ids are numbers of so many bits in an era, which is what stands above them.
const ERA: u32 = 32;
/// The lowest bits of an era, by which two halves of a ring are told apart that each give up the other.
const SIDE: u32 = 16;
/// A later era than there can be.
const MAX_VERSION: u64 = 1 << 56;

fn in_era(era: u64, number: u64) -> u64 {
    era << ERA | (number & ((1 << ERA) - 1))
}

impl Catalogue {
    /// Grows with every change.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// The same, as another version.
    pub(crate) fn of_version(self, version: u64) -> Self {
        Self { version, ..self }
    }

    /// The same in a later era: it is newer than what others make of it that stay in this one, and gives none of the ids that they do. `None` if it
    /// is in that era, or a later one.
    pub(crate) fn in_era(&self, era: u32) -> Option<Self> {
        let era = u64::from(era);
        // Ids that were restored are of eras of another ring.
        let of_ids = ((self.last_id >> ERA >> SIDE) + 1) << SIDE | (era & ((1 << SIDE) - 1));
        (era > self.version >> ERA).then(|| Self {
            version: in_era(era, self.version),
            last_id: in_era(of_ids, self.last_id),
            ..self.clone()
        })
    }

    /// Whether this id was given already, be the collection there still or not.
    pub(crate) fn has_given(&self, id: CollectionId) -> bool {
        id.0 <= self.last_id
    }

    /// Whether it is of a ring that went on without others, who may have given the same ids.
    pub(crate) fn is_forced(&self) -> bool {
        self.version >> ERA > 0
    }

    /// Whether any id was given.
    pub(crate) fn has_given_any(&self) -> bool {
        in_era(0, self.last_id) > 0
    }

    /// All of it, with the key of cursors.
    pub(crate) fn encode(&self, cursor_key: [u8; 32]) -> Vec<u8> {
        let collections = self.owned();
        let collections =
            collections.map(|(tenant, collection)| record::Collection::from_model(tenant, collection));
        let (version, last_id, cursor_key) = (self.version, self.last_id, cursor_key.to_vec());
        let keys = self.keys.values().map(|key| record::Key::from_model(key)).collect();
        let quotas = self.quotas().map(|(tenant, quota)| record::Quota::from_model(tenant, quota)).collect();
        record::Catalogue { version, last_id, cursor_key, collections: collections.collect(), keys, quotas }
            .encode_to_vec()
    }

    /// The inverse of [`encode`](Self::encode).
    pub(crate) fn decode(encoded: &[u8]) -> Result<(Self, [u8; 32])> {
        let garbled = |why: String| Error::invalid("catalogue", why);
        let record = record::Catalogue::decode(encoded)
            .map_err(|error| garbled(format!("cannot be read: {error}")))?;
        let cursor_key = record.cursor_key.try_into();
        let cursor_key = cursor_key.map_err(|_| garbled("has a key of another length".to_owned()))?;
        let mut catalogue = Self { version: record.version, last_id: record.last_id, ..Self::default() };
        // None comes so far: whoever says so would end all changes.
        if record.version > MAX_VERSION || record.last_id > MAX_VERSION {
            return Err(garbled(format!("says that it is of version {}", record.version)));
        }
        for collection in record.collections {
            let (tenant, name) = (TenantId(collection.tenant), collection.name.clone());
            let unknown = || garbled(format!("has in collection {name:?} what this release does not know"));
            let collection = collection.try_into_model().ok_or_else(unknown)?;
            let is_taken = catalogue.by_id.contains_key(&collection.id)
                || catalogue.by_name.contains_key(&(tenant, name.clone()));
            if is_taken || !catalogue.has_given(collection.id) {
                return Err(garbled(format!(
                    "has collection {name:?} twice, or of an id that was never given"
                )));
            }
            catalogue = catalogue.with(tenant, collection);
        }
        for key in record.keys {
            let unknown = || garbled("has a key that this release does not know".to_owned());
            let key = key.try_into_model().ok_or_else(unknown)?;
            if let Some(twice) = catalogue.keys.insert(key.id.clone(), Arc::new(key)) {
                return Err(garbled(format!("has key {} twice", twice.id)));
            }
        }
        catalogue.quotas = record.quotas.into_iter().map(record::Quota::into_model).collect();
        Ok((catalogue, cursor_key))
    }

    /// A collection as it is elsewhere, whose indexes are as whole as they are here; also what of it is dropped by that.
    pub(crate) fn adopted(&self, tenant: TenantId, theirs: &Collection) -> (Collection, Vec<Dropped>) {
        let mut adopted = theirs.clone();
        let Some(ours) = self.by_id(theirs.id) else { return (adopted, Vec::new()) };
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
        let dropped = parts.map(|part| Dropped { tenant, collection: theirs.id, part }).collect();
        (adopted, dropped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_apart_is_told_apart_also_after_a_restore() {
        let of = |version, last_id| Catalogue { version, last_id, ..Catalogue::default() };
        let forced = |catalogue: &Catalogue, side: u32| catalogue.in_era(1 << SIDE | side).unwrap();
        // That of a ring that was forced twice, say, as version 1 of another one.
        let restored = of(1, in_era(2 << SIDE | 77, 5));
        for before in [of(0, 0), of(7, 3), restored] {
            let (one, other) = (forced(&before, 20), forced(&before, 500));
            let mut goes_on = before.clone();
            let alone: Vec<u64> = (0..1_000).map(|_| goes_on.take_id()).collect();
            goes_on.version += 1_000;
            assert!(goes_on.version < one.version && one.version < other.version);
            let ids = |mut catalogue: Catalogue| (0..1_000).map(|_| catalogue.take_id()).collect::<Vec<_>>();
            let (ids_of_one, ids_of_other) = (ids(one.clone()), ids(other));
            assert!(alone.iter().chain(&ids_of_other).all(|id| !ids_of_one.contains(id)));
            // What was not known then is taken for dropped, and not for something that is yet to be heard of.
            assert!(alone.iter().all(|id| one.has_given(CollectionId(*id))));
            assert_eq!(one.has_given_any(), before.has_given_any());
            assert!(one.in_era(1 << SIDE | 20).is_none() && one.in_era(0).is_none());
            assert!(ids(forced(&before, 3)).iter().all(|id| *id < MAX_VERSION));
        }
    }
}
