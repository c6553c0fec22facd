//! Bounded breadth-first expansion.
//!
//! Level by level, from every node whose best score improved in the level before: a node's score is the
//! best over all walks of at most so many hops, so one more edge can never lower it. What a bound cuts off
//! is counted, never silently dropped, and the same request meets the same edges in the same order.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use foldhash::{HashMap, HashMapExt};

use crate::{
    deadline::Deadline,
    error::{Error, Result},
    graph::{
        ExpandRequest, Expansion, Reached,
        neighbors::{Choice, SeenEdge, check_choice, directions},
    },
    model::{EntityRef, Limits, TenantId, validate_id},
    query::{ExpandSpec, Step, Truncation, TruncationReason},
    replica::{Reader, Replica, mirrored},
    row::{EntityKey, StoredRow},
    version::Version,
};

/// What bounds a walk beyond what its request says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) edges: usize,
    pub(crate) deadline: Deadline,
}

/// A node that a walk came to.
#[derive(Clone, Debug)]
pub(crate) struct Visit {
    /// The best over the walks to it: the seed's score × decay^hops × the weights.
    pub(crate) score: f64,
    /// Edges of that walk; 0: a seed.
    pub(crate) hops: usize,
    /// The last edge of that walk.
    came_by: Option<Arc<Arrival>>,
}

/// One edge of a walk, and the walk before it: kept as it was, whatever better walks are found later.
#[derive(Debug)]
struct Arrival {
    /// The node it was followed from.
    from: EntityKey,
    edge: SeenEdge,
    before: Option<Arc<Arrival>>,
}

/// Entity rows that were read; `None`: not there.
pub(crate) type Rows = HashMap<EntityKey, Option<StoredRow>>;

/// A walk and what it has found.
pub(crate) struct Walk<'a> {
    reader: &'a Reader<'a>,
    pub(crate) visits: HashMap<EntityKey, Visit>,
    /// Read on the way.
    pub(crate) rows: Rows,
    pub(crate) edges: u64,
    truncated: BTreeMap<TruncationReason, u64>,
}

impl ExpandSpec {
    /// Checks every bound.
    pub(crate) fn validate(&self, place: &str, limits: &Limits) -> Result<()> {
        check_choice(&format!("{place}."), &self.relations, self.min_weight)?;
        let bounds = [
            ("hops", self.hops, limits.hops),
            ("fan_out", self.fan_out, limits.fan_out),
            ("max_nodes", self.max_nodes, limits.nodes),
        ];
        for (name, value, limit) in bounds {
            if value == 0 || value > limit {
                return Err(Error::invalid(
                    format!("{place}.{name}"),
                    format!("is {value}; it must be 1 to {limit}"),
                ));
            }
        }
        if !(self.decay > 0.0 && self.decay <= 1.0) {
            return Err(Error::invalid(
                format!("{place}.decay"),
                format!("is {}; it must be in (0, 1]", self.decay),
            ));
        }
        Ok(())
    }
}

impl<'a> Walk<'a> {
    /// A walk that stands at its seeds.
    pub(crate) fn new(reader: &'a Reader<'a>, seeds: impl IntoIterator<Item = (EntityKey, f64)>) -> Self {
        let mut visits: HashMap<EntityKey, Visit> = HashMap::new();
        for (entity, score) in seeds {
            let visit = visits.entry(entity).or_insert(Visit { score, hops: 0, came_by: None });
            visit.score = visit.score.max(score);
        }
        Self { reader, visits, rows: Rows::new(), edges: 0, truncated: BTreeMap::new() }
    }

    /// The same with rows that were read already.
    pub(crate) fn with_rows(self, rows: Rows) -> Self {
        Self { rows, ..self }
    }

    /// Walks as far as `spec` and `bounds` allow, from the best `from` seeds.
    pub(crate) fn expand(&mut self, spec: &ExpandSpec, from: usize, bounds: Bounds) -> Result<()> {
        let seeds = self.visits.len();
        let mut best: Vec<(&EntityKey, f64)> =
            self.visits.iter().map(|(entity, visit)| (entity, visit.score)).collect();
        best.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(b.0)));
        let mut frontier: Vec<EntityKey> =
            best.into_iter().take(from).map(|(entity, _)| entity.clone()).collect();
        for hop in 1..=spec.hops {
            let mut improved: HashSet<EntityKey> = HashSet::new();
            // Best first, so that a bound cuts off what matters least; ties by name, so that it always cuts the same.
            let stand = |entity: EntityKey| self.visits.get(&entity).map(|visit| (visit.clone(), entity));
            let mut stands: Vec<(Visit, EntityKey)> = frontier.into_iter().filter_map(stand).collect();
            stands.sort_unstable_by(|a, b| b.0.score.total_cmp(&a.0.score).then_with(|| a.1.cmp(&b.1)));
            for (Visit { score, came_by: before, .. }, entity) in stands {
                for edge in self.followed(&entity, spec, bounds)? {
                    let (next, _) = mirrored(&entity, &edge.key);
                    let next_score = score * spec.decay * edge.content.weight;
                    if !self.is_passable(&next, &edge)? {
                        continue;
                    }
                    let is_new = match self.visits.get(&next) {
                        Some(visit) if visit.score >= next_score => continue,
                        visit => visit.is_none(),
                    };
                    if is_new && self.visits.len() - seeds >= spec.max_nodes {
                        self.truncated.insert(TruncationReason::MaxNodes, spec.max_nodes as u64);
                        continue;
                    }
                    let arrival = Arrival { from: entity.clone(), edge, before: before.clone() };
                    let came_by = Some(Arc::new(arrival));
                    self.visits.insert(next.clone(), Visit { score: next_score, hops: hop, came_by });
                    improved.insert(next);
                }
                if self.is_stopped() {
                    return Ok(());
                }
            }
            frontier = improved.into_iter().collect();
            if frontier.is_empty() {
                break;
            }
        }
        Ok(())
    }

    /// The edges to follow from a node: the heaviest of each relation and direction.
    fn followed(&mut self, entity: &EntityKey, spec: &ExpandSpec, bounds: Bounds) -> Result<Vec<SeenEdge>> {
        let as_of = spec.as_of.unwrap_or(self.reader.now);
        let choice = Choice { relations: &spec.relations, min_weight: spec.min_weight, as_of };
        let cleared = self.row(entity)?.map_or(Version::ZERO, |row| row.edges_cleared());
        let mut followed = Vec::new();
        let mut is_cut = false;
        for direction in directions(spec.direction) {
            let (edges, truncated) = (&mut self.edges, &mut self.truncated);
            let mut look = || {
                if *edges >= bounds.edges as u64 {
                    truncated.insert(TruncationReason::MaxEdges, bounds.edges as u64);
                    return false;
                }
                if *edges % 64 == 0 && bounds.deadline.has_passed() {
                    truncated.insert(TruncationReason::Deadline, 1);
                    return false;
                }
                *edges += 1;
                true
            };
            let mut seen = self.reader.edges(entity, cleared, *direction, &choice, &mut look)?;
            seen.sort_unstable_by(SeenEdge::by_weight);
            let mut of_relation: HashMap<String, usize> = HashMap::new();
            for edge in seen {
                let count = of_relation.entry(edge.key.relation.clone()).or_default();
                *count += 1;
                if *count > spec.fan_out {
                    is_cut = true;
                } else {
                    followed.push(edge);
                }
            }
        }
        if is_cut {
            *self.truncated.entry(TruncationReason::FanOut).or_default() += 1;
        }
        Ok(followed)
    }

    /// Whether the edge leads to an entity that is there, and is not hidden by an earlier delete of it.
    fn is_passable(&mut self, next: &EntityKey, edge: &SeenEdge) -> Result<bool> {
        if self.reader.catalogue.by_id(next.collection).is_none() {
            return Ok(false);
        }
        let now = self.reader.now;
        let row = self.row(next)?;
        Ok(row.is_some_and(|row| row.is_live(now) && edge.version > row.edges_cleared()))
    }

    /// The row of an entity, read once.
    pub(crate) fn row(&mut self, entity: &EntityKey) -> Result<Option<&StoredRow>> {
        if !self.rows.contains_key(entity) {
            let row = self.reader.row(entity)?.map(StoredRow::detached);
            self.rows.insert(entity.clone(), row);
        }
        Ok(self.rows.get(entity).and_then(Option::as_ref))
    }

    fn is_stopped(&self) -> bool {
        self.truncated.contains_key(&TruncationReason::Deadline)
            || self.truncated.contains_key(&TruncationReason::MaxEdges)
    }

    /// What was cut off.
    pub(crate) fn truncated(&self) -> Vec<Truncation> {
        self.truncated.iter().map(|(reason, count)| Truncation { reason: *reason, count: *count }).collect()
    }

    /// The best walk to a node, from its seed on.
    pub(crate) fn path(&self, entity: &EntityKey) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut arrival = self.visits.get(entity).and_then(|visit| visit.came_by.as_ref());
        while let Some(Arrival { from, edge, before }) = arrival.map(|arrival| &**arrival) {
            let direction = edge.direction;
            steps.extend(self.reader.edge(from, edge.clone()).map(|edge| Step { edge, direction }));
            arrival = before.as_ref();
        }
        steps.reverse();
        steps
    }

    /// How many nodes were reached beyond the seeds.
    pub(crate) fn reached(&self) -> u64 {
        self.visits.values().filter(|visit| visit.hops > 0).count() as u64
    }
}

impl Replica {
    /// Walks from some entities and tells what was reached.
    pub fn expand(&self, tenant: TenantId, request: &ExpandRequest, deadline: Deadline) -> Result<Expansion> {
        request.spec.validate("options", &self.limits)?;
        let limit = self.limits.seed_ids;
        if request.seeds.is_empty() || request.seeds.len() > limit {
            return Err(Error::invalid(
                "seeds",
                format!("are {}; 1 to {limit} are allowed", request.seeds.len()),
            ));
        }
        let reader = self.reader(tenant);
        let mut seeds = Vec::new();
        for seed in &request.seeds {
            validate_id("seeds.id", &seed.id)?;
            let collection = reader.catalogue.get(tenant, &seed.collection)?.id;
            seeds.push((EntityKey::new(tenant, collection, &seed.id), 1.0));
        }
        let mut walk = Walk::new(&reader, Vec::new());
        let mut live = Vec::new();
        for (entity, score) in seeds {
            if walk.row(&entity)?.is_some_and(|row| row.is_live(reader.now)) {
                live.push((entity, score));
            }
        }
        let mut walk = Walk::new(&reader, live).with_rows(walk.rows);
        walk.expand(&request.spec, usize::MAX, Bounds { edges: self.limits.edges, deadline })?;
        let mut nodes = Vec::new();
        for (entity, visit) in walk.visits.iter().filter(|(_, visit)| visit.hops > 0) {
            let Some(collection) = reader.catalogue.by_id(entity.collection) else { continue };
            let name = EntityRef::new(&collection.name, &entity.id);
            nodes.push(Reached {
                entity: name,
                hops: visit.hops,
                score: visit.score,
                path: walk.path(entity),
            });
        }
        nodes.sort_unstable_by(|a, b| {
            a.hops.cmp(&b.hops).then(b.score.total_cmp(&a.score)).then_with(|| a.entity.cmp(&b.entity))
        });
        Ok(Expansion { nodes, edges: walk.edges, truncated: walk.truncated() })
    }
}
