//! The coordinator: the seam through which every read and write goes.
//!
//! It plans a request, finds the partitions it touches and the replicas that hold them, and runs it there.
//! With one node every partition's only replica is the local one.

mod opening;

use std::{sync::Arc, time::Duration};

use allidb_index::{
    BulkDeleted, BySource, Deadline, Error, Facet, Merged, Mutation, Replica, Result, ScanPage, ScanRequest,
    SourceDeletion, TextCounts, VectorCounts, WorkerChange, WorkerStatus,
    filter::{Field, Filter},
    graph::{
        ExpandRequest, Expansion, GraphCounts, HopCounts, HopsRequest, Neighborhood, NeighborsRequest, Paths,
        PathsRequest,
    },
    model::{
        Collection, CollectionChange, CollectionSpec, Entity, EntityRef, Limits, ReadMask, TenantId, Write,
        Written,
    },
    query::{Answer, Query},
};
use allidb_storage::{Durability, ScrubOptions, Stats};

pub use opening::Config;

use crate::{
    layout::{Layout, NodeId},
    maintenance::{CompactProgress, Job, Jobs, ScrubProgress},
    member::Life,
    membership::{GossipCounts, NodeView},
    pool::Pool,
    ring::{ClockOffset, HintCounts, Ring, RingCounts, Terms},
};

/// Chores that may wait for the one before.
const CHORES: usize = 4;

/// How long nodes may take to agree on a change of the catalogue.
const AGREEMENT: Duration = Duration::from_secs(10);

/// How many replicas must agree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Consistency {
    /// One.
    One,
    /// A majority.
    #[default]
    Quorum,
    /// Every one.
    All,
}

impl Consistency {
    /// How many of `replicas` must answer.
    pub fn needed(self, replicas: usize) -> usize {
        match self {
            Self::One => 1,
            Self::Quorum => replicas / 2 + 1,
            Self::All => replicas,
        }
    }
}

/// How a write is made.
#[derive(Clone, Copy, Debug)]
pub struct WriteOptions {
    /// When it is acknowledged.
    pub durability: Durability,
    /// By how many.
    pub consistency: Consistency,
    /// When the caller stops waiting.
    pub deadline: Deadline,
}

impl WriteOptions {
    /// How that is read on which the write depends.
    fn terms(self, tenant: TenantId) -> Terms {
        let consistency = self.consistency.max(Consistency::Quorum);
        Terms { tenant, consistency, deadline: self.deadline, may_be_partial: false }
    }
}

/// Figures for metrics.
#[derive(Clone, Debug)]
pub struct Counts {
    /// The storage engine's.
    pub storage: Stats,
    /// The vector index's.
    pub vectors: VectorCounts,
    /// The text index's.
    pub texts: TextCounts,
    /// Of the graph.
    pub graph: GraphCounts,
    /// Writes that wait for a thread.
    pub writes_queued: usize,
    /// Reads that wait for a thread.
    pub reads_queued: usize,
}

/// The coordinator of this node. Cheap to clone.
#[derive(Clone)]
pub struct Coordinator(Arc<Inner>);

struct Inner {
    ring: Ring,
    /// Unless it is alone.
    life: Option<Life>,
    replica: Arc<Replica>,
    writes: Pool,
    reads: Pool,
    /// Gets and the catalogue: short, and not to wait behind searches.
    gets: Pool,
    /// What operators ask for and wait for.
    chores: Pool,
    jobs: Jobs,
}

/// Asks for facets.
#[derive(Clone, Debug)]
pub struct FacetsRequest {
    /// The collection's name.
    pub collection: String,
    /// Whose values.
    pub fields: Vec<Field>,
    /// Of the entities that match.
    pub filter: Option<Filter>,
    /// So many values of each field at most.
    pub limit: usize,
}

impl Coordinator {
    /// Bounds on requests.
    pub fn limits(&self) -> &Limits {
        self.0.replica.limits()
    }

    /// Which nodes hold what.
    pub fn layout(&self) -> &Layout {
        self.0.ring.layout()
    }

    /// 32 random bytes made when the ring was founded; page tokens are authenticated under it.
    pub fn cursor_key(&self) -> [u8; 32] {
        self.0.replica.cursor_key()
    }

    /// Whether it can serve: opening returned, so it is recovered, and its engine takes writes.
    pub fn is_ready(&self) -> bool {
        self.0.replica.engine().stats().poisoned.is_none()
    }

    /// All nodes of the ring that are heard of, as they say of themselves; none if this one is alone.
    pub fn nodes(&self) -> Vec<NodeView> {
        self.0.life.as_ref().map(Life::nodes).unwrap_or_default()
    }

    /// What became of messages of gossip; `None` if this node is alone.
    pub fn gossip_counts(&self) -> Option<GossipCounts> {
        self.0.life.as_ref().map(Life::gossip_counts)
    }

    /// How far the clocks of other nodes are from this one's, of those that said so lately.
    pub fn clocks(&self) -> Vec<ClockOffset> {
        self.0.ring.clocks()
    }

    /// How often which mechanism of the ring was at work; `None` if this node is alone.
    pub fn ring_counts(&self) -> Option<RingCounts> {
        (!self.0.ring.is_alone()).then(|| self.0.ring.counts())
    }

    /// How often collections were changed.
    pub fn catalogue_version(&self) -> u64 {
        self.0.replica.catalogue_version()
    }

    /// Figures of what is kept for other nodes.
    pub fn hints(&self) -> Vec<HintCounts> {
        self.0.ring.hints()
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.0.ring.node()
    }

    /// Figures for metrics.
    pub fn counts(&self) -> Counts {
        Counts {
            storage: self.0.replica.engine().stats(),
            vectors: self.0.replica.vector_counts(),
            texts: self.0.replica.text_counts(),
            graph: self.0.replica.graph_counts(),
            writes_queued: self.0.writes.queued(),
            reads_queued: self.0.reads.queued() + self.0.gets.queued(),
        }
    }

    /// Takes no more work, finishes what is queued, flushes and closes the store. Blocks.
    pub fn close(&self) -> Result<()> {
        if let Some(life) = &self.0.life {
            life.end();
        }
        self.0.writes.close();
        self.0.reads.close();
        self.0.gets.close();
        self.0.chores.close();
        self.0.ring.close();
        self.0.replica.close()
    }

    /// Creates a collection.
    pub async fn create_collection(
        &self,
        tenant: TenantId,
        name: &str,
        spec: CollectionSpec,
    ) -> Result<Arc<Collection>> {
        let name = name.to_owned();
        if self.0.ring.is_alone() {
            return self.change(move |replica| replica.create_collection(tenant, &name, spec)).await;
        }
        let created = name.clone();
        self.agree(move |replica| replica.with_created(tenant, &name, spec.clone())).await?;
        self.collection(tenant, &created).await
    }

    /// The collection of this name.
    pub async fn collection(&self, tenant: TenantId, name: &str) -> Result<Arc<Collection>> {
        let (replica, name) = (Arc::clone(&self.0.replica), name.to_owned());
        self.0.gets.run(move || replica.collection(tenant, &name)).await?
    }

    /// Collections in the order of their names, those after `after`, `limit` at most.
    pub async fn collections(
        &self,
        tenant: TenantId,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Arc<Collection>>> {
        let (replica, after) = (Arc::clone(&self.0.replica), after.map(str::to_owned));
        self.0.gets.run(move || replica.collections(tenant, after.as_deref(), limit)).await
    }

    /// Changes a collection's spaces, aliases and indexes, all or none.
    pub async fn update_collection(
        &self,
        tenant: TenantId,
        name: &str,
        change: CollectionChange,
    ) -> Result<Arc<Collection>> {
        let name = name.to_owned();
        if self.0.ring.is_alone() {
            return self.change(move |replica| replica.update_collection(tenant, &name, change)).await;
        }
        let updated = name.clone();
        self.agree(move |replica| replica.with_updated(tenant, &name, change.clone())).await?;
        self.collection(tenant, &updated).await
    }

    /// Drops a collection with everything in it.
    pub async fn drop_collection(&self, tenant: TenantId, name: &str) -> Result<()> {
        let name = name.to_owned();
        if self.0.ring.is_alone() {
            return self.change(move |replica| replica.drop_collection(tenant, &name)).await;
        }
        self.agree(move |replica| replica.with_dropped(tenant, &name)).await
    }

    /// Makes the writes in order. Each is checked and answered by itself.
    ///
    /// A write that was refused for its own fault, or not begun before the deadline, changed nothing; after
    /// any other error it may have been made.
    pub async fn write(
        &self,
        tenant: TenantId,
        writes: Vec<Write>,
        options: WriteOptions,
    ) -> Vec<Result<Written>> {
        let count = writes.len();
        let inner = Arc::clone(&self.0);
        if self.0.ring.is_alone() {
            let work = move || inner.write(tenant, writes, options);
            return self.0.writes.run(work).await.unwrap_or_else(|error| vec![Err(error); count]);
        }
        let plan = move || {
            options.deadline.check()?;
            inner.ring.check_clock()?;
            Ok(inner.plan(tenant, writes))
        };
        match self.0.writes.run(plan).await.flatten() {
            Ok((planned, results)) => together(results, self.0.ring.write(planned, options).await),
            Err(error) => vec![Err(error); count],
        }
    }

    /// The entity of each reference, or why not, all as of one moment.
    pub async fn get(
        &self,
        tenant: TenantId,
        refs: Vec<EntityRef>,
        mask: ReadMask,
        consistency: Consistency,
        deadline: Deadline,
    ) -> Vec<Result<Entity>> {
        if !self.0.ring.is_alone() {
            return self.0.ring.get(tenant, &refs, &mask, consistency, deadline).await;
        }
        let count = refs.len();
        let replica = Arc::clone(&self.0.replica);
        match self.0.gets.run(move || replica.get(tenant, &refs, &mask, deadline)).await {
            Ok(results) => results,
            Err(error) => vec![Err(error); count],
        }
    }

    /// A page of a collection in the order of ids.
    pub async fn scan(
        &self,
        tenant: TenantId,
        request: ScanRequest,
        consistency: Consistency,
        deadline: Deadline,
    ) -> Result<ScanPage> {
        if !self.0.ring.is_alone() {
            let terms = Terms { tenant, consistency, deadline, may_be_partial: false };
            return self.0.ring.scan(request, terms).await;
        }
        self.read(deadline, move |replica| replica.scan(tenant, &request, deadline)).await
    }

    /// How many entities there are, or match.
    pub async fn count(
        &self,
        tenant: TenantId,
        collection: &str,
        filter: Option<Filter>,
        consistency: Consistency,
        deadline: Deadline,
    ) -> Result<u64> {
        if !self.0.ring.is_alone() {
            let terms = Terms { tenant, consistency, deadline, may_be_partial: false };
            return self.0.ring.count(collection, filter, terms).await;
        }
        let collection = collection.to_owned();
        self.read(deadline, move |replica| replica.count(tenant, &collection, filter.as_ref(), deadline))
            .await
    }

    /// The commonest values of some fields among the entities that match.
    pub async fn facets(
        &self,
        tenant: TenantId,
        request: FacetsRequest,
        consistency: Consistency,
        deadline: Deadline,
    ) -> Result<Vec<Facet>> {
        if !self.0.ring.is_alone() {
            let terms = Terms { tenant, consistency, deadline, may_be_partial: false };
            return self.0.ring.facets(request, terms).await;
        }
        let FacetsRequest { collection, fields, filter, limit } = request;
        let facets = move |replica: &Replica| {
            replica.facets(tenant, &collection, &fields, filter.as_ref(), limit, deadline)
        };
        self.read(deadline, facets).await
    }

    /// Deletes a page of those entities of a collection that match, each if it still does.
    pub async fn delete_where(
        &self,
        tenant: TenantId,
        collection: &str,
        filter: Filter,
        (limit, after): (usize, Option<String>),
        options: WriteOptions,
    ) -> Result<BulkDeleted> {
        if !self.0.ring.is_alone() {
            let terms = options.terms(tenant);
            return self.0.ring.delete_where(collection, filter, (limit, after), (terms, options)).await;
        }
        let (inner, collection) = (Arc::clone(&self.0), collection.to_owned());
        let work = move || {
            let apply = |writes| inner.write(tenant, writes, options);
            let replica = &inner.replica;
            replica.delete_where(tenant, &collection, filter, (limit, after), &apply, options.deadline)
        };
        self.0.chores.run(work).await?
    }

    /// Takes a source away from a page of what came from it, and deletes what has no other.
    pub async fn delete_by_source(
        &self,
        tenant: TenantId,
        deletion: SourceDeletion,
        options: WriteOptions,
    ) -> Result<BySource> {
        if !self.0.ring.is_alone() {
            let terms = options.terms(tenant);
            return self.0.ring.delete_by_source(deletion, (terms, options)).await;
        }
        let inner = Arc::clone(&self.0);
        let work = move || {
            let apply = |writes| inner.write(tenant, writes, options);
            inner.replica.delete_by_source(tenant, &deletion, &apply, options.deadline)
        };
        self.0.chores.run(work).await?
    }

    /// Makes two entities of a collection one.
    pub async fn merge(
        &self,
        tenant: TenantId,
        from: EntityRef,
        into: String,
        options: WriteOptions,
    ) -> Result<Merged> {
        self.0.ring.check_alone("merging entities")?;
        let inner = Arc::clone(&self.0);
        let work = move || {
            let apply = |writes| inner.write(tenant, writes, options);
            inner.replica.merge_entities(tenant, &from, &into, &apply, options.deadline)
        };
        self.0.chores.run(work).await?
    }

    /// The edges of one entity.
    pub async fn neighbors(
        &self,
        tenant: TenantId,
        request: NeighborsRequest,
        consistency: Consistency,
        deadline: Deadline,
    ) -> Result<Neighborhood> {
        if !self.0.ring.is_alone() {
            return self.0.ring.neighbors(tenant, request, consistency, deadline).await;
        }
        self.read(deadline, move |replica| replica.neighbors(tenant, &request, deadline)).await
    }

    /// A walk from some entities.
    pub async fn expand(
        &self,
        tenant: TenantId,
        request: ExpandRequest,
        consistency: Consistency,
        deadline: Deadline,
    ) -> Result<Expansion> {
        if !self.0.ring.is_alone() {
            let terms = Terms { tenant, consistency, deadline, may_be_partial: false };
            return self.0.ring.expand(request, terms).await;
        }
        self.read(deadline, move |replica| replica.expand(tenant, &request, deadline)).await
    }

    /// The shortest paths from one entity to another.
    pub async fn shortest_paths(
        &self,
        tenant: TenantId,
        request: PathsRequest,
        consistency: Consistency,
        deadline: Deadline,
    ) -> Result<Paths> {
        if !self.0.ring.is_alone() {
            let terms = Terms { tenant, consistency, deadline, may_be_partial: false };
            return self.0.ring.shortest_paths(request, terms).await;
        }
        self.read(deadline, move |replica| replica.shortest_paths(tenant, &request, deadline)).await
    }

    /// How many entities are so many hops away from some.
    pub async fn count_hops(
        &self,
        tenant: TenantId,
        request: HopsRequest,
        consistency: Consistency,
        deadline: Deadline,
    ) -> Result<HopCounts> {
        if !self.0.ring.is_alone() {
            let terms = Terms { tenant, consistency, deadline, may_be_partial: false };
            return self.0.ring.count_hops(request, terms).await;
        }
        self.read(deadline, move |replica| replica.count_hops(tenant, &request, deadline)).await
    }

    /// Answers queries one after the other; a node that is alone answers all at one moment.
    pub async fn query_each(
        &self,
        tenant: TenantId,
        queries: Vec<(Query, Consistency)>,
        deadline: Deadline,
    ) -> Result<Vec<Result<Answer>>> {
        if !self.0.ring.is_alone() {
            let mut answers = Vec::with_capacity(queries.len());
            for (query, consistency) in queries {
                answers.push(self.query(tenant, query, consistency, deadline).await);
            }
            return Ok(answers);
        }
        let queries: Vec<Query> = queries.into_iter().map(|(query, _)| query).collect();
        self.read(deadline, move |replica| Ok(replica.query_each(tenant, &queries, deadline))).await
    }

    /// Seeds, expansion and score in one.
    pub async fn query(
        &self,
        tenant: TenantId,
        query: Query,
        consistency: Consistency,
        deadline: Deadline,
    ) -> Result<Answer> {
        if !self.0.ring.is_alone() {
            let may_be_partial = query.allow_partial;
            return self.0.ring.query(query, Terms { tenant, consistency, deadline, may_be_partial }).await;
        }
        self.read(deadline, move |replica| replica.query(tenant, &query, deadline)).await
    }

    /// Writes everything that is in memory to tables.
    pub async fn flush(&self) -> Result<()> {
        let replica = Arc::clone(&self.0.replica);
        self.0.chores.run(move || Ok(replica.engine().flush()?)).await?
    }

    /// Flushes, and merges the tables of one keyspace, or of each, into one level. Fails if that is under way already.
    pub fn compact(&self, keyspace: Option<&str>) -> Result<Job<CompactProgress>> {
        self.0.jobs.compact(self.0.replica.engine().clone(), keyspace)
    }

    /// Reads everything on disk and compares it with its checksums. Fails if that is under way already.
    pub fn scrub(&self, options: ScrubOptions) -> Result<Job<ScrubProgress>> {
        self.0.jobs.scrub(Arc::clone(&self.0.replica), options)
    }

    /// What background work is at.
    pub fn workers(&self) -> Vec<WorkerStatus> {
        self.0.replica.workers()
    }

    /// Pauses, resumes or slows down a worker, until the next start; gives what it is at then.
    ///
    /// # Errors
    /// If there is no worker of this name, or the share is none.
    pub fn change_worker(&self, name: &str, change: WorkerChange) -> Result<WorkerStatus> {
        self.0.replica.change_worker(name, change)
    }

    /// Reads what lies here, which is all that there is.
    async fn read<T: Send + 'static>(
        &self,
        deadline: Deadline,
        read: impl FnOnce(&Replica) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let replica = Arc::clone(&self.0.replica);
        let work = move || {
            // What waited too long for a thread is not begun.
            deadline.check()?;
            read(&replica)
        };
        self.0.reads.run(work).await?
    }

    /// Changes the catalogue of the ring.
    async fn agree(
        &self,
        change: impl Fn(&Replica) -> Result<Vec<u8>> + Clone + Send + 'static,
    ) -> Result<()> {
        self.0.ring.change_catalogue(Deadline::after(AGREEMENT), change).await
    }

    async fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&Arc<Replica>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let replica = Arc::clone(&self.0.replica);
        self.0.writes.run(move || change(&replica)).await?
    }
}

impl Inner {
    /// Plans each write, and merges it into what lies here, which is all that there is.
    fn write(&self, tenant: TenantId, writes: Vec<Write>, options: WriteOptions) -> Vec<Result<Written>> {
        if let Err(error) = options.deadline.check() {
            return vec![Err(error); writes.len()];
        }
        let (planned, results) = self.plan(tenant, writes);
        together(results, self.replica.apply(planned, options.durability))
    }

    /// Checks writes and gives them versions. Those that are refused are answered, in their places.
    fn plan(&self, tenant: TenantId, writes: Vec<Write>) -> (Vec<Mutation>, Vec<Option<Result<Written>>>) {
        let mut planned = Vec::with_capacity(writes.len());
        let mut results = Vec::with_capacity(writes.len());
        for write in writes {
            match self.replica.plan(tenant, write) {
                Ok(mutation) => {
                    planned.push(mutation);
                    results.push(None);
                }
                Err(error) => results.push(Some(Err(error))),
            }
        }
        (planned, results)
    }
}

/// The answers to writes, of which some were refused at once.
fn together(results: Vec<Option<Result<Written>>>, made: Vec<Result<Written>>) -> Vec<Result<Written>> {
    let mut made = made.into_iter();
    let missing = || Err(Error::Internal("there are fewer answers than writes".into()));
    results.into_iter().map(|result| result.or_else(|| made.next()).unwrap_or_else(missing)).collect()
}
