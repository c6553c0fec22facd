//! How much tenants use, of whom a quota bounds that: counted partition by partition, again and again, and followed with every write in between.

use std::{collections::HashMap, sync::Arc};

use allidb_storage::{Direction, Snapshot};
use parking_lot::{Mutex, RwLock};

use super::{Replica, derive::there, loaded::Loaded};
use crate::{
    codec::Decoder,
    error::{Error, Result},
    merkle::{Kind, cleared},
    model::{Quota, TenantId, Usage},
    placement::PARTITIONS,
    row::{
        EntityKey, EntityRow, encode_register,
        key::{collection_prefix, decode_entity},
        register_is_live, register_version,
    },
};

/// What there is of a tenant in a partition, or what a write makes of that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Amounts {
    entities: i64,
    vectors: i64,
    bytes: i64,
}

impl Amounts {
    fn add(&mut self, other: Self) {
        self.entities += other.entities;
        self.vectors += other.vectors;
        self.bytes += other.bytes;
    }
}

fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// What is known of a partition.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// What there is, once that was counted.
    there: Option<Amounts>,
    /// What was written since it was begun to count.
    since: Amounts,
    /// It was made less by more than writes, and is to be counted soon.
    is_stale: bool,
}

/// Of each partition what is known.
type Counted = Mutex<Vec<Known>>;

/// What tenants use whose amounts are counted.
#[derive(Debug, Default)]
pub(super) struct UsageCounts(RwLock<HashMap<TenantId, Arc<Counted>>>);

impl UsageCounts {
    fn of(&self, tenant: TenantId) -> Option<Arc<Counted>> {
        self.0.read().get(&tenant).cloned()
    }

    /// Collections of these went, with all that was in them.
    pub(super) fn forget_dropped(&self, tenants: impl Iterator<Item = TenantId>) {
        for counted in tenants.filter_map(|tenant| self.of(tenant)) {
            counted.lock().iter_mut().for_each(|known| known.is_stale = true);
        }
    }

    /// A write is made.
    pub(super) fn follow(&self, changes: Vec<(TenantId, u16, Amounts)>) {
        for (tenant, partition, amounts) in changes {
            let Some(counted) = self.of(tenant) else { continue };
            if let Some(known) = counted.lock().get_mut(usize::from(partition)) {
                known.since.add(amounts);
                known.there.iter_mut().for_each(|there| there.add(amounts));
            }
        }
    }

    /// What a write makes of an entity; `None` if nobody counts.
    pub(super) fn change(&self, entity: &EntityKey, loaded: &Loaded) -> Option<(TenantId, u16, Amounts)> {
        self.of(entity.tenant)?;
        let Loaded { before, after, .. } = loaded;
        let row = |row: &EntityRow| match row.exists() {
            true => signed(entity.prefix().len() + row.encode().len()),
            false => 0,
        };
        let mut amounts = Amounts {
            entities: i64::from(after.row.exists()) - i64::from(before.row.exists()),
            vectors: signed(there(&after.vectors).count()) - signed(there(&before.vectors).count()),
            bytes: row(&after.row) - row(&before.row),
        };
        for (state, sign) in [(after, 1), (before, -1)] {
            let chunks = state.chunks.iter().filter(|(_, register)| register.value.is_some());
            let chunks =
                chunks.map(|(key, register)| entity.chunk(key).len() + encode_register(register).len());
            let vectors = state.vectors.iter().filter(|(_, register)| register.value.is_some());
            let vectors =
                vectors.map(|(key, register)| entity.vector(key).len() + encode_register(register).len());
            amounts.bytes += sign * signed(chunks.chain(vectors).sum());
        }
        Some((entity.tenant, entity.partition(), amounts))
    }
}

impl Replica {
    /// What tenants may use, of those that may not use everything.
    pub fn quotas(&self) -> Vec<(TenantId, Quota)> {
        self.catalogue().quotas().collect()
    }

    /// What a tenant may use.
    pub fn quota(&self, tenant: TenantId) -> Quota {
        self.catalogue().quota(tenant)
    }

    /// Sets what a tenant may use.
    ///
    /// # Errors
    /// If it is wrong, or there are too many; if it cannot be written.
    pub fn set_quota(self: &Arc<Self>, tenant: TenantId, quota: Quota) -> Result<()> {
        let _change = self.catalogue_change.lock();
        self.install(self.catalogue().with_quota(tenant, quota)?, &[], None)
    }

    /// The catalogue with what a tenant may use, for the ring to agree on.
    ///
    /// # Errors
    /// As [`set_quota`](Self::set_quota).
    pub fn with_quota(&self, tenant: TenantId, quota: Quota) -> Result<Vec<u8>> {
        Ok(self.catalogue().with_quota(tenant, quota)?.encode(self.cursor_key()))
    }

    /// Counts from now on what these tenants use, and no others.
    pub fn count_usage_of(&self, tenants: &[TenantId]) {
        let mut counted = self.usage.0.write();
        counted.retain(|tenant, _| tenants.contains(tenant));
        for tenant in tenants {
            let nothing = || Arc::new(Mutex::new(vec![Known::default(); usize::from(PARTITIONS)]));
            counted.entry(*tenant).or_insert_with(nothing);
        }
    }

    /// Counts what a tenant uses of a partition. What is written just then may count twice, until it is counted again.
    ///
    /// # Errors
    /// If a row cannot be read, or the replica is closing.
    pub fn count_usage(&self, tenant: TenantId, partition: u16) -> Result<()> {
        let Some(counted) = self.usage.of(tenant) else { return Ok(()) };
        let place = usize::from(partition);
        // Writes are followed from before the snapshot on.
        if let Some(known) = counted.lock().get_mut(place) {
            known.since = Amounts::default();
            known.is_stale = false;
        }
        let mut there = self.amounts(&self.engine.snapshot(), tenant, partition)?;
        if let Some(known) = counted.lock().get_mut(place) {
            there.add(known.since);
            known.there = Some(there);
        }
        Ok(())
    }

    fn amounts(&self, snapshot: &Snapshot, tenant: TenantId, partition: u16) -> Result<Amounts> {
        let mut amounts = Amounts::default();
        for (_, collection) in self.catalogue().owned().filter(|(owner, _)| *owner == tenant) {
            let prefix = collection_prefix(partition, tenant, collection.id);
            for row in snapshot.prefix(self.keyspaces.entity, &prefix, Direction::Forward)? {
                self.check_open()?;
                let (key, bytes) = row?;
                let row = EntityRow::decode(&bytes).map_err(|error| Error::corrupt("entity", &key, error))?;
                if row.exists() {
                    amounts.entities += 1;
                    amounts.bytes += signed(key.len() + bytes.len());
                }
            }
            for (kind, keyspace, name) in self.kinds() {
                // An edge counts where it begins.
                if kind == Kind::EdgeIn {
                    continue;
                }
                // Rows of an entity are neighbours.
                let mut of: Option<(EntityKey, EntityRow)> = None;
                for row in snapshot.prefix(keyspace, &prefix, Direction::Forward)? {
                    self.check_open()?;
                    let (key, bytes) = row?;
                    let corrupt = |error| Error::corrupt(name, &key, error);
                    let entity = decode_entity(&mut Decoder::new(&key)).map_err(corrupt)?;
                    let its_row = match of.take().filter(|(of, _)| *of == entity) {
                        Some((_, row)) => row,
                        None => self.row_of(snapshot, &entity)?,
                    };
                    let version = register_version(&bytes).map_err(corrupt)?;
                    if its_row.exists() && register_is_live(&bytes) && version > cleared(&its_row, kind) {
                        amounts.vectors += i64::from(kind == Kind::Vector);
                        amounts.bytes += signed(key.len() + bytes.len());
                    }
                    of = Some((entity, its_row));
                }
            }
        }
        Ok(amounts)
    }

    /// About what a tenant uses of all partitions, by those of these that were counted: entities are spread over partitions by hash. `None` if
    /// none of these was.
    pub fn usage(&self, tenant: TenantId, partitions: &[u16]) -> Option<Usage> {
        let counted = self.usage.of(tenant)?;
        let counted = counted.lock();
        let (mut total, mut seen) = (Amounts::default(), 0_i128);
        for partition in partitions {
            if let Some(amounts) = counted.get(usize::from(*partition)).and_then(|known| known.there) {
                total.add(amounts);
                seen += 1;
            }
        }
        if seen == 0 {
            return None;
        }
        let of_all = |count: i64| {
            let of_all = i128::from(count.max(0)) * i128::from(PARTITIONS) / seen;
            u64::try_from(of_all).unwrap_or(u64::MAX)
        };
        let (entities, vectors, bytes) = (of_all(total.entities), of_all(total.vectors), of_all(total.bytes));
        Some(Usage { entities, vectors, bytes })
    }

    /// Partitions of these of which too little is known of a tenant.
    pub fn uncounted(&self, tenant: TenantId, partitions: &[u16]) -> Vec<u16> {
        let Some(counted) = self.usage.of(tenant) else { return Vec::new() };
        let counted = counted.lock();
        let is_unknown = |partition: &u16| {
            counted.get(usize::from(*partition)).is_some_and(|known| known.there.is_none() || known.is_stale)
        };
        partitions.iter().copied().filter(is_unknown).collect()
    }
}
