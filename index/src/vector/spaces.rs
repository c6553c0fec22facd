//! All vector spaces of a node, and the work that keeps their graphs up.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use allidb_storage::{Background, Engine, Sequence};
use parking_lot::RwLock;

use crate::{
    error::{Error, Result},
    model::{CollectionId, Metric, SpaceId},
    vector::{
        Measure, SpaceIndex,
        build::{BuildOptions, GraphBuilder, HnswBuilder},
    },
};

/// The threads that build graphs: given to a replica, so that several may share them.
pub type BuildPool = Arc<rayon::ThreadPool>;

/// Starts as many threads for building as the options say.
///
/// # Errors
/// Where the operating system refuses them.
pub fn build_pool(options: &VectorOptions) -> Result<BuildPool> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(options.build_threads.max(1))
        .thread_name(|at| format!("vector-build-{at}"))
        .build();
    pool.map(Arc::new).map_err(|error| {
        Error::FailedPrecondition(format!("cannot start the threads that build graphs: {error}"))
    })
}

/// How vectors are indexed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VectorOptions {
    /// Threads that build graphs.
    pub build_threads: usize,
    /// Most neighbours of a node in a graph (M).
    pub connections: usize,
    /// Breadth of the walk that finds a new node's neighbours (efConstruction).
    pub build_breadth: usize,
    /// Breadth of a search that does not say (ef).
    pub search_breadth: usize,
}

impl Default for VectorOptions {
    fn default() -> Self {
        Self { build_threads: 1, connections: 16, build_breadth: 100, search_breadth: 128 }
    }
}

/// A vector set or removed by a write.
pub(crate) struct VectorChange {
    pub(crate) space: Arc<SpaceIndex>,
    pub(crate) number: u64,
    /// Prepared for the space's metric; `None`: removed.
    pub(crate) vector: Option<Box<[f32]>>,
}

impl VectorChange {
    /// Makes it so from `sequence` on.
    pub(crate) fn publish(self, sequence: Sequence) {
        match self.vector {
            Some(vector) => self.space.upsert(self.number, vector, sequence),
            None => self.space.remove(self.number, sequence),
        }
    }
}

/// All vector spaces of a node.
pub(crate) struct Spaces {
    by_id: RwLock<HashMap<(CollectionId, SpaceId), Arc<SpaceIndex>>>,
    /// Of collections some of whose vectors could not be read.
    damages: RwLock<HashMap<CollectionId, Error>>,
    options: VectorOptions,
    background: Arc<dyn Background>,
    pool: BuildPool,
    engine: Engine,
    closed: Arc<AtomicBool>,
}

impl Spaces {
    pub(crate) fn new(
        options: VectorOptions,
        pool: BuildPool,
        background: Arc<dyn Background>,
        engine: Engine,
    ) -> Self {
        Self {
            by_id: RwLock::default(),
            damages: RwLock::default(),
            options,
            background,
            pool,
            engine,
            closed: Arc::default(),
        }
    }

    pub(crate) fn options(&self) -> &VectorOptions {
        &self.options
    }

    pub(crate) fn add(&self, collection: CollectionId, space: SpaceId, metric: Metric, dimension: u32) {
        let index = || Arc::new(SpaceIndex::new(metric, dimension as usize));
        self.by_id.write().entry((collection, space)).or_insert_with(index);
    }

    pub(crate) fn drop_space(&self, collection: CollectionId, space: SpaceId) {
        self.by_id.write().remove(&(collection, space));
    }

    /// Remembers why vectors of a collection could not be read.
    pub(crate) fn note_damage(&self, collection: CollectionId, damage: Error) {
        self.damages.write().insert(collection, damage);
    }

    /// Fails if vectors of the collection could not be read: a search would miss them.
    pub(crate) fn check_damage(&self, collection: CollectionId) -> Result<()> {
        self.damages.read().get(&collection).map_or(Ok(()), |damage| Err(damage.clone()))
    }

    pub(crate) fn get(&self, collection: CollectionId, space: SpaceId) -> Option<Arc<SpaceIndex>> {
        self.by_id.read().get(&(collection, space)).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<SpaceIndex>> {
        self.by_id.read().values().cloned().collect()
    }

    /// Sees to a space in the background, if there is anything to do.
    pub(crate) fn maintain(&self, space: &Arc<SpaceIndex>) {
        if self.closed.load(Ordering::Acquire) || !space.begin_maintenance() {
            return;
        }
        let (space, engine) = (Arc::clone(space), self.engine.clone());
        let (pool, options, closed) =
            (Arc::clone(&self.pool), self.options.clone(), Arc::clone(&self.closed));
        let work = move || {
            let new_builder = |measure: Measure, expected: usize| -> Box<dyn GraphBuilder> {
                let build = BuildOptions { connections: options.connections, breadth: options.build_breadth };
                Box::new(HnswBuilder::new(measure, build, expected, Arc::clone(&pool)))
            };
            let visible = || engine.snapshot().sequence();
            let maintain = || space.maintain(&new_builder, &visible, &|| closed.load(Ordering::Acquire));
            // hnsw_rs asserts what it believes; searches do without the graph until it is begun anew.
            if catch_unwind(AssertUnwindSafe(maintain)).is_err() {
                tracing::error!("building a vector graph panicked; it begins anew with the next write");
                space.abandon_build();
            }
        };
        if self.background.is_inline() {
            work();
        } else {
            self.background.spawn("vector-build", Box::new(work));
        }
    }

    /// Ends background work soon. Whoever closes need not wait until large graphs are freed.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        let builders: Vec<_> = self.all().iter().filter_map(|space| space.take_builder()).collect();
        let free = move || drop(builders);
        if self.background.is_inline() {
            free()
        } else {
            self.background.spawn("vector-free", Box::new(free))
        }
    }
}
