//! Read, merge, write: the life of a write on a replica.
//!
//! The replica latches the entities, reads their merged rows, merges the mutations, writes what changed,
//! and publishes the index changes under the batch's sequence. What lies on disk is therefore always merged.

use std::{collections::HashSet, sync::Arc};

use allidb_storage::{Durability, WriteBatch};

use super::{
    alias::meant,
    beneath::beneath_key,
    condition::{lose_source, meets},
    derive::{Changes, EdgeEnd, Working, is_there, mirrored},
    loaded::Loaded,
    merging::{counterparts, edge_of_both, take_over},
    rewire::pending_key,
};
use crate::{
    catalogue::Catalogue,
    error::{Error, Result},
    graph,
    merkle::Change as TreeChange,
    model::{CollectionId, EntityRef, Timestamp, Written},
    mutation::{Condition, Kind, Mutation, Part, create, edge_parts},
    replica::Replica,
    row::{EdgeContent, EdgeKey, EntityKey, Field, Scope},
    text::{self, TextChange},
    vector::{self, VectorChange},
    version::Version,
};

/// Mutations and bytes that share one batch of the log.
const MAX_BATCH_MUTATIONS: usize = 512;
const MAX_BATCH_BYTES: usize = 4 << 20;

/// How often a write is named anew that meets an entity that was merged into another.
const MAX_RENAMINGS: usize = 8;

pub(super) const CLOCK: &[u8] = b"clock";

/// What became of a batch of mutations.
struct Applied {
    results: Vec<Result<Written>>,
    /// Those of edges that name an entity that was merged into another, with their places.
    misnamed: Vec<(usize, Mutation)>,
    /// Entities that went, more edges of which are left beneath their markers than go at a time.
    hidden: Vec<EntityKey>,
}

impl Replica {
    /// Merges the mutations in order; each is answered by itself and all of one are visible at once.
    ///
    /// Acknowledged as `durability` says: the log is gapless, so the last batch's covers those before it.
    #[tracing::instrument(level = "debug", skip_all, fields(mutations = mutations.len()))]
    pub fn apply(&self, mutations: Vec<Mutation>, durability: Durability) -> Vec<Result<Written>> {
        let mut results = Vec::with_capacity(mutations.len());
        let mut rest = mutations.into_iter().peekable();
        while rest.peek().is_some() {
            let (mut batch, mut bytes) = (Vec::new(), 0);
            while let Some(mutation) = rest.next_if(|next| {
                batch.is_empty()
                    || (batch.len() < MAX_BATCH_MUTATIONS && bytes + next.bytes <= MAX_BATCH_BYTES)
            }) {
                bytes += mutation.bytes;
                batch.push(mutation);
            }
            let is_last = rest.peek().is_none();
            let until = if is_last { durability } else { Durability::None };
            let count = batch.len();
            match self.apply_batch(batch, until) {
                Ok(written) => results.extend(written),
                Err(error) => {
                    // Nothing before it is known to be durable either: none is acknowledged.
                    results
                        .iter_mut()
                        .filter(|result| result.is_ok())
                        .for_each(|result| *result = Err(error.clone()));
                    results.extend((0..count + rest.len()).map(|_| Err(error.clone())));
                    return results;
                }
            }
        }
        results
    }

    /// What is meant for an entity that was merged into another goes to that one.
    fn apply_batch(&self, mutations: Vec<Mutation>, durability: Durability) -> Result<Vec<Result<Written>>> {
        let Applied { mut results, mut misnamed, hidden } = self.apply_as_named(mutations, durability)?;
        self.sweep_hidden(hidden);
        // Another merge may come in between.
        for _ in 0..MAX_RENAMINGS {
            if misnamed.is_empty() {
                break;
            }
            let mut places = Vec::with_capacity(misnamed.len());
            let mut renamed = Vec::with_capacity(misnamed.len());
            for (at, mutation) in misnamed {
                places.push(at);
                renamed.push(self.renamed(mutation)?);
            }
            let again = self.apply_as_named(renamed, durability)?;
            self.sweep_hidden(again.hidden);
            for (at, result) in places.iter().zip(again.results) {
                results[*at] = result;
            }
            misnamed = again.misnamed.into_iter().map(|(at, mutation)| (places[at], mutation)).collect();
        }
        Ok(results)
    }

    /// The mutation of an edge whose ends are called by the names of what they were merged into.
    fn renamed(&self, mutation: Mutation) -> Result<Mutation> {
        let Some(((source, name), (target, _))) = edge_ends(&mutation.parts).next() else {
            return Ok(mutation);
        };
        let content = mutation.parts.iter().find_map(|part| part.delta.edges.get(&name)).cloned();
        let Some(content) = content else { return Ok(mutation) };
        let source = meant(&self.engine, &self.keyspaces, source)?.entity;
        let target = meant(&self.engine, &self.keyspaces, target)?.entity;
        let name = EdgeKey { other: target.id.clone(), ..name };
        Ok(Mutation { parts: edge_parts(source, target, name, &content).into(), ..mutation })
    }

    /// Waits until the indexes can take mutations.
    pub(super) fn wait_for_room(&self, mutations: &[Mutation]) -> Result<()> {
        let parts = mutations.iter().flat_map(|mutation| &mutation.parts);
        let growing: HashSet<CollectionId> = (parts)
            .filter(|part| part.delta.vectors.values().any(|vector| vector.value.is_some()))
            .chain(mutations.iter().filter(|mutation| mutation.kind == Kind::Merge).flat_map(|m| &m.parts))
            .map(|part| part.entity.collection)
            .collect();
        if !growing.is_empty() {
            self.spaces.wait_for_room(|collection| growing.contains(&collection))?;
        }
        self.texts.wait_for_room()?;
        self.graph.wait_for_room()
    }

    fn apply_as_named(&self, mutations: Vec<Mutation>, durability: Durability) -> Result<Applied> {
        self.wait_for_room(&mutations)?;
        // Held until the batch is visible, so that no collection is dropped under it.
        let _gate = self.catalogue_gate.read();
        let catalogue = self.catalogue();
        // Where edges come at one end alone, their other ends may be given numbers, and tombstones.
        let parts = || mutations.iter().flat_map(|mutation| &mutation.parts);
        let ends = |part: &Part| -> Vec<EntityKey> {
            let edges = part.delta.edges.keys().chain(part.delta.edges_in.keys());
            edges.map(|edge| mirrored(&part.entity, edge).0).collect()
        };
        let ends: Vec<EntityKey> =
            if self.keeps_deletes() { parts().flat_map(ends).collect() } else { Vec::new() };
        let _latched = self.latches.acquire(parts().map(|part| &part.entity).chain(&ends));
        let _ending = self.latch_ending(&mutations)?;
        let mut following = self.trees.enter();
        let mut working = Working::new();
        let mut highest = Version::ZERO;
        let mut results = Vec::with_capacity(mutations.len());
        let now = self.clock.wall().now();
        let mut misnamed = Vec::new();
        let mut merged = HashSet::new();
        for mut mutation in mutations {
            let is_dropped = |part: &Part| catalogue.by_id(part.entity.collection).is_none();
            if mutation.parts.iter().any(is_dropped) {
                results.push(Err(Error::UnknownCollection(mutation.subject.collection)));
                continue;
            }
            highest = highest.max(mutation.version);
            let result = self.merge(&catalogue, &mut working, &mut mutation, (now, &mut merged));
            let is_misnamed = matches!(result, Err(Error::Merged { .. })) && mutation.kind == Kind::Edge;
            if is_misnamed {
                misnamed.push((results.len(), mutation));
            }
            results.push(result);
        }
        let mut batch = WriteBatch::new();
        for entity in &merged {
            batch.put(self.keyspaces.local, pending_key(entity), Vec::new());
        }
        let hides =
            |(entity, loaded): (&EntityKey, &Loaded)| (!loaded.hidden.is_empty()).then(|| entity.clone());
        let hidden: Vec<EntityKey> = working.iter().filter_map(hides).collect();
        for entity in &hidden {
            batch.put(self.keyspaces.local, beneath_key(entity), Vec::new());
        }
        let mut changes = Changes::default();
        changes.sums = following.sums.take();
        for (entity, loaded) in &mut working {
            self.write_rows(&catalogue, entity, loaded, &mut batch, &mut changes)?;
        }
        // When it is known which number each entity has then.
        self.write_edges(&catalogue, &working, &mut batch, &mut changes)?;
        let clock = self.highest_version.fetch_max(highest.time(), std::sync::atomic::Ordering::SeqCst);
        // A batch that only deletes is let through when the disk is full; unless it leaves tombstones it leaves no version behind either.
        let changes_nothing = batch.is_empty();
        let only_deletes = if self.keeps_deletes() { !changes.adds } else { batch.only_deletes() };
        if changes_nothing || self.keeps_deletes() || !only_deletes {
            batch.put(self.keyspaces.local, CLOCK, clock.max(highest.time()).to_be_bytes().to_vec());
        }
        if changes_nothing || only_deletes {
            // What was deleted already, say, is let through when the disk is full, as what is deleted only now. So is what
            // the journal says of it.
            batch.use_reserve();
        }
        let entities = working.into_keys().collect();
        self.commit_changes(batch, changes, entities, following, durability)?;
        Ok(Applied { results, misnamed, hidden })
    }

    /// Commits what changes of some entities, with what the journals of the indexes say of it, and has the indexes follow.
    pub(super) fn commit_changes(
        &self,
        mut batch: WriteBatch,
        changes: Changes,
        entities: Vec<EntityKey>,
        following: TreeChange<'_>,
        durability: Durability,
    ) -> Result<()> {
        let Changes { vectors: changes, texts, graph, posted, sums, used, .. } = changes;
        for VectorChange { space, writing, number, .. } in &changes {
            let place = vector::place(&self.keyspaces, space.id);
            let key = place.journal_key(writing.growing().generation, *number);
            batch.put(self.keyspaces.vector_log, key, Vec::new());
        }
        for TextChange { writing, number, .. } in &texts {
            let key = text::place(&self.keyspaces).journal_key(writing.growing().generation, *number);
            batch.put(self.keyspaces.text_log, key, Vec::new());
        }
        let graph_place = graph::place(&self.keyspaces);
        for change in &graph {
            batch.put(self.keyspaces.graph_log, change.journal_key(&graph_place.prefix), Vec::new());
        }
        if let Some(sums) = &sums {
            self.trees.put(sums, &mut batch)?;
        }
        let spaces: Vec<_> = changes.iter().map(|change| Arc::clone(&change.space)).collect();
        let changes = Arc::new(changes);
        let texts = Arc::new(texts);
        let (published, published_texts) = (Arc::clone(&changes), Arc::clone(&texts));
        let (index, matches) = (self.texts.clone(), Arc::clone(&self.matches));
        let graph = Arc::new(graph);
        let (graph_index, published_graph) = (self.graph.clone(), Arc::clone(&graph));
        let trees = Arc::clone(&self.trees);
        let usage = Arc::clone(&self.usage);
        let publish = move |sequence| {
            usage.follow(used);
            sums.iter().for_each(|sums| trees.follow(sums));
            matches.note(sequence, &entities);
            published.iter().for_each(|change| change.publish(sequence));
            published_texts.iter().for_each(|change| index.publish(change, sequence));
            published_graph.iter().for_each(|change| graph_index.publish(change, sequence));
        };
        self.engine.commit(batch, durability, publish)?;
        drop(following);
        self.is_posted(posted);
        // The segments that the changes went to are sealed only when all that is in them is visible.
        drop(changes);
        let has_texts = !texts.is_empty();
        drop(texts);
        if has_texts {
            self.texts.maintain();
        }
        let has_graph = !graph.is_empty();
        drop(graph);
        if has_graph {
            self.graph.maintain();
        }
        let mut seen: Vec<*const crate::vector::SpaceIndex> = Vec::new();
        for space in spaces {
            if !seen.contains(&Arc::as_ptr(&space)) {
                seen.push(Arc::as_ptr(&space));
                self.spaces.maintain(&space);
            }
        }
        Ok(())
    }

    /// Merges one mutation into the entities being changed, wholly or, where it fails, not at all. Its parts are used up, unless it names an
    /// entity that was merged into another. Notes which entity it merges into another.
    fn merge(
        &self,
        catalogue: &Catalogue,
        working: &mut Working,
        mutation: &mut Mutation,
        (now, merged): (Timestamp, &mut HashSet<EntityKey>),
    ) -> Result<Written> {
        let (version, kind) = (mutation.version, mutation.kind);
        let mut existed = false;
        let mut overtaken_by = None;
        // A replica that missed a longer time to live must not take for expired, and clear for all, what others know to be there: that is
        // settled by whoever coordinates the write.
        let knows_part = self.keeps_deletes();
        for (at, Part { entity, delta, condition }) in mutation.parts.iter_mut().enumerate() {
            if !working.contains_key(entity) {
                working.insert(entity.clone(), Loaded::load(&self.engine, &self.keyspaces, entity)?);
            }
            let Some(loaded) = working.get_mut(entity) else { continue };
            if kind == Kind::Sweep {
                loaded.load_hidden(&self.engine, &self.keyspaces, entity)?;
                continue;
            }
            let is_live = loaded.after.row.is_live(now);
            let collection = || mutation.subject.collection.clone();
            let not_found = || Error::NotFound { collection: collection(), id: entity.id.clone() };
            let is_alias = loaded.after.row.merged_into().is_some();
            if let Some((into, _)) = loaded.after.row.merged_into() {
                let is_refused = match kind {
                    Kind::Edge | Kind::Merge => true,
                    Kind::Rewire { .. } => at >= 2,
                    Kind::Sweep => false,
                    Kind::Plain | Kind::If(_) => {
                        let is_patch = matches!(condition, Condition::Exists | Condition::CreateIfMissing);
                        // The name of what is gone is free.
                        (is_patch || delta.row.get(&Field::Existence).is_some())
                            && self.stands_for_any(entity)?
                    }
                };
                if is_refused {
                    let (id, into) = (entity.id.clone(), into.to_owned());
                    return Err(Error::Merged { collection: collection(), id, into });
                }
                // Its edges, which are the other's, would go with it or stay with whoever takes the name.
                let is_freed = match condition {
                    Condition::None | Condition::Replaces => {
                        matches!(kind, Kind::Plain | Kind::If(_))
                            && delta.row.cleared(Scope::Entity) > Version::ZERO
                    }
                    Condition::CreateIfMissing => true,
                    Condition::Exists | Condition::Matches(_) | Condition::HasSource(_) => false,
                };
                if is_freed && (merged.contains(entity) || self.is_rewired(entity)?) {
                    let why = format!("entity {:?} is still being merged into {into:?}", entity.id);
                    return Err(Error::FailedPrecondition(why));
                }
            }
            if let Kind::If(precondition) = kind {
                precondition.check(&mutation.subject, &loaded.after.row, now)?;
            }
            let has_expired = !is_live && loaded.after.row.exists();
            match condition {
                Condition::Exists if !is_live => return Err(not_found()),
                Condition::Replaces | Condition::CreateIfMissing if has_expired && knows_part => {
                    return Err(Error::Expired { collection: collection(), id: entity.id.clone() });
                }
                Condition::Matches(filter)
                    if !is_live || !meets(&loaded.after.row, entity, filter, catalogue)? =>
                {
                    return Err(not_found());
                }
                Condition::CreateIfMissing => {
                    create(delta, version);
                    // Nothing stays of what expired or was merged into another.
                    if has_expired || (!is_live && is_alias) {
                        delta.row.clear(Scope::Entity, version.just_below());
                    }
                }
                _ => {}
            }
            // Whoever takes the place of an entity that expired has none of its edges.
            if has_expired && matches!(condition, Condition::Replaces | Condition::CreateIfMissing) {
                delta.row.clear(Scope::Edges, version.just_below());
            }
            loaded.load_for(&self.engine, &self.keyspaces, entity, delta)?;
            overtaken_by = overtaken_by.max(loaded.after.overtaker(delta, version));
            if let Condition::HasSource(source) = condition {
                match lose_source(&loaded.after, delta, version, source, is_live) {
                    Some(is_deleted) => {
                        existed |= is_deleted;
                        continue;
                    }
                    None => return Err(not_found()),
                }
            }
            existed |= match delta.edges.keys().next() {
                Some(edge) => is_there(&loaded.after.edges, edge),
                None => (is_live || is_alias) && delta.edges_in.is_empty(),
            };
        }
        match kind {
            Kind::Plain | Kind::If(_) | Kind::Edge | Kind::Sweep => {}
            Kind::Merge => merged.extend(self.take_over(working, mutation)?),
            Kind::Rewire { merged } => move_edge(working, mutation, merged)?,
        }
        let edges: Vec<_> = edge_ends(&mutation.parts).collect();
        for Part { entity, delta, .. } in std::mem::take(&mut mutation.parts) {
            self.merge_part(working, &entity, delta);
        }
        for ends in edges {
            self.agree_on_edge(working, version, ends);
        }
        Ok(Written { version, existed, overtaken_by })
    }

    /// Whether a name means an entity that is there.
    fn stands_for_any(&self, name: &EntityKey) -> Result<bool> {
        let meant = meant(&self.engine, &self.keyspaces, name.clone())?;
        self.exists(&meant.entity)
    }

    /// Fills in what the second entity of a mutation takes over from the first, and gives the name of that.
    fn take_over(&self, working: &mut Working, mutation: &mut Mutation) -> Result<Option<EntityKey>> {
        let [gone, stays] = &mut mutation.parts[..] else { return Ok(None) };
        let Some(from) = working.get(&gone.entity).map(|loaded| loaded.after.clone()) else {
            return Ok(None);
        };
        let Some(there) = working.get_mut(&stays.entity) else { return Ok(None) };
        let from = (&gone.entity, &from);
        there.load_for(&self.engine, &self.keyspaces, &stays.entity, &counterparts(from))?;
        take_over(from, &there.after, mutation.version, &self.limits, &mut stays.delta)?;
        Ok(Some(gone.entity.clone()))
    }
}

/// Fills in what an edge says that becomes another one, whose ends were merged at this version.
fn move_edge(working: &Working, mutation: &mut Mutation, merged: Version) -> Result<()> {
    let EntityRef { collection, id } = &mutation.subject;
    let not_found = || Error::NotFound { collection: collection.clone(), id: id.clone() };
    let ends: Vec<_> = edge_ends(&mutation.parts).collect();
    let moved = ends.first().and_then(|edge| visible(working, edge)).ok_or_else(not_found)?;
    let Some(new @ (source, target)) = ends.get(1) else { return Ok(()) };
    let is_deleted = |end: &EdgeEnd| {
        working.get(&end.0).is_none_or(|loaded| loaded.after.row.cleared(Scope::Edges) > merged)
    };
    if is_deleted(source) || is_deleted(target) {
        mutation.parts.truncate(2);
        return Ok(());
    }
    let there = visible(working, new);
    let content = edge_of_both(moved, there.as_ref());
    let edges = mutation.parts.iter_mut().skip(2);
    for register in
        edges.flat_map(|part| part.delta.edges.values_mut().chain(part.delta.edges_in.values_mut()))
    {
        register.value = Some(content.clone());
    }
    Ok(())
}

/// What an edge says that is there at both its ends.
fn visible(working: &Working, (source, target): &(EdgeEnd, EdgeEnd)) -> Option<EdgeContent> {
    let at_source = working.get(&source.0)?;
    let at_target = working.get(&target.0)?;
    let edge = at_source.after.edges.get(&source.1)?;
    let mirror = at_target.after.edges_in.get(&target.1)?;
    let cleared = at_source.after.row.cleared(Scope::Edges).max(at_target.after.row.cleared(Scope::Edges));
    mirror.value.as_ref()?;
    edge.value.clone().filter(|_| edge.version > cleared)
}

/// Where the rows of edges belong: each has two parts, beside each other.
fn edge_ends(parts: &[Part]) -> impl Iterator<Item = (EdgeEnd, EdgeEnd)> {
    parts.chunks_exact(2).filter_map(|ends| {
        let [source, target] = ends else { return None };
        let out = source.delta.edges.keys().next()?.clone();
        let into = target.delta.edges_in.keys().next()?.clone();
        Some(((source.entity.clone(), out), (target.entity.clone(), into)))
    })
}
