//! `allidb.v1.Maintenance`.

use allidb_cluster::{CompactProgress, Damage, Job, ScrubOptions, ScrubProgress};
use allidb_index::{
    Activity, Error, RebuildProgress, RebuildRequest, WorkerChange, WorkerStatus, model::TenantId,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{Services, drained};
use crate::{
    convert::timestamp_to_proto,
    status,
    v1::{self, maintenance_server::Maintenance},
};

/// Messages on their way to the caller.
const UNREAD: usize = 4;

pub(super) type Messages<T> = ReceiverStream<Result<T, Status>>;

#[tonic::async_trait]
impl Maintenance for Services {
    async fn flush(&self, request: Request<v1::FlushRequest>) -> Result<Response<v1::FlushResponse>, Status> {
        self.receive_any(request)?;
        self.coordinator.flush().await.map_err(status::from_error)?;
        Ok(Response::new(v1::FlushResponse {}))
    }

    type CompactStream = Messages<v1::CompactResponse>;

    async fn compact(
        &self,
        request: Request<v1::CompactRequest>,
    ) -> Result<Response<Self::CompactStream>, Status> {
        let (_, request) = self.receive_any(request)?;
        let keyspace = Some(request.keyspace).filter(|keyspace| !keyspace.is_empty());
        let job = self.coordinator.compact(keyspace.as_deref()).map_err(status::from_error)?;
        Ok(Response::new(self.tell(job, compact_to_proto, |progress| progress.finished)))
    }

    type ScrubStream = Messages<v1::ScrubResponse>;

    async fn scrub(&self, request: Request<v1::ScrubRequest>) -> Result<Response<Self::ScrubStream>, Status> {
        let (_, request) = self.receive_any(request)?;
        let options = ScrubOptions { bytes_per_second: request.bytes_per_second };
        let job = self.coordinator.scrub(options).map_err(status::from_error)?;
        Ok(Response::new(self.tell(job, scrub_to_proto, |progress| progress.finished)))
    }

    type RebuildIndexStream = Messages<v1::RebuildIndexResponse>;

    async fn rebuild_index(
        &self,
        request: Request<v1::RebuildIndexRequest>,
    ) -> Result<Response<Self::RebuildIndexStream>, Status> {
        let (_, v1::RebuildIndexRequest { tenant, collection, space }) = self.receive_any(request)?;
        let named = |name: String| Some(name).filter(|name| !name.is_empty());
        let request = RebuildRequest {
            tenant: Some(TenantId(tenant)).filter(|_| tenant > 0),
            collection: named(collection),
            space: named(space),
        };
        let job = self.coordinator.rebuild_index(&request).map_err(status::from_error)?;
        Ok(Response::new(self.tell(job, rebuild_to_proto, |progress| progress.is_done)))
    }

    async fn list_workers(
        &self,
        request: Request<v1::ListWorkersRequest>,
    ) -> Result<Response<v1::ListWorkersResponse>, Status> {
        self.receive_any(request)?;
        let workers = self.coordinator.workers().into_iter().map(worker_to_proto).collect();
        Ok(Response::new(v1::ListWorkersResponse { workers }))
    }

    async fn update_worker(
        &self,
        request: Request<v1::UpdateWorkerRequest>,
    ) -> Result<Response<v1::Worker>, Status> {
        let (_, v1::UpdateWorkerRequest { name, paused, share_percent }) = self.receive_any(request)?;
        // More than a byte holds is as wrong as the most that it holds.
        let share = share_percent.map(|share| u8::try_from(share).unwrap_or(u8::MAX));
        let change = WorkerChange { paused, share };
        let changed = self.coordinator.change_worker(&name, change).map_err(status::from_error)?;
        Ok(Response::new(worker_to_proto(changed)))
    }
}

fn worker_to_proto(status: WorkerStatus) -> v1::Worker {
    let activity = match status.activity {
        Activity::Idle => v1::worker::Activity::Idle,
        Activity::Working => v1::worker::Activity::Working,
        Activity::Paused => v1::worker::Activity::Paused,
    };
    let (last_error_at, last_error) = status.last_error.unzip();
    v1::Worker {
        name: status.name.to_owned(),
        activity: activity.into(),
        share_percent: u32::from(status.share),
        done: status.done as u64,
        total: status.total as u64,
        last_error: last_error.unwrap_or_default(),
        last_error_at: last_error_at.map(timestamp_to_proto),
    }
}

impl Services {
    /// Passes on what a job tells, until it ends, the caller is gone, or the server shuts down. Then the job stops.
    pub(super) fn tell<T: Send + 'static, M: Send + 'static>(
        &self,
        mut job: Job<T>,
        to_proto: fn(T) -> M,
        is_last: fn(&T) -> bool,
    ) -> Messages<M> {
        let (sender, messages) = mpsc::channel(UNREAD);
        let mut draining = self.draining.clone();
        tokio::spawn(async move {
            let mut finished = false;
            while !finished {
                let message = tokio::select! {
                    message = job.next() => message,
                    () = drained(&mut draining) => {
                        sender.send(Err(status::shutting_down())).await.ok();
                        return;
                    }
                    () = sender.closed() => return,
                };
                let message = match message {
                    Some(Ok(progress)) => {
                        finished = is_last(&progress);
                        Ok(to_proto(progress))
                    }
                    Some(Err(error)) => {
                        finished = true;
                        Err(status::from_error(error))
                    }
                    None => {
                        finished = true;
                        let error = Error::Internal("the job ended without a result".to_owned());
                        Err(status::from_error(error))
                    }
                };
                if sender.send(message).await.is_err() {
                    return;
                }
            }
        });
        ReceiverStream::new(messages)
    }
}

fn compact_to_proto(progress: CompactProgress) -> v1::CompactResponse {
    v1::CompactResponse {
        keyspace: progress.keyspace,
        keyspaces_done: count(progress.keyspaces_done),
        keyspaces_total: count(progress.keyspaces_total),
        bytes_done: progress.bytes_done,
        bytes_total: progress.bytes_total,
        quarantined_tables: count(progress.quarantined_tables),
        finished: progress.finished,
    }
}

fn scrub_to_proto(progress: ScrubProgress) -> v1::ScrubResponse {
    v1::ScrubResponse {
        files_done: progress.files_done,
        files_total: progress.files_total,
        bytes_done: progress.bytes_done,
        bytes_total: progress.bytes_total,
        damages: progress.damages.into_iter().map(damage_to_proto).collect(),
        finished: progress.finished,
    }
}

fn rebuild_to_proto(progress: RebuildProgress) -> v1::RebuildIndexResponse {
    v1::RebuildIndexResponse {
        vectors_done: progress.rows_done as u64,
        vectors_total: progress.rows_total as u64,
        waits: progress.waits.unwrap_or_default(),
        finished: progress.is_done,
    }
}

/// Where the data directory lies is nobody's concern but the daemon's.
fn damage_to_proto(damage: Damage) -> v1::Damage {
    let file = damage.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    v1::Damage { file, offset: damage.offset, what: damage.what }
}

fn count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
