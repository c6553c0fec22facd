//! What a write changes: rows, and what indexes are told, from an entity's rows before and after.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use allidb_storage::{Direction, Keyspace, WriteBatch};

use crate::{
    catalogue::Catalogue,
    error::{Error, Result},
    graph::{ChangedSides, EdgeChange, EdgeValue, GraphChange, NodeChange, NodeState, Side, node_state},
    merge::{EntityState, Register},
    merkle::{Kind, Sums, kind_of, place_of},
    model::{TenantId, TextField},
    replica::{
        Replica,
        loaded::{Loaded, register},
        usage::Amounts,
    },
    row::{
        ChunkContent, Content, EdgeContent, EdgeKey, EntityKey, EntityRow, Field, Scope, VectorContent,
        VectorKey, encode_register,
        key::{by_number, decode_edge_key, decode_number_key, encode_numbered},
    },
    secondary::{ChangedPostings, changed_postings},
    text::{Document, TextChange, document_of_entity},
    vector::{Owner, VectorChange},
};

/// What a batch changes in the indexes.
#[derive(Default)]
pub(super) struct Changes {
    pub(super) vectors: Vec<VectorChange>,
    pub(super) texts: Vec<TextChange>,
    pub(super) graph: Vec<GraphChange>,
    /// Whether what goes is held by others from now on: edges to it stay at their other ends.
    pub(super) lets_go: bool,
    /// Whether it does more than delete: tombstones and markers add nothing.
    pub(super) adds: bool,
    /// Bytes that are posted with it.
    pub(super) posted: u64,
    /// What becomes of the sums of rows, if they are kept.
    pub(super) sums: Option<Sums>,
    /// What becomes of amounts that are counted.
    pub(super) used: Vec<(TenantId, u16, Amounts)>,
    /// The numbers of entities, as they are after the batch.
    numbers: HashMap<EntityKey, Option<u64>>,
}

/// The entities that a batch changes.
pub(super) type Working = HashMap<EntityKey, Loaded>;

/// Puts of an entity that are remembered where tombstones are kept: a deletion that arrives late decides which of them was the first.
const MAX_PUTS: usize = 64;

impl Replica {
    /// Writes the difference between what was and what is. Who holds the only replica purges at once: a tombstone
    /// becomes a deletion of its row, and a deleted entity leaves nothing behind. Others keep tombstones and markers
    /// as they keep values.
    pub(super) fn write_rows(
        &self,
        catalogue: &Catalogue,
        entity: &EntityKey,
        loaded: &mut Loaded,
        batch: &mut WriteBatch,
        changes: &mut Changes,
    ) -> Result<()> {
        let keyspaces = &self.keyspaces;
        let keeps_deletes = self.keeps_deletes();
        if !keeps_deletes {
            loaded.after.drop_tombstones();
        }
        loaded.after.row.keep_puts(if keeps_deletes { MAX_PUTS } else { 1 });
        changes.used.extend(self.usage.change(entity, loaded));
        let Loaded { before, after, row_existed, has_hidden_edges, has_all_edges, hidden, .. } = loaded;
        changes.adds |= !after.row.is_bare() && before.row != after.row;
        if !after.row.is_bare() || (keeps_deletes && after.row != EntityRow::default()) {
            if !*row_existed || before.row.is_bare() {
                batch.put(keyspaces.token, entity.token_row(), Vec::new());
            }
            if before.row != after.row {
                batch.put(keyspaces.entity, entity.prefix(), after.row.encode());
            }
        } else if *has_hidden_edges {
            if before.row != after.row {
                batch.put(keyspaces.entity, entity.prefix(), after.row.encode());
            }
            batch.put(keyspaces.token, entity.token_row(), Vec::new());
        } else if *row_existed {
            batch.delete(keyspaces.entity, entity.prefix());
            // Edges that came after it was deleted, though they are of before, stay.
            if !self.keeps_edges(entity, before, after, *has_all_edges)? {
                batch.delete(keyspaces.token, entity.token_row());
            }
        }
        if after.chunks.keys().any(|key| is_there(&after.chunks, key)) {
            self.chunked.has(entity.collection);
        }
        let chunk_key = |key: &String| entity.chunk(key);
        let vector_key = |key: &VectorKey| entity.vector(key);
        let gone = EntityRow::default();
        if let Some(sums) = &mut changes.sums {
            // A marker of which nobody has to be told goes at once.
            let goes = !keeps_deletes && after.row.is_bare() && !*has_hidden_edges;
            sums.change_entity(entity, &before.row, if goes { &gone } else { &after.row });
            sums.change(
                Kind::Chunk,
                entity,
                chunk_key,
                (&before.row, &before.chunks),
                (&after.row, &after.chunks),
            );
            let (was, is) = ((&before.row, &before.vectors), (&after.row, &after.vectors));
            sums.change(Kind::Vector, entity, vector_key, was, is);
            for ((is_in, edge), bytes) in hidden {
                let side = if *is_in { Side::In } else { Side::Out };
                if !before.edges_at(side).contains_key(edge) {
                    sums.subtract_row(place_of(entity), kind_of(side), &entity.edge(edge), bytes);
                }
            }
        }
        let chunks = (&before.chunks, &after.chunks);
        changes.adds |= write_registers(keyspaces.chunk, chunks, chunk_key, keeps_deletes, batch);
        let vectors = (&before.vectors, &after.vectors);
        changes.adds |= write_registers(keyspaces.vector, vectors, vector_key, keeps_deletes, batch);
        self.write_indexed(catalogue, entity, before, after, batch, changes)
    }

    /// Writes what indexes know by numbers: vectors, texts and attributes, of entities that exist alone.
    pub(super) fn write_indexed(
        &self,
        catalogue: &Catalogue,
        entity: &EntityKey,
        before: &EntityState,
        after: &EntityState,
        batch: &mut WriteBatch,
        changes: &mut Changes,
    ) -> Result<()> {
        let clears = after.row.cleared(Scope::Edges) > before.row.cleared(Scope::Edges);
        let is_bare = after.row.is_bare();
        let is_gone = is_bare && (clears || !before.row.is_bare()) && !changes.lets_go;
        let nothing = EntityState::default();
        let [before, after] = [before, after].map(|state| if state.row.exists() { state } else { &nothing });
        let texts = changed_texts(catalogue, entity, before, after);
        let changed: Vec<&VectorKey> = after
            .vectors
            .iter()
            .filter(|(key, vector)| vector.value.is_some() && before.vectors.get(key) != Some(vector))
            .map(|(key, _)| key)
            .collect();
        let removed: Vec<&VectorKey> =
            there(&before.vectors).filter(|key| !is_there(&after.vectors, key)).collect();
        let chunks_gone = there(&before.chunks).filter(|chunk| !is_there(&after.chunks, chunk));
        let state = |row: &EntityRow| node_state(row.exists(), row.expire_at());
        let is_other = state(&before.row) != state(&after.row);
        let postings = match catalogue.by_id(entity.collection) {
            Some(collection) => changed_postings(collection, &before.row, &after.row),
            None => ChangedPostings::default(),
        };
        let itself_changed = (is_gone || clears || is_other || !postings.is_empty()).then_some("");
        let concerned = changed.iter().chain(&removed).map(|key| key.chunk.as_str());
        let concerned = concerned.chain(texts.iter().map(|(chunk, _)| *chunk));
        let mut numbers: BTreeMap<&str, Option<u64>> = BTreeMap::new();
        for chunk in concerned.chain(chunks_gone.map(String::as_str)).chain(itself_changed) {
            if !numbers.contains_key(chunk) {
                numbers.insert(chunk, self.number_of(entity, chunk)?);
            }
        }
        for key in changed {
            let Some(space) = self.spaces.get(entity.collection, key.space) else { continue };
            let number = self.numbered(entity, &key.chunk, &mut numbers, batch)?;
            let register = &after.vectors[key];
            if let Some(old) = before.vectors.get(key) {
                self.keep_history(catalogue, entity, key, old, batch)?;
            }
            let writing = space.begin_write();
            let encode = |vector: &VectorContent| {
                let owner = Owner::encode(&entity.id, &key.chunk);
                writing.growing().encode(space.measure().prepare(&vector.0), owner)
            };
            let vector = register.value.as_ref().map(encode);
            changes.vectors.push(VectorChange { space, writing, number, vector });
        }
        for (chunk, document) in texts {
            let number = match (document.is_empty(), numbers[chunk]) {
                // It had no text that was indexed either.
                (true, None) => continue,
                (true, Some(number)) => number,
                (false, _) => self.numbered(entity, chunk, &mut numbers, batch)?,
            };
            let (writing, collection) = (self.texts.begin_write(), entity.collection);
            changes.texts.push(TextChange { writing, number, collection, document });
        }
        for key in removed {
            self.forget_history(entity, key, 0, batch)?;
            let Some(number) = numbers[key.chunk.as_str()] else { continue };
            if let Some(space) = self.spaces.get(entity.collection, key.space) {
                let writing = space.begin_write();
                changes.vectors.push(VectorChange { space, writing, number, vector: None });
            }
        }
        if postings.adds() {
            self.numbered(entity, "", &mut numbers, batch)?;
        }
        if let Some(Some(number)) = numbers.get("") {
            postings.write(self.keyspaces.posting, entity.collection, *number, batch);
        }
        if !is_gone && (clears || is_other) {
            let number = self.numbered(entity, "", &mut numbers, batch)?;
            let (writing, name, state) = (self.graph.begin_write(), entity.clone(), state(&after.row));
            changes.graph.push(GraphChange::Node(NodeChange { writing, number, name, state, clears }));
        }
        if let (true, Some(Some(number))) = (is_gone, numbers.get("")) {
            let (writing, name) = (self.graph.begin_write(), entity.clone());
            let (number, state) = (*number, NodeState { gone: true, ..NodeState::default() });
            let gone = NodeChange { writing, number, name, state, clears: false };
            changes.graph.push(GraphChange::Node(gone));
        }
        if let Some(number) = numbers.get("") {
            changes.numbers.insert(entity.clone(), number.filter(|_| !is_gone));
        }
        // A number goes with the last vector or text that it stood for.
        for (chunk, number) in numbers {
            let has_vectors = after.vectors.iter().any(|(key, v)| key.chunk == chunk && v.value.is_some());
            let has_vectors =
                has_vectors || after.chunks.get(chunk).is_some_and(|chunk| chunk.value.is_some());
            let is_complete = (is_bare && !changes.lets_go) || !chunk.is_empty();
            if let (Some(number), false, true) = (number, has_vectors, is_complete) {
                batch.delete(self.keyspaces.number, entity.number(chunk));
                batch.delete(self.keyspaces.number, by_number(number));
            }
        }
        Ok(())
    }

    /// Whether an entity has edges after a batch in which its own row goes.
    fn keeps_edges(
        &self,
        entity: &EntityKey,
        before: &EntityState,
        after: &EntityState,
        are_all_known: bool,
    ) -> Result<bool> {
        if there(&after.edges).chain(there(&after.edges_in)).next().is_some() {
            return Ok(true);
        }
        if are_all_known {
            return Ok(false);
        }
        let snapshot = self.engine.snapshot();
        for (keyspace, goes) in
            [(self.keyspaces.edge, &before.edges), (self.keyspaces.edge_in, &before.edges_in)]
        {
            for row in snapshot.prefix(keyspace, &entity.prefix(), Direction::Forward)? {
                let (key, _) = row?;
                let (_, edge) = decode_edge_key(&key).map_err(|error| Error::corrupt("edge", &key, error))?;
                if !goes.contains_key(&edge) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Writes edges at both their ends, and tells the graph of them.
    pub(super) fn write_edges(
        &self,
        catalogue: &Catalogue,
        working: &Working,
        batch: &mut WriteBatch,
        changes: &mut Changes,
    ) -> Result<()> {
        let keyspaces = &self.keyspaces;
        let mut changed: BTreeMap<(u64, u64, u32, &str), ChangedSides> = BTreeMap::new();
        for (entity, Loaded { before, after, late_edges, has_hidden_edges, .. }) in working {
            let clears = after.row.cleared(Scope::Edges) > before.row.cleared(Scope::Edges);
            let edges = [&after.edges, &after.edges_in].into_iter().flat_map(BTreeMap::values);
            let has_edges = edges.into_iter().any(|edge| edge.value.is_some() || self.keeps_deletes());
            let has_row = match self.keeps_deletes() {
                true => after.row != EntityRow::default(),
                false => !after.row.is_bare() || *has_hidden_edges,
            };
            if has_edges && !has_row {
                // Replicas compare what is there by these rows, and snapshots are made by them, also where nothing is but edges.
                batch.put(keyspaces.token, entity.token_row(), Vec::new());
            }
            for (side, name, version) in late_edges {
                let end = mirrored(entity, name);
                if !self.holds(end.0.partition()) {
                    changes.posted += self.send_end(catalogue, (side.opposite(), &end), *version, batch)?;
                }
            }
            if let Some(sums) = &mut changes.sums {
                let edge_key = |key: &EdgeKey| entity.edge(key);
                let (was, is) = ((&before.row, &before.edges), (&after.row, &after.edges));
                sums.change(Kind::Edge, entity, edge_key, was, is);
                let (was, is) = ((&before.row, &before.edges_in), (&after.row, &after.edges_in));
                sums.change(Kind::EdgeIn, entity, edge_key, was, is);
            }
            let sides = [
                (Side::Out, keyspaces.edge, keyspaces.edge_in, &before.edges, &after.edges),
                (Side::In, keyspaces.edge_in, keyspaces.edge, &before.edges_in, &after.edges_in),
            ];
            for (side, own, mirror, before, after) in sides {
                let at = usize::from(side == Side::In);
                let ends = |number, other| if side == Side::Out { (number, other) } else { (other, number) };
                let edge_key = |key: &EdgeKey| entity.edge(key);
                changes.adds |= write_registers(own, (before, after), edge_key, self.keeps_deletes(), batch);
                // The graph takes all edges of a node that is cleared for gone: what stays, because the deletion came late, is told again.
                let is_told =
                    |(key, edge): &(&EdgeKey, &Register<_>)| clears || before.get(key) != Some(edge);
                for (key, edge) in after.iter().filter(is_told) {
                    let Some(content) = &edge.value else { continue };
                    let (other, seen_from_there) = mirrored(entity, key);
                    let number = self.node_of(entity, working, batch, changes)?;
                    let (from, to) = ends(number, self.node_of(&other, working, batch, changes)?);
                    let relation = self.graph.relations.number(&self.engine, &key.relation)?;
                    let seen = changed.entry((from, to, relation, &key.edge_id)).or_default();
                    seen[at] = Some(Some(EdgeValue::of(content)));
                    if clears && seen[1 - at].is_none() {
                        seen[1 - at] = Some(self.mirror_of(working, mirror, &other, &seen_from_there)?);
                    }
                }
                for key in there(before).filter(|key| !is_there(after, key)) {
                    let end @ (other, seen_from_there) = &mirrored(entity, key);
                    // Whoever is changed, too, writes that row.
                    let is_written = working.get(other).is_some_and(|other| {
                        other.after.edges_at(side.opposite()).contains_key(seen_from_there)
                    });
                    if !is_written {
                        let registers = (&before[key], after.get(key));
                        let sums = changes.sums.as_mut().map(|sums| (sums, working));
                        changes.posted +=
                            self.end_edge(catalogue, (side.opposite(), end), registers, batch, sums)?;
                    }
                    if clears {
                        // The graph knows by the node that all are gone.
                        continue;
                    }
                    let numbers = (
                        self.entity_number(entity, changes)?,
                        self.entity_number(other, changes)?,
                        self.graph.relations.get(&key.relation),
                    );
                    if let (Some(number), Some(other), Some(relation)) = numbers {
                        let (from, to) = ends(number, other);
                        let seen = changed.entry((from, to, relation, &key.edge_id)).or_default();
                        seen[at] = Some(None);
                        seen[1 - at].get_or_insert(None);
                    }
                }
            }
        }
        for ((from, to, relation, edge_id), sides) in changed {
            let writing = self.graph.begin_write();
            let edge_id = edge_id.into();
            changes.graph.push(GraphChange::Edge(EdgeChange { writing, from, to, relation, edge_id, sides }));
        }
        Ok(())
    }

    /// What an edge says where it is seen from the other end.
    fn mirror_of(
        &self,
        working: &Working,
        mirror: Keyspace,
        other: &EntityKey,
        edge: &EdgeKey,
    ) -> Result<Option<EdgeValue>> {
        let changed = working.get(other).and_then(|loaded| {
            let is_out = mirror == self.keyspaces.edge;
            let edges = if is_out { &loaded.after.edges } else { &loaded.after.edges_in };
            edges.get(edge)
        });
        if let Some(register) = changed {
            return Ok(register.value.as_ref().map(EdgeValue::of));
        }
        let key = other.edge(edge);
        let Some(bytes) = self.engine.get(mirror, &key)? else { return Ok(None) };
        let register = register::<EdgeContent>("edge", &key, &bytes)?;
        Ok(register.value.as_ref().map(EdgeValue::of))
    }

    /// The number of an end of an edge; one that has none, since no entity is there, is given one.
    fn node_of(
        &self,
        entity: &EntityKey,
        working: &Working,
        batch: &mut WriteBatch,
        changes: &mut Changes,
    ) -> Result<u64> {
        if let Some(number) = self.entity_number(entity, changes)? {
            return Ok(number);
        }
        let mut numbers = BTreeMap::new();
        let number = self.numbered(entity, "", &mut numbers, batch)?;
        changes.numbers.insert(entity.clone(), Some(number));
        let row = working.get(entity).map(|loaded| &loaded.after.row);
        let exists = row.is_some_and(EntityRow::exists);
        let state = node_state(exists, row.and_then(EntityRow::expire_at));
        let (writing, name) = (self.graph.begin_write(), entity.clone());
        changes.graph.push(GraphChange::Node(NodeChange { writing, number, name, state, clears: false }));
        Ok(number)
    }

    /// The number of an entity as it is after the batch, if it has one.
    pub(super) fn entity_number(&self, entity: &EntityKey, changes: &mut Changes) -> Result<Option<u64>> {
        if let Some(known) = changes.numbers.get(entity) {
            return Ok(*known);
        }
        let number = self.number_of(entity, "")?;
        changes.numbers.insert(entity.clone(), number);
        Ok(number)
    }

    /// The number of an entity, given to it if it has none. Its latch is held.
    pub(crate) fn numbered_entity(&self, entity: &EntityKey, batch: &mut WriteBatch) -> Result<u64> {
        match self.number_of(entity, "")? {
            Some(number) => Ok(number),
            None => self.numbered(entity, "", &mut BTreeMap::new(), batch),
        }
    }

    /// The number of an entity or a chunk, given to it if it has none.
    fn numbered<'a>(
        &self,
        entity: &EntityKey,
        chunk: &'a str,
        numbers: &mut BTreeMap<&'a str, Option<u64>>,
        batch: &mut WriteBatch,
    ) -> Result<u64> {
        if let Some(Some(number)) = numbers.get(chunk) {
            return Ok(*number);
        }
        let number = self.numbers.next(&self.engine)?;
        batch.put(self.keyspaces.number, entity.number(chunk), number.to_be_bytes().to_vec());
        batch.put(self.keyspaces.number, by_number(number), encode_numbered(entity, chunk));
        numbers.insert(chunk, Some(number));
        Ok(number)
    }

    fn number_of(&self, entity: &EntityKey, chunk: &str) -> Result<Option<u64>> {
        let key = entity.number(chunk);
        let Some(bytes) = self.engine.get(self.keyspaces.number, &key)? else { return Ok(None) };
        decode_number_key(&key, &bytes).map(Some)
    }

    /// Keeps the replaced vector if its space wants that, and drops the oldest beyond what it wants.
    fn keep_history(
        &self,
        catalogue: &Catalogue,
        entity: &EntityKey,
        key: &VectorKey,
        old: &Register<VectorContent>,
        batch: &mut WriteBatch,
    ) -> Result<()> {
        let kept =
            catalogue.by_id(entity.collection).and_then(|collection| collection.space_by_id(key.space));
        let kept = kept.map_or(0, |space| space.spec.history as usize);
        if kept > 0 {
            self.forget_history(entity, key, kept - 1, batch)?;
            batch.put(self.keyspaces.history, entity.history(key, old.version), encode_register(old));
        }
        Ok(())
    }

    /// Drops all older vectors but the newest `kept`.
    fn forget_history(
        &self,
        entity: &EntityKey,
        key: &VectorKey,
        kept: usize,
        batch: &mut WriteBatch,
    ) -> Result<()> {
        let prefix = entity.history_prefix(key);
        let direction = Direction::Forward;
        for row in self.engine.snapshot().prefix(self.keyspaces.history, &prefix, direction)?.skip(kept) {
            batch.delete(self.keyspaces.history, row?.0);
        }
        Ok(())
    }
}

/// The entity's and its chunks' texts that a write changes, as they are then.
fn changed_texts<'a>(
    catalogue: &Catalogue,
    entity: &EntityKey,
    before: &'a EntityState,
    after: &'a EntityState,
) -> Vec<(&'a str, Document)> {
    let Some(collection) = catalogue.by_id(entity.collection) else { return Vec::new() };
    let spec = &collection.text;
    let mut changed = Vec::new();
    let is_other = |field: &TextField| {
        let field = Field::Attribute(field.attribute.clone());
        before.row.get(&field) != after.row.get(&field)
    };
    if spec.fields.iter().any(is_other) {
        changed.push(("", document_of_entity(spec, &after.row)));
    }
    let text = |chunk: Option<&'a Register<ChunkContent>>| {
        chunk.and_then(|chunk| chunk.value.as_ref()).map_or("", |chunk| chunk.text.as_str())
    };
    let ids: BTreeSet<&String> = before.chunks.keys().chain(after.chunks.keys()).collect();
    for id in ids {
        let (old, new) = (text(before.chunks.get(id)), text(after.chunks.get(id)));
        if old != new {
            changed.push((id, Document::of_chunk(spec, new)));
        }
    }
    changed
}

/// An edge, and the entity that sees it so.
pub(super) type EdgeEnd = (EntityKey, EdgeKey);

/// The other end of an edge, and the edge as seen from there.
pub(crate) fn mirrored(entity: &EntityKey, edge: &EdgeKey) -> EdgeEnd {
    let other = EntityKey { tenant: entity.tenant, collection: edge.collection, id: edge.other.clone() };
    let seen_from_there = EdgeKey {
        relation: edge.relation.clone(),
        collection: entity.collection,
        other: entity.id.clone(),
        edge_id: edge.edge_id.clone(),
    };
    (other, seen_from_there)
}

type Registers<K, C> = BTreeMap<K, Register<C>>;
/// Edges as one end sees them.
pub(super) type Edges = Registers<EdgeKey, EdgeContent>;

/// Writes the registers of one kind in which two states of an entity differ. True if any of them has a value.
fn write_registers<K: Ord, C: Content + PartialEq>(
    keyspace: Keyspace,
    (before, after): (&Registers<K, C>, &Registers<K, C>),
    row_key: impl Fn(&K) -> Vec<u8>,
    keeps_deletes: bool,
    batch: &mut WriteBatch,
) -> bool {
    let mut adds = false;
    for (key, register) in after.iter().filter(|(key, register)| before.get(key) != Some(register)) {
        adds |= register.value.is_some();
        if register.value.is_some() || keeps_deletes {
            batch.put(keyspace, row_key(key), encode_register(register));
        }
    }
    let is_kept = |key: &&K| if keeps_deletes { after.contains_key(key) } else { is_there(after, key) };
    for key in before.keys().filter(|key| !is_kept(key)) {
        batch.delete(keyspace, row_key(key));
    }
    adds
}

/// The names of what is there.
pub(super) fn there<K, T>(rows: &BTreeMap<K, Register<T>>) -> impl Iterator<Item = &K> {
    rows.iter().filter(|(_, register)| register.value.is_some()).map(|(key, _)| key)
}

pub(super) fn is_there<K: Ord, T>(rows: &BTreeMap<K, Register<T>>, key: &K) -> bool {
    rows.get(key).is_some_and(|register| register.value.is_some())
}
