//! Opening the graph as it was left: from its segments and its journal or, where these are lost, from the rows.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::AtomicUsize},
};

use allidb_storage::{Background, Direction, Durability, Engine, Snapshot, WriteBatch, fs::Fs};
use foldhash::{HashMap, HashMapExt};
use parking_lot::{Mutex, RwLock};

use crate::{
    catalogue::Catalogue,
    clock::Clock,
    codec::Decoder,
    error::{Error, Result},
    graph::{
        adjacency::EdgeValue,
        growing::Growing,
        index::{CLEARS, ChangedSides, EdgeChange, FIRST_GENERATION, GraphChange, GraphIndex, NodeChange},
        nodes::{NodeState, Nodes},
        relations::Relations,
        segment::GraphSegment,
        upkeep::place,
    },
    inventory::Inventory,
    keyspaces::Keyspaces,
    model::{CollectionId, TenantId},
    placement::PARTITIONS,
    replica::{Numbers, register},
    row::{
        EdgeContent, EdgeKey, EntityKey, StoredRow,
        key::{
            by_number, collection_prefix, decode_edge_key, decode_entity, decode_number_key, encode_numbered,
        },
    },
    shelf::Shelf,
    upkeep::{Kept, Machine, Upkeep},
    version::Version,
};

/// The directory of segments within the node's.
pub(crate) const DIRECTORY: &str = "graph";
/// Names that a rebuild keeps the numbers of.
const MAX_KNOWN_NUMBERS: usize = 200_000;

/// What [`GraphIndex`] works with.
pub(crate) struct GraphContext {
    pub(crate) background: Arc<dyn Background>,
    pub(crate) engine: Engine,
    pub(crate) keyspaces: Keyspaces,
    pub(crate) numbers: Arc<Numbers>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) fs: Arc<dyn Fs>,
    /// The node's directory.
    pub(crate) dir: PathBuf,
}

impl EdgeValue {
    pub(crate) fn of(content: &EdgeContent) -> Self {
        let EdgeContent { weight, valid_from, valid_to, .. } = *content;
        Self { weight, valid_from, valid_to }
    }
}

/// What the graph is to know of an entity, given its row.
pub(crate) fn node_state(exists: bool, row: Option<crate::model::Timestamp>) -> NodeState {
    NodeState { exists, expire_at: row.filter(|_| exists), ..NodeState::default() }
}

/// What the rows tell of an entity.
struct Known {
    number: u64,
    /// Edges up to this version are no more.
    cleared: Version,
}

/// Reading rows again.
struct Rows<'a> {
    index: &'a GraphIndex,
    snapshot: &'a Snapshot,
    known: HashMap<EntityKey, Known>,
}

impl GraphIndex {
    /// Opens the index. If a segment is damaged, all rows are read again before this returns.
    pub(crate) fn open(context: GraphContext, catalogue: &Catalogue) -> Result<Kept<Self>> {
        let GraphContext { background, engine, keyspaces, numbers, clock, fs, dir } = context;
        let dir = dir.join(DIRECTORY);
        fs.create_dir_all(&dir).map_err(|source| Error::io("create the directory", &dir, source))?;
        let snapshot = engine.snapshot();
        let place = place(&keyspaces);
        let inventory = Inventory::load(&snapshot, &place)?;
        let is_complete = inventory.as_ref().is_some_and(|inventory| inventory.is_complete);
        let inventory =
            inventory.unwrap_or(Inventory { generation: FIRST_GENERATION, ..Inventory::default() });
        let mut generation = inventory.generation;
        for row in place.journal(&snapshot)? {
            generation = generation.max(row?.0);
        }
        let fresh_bytes: Arc<AtomicUsize> = Arc::default();
        let growing = Growing::new(generation + 1, inventory.generation, &fresh_bytes);
        let relations = Relations::open(&engine, keyspaces.local)?;
        let index = Kept::new(Self {
            machine: Machine::new(["graph-seal", "graph-merge"], background, clock),
            shelf: RwLock::new(Shelf::new(growing, inventory.generation)),
            nodes: Nodes::default(),
            relations,
            remembering: Mutex::new(()),
            damage: RwLock::default(),
            fresh_bytes,
            engine,
            keyspaces,
            numbers,
            fs,
            dir,
        });
        let ids: Vec<u64> = inventory.segments.iter().map(|(id, _)| *id).collect();
        let opened = if is_complete { index.open_segments(&ids, catalogue) } else { Ok(false) };
        match opened {
            Ok(true) => index.tolerate(index.replay(&snapshot, inventory.generation, catalogue))?,
            Ok(false) => index.tolerate(index.rebuild(&snapshot, catalogue, &ids))?,
            Err(error) if error.is_damage() || is_missing(&error) => {
                tracing::error!(%error, "a segment of the graph is set aside; all edges are read again");
                index.tolerate(index.rebuild(&snapshot, catalogue, &ids))?;
            }
            Err(error) => return Err(error),
        }
        // From here on what comes is journaled as it comes.
        index.shelf.write().replayed_from = None;
        index.remove_orphans()?;
        Ok(index)
    }

    /// Where rows are damaged that edges are to be read from, walks are refused, and all else goes on. The next start tries again.
    fn tolerate(&self, read: Result<()>) -> Result<()> {
        match read {
            Err(error) if error.is_damage() => {
                tracing::error!(%error, "edges could not be read; until that is mended walks are refused");
                *self.damage.write() = Some(error);
                self.remember(false)
            }
            read => read,
        }
    }

    /// Opens the segments and reads which nodes are there.
    fn open_segments(&self, ids: &[u64], catalogue: &Catalogue) -> Result<bool> {
        let mut sealed = Vec::new();
        for id in ids {
            let segment = GraphSegment::open(&*self.fs, &self.path_of(*id))?;
            for record in segment.records() {
                let (number, record) = record?;
                let Some(state) = record.state() else { continue };
                let name = record.name().map_err(|error| segment.damaged(error))?;
                let is_there = name.is_some_and(|name| catalogue.by_id(name.collection).is_some());
                let gone = NodeState { gone: true, ..NodeState::default() };
                let state = if is_there { state } else { gone };
                self.nodes.found(number, state);
            }
            sealed.push(Arc::new(segment));
        }
        self.shelf.write().sealed = sealed;
        Ok(true)
    }

    /// Reads again what the journal names.
    fn replay(&self, snapshot: &Snapshot, from: u64, catalogue: &Catalogue) -> Result<()> {
        let place = place(&self.keyspaces);
        let start = place.prefix.len();
        let mut rows = Rows { index: self, snapshot, known: HashMap::new() };
        for row in snapshot.prefix(place.log, &place.prefix, Direction::Forward)? {
            let key = row?.0;
            let corrupt = |error| Error::corrupt(place.log_name, &key, error);
            let mut key = Decoder::new(&key[start..]);
            if key.u64_be().map_err(corrupt)? < from {
                continue;
            }
            let number = key.u64_be().map_err(corrupt)?;
            if key.len() <= 1 {
                rows.replay_node(number, key.rest() == [CLEARS], catalogue)?;
                continue;
            }
            let (relation, to) = (key.u32_be().map_err(corrupt)?, key.u64_be().map_err(corrupt)?);
            let edge_id = std::str::from_utf8(key.rest());
            let edge_id = edge_id.map_err(|_| corrupt(crate::codec::DecodeError::Utf8))?;
            rows.replay_edge(number, relation, to, edge_id, catalogue)?;
        }
        Ok(())
    }

    /// Reads every row, and seals all that was read.
    fn rebuild(&self, snapshot: &Snapshot, catalogue: &Catalogue, old: &[u64]) -> Result<()> {
        for id in old {
            // Nothing is lost with those that are whole.
            let opened = GraphSegment::open(&*self.fs, &self.path_of(*id));
            let is_whole = opened.is_ok_and(|segment| segment.records().all(|record| record.is_ok()));
            if is_whole { self.remove_file(*id) } else { self.set_aside(*id)? }
        }
        self.remove_orphans()?;
        let mut rows = Rows { index: self, snapshot, known: HashMap::new() };
        for (tenant, collection) in catalogue.owned() {
            rows.read_collection(tenant, collection.id, catalogue)?;
        }
        self.close_growing();
        self.seal_frozen(0)?;
        self.remember(true)
    }

    /// Seals until so many full sets are left.
    fn seal_frozen(&self, left: usize) -> Result<()> {
        loop {
            let frozen = {
                let shelf = self.shelf.read();
                shelf.frozen.first().filter(|_| shelf.frozen.len() > left).cloned()
            };
            let Some(frozen) = frozen else { return Ok(()) };
            self.seal_into(&frozen, false)?;
        }
    }
}

fn is_missing(error: &Error) -> bool {
    let Error::Storage(error) = error else { return false };
    matches!(&**error, allidb_storage::Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
}

impl Rows<'_> {
    fn row(&self, entity: &EntityKey) -> Result<Option<StoredRow>> {
        let key = entity.prefix();
        let Some(bytes) = self.snapshot.get(self.index.keyspaces.entity, &key)? else { return Ok(None) };
        StoredRow::new(bytes).map(Some).map_err(|error| Error::corrupt("entity", &key, error))
    }

    fn put_node(&self, number: u64, name: EntityKey, row: Option<&StoredRow>, clears: bool) {
        let exists = row.is_some_and(StoredRow::exists);
        let state = node_state(exists, row.and_then(StoredRow::expire_at));
        let writing = self.index.begin_write();
        let change = GraphChange::Node(NodeChange { writing, number, name, state, clears });
        self.index.publish(&change, self.snapshot.sequence());
    }

    fn replay_node(&mut self, number: u64, clears: bool, catalogue: &Catalogue) -> Result<()> {
        let owner = self.index.stored_name(number)?.filter(|name| catalogue.by_id(name.collection).is_some());
        match owner {
            Some(name) => {
                match self.row(&name) {
                    Ok(row) => self.put_node(number, name, row.as_ref(), clears),
                    Err(error) if error.is_damage() => {
                        // It has a number, so that most likely it is there; whoever reads its row is told of the damage.
                        tracing::error!(%error, id = name.id, "a row cannot be read");
                        let state = node_state(true, None);
                        let writing = self.index.begin_write();
                        let change = GraphChange::Node(NodeChange { writing, number, name, state, clears });
                        self.index.publish(&change, self.snapshot.sequence());
                    }
                    Err(error) => return Err(error),
                }
            }
            None => {
                let gone = NodeState { gone: true, ..NodeState::default() };
                let name = EntityKey::new(TenantId(0), CollectionId(0), "");
                self.index.begin_write().growing().put_node(number, &name, gone);
                self.index.nodes.set(number, gone, self.snapshot.sequence());
            }
        }
        Ok(())
    }

    fn replay_edge(
        &mut self,
        from: u64,
        relation: u32,
        to: u64,
        edge_id: &str,
        catalogue: &Catalogue,
    ) -> Result<()> {
        let is_known = |name: &EntityKey| catalogue.by_id(name.collection).is_some();
        let (Some(source), Some(target)) =
            (self.index.stored_name(from)?.filter(is_known), self.index.stored_name(to)?.filter(is_known))
        else {
            // An end is gone, and the edge with it.
            return Ok(());
        };
        let Some(name) = self.index.relations.name(relation) else {
            return Err(Error::corrupt("graph_log", &from.to_be_bytes(), "its relation has no name"));
        };
        let keyspaces = &self.index.keyspaces;
        let key = |other: &EntityKey| EdgeKey {
            relation: name.to_string(),
            collection: other.collection,
            other: other.id.clone(),
            edge_id: edge_id.to_owned(),
        };
        let cleared = |row: Option<StoredRow>| row.map_or(Version::ZERO, |row| row.edges_cleared());
        let cleared = cleared(self.row(&source)?).max(cleared(self.row(&target)?));
        let value = |keyspace, label, row_key: Vec<u8>| -> Result<Option<EdgeValue>> {
            let Some(bytes) = self.snapshot.get(keyspace, &row_key)? else { return Ok(None) };
            let register = register::<EdgeContent>(label, &row_key, &bytes)?;
            let value = register.value.filter(|_| register.version > cleared);
            Ok(value.as_ref().map(EdgeValue::of))
        };
        let out = value(keyspaces.edge, "edge", source.edge(&key(&target)))?;
        let into = value(keyspaces.edge_in, "edge_in", target.edge(&key(&source)))?;
        self.put_edge(from, to, relation, edge_id, [Some(out), Some(into)]);
        Ok(())
    }

    fn put_edge(&self, from: u64, to: u64, relation: u32, edge_id: &str, sides: ChangedSides) {
        let writing = self.index.begin_write();
        let edge_id = edge_id.into();
        let change = GraphChange::Edge(EdgeChange { writing, from, to, relation, edge_id, sides });
        self.index.publish(&change, self.snapshot.sequence());
    }

    /// The number of an entity, given to it if it has none, and up to when its edges were cleared.
    fn known(&mut self, entity: &EntityKey) -> Result<&Known> {
        if !self.known.contains_key(entity) {
            if self.known.len() >= MAX_KNOWN_NUMBERS {
                self.known.clear();
            }
            let row = self.row(entity)?;
            let known = self.number_of(entity, row.as_ref())?;
            // Whoever is but an end of edges is read nowhere else.
            self.put_node(known.number, entity.clone(), row.as_ref(), false);
            self.known.insert(entity.clone(), known);
        }
        Ok(&self.known[entity])
    }

    fn number_of(&self, entity: &EntityKey, row: Option<&StoredRow>) -> Result<Known> {
        let key = entity.number("");
        let index = self.index;
        // Read as it is now: it may have been given a moment ago.
        let number = match index.engine.get(index.keyspaces.number, &key)? {
            Some(bytes) => decode_number_key(&key, &bytes)?,
            None => {
                let number = index.numbers.next(&index.engine)?;
                let mut batch = WriteBatch::new();
                batch.put(index.keyspaces.number, key, number.to_be_bytes().to_vec());
                batch.put(index.keyspaces.number, by_number(number), encode_numbered(entity, ""));
                index.engine.write(batch, Durability::None)?;
                number
            }
        };
        Ok(Known { number, cleared: row.map_or(Version::ZERO, StoredRow::edges_cleared) })
    }

    fn read_collection(
        &mut self,
        tenant: TenantId,
        collection: CollectionId,
        catalogue: &Catalogue,
    ) -> Result<()> {
        let (snapshot, keyspaces) = (self.snapshot, self.index.keyspaces);
        for partition in 0..PARTITIONS {
            let prefix = collection_prefix(partition, tenant, collection);
            for row in snapshot.prefix(keyspaces.entity, &prefix, Direction::Forward)? {
                let (key, bytes) = row?;
                let corrupt = |error| Error::corrupt("entity", &key, error);
                let entity = decode_entity(&mut Decoder::new(&key)).map_err(corrupt)?;
                let row = StoredRow::new(bytes).map_err(corrupt)?;
                let known = self.number_of(&entity, Some(&row))?;
                self.put_node(known.number, entity, Some(&row), false);
                self.index.seal_frozen(2)?;
            }
            for (keyspace, label, is_out) in
                [(keyspaces.edge, "edge", true), (keyspaces.edge_in, "edge_in", false)]
            {
                for row in snapshot.prefix(keyspace, &prefix, Direction::Forward)? {
                    let (key, bytes) = row?;
                    let (own, edge) =
                        decode_edge_key(&key).map_err(|error| Error::corrupt(label, &key, error))?;
                    let register = register::<EdgeContent>(label, &key, &bytes)?;
                    let Some(content) = register.value else { continue };
                    if catalogue.by_id(edge.collection).is_none() {
                        continue;
                    }
                    let other = EntityKey::new(tenant, edge.collection, &edge.other);
                    let Known { number, cleared } = *self.known(&own)?;
                    let Known { number: other, cleared: others } = *self.known(&other)?;
                    if register.version <= cleared.max(others) {
                        continue;
                    }
                    let relation = self.index.relations.number(&self.index.engine, &edge.relation)?;
                    let value = Some(Some(EdgeValue::of(&content)));
                    match is_out {
                        true => self.put_edge(number, other, relation, &edge.edge_id, [value, None]),
                        false => self.put_edge(other, number, relation, &edge.edge_id, [None, value]),
                    }
                    self.index.seal_frozen(2)?;
                }
            }
        }
        Ok(())
    }
}
