//! `allidb.v1.Snapshots`.

use std::sync::Arc;

use allidb_cluster::{Deadline, OnBehalf, Snapshot, SnapshotProgress};
use allidb_index::{Error, model::Timestamp};
use tokio::time::timeout;
use tonic::{Request, Response, Status};

use super::{Services, maintenance::Messages};
use crate::{
    convert::timestamp_to_proto,
    layer::Room,
    status,
    v1::{self, snapshots_server::Snapshots},
};

#[tonic::async_trait]
impl Snapshots for Services {
    type CreateSnapshotStream = Messages<v1::SnapshotProgress>;
    type VerifySnapshotStream = Messages<v1::SnapshotProgress>;
    type RestoreSnapshotStream = Messages<v1::SnapshotProgress>;

    async fn create_snapshot(
        &self,
        request: Request<v1::CreateSnapshotRequest>,
    ) -> Result<Response<Self::CreateSnapshotStream>, Status> {
        self.receive_any(request)?;
        let job = self.coordinator.create_snapshot().map_err(status::from_error)?;
        Ok(Response::new(self.tell(job, progress_to_proto, |progress| progress.finished)))
    }

    async fn list_snapshots(
        &self,
        request: Request<v1::ListSnapshotsRequest>,
    ) -> Result<Response<v1::ListSnapshotsResponse>, Status> {
        let (caller, _) = self.receive_any(request)?;
        let snapshots = within(caller.deadline, self.coordinator.snapshots()).await?;
        let snapshots = snapshots.into_iter().map(snapshot_to_proto).collect();
        Ok(Response::new(v1::ListSnapshotsResponse { snapshots }))
    }

    async fn verify_snapshot(
        &self,
        request: Request<v1::VerifySnapshotRequest>,
    ) -> Result<Response<Self::VerifySnapshotStream>, Status> {
        let (_, request) = self.receive_any(request)?;
        let job = self.coordinator.verify_snapshot(request.id).map_err(status::from_error)?;
        Ok(Response::new(self.tell(job, progress_to_proto, |progress| progress.finished)))
    }

    async fn restore_snapshot(
        &self,
        request: Request<v1::RestoreSnapshotRequest>,
    ) -> Result<Response<Self::RestoreSnapshotStream>, Status> {
        let (_, request) = self.receive_any(request)?;
        let job = self.coordinator.restore_snapshot(request.id).map_err(status::from_error)?;
        Ok(Response::new(self.tell(job, progress_to_proto, |progress| progress.finished)))
    }

    async fn delete_snapshots(
        &self,
        request: Request<v1::DeleteSnapshotsRequest>,
    ) -> Result<Response<v1::DeleteSnapshotsResponse>, Status> {
        let staying = request.extensions().get::<Arc<Room>>().map(Room::stay);
        let (caller, request) = self.receive_any(request)?;
        if request.ids.is_empty() {
            return Err(status::invalid("ids", "must name a snapshot"));
        }
        let coordinator = self.coordinator.clone();
        // What is begun is not left by halves though nobody waits any more, and takes its place until then.
        let deleting = async move {
            let _staying = staying;
            coordinator.delete_snapshots(&request.ids).await
        };
        let deleting = tokio::spawn(deleting.in_current_call());
        let deleted =
            async { deleting.await.unwrap_or_else(|error| Err(Error::Internal(error.to_string()))) };
        within(caller.deadline, deleted).await?;
        Ok(Response::new(v1::DeleteSnapshotsResponse {}))
    }
}

/// What comes of it in time: whoever keeps snapshots may not answer.
async fn within<T>(deadline: Deadline, asking: impl Future<Output = Result<T, Error>>) -> Result<T, Status> {
    let asked = timeout(deadline.remaining(), asking).await;
    asked.unwrap_or(Err(Error::DeadlineExceeded)).map_err(status::from_error)
}

fn snapshot_to_proto(snapshot: Snapshot) -> v1::Snapshot {
    let Snapshot { id, created_at_ms, ring, bytes, new_bytes, collections, digest, damage } = snapshot;
    let created_at = Some(timestamp_to_proto(Timestamp::from_millis(created_at_ms)));
    let damage = damage.unwrap_or_default();
    v1::Snapshot { id, created_at, ring, bytes, new_bytes, collections, digest, damage }
}

fn progress_to_proto(progress: SnapshotProgress) -> v1::SnapshotProgress {
    let SnapshotProgress { snapshot, partitions_done, partitions_total, entities, bytes, damages, finished } =
        progress;
    let snapshot = Some(snapshot_to_proto(snapshot));
    v1::SnapshotProgress { snapshot, partitions_done, partitions_total, entities, bytes, damages, finished }
}
