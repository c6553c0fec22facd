//! Edges that end with one of their ends.
//!
//! An edge is a register at each of its ends, and goes with either. Where tombstones are kept, the register at the other end becomes a
//! tombstone of the same version: that is all that the deletion of an end says of it, so that every replica that finds out, in whatever
//! order, comes to the same. If the other end lies elsewhere, it is sent there.

use allidb_storage::{Direction, Keyspace, WriteBatch};

use super::{
    derive::{EdgeEnd, Edges, Working, mirrored},
    latch::Latched,
    loaded::{Loaded, MAX_SWEPT_EDGES, register},
};
use crate::{
    catalogue::Catalogue,
    error::{Error, Result},
    graph::Side,
    merge::{EntityState, Register},
    merkle::{Sums, kind_of, place_of},
    model::EntityRef,
    mutation::{Condition, Kind, Mutation, Part, edge_parts},
    replica::Replica,
    row::{
        EdgeContent, EdgeKey, EntityKey, Scope, StoredRow, encode_register, key::decode_edge_key,
        register_version,
    },
    version::Version,
};

impl EntityState {
    /// Forgets what is not there: where nobody has to be told of it.
    pub(super) fn drop_tombstones(&mut self) {
        self.row.fields.retain(|_, register| register.value.is_some());
        self.chunks.retain(|_, register| register.value.is_some());
        self.vectors.retain(|_, register| register.value.is_some());
        self.edges.retain(|_, register| register.value.is_some());
        self.edges_in.retain(|_, register| register.value.is_some());
    }

    /// The edges of which it is this end.
    pub(crate) fn edges_at(&self, side: Side) -> &Edges {
        match side {
            Side::Out => &self.edges,
            Side::In => &self.edges_in,
        }
    }

    /// The same, to be changed.
    pub(crate) fn edges_at_mut(&mut self, side: Side) -> &mut Edges {
        match side {
            Side::Out => &mut self.edges,
            Side::In => &mut self.edges_in,
        }
    }
}

impl Replica {
    /// Waits until nobody deletes the other end of an edge that goes with an entity, the latch of which is held. Whoever deletes one end takes the
    /// row at the other one for what it was: of two who did so at once both would take it out of the sums.
    pub(super) fn latch_ending(&self, mutations: &[Mutation]) -> Result<Option<Latched<'_>>> {
        loop {
            let ending = self.ending(mutations)?;
            if ending.is_empty() {
                return Ok(None);
            }
            let latched = self.ending.acquire_between(ending.into_iter());
            // Of those that are swept others may have gone meanwhile, and then some are among the first that were not.
            let sweeps = mutations.iter().any(|mutation| mutation.kind == Kind::Sweep);
            if !sweeps || self.ending(mutations)?.iter().all(|(one, other)| latched.holds_between(one, other))
            {
                return Ok(Some(latched));
            }
        }
    }

    /// The edges that go with an entity as these mutations are made, by both their ends.
    fn ending<'m>(&self, mutations: &'m [Mutation]) -> Result<Vec<(&'m EntityKey, EntityKey)>> {
        let mut ending = Vec::new();
        for (kind, Part { entity, delta, .. }) in
            mutations.iter().flat_map(|mutation| mutation.parts.iter().map(|part| (mutation.kind, part)))
        {
            let (cleared, sweeps) = (delta.row.cleared(Scope::Edges), kind == Kind::Sweep);
            if !sweeps && cleared == Version::ZERO {
                continue;
            }
            let was_cleared = self.edges_cleared(entity)?;
            if !sweeps && cleared <= was_cleared {
                continue;
            }
            let (snapshot, prefix) = (self.engine.snapshot(), entity.prefix());
            for keyspace in [self.keyspaces.edge, self.keyspaces.edge_in] {
                let mut hidden = 0;
                for row in snapshot.prefix(keyspace, &prefix, Direction::Forward)? {
                    let (key, bytes) = row?;
                    if sweeps {
                        let version =
                            register_version(&bytes).map_err(|error| Error::corrupt("edge", &key, error))?;
                        if version > was_cleared {
                            continue;
                        }
                        hidden += 1;
                        if hidden > MAX_SWEPT_EDGES {
                            break;
                        }
                    }
                    let (_, edge) =
                        decode_edge_key(&key).map_err(|error| Error::corrupt("edge", &key, error))?;
                    ending.push((entity, mirrored(entity, &edge).0));
                }
            }
        }
        Ok(ending)
    }

    /// Has an edge be gone at the other end, too, of which the row here said this.
    pub(super) fn end_edge(
        &self,
        catalogue: &Catalogue,
        (side, end): (Side, &EdgeEnd),
        (was, is): (&Register<EdgeContent>, Option<&Register<EdgeContent>>),
        batch: &mut WriteBatch,
        sums: Option<(&mut Sums, &Working)>,
    ) -> Result<u64> {
        let (other, edge) = end;
        let keyspace = self.edges(side);
        let key = other.edge(edge);
        if !self.keeps_deletes() {
            if let Some((sums, working)) = sums {
                let there = self.stored_edge(keyspace, &key)?;
                self.end_in_sums(sums, working, (side, end), (there.as_ref(), None))?;
            }
            batch.delete(keyspace, key);
            return Ok(0);
        }
        let version = is.unwrap_or(was).version;
        if self.holds(other.partition()) {
            let newer = |there: &Register<EdgeContent>| {
                there.version > version || (there.version == version && there.value.is_none())
            };
            let there = self.stored_edge(keyspace, &key)?;
            if !there.as_ref().is_some_and(newer) {
                let ended = Register::<EdgeContent> { version, value: None };
                if let Some((sums, working)) = sums {
                    let registers = (there.as_ref(), Some(&ended));
                    self.end_in_sums(sums, working, (side, end), registers)?;
                }
                if there.is_none() {
                    // Replicas compare what is there by these rows.
                    batch.put(self.keyspaces.token, other.token_row(), Vec::new());
                }
                batch.put(keyspace, key, encode_register(&ended));
            }
        } else if is.is_none() {
            // What was deleted by itself is so at both its ends.
            return self.send_end(catalogue, (side, end), version, batch);
        }
        Ok(0)
    }

    /// Takes note of a register that takes the place of another one, or of one that goes, at an end which may be changed by the same batch.
    fn end_in_sums(
        &self,
        sums: &mut Sums,
        working: &Working,
        (side, (entity, edge)): (Side, &EdgeEnd),
        (was, is): (Option<&Register<EdgeContent>>, Option<&Register<EdgeContent>>),
    ) -> Result<()> {
        let (kind, place, key) = (kind_of(side), place_of(entity), entity.edge(edge));
        let changed = working.get(entity);
        let (was_cleared, is_cleared) = match changed {
            Some(Loaded { before, after, .. }) => {
                (before.row.cleared(Scope::Edges), after.row.cleared(Scope::Edges))
            }
            None => {
                let cleared = self.edges_cleared(entity)?;
                (cleared, cleared)
            }
        };
        // What is known to change there was taken away with that.
        let is_known = changed.is_some_and(|loaded| {
            let hidden = (side == Side::In, edge.clone());
            loaded.before.edges_at(side).contains_key(edge) || loaded.hidden.contains_key(&hidden)
        });
        if let Some(was) = was.filter(|was| !is_known && was.version > was_cleared) {
            sums.subtract_row(place, kind, &key, &encode_register(was));
        }
        if let Some(is) = is.filter(|is| is.version > is_cleared) {
            sums.add_row(place, kind, &key, &encode_register(is));
        }
        Ok(())
    }

    /// Has the nodes where the other end lies hear that an edge is gone. Gives the bytes that are posted.
    pub(super) fn send_end(
        &self,
        catalogue: &Catalogue,
        (side, (other, edge)): (Side, &EdgeEnd),
        version: Version,
        batch: &mut WriteBatch,
    ) -> Result<u64> {
        let Some(collection) = catalogue.by_id(other.collection) else { return Ok(0) };
        let mut delta = EntityState::default();
        delta.edges_at_mut(side).insert(edge.clone(), Register { version, value: None });
        let subject = EntityRef::new(&collection.name, &other.id);
        let parts = vec![Part { entity: other.clone(), delta, condition: Condition::None }];
        let told = Mutation { version, subject, kind: Kind::Plain, parts, bytes: 0 };
        match told.encode(|_| true)? {
            Some(encoded) => self.post(encoded, batch),
            None => Ok(0),
        }
    }

    fn edges(&self, side: Side) -> Keyspace {
        match side {
            Side::Out => self.keyspaces.edge,
            Side::In => self.keyspaces.edge_in,
        }
    }

    fn stored_edge(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Register<EdgeContent>>> {
        let Some(bytes) = self.engine.get(keyspace, key)? else { return Ok(None) };
        register("edge", key, &bytes).map(Some)
    }

    /// What another replica holds of one end may be of before the other end was deleted.
    pub(super) fn end_edges_of_the_deleted(&self, entity: &EntityKey, state: &mut EntityState) -> Result<()> {
        for edges in [&mut state.edges, &mut state.edges_in] {
            for (name, register) in edges.iter_mut().filter(|(_, register)| register.value.is_some()) {
                if register.version <= self.edges_cleared(&mirrored(entity, name).0)? {
                    register.value = None;
                }
            }
        }
        Ok(())
    }

    /// Up to which version the edges of an entity are gone.
    pub(super) fn edges_cleared(&self, entity: &EntityKey) -> Result<Version> {
        let key = entity.prefix();
        let Some(bytes) = self.engine.get(self.keyspaces.entity, &key)? else { return Ok(Version::ZERO) };
        let row = StoredRow::new(bytes).map_err(|error| Error::corrupt("entity", &key, error))?;
        Ok(row.edges_cleared())
    }

    /// Edges that another replica holds at one end, and of which the other end lies here and has not heard: as they are at both ends.
    pub(super) fn at_other_ends(&self, entity: &EntityKey, state: &EntityState) -> Result<Vec<[Part; 2]>> {
        let mut edges = Vec::new();
        let cleared = self.edges_cleared(entity)?.max(state.row.cleared(Scope::Edges));
        let is_live =
            |register: &Register<EdgeContent>| register.value.is_some() && register.version > cleared;
        for side in [Side::Out, Side::In] {
            for (name, register) in state.edges_at(side).iter().filter(|(_, register)| is_live(register)) {
                let (other, seen_from_there) = mirrored(entity, name);
                if other == *entity || !self.holds(other.partition()) {
                    continue;
                }
                let there = self.edges(side.opposite());
                let known = self.stored_edge(there, &other.edge(&seen_from_there))?;
                if known.is_some_and(|known| known.version >= register.version) {
                    continue;
                }
                edges.push(match side {
                    Side::Out => edge_parts(entity.clone(), other, name.clone(), register),
                    Side::In => edge_parts(other, entity.clone(), seen_from_there, register),
                });
            }
        }
        Ok(edges)
    }

    /// Merges a part of a mutation into an entity that is being changed. What is deleted with it goes at its other ends, too, of what
    /// mutations before this one of the batch put there.
    pub(super) fn merge_part(&self, working: &mut Working, entity: &EntityKey, delta: EntityState) {
        let Some(loaded) = working.get_mut(entity) else { return };
        let cleared = delta.row.cleared(Scope::Edges);
        let mut gone: Vec<(Side, EdgeKey)> = Vec::new();
        for side in [Side::Out, Side::In] {
            if cleared > loaded.after.row.cleared(Scope::Edges) {
                let covered = |(_, register): &(&EdgeKey, &Register<_>)| {
                    register.value.is_some() && register.version <= cleared
                };
                let covered = loaded.after.edges_at(side).iter().filter(covered);
                gone.extend(covered.map(|(name, _)| (side, name.clone())));
            }
            // It came after its end was deleted.
            let cleared = cleared.max(loaded.after.row.cleared(Scope::Edges));
            for (name, register) in delta.edges_at(side) {
                if register.value.is_some() && register.version <= cleared {
                    loaded.late_edges.push((side, name.clone(), register.version));
                }
            }
        }
        loaded.after = std::mem::take(&mut loaded.after).merge(delta);
        let keeps_deletes = self.keeps_deletes();
        for (side, name) in gone {
            let (other, seen_from_there) = mirrored(entity, &name);
            let Some(other) = working.get_mut(&other) else { continue };
            let edges = other.after.edges_at_mut(side.opposite());
            match edges.get_mut(&seen_from_there) {
                Some(register) if keeps_deletes && register.version <= cleared => register.value = None,
                Some(_) if !keeps_deletes => drop(edges.remove(&seen_from_there)),
                _ => {}
            }
        }
    }

    /// An edge that was put is at both its ends or at none: a deletion of either may have come in between.
    pub(super) fn agree_on_edge(
        &self,
        working: &mut Working,
        version: Version,
        ((source, out), (target, into)): (EdgeEnd, EdgeEnd),
    ) {
        let ends = [(Side::Out, source, out), (Side::In, target, into)];
        let is_at = |(side, entity, name): &(Side, EntityKey, EdgeKey)| {
            let register = working.get(entity).and_then(|loaded| loaded.after.edges_at(*side).get(name));
            register.is_some_and(|register| register.value.is_some())
        };
        if is_at(&ends[0]) == is_at(&ends[1]) {
            return;
        }
        let keeps_deletes = self.keeps_deletes();
        for (side, entity, name) in ends {
            let Some(loaded) = working.get_mut(&entity) else { continue };
            let edges = loaded.after.edges_at_mut(side);
            match edges.get_mut(&name) {
                // Of a newer one the other end has not heard yet.
                Some(register) if keeps_deletes && register.version == version => register.value = None,
                Some(_) if !keeps_deletes => drop(edges.remove(&name)),
                _ => {}
            }
        }
    }
}
