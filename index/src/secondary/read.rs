//! Reading the entities that postings name.

use std::ops::Bound;

use bytes::Bytes;
use roaring::RoaringTreemap;

use super::plan::Planned;
use crate::{
    deadline::Deadline,
    error::Result,
    filter::Filter,
    model::{Collection, CollectionId},
    replica::Reader,
    row::{EntityKey, StoredRow},
};

/// So many entities are put in the order of their ids at most: beyond, rows are read in that order instead.
const MAX_ORDERED: u64 = 200_000;
/// What it takes to find the name of an entity, in postings read.
const NAME: u64 = 10;
/// How often a long loop looks at the clock.
const DEADLINE_EVERY: usize = 256;

impl Reader<'_> {
    /// How the first `limit` entities, by their ids, that meet a filter are named from postings, if that is less work than reading rows
    /// until so many are found.
    pub(crate) fn plan_in_order(
        &self,
        collection: &Collection,
        filter: &Filter,
        limit: usize,
    ) -> Result<Option<Planned>> {
        let Some(planned) = self.plan(collection, filter)? else { return Ok(None) };
        let total = self.about_how_many(collection.id)?.max(1);
        let per_match = total / planned.estimate.max(1);
        let by_rows = Planned::cost_of_scan(total.min(per_match.saturating_mul(limit as u64)));
        let is_less = planned.cost_of_postings() + NAME * planned.estimate < by_rows;
        Ok((is_less && planned.estimate <= MAX_ORDERED).then_some(planned))
    }

    /// The ids of the entities that a plan names, in their order.
    pub(crate) fn ids_named(
        &self,
        collection: &Collection,
        planned: &Planned,
        (lower, upper): &(Bound<String>, Bound<String>),
        deadline: Deadline,
    ) -> Result<Vec<String>> {
        let (numbers, _) = self.named(collection.id, planned, deadline)?;
        let mut ids = Vec::new();
        for (at, number) in numbers.iter().enumerate() {
            if at % DEADLINE_EVERY == 0 {
                deadline.check()?;
            }
            let Some((EntityKey { id, .. }, _)) = self.owner_of(number)? else { continue };
            let is_within = match lower {
                Bound::Included(low) => id >= *low,
                Bound::Excluded(low) => id > *low,
                Bound::Unbounded => true,
            } && match upper {
                Bound::Included(high) => id <= *high,
                Bound::Excluded(high) => id < *high,
                Bound::Unbounded => true,
            };
            if is_within {
                ids.push(id);
            }
        }
        ids.sort_unstable();
        Ok(ids)
    }

    /// The rows of entities, as a scan gives them.
    pub(crate) fn rows_named(
        &self,
        collection: CollectionId,
        ids: Vec<String>,
    ) -> impl Iterator<Item = Result<(String, Bytes)>> {
        ids.into_iter().filter_map(move |id| {
            let key = EntityKey { tenant: self.tenant, collection, id };
            let bytes = self.snapshot.get(self.replica.keyspaces.entity, &key.prefix());
            match bytes {
                Ok(bytes) => bytes.map(|bytes| Ok((key.id, bytes))),
                Err(error) => Some(Err(error.into())),
            }
        })
    }

    /// How many entities meet a filter; `None` if reading all rows is less work than looking it up.
    pub(crate) fn count_by_index(
        &self,
        collection: &Collection,
        filter: &Filter,
        deadline: Deadline,
    ) -> Result<Option<u64>> {
        Ok(self.numbers_by_index(collection, filter, deadline)?.map(|numbers| numbers.len()))
    }

    /// The numbers of the entities that meet a filter; `None` if reading all rows is less work than looking it up.
    pub(super) fn numbers_by_index(
        &self,
        collection: &Collection,
        filter: &Filter,
        deadline: Deadline,
    ) -> Result<Option<RoaringTreemap>> {
        let Some(planned) = self.plan(collection, filter)? else { return Ok(None) };
        let by_rows = Planned::cost_of_scan(self.about_how_many(collection.id)?);
        if planned.cost_of_numbers() >= by_rows {
            return Ok(None);
        }
        let (named, are_exact) = self.named(collection.id, &planned, deadline)?;
        let nodes = self.replica.graph.nodes.view(self.snapshot.sequence());
        let nodes_tell = are_exact && self.replica.graph.check_damage().is_ok();
        let mut numbers = RoaringTreemap::new();
        for (at, number) in named.iter().enumerate() {
            if at % DEADLINE_EVERY == 0 {
                deadline.check()?;
            }
            let is_one = if nodes_tell {
                nodes.is_plainly_live(number).unwrap_or_else(|| nodes.get(number).is_live(self.now))
            } else {
                let Some((entity, _)) = self.owner_of(number)? else { continue };
                let row: Option<StoredRow> = self.row(&entity)?.filter(|row| row.is_live(self.now));
                match row {
                    Some(row) => self.passes(&entity, &row, Some(filter), deadline)?,
                    None => false,
                }
            };
            if is_one {
                numbers.insert(number);
            }
        }
        Ok(Some(numbers))
    }
}
