//! Keys of callers, which change with the catalogue: so all nodes hear of it when one is made or revoked.

use std::sync::Arc;

use allidb_storage::{Keyspace, WriteBatch};
use prost::Message;

use super::{Catalogue, record};
use crate::{
    error::{Error, Result},
    model::{ApiKey, Role, TenantId},
};

/// Most keys of one tenant: all nodes hold all of them in memory.
const MAX_KEYS: usize = 1_000;

pub(super) const KEY: &[u8] = b"key/";

impl Catalogue {
    /// The key of this id.
    pub(crate) fn key(&self, id: &str) -> Option<&Arc<ApiKey>> {
        self.keys.get(id)
    }

    /// Keys of a tenant, or of all, in the order of their ids.
    pub(crate) fn keys(&self, tenant: Option<TenantId>) -> Vec<Arc<ApiKey>> {
        let is_asked_for = |key: &&Arc<ApiKey>| tenant.is_none_or(|tenant| key.tenant == tenant);
        self.keys.values().filter(is_asked_for).cloned().collect()
    }

    /// With one key more, and without those of its tenant that are good for nothing any more when it is made.
    pub(crate) fn with_key(&self, key: ApiKey) -> Result<Self> {
        key.validate()?;
        if self.keys.contains_key(&key.id) {
            return Err(Error::FailedPrecondition(format!("there is a key {} already", key.id)));
        }
        let mut next = self.changed();
        next.keys.retain(|_, other| other.tenant != key.tenant || other.is_valid(key.created_at));
        if next.keys(Some(key.tenant)).len() >= MAX_KEYS {
            return Err(Error::Exhausted(format!("a tenant may have at most {MAX_KEYS} keys")));
        }
        next.keys.insert(key.id.clone(), Arc::new(key));
        Ok(next)
    }

    /// Without a key, if it is of this tenant and not an operator's, or whosesoever it is.
    pub(crate) fn without_key(&self, tenant: Option<TenantId>, id: &str) -> Result<Self> {
        let of = self.keys.get(id).map(|key| key.tenant);
        if of.is_none_or(|of| tenant.is_some_and(|tenant| tenant != of)) {
            return Err(Error::UnknownKey(id.to_owned()));
        }
        if tenant.is_some() && self.keys.get(id).is_some_and(|key| key.role == Role::Operator) {
            let why = "keys of operators are revoked with a node's own key";
            return Err(Error::FailedPrecondition(why.to_owned()));
        }
        let mut next = self.changed();
        next.keys.remove(id);
        Ok(next)
    }

    /// The rows of keys that are others than before.
    pub(crate) fn put_keys(&self, before: &Self, cluster: Keyspace, batch: &mut WriteBatch) {
        let row = |id: &str| [KEY, id.as_bytes()].concat();
        for id in before.keys.keys().filter(|id| !self.keys.contains_key(*id)) {
            batch.delete(cluster, row(id));
            // Also when the disk is full.
            batch.use_reserve();
        }
        for (id, key) in self.keys.iter().filter(|(id, key)| before.keys.get(*id) != Some(key)) {
            batch.put(cluster, row(id), record::Key::from_model(key).encode_to_vec());
        }
    }
}
