//! Collections: made, changed, dropped and told.

use std::{sync::Arc, time::Duration};

use allidb_index::{
    Deadline, Replica, Result,
    model::{Collection, CollectionChange, CollectionSet, CollectionSpec, TenantId},
};

use super::Coordinator;

/// How long nodes may take to agree on a change of the catalogue.
const AGREEMENT: Duration = Duration::from_secs(10);

/// How long others may take to tell of collections that this node has not heard of.
const REFRESH: Duration = Duration::from_secs(2);

impl Coordinator {
    /// Creates a collection.
    pub async fn create_collection(
        &self,
        tenant: TenantId,
        name: &str,
        spec: CollectionSpec,
    ) -> Result<Arc<Collection>> {
        let name = name.to_owned();
        if self.0.is_alone() {
            return self.change(move |replica| replica.create_collection(tenant, &name, spec)).await;
        }
        let created = name.clone();
        self.agree(move |replica| replica.with_created(tenant, &name, spec.clone())).await?;
        self.collection(tenant, &created).await
    }

    /// The collection of this name.
    pub async fn collection(&self, tenant: TenantId, name: &str) -> Result<Arc<Collection>> {
        if !self.0.is_alone() {
            self.know(tenant, std::iter::once(name), Deadline::after(REFRESH)).await;
        }
        let (replica, name) = (Arc::clone(&self.0.replica), name.to_owned());
        self.0.gets.run(move || replica.collection(tenant, &name)).await?
    }

    /// Those of some collections that are there, in the order of their names, those after `after`, `limit` at most.
    pub async fn collections(
        &self,
        tenant: TenantId,
        among: CollectionSet,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Arc<Collection>>> {
        if !self.0.is_alone() {
            // What was made is listed, if others can be asked.
            self.0.ring().refresh_catalogue(Deadline::after(REFRESH)).await;
        }
        let (replica, after) = (Arc::clone(&self.0.replica), after.map(str::to_owned));
        self.0.gets.run(move || replica.collections(tenant, &among, after.as_deref(), limit)).await
    }

    /// Changes a collection's spaces, aliases and indexes, all or none.
    pub async fn update_collection(
        &self,
        tenant: TenantId,
        name: &str,
        change: CollectionChange,
    ) -> Result<Arc<Collection>> {
        let name = name.to_owned();
        if self.0.is_alone() {
            return self.change(move |replica| replica.update_collection(tenant, &name, change)).await;
        }
        let updated = name.clone();
        self.agree(move |replica| replica.with_updated(tenant, &name, change.clone())).await?;
        self.collection(tenant, &updated).await
    }

    /// Drops a collection with everything in it.
    pub async fn drop_collection(&self, tenant: TenantId, name: &str) -> Result<()> {
        let name = name.to_owned();
        if self.0.is_alone() {
            return self.change(move |replica| replica.drop_collection(tenant, &name)).await;
        }
        self.agree(move |replica| replica.with_dropped(tenant, &name)).await
    }

    /// Changes the catalogue of the ring.
    pub(super) async fn agree(
        &self,
        change: impl Fn(&Replica) -> Result<Vec<u8>> + Clone + Send + 'static,
    ) -> Result<()> {
        self.0.ring().change_catalogue(Deadline::after(AGREEMENT), change).await
    }

    pub(super) async fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&Arc<Replica>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let replica = Arc::clone(&self.0.replica);
        self.0.writes.run(move || change(&replica)).await?
    }
}
