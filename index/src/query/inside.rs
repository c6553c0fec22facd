//! What a query that bounds another one found.

use std::sync::Arc;

use allidb_storage::Direction;
use foldhash::HashSet;
use roaring::RoaringTreemap;

use crate::{
    deadline::Deadline,
    error::Result,
    model::CollectionId,
    query::{Answer, Hit, matches::Matches},
    replica::Reader,
    row::{EntityKey, key::decode_number_key},
};

/// What a nested query found.
pub(crate) struct Inside {
    pub(crate) entities: HashSet<EntityKey>,
    /// The numbers of those that are of the query's own collection, and of their chunks.
    pub(crate) numbers: RoaringTreemap,
}

impl Inside {
    /// The hits of an answer.
    pub(crate) fn of(
        reader: &Reader<'_>,
        collection: CollectionId,
        answer: Answer,
        deadline: Deadline,
    ) -> Result<Self> {
        let entity = |hit: &Hit| {
            let owner = reader.catalogue.get(reader.tenant, &hit.collection)?.id;
            Ok(EntityKey::new(reader.tenant, owner, &hit.entity.id))
        };
        let entities = answer.hits.iter().map(entity).collect::<Result<Vec<_>>>()?;
        Self::of_entities(reader, collection, &entities, deadline)
    }

    /// These entities.
    pub(crate) fn of_entities(
        reader: &Reader<'_>,
        collection: CollectionId,
        entities: &[EntityKey],
        deadline: Deadline,
    ) -> Result<Self> {
        let mut inside = Self { entities: HashSet::default(), numbers: RoaringTreemap::new() };
        for entity in entities {
            deadline.check()?;
            if entity.collection == collection {
                let (keyspace, prefix) = (reader.replica.keyspaces.number, entity.numbers());
                for row in reader.snapshot.prefix(keyspace, &prefix, Direction::Forward)? {
                    let (key, bytes) = row?;
                    inside.numbers.insert(decode_number_key(&key, &bytes)?);
                }
            }
            inside.entities.insert(entity.clone());
        }
        Ok(inside)
    }

    /// Those that also match a filter, as far as that is known.
    pub(crate) fn and(&self, matches: Option<Matches>) -> Arc<RoaringTreemap> {
        Arc::new(match matches {
            Some(matches) => &self.numbers & &*matches.numbers,
            None => self.numbers.clone(),
        })
    }
}
