//! Merging two entities, and moving the edges of the one that goes.
//!
//! That a name means another entity from now on is one atomic write, and so is each edge that moves. A row in `local`, written with the
//! first and removed after the last, says that there may be edges left, so that a restart goes on. No edge comes to an entity that was
//! merged: whoever puts one there means the other.

use std::sync::{Arc, atomic::Ordering};

use allidb_storage::{Direction, Durability, WriteBatch};

use super::{
    alias::{Meant, meant},
    derive::mirrored,
};
use crate::{
    codec::Decoder,
    deadline::Deadline,
    error::{Error, Result},
    merge::Register,
    model::{EntityRef, TenantId, Write, Written, validate_id},
    mutation::{Kind, Mutation, edge_parts},
    replica::Replica,
    row::{
        EdgeKey, EntityKey, StoredRow,
        key::{decode_edge_key, decode_entity},
    },
    version::Version,
};

/// Edges that move in one batch.
const BATCH: usize = 128;
/// Edges that move before the call is answered; a background job moves the rest.
const MOVED_AT_ONCE: usize = 10_000;
pub(super) const PENDING: &[u8] = b"rewire/";

/// What merging two entities came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merged {
    /// The version of the one that stays.
    pub version: Version,
    /// Which stays: its id.
    pub into: String,
    /// Edges that were moved to it.
    pub edges: u64,
    /// Whether edges are still being moved.
    pub is_pending: bool,
}

/// The row that says that edges of a merged entity may be left to be moved.
pub(super) fn pending_key(entity: &EntityKey) -> Vec<u8> {
    [PENDING, &entity.prefix()].concat()
}

impl Replica {
    /// Makes two entities of a collection one. To ask for it again is no error, and goes on with what was interrupted.
    ///
    /// # Errors
    /// If one of them is not there, both are the same, or they have too much together; then nothing has changed.
    pub fn merge_entities(
        self: &Arc<Self>,
        tenant: TenantId,
        from: &EntityRef,
        into: &str,
        apply: &dyn Fn(Vec<Write>) -> Vec<Result<Written>>,
        deadline: Deadline,
    ) -> Result<Merged> {
        validate_id("from", &from.id)?;
        validate_id("into", into)?;
        let reader = self.reader(tenant);
        let collection = reader.catalogue.get(tenant, &from.collection)?.id;
        let from_key = EntityKey::new(tenant, collection, &from.id);
        let into = reader.meant(EntityKey::new(tenant, collection, into))?;
        let was = meant(&reader.snapshot, &self.keyspaces, from_key.clone())?;
        drop(reader);
        let version = if was.since > Version::ZERO && was.entity == into {
            if !self.exists(&into)? {
                return Err(Error::NotFound { collection: from.collection.clone(), id: into.id });
            }
            was.since
        } else if into == from_key {
            return Err(Error::invalid("into", "is, or was merged into, the same entity as from"));
        } else {
            let write = Write::Merge { from: from.clone(), into: into.id.clone() };
            let missing = || Error::Internal("a merge of entities was given no answer".into());
            apply(vec![write]).pop().unwrap_or_else(|| Err(missing()))?.version
        };
        let (edges, is_done) = self.rewire(&from_key, MOVED_AT_ONCE, Some(deadline))?;
        if !is_done {
            self.rewire_in_background(vec![from_key]);
        }
        Ok(Merged { version, into: into.id, edges, is_pending: !is_done })
    }

    /// Whether edges of a merged entity may be left to be moved.
    pub(super) fn is_rewired(&self, entity: &EntityKey) -> Result<bool> {
        Ok(self.engine.get(self.keyspaces.local, &pending_key(entity))?.is_some())
    }

    /// Goes on where the last run ended.
    pub(super) fn resume_rewiring(self: &Arc<Self>) -> Result<()> {
        let mut pending = Vec::new();
        let snapshot = self.engine.snapshot();
        for row in snapshot.prefix(self.keyspaces.local, PENDING, Direction::Forward)? {
            let (key, _) = row?;
            let entity = decode_entity(&mut Decoder::new(&key[PENDING.len()..]));
            pending.push(entity.map_err(|error| Error::corrupt("local", &key, error))?);
        }
        if !pending.is_empty() {
            self.rewire_in_background(pending);
        }
        Ok(())
    }

    fn rewire_in_background(self: &Arc<Self>, entities: Vec<EntityKey>) {
        let replica = Arc::clone(self);
        let work = move || {
            for entity in entities {
                match replica.rewire(&entity, usize::MAX, None) {
                    Ok((edges, true)) => {
                        tracing::info!(id = %entity.id, edges, "the edges of a merged entity were moved");
                    }
                    Ok(_) => {}
                    Err(error) => tracing::error!(
                        %error, id = %entity.id,
                        "edges of a merged entity could not be moved; merging again or a restart goes on with it"
                    ),
                }
            }
        };
        self.background.run("rewire", Box::new(work));
    }

    /// Moves edges of an entity that was merged into another, about so many, until the deadline. Says how many were, and whether none is left.
    fn rewire(&self, from: &EntityKey, most: usize, deadline: Option<Deadline>) -> Result<(u64, bool)> {
        let (mut moved, mut removed) = (0, 0);
        let is_over = || deadline.is_some_and(Deadline::has_passed) || self.closed.load(Ordering::Acquire);
        loop {
            let mut is_whole = true;
            let is_dropped = self.catalogue().by_id(from.collection).is_none();
            // The edges of what was dropped go with it.
            for side in [Side::Out, Side::In].into_iter().filter(|_| !is_dropped) {
                let mut after = None;
                loop {
                    if moved + removed >= most as u64 || is_over() {
                        return Ok((moved, false));
                    }
                    let edges = self.edges_after(from, side, after.as_ref())?;
                    let Some(last) = edges.last() else { break };
                    after = Some(last.clone());
                    let to = meant(&self.engine, &self.keyspaces, from.clone())?;
                    if to.since == Version::ZERO {
                        return Err(Error::Internal(format!(
                            "{:?} has edges to be moved, but nowhere to",
                            from.id
                        )));
                    }
                    // Their edges go with those that are deleted meanwhile.
                    let to = self.exists(&to.entity)?.then_some(&to);
                    let moves = edges.into_iter().map(|edge| self.rewired(from, side, edge, to));
                    let moves = moves.collect::<Result<Vec<Mutation>>>()?;
                    let stay: Vec<bool> = moves.iter().map(|mutation| mutation.parts.len() > 2).collect();
                    for (result, stays) in self.apply(moves, Durability::None).into_iter().zip(stay) {
                        match result {
                            Ok(_) if stays => moved += 1,
                            Ok(_) => removed += 1,
                            // Hidden, or deleted meanwhile.
                            Err(Error::NotFound { .. } | Error::UnknownCollection(_)) => {}
                            // An end was merged into another meanwhile.
                            Err(Error::Merged { .. }) => is_whole = false,
                            Err(error) => return Err(error),
                        }
                    }
                }
            }
            if is_whole {
                let mut batch = WriteBatch::new();
                batch.delete(self.keyspaces.local, pending_key(from));
                self.engine.write(batch, Durability::None)?;
                return Ok((moved, true));
            }
        }
    }

    /// Some edges of an entity, in the order of their rows.
    fn edges_after(&self, entity: &EntityKey, side: Side, after: Option<&EdgeKey>) -> Result<Vec<EdgeKey>> {
        let keyspace = match side {
            Side::Out => self.keyspaces.edge,
            Side::In => self.keyspaces.edge_in,
        };
        let prefix = entity.prefix();
        let from = after.map_or_else(|| prefix.clone(), |edge| entity.edge(edge));
        let bounds = (std::ops::Bound::Excluded(&from[..]), std::ops::Bound::Unbounded);
        let mut edges = Vec::with_capacity(BATCH);
        for row in self.engine.snapshot().scan(keyspace, bounds.0, bounds.1, Direction::Forward)?.take(BATCH)
        {
            let (key, _) = row?;
            if !key.starts_with(&prefix) {
                break;
            }
            let decoded = decode_edge_key(&key).map_err(|error| Error::corrupt("edge", &key, error))?;
            edges.push(decoded.1);
        }
        Ok(edges)
    }

    /// Whether an entity was put and not deleted.
    pub(super) fn exists(&self, entity: &EntityKey) -> Result<bool> {
        let key = entity.prefix();
        let Some(bytes) = self.engine.get(self.keyspaces.entity, &key)? else { return Ok(false) };
        StoredRow::new(bytes).map(|row| row.exists()).map_err(|error| Error::corrupt("entity", &key, error))
    }

    /// The mutation that moves an edge to the entity that another one was merged into, or removes it if that is gone.
    fn rewired(&self, from: &EntityKey, side: Side, edge: EdgeKey, to: Option<&Meant>) -> Result<Mutation> {
        let version = self.clock.next();
        let (other, seen_from_other) = mirrored(from, &edge);
        let (source, target, name) = match side {
            Side::Out => (from.clone(), other, edge),
            Side::In => (other, from.clone(), seen_from_other),
        };
        let catalogue = self.catalogue();
        let collection = catalogue.by_id(from.collection).map_or("", |collection| &collection.name);
        let subject = EntityRef::new(collection, &from.id);
        let nothing = Register { version, value: None };
        let mut parts = Vec::from(edge_parts(source.clone(), target.clone(), name.clone(), &nothing));
        if let Some(to) = to {
            let end = |entity: EntityKey| -> Result<EntityKey> {
                if entity == *from {
                    return Ok(to.entity.clone());
                }
                meant(&self.engine, &self.keyspaces, entity).map(|meant| meant.entity)
            };
            let is_loop = source == target;
            let (source, target) = (end(source)?, end(target)?);
            // What two entities were to each other says nothing when they are one; what one was to itself, it is.
            if is_loop || source != target {
                let name = EdgeKey { other: target.id.clone(), ..name };
                parts.extend(edge_parts(source, target, name, &nothing));
            }
        }
        let merged = to.map_or(Version::ZERO, |to| to.since);
        Ok(Mutation { version, subject, kind: Kind::Rewire { merged }, parts, bytes: 0 })
    }
}

/// Which end of an edge an entity is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Out,
    In,
}
