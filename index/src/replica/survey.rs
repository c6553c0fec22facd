//! What a node knows of whole partitions of a collection: how many entities, of which kinds, and whether other nodes hold the same.

use allidb_storage::Direction;
use bytes::Bytes;
use foldhash::{HashMap, HashMapExt};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::{Reader, Replica, ScanRequest, decode_row};
use crate::{
    codec::Decoder,
    deadline::Deadline,
    error::{Error, Result},
    filter::{Field, Filter},
    merge::EntityState,
    model::{Collection, TenantId},
    row::{
        EntityKey, StoredRow,
        key::{collection_prefix, decode_entity},
    },
    secondary::FacetCounts,
};

/// Rows between two looks at the clock.
const DEADLINE_EVERY: usize = 256;
/// Ids that are told at once at most, and entities looked at for them.
const MAX_IDS: usize = 10_000;
const MAX_LOOKED_AT: usize = 20_000;

/// Asks how many entities there are in some partitions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TallyRequest {
    /// The collection's name.
    pub collection: String,
    /// Only those that match are counted.
    pub filter: Option<Filter>,
    /// Where.
    pub partitions: Vec<u16>,
    /// Whether what all of them hold is compared.
    pub digests: bool,
}

/// How many entities there are in a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Those that match.
    pub count: u64,
    /// Of the rows of all that are there, matching or not, whatever their order.
    pub digest: u128,
}

/// Asks which entities there are in some partitions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RosterRequest {
    /// The collection's name.
    pub collection: String,
    /// Where.
    pub partitions: Vec<u16>,
}

/// An entity that is there, and a hash of its row.
pub type Present = (EntityKey, u64);

/// Asks for the next ids of a scan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IdsRequest(pub ScanRequest);

/// The next ids of a scan, as one node has them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct IdsPage {
    /// In the order of the scan.
    pub ids: Vec<String>,
    /// The last that was looked at, if there are more.
    pub until: Option<String>,
}

/// Asks how often values occur in some partitions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FacetCountsRequest {
    /// The collection's name.
    pub collection: String,
    /// Whose values.
    pub fields: Vec<Field>,
    /// Only of entities that match.
    pub filter: Option<Filter>,
    /// Where.
    pub partitions: Vec<u16>,
}

impl Replica {
    /// How many entities there are in each of the partitions.
    ///
    /// # Errors
    /// If the filter is wrong, or a row cannot be read.
    pub fn tallies(
        &self,
        tenant: TenantId,
        request: &TallyRequest,
        deadline: Deadline,
    ) -> Result<Vec<Tally>> {
        let reader = self.reader(tenant);
        let collection = reader.catalogue.get(tenant, &request.collection)?;
        let filter = request.filter.as_ref();
        if let Some(filter) = filter {
            filter.validate("filter", self.limits())?;
        }
        let tally = |partition: &u16| {
            let mut tally = Tally::default();
            reader.each_live(collection, *partition, deadline, &mut |key, row| {
                if request.digests {
                    let mut hasher = Xxh3::new();
                    hasher.update(key.id.as_bytes());
                    hasher.update(row.bytes());
                    tally.digest = tally.digest.wrapping_add(hasher.digest128());
                }
                tally.count += u64::from(reader.passes(&key, row, filter, deadline)?);
                Ok(())
            })?;
            Ok(tally)
        };
        request.partitions.iter().map(tally).collect()
    }

    /// Which entities there are in each of the partitions, in the order of their ids.
    ///
    /// # Errors
    /// If a row cannot be read.
    pub fn rosters(
        &self,
        tenant: TenantId,
        request: &RosterRequest,
        deadline: Deadline,
    ) -> Result<Vec<Vec<Present>>> {
        let reader = self.reader(tenant);
        let collection = reader.catalogue.get(tenant, &request.collection)?;
        let roster = |partition: &u16| {
            let mut roster = Vec::new();
            reader.each_live(collection, *partition, deadline, &mut |key, row| {
                roster.push((key, xxh3_64(row.bytes())));
                Ok(())
            })?;
            Ok(roster)
        };
        request.partitions.iter().map(roster).collect()
    }

    /// The next ids of a scan.
    ///
    /// # Errors
    /// If something in it is wrong, or a row cannot be read.
    pub fn ids(
        &self,
        tenant: TenantId,
        IdsRequest(request): &IdsRequest,
        deadline: Deadline,
    ) -> Result<IdsPage> {
        let reader = self.reader(tenant);
        let collection = reader.catalogue.get(tenant, &request.collection)?;
        let limit = request.limit.min(MAX_IDS);
        let filter = request.filter.as_ref();
        let planned = match filter {
            Some(filter) => reader.plan_in_order(collection, filter, limit)?,
            None => None,
        };
        let mut page = IdsPage::default();
        let mut last = None;
        let rows = reader.first_rows(collection, request, planned.as_ref(), deadline)?;
        for (looked_at, row) in rows.enumerate() {
            if page.ids.len() == limit || looked_at == MAX_LOOKED_AT {
                page.until = last;
                break;
            }
            if looked_at % DEADLINE_EVERY == 0 {
                deadline.check()?;
            }
            let (id, bytes) = row?;
            let key = EntityKey { tenant, collection: collection.id, id };
            let row = decode_row(&key, bytes)?;
            last = Some(key.id.clone());
            // What has expired as far as this node knows may have been given longer to live.
            if row.exists() && reader.passes(&key, &row, filter, deadline)? {
                page.ids.push(key.id);
            }
        }
        Ok(page)
    }

    /// How often values occur in the partitions.
    ///
    /// # Errors
    /// If there are too many different ones, or a row cannot be read.
    pub fn facet_counts(
        &self,
        tenant: TenantId,
        request: &FacetCountsRequest,
        deadline: Deadline,
    ) -> Result<Vec<FacetCounts>> {
        let reader = self.reader(tenant);
        let collection = reader.catalogue.get(tenant, &request.collection)?;
        let fields: Vec<&Field> = request.fields.iter().collect();
        let partitions = request.partitions.iter().copied();
        reader.count_values(collection, &fields, request.filter.as_ref(), partitions, deadline)
    }

    /// # Errors
    /// If something in a request for a scan is wrong.
    pub fn check_scan(&self, tenant: TenantId, request: &ScanRequest) -> Result<()> {
        request.check(tenant, &self.catalogue(), self.limits()).map(drop)
    }

    /// Whether an entity that several replicas hold together is there and meets a filter.
    ///
    /// # Errors
    /// If its row cannot be read.
    pub fn state_passes(
        &self,
        key: &EntityKey,
        state: &EntityState,
        filter: Option<&Filter>,
    ) -> Result<bool> {
        let Some(filter) = filter else { return Ok(self.is_live(state)) };
        let Some(collection) = self.catalogue().by_id(key.collection).cloned() else { return Ok(false) };
        match self.entity_of(key, state, &filter.read_mask()) {
            Ok(entity) => Ok(filter.matches(&entity, &collection.text)),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Reader<'_> {
    /// Calls `each` with the entities of a partition that are there, in the order of their ids.
    fn each_live(
        &self,
        collection: &Collection,
        partition: u16,
        deadline: Deadline,
        each: &mut dyn FnMut(EntityKey, &StoredRow) -> Result<()>,
    ) -> Result<()> {
        let prefix = collection_prefix(partition, self.tenant, collection.id);
        let rows = self.snapshot.prefix(self.replica.keyspaces.entity, &prefix, Direction::Forward)?;
        for (looked_at, row) in rows.enumerate() {
            if looked_at % DEADLINE_EVERY == 0 {
                deadline.check()?;
            }
            let (key, bytes): (_, Bytes) = row?;
            let decoded = decode_entity(&mut Decoder::new(&key));
            let key = decoded.map_err(|error| Error::corrupt("entity", &key, error))?;
            let row = decode_row(&key, bytes)?;
            if row.is_live(self.now) {
                each(key, &row)?;
            }
        }
        Ok(())
    }
}

/// The entities of a partition of which nodes tell differently: missing here or there, or with other rows.
pub fn disputed(rosters: &[Vec<Present>]) -> Vec<EntityKey> {
    let mut told: HashMap<&EntityKey, (u64, usize)> = HashMap::new();
    let mut disputed: Vec<EntityKey> = Vec::new();
    for (entity, hash) in rosters.iter().flatten() {
        let (first, count) = told.entry(entity).or_insert((*hash, 0));
        *count += 1;
        if first != hash {
            disputed.push(entity.clone());
        }
    }
    let is_missing = told.into_iter().filter(|(_, (_, count))| *count < rosters.len());
    disputed.extend(is_missing.map(|(entity, _)| entity.clone()));
    disputed.sort_unstable();
    disputed.dedup();
    disputed
}
