//! An entity being changed: its rows before and after.

use std::collections::BTreeMap;

use allidb_storage::{Direction, Engine};
use bytes::Bytes;

use crate::{
    error::{Error, Result},
    graph::Side,
    keyspaces::Keyspaces,
    merge::{EntityState, Register},
    row::{
        self, Content, EdgeContent, EdgeKey, EntityKey, EntityRow, Scope, VectorKey, decode_register,
        key::{decode_chunk_key, decode_edge_key, decode_vector_key},
        register_version,
    },
    version::Version,
};

/// Edges removed together with their entity, in each direction. Those beyond are hidden by the marker of
/// the deleted entity, until they are [swept](super::beneath).
pub(super) const MAX_SWEPT_EDGES: usize = 10_000;

/// An entity being changed: as many of its rows as the change needs, before and after.
pub(crate) struct Loaded {
    pub(crate) before: EntityState,
    pub(crate) after: EntityState,
    /// Whether the entity row lay in the store.
    pub(crate) row_existed: bool,
    /// Whether the marker for edges must stay, because edges beneath it do.
    pub(crate) has_hidden_edges: bool,
    /// Whether all its edges are loaded.
    pub(super) has_all_edges: bool,
    /// Rows of edges, whether they lead here, that are hidden by a marker from now on. They may be in what was before, too.
    pub(super) hidden: BTreeMap<(bool, EdgeKey), Bytes>,
    /// Edges that came after it was deleted, though they are of before.
    pub(super) late_edges: Vec<(Side, EdgeKey, Version)>,
}

impl Loaded {
    pub(crate) fn load(engine: &Engine, keyspaces: &Keyspaces, entity: &EntityKey) -> Result<Self> {
        let key = entity.prefix();
        let mut before = EntityState::default();
        let mut row_existed = false;
        if let Some(bytes) = engine.get(keyspaces.entity, &key)? {
            before.row = EntityRow::decode(&bytes).map_err(|error| Error::corrupt("entity", &key, error))?;
            row_existed = true;
        }
        // What was hidden when the marker was kept stays hidden.
        let has_hidden_edges = before.row.is_bare() && before.row.cleared(Scope::Edges) > Default::default();
        let (hidden, late_edges) = (BTreeMap::new(), Vec::new());
        let has_all_edges = false;
        Ok(Self {
            after: before.clone(),
            before,
            row_existed,
            has_hidden_edges,
            has_all_edges,
            hidden,
            late_edges,
        })
    }

    /// Loads the rows that merging `delta` can touch.
    pub(crate) fn load_for(
        &mut self,
        engine: &Engine,
        keyspaces: &Keyspaces,
        entity: &EntityKey,
        delta: &EntityState,
    ) -> Result<()> {
        // Chunks and vectors exist only beneath an entity row.
        if self.row_existed {
            let comes_to_be = !self.before.row.exists() && delta.row.exists();
            if comes_to_be || delta.row.cleared(Scope::Entity) > self.before.row.cleared(Scope::Entity) {
                self.load_chunks(engine, keyspaces, &entity.prefix())?;
                self.load_vectors(engine, keyspaces, &entity.prefix())?;
            } else if delta.row.cleared(Scope::Vectors) > self.before.row.cleared(Scope::Vectors) {
                self.load_vectors(engine, keyspaces, &entity.chunk(""))?;
            }
            for key in delta.vectors.keys() {
                // Which of a chunk's vectors are its own is told by the chunk.
                if !key.chunk.is_empty() {
                    self.load_chunks(engine, keyspaces, &entity.chunk(&key.chunk))?;
                }
                self.load_vector(engine, keyspaces, entity, key)?;
            }
            for chunk in delta.chunks.keys() {
                // An id that another one extends is told apart by the end mark of its key.
                self.load_chunks(engine, keyspaces, &entity.chunk(chunk))?;
                self.load_vectors(engine, keyspaces, &entity.chunk(chunk))?;
            }
        }
        let cleared = delta.row.cleared(Scope::Edges);
        if cleared > self.before.row.cleared(Scope::Edges) {
            self.load_all_edges(engine, keyspaces, entity, cleared)?;
            self.has_all_edges = !self.has_hidden_edges;
        }
        for key in delta.edges.keys() {
            load_edge(
                engine,
                keyspaces.edge,
                "edge",
                entity,
                key,
                &mut self.before.edges,
                &mut self.after.edges,
            )?;
        }
        for key in delta.edges_in.keys() {
            let (before, after) = (&mut self.before.edges_in, &mut self.after.edges_in);
            load_edge(engine, keyspaces.edge_in, "edge_in", entity, key, before, after)?;
        }
        Ok(())
    }

    /// Loads as many edges beneath the marker as go together.
    pub(super) fn load_hidden(
        &mut self,
        engine: &Engine,
        keyspaces: &Keyspaces,
        entity: &EntityKey,
    ) -> Result<()> {
        self.has_hidden_edges = false;
        let cleared = self.before.row.cleared(Scope::Edges);
        let snapshot = engine.snapshot();
        let sides = [
            (keyspaces.edge, "edge", &mut self.before.edges, &mut self.after.edges),
            (keyspaces.edge_in, "edge_in", &mut self.before.edges_in, &mut self.after.edges_in),
        ];
        for (keyspace, name, before, after) in sides {
            let mut hidden = 0;
            for row in snapshot.prefix(keyspace, &entity.prefix(), Direction::Forward)? {
                let (key, bytes) = row?;
                let version = register_version(&bytes).map_err(|error| Error::corrupt(name, &key, error))?;
                if version > cleared {
                    continue;
                }
                hidden += 1;
                if hidden > MAX_SWEPT_EDGES {
                    self.has_hidden_edges = true;
                    break;
                }
                let (_, edge) = decode_edge_key(&key).map_err(|error| Error::corrupt(name, &key, error))?;
                let register: Register<EdgeContent> = register(name, &key, &bytes)?;
                before.insert(edge.clone(), register.clone());
                after.insert(edge, register);
            }
        }
        Ok(())
    }

    fn load_vector(
        &mut self,
        engine: &Engine,
        keyspaces: &Keyspaces,
        entity: &EntityKey,
        key: &VectorKey,
    ) -> Result<()> {
        if self.before.vectors.contains_key(key) {
            return Ok(());
        }
        let row_key = entity.vector(key);
        if let Some(bytes) = engine.get(keyspaces.vector, &row_key)? {
            let register = register("vector", &row_key, &bytes)?;
            self.before.vectors.insert(key.clone(), register);
            let register = self.before.vectors[key].clone();
            self.after.vectors.insert(key.clone(), register);
        }
        Ok(())
    }

    fn load_vectors(&mut self, engine: &Engine, keyspaces: &Keyspaces, prefix: &[u8]) -> Result<()> {
        for row in engine.snapshot().prefix(keyspaces.vector, prefix, Direction::Forward)? {
            let (key, bytes) = row?;
            let (_, name) = decode_vector_key(&key).map_err(|error| Error::corrupt("vector", &key, error))?;
            if !self.before.vectors.contains_key(&name) {
                let register = register("vector", &key, &bytes)?;
                self.after.vectors.insert(name.clone(), register);
                let register = self.after.vectors[&name].clone();
                self.before.vectors.insert(name, register);
            }
        }
        Ok(())
    }

    fn load_chunks(&mut self, engine: &Engine, keyspaces: &Keyspaces, prefix: &[u8]) -> Result<()> {
        for row in engine.snapshot().prefix(keyspaces.chunk, prefix, Direction::Forward)? {
            let (key, bytes) = row?;
            let (_, name) = decode_chunk_key(&key).map_err(|error| Error::corrupt("chunk", &key, error))?;
            if !self.before.chunks.contains_key(&name) {
                let register: Register<_> = register("chunk", &key, &bytes)?;
                self.before.chunks.insert(name.clone(), register.clone());
                self.after.chunks.insert(name, register);
            }
        }
        Ok(())
    }

    /// Those that are cleared up to this version, or at least so many of them; and all that are newer, because the deletion came late.
    fn load_all_edges(
        &mut self,
        engine: &Engine,
        keyspaces: &Keyspaces,
        entity: &EntityKey,
        cleared: Version,
    ) -> Result<()> {
        let snapshot = engine.snapshot();
        let was_cleared = self.before.row.cleared(Scope::Edges);
        let sides = [
            (keyspaces.edge, "edge", false, &mut self.before.edges, &mut self.after.edges),
            (keyspaces.edge_in, "edge_in", true, &mut self.before.edges_in, &mut self.after.edges_in),
        ];
        for (keyspace, name, is_in, before, after) in sides {
            let mut swept = 0;
            for row in snapshot.prefix(keyspace, &entity.prefix(), Direction::Forward)? {
                let (key, bytes) = row?;
                let version = register_version(&bytes).map_err(|error| Error::corrupt(name, &key, error))?;
                let (_, edge) = decode_edge_key(&key).map_err(|error| Error::corrupt(name, &key, error))?;
                swept += usize::from(version <= cleared);
                if version <= cleared && swept > MAX_SWEPT_EDGES {
                    self.has_hidden_edges = true;
                    if version > was_cleared {
                        self.hidden.insert((is_in, edge), bytes);
                    }
                    continue;
                }
                if !before.contains_key(&edge) {
                    let register: Register<EdgeContent> = register(name, &key, &bytes)?;
                    before.insert(edge.clone(), register.clone());
                    after.insert(edge, register);
                }
            }
        }
        Ok(())
    }
}

type Edges = std::collections::BTreeMap<EdgeKey, Register<EdgeContent>>;

fn load_edge(
    engine: &Engine,
    keyspace: allidb_storage::Keyspace,
    name: &'static str,
    entity: &EntityKey,
    edge: &EdgeKey,
    before: &mut Edges,
    after: &mut Edges,
) -> Result<()> {
    if before.contains_key(edge) {
        return Ok(());
    }
    let key = entity.edge(edge);
    if let Some(bytes) = engine.get(keyspace, &key)? {
        let register: Register<EdgeContent> = register(name, &key, &bytes)?;
        before.insert(edge.clone(), register.clone());
        after.insert(edge.clone(), register);
    }
    Ok(())
}

pub(crate) fn register<C: Content>(keyspace: &'static str, key: &[u8], bytes: &[u8]) -> Result<Register<C>> {
    decode_register(bytes).map_err(|error: row::DecodeError| Error::corrupt(keyspace, key, error))
}
