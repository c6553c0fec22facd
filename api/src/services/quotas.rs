//! `allidb.v1.Quotas`.

use allidb_cluster::Tenant;
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

    async fn list_tenants(
        &self,
        request: Request<v1::ListTenantsRequest>,
    ) -> Result<Response<v1::ListTenantsResponse>, Status> {
        self.receive_any(request)?;
        let tenants = self.coordinator.tenants().await;
        Ok(Response::new(v1::ListTenantsResponse {
            tenants: tenants.into_iter().map(tenant_to_proto).collect(),
        }))
    }
}

fn quota_from_proto(quota: v1::Quota) -> Quota {
    let v1::Quota { requests_per_second, bytes_per_second, entities, vectors, bytes } = quota;
    Quota { requests_per_second, bytes_per_second, entities, vectors, bytes }
}

fn to_proto((tenant, quota, usage): (TenantId, Quota, Option<Usage>)) -> v1::TenantQuota {
    v1::TenantQuota { tenant: tenant.0, quota: Some(quota_to_proto(quota)), usage: usage.map(usage_to_proto) }
}

fn quota_to_proto(quota: Quota) -> v1::Quota {
    let Quota { requests_per_second, bytes_per_second, entities, vectors, bytes } = quota;
    v1::Quota { requests_per_second, bytes_per_second, entities, vectors, bytes }
}

fn usage_to_proto(Usage { entities, vectors, bytes }: Usage) -> v1::Usage {
    v1::Usage { entities, vectors, bytes }
}

fn tenant_to_proto(tenant: Tenant) -> v1::Tenant {
    let Tenant { tenant, collections, keys, quota, usage } = tenant;
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    v1::Tenant {
        tenant: tenant.0,
        collections: count(collections),
        keys: count(keys),
        quota: quota.map(quota_to_proto),
        usage: usage.map(usage_to_proto),
    }
}
