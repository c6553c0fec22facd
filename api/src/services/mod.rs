//! The services of `allidb.v1`, one file each. A call reads its request, asks the coordinator, and writes
//! the answer; nothing else happens here.

mod backlog;
mod cluster;
mod collections;
mod entities;
mod graph;
mod keys;
mod maintenance;
mod names;
mod put_stream;
mod quotas;
mod search;
mod snapshots;

use allidb_cluster::{Consistency, Coordinator, Deadline, TraceId, WriteOptions};
use allidb_index::{
    Error, Result as IndexResult,
    model::{CollectionSet, Limits, TenantId, Write, Written},
};
use tokio::sync::watch;
use tonic::{Request, Status};

use self::names::Names;

use crate::{
    access::Identity,
    convert::{consistency_from_proto, durability_from_proto, version_to_proto},
    deadline,
    embedding::{Embedder, Texts},
    slow::{Asker, SlowLog},
    status, v1,
};

/// What every service is made of. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Services {
    pub(crate) coordinator: Coordinator,
    /// How many queries of one batch run at once.
    pub(crate) batch_concurrency: usize,
    /// Who turns texts into vectors, if anybody does.
    pub(crate) embedder: Option<Embedder>,
    /// Takes note of queries that take long.
    pub(crate) slow: SlowLog,
    /// Turns true when the server begins to shut down.
    pub(crate) draining: watch::Receiver<bool>,
}

/// What a call needs to know of its caller.
#[derive(Clone, Copy)]
struct Caller {
    tenant: TenantId,
    deadline: Deadline,
    /// Which trace the call belongs to, if any.
    trace: Option<TraceId>,
}

impl Caller {
    fn asker(self) -> Asker {
        Asker { tenant: self.tenant, trace: self.trace }
    }
}

impl Services {
    fn limits(&self) -> &Limits {
        self.coordinator.limits()
    }

    /// Takes a request of a client apart, unless the node is drained.
    ///
    /// # Errors
    /// PERMISSION_DENIED if it names a collection that its caller may not see.
    fn receive<T: Names>(&self, request: Request<T>) -> Result<(Caller, T), Status> {
        self.coordinator.check_takes_requests().map_err(status::from_error)?;
        names::check(request.get_ref(), &seen_by(&request))?;
        self.receive_any(request)
    }

    /// Takes a request of an operator apart.
    fn receive_any<T>(&self, request: Request<T>) -> Result<(Caller, T), Status> {
        let caller = self.caller(&request);
        Ok((caller, request.into_inner()))
    }

    fn caller<T>(&self, request: &Request<T>) -> Caller {
        let tenant = Identity::of(request.extensions()).tenant;
        let trace = request.extensions().get::<TraceId>().copied();
        Caller { tenant, deadline: deadline::of(request.metadata(), self.limits().deadline), trace }
    }

    /// Puts vectors in the places of texts.
    async fn embed(&self, tenant: TenantId, mut texts: Texts<'_>, deadline: Deadline) -> Result<(), Status> {
        // What is refused anyway is sent to nobody.
        for (collection, space) in texts.spaces() {
            let found = self.coordinator.collection(tenant, &collection).await;
            match found.and_then(|found| found.space(&space).map(drop)) {
                Ok(()) => {}
                Err(Error::UnknownCollection(_) | Error::UnknownSpace { .. }) => {
                    texts.leave_out(&collection, &space)
                }
                Err(error) => return Err(status::from_error(error)),
            }
        }
        texts.embed(self.embedder.as_ref(), deadline).await
    }

    /// Makes one write.
    async fn write_one(
        &self,
        caller: Caller,
        write: Write,
        options: WriteOptions,
    ) -> Result<Written, Status> {
        only(self.coordinator.write(caller.tenant, vec![write], options).await)
    }

    /// Makes those writes that could be read and answers each item in its place.
    async fn write_each(
        &self,
        caller: Caller,
        writes: Vec<Result<Write, Status>>,
        options: WriteOptions,
    ) -> Vec<v1::ItemResult> {
        let mut readable = Vec::with_capacity(writes.len());
        let refused: Vec<Option<Status>> =
            writes.into_iter().map(|write| write.map(|write| readable.push(write)).err()).collect();
        let mut written = self.coordinator.write(caller.tenant, readable, options).await.into_iter();
        refused
            .into_iter()
            .map(|refused| match refused {
                Some(status) => item_failed(&status),
                None => item_result(written.next().unwrap_or_else(unanswered)),
            })
            .collect()
    }
}

/// Which collections whoever sends a request may see.
fn seen_by<T>(request: &Request<T>) -> CollectionSet {
    Identity::of(request.extensions()).collections
}

/// Returns when the server begins to shut down.
async fn drained(draining: &mut watch::Receiver<bool>) {
    // An error says that whoever would have told is gone, which is the same.
    draining.wait_for(|draining| *draining).await.ok();
}

/// The options of a write, from what its request says.
fn write_options(caller: Caller, durability: i32, consistency: i32) -> Result<WriteOptions, Status> {
    Ok(WriteOptions {
        durability: durability_from_proto(durability)?,
        consistency: consistency_from_proto(consistency)?,
        deadline: caller.deadline,
    })
}

/// The options of a read.
fn read_consistency(consistency: i32) -> Result<Consistency, Status> {
    consistency_from_proto(consistency)
}

/// The single answer to a single question.
fn only<T>(answers: Vec<IndexResult<T>>) -> Result<T, Status> {
    answers.into_iter().next().unwrap_or_else(unanswered).map_err(status::from_error)
}

/// A coordinator that answers fewer items than it was given has a defect; say so rather than panic.
fn unanswered<T>() -> IndexResult<T> {
    tracing::error!("the coordinator left an item unanswered");
    Err(allidb_index::Error::FailedPrecondition("the server gave this item no answer".to_owned()))
}

fn item_result(result: IndexResult<Written>) -> v1::ItemResult {
    match result {
        Ok(written) => {
            v1::ItemResult { status: Some(status::done()), version: version_to_proto(written.version) }
        }
        Err(error) => item_failed(&status::from_error(error)),
    }
}

fn item_failed(status: &Status) -> v1::ItemResult {
    v1::ItemResult { status: Some(status::to_proto(status)), version: bytes::Bytes::new() }
}

/// A page of a listing: 0 stands for 100.
const DEFAULT_PAGE: usize = 100;
