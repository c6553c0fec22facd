//! Keys of callers.

use std::{sync::Arc, time::Duration};

use allidb_index::{
    Deadline, Result,
    model::{ApiKey, TenantId, Timestamp},
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

    /// Notes that a key is used here.
    pub fn note_key_use(&self, id: &str, at: Timestamp) {
        self.0.replica.note_key_use(id, at);
    }

    /// When a key was used last at any node, as far as this one has heard.
    pub fn key_used_at(&self, id: &str) -> Option<Timestamp> {
        self.0.replica.key_used_at(id)
    }

    /// Tells other nodes when keys were used here, and hears the same of them.
    pub async fn exchange_key_uses(&self) {
        if !self.0.is_alone() {
            self.0.ring().exchange_key_uses(Deadline::after(REFRESH)).await;
        }
    }

    /// Keeps for the next start when keys were used, as far as this node has heard.
    ///
    /// # Errors
    /// If that cannot be written.
    pub async fn keep_key_uses(&self) -> Result<()> {
        let replica = Arc::clone(&self.0.replica);
        self.0.chores.run(move || replica.keep_key_uses()).await?
    }

    /// Asks others whether they know of more, or of fewer. Says whether they do.
    pub async fn refresh_keys(&self) -> bool {
        !self.0.is_alone() && self.0.ring().refresh_catalogue(Deadline::after(REFRESH)).await
    }
}
