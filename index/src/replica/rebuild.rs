//! Which spaces are meant when an operator has vectors indexed anew.

use super::Replica;
use crate::{
    error::{Error, Result},
    model::{Collection, TenantId},
    vector::Rebuild,
};

/// What is to be indexed anew; what is `None` is all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RebuildRequest {
    /// Whose collections.
    pub tenant: Option<TenantId>,
    /// Which collection.
    pub collection: Option<String>,
    /// Which of its spaces, by name or alias.
    pub space: Option<String>,
}

impl Replica {
    /// Begins to make the segments of vector spaces anew from the vectors that are stored, with graphs as the options say now. It goes on for as long as
    /// what it gives is kept, and ends with the replica.
    ///
    /// # Errors
    /// If there is no such collection or space.
    pub fn rebuild_vectors(&self, request: &RebuildRequest) -> Result<Rebuild> {
        let RebuildRequest { tenant, collection, space } = request;
        let catalogue = self.catalogue();
        let is_meant = |(of, named): &(TenantId, &std::sync::Arc<Collection>)| {
            tenant.is_none_or(|tenant| tenant == *of)
                && collection.as_ref().is_none_or(|name| *name == named.name)
        };
        let collections: Vec<_> = catalogue.owned().filter(is_meant).map(|(_, named)| named).collect();
        match collection {
            Some(name) if collections.is_empty() => return Err(Error::UnknownCollection(name.clone())),
            None if space.is_some() => {
                return Err(Error::invalid("collection", "must be said where a space is"));
            }
            _ => {}
        }
        let mut all = Vec::new();
        for collection in collections {
            match space {
                Some(name) => all.extend(self.spaces.get(collection.id, collection.space(name)?.id)),
                None => all.extend(
                    collection.spaces.values().filter_map(|space| self.spaces.get(collection.id, space.id)),
                ),
            }
        }
        self.spaces.rebuild(all)
    }
}
