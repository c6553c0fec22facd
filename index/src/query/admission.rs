//! Who may be a hit: told by what is in memory, as far as it tells, so that only the rows of hits are read.

use std::sync::Arc;

use roaring::RoaringTreemap;

use crate::{
    deadline::Deadline,
    error::Result,
    model::CollectionId,
    query::{Query, matches::Matches, seeds::Found},
    replica::{Reader, Rows},
    row::EntityKey,
};

impl Found<'_> {
    /// Takes what was found out of the query's filter, and returns the numbers that a clause may bring; `None`: any.
    pub(super) fn accept(
        &mut self,
        collection: CollectionId,
        matches: Option<Matches>,
    ) -> Option<Arc<RoaringTreemap>> {
        if let Some(exact) = matches.as_ref().filter(|matches| matches.is_exact) {
            self.matching = Some((collection, Arc::clone(&exact.numbers)));
        }
        match &self.inside {
            Some(inside) => Some(inside.and(matches)),
            None => matches.map(|matches| matches.numbers),
        }
    }

    /// Whether the entity with this number of its own is there and meets the query's filter; `None`: its row tells.
    fn admits(&self, query: &Query, entity: &EntityKey, number: u64) -> Option<bool> {
        if !self.graph?.is_live(number) {
            return Some(false);
        }
        match (&query.filter, &self.matching) {
            (None, _) => Some(true),
            (Some(_), Some((collection, numbers))) if *collection == entity.collection => {
                Some(numbers.contains(number))
            }
            (Some(_), _) => None,
        }
    }

    /// The entity whose own number this is, if it is there and no store need be asked for its name.
    pub(super) fn entity(&self, number: u64) -> Option<EntityKey> {
        let graph = self.graph.filter(|graph| graph.is_live(number))?;
        // Where a segment is damaged the store knows.
        graph.name(number).ok().flatten()
    }
}

impl Reader<'_> {
    /// Whether the entity is there and meets the query's filter.
    pub(super) fn is_admitted(
        &self,
        query: &Query,
        entity: &EntityKey,
        found: &Found<'_>,
        rows: &mut Rows,
        deadline: Deadline,
    ) -> Result<bool> {
        let number = found.own_numbers.get(entity);
        if let Some(is_admitted) = number.and_then(|number| found.admits(query, entity, *number)) {
            return Ok(is_admitted);
        }
        match rows.get(self, entity)? {
            Some(row) if row.is_live(self.now) => self.passes(entity, row, query.filter.as_ref(), deadline),
            _ => Ok(false),
        }
    }
}
