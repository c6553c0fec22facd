//! A replica with a graph in it, written to as clients do.

use std::{
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use allidb_index::{
    Activity, Replica, ReplicaOptions, SystemClock, SystemRandom, VectorOptions, build_pool,
    model::{CollectionSpec, Edge, Entity, EntityRef, Limits, TenantId, Write},
};
use allidb_storage::{Durability, KeyspaceOptions, Options, Threads, fs::RealFs};
use anyhow::Result;

pub(crate) const COLLECTION: &str = "bench";
pub(crate) const TENANT: TenantId = TenantId::DEFAULT;
const BATCH: usize = 512;
const POLL_EVERY: Duration = Duration::from_millis(100);
/// Nothing was done for so long.
const QUIET: Duration = Duration::from_secs(3);

/// A replica with a graph in it.
pub(crate) struct Store {
    pub(crate) replica: Arc<Replica>,
    batch: Vec<Write>,
}

/// The entity of this id.
pub(crate) fn entity(id: impl Into<String>) -> EntityRef {
    EntityRef { collection: COLLECTION.to_owned(), id: id.into() }
}

impl Store {
    /// An empty one.
    pub(crate) fn create(dir: &Path) -> Result<Self> {
        let vectors = VectorOptions { build_threads: 1, ..VectorOptions::default() };
        let replica = Replica::open(ReplicaOptions {
            fs: Arc::new(RealFs),
            dir: dir.join("data"),
            keyspace: KeyspaceOptions::new(""),
            storage: Options::default(),
            build_pool: build_pool(&vectors)?,
            vectors,
            limits: Limits::default(),
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
            background: Arc::new(Threads),
        })?;
        replica.create_collection(TENANT, COLLECTION, CollectionSpec::default())?;
        Ok(Self { replica, batch: Vec::new() })
    }

    /// Puts an entity of which there is nothing but its id.
    pub(crate) fn put(&mut self, id: String) -> Result<()> {
        let entity = Box::new(Entity { id, ..Entity::default() });
        self.add(Write::Put { collection: COLLECTION.to_owned(), entity })
    }

    /// Puts an edge.
    pub(crate) fn link(&mut self, edge: Edge) -> Result<()> {
        self.add(Write::PutEdge(Box::new(edge)))
    }

    fn add(&mut self, write: Write) -> Result<()> {
        self.batch.push(write);
        if self.batch.len() == BATCH { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<()> {
        let writes = self.batch.drain(..);
        let planned = writes.map(|write| self.replica.plan(TENANT, write)).collect::<Result<_, _>>()?;
        for result in self.replica.apply(planned, Durability::Flush) {
            result?;
        }
        Ok(())
    }

    /// Waits until everything is sealed and merged.
    pub(crate) fn settle(&mut self) -> Result<()> {
        self.write()?;
        self.replica.seal_graph()?;
        let mut since = Instant::now();
        while since.elapsed() < QUIET {
            let is_busy = |worker: &allidb_index::WorkerStatus| worker.activity != Activity::Idle;
            if self.replica.workers().iter().any(is_busy) {
                since = Instant::now();
            }
            thread::sleep(POLL_EVERY);
        }
        Ok(())
    }
}
