//! Walks over the ring: hop by hop, every node that holds a part of the frontier is asked once for its edges.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use allidb_index::{
    EntityKey, EntityState, Error, Extent, Replica, Result,
    graph::{
        ExpandRequest, Expanding, Expansion, Explore, HopCounts, HopsRequest, LinksRequest, Paths,
        PathsRequest, ToldLinks, WalkedEdge,
    },
    query::Step,
};

use super::{Inner, Ring, Terms, ask::Asked, quorum::Quorum};
use crate::layout::NodeId;

/// How often nodes are asked again that do not agree. Then what any of them tells is followed: they were changed meanwhile.
const ROUNDS: usize = 2;

/// So many nodes or entities are named in one question at most.
pub(super) const ASKED: usize = 20_000;

/// Who told of entities.
pub(super) type ToldBy = BTreeMap<EntityKey, Vec<NodeId>>;

/// Partitions of which something is left out of a partial answer, as too few replicas told it.
pub(super) type Lost = BTreeSet<u16>;

impl Ring {
    /// Walks from some entities and tells what was reached.
    ///
    /// # Errors
    /// If the request is wrong, or too few replicas answer.
    pub async fn expand(&self, request: ExpandRequest, terms: Terms) -> Result<Expansion> {
        let mut lost = Lost::new();
        let inner = &self.0;
        let seeds = self.replica().expand_seeds(terms.tenant, &request)?;
        let heads = inner.known_states(seeds, Extent::NOTHING, terms, &mut lost).await?;
        let replica = self.replica();
        let live = heads.into_iter().filter(|(_, state)| replica.is_live(state)).map(|(seed, _)| seed);
        let walk = replica.expand_walk(&request, live.collect(), terms.deadline)?;
        let walk = inner.walk(walk, terms, &mut lost).await?;
        let (expanding, edges) =
            inner.search(move |replica| Expanding::new(replica, request.paths, walk)).await?;
        let steps = inner.steps(edges, terms, &mut lost).await?;
        Ok(expanding.expansion(steps))
    }

    /// How many entities are so many hops away from some.
    ///
    /// # Errors
    /// If the request is wrong, or too few replicas answer.
    pub async fn count_hops(&self, request: HopsRequest, terms: Terms) -> Result<HopCounts> {
        let mut lost = Lost::new();
        let (inner, replica) = (&self.0, self.replica());
        let seeds = replica.hop_seeds(terms.tenant, &request)?;
        let heads = inner.known_states(seeds, Extent::NOTHING, terms, &mut lost).await?;
        let live = heads.into_iter().filter(|(_, state)| replica.is_live(state)).map(|(seed, _)| seed);
        let hops = replica.ring_hops(&request, &live.collect::<Vec<_>>(), terms.deadline);
        Ok(inner.walk(hops, terms, &mut lost).await?.counts())
    }

    /// The shortest paths from one entity to another.
    ///
    /// # Errors
    /// If the request is wrong, one of the two is not there, or too few replicas answer.
    pub async fn shortest_paths(&self, request: PathsRequest, terms: Terms) -> Result<Paths> {
        let mut lost = Lost::new();
        let (inner, replica) = (&self.0, self.replica());
        let ends = replica.path_ends(terms.tenant, &request)?;
        let heads = inner.known_states(ends.to_vec(), Extent::NOTHING, terms, &mut lost).await?;
        for entity in [&request.from, &request.to] {
            let key = replica.entity_key(terms.tenant, entity)?;
            if !heads.iter().any(|(of, state)| *of == key && replica.is_live(state)) {
                return Err(Error::NotFound { collection: entity.collection.clone(), id: entity.id.clone() });
            }
        }
        let paths = inner.walk(replica.ring_paths(request, &ends, terms.deadline), terms, &mut lost).await?;
        let steps = inner.steps(paths.walked(), terms, &mut lost).await?;
        paths.paths(steps)
    }
}

impl Inner {
    /// What replicas hold of entities; those of which too few answer are left out, if the answer may be a part.
    ///
    /// # Errors
    /// If it may not.
    pub(super) async fn known_states(
        self: &Arc<Self>,
        entities: Vec<EntityKey>,
        extent: Extent,
        terms: Terms,
        lost: &mut Lost,
    ) -> Result<Vec<(EntityKey, EntityState)>> {
        let read = self.known_reads(entities, extent, terms, lost).await?;
        Ok(read.into_iter().map(|(entity, state, _)| (entity, state)).collect())
    }

    /// What replicas hold of entities, and whether they did not agree; those of which too few answer are left out, if the answer may be a part.
    ///
    /// # Errors
    /// If it may not.
    pub(super) async fn known_reads(
        self: &Arc<Self>,
        entities: Vec<EntityKey>,
        extent: Extent,
        terms: Terms,
        lost: &mut Lost,
    ) -> Result<Vec<(EntityKey, EntityState, bool)>> {
        let read = self.read(entities.clone(), extent, terms.consistency, terms.deadline).await;
        let known = |(entity, read): (EntityKey, Result<(EntityState, bool)>)| match read {
            Err(Error::Unavailable(_)) if terms.may_be_partial => {
                lost.insert(entity.partition());
                None
            }
            read => Some(read.map(|(state, was_disputed)| (entity, state, was_disputed))),
        };
        entities.into_iter().zip(read).filter_map(known).collect()
    }

    /// Has those who told of entities what they are not hold what a quorum does: they would tell the same again. False if some of them cannot;
    /// those are asked last for a while.
    pub(super) async fn repair_tellers(
        self: &Arc<Self>,
        entities: Vec<EntityKey>,
        edges: bool,
        told_by: &ToldBy,
        terms: Terms,
    ) -> bool {
        let of = |entity: EntityKey| {
            let mut asked = self.tellers(entity.partition(), terms.consistency).first();
            asked.extend(told_by.get(&entity).into_iter().flatten());
            asked.sort_unstable();
            asked.dedup();
            let all = asked.len();
            (entity, Quorum::of_nodes(asked, all))
        };
        let asked = entities.into_iter().map(of).collect();
        let read = self.read_from(asked, Extent { contents: true, edges }, terms.deadline).await;
        let failed = read.iter().filter_map(|read| read.as_ref().err()).next_back();
        if let Some(error) = failed {
            tracing::warn!(%error, "a replica that is behind cannot be repaired");
        }
        failed.is_none()
    }

    /// Takes something that is found out from what nodes tell to its end.
    ///
    /// # Errors
    /// If too few replicas answer.
    pub(super) async fn walk<E: Explore + Send + 'static>(
        self: &Arc<Self>,
        mut walk: E,
        terms: Terms,
        lost: &mut Lost,
    ) -> Result<E> {
        loop {
            let wanted;
            (walk, wanted) = self.think(walk, |_, walk| walk.wanted()).await?;
            let Some(wanted) = wanted else { return Ok(walk) };
            let told = self.links(wanted, terms, lost).await?;
            walk.graph().add(told);
            let unknown = walk.graph().unknown();
            let heads = self.known_reads(unknown.clone(), Extent::NOTHING, terms, lost).await?;
            let replica = &self.served.replica;
            let live = heads.iter().filter(|(_, state, _)| replica.is_live(state));
            walk.graph().note_live(unknown, live.map(|(entity, state, _)| (entity, state)));
            let doubtful = walk.graph().doubtful();
            if !doubtful.is_empty() {
                let extent = Extent { contents: false, edges: true };
                let states = self.known_states(doubtful, extent, terms, lost).await?;
                walk.graph().confirm(&states);
            }
        }
    }

    /// Does the work of a search that does not ask others.
    pub(super) async fn think<S: Send + 'static, T: Send + 'static>(
        &self,
        mut of: S,
        work: impl FnOnce(&Replica, &mut S) -> Result<T> + Send + 'static,
    ) -> Result<(S, T)> {
        self.search(move |replica| {
            let done = work(replica, &mut of)?;
            Ok((of, done))
        })
        .await
    }

    /// The edges of nodes, as so many replicas tell them as the consistency needs. Where they do not agree, what they hold is read and repaired,
    /// and they are asked again.
    async fn links(
        self: &Arc<Self>,
        request: LinksRequest,
        terms: Terms,
        lost: &mut Lost,
    ) -> Result<Vec<ToldLinks>> {
        let mut told_by = ToldBy::new();
        let (mut links, mut disputed) = self.told_links(&request, &mut told_by, terms, lost).await?;
        for _ in 0..ROUNDS {
            if disputed.is_empty() {
                break;
            }
            let again = request.of(disputed.iter().copied());
            self.repair_tellers(again.nodes().cloned().collect(), true, &told_by, terms).await;
            let (told, still) = self.told_links(&again, &mut told_by, terms, lost).await?;
            for (place, told) in disputed.iter().zip(told) {
                if let Some(links) = links.get_mut(*place) {
                    *links = told;
                }
            }
            disputed = still.into_iter().filter_map(|at| disputed.get(at).copied()).collect();
        }
        Ok(links)
    }

    /// What was told together, and the places of those on which replicas do not agree.
    async fn told_links(
        self: &Arc<Self>,
        request: &LinksRequest,
        told_by: &mut ToldBy,
        terms: Terms,
        lost: &mut Lost,
    ) -> Result<(Vec<ToldLinks>, Vec<usize>)> {
        let tellers = self.tellers_of(request.nodes(), terms.consistency);
        let asked = Asked { tellers, tells_all: false };
        let ask = |node, places: Vec<usize>| {
            let (inner, request) = (Arc::clone(self), request.of(places.iter().copied()));
            async move {
                let mut told: Vec<ToldLinks> = Vec::with_capacity(places.len());
                // It tells of as many as fit.
                while told.len() < places.len() {
                    let rest = request.of(told.len()..places.len().min(told.len() + ASKED));
                    let some = Arc::clone(&inner).answer(node, rest, terms).await?;
                    if some.is_empty() || some.len() > places.len() - told.len() {
                        let why =
                            format!("node {node} told of {} nodes, not of those it was asked", some.len());
                        return Err(Error::Unavailable(why));
                    }
                    told.extend(some);
                }
                Ok(told)
            }
        };
        let told = asked.ask(self, ask).await?;
        let names: Vec<&EntityKey> = request.nodes().collect();
        lost.extend(told.missing.iter().filter_map(|place| names.get(*place)).map(|name| name.partition()));
        let answers = told.answers("nodes", terms)?;
        let mut links: Vec<Option<ToldLinks>> = vec![None; request.nodes().len()];
        let mut disputed = Vec::new();
        for (node, places, told) in answers {
            for (place, told) in places.into_iter().zip(told) {
                if let Some(name) = names.get(place) {
                    told_by.entry(EntityKey::clone(name)).or_default().push(node);
                }
                match links.get_mut(place) {
                    Some(Some(known)) if *known != told => {
                        known.join(told);
                        disputed.push(place);
                    }
                    Some(slot @ None) => *slot = Some(told),
                    _ => {}
                }
            }
        }
        disputed.sort_unstable();
        disputed.dedup();
        Ok((links.into_iter().map(Option::unwrap_or_default).collect(), disputed))
    }

    /// Edges that a walk followed, as they are now; `None` where one is no more.
    ///
    /// # Errors
    /// If too few replicas answer.
    pub(super) async fn steps(
        self: &Arc<Self>,
        edges: Vec<WalkedEdge>,
        terms: Terms,
        lost: &mut Lost,
    ) -> Result<Vec<Option<Step>>> {
        let mut ends: Vec<EntityKey> = edges.iter().map(|edge| edge.from.clone()).collect();
        ends.sort_unstable();
        ends.dedup();
        let extent = Extent { contents: false, edges: true };
        let states = self.known_states(ends, extent, terms, lost).await?;
        let step = move |replica: &Replica, edge: &WalkedEdge| {
            let at = states.binary_search_by(|(end, _)| end.cmp(&edge.from)).ok()?;
            states.get(at).and_then(|(_, state)| replica.step(edge, state))
        };
        self.search(move |replica| Ok(edges.iter().map(|edge| step(replica, edge)).collect())).await
    }
}
