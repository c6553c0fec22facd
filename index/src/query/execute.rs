//! Running a query at one pinned moment.

use std::{cmp::Ordering, collections::HashMap};

use crate::{
    deadline::Deadline,
    error::{Error, Result},
    graph::{Bounds, Walk},
    model::{ReadMask, TenantId},
    query::{
        Answer, Cost, Hit, Nearest, Query, Seed, Signal,
        score::{Scorer, Signals, total},
        seeds::{Target, check_k, nearness, pin},
    },
    replica::{Reader, Replica, StoredVector, check_answer, check_mask},
    row::{EntityKey, Field},
};

impl Replica {
    /// Answers a query. The same query on the same rows gives the same answer.
    pub fn query(&self, tenant: TenantId, query: &Query, deadline: Deadline) -> Result<Answer> {
        self.validate(query)?;
        let (reader, collection, targets, views) = pin(|| self.reader(tenant), query, &query.collection)?;
        check_mask(&query.read_mask, &collection)?;
        let scorer = Scorer::new(query, reader.now)?;
        let mut looked_up = Walk::new(&reader, Vec::new());
        let found = reader.seeds(query, &collection, &targets, &views, &mut looked_up, deadline)?;
        drop(views);
        let mut walk = Walk::new(&reader, found.seeds).with_rows(looked_up.rows);
        if let Some(spec) = &query.expand {
            walk.expand(spec, Bounds { edges: self.limits.edges, deadline })?;
        }
        let mut candidates = Vec::new();
        let entities: Vec<EntityKey> = walk.visits.keys().cloned().collect();
        for (at, entity) in entities.into_iter().enumerate() {
            if at % 64 == 0 {
                deadline.check()?;
            }
            // The entity that a search is near to is no answer, though the walk may lead back to it.
            let is_seed = walk.visits.get(&entity).is_some_and(|visit| visit.hops == 0);
            if !is_seed && targets.iter().any(|target| target.itself.as_ref() == Some(&entity)) {
                continue;
            }
            if let Some(candidate) = reader.candidate(&entity, query, &targets, &mut walk)? {
                let breakdown = scorer.breakdown(&candidate.signals);
                let score = total(&breakdown);
                if query.threshold.is_none_or(|threshold| score >= threshold) {
                    candidates.push((score, entity, candidate, breakdown));
                }
            }
        }
        let names: HashMap<_, _> = reader.catalogue.all().map(|c| (c.id, c.name.as_str())).collect();
        let name = |entity: &EntityKey| names.get(&entity.collection).copied().unwrap_or_default();
        candidates.sort_unstable_by(|a, b| {
            let by_nearness = || match scorer.weighs(Signal::Vector) {
                true => b.2.nearness.total_cmp(&a.2.nearness),
                // Nothing that was not asked for decides.
                false => Ordering::Equal,
            };
            let by_name = || name(&a.1).cmp(name(&b.1)).then_with(|| a.1.id.cmp(&b.1.id));
            b.0.total_cmp(&a.0).then_with(by_nearness).then_with(by_name)
        });
        candidates.truncate(query.limit);
        let mut answer = Answer { truncated: found.truncated, ..Answer::default() };
        answer.truncated.extend(walk.truncated());
        answer.cost = Cost { vectors_compared: found.compared, nodes: walk.reached(), edges: walk.edges };
        let mut bytes = 0;
        for (score, key, candidate, breakdown) in candidates {
            let (Some(collection), Some(row)) = (reader.catalogue.by_id(key.collection), walk.rows.get(&key))
            else {
                continue;
            };
            let Some(row) = row else { continue };
            check_answer(bytes, self.limits.answer_bytes)?;
            let mask = space_names_known(&query.read_mask, collection);
            let entity = reader.materialise(&key, row, collection, &mask)?;
            bytes += entity.bytes();
            answer.hits.push(Hit {
                collection: collection.name.clone(),
                entity,
                score,
                chunk_id: candidate.chunk,
                measure: candidate.measure,
                hops: walk.visits.get(&key).map_or(0, |visit| visit.hops),
                breakdown: if query.explain { breakdown } else { Vec::new() },
                path: if query.explain { walk.path(&key) } else { Vec::new() },
            });
        }
        Ok(answer)
    }

    fn validate(&self, query: &Query) -> Result<()> {
        let limits = &self.limits;
        if query.seeds.is_empty() || query.seeds.len() > limits.seeds {
            let why = format!("are {}; 1 to {} are allowed", query.seeds.len(), limits.seeds);
            return Err(Error::invalid("seeds", why));
        }
        check_k("limit", query.limit, limits.k)?;
        if let Some(filter) = &query.filter {
            filter.validate("filter", limits)?;
        }
        if let Some(spec) = &query.expand {
            spec.validate("expand", limits)?;
        }
        for (at, seed) in query.seeds.iter().enumerate() {
            if let Seed::Nearest(Nearest { min_similarity: Some(least), .. }) = seed
                && !(0.0..=1.0).contains(least)
            {
                let place = format!("seeds[{at}].nearest.min_similarity");
                return Err(Error::invalid(place, format!("is {least}; it must be in [0, 1]")));
            }
        }
        match query.threshold {
            Some(threshold) if !(0.0..=1.0).contains(&threshold) => {
                Err(Error::invalid("threshold", format!("is {threshold}; it must be in [0, 1]")))
            }
            _ => Ok(()),
        }
    }
}

/// A hit in another collection carries the vectors that it has.
fn space_names_known(mask: &ReadMask, collection: &crate::model::Collection) -> ReadMask {
    let mut mask = mask.clone();
    mask.vector_spaces.retain(|space| collection.space(space).is_ok());
    mask
}

/// What scoring needs to know of a candidate.
struct Candidate {
    signals: Signals,
    /// The chunk that matched best; empty: the entity's own vector, or none.
    chunk: String,
    measure: Option<f64>,
    /// Greater is nearer, also where the similarity has no room left to tell.
    nearness: f64,
}

impl Reader<'_> {
    /// A candidate, unless it is gone or does not meet the query's filter.
    fn candidate(
        &self,
        entity: &EntityKey,
        query: &Query,
        targets: &[Target],
        walk: &mut Walk<'_>,
    ) -> Result<Option<Candidate>> {
        let graph = walk.visits.get(entity).map_or(0.0, |visit| visit.score);
        let now = self.now;
        let Some(row) = walk.row(entity)?.filter(|row| row.is_live(now)) else { return Ok(None) };
        if let Some(filter) = &query.filter
            && !filter.matches(&self.fields(entity, row, &ReadMask::fields()))
        {
            return Ok(None);
        }
        let importance = match row.get(&Field::Importance) {
            Some(crate::model::Value::Double(value)) => Some(*value),
            _ => None,
        };
        let updated_at = Some(row.touched.timestamp());
        let mut candidate = Candidate {
            signals: Signals { vector: None, graph, importance, updated_at },
            chunk: String::new(),
            measure: None,
            nearness: f64::NEG_INFINITY,
        };
        if targets.is_empty() {
            return Ok(Some(candidate));
        }
        for StoredVector { chunk, space, numbers } in self.vectors(&entity.prefix())? {
            for target in targets.iter().filter(|target| target.space == space) {
                if target.vector.len() != numbers.len() {
                    let key = entity.chunk(&chunk);
                    return Err(Error::corrupt("vector", &key, "it has another dimension than its space"));
                }
                let (measure, similarity) = target.measure_and_similarity(&numbers);
                let nearness = nearness(target.metric, measure);
                let is_better =
                    |best| similarity > best || (similarity == best && nearness > candidate.nearness);
                if candidate.signals.vector.is_none_or(is_better) {
                    candidate.nearness = nearness;
                    candidate.signals.vector = Some(similarity);
                    candidate.measure = Some(measure);
                    candidate.chunk.clone_from(&chunk);
                }
            }
        }
        Ok(Some(candidate))
    }
}
