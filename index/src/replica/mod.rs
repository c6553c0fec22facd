//! A replica: the rows of its partitions, and the indexes in step with them.

mod apply;
mod latch;
mod loaded;
mod numbers;
mod read;
mod sweep;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use allidb_storage::{Background, Direction, Durability, Engine, Snapshot, WriteBatch, fs::Fs};
use parking_lot::{Mutex, RwLock};

pub(crate) use apply::mirrored;
pub(crate) use loaded::register;
pub(crate) use read::{Reader, StoredVector, check_answer, check_mask, decode_row};
pub use read::{ScanPage, ScanRequest};

use crate::{
    catalogue::{Catalogue, Dropped},
    clock::{Clock, HybridClock},
    error::{Error, Result},
    keyspaces::{Keyspaces, keyspace_options},
    model::{Collection, CollectionChange, Limits, SpaceSpec, TenantId, Write},
    mutation::{Mutation, Planner},
    placement::PARTITIONS,
    random::Random,
    row::{
        VectorContent,
        key::{collection_prefix, decode_vector_key},
    },
    vector::{BuildPool, SpaceIndex, Spaces, VectorOptions},
    version::Version,
};

/// What a replica is opened with. Everything it takes from outside comes in here.
#[derive(Clone, Debug)]
pub struct ReplicaOptions {
    /// The file system.
    pub fs: Arc<dyn Fs>,
    /// The directory of this node.
    pub dir: PathBuf,
    /// How the storage engine works; its keyspaces are set by the replica.
    pub storage: allidb_storage::Options,
    /// How each keyspace is stored; the replica gives the names.
    pub keyspace: allidb_storage::KeyspaceOptions,
    /// How vectors are indexed.
    pub vectors: VectorOptions,
    /// Bounds on requests.
    pub limits: Limits,
    /// Wall time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub random: Arc<dyn Random>,
    /// The threads that build vector graphs.
    pub build_pool: BuildPool,
    /// Where background work runs.
    pub background: Arc<dyn Background>,
}

/// A replica.
pub struct Replica {
    pub(crate) engine: Engine,
    pub(crate) keyspaces: Keyspaces,
    pub(crate) catalogue: RwLock<Arc<Catalogue>>,
    pub(crate) clock: HybridClock,
    pub(crate) limits: Limits,
    pub(crate) spaces: Spaces,
    latches: latch::Latches,
    numbers: numbers::Numbers,
    /// The time part of the highest version written.
    highest_version: AtomicU64,
    /// One change of the catalogue at a time.
    catalogue_change: Mutex<()>,
    background: Arc<dyn Background>,
    cursor_key: [u8; 32],
    closed: Arc<AtomicBool>,
}

const NODE: &[u8] = b"node";
const CURSOR_KEY: &[u8] = b"cursor_key";
/// How far ahead of the last recorded version a restarted clock begins, in milliseconds: batches written
/// at the same time may have recorded theirs in either order.
const CLOCK_SLACK_MS: u64 = 1_000;

impl Replica {
    /// Opens the store, reads the catalogue and builds the vector index from the rows.
    pub fn open(options: ReplicaOptions) -> Result<Arc<Self>> {
        let mut storage = options.storage;
        storage.keyspaces = keyspace_options(&options.keyspace);
        let engine = Engine::open(options.fs, &options.dir, storage)?;
        let keyspaces = Keyspaces::of(&engine)?;
        let (catalogue, dropped) = Catalogue::load(&engine, keyspaces.cluster)?;
        let node = u64::from_be_bytes(founded(&engine, keyspaces.local, NODE, &*options.random)?);
        let cursor_key = founded(&engine, keyspaces.cluster, CURSOR_KEY, &*options.random)?;
        let recorded = match engine.get(keyspaces.local, apply::CLOCK)? {
            None => 0,
            Some(bytes) => {
                let bytes = bytes[..].try_into();
                u64::from_be_bytes(
                    bytes.map_err(|_| Error::corrupt("local", apply::CLOCK, "it is not eight bytes long"))?,
                )
            }
        };
        let slack = if recorded == 0 { 0 } else { CLOCK_SLACK_MS << 16 };
        let clock =
            HybridClock::new(options.clock, node, Version::from_time(recorded.saturating_add(slack), node));
        let spaces =
            Spaces::new(options.vectors, options.build_pool, Arc::clone(&options.background), engine.clone());
        for collection in catalogue.all() {
            add_spaces(&spaces, collection);
        }
        let numbers = numbers::Numbers::open(&engine, keyspaces.local)?;
        let replica = Arc::new(Self {
            engine,
            keyspaces,
            catalogue: RwLock::new(Arc::new(catalogue)),
            clock,
            limits: options.limits,
            spaces,
            latches: latch::Latches::default(),
            numbers,
            highest_version: AtomicU64::new(recorded),
            catalogue_change: Mutex::new(()),
            background: options.background,
            cursor_key,
            closed: Arc::default(),
        });
        replica.load_vectors()?;
        for dropped in dropped {
            replica.sweep_in_background(dropped);
        }
        Ok(replica)
    }

    /// Reads every vector row into the index of its space. Where rows are damaged the searches of their collection say so from
    /// then on. All else goes on: gets, writes, scrub, and the collection can be dropped.
    fn load_vectors(&self) -> Result<()> {
        let snapshot = self.engine.snapshot();
        let loaded = match self.load_vectors_of(&snapshot, &[]) {
            Err(error) if error.is_damage() => self.load_vectors_around_damage(&snapshot)?,
            loaded => loaded?,
        };
        self.spaces.all().iter().for_each(|space| self.spaces.maintain(space));
        if loaded > 0 {
            tracing::info!(vectors = loaded, "vector index loaded; its graph is built in the background");
        }
        Ok(())
    }

    /// Begins anew and reads each collection apart.
    fn load_vectors_around_damage(&self, snapshot: &Snapshot) -> Result<u64> {
        let catalogue = self.catalogue();
        let mut loaded = 0;
        for (tenant, collection) in catalogue.owned() {
            for space in collection.spaces.values() {
                self.spaces.drop_space(collection.id, space.id);
            }
            add_spaces(&self.spaces, collection);
            for partition in 0..PARTITIONS {
                let prefix = collection_prefix(partition, tenant, collection.id);
                match self.load_vectors_of(snapshot, &prefix) {
                    Err(error) if error.is_damage() => {
                        let name = &collection.name;
                        tracing::error!(collection = name, %error, "vectors are damaged: searches of the collection fail");
                        self.spaces.note_damage(collection.id, error);
                        break;
                    }
                    vectors => loaded += vectors?,
                }
            }
        }
        Ok(loaded)
    }

    /// Reads the vector rows with this prefix; returns how many vectors that were.
    fn load_vectors_of(&self, snapshot: &Snapshot, prefix: &[u8]) -> Result<u64> {
        let catalogue = self.catalogue();
        let mut loaded = 0_u64;
        for row in snapshot.prefix(self.keyspaces.vector, prefix, Direction::Forward)? {
            let (key, bytes) = row?;
            let (entity, vector) =
                decode_vector_key(&key).map_err(|error| Error::corrupt("vector", &key, error))?;
            if catalogue.by_id(entity.collection).is_none() {
                continue;
            }
            let Some(space) = self.spaces.get(entity.collection, vector.space) else { continue };
            let register = loaded::register::<VectorContent>("vector", &key, &bytes)?;
            let number_key = entity.number(&vector.chunk);
            let number = snapshot.get(self.keyspaces.number, &number_key)?;
            let number =
                number.ok_or_else(|| Error::corrupt("number", &number_key, "a vector has no number"))?;
            let number = number[..].try_into();
            let number =
                number.map_err(|_| Error::corrupt("number", &number_key, "it is not eight bytes long"))?;
            if let Some(content) = register.value {
                let prepared = space.measure().prepare(&content.0).into();
                space.upsert(u64::from_be_bytes(number), prepared, snapshot.sequence());
                loaded += 1;
            }
        }
        Ok(loaded)
    }

    pub(crate) fn catalogue(&self) -> Arc<Catalogue> {
        Arc::clone(&self.catalogue.read())
    }

    /// Bounds on requests.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// 32 random bytes made when the node was founded: cursors are authenticated under it.
    pub fn cursor_key(&self) -> [u8; 32] {
        self.cursor_key
    }

    /// The storage engine beneath.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Checks a write and gives it a version. Nothing is changed yet.
    pub fn plan(&self, tenant: TenantId, write: Write) -> Result<Mutation> {
        let catalogue = self.catalogue();
        Planner { tenant, catalogue: &catalogue, limits: &self.limits, clock: &self.clock }.plan(write)
    }

    /// The collection of this name.
    pub fn collection(&self, tenant: TenantId, name: &str) -> Result<Arc<Collection>> {
        self.catalogue().get(tenant, name).map(Arc::clone)
    }

    /// Collections in the order of their names, those after `after`.
    pub fn collections(&self, tenant: TenantId, after: Option<&str>, limit: usize) -> Vec<Arc<Collection>> {
        self.catalogue().list(tenant, after, limit)
    }

    /// Creates a collection.
    pub fn create_collection(
        &self,
        tenant: TenantId,
        name: &str,
        spaces: Vec<SpaceSpec>,
        aliases: BTreeMap<String, String>,
    ) -> Result<Arc<Collection>> {
        let _change = self.catalogue_change.lock();
        let now = self.clock.wall().now();
        let (catalogue, collection) = self.catalogue().create(tenant, name, spaces, aliases, now)?;
        self.install(tenant, catalogue, &collection, &[])?;
        Ok(collection)
    }

    /// Changes a collection's spaces and aliases, all or none.
    pub fn update_collection(
        self: &Arc<Self>,
        tenant: TenantId,
        name: &str,
        change: CollectionChange,
    ) -> Result<Arc<Collection>> {
        let _change = self.catalogue_change.lock();
        let (catalogue, collection, dropped) = self.catalogue().update(tenant, name, change)?;
        self.install(tenant, catalogue, &collection, &dropped)?;
        dropped.into_iter().for_each(|dropped| self.sweep_in_background(dropped));
        Ok(collection)
    }

    /// Drops a collection: it is gone at once, its rows are removed in the background.
    pub fn drop_collection(self: &Arc<Self>, tenant: TenantId, name: &str) -> Result<()> {
        let _change = self.catalogue_change.lock();
        let (catalogue, collection) = self.catalogue().without(tenant, name)?;
        let dropped = Dropped { tenant, collection: collection.id, space: None };
        self.install(tenant, catalogue, &collection, &[dropped])?;
        for space in collection.spaces.values() {
            self.spaces.drop_space(collection.id, space.id);
        }
        self.sweep_in_background(dropped);
        Ok(())
    }

    /// Makes a new catalogue durable, then current. Waits for writes under the old one.
    fn install(
        &self,
        tenant: TenantId,
        catalogue: Catalogue,
        collection: &Collection,
        dropped: &[Dropped],
    ) -> Result<()> {
        let mut current = self.catalogue.write();
        let mut batch = catalogue.rows(self.keyspaces.cluster, tenant, collection, dropped);
        if !dropped.is_empty() {
            // On a full disk this is what makes room.
            batch.use_reserve();
        }
        self.engine.write(batch, Durability::Sync)?;
        if catalogue.by_id(collection.id).is_some() {
            add_spaces(&self.spaces, collection);
        }
        for dropped in dropped {
            if let Some(space) = dropped.space {
                self.spaces.drop_space(dropped.collection, space);
            }
        }
        *current = Arc::new(catalogue);
        Ok(())
    }

    /// Vectors in all spaces, those covered by graphs, and dead ones still held.
    pub fn vector_counts(&self) -> (usize, usize, usize) {
        let counts = self.spaces.all().into_iter().map(|space: Arc<SpaceIndex>| space.counts());
        counts.fold((0, 0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1, sum.2 + one.2))
    }

    /// Ends background work and closes the store.
    pub fn close(&self) -> Result<()> {
        self.closed.store(true, Ordering::Release);
        self.spaces.close();
        self.engine.clone().close()?;
        Ok(())
    }
}

fn add_spaces(spaces: &Spaces, collection: &Collection) {
    for space in collection.spaces.values() {
        spaces.add(collection.id, space.id, space.spec.metric, space.spec.dimension);
    }
}

/// Random bytes that are made once and then stay.
fn founded<const N: usize>(
    engine: &Engine,
    keyspace: allidb_storage::Keyspace,
    key: &'static [u8],
    random: &dyn Random,
) -> Result<[u8; N]> {
    if let Some(bytes) = engine.get(keyspace, key)? {
        return bytes[..]
            .try_into()
            .map_err(|_| Error::corrupt("cluster", key, format!("it is not {N} bytes long")));
    }
    let mut bytes = [0; N];
    random.fill(&mut bytes)?;
    let mut batch = WriteBatch::new();
    batch.put(keyspace, key, bytes.to_vec());
    engine.write(batch, Durability::Sync)?;
    Ok(bytes)
}
