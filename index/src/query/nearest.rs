//! A clause that asks for the nearest entities to a vector.

use foldhash::{HashMap, HashMapExt};

use crate::{
    codec::Decoder,
    error::{Error, Result},
    placement::PARTITIONS,
    query::{
        Nearest, Query, Truncation, TruncationReason,
        seeds::{Found, VECTOR_CANDIDATES, check_k, default_k},
        target::{Match, Target, Views},
    },
    replica::{Reader, Rows, register},
    row::{
        EntityKey, VectorContent, VectorKey,
        key::{collection_prefix, decode_entity},
    },
    vector::{Neighbour, Owner, Search},
};

/// The search with a filter that nobody asked for before that finds out what matches: until then the nearest are tested.
const BLIND_ROUNDS: usize = 3;

/// Vectors beyond those asked for that are as near as the last one.
const MAX_TIES: usize = 16;

/// An entity that was compared.
type Compared = (EntityKey, Match);

/// What tells how near a found vector is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Measures {
    /// The index.
    Codes,
    /// The stored vector; of an entity with several, the best of `all`.
    Vectors { all: bool },
}

/// What a search has come upon.
#[derive(Default)]
struct Near {
    entities: Vec<Compared>,
    /// Entities that passed, with their places among these, and those that did not.
    tested: HashMap<EntityKey, Option<usize>>,
}

impl Reader<'_> {
    /// The nearest entities to a target. Several vectors of one entity count as their best, rows of
    /// expired entities are skipped, and the filter is tested nearest first: so more vectors are asked for
    /// until enough entities have passed, in the end with every vector compared.
    #[expect(clippy::too_many_arguments, reason = "one clause of a query and all it reads from")]
    pub(super) fn nearest(
        &self,
        query: &Query,
        (at, nearest): (usize, &Nearest),
        (nth, target): (usize, &Target),
        views: &Views,
        rows: &mut Rows,
        deadline: crate::Deadline,
        found: &mut Found<'_>,
    ) -> Result<()> {
        let limits = &self.replica.limits;
        let k = if nearest.k == 0 { default_k(query, VECTOR_CANDIDATES) } else { nearest.k };
        let place = |field: &str| format!("seeds[{at}].nearest.{field}");
        check_k(&place("k"), k, limits.k)?;
        if nearest.ef > limits.ef {
            return Err(Error::invalid(place("ef"), format!("is {}; at most {}", nearest.ef, limits.ef)));
        }
        if let Some(recall) = nearest.target_recall {
            if !(recall > 0.0 && recall <= 1.0) {
                return Err(Error::invalid(
                    place("target_recall"),
                    format!("is {recall}; it must be in (0, 1]"),
                ));
            }
            if nearest.exact || nearest.ef > 0 {
                let why = "is given beside `exact` or `ef`; each says how to search";
                return Err(Error::invalid(place("target_recall"), why));
            }
        }
        let Some(view) = views.get(&target.index.id) else { return Ok(()) };
        let default_breadth = self.replica.spaces.options().search_breadth;
        let breadth = match nearest.target_recall {
            // Until it was measured, broad enough for most.
            Some(recall) => {
                target.index.curve().map_or(2 * default_breadth, |curve| curve.breadth(k, recall))
            }
            None if nearest.ef == 0 => default_breadth,
            None => nearest.ef,
        };
        let breadth = breadth.min(limits.ef.max(k));
        let prepared = target.index.measure().prepare(&target.vector);
        if target.examples.is_empty() && !nearest.exact {
            target.index.asked.note(&prepared);
        }
        let mut rows_tell = !view.is_complete();
        let matches = match &query.filter {
            Some(filter) if !rows_tell => self.matches(target.collection, filter, nearest.exact, deadline)?,
            _ => None,
        };
        let mut accepted = found.accept(target.collection, matches);
        let by_vectors = nearest.rescore || !target.index.shape.codes.tell_distances();
        // So many pass before the nearest of them are taken: the index alone may order the last ones wrongly.
        let wanted = if by_vectors { (k + k / 2 + 10).min(limits.candidates) } else { k };
        let is_blind = query.filter.is_some() && accepted.is_none();
        let spare = target.examples.len() + MAX_TIES;
        let mut asked = if is_blind { 4 * wanted } else { wanted + spare };
        let mut near = Near::default();
        let mut rounds = 0;
        loop {
            rounds += 1;
            if rows_tell {
                near.entities = self.compare_rows(query.filter.as_ref(), target, k, deadline, found)?;
                break;
            }
            if let Some(filter) = &query.filter
                && accepted.is_none()
                && rounds == BLIND_ROUNDS
            {
                // Few match: it is less work to find out which than to look for them from the nearest on.
                let matches = self.matches(target.collection, filter, true, deadline)?;
                accepted = found.accept(target.collection, matches);
                asked = wanted + spare;
            }
            asked = asked.min(limits.candidates);
            // Beyond this a walk costs more than looking at everything.
            let exact = nearest.exact || asked > 4_096.max(4 * k);
            let search = Search {
                k: asked,
                breadth,
                exact,
                sequence: self.snapshot.sequence(),
                accept: accepted.as_deref(),
                deadline: Some(deadline),
            };
            let search = match view.search(&prepared, &search) {
                Ok(search) => search,
                Err(error) if self.replica.spaces.heal(&target.index, &error) => {
                    rows_tell = true;
                    continue;
                }
                Err(error) => return Err(error),
            };
            found.compared += search.compared;
            let got = search.nearest.len();
            // A broader search may order the first ones differently: begin again, with rows at hand.
            near = Near::default();
            let mut last = f32::NEG_INFINITY;
            for (tested, hit) in search.nearest.into_iter().enumerate() {
                if tested % 64 == 0 {
                    deadline.check()?;
                }
                // Those that are as near as the last one are looked at, too, so that their names decide.
                if near.entities.len() >= wanted && !exact && hit.distance > last {
                    break;
                }
                let measures =
                    if exact || by_vectors || target.index.measure().is_rough(hit.distance, &prepared) {
                        Measures::Vectors { all: exact }
                    } else {
                        Measures::Codes
                    };
                let owner = match view.owner(&hit) {
                    Ok(owner) => owner,
                    Err(error) if self.replica.spaces.heal(&target.index, &error) => {
                        rows_tell = true;
                        break;
                    }
                    Err(error) => return Err(error),
                };
                self.test(&hit, owner, query, target, measures, found, rows, deadline, &mut near)?;
                last = hit.distance;
            }
            if rows_tell {
                continue;
            }
            let is_all = got < asked || asked >= limits.candidates;
            if near.entities.len() >= wanted || is_all {
                if near.entities.len() < k && asked >= limits.candidates && got >= asked {
                    let count = limits.candidates as u64;
                    found.truncated.push(Truncation { reason: TruncationReason::MaxCandidates, count });
                }
                break;
            }
            asked *= 8;
        }
        let Near { mut entities, .. } = near;
        // The index orders by codes, these are measured by the vectors themselves.
        entities.sort_unstable_by(nearest_first);
        entities.truncate(k);
        let floor = nearest.min_similarity.unwrap_or(0.0);
        let mut ranks = HashMap::new();
        for (key, found_match) in entities.into_iter().filter(|(_, best)| best.similarity >= floor) {
            ranks.insert(key.clone(), ranks.len());
            found.seeds.push((key.clone(), found_match.similarity));
            found.matches[nth].insert(key, Some(found_match));
        }
        found.vector_ranks.push(ranks);
        Ok(())
    }

    /// Adds the entity that a number stands for, if it is there and passes. Where all vectors are compared, the best of an
    /// entity's counts; otherwise the one that the index finds nearest.
    #[expect(clippy::too_many_arguments, reason = "one vector that was found and all it is tested by")]
    fn test(
        &self,
        &Neighbour { number, distance, .. }: &Neighbour,
        Owner { id, chunk }: Owner,
        query: &Query,
        target: &Target,
        measures: Measures,
        found: &mut Found<'_>,
        rows: &mut Rows,
        deadline: crate::Deadline,
        near: &mut Near,
    ) -> Result<()> {
        let key = EntityKey { tenant: self.tenant, collection: target.collection, id };
        if target.examples.contains(&key) {
            return Ok(());
        }
        match near.tested.get(&key) {
            Some(Some(at)) if measures == (Measures::Vectors { all: true }) => {
                let other = self.compare(&key, chunk, target)?;
                let best = &mut near.entities[*at].1;
                if let Some(other) = other.filter(|other| other.is_better_than(best)) {
                    *best = other;
                }
                return Ok(());
            }
            Some(_) => return Ok(()),
            None => {}
        }
        if chunk.is_empty() {
            found.own_numbers.insert(key.clone(), number);
        }
        let compared = match measures {
            _ if !self.is_admitted(query, &key, found, rows, deadline)? => None,
            Measures::Codes => Some(target.trust(chunk, distance)),
            Measures::Vectors { .. } => self.compare(&key, chunk, target)?,
        };
        near.tested.insert(key.clone(), compared.is_some().then_some(near.entities.len()));
        near.entities.extend(compared.map(|compared| (key, compared)));
        Ok(())
    }

    /// The nearest among the stored entities that match, all of them compared: right whatever state the index is in.
    fn compare_rows(
        &self,
        filter: Option<&crate::filter::Filter>,
        target: &Target,
        k: usize,
        deadline: crate::Deadline,
        found: &mut Found<'_>,
    ) -> Result<Vec<Compared>> {
        let mut near: Vec<Compared> = Vec::new();
        let keep_nearest = |near: &mut Vec<Compared>| {
            near.sort_unstable_by(nearest_first);
            near.truncate(k);
        };
        let keyspace = self.replica.keyspaces.entity;
        for partition in 0..PARTITIONS {
            let prefix = collection_prefix(partition, self.tenant, target.collection);
            for (at, row) in
                self.snapshot.prefix(keyspace, &prefix, allidb_storage::Direction::Forward)?.enumerate()
            {
                if at % 64 == 0 {
                    deadline.check()?;
                }
                let (row_key, bytes) = row?;
                let decoded = decode_entity(&mut Decoder::new(&row_key));
                let key = decoded.map_err(|error| Error::corrupt("entity", &row_key, error))?;
                let row = crate::replica::decode_row(&key, bytes)?;
                if target.examples.contains(&key)
                    || !row.is_live(self.now)
                    || found.inside.as_ref().is_some_and(|inside| !inside.entities.contains(&key))
                    || !self.passes(&key, &row, filter, deadline)?
                {
                    continue;
                }
                let vectors = self.vectors(&key.prefix())?.into_iter();
                let of_space = vectors.filter(|stored| stored.space == target.space);
                let compared = of_space.map(|stored| target.compare(stored.chunk, &stored.numbers));
                let best = compared
                    .inspect(|_| found.compared += 1)
                    .reduce(|best, other| if other.is_better_than(&best) { other } else { best });
                near.extend(best.map(|best| (key, best)));
                if near.len() >= 1_024.max(4 * k) {
                    keep_nearest(&mut near);
                }
            }
        }
        keep_nearest(&mut near);
        Ok(near)
    }

    /// How near the vector is that the index named, if it is there.
    pub(super) fn compare(&self, key: &EntityKey, chunk: String, target: &Target) -> Result<Option<Match>> {
        let vector_key = VectorKey { chunk, space: target.space };
        let row_key = key.vector(&vector_key);
        let Some(bytes) = self.snapshot.get(self.replica.keyspaces.vector, &row_key)? else {
            return Ok(None);
        };
        let Some(VectorContent(numbers)) = register("vector", &row_key, &bytes)?.value else {
            return Ok(None);
        };
        target.check_dimension(&row_key, &numbers)?;
        Ok(Some(target.compare(vector_key.chunk, &numbers)))
    }
}

fn nearest_first(a: &Compared, b: &Compared) -> std::cmp::Ordering {
    b.1.nearness.total_cmp(&a.1.nearness).then_with(|| a.0.cmp(&b.0))
}
