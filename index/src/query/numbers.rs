//! The vector index by itself: searched without reading any row of what it finds.

use crate::{
    error::{Error, Result},
    model::{EntityRef, TenantId},
    mutation::check_vector,
    replica::Replica,
    row::EntityKey,
    vector::Search,
};

impl Replica {
    /// The number under which the index knows an entity's own vector, if there is one.
    pub fn vector_number(&self, tenant: TenantId, entity: &EntityRef) -> Result<Option<u64>> {
        let reader = self.reader(tenant);
        let collection = reader.catalogue.get(tenant, &entity.collection)?;
        reader.number(&reader.meant(EntityKey::new(tenant, collection.id, &entity.id))?)
    }

    /// The numbers of the `k` nearest vectors and their distances by codes, nearest first: what a query begins with, before rows
    /// are read, filters tested and scores computed. `breadth` is that of the walk; zero: the configured one. For measuring.
    ///
    /// # Errors
    /// If there is no such space, the vector does not fit it, or vectors are damaged or missing.
    pub fn nearest_numbers(
        &self,
        tenant: TenantId,
        collection: &str,
        space: &str,
        vector: &[f32],
        k: usize,
        breadth: usize,
    ) -> Result<Vec<(u64, f32)>> {
        loop {
            let reader = self.reader(tenant);
            let collection = reader.catalogue.get(tenant, collection)?;
            let space = collection.space(space)?;
            check_vector("vector", space, vector)?;
            let unknown = || Error::UnknownSpace {
                collection: collection.name.clone(),
                space: space.spec.name.clone(),
            };
            let index = self.spaces.get(collection.id, space.id).ok_or_else(unknown)?;
            self.spaces.check_damage(collection.id)?;
            let view = index.view();
            let sequence = reader.snapshot.sequence();
            if !view.fits(sequence) {
                continue;
            }
            if !view.is_complete() {
                return Err(Error::FailedPrecondition("vectors are being read again".to_owned()));
            }
            let breadth = if breadth == 0 { self.spaces.options().search_breadth } else { breadth };
            let search = Search { k, breadth, exact: false, sequence, accept: None, deadline: None };
            let found = view.search(&index.measure().prepare(vector), &search)?;
            return Ok(found.nearest.into_iter().map(|near| (near.number, near.distance)).collect());
        }
    }

    /// Closes all growing segments, so that they are sealed and merged now.
    pub fn seal_vectors(&self) {
        for space in self.spaces.all() {
            space.close_growing();
            self.spaces.maintain(&space);
        }
    }
}
