//! A query that several nodes answer, put together: their shares merged, scored and shaped as those of one node are.
//!
//! What a node says of an entity may be older than what others have. Where they are asked until so many agree as must be, whoever
//! gathers reads the hits themselves at the end, and has nodes say again what they said of those that turn out to be different.

use std::{collections::BTreeMap, sync::Arc};

use foldhash::{HashMap, HashMapExt, HashSet, HashSetExt};

use crate::{
    catalogue::Catalogue,
    deadline::Deadline,
    error::{Error, Result},
    graph::{Bounds, RingWalk, Visit, WalkedEdge},
    merge::EntityState,
    model::{Collection, Limits, Metric, ReadMask, SpaceId, TenantId, Timestamp, Value},
    query::{
        Answer, Fusion, Hit, Nearest, NearestTarget, Query, Seed, Step,
        execute::{Candidate, Visited, best_first, space_names_known},
        score::{Scorer, Signals, total},
        seeds::{TEXT_CANDIDATES, VECTOR_CANDIDATES, default_k},
        shape::{FieldOf, Page, Scored, Traits},
        share::{Brought, Known, Share, ShareRequest},
    },
    replica::{Replica, check_answer, check_mask},
    row::EntityKey,
};

/// A query that is being answered by several nodes.
pub struct Gathering {
    query: Query,
    /// What is asked of every node.
    request: ShareRequest,
    scorer: Scorer,
    /// When it came.
    now: Timestamp,
    catalogue: Arc<Catalogue>,
    collection: Arc<Collection>,
    limits: Limits,
    /// What nearest clauses compare with.
    pub(super) targets: Vec<(SpaceId, Metric, Arc<[f32]>)>,
    pub(super) known: HashMap<EntityKey, Known>,
    clauses: Vec<HashMap<EntityKey, Brought>>,
    /// Those that clauses of words or vectors brought, with their places.
    ranks: Vec<(IsOf, HashMap<EntityKey, usize>)>,
    given: HashSet<EntityKey>,
    seeds: HashMap<EntityKey, f64>,
    visits: HashMap<EntityKey, Visited>,
    walk: Option<RingWalk>,
    answer: Answer,
    hits: Vec<Scored>,
}

/// What a clause is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum IsOf {
    Vectors,
    Words,
}

impl Replica {
    /// The entities whose vectors a query's clauses are near to.
    ///
    /// # Errors
    /// If one is named wrongly.
    pub fn examples(&self, tenant: TenantId, query: &Query) -> Result<Vec<EntityKey>> {
        let targets = query.seeds.iter().filter_map(|seed| match seed {
            Seed::Nearest(nearest) => Some(&nearest.target),
            _ => None,
        });
        let mut examples = Vec::new();
        for target in targets {
            match target {
                NearestTarget::Vector(_) => {}
                NearestTarget::Entity(entity) => examples.push(self.entity_key(tenant, entity)?),
                NearestTarget::Examples(all) => {
                    for entity in all.positive.iter().chain(&all.negative) {
                        examples.push(self.entity_key(tenant, entity)?);
                    }
                }
            }
        }
        Ok(examples)
    }

    /// Begins to gather the answer to a query, of which `examples` are the [examples](Self::examples) with what is known of them, and
    /// `inside` what the query within it found, if there is one.
    ///
    /// # Errors
    /// If something in it is wrong.
    pub fn gathering(
        &self,
        tenant: TenantId,
        mut query: Query,
        examples: &[(EntityKey, EntityState)],
        inside: Option<Vec<EntityKey>>,
        deadline: Deadline,
    ) -> Result<Gathering> {
        self.validate(&query)?;
        let catalogue = self.catalogue();
        let collection = Arc::clone(catalogue.get(tenant, &query.collection)?);
        check_mask(&query.read_mask, &collection)?;
        let now = self.wall_time();
        let scorer = Scorer::new(&query, now)?;
        let (mut left_out, mut targets) = (Vec::new(), Vec::new());
        for (at, seed) in query.seeds.iter_mut().enumerate() {
            let Seed::Nearest(nearest) = seed else { continue };
            let place = format!("seeds[{at}].nearest");
            let (vector, of) = self.told_target(tenant, &place, nearest, &collection, examples, deadline)?;
            let space = collection.space(&nearest.space)?;
            targets.push((space.id, space.spec.metric, Arc::clone(&vector)));
            if !matches!(nearest.target, NearestTarget::Vector(_)) {
                nearest.target = NearestTarget::Vector(vector.to_vec());
            }
            left_out.push(of);
        }
        if query.scoring.as_of.is_none() {
            query.scoring.as_of = Some(now);
        }
        // Nodes need not know what of their share is shown, nor how.
        let bare = Query {
            read_mask: ReadMask::nothing(),
            explain: false,
            profile: false,
            highlight: None,
            within: None,
            seen: Vec::new(),
            offset: 0,
            limit: query.last().max(1),
            ..query.clone()
        };
        Ok(Gathering {
            request: ShareRequest { query: bare, left_out, inside, about: None },
            clauses: query.seeds.iter().map(|_| HashMap::new()).collect(),
            query,
            scorer,
            now,
            catalogue,
            collection,
            limits: self.limits().clone(),
            targets,
            known: HashMap::new(),
            ranks: Vec::new(),
            given: HashSet::new(),
            seeds: HashMap::new(),
            visits: HashMap::new(),
            walk: None,
            answer: Answer::default(),
            hits: Vec::new(),
        })
    }
}

impl Gathering {
    /// What every node is asked that holds a part of the collection.
    pub fn request(&self) -> &ShareRequest {
        &self.request
    }

    /// Takes what one node's clauses found. Of what several tell of an entity, the newest counts.
    pub fn add(&mut self, share: Share) {
        let Share { known, brought, truncated, compared } = share;
        for (clause, brought) in self.clauses.iter_mut().zip(brought) {
            for brought in brought {
                let Some(of) = known.get(brought.at) else { continue };
                let is_older = |before: &Known| before.version < of.version;
                if !clause.contains_key(&of.entity) || self.known.get(&of.entity).is_some_and(is_older) {
                    clause.insert(of.entity.clone(), brought);
                }
            }
        }
        self.learn(known);
        for cut in truncated {
            if !self.answer.truncated.contains(&cut) {
                self.answer.truncated.push(cut);
            }
        }
        self.answer.cost.vectors_compared += compared;
    }

    /// Of what is equally new the best is taken: if it is wrong, that comes out when the entity is read as a hit.
    fn learn(&mut self, known: Vec<Known>) {
        let nearness = |of: &Known| of.best.as_ref().map_or(f64::NEG_INFINITY, |best| best.nearness);
        for of in known {
            let is_better = |before: &Known| (before.version, nearness(before)) < (of.version, nearness(&of));
            if self.known.get(&of.entity).is_none_or(is_better) {
                self.known.insert(of.entity.clone(), of);
            }
        }
    }

    /// All have told what their clauses found: the best of each are seeds. Gives the walk to be taken from them, if one is to be.
    ///
    /// # Errors
    /// If the pattern cannot be read.
    pub fn begin(&mut self, deadline: Deadline) -> Result<Option<RingWalk>> {
        self.choose_seeds();
        let (Some(spec), query) = (&self.query.expand, &self.query) else { return Ok(None) };
        if query.seeds.len() > 1 {
            // What several clauses brought is worth what all of them say of it.
            let fused = |entity: &EntityKey| {
                let candidate = (!self.given.contains(entity)).then(|| self.candidate(entity)).flatten();
                candidate.and_then(|candidate| self.scorer.fused(&candidate.signals))
            };
            let fused: Vec<_> = self.seeds.keys().map(|entity| (entity.clone(), fused(entity))).collect();
            for (entity, score) in fused {
                if let (Some(seed), Some(score)) = (self.seeds.get_mut(&entity), score) {
                    *seed = score;
                }
            }
        }
        let from = match (spec.seeds, query.seeds.len()) {
            (0, 2..) => query.last(),
            (0, _) => usize::MAX,
            (seeds, _) => seeds,
        };
        let mut best: Vec<(EntityKey, f64)> =
            self.seeds.iter().map(|(entity, score)| (entity.clone(), *score)).collect();
        best.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        best.truncate(from);
        let bounds = Bounds { edges: self.limits.edges, deadline };
        RingWalk::new(spec, best, self.now, bounds).map(Some)
    }

    fn choose_seeds(&mut self) {
        for (clause, seed) in self.clauses.iter().zip(&self.query.seeds) {
            let mut brought: Vec<(&EntityKey, Brought)> = clause.iter().map(|(key, of)| (key, *of)).collect();
            match seed {
                Seed::Ids(_) => self.given.extend(brought.iter().map(|(entity, _)| (*entity).clone())),
                Seed::Matching { limit, .. } => {
                    let limit = if *limit == 0 { self.query.pool() } else { *limit };
                    brought.sort_unstable_by(|a, b| a.0.id.cmp(&b.0.id));
                    brought.truncate(limit);
                    self.given.extend(brought.iter().map(|(entity, _)| (*entity).clone()));
                }
                Seed::Nearest(Nearest { k, .. }) | Seed::Text { k, .. } => {
                    let (of, beside) = match seed {
                        Seed::Nearest(_) => (IsOf::Vectors, VECTOR_CANDIDATES),
                        _ => (IsOf::Words, TEXT_CANDIDATES),
                    };
                    let k = if *k == 0 { default_k(&self.query, beside) } else { *k };
                    let order = |a: &(&EntityKey, Brought), b: &(&EntityKey, Brought)| {
                        b.1.nearness.total_cmp(&a.1.nearness).then_with(|| a.0.cmp(b.0))
                    };
                    brought.sort_unstable_by(order);
                    brought.truncate(k);
                    let mut ranks: HashMap<EntityKey, usize> = HashMap::new();
                    let mut last: Option<(f64, usize)> = None;
                    for (place, (entity, Brought { score, .. })) in brought.iter().enumerate() {
                        // Texts that answer as well have the same place.
                        let place = match last {
                            Some((as_well, place)) if of == IsOf::Words && as_well == *score => place,
                            _ => place,
                        };
                        last = Some((*score, place));
                        ranks.insert((*entity).clone(), place);
                    }
                    self.ranks.push((of, ranks));
                }
            }
            for (entity, Brought { score, .. }) in brought {
                let best = self.seeds.entry(entity.clone()).or_insert(score);
                *best = best.max(score);
            }
        }
    }

    /// Takes the walk to its end; without one only seeds are hits. Gives those of whom nodes must still be asked what they know.
    ///
    /// # Errors
    /// If the deadline has passed.
    pub fn walked(&mut self, walk: Option<RingWalk>) -> Result<Vec<EntityKey>> {
        let seeds = self.seeds.iter();
        self.visits = seeds
            .map(|(entity, score)| (entity.clone(), Visited { score: *score, hops: 0, walk: None }))
            .collect();
        if let Some(mut walk) = walk {
            let reached = walk.reached()?;
            self.answer.cost.nodes = reached.len() as u64;
            self.answer.cost.edges = walk.edges();
            self.answer.truncated.extend(walk.truncated());
            if self.query.expand.as_ref().is_some_and(|spec| spec.page_rank.is_some()) {
                // Who is not among those that the wanderer may come to has no mass.
                self.visits.values_mut().for_each(|visited| visited.score = 0.0);
                for (entity, mass) in walk.seeds() {
                    self.visits.entry(entity).and_modify(|visited| visited.score = mass);
                }
            }
            for (entity, visit) in reached {
                let visited = Visited { score: visit.score, hops: visit.hops, walk: Some(visit) };
                let known = self.visits.entry(entity).or_insert_with(|| visited.clone());
                if visited.score > known.score {
                    *known = visited;
                }
            }
            self.walk = Some(walk);
        }
        // What was told of those that are no seeds nobody has looked at.
        self.known.retain(|entity, _| self.seeds.contains_key(entity));
        let unknown = self.visits.keys().filter(|entity| !self.known.contains_key(*entity));
        Ok(unknown.cloned().collect())
    }

    /// How many nodes the walk reached.
    pub fn reached(&self) -> usize {
        self.answer.cost.nodes as usize
    }

    /// Takes what nodes know of entities, of which they were asked; what none tells of is not there, or no hit.
    pub fn tell(&mut self, shares: impl IntoIterator<Item = Share>) {
        shares.into_iter().for_each(|share| self.learn(share.known));
    }

    /// Forgets everything that was told.
    pub fn restart(&mut self) {
        self.clauses.iter_mut().for_each(HashMap::clear);
        self.known.clear();
        self.ranks.clear();
        self.given.clear();
        self.seeds.clear();
        self.visits.clear();
        self.walk = None;
        self.answer = Answer::default();
        self.hits.clear();
    }

    /// Whether what nodes tell of entities is of their vectors or chunks, and not of their rows alone.
    pub fn is_about_contents(&self) -> bool {
        !self.targets.is_empty() || self.query.text_clauses().next().is_some()
    }

    /// Those that clauses brought: each takes a place that another one would have.
    pub fn seeds(&self) -> impl ExactSizeIterator<Item = &EntityKey> {
        self.seeds.keys()
    }

    /// A candidate, not yet reached along edges, if it is one.
    fn candidate(&self, entity: &EntityKey) -> Option<Candidate> {
        let known = self.known.get(entity)?;
        let (vector, text) = match self.query.scoring.fusion {
            Fusion::Scores => {
                (known.best.as_ref().map(|best| best.similarity), known.text.as_ref().map(|text| text.score))
            }
            Fusion::ReciprocalRank { k } => {
                let of = |of: IsOf| {
                    let ranks = self.ranks.iter().filter(|(is_of, _)| *is_of == of);
                    let value =
                        |place: Option<&usize>| place.map_or(0.0, |at| (k + 1.0) / (k + 1.0 + *at as f64));
                    ranks.map(|(_, ranks)| value(ranks.get(entity))).reduce(f64::max)
                };
                (of(IsOf::Vectors), of(IsOf::Words))
            }
        };
        let signals = Signals {
            vector,
            text,
            graph: 0.0,
            path_weight: None,
            importance: known.importance,
            updated_at: Some(known.updated_at),
        };
        Some(Candidate { signals, best: known.best.clone(), text: known.text.clone() })
    }

    /// The hits, as far as is known now; they remain to be read.
    ///
    /// # Errors
    /// If the deadline has passed.
    pub fn page(&mut self, deadline: Deadline) -> Result<Vec<EntityKey>> {
        let mut candidates = Vec::new();
        for (entity, visit) in &self.visits {
            // What a search is near to is no answer, though the walk may lead back to it.
            let is_example = self.request.left_out.iter().any(|examples| examples.contains(entity));
            if visit.hops > 0 && is_example {
                continue;
            }
            let Some(mut candidate) = self.candidate(entity) else { continue };
            candidate.signals.graph = visit.score;
            candidate.signals.path_weight = visit.walk.as_ref().and_then(Visit::mean_weight);
            let breakdown = self.scorer.breakdown(&candidate.signals);
            let score = total(&breakdown);
            if self.query.threshold.is_none_or(|threshold| score >= threshold) {
                let entity = entity.clone();
                candidates.push(Scored { score, entity, candidate, breakdown, group: None });
            }
        }
        best_first(&mut candidates, &self.scorer, &self.catalogue);
        let mut traits = Told(&self.known);
        let metric = self.targets.first().map(|(_, metric, _)| *metric);
        let Page { hits, next } =
            self.query.shape(metric, candidates, &mut traits, &self.limits, deadline)?;
        self.answer.next = next;
        let keys = hits.iter().map(|hit| hit.entity.clone()).collect();
        self.hits = hits;
        Ok(keys)
    }

    /// The edges of the paths to the hits, if they are asked for.
    pub fn path_edges(&self) -> Vec<WalkedEdge> {
        let paths = self.hits.iter().map(|hit| self.path(&hit.entity));
        if self.query.explain { paths.flatten().collect() } else { Vec::new() }
    }

    fn path(&self, entity: &EntityKey) -> Vec<WalkedEdge> {
        match (&self.walk, self.visits.get(entity).and_then(|visit| visit.walk.as_ref())) {
            (Some(walk), Some(visit)) => walk.path(visit),
            _ => Vec::new(),
        }
    }

    /// Whether hits are read with their chunks, to show how they answer.
    pub fn shows_chunks(&self) -> bool {
        self.query.highlight.is_some() && self.query.text_clauses().next().is_some()
    }

    /// The answer, of which `states` are its hits and `steps` the edges of their paths, one by one where they are there still.
    ///
    /// # Errors
    /// If it is too large, or the deadline has passed.
    pub fn answer(
        mut self,
        replica: &Replica,
        states: &BTreeMap<EntityKey, EntityState>,
        steps: Vec<Option<Step>>,
        deadline: Deadline,
    ) -> Result<Answer> {
        let mut steps = steps.into_iter();
        let mut bytes = 0;
        for Scored { score, entity: key, candidate, breakdown, group } in std::mem::take(&mut self.hits) {
            deadline.check()?;
            let path: Vec<Step> = match self.query.explain {
                true => steps.by_ref().take(self.path(&key).len()).flatten().collect(),
                false => Vec::new(),
            };
            let Some(collection) = self.catalogue.by_id(key.collection) else { continue };
            let Some(state) = states.get(&key) else { continue };
            check_answer(bytes, self.limits.answer_bytes)?;
            let mask = space_names_known(&self.query.read_mask, collection);
            let entity = match replica.entity_of(&key, state, &mask) {
                Ok(entity) => entity,
                // It went while it was read.
                Err(Error::NotFound { .. }) => continue,
                Err(error) => return Err(error),
            };
            bytes += entity.bytes();
            let highlights = match self.query.highlight {
                Some(highlight) => {
                    let chunk = candidate.text.as_ref().map_or("", |text| text.chunk.as_str());
                    let mask = ReadMask { chunks: true, ..ReadMask::fields() };
                    let whole = replica.entity_of(&key, state, &mask)?;
                    self.query.highlighted(highlight, collection, chunk, &whole, deadline)?
                }
                None => Vec::new(),
            };
            self.answer.hits.push(Hit {
                highlights,
                collection: collection.name.clone(),
                entity,
                score,
                group,
                measure: candidate.best.as_ref().map(|best| best.measure),
                chunk_id: candidate.chunk(),
                hops: self.visits.get(&key).map_or(0, |visit| visit.hops),
                breakdown: if self.query.explain { breakdown } else { Vec::new() },
                path,
            });
        }
        Ok(self.answer)
    }

    /// The collection that it is about.
    pub fn collection(&self) -> &Collection {
        &self.collection
    }
}

/// What nodes told.
struct Told<'a>(&'a HashMap<EntityKey, Known>);

impl Traits for Told<'_> {
    fn value(&mut self, entity: &EntityKey, of: FieldOf<'_>) -> Result<Option<Value>> {
        let Some(known) = self.0.get(entity) else { return Ok(None) };
        Ok(match of {
            FieldOf::Order(nth, _) => known.order.get(nth).cloned().flatten(),
            FieldOf::Group(_) => known.group.clone(),
        })
    }

    fn vector(&mut self, entity: &EntityKey) -> Result<Option<Arc<[f32]>>> {
        Ok(self.0.get(entity).and_then(|known| known.vector.as_deref()).map(Arc::from))
    }
}
