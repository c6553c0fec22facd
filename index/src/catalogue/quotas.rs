//! Quotas of tenants, which change with the catalogue: so all nodes hear of it when one is set.

use allidb_storage::{Keyspace, WriteBatch};
use prost::Message;

use super::{Catalogue, record};
use crate::{
    error::{Error, Result},
    model::{Quota, TenantId},
};

/// Most tenants with a quota: all nodes hold all of them in memory.
const MAX_QUOTAS: usize = 10_000;

pub(super) const QUOTA: &[u8] = b"quota/";

impl Catalogue {
    /// What a tenant may use.
    pub(crate) fn quota(&self, tenant: TenantId) -> Quota {
        self.quotas.get(&tenant).copied().unwrap_or_default()
    }

    /// Those that there are, in the order of their tenants.
    pub(crate) fn quotas(&self) -> impl Iterator<Item = (TenantId, Quota)> {
        self.quotas.iter().map(|(tenant, quota)| (*tenant, *quota))
    }

    /// With what a tenant may use set, or with its bounds gone.
    pub(crate) fn with_quota(&self, tenant: TenantId, quota: Quota) -> Result<Self> {
        quota.validate(tenant)?;
        let mut next = self.changed();
        if quota.is_nothing() {
            next.quotas.remove(&tenant);
        } else {
            next.quotas.insert(tenant, quota);
        }
        if next.quotas.len() > MAX_QUOTAS {
            return Err(Error::Exhausted(format!("at most {MAX_QUOTAS} tenants may have quotas")));
        }
        Ok(next)
    }

    /// The rows of quotas that are others than before.
    pub(crate) fn put_quotas(&self, before: &Self, cluster: Keyspace, batch: &mut WriteBatch) {
        let row = |tenant: &TenantId| [QUOTA, &tenant.0.to_be_bytes()].concat();
        for tenant in before.quotas.keys().filter(|tenant| !self.quotas.contains_key(tenant)) {
            batch.delete(cluster, row(tenant));
        }
        for (tenant, quota) in &self.quotas {
            if before.quotas.get(tenant) != Some(quota) {
                batch.put(cluster, row(tenant), record::Quota::from_model(*tenant, *quota).encode_to_vec());
            }
        }
    }
}
