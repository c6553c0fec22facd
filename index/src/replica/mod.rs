//! A replica: the rows of its partitions, and the indexes in step with them.

mod acceptor;
mod alias;
mod apply;
mod assemble;
mod beneath;
mod bulk;
mod chunked;
mod cleanup;
mod condition;
mod copy;
mod definitions;
mod derive;
mod ends;
mod exchange;
mod heal;
mod hints;
mod holdings;
mod key_uses;
mod keys;
mod latch;
mod loaded;
mod merging;
mod neighborhood;
mod numbers;
mod placement;
mod purge;
mod read;
mod rebuild;
mod restoring;
mod rewire;
mod rows;
mod survey;
mod sweep;
mod trees;
mod usage;
mod watermarks;

use std::{
    ops::ControlFlow,
    path::PathBuf,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use allidb_storage::{Background, Durability, Engine, ScrubOptions, ScrubReport, WriteBatch, fs::Fs};
use parking_lot::{Mutex, RwLock};

pub use acceptor::{AcceptorsRequest, Promise};
pub(crate) use assemble::{StoredVector, check_mask};
pub use bulk::{BulkDeleted, BySource, CameFrom, CameFromRequest, SourceDeletion, SourcePlace};
pub use copy::{Arriving, CopiedFile, CopyNote, Given, Taken};
pub(crate) use derive::mirrored;
pub use exchange::Extent;
pub use hints::Hint;
pub use holdings::HoldingsRequest;
pub(crate) use loaded::register;
pub use neighborhood::ToldEdge;
pub(crate) use numbers::Numbers;
pub use placement::{Forced, Held};
pub use purge::Outgoing;
pub(crate) use read::{Reader, check_answer, decode_row};
pub use read::{ScanPage, ScanRequest};
pub use rebuild::RebuildRequest;
pub use rewire::Merged;
pub(crate) use rows::Rows;
pub use survey::{
    FacetCountsRequest, IdsPage, IdsRequest, Present, RosterRequest, Tally, TallyRequest, disputed,
};
pub use trees::{TreeAnswer, TreeRequest};

use crate::{
    catalogue::Catalogue,
    clock::{Clock, HybridClock},
    error::{Error, Result},
    graph::{GraphContext, GraphCounts, GraphIndex},
    keyspaces::{Keyspaces, keyspace_options},
    merkle::Trees,
    model::{Collection, CollectionSet, Limits, TenantId, Write},
    mutation::{Mutation, Planner},
    placement::PARTITIONS,
    query::{MatchCache, SearchPool},
    random::Random,
    text::{TextContext, TextCounts, TextIndex},
    upkeep::Kept,
    vector::{BuildPool, SegmentScrub, Spaces, SpacesContext, VectorCounts, VectorOptions},
    version::Version,
    worker::{WorkerChange, WorkerStatus},
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
    /// For what goes on in the background.
    me: Weak<Self>,
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    pub(crate) engine: Engine,
    pub(crate) keyspaces: Keyspaces,
    /// Held for a moment only: whoever serves connections looks at it.
    catalogue: RwLock<Arc<Catalogue>>,
    /// Held by what is written under a catalogue until it is visible, and by whoever changes that.
    pub(crate) catalogue_gate: RwLock<()>,
    pub(crate) clock: HybridClock,
    pub(crate) limits: Limits,
    pub(crate) spaces: Spaces,
    pub(crate) texts: Kept<TextIndex>,
    pub(crate) graph: Kept<GraphIndex>,
    pub(crate) matches: Arc<MatchCache>,
    pub(crate) latches: latch::Latches,
    /// Of edges one end of which is deleted: that changes the other end, whose latch is not held. Taken after those of entities.
    ending: latch::Latches,
    /// Of acceptors, each apart from the writes that it makes.
    acceptors: latch::Latches,
    pub(crate) trees: Arc<Trees>,
    /// One builds them at a time.
    building_trees: Mutex<()>,
    usage: Arc<usage::UsageCounts>,
    key_uses: key_uses::KeyUses,
    pub(crate) chunked: chunked::Chunked,
    /// Threads that help with a search; none in a simulation.
    pub(crate) search_pool: Option<SearchPool>,
    numbers: Arc<Numbers>,
    /// The time part of the highest version written.
    highest_version: AtomicU64,
    /// Where the clock began.
    clock_floor: u64,
    /// What is recorded of it for the next start, for good.
    recorded: AtomicU64,
    /// One records it at a time.
    recording: Mutex<()>,
    /// Of what is to be made at other nodes for sure, about.
    outbox_bytes: AtomicU64,
    /// One change of the catalogue at a time.
    catalogue_change: Mutex<()>,
    /// How often it was changed.
    catalogue_version: AtomicU64,
    pub(crate) background: Arc<dyn Background>,
    node: u64,
    cursor_key: RwLock<[u8; 32]>,
    placement: placement::Placement,
    watermarks: watermarks::Watermarks,
    /// Whether a copy of another node's disk takes the place of this one when it is opened again.
    has_copy: AtomicBool,
    /// How often one began to arrive since it was opened.
    copy_attempts: AtomicU64,
    pub(crate) closed: Arc<AtomicBool>,
}

const NODE: &[u8] = b"node";
/// How often damage may be found while a replica is opened.
const HEALED_AT_ONCE: usize = 16;
const CURSOR_KEY: &[u8] = b"cursor_key";
/// The time part of the newest version that others may have heard of from here.
const GIVEN: &[u8] = b"given";
/// How far ahead of the last recorded version a restarted clock begins, in milliseconds: batches written
/// at the same time may have recorded theirs in either order.
const CLOCK_SLACK_MS: u64 = 1_000;

impl Replica {
    /// Opens the store, the catalogue and the indexes. What is damaged of it, and can be healed, is let go of before: see
    /// [`healing`](Self::healing). A copy that is to take its place does before that: see [`conclude_copy`](Self::conclude_copy).
    ///
    /// # Errors
    /// If something cannot be opened or read.
    pub fn open(options: ReplicaOptions) -> Result<Arc<Self>> {
        copy::install(&options)?;
        for _ in 0..HEALED_AT_ONCE {
            let mut storage = options.storage.clone();
            storage.keyspaces = keyspace_options(&options.keyspace);
            let engine = Engine::open(Arc::clone(&options.fs), &options.dir, storage)?;
            let keyspaces = Keyspaces::of(&engine)?;
            heal::begin(&engine, &keyspaces, true)?;
            match Self::open_on(engine.clone(), keyspaces, options.clone()) {
                // It was found just now.
                Err(error) if error.is_damage() && heal::begin(&engine, &keyspaces, false)? => {
                    engine.close()?
                }
                opened => return opened,
            }
        }
        Err(Error::FailedPrecondition(
            "more and more damage is found: another node has to take its place".to_owned(),
        ))
    }

    fn open_on(engine: Engine, keyspaces: Keyspaces, options: ReplicaOptions) -> Result<Arc<Self>> {
        let (catalogue, dropped) = Catalogue::load(&engine, keyspaces.cluster)?;
        let node = u64::from_be_bytes(founded(&engine, keyspaces.local, NODE, &*options.random)?);
        let cursor_key = founded(&engine, keyspaces.cluster, CURSOR_KEY, &*options.random)?;
        let placement = placement::Placement::open(&engine, &keyspaces)?;
        let time = |key: &'static [u8]| -> Result<u64> {
            let Some(bytes) = engine.get(keyspaces.local, key)? else { return Ok(0) };
            let corrupt = || Error::corrupt("local", key, "it is not eight bytes long");
            bytes[..].try_into().map(u64::from_be_bytes).map_err(|_| corrupt())
        };
        let given = time(GIVEN)?;
        let recorded = time(apply::CLOCK)?.max(given);
        let watermarks = watermarks::Watermarks::open(&engine, keyspaces.local)?;
        let outbox_bytes = hints::outbox_bytes(&engine, &keyspaces)?;
        let key_uses = key_uses::KeyUses::open(&engine, keyspaces.local)?;
        let slack = if recorded == 0 { 0 } else { CLOCK_SLACK_MS << 16 };
        let wall = Arc::clone(&options.clock);
        let (fs, dir) = (Arc::clone(&options.fs), options.dir.clone());
        let clock =
            HybridClock::new(options.clock, node, Version::from_time(recorded.saturating_add(slack), node));
        let numbers = Arc::new(Numbers::open(&engine, keyspaces.local)?);
        let text_context = TextContext {
            background: Arc::clone(&options.background),
            engine: engine.clone(),
            keyspaces,
            numbers: Arc::clone(&numbers),
            clock: Arc::clone(&wall),
            fs: Arc::clone(&options.fs),
            dir: options.dir.clone(),
        };
        let graph_context = GraphContext {
            background: Arc::clone(&options.background),
            engine: engine.clone(),
            keyspaces,
            numbers: Arc::clone(&numbers),
            clock: Arc::clone(&wall),
            fs: Arc::clone(&options.fs),
            dir: options.dir.clone(),
        };
        let spaces = Spaces::new(SpacesContext {
            options: options.vectors,
            pool: options.build_pool,
            background: Arc::clone(&options.background),
            engine: engine.clone(),
            keyspaces,
            numbers: Arc::clone(&numbers),
            clock: wall,
            fs: options.fs,
            dir: options.dir,
        })?;
        let snapshot = engine.snapshot();
        for (tenant, collection) in catalogue.owned() {
            for definition in definitions::spaces_of(tenant, collection) {
                spaces.open(&snapshot, definition)?;
            }
        }
        drop(snapshot);
        spaces.remove_orphans()?;
        let texts = TextIndex::open(text_context, &catalogue)?;
        let graph = GraphIndex::open(graph_context, &catalogue)?;
        let visible = engine.visible_sequence();
        let catalogue_version = AtomicU64::new(catalogue.version());
        let trees = Trees::open(&engine, keyspaces.merkle, trees::seed_of(cursor_key))?;
        let search_pool = (!options.background.is_inline()).then(SearchPool::start).transpose()?;
        let replica = Arc::new_cyclic(|me| Self {
            me: Weak::clone(me),
            fs,
            dir,
            trees,
            engine,
            keyspaces,
            catalogue: RwLock::new(Arc::new(catalogue)),
            catalogue_gate: RwLock::default(),
            clock,
            limits: options.limits,
            matches: Arc::new(MatchCache::new(visible)),
            spaces,
            texts,
            graph,
            latches: latch::Latches::default(),
            ending: latch::Latches::default(),
            acceptors: latch::Latches::default(),
            building_trees: Mutex::default(),
            usage: Arc::default(),
            key_uses,
            chunked: chunked::Chunked::default(),
            search_pool,
            numbers,
            highest_version: AtomicU64::new(recorded),
            clock_floor: recorded.saturating_add(slack),
            recorded: AtomicU64::new(given),
            recording: Mutex::default(),
            outbox_bytes: AtomicU64::new(outbox_bytes),
            catalogue_change: Mutex::new(()),
            catalogue_version,
            background: options.background,
            node,
            cursor_key: RwLock::new(cursor_key),
            placement,
            watermarks,
            has_copy: AtomicBool::new(false),
            copy_attempts: AtomicU64::new(0),
            closed: Arc::default(),
        });
        // Whoever read it does not know of this life.
        replica.end_copy()?;
        replica.spaces.verify();
        replica.spaces.watch();
        replica.texts.watch();
        replica.texts.maintain();
        replica.graph.watch();
        replica.graph.maintain();
        replica.spaces.all().iter().for_each(|space| replica.spaces.maintain(space));
        for dropped in dropped {
            replica.sweep_in_background(dropped);
        }
        for (tenant, collection) in replica.catalogue().owned() {
            for index in &collection.indexes {
                if replica.built_upto(collection.id, index.id)? == PARTITIONS {
                    index.state.set_built();
                }
            }
            replica.build_indexes(tenant, collection);
        }
        replica.resume_rewiring()?;
        replica.resume_sweeping()?;
        Ok(replica)
    }

    pub(crate) fn catalogue(&self) -> Arc<Catalogue> {
        Arc::clone(&self.catalogue.read())
    }

    /// Bounds on requests.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// 32 random bytes, made when the node was, and those of one node at all nodes of a ring as soon as they share a catalogue: cursors are
    /// authenticated under it.
    pub fn cursor_key(&self) -> [u8; 32] {
        *self.cursor_key.read()
    }

    /// The id that the node drew when its directory was made; it is in every version that its clock gives.
    pub fn node(&self) -> u64 {
        self.node
    }

    /// Wall time, as this node has it.
    pub fn wall(&self) -> &dyn Clock {
        self.clock.wall()
    }

    /// Whether it has no threads of its own: all work is done by whoever makes it due.
    pub fn is_inline(&self) -> bool {
        self.background.is_inline()
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

    /// Those of some collections that are there, in the order of their names, those after `after`.
    pub fn collections(
        &self,
        tenant: TenantId,
        among: &CollectionSet,
        after: Option<&str>,
        limit: usize,
    ) -> Vec<Arc<Collection>> {
        self.catalogue().list(tenant, among, after, limit)
    }

    /// Whose collections there are: a tenant as often as it has one.
    pub fn owners_of_collections(&self) -> Vec<TenantId> {
        self.catalogue().owned().map(|(tenant, _)| tenant).collect()
    }

    /// Figures of the vector index.
    pub fn vector_counts(&self) -> VectorCounts {
        self.spaces.counts()
    }

    /// Writes fresh texts to a segment, however few they are.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn seal_texts(&self) -> Result<()> {
        self.texts.seal()
    }

    /// Writes fresh nodes and edges to a segment, however few they are.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn seal_graph(&self) -> Result<()> {
        self.graph.seal()
    }

    /// Figures of the graph index.
    pub fn graph_counts(&self) -> GraphCounts {
        self.graph.counts()
    }

    /// Figures of the text index.
    pub fn text_counts(&self) -> TextCounts {
        self.texts.counts()
    }

    /// What background work is at.
    pub fn workers(&self) -> Vec<WorkerStatus> {
        let mut workers = self.spaces.workers();
        workers.extend(self.texts.workers());
        workers.extend(self.graph.workers());
        workers
    }

    /// Pauses, resumes or slows down a worker, until the next start; gives what it is at then.
    ///
    /// # Errors
    /// If there is no worker of this name, or the share is none.
    pub fn change_worker(&self, name: &str, change: WorkerChange) -> Result<WorkerStatus> {
        if let Some(changed) = self.texts.change_worker(name, change)? {
            return Ok(changed);
        }
        if let Some(changed) = self.graph.change_worker(name, change)? {
            return Ok(changed);
        }
        if let Some(changed) = self.spaces.change_worker(name, change)? {
            return Ok(changed);
        }
        let names: Vec<&str> = self.workers().iter().map(|worker| worker.name).collect();
        Err(Error::invalid("name", format!("is {name:?}; workers are {}", names.join(", "))))
    }

    /// Reads everything on disk, rows and indexes, and compares it with its checksums. `progress` is told how far it is and
    /// says whether to go on. Damaged segments of indexes are set aside and made anew from the rows.
    ///
    /// # Errors
    /// If the store is closed. Damage is no error but in the report.
    pub fn scrub(
        &self,
        options: ScrubOptions,
        mut progress: impl FnMut(&ScrubReport) -> ControlFlow<()>,
    ) -> Result<ScrubReport> {
        let segments = SegmentScrub::of(&self.spaces);
        let of_rows = self.engine.scrub(options, |report| progress(&segments.expected(report)))?;
        let mut report = segments.expected(&of_rows);
        if !report.cancelled {
            segments.run(options, &mut report, progress)?;
        }
        Ok(report)
    }

    /// Ends background work and closes the store.
    pub fn close(&self) -> Result<()> {
        self.closed.store(true, Ordering::Release);
        self.spaces.close();
        self.texts.close();
        self.graph.close();
        if self.trees.is_whole()
            && let Err(error) = self.trees.save(&self.engine)
        {
            // They are read from what changed since they were saved last.
            tracing::warn!(%error, "the Merkle trees are not saved");
        }
        self.engine.clone().close()?;
        Ok(())
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
