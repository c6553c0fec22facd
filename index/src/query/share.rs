//! What one node tells of a query that several nodes answer: what its clauses find there, and what scoring needs to know of that.

use std::{collections::BTreeSet, sync::Arc};

use foldhash::{HashMap, HashMapExt};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    deadline::Deadline,
    error::{Error, Result},
    model::{SpaceId, TenantId, Timestamp, Value},
    query::{
        Query, Truncation,
        inside::Inside,
        score::Scorer,
        seeds::Found,
        target::{Match, Pinned},
        texts::TextHit,
    },
    replica::{Reader, Replica, Rows},
    row::{EntityKey, EntityRow},
    version::Version,
};

/// Candidates between two looks at the clock.
const DEADLINE_EVERY: usize = 64;

/// Asks one node for its share in the answer to a query.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShareRequest {
    /// Its targets are vectors, and no query bounds it.
    pub(crate) query: Query,
    /// What each nearest clause is near to, which it is not to bring.
    pub(crate) left_out: Vec<Vec<EntityKey>>,
    /// Only these may be hits.
    pub(crate) inside: Option<Vec<EntityKey>>,
    /// What is known of these; `None`: of what the clauses find.
    pub(crate) about: Option<Vec<EntityKey>>,
}

/// What one node knows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// Those that are there and may be hits.
    pub(crate) known: Vec<Known>,
    /// For each clause what it brought.
    pub(crate) brought: Vec<Vec<Brought>>,
    pub(crate) truncated: Vec<Truncation>,
    pub(crate) compared: u64,
}

/// An entity that a clause brought.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Brought {
    /// Its place among those that are known.
    pub(crate) at: usize,
    pub(crate) score: f64,
    /// Orders what is equally similar.
    pub(crate) nearness: f64,
}

/// What scoring and shaping need to know of an entity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Known {
    pub(crate) entity: EntityKey,
    /// XXH3 of its row: tells whether anything in it is different elsewhere.
    pub(crate) row_hash: u64,
    /// Of the last write to it.
    pub(crate) version: Version,
    pub(crate) best: Option<Match>,
    pub(crate) text: Option<TextHit>,
    pub(crate) importance: Option<f64>,
    pub(crate) updated_at: Timestamp,
    /// Of the fields that hits are ordered by.
    pub(crate) order: Vec<Option<Value>>,
    /// Of the field that they are grouped by.
    pub(crate) group: Option<Value>,
    /// Where hits are not to be alike.
    pub(crate) vector: Option<Vec<f32>>,
}

/// What tells whether a row is the same elsewhere.
pub(crate) fn row_hash(row: &EntityRow) -> u64 {
    xxh3_64(&row.encode())
}

impl Share {
    /// Those of whom it tells.
    pub fn entities(&self) -> impl Iterator<Item = &EntityKey> {
        self.known.iter().map(|known| &known.entity)
    }

    /// The same without what lies in some partitions.
    #[must_use]
    pub fn without(mut self, partitions: &BTreeSet<u16>) -> Self {
        let stays = |known: &Known| !partitions.contains(&known.entity.partition());
        let mut next = 0;
        let place = |known: &Known| {
            let place = stays(known).then_some(next);
            next += usize::from(place.is_some());
            place
        };
        let places: Vec<Option<usize>> = self.known.iter().map(place).collect();
        for brought in &mut self.brought {
            let moved = brought.iter().filter_map(|of| {
                let at = places.get(of.at).copied().flatten()?;
                Some(Brought { at, ..*of })
            });
            *brought = moved.collect();
        }
        self.known.retain(stays);
        self
    }
}

impl ShareRequest {
    /// Of whom it asks what is known, if it asks for that.
    pub fn about(&self) -> &[EntityKey] {
        self.about.as_deref().unwrap_or_default()
    }

    /// The same, about these.
    #[must_use]
    pub fn of(&self, entities: Vec<EntityKey>) -> Self {
        Self { about: Some(entities), ..self.clone() }
    }
}

impl Replica {
    /// What is known here of a query.
    ///
    /// # Errors
    /// If something in it is wrong, or an index or a row cannot be read.
    #[tracing::instrument(level = "debug", skip_all)]
    pub fn share(&self, tenant: TenantId, request: &ShareRequest, deadline: Deadline) -> Result<Share> {
        let ShareRequest { query, left_out, inside, about } = request;
        let mut pinned = Pinned::at(|| self.reader(tenant), std::slice::from_ref(query), deadline);
        let aimed = pinned.aimed.pop();
        let mut aimed =
            aimed.unwrap_or_else(|| Err(Error::Internal("a query aims at nothing".to_owned())))?;
        for (target, left_out) in aimed.targets.iter_mut().zip(left_out) {
            target.examples.clone_from(left_out);
        }
        let (reader, graph) = (&pinned.reader, pinned.graph(query.expand.as_ref()));
        let graph = self.graph.check_damage().is_ok().then_some(&graph);
        let (collection, targets) = (&*aimed.collection, &aimed.targets[..]);
        let inside = match inside {
            Some(entities) => Some(Inside::of_entities(reader, collection.id, entities, deadline)?),
            None => None,
        };
        let mut rows = Rows::default();
        let (mut found, entities) = match about {
            None => {
                let found =
                    reader.seeds(query, collection, targets, &pinned, graph, inside, &mut rows, deadline)?;
                let mut entities: Vec<EntityKey> = found.seeds.iter().map(|seed| seed.0.clone()).collect();
                entities.sort_unstable();
                entities.dedup();
                (found, entities)
            }
            Some(about) => {
                let found = reader.no_seeds(query, collection, targets, &pinned, graph, deadline)?;
                (Found { inside, ..found }, about.clone())
            }
        };
        reader.look_up(query, targets, &pinned, entities.iter(), &mut found, deadline)?;
        let scorer = Scorer::new(query, reader.now)?;
        let mut share = Share::default();
        let mut places: HashMap<&EntityKey, usize> = HashMap::new();
        for (at, entity) in entities.iter().enumerate() {
            if at % DEADLINE_EVERY == 0 {
                deadline.check()?;
            }
            let candidate = reader.candidate(entity, query, &scorer, targets, &found, &mut rows, deadline)?;
            let Some(candidate) = candidate else { continue };
            let Some(row) = rows.get(reader, entity)? else { continue };
            let wanted = query.order_by.iter().map(|order| &order.field);
            let value = |field: &crate::filter::Field| -> Result<Option<Value>> {
                Ok(field.value(&reader.fields(entity, row, &field.read_mask())?))
            };
            let order = wanted.map(value).collect::<Result<_>>()?;
            let group = match &query.group_by {
                Some(group_by) => value(&group_by.field)?,
                None => None,
            };
            let vector = match (&query.diversity, targets.first()) {
                (Some(_), Some(target)) => {
                    reader.vector_in(entity, target.space)?.map(|vector| vector.to_vec())
                }
                _ => None,
            };
            places.insert(entity, share.known.len());
            share.known.push(Known {
                entity: entity.clone(),
                row_hash: xxh3_64(row.bytes()),
                version: row.touched,
                best: candidate.best,
                text: candidate.text,
                importance: row.importance,
                updated_at: row.touched.timestamp(),
                order,
                group,
                vector,
            });
        }
        share.brought = brought(query, &found, &places);
        (share.truncated, share.compared) = (found.truncated, found.compared);
        Ok(share)
    }
}

/// What each clause brought.
fn brought(query: &Query, found: &Found<'_>, places: &HashMap<&EntityKey, usize>) -> Vec<Vec<Brought>> {
    let mut from = 0;
    let mut targets = 0;
    let mut of_clauses = Vec::with_capacity(found.after_clauses.len());
    for (seed, to) in query.seeds.iter().zip(&found.after_clauses) {
        let matches = matches!(seed, crate::query::Seed::Nearest(_)).then(|| {
            targets += 1;
            &found.matches[targets - 1]
        });
        let of_seed = |(entity, score): &(EntityKey, f64)| {
            let near = matches.and_then(|matches| matches.get(entity)?.as_ref());
            let nearness = near.map_or(*score, |near| near.nearness);
            Some(Brought { at: *places.get(entity)?, score: *score, nearness })
        };
        of_clauses.push(found.seeds[from..*to].iter().filter_map(of_seed).collect());
        from = *to;
    }
    of_clauses
}

impl Reader<'_> {
    /// The first vector of the entity, or of one of its chunks, in a space.
    pub(super) fn vector_in(&self, entity: &EntityKey, space: SpaceId) -> Result<Option<Arc<[f32]>>> {
        let vectors = self.vectors(&entity.prefix())?;
        Ok(vectors.into_iter().find(|stored| stored.space == space).map(|stored| stored.numbers))
    }
}
