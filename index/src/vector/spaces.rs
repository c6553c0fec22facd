//! All vector spaces of a node: opening, founding and dropping them, and what of them has to be remembered.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use allidb_storage::{Background, Durability, Engine, Sequence, Snapshot, WriteBatch, fs::Fs};
use parking_lot::RwLock;

use crate::{
    clock::Clock,
    deaths::Deaths,
    duty::Work,
    error::{Error, Result},
    inventory::Inventory,
    keyspaces::Keyspaces,
    model::{CollectionId, SpaceId, TenantId},
    replica::Numbers,
    vector::{
        SpaceIndex,
        growing::{FreshRow, Growing},
        owner::Owner,
        segment::Segment,
        space::{Shape, SpaceCounts},
        stored::{place, vector_of},
    },
    worker::{Worker, WorkerChange, WorkerStatus},
    writing::Writing,
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
    /// Bytes of fresh vectors in memory, at most, before writes wait; graphs in the making of which a sixteenth would not hold
    /// the codes, or the links, are built in scratch files.
    pub memory_bytes: usize,
}

impl Default for VectorOptions {
    fn default() -> Self {
        Self {
            build_threads: 1,
            connections: 24,
            build_breadth: 200,
            search_breadth: 128,
            memory_bytes: 512 << 20,
        }
    }
}

/// Of the journal of a new space.
const FIRST_GENERATION: u64 = 1;
/// The directory of segments within the node's.
pub(crate) const DIRECTORY: &str = "vectors";
const EXTENSION: &str = "segment";
const DAMAGED: &str = "damaged";
/// Of files that graphs are built in. They are nameless but for a moment.
const SCRATCH: &str = "scratch";

/// A vector set or removed by a write.
#[derive(Debug)]
pub(crate) struct VectorChange {
    pub(crate) space: Arc<SpaceIndex>,
    pub(crate) writing: Writing<Growing>,
    pub(crate) number: u64,
    /// `None`: removed.
    pub(crate) vector: Option<FreshRow>,
}

impl VectorChange {
    /// Makes it so from `sequence` on.
    pub(crate) fn publish(&self, sequence: Sequence) {
        match &self.vector {
            Some(vector) => self.space.upsert(&self.writing, self.number, vector, sequence),
            None => self.space.remove(&self.writing, self.number, sequence),
        }
    }
}

/// A space and what it is for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SpaceDefinition {
    pub(crate) tenant: TenantId,
    pub(crate) collection: CollectionId,
    pub(crate) space: SpaceId,
    pub(crate) shape: Shape,
}

type SpaceKey = (CollectionId, SpaceId);

/// All vector spaces of a node.
#[derive(Clone)]
pub(crate) struct Spaces(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) by_id: RwLock<HashMap<SpaceKey, (TenantId, Arc<SpaceIndex>)>>,
    /// Of collections some of whose vectors could not be read.
    pub(super) damages: RwLock<HashMap<CollectionId, Error>>,
    pub(super) options: VectorOptions,
    pub(super) background: Arc<dyn Background>,
    pub(super) pool: BuildPool,
    pub(super) engine: Engine,
    pub(super) keyspaces: Keyspaces,
    pub(super) numbers: Arc<Numbers>,
    pub(super) clock: Arc<dyn Clock>,
    /// One for each kind of [`Work`].
    pub(super) workers: [Worker; Work::ALL.len()],
    pub(super) fs: Arc<dyn Fs>,
    pub(super) dir: PathBuf,
    /// How many spaces are being merged, and whether others wait for that.
    pub(super) merging: AtomicUsize,
    pub(super) is_merge_waiting: AtomicBool,
    /// Bytes of fresh vectors in memory.
    pub(super) fresh_bytes: Arc<AtomicUsize>,
    /// Rows written to segments: each counts again with every merge.
    pub(super) rows_written: AtomicU64,
    /// Rows inserted into graphs.
    pub(super) rows_inserted: AtomicU64,
    closed: AtomicBool,
}

/// What [`Spaces`] works with.
pub(crate) struct SpacesContext {
    pub(crate) options: VectorOptions,
    pub(crate) pool: BuildPool,
    pub(crate) background: Arc<dyn Background>,
    pub(crate) engine: Engine,
    pub(crate) keyspaces: Keyspaces,
    pub(crate) numbers: Arc<Numbers>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) fs: Arc<dyn Fs>,
    /// The node's directory.
    pub(crate) dir: PathBuf,
}

impl Spaces {
    pub(crate) fn new(context: SpacesContext) -> Result<Self> {
        let SpacesContext { options, pool, background, engine, keyspaces, numbers, clock, fs, dir } = context;
        let dir = dir.join(DIRECTORY);
        fs.create_dir_all(&dir).map_err(|error| Error::io("create the directory", &dir, error))?;
        Ok(Self(Arc::new(Inner {
            by_id: RwLock::default(),
            damages: RwLock::default(),
            options,
            background,
            pool,
            engine,
            keyspaces,
            numbers,
            clock,
            workers: [Worker::new("vector-seal"), Worker::new("vector-merge")],
            fs,
            dir,
            merging: AtomicUsize::new(0),
            is_merge_waiting: AtomicBool::new(false),
            fresh_bytes: Arc::default(),
            rows_written: AtomicU64::new(0),
            rows_inserted: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        })))
    }

    pub(crate) fn options(&self) -> &VectorOptions {
        &self.0.options
    }

    /// Opens a space as it was left, from its segments and its journal. What cannot be read is set aside, and its rows are read
    /// again in the background.
    pub(crate) fn open(&self, snapshot: &Snapshot, definition: SpaceDefinition) -> Result<()> {
        let inner = &*self.0;
        let SpaceDefinition { tenant, collection, space, shape } = definition;
        let id = (collection, space);
        let inventory = Inventory::load(snapshot, &place(&inner.keyspaces, id))?;
        let mut is_complete = inventory.as_ref().is_some_and(|inventory| inventory.is_complete);
        let inventory = inventory.unwrap_or_default();
        let mut segments = Vec::new();
        for (file, dead) in inventory.segments {
            let path = inner.path(file);
            match Segment::open(&*inner.fs, &path) {
                Ok(segment) => {
                    let deaths = Deaths::new(segment.rows(), &dead);
                    segments.push((segment, deaths));
                }
                Err(error) if !is_lost(&error) => return Err(error),
                Err(error) => {
                    tracing::error!(%error, "a segment of vectors is set aside; its rows are read again");
                    inner.set_aside(&path);
                    is_complete = false;
                }
            }
        }
        let mut changed: BTreeSet<u64> = BTreeSet::new();
        let mut generation = inventory.generation;
        for row in place(&inner.keyspaces, id).journal(snapshot)? {
            let (of, number) = row?;
            generation = generation.max(of);
            if of >= inventory.generation {
                changed.insert(number);
            }
        }
        let index = SpaceIndex::new(id, shape, generation + 1, is_complete, &inner.fresh_bytes);
        for (segment, deaths) in segments {
            index.add_sealed(segment, deaths);
        }
        let sequence = snapshot.sequence();
        index.begin_replay(inventory.generation);
        for number in changed {
            let writing = index.begin_write();
            match vector_of(snapshot, &inner.keyspaces, space, number) {
                Ok(Some((entity, chunk, content))) => {
                    let owner = Owner::encode(&entity.id, &chunk);
                    let fresh = writing.growing().encode(index.measure().prepare(&content.0), owner);
                    index.upsert(&writing, number, &fresh, sequence);
                }
                Ok(None) => index.remove(&writing, number, sequence),
                Err(error) if error.is_damage() => {
                    tracing::error!(%error, "vectors are damaged: searches of their collection fail");
                    self.0.damages.write().insert(collection, error);
                }
                Err(error) => return Err(error),
            }
        }
        index.end_replay();
        self.0.by_id.write().insert(id, (tenant, Arc::new(index)));
        Ok(())
    }

    /// Adds to a batch what remembers a new space, of which nothing is stored yet. It is added once the batch is durable.
    pub(crate) fn found(&self, definition: SpaceDefinition, batch: &mut WriteBatch) -> Result<()> {
        let id = (definition.collection, definition.space);
        let inventory = Inventory { is_complete: true, generation: FIRST_GENERATION, segments: Vec::new() };
        inventory.store(&self.0.engine, &place(&self.0.keyspaces, id), batch)
    }

    /// Adds a founded space.
    pub(crate) fn add(&self, definition: SpaceDefinition) {
        let SpaceDefinition { tenant, collection, space, shape } = definition;
        let id = (collection, space);
        let index = SpaceIndex::new(id, shape, FIRST_GENERATION, true, &self.0.fresh_bytes);
        self.0.by_id.write().insert(id, (tenant, Arc::new(index)));
    }

    /// Forgets a space and removes its files. What is stored of it is removed by whoever sweeps its rows.
    pub(crate) fn drop_space(&self, collection: CollectionId, space: SpaceId) {
        if let Some((_, index)) = self.0.by_id.write().remove(&(collection, space)) {
            index.mark_dropped();
            for sealed in index.inventory().0 {
                self.0.remove(sealed.segment.path());
            }
        }
    }

    /// Removes the files that no space has: left by a crash.
    pub(crate) fn remove_orphans(&self) -> Result<()> {
        let inner = &*self.0;
        let known: HashSet<PathBuf> = (self.all().iter())
            .flat_map(|space| space.inventory().0)
            .map(|sealed| sealed.segment.path().to_owned())
            .collect();
        let names = inner.fs.list(&inner.dir).map_err(|error| Error::io("list", &inner.dir, error))?;
        for path in names.iter().map(|name| inner.dir.join(name)) {
            let is_ours = path.extension().is_some_and(|end| end == EXTENSION || end == SCRATCH);
            if is_ours && !known.contains(&path) {
                inner.remove(&path);
            }
        }
        Ok(())
    }

    /// Fails if vectors of the collection could not be read: a search would miss them.
    pub(crate) fn check_damage(&self, collection: CollectionId) -> Result<()> {
        self.0.damages.read().get(&collection).map_or(Ok(()), |damage| Err(damage.clone()))
    }

    /// Reacts to a search that failed: a damaged segment is set aside and its rows are read again. True if the search should
    /// be tried again.
    pub(crate) fn heal(&self, space: &Arc<SpaceIndex>, error: &Error) -> bool {
        let Some(path) = self.0.lost_file(error) else { return false };
        if space.take_out(path) {
            tracing::error!(%error, "a segment of vectors is set aside; its rows are read again");
            self.0.set_aside(path);
            if let Err(error) = self.0.remember(space) {
                tracing::error!(%error, "cannot remember that a segment of vectors is damaged");
            }
            self.maintain(space);
        }
        true
    }

    pub(crate) fn get(&self, collection: CollectionId, space: SpaceId) -> Option<Arc<SpaceIndex>> {
        self.0.by_id.read().get(&(collection, space)).map(|(_, index)| Arc::clone(index))
    }

    pub(crate) fn all(&self) -> Vec<Arc<SpaceIndex>> {
        self.0.by_id.read().values().map(|(_, index)| Arc::clone(index)).collect()
    }

    /// Counts over all spaces.
    pub(crate) fn counts(&self) -> VectorCounts {
        let mut all = VectorCounts {
            rows_written: self.0.rows_written.load(Ordering::Relaxed),
            rows_inserted: self.0.rows_inserted.load(Ordering::Relaxed),
            ..VectorCounts::default()
        };
        for space in self.all() {
            let SpaceCounts { vectors, in_graphs, segments, dead, memory_bytes, mapped_bytes } =
                space.counts();
            all.vectors += vectors;
            all.in_graphs += in_graphs;
            all.segments += segments;
            all.dead += dead;
            all.memory_bytes += memory_bytes;
            all.mapped_bytes += mapped_bytes;
            all.rows_inserting += space.progress.inserted.load(Ordering::Relaxed);
            let recall = space.curve().map(|curve| curve.recall(self.0.options.search_breadth));
            all.recall = all.recall.into_iter().chain(recall).reduce(f64::min);
            all.busy_spaces += usize::from(space.is_busy());
            all.rows_to_insert += space.progress.to_insert.load(Ordering::Relaxed);
        }
        all
    }

    /// What the workers are at.
    pub(crate) fn workers(&self) -> Vec<WorkerStatus> {
        Work::ALL.into_iter().map(|work| self.status(work)).collect()
    }

    fn status(&self, work: Work) -> WorkerStatus {
        let (mut done, mut total) = (0, 0);
        for space in self.all() {
            match work {
                Work::Seal => total += space.rows_to_seal(),
                Work::Merge => {
                    done += space.progress.inserted.load(Ordering::Relaxed);
                    total += space.progress.to_insert.load(Ordering::Relaxed);
                }
            }
        }
        self.0.worker(work).status(done, total)
    }

    /// Pauses, resumes or slows down a worker; gives what it is at then. `None` if none has this name.
    ///
    /// # Errors
    /// If the change cannot be.
    pub(crate) fn change_worker(&self, name: &str, change: WorkerChange) -> Result<Option<WorkerStatus>> {
        let Some(work) = Work::ALL.into_iter().find(|work| self.0.worker(*work).name() == name) else {
            return Ok(None);
        };
        self.0.worker(work).change(change)?;
        Ok(Some(self.status(work)))
    }

    pub(super) fn fs(&self) -> &dyn Fs {
        &*self.0.fs
    }

    pub(super) fn is_closed(&self) -> bool {
        self.0.closed.load(Ordering::Acquire)
    }

    /// Ends background work soon.
    pub(crate) fn close(&self) {
        self.0.closed.store(true, Ordering::Release);
    }
}

/// Figures of all vector spaces.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct VectorCounts {
    /// Vectors that can be found.
    pub vectors: usize,
    /// Those under a graph.
    pub in_graphs: usize,
    /// Segment files.
    pub segments: usize,
    /// Replaced or removed ones that are still held.
    pub dead: usize,
    /// Bytes of fresh vectors held in memory.
    pub memory_bytes: usize,
    /// Bytes of segment files mapped into memory.
    pub mapped_bytes: usize,
    /// Rows written to segments since the start; a row counts again with every merge.
    pub rows_written: u64,
    /// Rows inserted into graphs since the start; those of a merge's largest segment are kept as they are.
    pub rows_inserted: u64,
    /// Rows so far inserted into graphs that are being built.
    pub rows_inserting: usize,
    /// Rows to be inserted into graphs that are being built.
    pub rows_to_insert: usize,
    /// The lowest recall of the 10 nearest that was measured of a space, with walks of the default breadth; `None` before any.
    pub recall: Option<f64>,
    /// Spaces for which something is done in the background, or should be.
    pub busy_spaces: usize,
}

impl Inner {
    /// The segment that an error tells to be damaged or lost, if that is what it tells.
    pub(super) fn lost_file<'a>(&self, error: &'a Error) -> Option<&'a Path> {
        let Error::Storage(storage) = error else { return None };
        let (allidb_storage::Error::Corruption { path, .. } | allidb_storage::Error::Io { path, .. }) =
            &**storage
        else {
            return None;
        };
        (is_lost(error) && path.parent() == Some(&self.dir)).then_some(path)
    }

    pub(super) fn path(&self, file: u64) -> PathBuf {
        self.dir.join(format!("{file:012}.{EXTENSION}"))
    }

    pub(super) fn is_over(&self, space: &SpaceIndex) -> bool {
        self.closed.load(Ordering::Acquire) || space.is_dropped()
    }

    /// Removes a file; readers that have it open go on.
    pub(super) fn remove(&self, path: &Path) {
        if let Err(error) = self.fs.remove(path) {
            tracing::warn!(path = %path.display(), %error, "cannot remove a segment; the next start does");
        }
    }

    /// Gives a damaged file another name, so that somebody can look at it.
    fn set_aside(&self, path: &Path) {
        let renamed = self.fs.rename(path, &path.with_extension(DAMAGED));
        if let Err(error) = renamed.and_then(|()| self.fs.sync_dir(&self.dir))
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "cannot set a damaged segment aside");
        }
    }

    /// Makes durable which segments make up the space, and forgets the journal of what they hold.
    pub(super) fn remember(&self, space: &SpaceIndex) -> Result<()> {
        let _turn = space.remembering.lock();
        let (sealed, generation, is_complete) = space.inventory();
        let oldest = self.engine.oldest_snapshot();
        let mut segments = Vec::new();
        for sealed in &sealed {
            sealed.deaths.forget_before(oldest);
            segments.push((sealed.segment.id(), sealed.deaths.bitmap()));
        }
        let mut batch = WriteBatch::new();
        let inventory = Inventory { is_complete, generation, segments };
        inventory.store(&self.engine, &place(&self.keyspaces, space.id), &mut batch)?;
        if space.is_dropped() {
            return Ok(());
        }
        self.engine.write(batch, Durability::Sync)?;
        Ok(())
    }
}

/// Whether a file does not hold any more what was written to it. Where it merely cannot be read now, it is left alone.
fn is_lost(error: &Error) -> bool {
    let Error::Storage(error) = error else { return false };
    match &**error {
        allidb_storage::Error::Corruption { .. } => true,
        allidb_storage::Error::Io { source, .. } => source.kind() == std::io::ErrorKind::NotFound,
        _ => false,
    }
}
