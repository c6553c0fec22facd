//! Read, merge, write: the life of a write on a replica.
//!
//! The replica latches the entities, reads their merged rows, merges the mutations, writes what changed,
//! and publishes the index changes under the batch's sequence. What lies on disk is therefore always merged.

use std::{collections::HashSet, sync::Arc};

use allidb_storage::{Durability, WriteBatch};

use super::{
    condition::{lose_source, meets},
    derive::{Changes, EdgeEnd, Working, is_there, mirrored},
    loaded::Loaded,
};
use crate::{
    catalogue::Catalogue,
    error::{Error, Result},
    graph,
    merge::EntityState,
    model::{CollectionId, EntityRef, Timestamp, Value, Written},
    mutation::{Condition, Mutation, Part},
    replica::Replica,
    row::{EdgeKey, Field, Scope},
    text::{self, TextChange},
    vector::{self, VectorChange},
    version::Version,
};

/// Mutations and bytes that share one batch of the log.
const MAX_BATCH_MUTATIONS: usize = 512;
const MAX_BATCH_BYTES: usize = 4 << 20;

pub(super) const CLOCK: &[u8] = b"clock";

impl Replica {
    /// Merges the mutations in order; each is answered by itself and all of one are visible at once.
    ///
    /// Acknowledged as `durability` says: the log is gapless, so the last batch's covers those before it.
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

    fn apply_batch(&self, mutations: Vec<Mutation>, durability: Durability) -> Result<Vec<Result<Written>>> {
        let parts = mutations.iter().flat_map(|mutation| &mutation.parts);
        let growing: HashSet<CollectionId> = (parts)
            .filter(|part| part.delta.vectors.values().any(|vector| vector.value.is_some()))
            .map(|part| part.entity.collection)
            .collect();
        if !growing.is_empty() {
            self.spaces.wait_for_room(|collection| growing.contains(&collection))?;
        }
        self.texts.wait_for_room()?;
        self.graph.wait_for_room()?;
        // Held until the batch is visible, so that no collection is dropped under it.
        let catalogue = self.catalogue.read();
        let entities = mutations.iter().flat_map(|mutation| mutation.parts.iter().map(|part| &part.entity));
        let _latched = self.latches.acquire(entities);
        let mut working = Working::new();
        let mut highest = Version::ZERO;
        let mut results = Vec::with_capacity(mutations.len());
        let now = self.clock.wall().now();
        for mutation in mutations {
            let is_dropped = |part: &Part| catalogue.by_id(part.entity.collection).is_none();
            if mutation.parts.iter().any(is_dropped) {
                results.push(Err(Error::UnknownCollection(mutation.subject.collection)));
                continue;
            }
            highest = highest.max(mutation.version);
            results.push(self.merge(&catalogue, &mut working, mutation, now));
        }
        let mut batch = WriteBatch::new();
        let mut changes = Changes::default();
        for (entity, loaded) in &mut working {
            self.write_rows(&catalogue, entity, loaded, &mut batch, &mut changes)?;
        }
        // When it is known which number each entity has then.
        self.write_edges(&working, &mut batch, &mut changes)?;
        let Changes { vectors: changes, texts, graph, .. } = changes;
        let clock = self.highest_version.fetch_max(highest.time(), std::sync::atomic::Ordering::SeqCst);
        // A batch that only deletes is let through when the disk is full; it leaves no version behind either.
        let changes_nothing = batch.is_empty();
        let only_deletes = batch.only_deletes();
        if changes_nothing || !only_deletes {
            batch.put(self.keyspaces.local, CLOCK, clock.max(highest.time()).to_be_bytes().to_vec());
        }
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
        if changes_nothing || only_deletes {
            // What was deleted already, say, is let through when the disk is full, as what is deleted only now. So is what
            // the journal says of it.
            batch.use_reserve();
        }
        let spaces: Vec<_> = changes.iter().map(|change| Arc::clone(&change.space)).collect();
        let changes = Arc::new(changes);
        let texts = Arc::new(texts);
        let (published, published_texts) = (Arc::clone(&changes), Arc::clone(&texts));
        let (index, matches, entities) =
            (self.texts.clone(), Arc::clone(&self.matches), working.into_keys().collect::<Vec<_>>());
        let graph = Arc::new(graph);
        let (graph_index, published_graph) = (self.graph.clone(), Arc::clone(&graph));
        let publish = move |sequence| {
            matches.note(sequence, &entities);
            published.iter().for_each(|change| change.publish(sequence));
            published_texts.iter().for_each(|change| index.publish(change, sequence));
            published_graph.iter().for_each(|change| graph_index.publish(change, sequence));
        };
        self.engine.commit(batch, durability, publish)?;
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
        Ok(results)
    }

    /// Merges one mutation into the entities being changed, wholly or, where it fails, not at all.
    fn merge(
        &self,
        catalogue: &Catalogue,
        working: &mut Working,
        mut mutation: Mutation,
        now: Timestamp,
    ) -> Result<Written> {
        let version = mutation.version;
        let edge = edge_ends(&mutation);
        let mut existed = false;
        for Part { entity, delta, condition } in &mut mutation.parts {
            if !working.contains_key(entity) {
                working.insert(entity.clone(), Loaded::load(&self.engine, &self.keyspaces, entity)?);
            }
            let Some(loaded) = working.get_mut(entity) else { continue };
            let is_live = loaded.after.row.is_live(now);
            let EntityRef { collection, id } = &mutation.subject;
            let not_found = || Error::NotFound { collection: collection.clone(), id: id.clone() };
            match condition {
                Condition::Exists if !is_live => return Err(not_found()),
                Condition::Matches(filter)
                    if !is_live || !meets(&loaded.after.row, entity, filter, catalogue)? =>
                {
                    return Err(not_found());
                }
                Condition::CreateIfMissing if !is_live => {
                    delta.row.puts = vec![version];
                    delta.row.clear(Scope::Entity, version.just_below());
                    delta.row.set(Field::Existence, version, Some(Value::Bool(true)));
                }
                _ => {}
            }
            // Whoever takes the place of an entity that expired has none of its edges.
            let has_expired = !is_live && loaded.after.row.get(&Field::Existence).is_some();
            if has_expired && delta.row.get(&Field::Existence).is_some() {
                delta.row.clear(Scope::Edges, version.just_below());
            }
            loaded.load_for(&self.engine, &self.keyspaces, entity, delta)?;
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
                None => is_live && delta.edges_in.is_empty(),
            };
        }
        for Part { entity, delta, .. } in mutation.parts {
            let Some(loaded) = working.get_mut(&entity) else { continue };
            let clears = delta.row.cleared(Scope::Edges) > loaded.after.row.cleared(Scope::Edges);
            let had = if clears { edge_names(&loaded.after) } else { [Vec::new(), Vec::new()] };
            let after = std::mem::take(&mut loaded.after);
            loaded.after = after.merge(delta);
            let [out, into] = had;
            // What mutations before this one of the batch put at the other ends goes, too.
            for (other, seen_from_there) in out.iter().map(|key| mirrored(&entity, key)) {
                working.get_mut(&other).map(|other| other.after.edges_in.remove(&seen_from_there));
            }
            for (other, seen_from_there) in into.iter().map(|key| mirrored(&entity, key)) {
                working.get_mut(&other).map(|other| other.after.edges.remove(&seen_from_there));
            }
        }
        if let Some(((source, out), (target, into))) = edge {
            // An edge is at both ends or at none: a delete of either end may have come in between.
            let at_source = working.get(&source).is_some_and(|loaded| is_there(&loaded.after.edges, &out));
            let at_target =
                working.get(&target).is_some_and(|loaded| is_there(&loaded.after.edges_in, &into));
            if at_source != at_target {
                if let Some(loaded) = working.get_mut(&source) {
                    loaded.after.edges.remove(&out);
                }
                if let Some(loaded) = working.get_mut(&target) {
                    loaded.after.edges_in.remove(&into);
                }
            }
        }
        Ok(Written { version, existed })
    }
}

/// Where an edge's rows belong, if the mutation is one of an edge.
fn edge_ends(mutation: &Mutation) -> Option<(EdgeEnd, EdgeEnd)> {
    let [source, target] = &mutation.parts[..] else { return None };
    let out = source.delta.edges.keys().next()?.clone();
    let into = target.delta.edges_in.keys().next()?.clone();
    Some(((source.entity.clone(), out), (target.entity.clone(), into)))
}

/// The names of an entity's edges, out and in.
fn edge_names(state: &EntityState) -> [Vec<EdgeKey>; 2] {
    [&state.edges, &state.edges_in].map(|edges| edges.keys().cloned().collect())
}
