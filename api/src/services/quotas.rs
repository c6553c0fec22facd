//! `allidb.v1.Quotas`.

use allidb_index::model::{Quota, TenantId, Usage};
use tonic::{Request, Response, Status};

use super::Services;
use crate::{
    status,
    v1::{self, quotas_server::Quotas},
};

#[tonic::async_trait]
impl Quotas for Services {
    async fn set_quota(
        &self,
        request: Request<v1::SetQuotaRequest>,
    ) -> Result<Response<v1::SetQuotaResponse>, Status> {
        let (_, request) = self.receive_any(request)?;
        let quota = quota_from_proto(request.quota.unwrap_or_default());
        self.coordinator.set_quota(TenantId(request.tenant), quota).await.map_err(status::from_error)?;
        Ok(Response::new(v1::SetQuotaResponse {}))
    }

    async fn list_quotas(
        &self,
        request: Request<v1::ListQuotasRequest>,
    ) -> Result<Response<v1::ListQuotasResponse>, Status> {
        self.receive_any(request)?;
        let quotas = self.coordinator.quotas().await;
        Ok(Response::new(v1::ListQuotasResponse { quotas: quotas.into_iter().map(to_proto).collect() }))
    }
}

fn quota_from_proto(quota: v1::Quota) -> Quota {
    let v1::Quota { requests_per_second, bytes_per_second, entities, vectors, bytes } = quota;
    Quota { requests_per_second, bytes_per_second, entities, vectors, bytes }
}

fn to_proto((tenant, quota, usage): (TenantId, Quota, Option<Usage>)) -> v1::TenantQuota {
    let Quota { requests_per_second, bytes_per_second, entities, vectors, bytes } = quota;
    let quota = v1::Quota { requests_per_second, bytes_per_second, entities, vectors, bytes };
    let usage = usage.map(|Usage { entities, vectors, bytes }| v1::Usage { entities, vectors, bytes });
    v1::TenantQuota { tenant: tenant.0, quota: Some(quota), usage }
}
