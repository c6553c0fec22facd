//! Running a query at one pinned moment.

use std::{cmp::Ordering, time::Instant};

use foldhash::{HashMap, HashMapExt};

use crate::{
    catalogue::Catalogue,
    deadline::Deadline,
    error::{Error, Result},
    graph::{Bounds, Here, Visit, Walk},
    model::{ReadMask, TenantId},
    query::{
        Answer, Fusion, Hit, Nearest, Query, Seed, Signal,
        inside::Inside,
        score::{Scorer, Signals, total},
        seeds::{Found, check_k},
        shape::{Page, Scored},
        target::{Aimed, Match, Pinned, Target},
        texts::TextHit,
    },
    replica::{Reader, Replica, Rows, StoredVector, check_answer, check_mask},
    row::EntityKey,
};

/// Queries within each other.
const MAX_WITHIN: usize = 3;

impl Replica {
    /// Answers a query. The same query on the same rows gives the same answer.
    pub fn query(&self, tenant: TenantId, query: &Query, deadline: Deadline) -> Result<Answer> {
        let mut answers = self.query_each(tenant, std::slice::from_ref(query), deadline);
        answers.pop().unwrap_or_else(|| Err(Error::Internal("a query has no answer".to_owned())))
    }

    /// Answers queries one after the other, all at one moment: they share it, and the rows that several of them come upon.
    #[tracing::instrument(level = "debug", skip_all, fields(queries = queries.len()))]
    pub fn query_each(&self, tenant: TenantId, queries: &[Query], deadline: Deadline) -> Vec<Result<Answer>> {
        let pinned = Pinned::at(|| self.reader(tenant), queries, deadline);
        let mut rows = Rows::default();
        let answer = |(query, aimed): (&Query, &Result<Aimed>)| {
            deadline.check()?;
            let aimed = aimed.as_ref().map_err(Error::clone)?;
            rows.trim();
            if query.profile {
                pinned.reader.steps.begin();
            }
            let mut answer = self.answer(&pinned, query, aimed, &mut rows, deadline);
            let steps = pinned.reader.steps.end();
            if let Ok(answer) = &mut answer {
                answer.steps = steps;
            }
            answer
        };
        queries.iter().zip(&pinned.aimed).map(answer).collect()
    }

    fn answer(
        &self,
        pinned: &Pinned<'_>,
        query: &Query,
        Aimed { collection, targets, within }: &Aimed,
        rows: &mut Rows,
        deadline: Deadline,
    ) -> Result<Answer> {
        let reader = &pinned.reader;
        let begun = Instant::now();
        check_mask(&query.read_mask, collection)?;
        let scorer = Scorer::new(query, reader.now)?;
        // What a nested query had to leave is missing here, too.
        let mut truncated = Vec::new();
        let inside = match (&query.within, within) {
            (Some(within), Some(aimed)) => {
                let nested = || self.answer(pinned, &within.bare(), aimed, rows, deadline);
                let mut answer = reader.steps.within(nested)?;
                reader.steps.note(begun, "within", answer.hits.len(), || {
                    ("only these may be hits".to_owned(), Some(within.limit as u64))
                });
                truncated = std::mem::take(&mut answer.truncated);
                Some(Inside::of(reader, collection.id, answer, deadline)?)
            }
            _ => None,
        };
        let graph = pinned.graph(query.expand.as_ref());
        let is_whole = self.graph.check_damage();
        if query.expand.is_some() {
            is_whole.clone()?;
        }
        let known = is_whole.is_ok().then_some(&graph);
        let mut found = reader.seeds(query, collection, targets, pinned, known, inside, rows, deadline)?;
        let mut known: HashMap<EntityKey, Option<Candidate>> = HashMap::new();
        let mut seeds: HashMap<EntityKey, f64> = HashMap::new();
        for (entity, score) in &found.seeds {
            let best = seeds.entry(entity.clone()).or_insert(*score);
            *best = best.max(*score);
        }
        if let (Some(_), [_, _, ..]) = (&query.expand, &query.seeds[..]) {
            // What several clauses brought is worth what all of them say of it.
            let begun = Instant::now();
            reader.look_up(query, targets, pinned, seeds.keys(), &mut found, deadline)?;
            for (at, (entity, score)) in seeds.iter_mut().enumerate() {
                if at % 64 == 0 {
                    deadline.check()?;
                }
                let candidate = reader.candidate(entity, query, &scorer, targets, &found, rows, deadline)?;
                if let Some(candidate) = candidate.as_ref().filter(|_| !found.given.contains(entity)) {
                    *score = scorer.fused(&candidate.signals).unwrap_or(*score);
                }
                known.insert(entity.clone(), candidate);
            }
            reader.steps.note(begun, "fuse", seeds.len(), || ("of all clauses".to_owned(), None));
        }
        let mut visits: HashMap<EntityKey, Visited> = (seeds.into_iter())
            .map(|(entity, score)| (entity, Visited { score, hops: 0, walk: None }))
            .collect();
        let (mut walk, mut nodes) = (None, 0);
        if let Some(spec) = &query.expand {
            let from = match (spec.seeds, query.seeds.len()) {
                (0, 2..) => query.last(),
                (0, _) => usize::MAX,
                (seeds, _) => seeds,
            };
            let seeds = reader.best_seeds(&visits, &found, from)?;
            let (begun, from) = (Instant::now(), seeds.len());
            let bounds = Bounds { edges: self.limits.edges, deadline };
            let walk = walk.insert(Walk::new(Here { reader, graph: &graph }, seeds, bounds));
            let reached = walk.expand(spec)?;
            nodes = reached.len() as u64;
            reader.steps.note(begun, "expand", reached.len(), || {
                let how = format!(
                    "from {from} seeds, {} hops at most, {} edges looked at",
                    spec.hops,
                    walk.edges()
                );
                (how, Some(spec.max_nodes as u64))
            });
            if spec.page_rank.is_some() {
                // Who is not among those that the wanderer may come to has no mass.
                visits.values_mut().for_each(|visited| visited.score = 0.0);
                for (number, mass) in walk.seeds() {
                    let Some(entity) = graph.name(number)? else { continue };
                    visits.entry(entity).and_modify(|visited| visited.score = mass);
                }
            }
            for (at, (number, visit)) in reached.into_iter().enumerate() {
                if at % 64 == 0 {
                    deadline.check()?;
                }
                let Some(entity) = graph.name(number)? else { continue };
                found.own_numbers.insert(entity.clone(), number);
                let visited = Visited { score: visit.score, hops: visit.hops, walk: Some(visit) };
                let known = visits.entry(entity).or_insert_with(|| visited.clone());
                if visited.score > known.score {
                    *known = visited;
                }
            }
        }
        let scoring = Instant::now();
        reader.look_up(query, targets, pinned, visits.keys(), &mut found, deadline)?;
        let mut candidates = Vec::new();
        let entities: Vec<EntityKey> = visits.keys().cloned().collect();
        for (at, entity) in entities.into_iter().enumerate() {
            if at % 64 == 0 {
                deadline.check()?;
            }
            // What a search is near to is no answer, though the walk may lead back to it.
            let is_seed = visits.get(&entity).is_some_and(|visit| visit.hops == 0);
            if !is_seed && targets.iter().any(|target| target.examples.contains(&entity)) {
                continue;
            }
            let candidate = match known.remove(&entity) {
                Some(known) => known,
                None => reader.candidate(&entity, query, &scorer, targets, &found, rows, deadline)?,
            };
            if let Some(mut candidate) = candidate {
                let visit = visits.get(&entity);
                candidate.signals.graph = visit.map_or(0.0, |visit| visit.score);
                candidate.signals.path_weight =
                    visit.and_then(|visit| visit.walk.as_ref()).and_then(Visit::mean_weight);
                let breakdown = scorer.breakdown(&candidate.signals);
                let score = total(&breakdown);
                if query.threshold.is_none_or(|threshold| score >= threshold) {
                    candidates.push(Scored { score, entity, candidate, breakdown, group: None });
                }
            }
        }
        reader.steps.note(scoring, "score", candidates.len(), || {
            (format!("{} weighed", visits.len()), Some(visits.len() as u64))
        });
        best_first(&mut candidates, &scorer, &reader.catalogue);
        let Page { hits, next } = reader.shape(query, targets, candidates, rows, deadline)?;
        truncated.extend(found.truncated);
        let mut answer = Answer { truncated, next, ..Answer::default() };
        answer.cost.vectors_compared = found.compared;
        if let Some(walk) = &walk {
            answer.truncated.extend(walk.truncated());
            (answer.cost.nodes, answer.cost.edges) = (nodes, walk.edges());
        }
        let mut bytes = 0;
        for Scored { score, entity: key, candidate, breakdown, group } in hits {
            deadline.check()?;
            let Some(collection) = reader.catalogue.by_id(key.collection) else { continue };
            let Some(row) = rows.get(reader, &key)? else { continue };
            check_answer(bytes, self.limits.answer_bytes)?;
            let mask = space_names_known(&query.read_mask, collection);
            let entity = reader.materialise(&key, row, collection, &mask)?;
            bytes += entity.bytes();
            let came = visits.get(&key).and_then(|visit| visit.walk.as_ref());
            let path = match (&walk, came) {
                (Some(walk), Some(came)) if query.explain => walk.path(came)?,
                _ => Vec::new(),
            };
            let highlights = match &query.highlight {
                Some(highlight) => {
                    let chunk = candidate.text.as_ref().map_or("", |text| text.chunk.as_str());
                    reader.highlights(query, *highlight, collection, &key, chunk, rows, deadline)?
                }
                None => Vec::new(),
            };
            answer.hits.push(Hit {
                highlights,
                collection: collection.name.clone(),
                entity,
                score,
                group,
                measure: candidate.best.as_ref().map(|best| best.measure),
                chunk_id: candidate.chunk(),
                hops: visits.get(&key).map_or(0, |visit| visit.hops),
                breakdown: if query.explain { breakdown } else { Vec::new() },
                path,
            });
        }
        reader.steps.note(begun, "answer", answer.hits.len(), || {
            (format!("{} bytes", bytes), Some(query.limit as u64))
        });
        Ok(answer)
    }

    /// # Errors
    /// If something in a query, or in one within it, is wrong.
    pub fn check_query(&self, query: &Query) -> Result<()> {
        self.validate(query)
    }

    pub(super) fn validate(&self, query: &Query) -> Result<()> {
        let limits = &self.limits;
        if query.seeds.is_empty() || query.seeds.len() > limits.seeds {
            let why = format!("are {}; 1 to {} are allowed", query.seeds.len(), limits.seeds);
            return Err(Error::invalid("seeds", why));
        }
        check_k("limit", query.limit, limits.k)?;
        query.check_highlight()?;
        query.check_shape(limits)?;
        if let Some(within) = &query.within {
            let depth = std::iter::successors(Some(within), |query| query.within.as_ref()).count();
            if depth > MAX_WITHIN {
                let why = format!("is nested {depth} deep; at most {MAX_WITHIN} are allowed");
                return Err(Error::invalid("within", why));
            }
            self.validate(within).map_err(|error| error.within("within"))?;
        }
        if let Some(filter) = &query.filter {
            filter.validate("filter", limits)?;
        }
        if let Some(spec) = &query.expand {
            spec.validate("expand", limits)?;
        }
        for (at, seed) in query.seeds.iter().enumerate() {
            if let Seed::Nearest(nearest) = seed {
                nearest.check_examples(&format!("seeds[{at}].nearest"), limits)?;
            }
            if let Seed::Nearest(Nearest { min_similarity: Some(least), .. }) = seed
                && !(0.0..=1.0).contains(least)
            {
                let place = format!("seeds[{at}].nearest.min_similarity");
                return Err(Error::invalid(place, format!("is {least}; it must be in [0, 1]")));
            }
        }
        match query.threshold {
            Some(threshold) if !(0.0..=query.scoring.mode.most()).contains(&threshold) => {
                let most = query.scoring.mode.most();
                Err(Error::invalid("threshold", format!("is {threshold}; it must be in [0, {most}]")))
            }
            _ => Ok(()),
        }
    }
}

/// Ties by nearness, where that counts, then by name.
pub(super) fn best_first(candidates: &mut [Scored], scorer: &Scorer, catalogue: &Catalogue) {
    let name = |entity: &EntityKey| catalogue.by_id(entity.collection).map(|c| c.name.as_str());
    candidates.sort_unstable_by(|a, b| {
        let by_nearness = || match scorer.weighs(Signal::Vector) {
            true => b.candidate.nearness().total_cmp(&a.candidate.nearness()),
            // Nothing that was not asked for decides.
            false => Ordering::Equal,
        };
        let by_name = || name(&a.entity).cmp(&name(&b.entity)).then_with(|| a.entity.id.cmp(&b.entity.id));
        b.score.total_cmp(&a.score).then_with(by_nearness).then_with(by_name)
    });
}

impl Query {
    /// What of a nested query tells which entities it finds.
    #[must_use]
    pub fn bare(&self) -> Self {
        Self { read_mask: ReadMask::nothing(), explain: false, highlight: None, ..self.clone() }
    }
}

/// A hit in another collection carries the vectors that it has.
pub(super) fn space_names_known(mask: &ReadMask, collection: &crate::model::Collection) -> ReadMask {
    let mut mask = mask.clone();
    mask.vector_spaces.retain(|space| collection.space(space).is_ok());
    mask
}

/// How an entity was reached.
#[derive(Clone, Debug)]
pub(super) struct Visited {
    pub(super) score: f64,
    /// Edges of the best walk to it; 0: a seed.
    pub(super) hops: usize,
    /// That walk.
    pub(super) walk: Option<Visit>,
}

/// What scoring needs to know of a candidate.
pub(super) struct Candidate {
    pub(super) signals: Signals,
    /// Its best vector, if one was compared.
    pub(super) best: Option<Match>,
    /// Its best text, if any matched.
    pub(super) text: Option<TextHit>,
}

impl Candidate {
    pub(super) fn chunk(self) -> String {
        let of_text = self.text.map(|text| text.chunk);
        self.best.map(|best| best.chunk).or(of_text).unwrap_or_default()
    }

    pub(super) fn nearness(&self) -> f64 {
        self.best.as_ref().map_or(f64::NEG_INFINITY, |best| best.nearness)
    }
}

impl Reader<'_> {
    /// The best seeds, by their numbers; ties by name.
    fn best_seeds(
        &self,
        seeds: &HashMap<EntityKey, Visited>,
        found: &Found<'_>,
        most: usize,
    ) -> Result<Vec<(u64, f64)>> {
        let mut best: Vec<(&EntityKey, f64)> =
            seeds.iter().map(|(entity, seed)| (entity, seed.score)).collect();
        best.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(b.0)));
        best.truncate(most);
        let number = |entity: &EntityKey| match found.own_numbers.get(entity) {
            Some(known) => Ok(Some(*known)),
            None => self.number(entity),
        };
        let numbered = |(entity, score)| Ok(number(entity)?.map(|number| (number, score)));
        best.into_iter().filter_map(|seed| numbered(seed).transpose()).collect()
    }

    /// A candidate, not yet reached along edges, unless it is gone or does not meet the query's filter.
    #[expect(clippy::too_many_arguments, reason = "one candidate and all it is judged by")]
    pub(super) fn candidate(
        &self,
        entity: &EntityKey,
        query: &Query,
        scorer: &Scorer,
        targets: &[Target],
        found: &Found<'_>,
        rows: &mut Rows,
        deadline: Deadline,
    ) -> Result<Option<Candidate>> {
        if found.inside.as_ref().is_some_and(|inside| !inside.entities.contains(entity)) {
            return Ok(None);
        }
        if !self.is_admitted(query, entity, found, rows, deadline)? {
            return Ok(None);
        }
        let row = if scorer.weighs_rows() { rows.get(self, entity)? } else { None };
        let importance = row.and_then(|row| row.importance);
        let updated_at = row.map(|row| row.touched.timestamp());
        let known = found.matches.iter().map(|matches| matches.get(entity));
        let best = match known.collect::<Option<Vec<&Option<Match>>>>() {
            Some(known) => known.into_iter().flatten().cloned().reduce(better),
            // The index does not tell of all of the targets.
            None => self.best_match(entity, targets)?,
        };
        let text_hit = self.text_hit(entity, found)?;
        let (vector, text) = match query.scoring.fusion {
            Fusion::Scores => {
                (best.as_ref().map(|best| best.similarity), text_hit.as_ref().map(|hit| hit.score))
            }
            Fusion::ReciprocalRank { k } => {
                let of = |clauses: &mut dyn Iterator<Item = &HashMap<EntityKey, usize>>| {
                    let places = clauses.map(|ranks| ranks.get(entity));
                    let value =
                        |place: Option<&usize>| place.map_or(0.0, |at| (k + 1.0) / (k + 1.0 + *at as f64));
                    places.map(value).reduce(f64::max)
                };
                (of(&mut found.vector_ranks.iter()), of(&mut found.texts.iter().map(|found| &found.ranks)))
            }
        };
        let signals = Signals { vector, text, graph: 0.0, path_weight: None, importance, updated_at };
        Ok(Some(Candidate { signals, best, text: text_hit }))
    }

    /// How near an entity is to the target that one of its vectors is nearest to.
    fn best_match(&self, entity: &EntityKey, targets: &[Target]) -> Result<Option<Match>> {
        let mut best: Option<Match> = None;
        for StoredVector { chunk, space, numbers } in self.vectors(&entity.prefix())? {
            for target in targets.iter().filter(|target| target.space == space) {
                target.check_dimension(&entity.chunk(&chunk), &numbers)?;
                let other = target.compare(chunk.clone(), &numbers);
                best = Some(best.map_or(other.clone(), |best| better(best, other)));
            }
        }
        Ok(best)
    }
}

pub(super) fn better(best: Match, other: Match) -> Match {
    if other.is_better_than(&best) { other } else { best }
}
