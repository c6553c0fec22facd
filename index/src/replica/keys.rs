//! Keys of callers: made, revoked and found.

use std::sync::Arc;

use super::Replica;
use crate::{
    error::Result,
    model::{ApiKey, TenantId},
};

impl Replica {
    /// The key of this id, if there is one: it may have expired.
    pub fn key(&self, id: &str) -> Option<Arc<ApiKey>> {
        self.catalogue().key(id).cloned()
    }

    /// Keys of a tenant, or of all, in the order of their ids.
    pub fn keys(&self, tenant: Option<TenantId>) -> Vec<Arc<ApiKey>> {
        self.catalogue().keys(tenant)
    }

    /// Keeps a key.
    ///
    /// # Errors
    /// If its id is taken, or its name is none, or there are too many; if it cannot be written.
    pub fn create_key(self: &Arc<Self>, key: ApiKey) -> Result<()> {
        let _change = self.catalogue_change.lock();
        self.install(self.catalogue().with_key(key)?, &[], None)
    }

    /// Forgets a key of this tenant, or whosesoever it is: it is good for nothing as soon as this returns.
    ///
    /// # Errors
    /// If there is none of this id; if that cannot be written.
    pub fn revoke_key(self: &Arc<Self>, tenant: Option<TenantId>, id: &str) -> Result<()> {
        let _change = self.catalogue_change.lock();
        self.install(self.catalogue().without_key(tenant, id)?, &[], None)
    }

    /// The catalogue with a key more, for the ring to agree on.
    ///
    /// # Errors
    /// As [`create_key`](Self::create_key).
    pub fn with_key(&self, key: ApiKey) -> Result<Vec<u8>> {
        Ok(self.catalogue().with_key(key)?.encode(self.cursor_key()))
    }

    /// The catalogue without a key, for the ring to agree on.
    ///
    /// # Errors
    /// If there is none of this id.
    pub fn without_key(&self, tenant: Option<TenantId>, id: &str) -> Result<Vec<u8>> {
        Ok(self.catalogue().without_key(tenant, id)?.encode(self.cursor_key()))
    }
}
