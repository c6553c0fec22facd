//! Keys of callers.

use std::{sync::Arc, time::Duration};

use allidb_index::{
    Deadline, Result,
    model::{ApiKey, TenantId},
};

use super::Coordinator;

/// How long others may take to tell of keys that this node has not heard of.
const REFRESH: Duration = Duration::from_secs(2);

impl Coordinator {
    /// Keeps a key, on a quorum of the members.
    ///
    /// # Errors
    /// If its id is taken, or its name is none, or there are too many; or too few members can be reached.
    pub async fn create_key(&self, key: ApiKey) -> Result<()> {
        if self.0.is_alone() {
            return self.change(move |replica| replica.create_key(key)).await;
        }
        self.agree(move |replica| replica.with_key(key.clone())).await
    }

    /// Forgets a key of this tenant, or whosesoever it is. Here it is good for nothing any more; other nodes hear of it within seconds.
    ///
    /// # Errors
    /// If there is none of this id, or too few members can be reached.
    pub async fn revoke_key(&self, tenant: Option<TenantId>, id: &str) -> Result<()> {
        let id = id.to_owned();
        if self.0.is_alone() {
            return self.change(move |replica| replica.revoke_key(tenant, &id)).await;
        }
        self.agree(move |replica| replica.without_key(tenant, &id)).await
    }

    /// The key of this id, as far as this node has heard: it may have expired.
    pub fn key(&self, id: &str) -> Option<Arc<ApiKey>> {
        self.0.replica.key(id)
    }

    /// Keys of a tenant, or of all, in the order of their ids.
    pub async fn keys(&self, tenant: Option<TenantId>) -> Vec<Arc<ApiKey>> {
        self.refresh_keys().await;
        self.0.replica.keys(tenant)
    }

    /// Asks others whether they know of more, or of fewer. Says whether they do.
    pub async fn refresh_keys(&self) -> bool {
        !self.0.is_alone() && self.0.ring().refresh_catalogue(Deadline::after(REFRESH)).await
    }
}
