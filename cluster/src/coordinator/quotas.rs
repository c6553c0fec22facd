//! What tenants may use, and what they do.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    thread,
    time::{Duration, Instant},
};

use allidb_index::{
    Error, PARTITIONS, Result,
    model::{Quota, TenantId, Usage, Write, Written},
};

use super::{Coordinator, Inner, WriteOptions};

/// How often it is looked which tenants are to be counted, and some is counted again.
const COUNT_EVERY: Duration = Duration::from_secs(1);
/// How long is counted at a stretch.
const STRETCH: Duration = Duration::from_millis(20);
/// So many times as long as counting took nothing is counted then.
const REST: u32 = 9;

/// A tenant, and what it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// Its number.
    pub tenant: TenantId,
    /// How many collections it has.
    pub collections: usize,
    /// How many keys.
    pub keys: usize,
    /// What it may use; `None`: everything.
    pub quota: Option<Quota>,
    /// What it uses, if that is bounded, and known here.
    pub usage: Option<Usage>,
}

impl Coordinator {
    /// Tenants that have collections, keys or a quota, in the order of their numbers.
    pub async fn tenants(&self) -> Vec<Tenant> {
        let quotas = self.quotas().await;
        let replica = &self.0.replica;
        let none = |tenant| Tenant { tenant, collections: 0, keys: 0, quota: None, usage: None };
        let mut tenants = BTreeMap::new();
        for owner in replica.owners_of_collections() {
            tenants.entry(owner).or_insert_with(|| none(owner)).collections += 1;
        }
        for key in replica.keys(None) {
            tenants.entry(key.tenant).or_insert_with(|| none(key.tenant)).keys += 1;
        }
        for (tenant, quota, usage) in quotas {
            let of = tenants.entry(tenant).or_insert_with(|| none(tenant));
            (of.quota, of.usage) = (Some(quota), usage);
        }
        tenants.into_values().collect()
    }

    /// Sets what a tenant may use, at all nodes.
    ///
    /// # Errors
    /// If it is wrong, or there are too many; or too few members can be reached.
    pub async fn set_quota(&self, tenant: TenantId, quota: Quota) -> Result<()> {
        if self.0.is_alone() {
            return self.change(move |replica| replica.set_quota(tenant, quota)).await;
        }
        self.agree(move |replica| replica.with_quota(tenant, quota)).await
    }

    /// What a tenant may use, as far as this node has heard.
    pub fn quota(&self, tenant: TenantId) -> Quota {
        self.0.replica.quota(tenant)
    }

    /// What tenants may use that may not use everything, and what they do as far as that is known here.
    pub async fn quotas(&self) -> Vec<(TenantId, Quota, Option<Usage>)> {
        self.refresh_keys().await;
        let held = self.0.held();
        let quotas = self.0.replica.quotas().into_iter();
        quotas.map(|(tenant, quota)| (tenant, quota, self.0.replica.usage(tenant, &held))).collect()
    }

    /// What a tenant has used up, if anything.
    fn exceeded(&self, tenant: TenantId) -> Option<Error> {
        let quota = self.quota(tenant);
        if !quota.bounds_amounts() {
            return None;
        }
        let (what, used, most) = quota.exceeded(&self.0.replica.usage(tenant, &self.0.held())?)?;
        Some(Error::QuotaExceeded { what, used, most })
    }

    /// Makes writes, each on its own; what adds something is refused to whom has used up a quota. That is looked at once for all of them.
    pub async fn write(
        &self,
        tenant: TenantId,
        writes: Vec<Write>,
        options: WriteOptions,
    ) -> Vec<Result<Written>> {
        let Some(exceeded) = self.exceeded(tenant) else {
            return self.write_all(tenant, writes, options).await;
        };
        let adds: Vec<bool> = writes.iter().map(Write::adds).collect();
        let rest = writes.into_iter().filter(|write| !write.adds()).collect();
        let mut written = self.write_all(tenant, rest, options).await.into_iter();
        let lost = || Err(Error::Internal("a write was left unanswered".to_owned()));
        let answer = |adds| if adds { Err(exceeded.clone()) } else { written.next().unwrap_or_else(lost) };
        adds.into_iter().map(answer).collect()
    }
}

impl Inner {
    /// The partitions that this node holds.
    fn held(&self) -> Vec<u16> {
        let ring = self.ring();
        let (topology, node) = (ring.topology(), ring.node());
        (0..PARTITIONS).filter(|partition| topology.holds(node, *partition)).collect()
    }
}

/// Counts what tenants use whose amounts are bounded, on a thread of its own, until the coordinator is gone.
///
/// # Errors
/// If there can be no thread.
pub(super) fn count_usage(coordinator: &Arc<Inner>) -> Result<()> {
    let weak = Arc::downgrade(coordinator);
    let counting = move || {
        let mut next = 0;
        while let Some(pause) = count_some(&weak, &mut next) {
            thread::sleep(pause);
        }
    };
    let begun = thread::Builder::new().name("usage".to_owned()).spawn(counting);
    begun.map(drop).map_err(|error| Error::Internal(format!("there can be no thread that counts: {error}")))
}

/// Counts what was not counted yet or, if there is nothing, some of it again. Says how long to rest then; `None`: nobody wants to know.
fn count_some(coordinator: &Weak<Inner>, next: &mut usize) -> Option<Duration> {
    let inner = coordinator.upgrade()?;
    let replica = &inner.replica;
    let quotas = replica.quotas().into_iter().filter(|(_, quota)| quota.bounds_amounts());
    let tenants: Vec<TenantId> = quotas.map(|(tenant, _)| tenant).collect();
    replica.count_usage_of(&tenants);
    let held = inner.held();
    let (begun, mut all_known) = (Instant::now(), true);
    let count = |tenant, partition| {
        if let Err(error) = replica.count_usage(tenant, partition) {
            tracing::warn!(%error, partition, "cannot count what a tenant uses");
        }
    };
    for tenant in &tenants {
        for partition in replica.uncounted(*tenant, &held) {
            all_known = false;
            if begun.elapsed() < STRETCH {
                count(*tenant, partition);
            }
        }
    }
    let pairs = if all_known { tenants.len() * held.len() } else { 0 };
    for _ in 0..pairs {
        let (tenant, partition) = (*next / held.len(), *next % held.len());
        *next = (*next + 1) % (tenants.len() * held.len());
        if let (Some(tenant), Some(partition)) = (tenants.get(tenant), held.get(partition)) {
            count(*tenant, *partition);
        }
        if begun.elapsed() >= STRETCH {
            break;
        }
    }
    let rest = begun.elapsed() * REST;
    Some(if all_known { rest.max(COUNT_EVERY) } else { rest })
}
