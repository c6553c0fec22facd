//! Reads and writes: of what lies here, or over the ring.

use std::sync::Arc;

use allidb_index::{
    BulkDeleted, BySource, Deadline, Error, Facet, Merged, Mutation, Replica, Result, ScanPage, ScanRequest,
    SourceDeletion, Version,
    filter::{Field, Filter},
    graph::{
        ExpandRequest, Expansion, HopCounts, HopsRequest, Neighborhood, NeighborsRequest, Paths, PathsRequest,
    },
    model::{Entity, EntityRef, ReadMask, TenantId, Write, Written},
    query::{Answer, Query},
};
use tracing::instrument;

use super::{Consistency, Coordinator, Inner, WriteOptions};
use crate::ring::{Ring, Terms};

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
    /// Makes the writes in order. Each is checked and answered by itself.
    ///
    /// A write that was refused for its own fault, or not begun before the deadline, changed nothing; after
    /// any other error it may have been made.
    #[instrument(name = "write", level = "debug", skip_all, fields(writes = writes.len(), consistency = ?options.consistency))]
    pub(super) async fn write_all(
        &self,
        tenant: TenantId,
        writes: Vec<Write>,
        options: WriteOptions,
    ) -> Vec<Result<Written>> {
        let count = writes.len();
        let inner = Arc::clone(&self.0);
        if self.0.is_alone() {
            let work = move || inner.write(tenant, writes, options);
            return self.0.writes.run(work).await.unwrap_or_else(|error| vec![Err(error); count]);
        }
        let named = writes.iter().flat_map(Write::collections);
        self.know(tenant, named, options.deadline).await;
        let plan = move || {
            options.deadline.check()?;
            inner.ring.check_clock()?;
            Ok(inner.plan(tenant, writes))
        };
        match self.0.writes.run(plan).await.flatten() {
            Ok((planned, results)) => together(results, self.0.ring().write(planned, options).await),
            Err(error) => vec![Err(error); count],
        }
    }

    /// The entity of each reference, or why not; by a node that is alone all as of one moment.
    #[instrument(level = "debug", skip_all, fields(entities = refs.len(), ?consistency))]
    pub async fn get(
        &self,
        tenant: TenantId,
        refs: Vec<EntityRef>,
        mask: ReadMask,
        consistency: Consistency,
        deadline: Deadline,
    ) -> Vec<Result<Entity>> {
        if !self.0.is_alone() {
            self.know(tenant, refs.iter().map(|entity| &*entity.collection), deadline).await;
            return self.0.ring().get(tenant, &refs, &mask, consistency, deadline).await;
        }
        let count = refs.len();
        let replica = Arc::clone(&self.0.replica);
        match self.0.gets.run(move || replica.get(tenant, &refs, &mask, deadline)).await {
            Ok(results) => results,
            Err(error) => vec![Err(error); count],
        }
    }

    /// An entity that is no older than a version that the caller has seen of it.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if no replica that answers has it.
    #[instrument(level = "debug", skip_all)]
    pub async fn get_since(
        &self,
        tenant: TenantId,
        entity: EntityRef,
        mask: ReadMask,
        (consistency, version): (Consistency, Version),
        deadline: Deadline,
    ) -> Result<Entity> {
        if !self.0.is_alone() {
            self.know(tenant, std::iter::once(&*entity.collection), deadline).await;
            return self.0.ring().get_since(tenant, &entity, &mask, (consistency, version), deadline).await;
        }
        // It has everything that there is.
        let missing = || Error::Internal("an entity was given no answer".to_owned());
        let found = self.get(tenant, vec![entity], mask, consistency, deadline).await.pop();
        found.unwrap_or_else(|| Err(missing()))
    }

    /// A page of a collection in the order of ids.
    #[instrument(level = "debug", skip_all, fields(?consistency))]
    pub async fn scan(
        &self,
        tenant: TenantId,
        request: ScanRequest,
        consistency: Consistency,
        deadline: Deadline,
    ) -> Result<ScanPage> {
        if !self.0.is_alone() {
            let terms = Terms { tenant, consistency, deadline, may_be_partial: false };
            let request = &request;
            return self
                .over_ring(deadline, |ring| async move { ring.scan(request.clone(), terms).await })
                .await;
        }
        self.read(deadline, move |replica| replica.scan(tenant, &request, deadline)).await
    }

    /// How many entities there are, or match.
    #[instrument(level = "debug", skip_all, fields(?consistency))]
    pub async fn count(
        &self,
        tenant: TenantId,
        collection: &str,
        filter: Option<Filter>,
        consistency: Consistency,
        deadline: Deadline,
    ) -> Result<u64> {
        if !self.0.is_alone() {
            let terms = Terms { tenant, consistency, deadline, may_be_partial: false };
            let filter = &filter;
            return self
                .over_ring(
                    deadline,
                    |ring| async move { ring.count(collection, filter.clone(), terms).await },
                )
                .await;
        }
        let collection = collection.to_owned();
        self.read(deadline, move |replica| replica.count(tenant, &collection, filter.as_ref(), deadline))
            .await
    }

    /// The commonest values of some fields among the entities that match.
    #[instrument(level = "debug", skip_all, fields(?consistency))]
    pub async fn facets(
        &self,
        tenant: TenantId,
        request: FacetsRequest,
        consistency: Consistency,
        deadline: Deadline,
    ) -> Result<Vec<Facet>> {
        if !self.0.is_alone() {
            let terms = Terms { tenant, consistency, deadline, may_be_partial: false };
            let request = &request;
            return self
                .over_ring(deadline, |ring| async move { ring.facets(request.clone(), terms).await })
                .await;
        }
        let FacetsRequest { collection, fields, filter, limit } = request;
        let facets = move |replica: &Replica| {
            replica.facets(tenant, &collection, &fields, filter.as_ref(), limit, deadline)
        };
        self.read(deadline, facets).await
    }

    /// Deletes a page of those entities of a collection that match, each if it still does.
    #[instrument(level = "debug", skip_all, fields(consistency = ?options.consistency))]
    pub async fn delete_where(
        &self,
        tenant: TenantId,
        collection: &str,
        filter: Filter,
        (limit, after): (usize, Option<String>),
        options: WriteOptions,
    ) -> Result<BulkDeleted> {
        if !self.0.is_alone() {
            let terms = options.terms(tenant);
            let delete = |ring: Ring| {
                let (filter, place) = (filter.clone(), (limit, after.clone()));
                async move { ring.delete_where(collection, filter, place, (terms, options)).await }
            };
            return self.over_ring(options.deadline, delete).await;
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
    #[instrument(level = "debug", skip_all, fields(consistency = ?options.consistency))]
    pub async fn delete_by_source(
        &self,
        tenant: TenantId,
        deletion: SourceDeletion,
        options: WriteOptions,
    ) -> Result<BySource> {
        if !self.0.is_alone() {
            let (terms, deletion) = (options.terms(tenant), &deletion);
            return self
                .over_ring(options.deadline, |ring| async move {
                    ring.delete_by_source(deletion.clone(), (terms, options)).await
                })
                .await;
        }
        let inner = Arc::clone(&self.0);
        let work = move || {
            let apply = |writes| inner.write(tenant, writes, options);
            inner.replica.delete_by_source(tenant, &deletion, &apply, options.deadline)
        };
        self.0.chores.run(work).await?
    }

    /// Makes two entities of a collection one.
    #[instrument(level = "debug", skip_all, fields(consistency = ?options.consistency))]
    pub async fn merge(
        &self,
        tenant: TenantId,
        from: EntityRef,
        into: String,
        options: WriteOptions,
    ) -> Result<Merged> {
        self.0.check_alone("merging entities")?;
        let inner = Arc::clone(&self.0);
        let work = move || {
            let apply = |writes| inner.write(tenant, writes, options);
            inner.replica.merge_entities(tenant, &from, &into, &apply, options.deadline)
        };
        self.0.chores.run(work).await?
    }

    /// The edges of one entity.
    #[instrument(level = "debug", skip_all, fields(?consistency))]
    pub async fn neighbors(
        &self,
        tenant: TenantId,
        request: NeighborsRequest,
        consistency: Consistency,
        deadline: Deadline,
    ) -> Result<Neighborhood> {
        if !self.0.is_alone() {
            let request = &request;
            return self
                .over_ring(deadline, |ring| async move {
                    ring.neighbors(tenant, request.clone(), consistency, deadline).await
                })
                .await;
        }
        self.read(deadline, move |replica| replica.neighbors(tenant, &request, deadline)).await
    }

    /// A walk from some entities.
    #[instrument(level = "debug", skip_all, fields(?consistency))]
    pub async fn expand(
        &self,
        tenant: TenantId,
        request: ExpandRequest,
        consistency: Consistency,
        deadline: Deadline,
    ) -> Result<Expansion> {
        if !self.0.is_alone() {
            let terms = Terms { tenant, consistency, deadline, may_be_partial: false };
            let request = &request;
            return self
                .over_ring(deadline, |ring| async move { ring.expand(request.clone(), terms).await })
                .await;
        }
        self.read(deadline, move |replica| replica.expand(tenant, &request, deadline)).await
    }

    /// The shortest paths from one entity to another.
    #[instrument(level = "debug", skip_all, fields(?consistency))]
    pub async fn shortest_paths(
        &self,
        tenant: TenantId,
        request: PathsRequest,
        consistency: Consistency,
        deadline: Deadline,
    ) -> Result<Paths> {
        if !self.0.is_alone() {
            let terms = Terms { tenant, consistency, deadline, may_be_partial: false };
            let request = &request;
            return self
                .over_ring(deadline, |ring| async move { ring.shortest_paths(request.clone(), terms).await })
                .await;
        }
        self.read(deadline, move |replica| replica.shortest_paths(tenant, &request, deadline)).await
    }

    /// How many entities are so many hops away from some.
    #[instrument(level = "debug", skip_all, fields(?consistency))]
    pub async fn count_hops(
        &self,
        tenant: TenantId,
        request: HopsRequest,
        consistency: Consistency,
        deadline: Deadline,
    ) -> Result<HopCounts> {
        if !self.0.is_alone() {
            let terms = Terms { tenant, consistency, deadline, may_be_partial: false };
            let request = &request;
            return self
                .over_ring(deadline, |ring| async move { ring.count_hops(request.clone(), terms).await })
                .await;
        }
        self.read(deadline, move |replica| replica.count_hops(tenant, &request, deadline)).await
    }

    /// Answers queries one after the other; a node that is alone answers all at one moment.
    #[instrument(level = "debug", skip_all, fields(queries = queries.len()))]
    pub async fn query_each(
        &self,
        tenant: TenantId,
        queries: Vec<(Query, Consistency)>,
        deadline: Deadline,
    ) -> Result<Vec<Result<Answer>>> {
        if !self.0.is_alone() {
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
    #[instrument(level = "debug", skip_all, fields(?consistency))]
    pub async fn query(
        &self,
        tenant: TenantId,
        query: Query,
        consistency: Consistency,
        deadline: Deadline,
    ) -> Result<Answer> {
        if !self.0.is_alone() {
            let may_be_partial = query.allow_partial;
            let terms = Terms { tenant, consistency, deadline, may_be_partial };
            let query = &query;
            return self
                .over_ring(deadline, |ring| async move { ring.query(query.clone(), terms).await })
                .await;
        }
        self.read(deadline, move |replica| replica.query(tenant, &query, deadline)).await
    }

    /// Does something over the ring; once more if it names a collection that others have heard of, and this node has not, and again if too few
    /// answered because the ring has another topology meanwhile.
    async fn over_ring<T, F>(&self, deadline: Deadline, ask: impl Fn(Ring) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let mut has_learnt = false;
        loop {
            let ring = self.0.ring();
            match ask(ring.clone()).await {
                Err(Error::UnknownCollection(_)) if !has_learnt && ring.refresh_catalogue(deadline).await => {
                    has_learnt = true;
                }
                Err(Error::Unavailable(_)) if ring.is_outdated() && !deadline.has_passed() => {}
                done => return done,
            }
        }
    }

    /// Asks others about collections that this node has not heard of.
    pub(super) async fn know(
        &self,
        tenant: TenantId,
        mut named: impl Iterator<Item = &str>,
        deadline: Deadline,
    ) {
        if !self.0.replica.knows(tenant, &mut named) {
            // Whoever names it is told what this node knows then.
            self.0.ring().refresh_catalogue(deadline).await;
        }
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
