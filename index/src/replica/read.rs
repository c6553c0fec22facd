//! Reads: entities by id, scans in the order of ids, and counts.

use std::{cmp::Reverse, collections::BinaryHeap, ops::Bound, sync::Arc};

use allidb_storage::{Direction, Scan, Snapshot};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    catalogue::Catalogue,
    codec::{Decoder, put_escaped},
    deadline::Deadline,
    error::{Error, Result},
    filter::Filter,
    model::{Collection, Entity, EntityRef, Limits, ReadMask, TenantId, Timestamp, validate_id},
    placement::PARTITIONS,
    query::Steps,
    replica::{Replica, check_mask},
    row::{
        EntityKey, StoredRow,
        key::{collection_prefix, decode_entity},
    },
    secondary::Planned,
};

/// Entities looked at by one page of a scan: a page may be short where few match.
const MAX_SCANNED: usize = 20_000;
/// How often a long loop looks at the clock.
const DEADLINE_EVERY: usize = 256;

/// Asks for a page of a scan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScanRequest {
    /// The collection's name.
    pub collection: String,
    /// First id, inclusive.
    pub start: Option<String>,
    /// Last id, exclusive.
    pub end: Option<String>,
    /// Only ids that begin so.
    pub prefix: String,
    /// From the last to the first.
    pub reverse: bool,
    /// Only entities that match.
    pub filter: Option<Filter>,
    /// Most entities returned.
    pub limit: usize,
    /// Goes on after (in reverse: before) this id, the last one that the page before looked at.
    pub after: Option<String>,
    /// What of each entity.
    pub read_mask: ReadMask,
}

impl ScanRequest {
    /// The first entities of a collection, in the order of ids, and nothing of them but these.
    pub fn first(collection: impl Into<String>, limit: usize) -> Self {
        Self {
            collection: collection.into(),
            start: None,
            end: None,
            prefix: String::new(),
            reverse: false,
            filter: None,
            limit,
            after: None,
            read_mask: ReadMask::nothing(),
        }
    }
}

impl ScanRequest {
    /// # Errors
    /// If something in it is wrong.
    pub(crate) fn check(
        &self,
        tenant: TenantId,
        catalogue: &Catalogue,
        limits: &Limits,
    ) -> Result<Arc<Collection>> {
        if let Some(filter) = &self.filter {
            filter.validate("filter", limits)?;
        }
        if self.limit == 0 || self.limit > limits.page_size {
            let why = format!("is {}; it must be 1 to {}", self.limit, limits.page_size);
            return Err(Error::invalid("page_size", why));
        }
        let collection = Arc::clone(catalogue.get(tenant, &self.collection)?);
        check_mask(&self.read_mask, &collection)?;
        Ok(collection)
    }
}

/// What a page holds.
#[derive(Clone, Debug, Default)]
pub struct ScanPage {
    /// In the order asked for.
    pub entities: Vec<Entity>,
    /// Where the next page goes on; `None` at the end.
    pub next: Option<String>,
}

/// The store at one moment, as one request sees it.
pub(crate) struct Reader<'a> {
    pub(crate) replica: &'a Replica,
    pub(crate) snapshot: Snapshot,
    pub(crate) catalogue: Arc<Catalogue>,
    pub(crate) tenant: TenantId,
    pub(crate) now: Timestamp,
    /// What was done, if anybody wants to know.
    pub(crate) steps: Steps,
}

impl Replica {
    pub(crate) fn reader(&self, tenant: TenantId) -> Reader<'_> {
        let (snapshot, catalogue) = (self.engine.snapshot(), self.catalogue());
        let (now, steps) = (self.clock.wall().now(), Steps::default());
        Reader { replica: self, snapshot, catalogue, tenant, now, steps }
    }

    /// Each reference is answered by itself, all at one moment.
    #[tracing::instrument(level = "debug", skip_all, fields(entities = refs.len()))]
    pub fn get(
        &self,
        tenant: TenantId,
        refs: &[EntityRef],
        mask: &ReadMask,
        deadline: Deadline,
    ) -> Vec<Result<Entity>> {
        let reader = self.reader(tenant);
        let mut bytes = 0;
        let get = |entity: &EntityRef| {
            deadline.check()?;
            check_answer(bytes, self.limits.answer_bytes)?;
            validate_id("ref.id", &entity.id)?;
            let collection = reader.catalogue.get(tenant, &entity.collection)?;
            check_mask(mask, collection)?;
            let key = EntityKey::new(tenant, collection.id, &entity.id);
            let found = reader.entity(&key, collection, mask)?;
            let (collection, id) = (entity.collection.clone(), entity.id.clone());
            bytes += found.as_ref().map_or(0, Entity::bytes);
            found.ok_or(Error::NotFound { collection, id })
        };
        refs.iter().map(get).collect()
    }

    /// A page of a collection in the order of ids.
    #[tracing::instrument(level = "debug", skip_all)]
    pub fn scan(&self, tenant: TenantId, request: &ScanRequest, deadline: Deadline) -> Result<ScanPage> {
        let reader = self.reader(tenant);
        let collection = request.check(tenant, &reader.catalogue, &self.limits)?;
        let mut page = ScanPage::default();
        let mut last = None;
        let mut answer_bytes = 0;
        let planned = match &request.filter {
            Some(filter) => reader.plan_in_order(&collection, filter, request.limit)?,
            None => None,
        };
        let rows = reader.first_rows(&collection, request, planned.as_ref(), deadline)?;
        for (looked_at, row) in rows.enumerate() {
            // The most that one entity more can bring still fits.
            let is_full =
                answer_bytes > 0 && answer_bytes + self.limits.entity_bytes > self.limits.answer_bytes;
            if page.entities.len() == request.limit || looked_at == MAX_SCANNED || is_full {
                page.next = last;
                break;
            }
            if looked_at % DEADLINE_EVERY == 0 {
                deadline.check()?;
            }
            let (id, bytes) = row?;
            let key = EntityKey { tenant, collection: collection.id, id };
            let row = decode_row(&key, bytes)?;
            if row.is_live(reader.now) && reader.passes(&key, &row, request.filter.as_ref(), deadline)? {
                let entity = reader.materialise(&key, &row, &collection, &request.read_mask)?;
                answer_bytes += entity.bytes();
                page.entities.push(entity);
            }
            last = Some(key.id);
        }
        Ok(page)
    }

    /// How many entities there are, or match.
    #[tracing::instrument(level = "debug", skip_all)]
    pub fn count(
        &self,
        tenant: TenantId,
        collection: &str,
        filter: Option<&Filter>,
        deadline: Deadline,
    ) -> Result<u64> {
        if let Some(filter) = filter {
            filter.validate("filter", &self.limits)?;
        }
        let reader = self.reader(tenant);
        let collection = reader.catalogue.get(tenant, collection)?;
        if let Some(filter) = filter
            && let Some(count) = reader.count_by_index(collection, filter, deadline)?
        {
            return Ok(count);
        }
        let collection = collection.id;
        let mut count = 0;
        for partition in 0..PARTITIONS {
            let prefix = collection_prefix(partition, tenant, collection);
            let rows = reader.snapshot.prefix(self.keyspaces.entity, &prefix, Direction::Forward)?;
            for (looked_at, row) in rows.enumerate() {
                if looked_at % DEADLINE_EVERY == 0 {
                    deadline.check()?;
                }
                let (key, bytes) = row?;
                let decoded = decode_entity(&mut Decoder::new(&key));
                let entity = decoded.map_err(|error| Error::corrupt("entity", &key, error))?;
                let row = decode_row(&entity, bytes)?;
                if row.is_live(reader.now) && reader.passes(&entity, &row, filter, deadline)? {
                    count += 1;
                }
            }
        }
        Ok(count)
    }
}

impl Replica {
    /// An answer that already holds too much takes no more.
    ///
    /// # Errors
    /// If it holds more than [`Limits::answer_bytes`](crate::model::Limits::answer_bytes).
    pub fn check_answer(&self, bytes: usize) -> Result<()> {
        check_answer(bytes, self.limits.answer_bytes)
    }
}

/// An answer that already holds too much takes no more.
pub(crate) fn check_answer(bytes: usize, limit: usize) -> Result<()> {
    if bytes > limit {
        return Err(Error::Exhausted(format!(
            "the answer would be larger than {limit} bytes; ask for less at a time"
        )));
    }
    Ok(())
}

pub(crate) fn decode_row(key: &EntityKey, bytes: Bytes) -> Result<StoredRow> {
    StoredRow::new(bytes).map_err(|error| Error::corrupt("entity", &key.prefix(), error))
}

impl Reader<'_> {
    /// The entity row, if there is one; the entity may still be expired or merely an end of edges.
    pub(crate) fn row(&self, key: &EntityKey) -> Result<Option<StoredRow>> {
        let bytes = self.snapshot.get(self.replica.keyspaces.entity, &key.prefix())?;
        bytes.map(|bytes| decode_row(key, bytes)).transpose()
    }

    /// The entity that is meant by a name, if it is there.
    pub(crate) fn entity(
        &self,
        key: &EntityKey,
        collection: &Collection,
        mask: &ReadMask,
    ) -> Result<Option<Entity>> {
        match self.row(key)? {
            Some(row) if row.is_live(self.now) => self.materialise(key, &row, collection, mask).map(Some),
            Some(row) if row.alias().is_some() => self.entity(&self.meant(key.clone())?, collection, mask),
            _ => Ok(None),
        }
    }

    /// The entity as far as its row tells.
    pub(crate) fn fields(&self, key: &EntityKey, row: &StoredRow, mask: &ReadMask) -> Result<Entity> {
        row.entity(&key.id, mask).map_err(|error| Error::corrupt("entity", &key.prefix(), error))
    }

    /// Whether the filter, if there is one, matches the entity. One row may take long where texts are.
    ///
    /// # Errors
    /// If the row is damaged, or the deadline has passed.
    pub(crate) fn passes(
        &self,
        key: &EntityKey,
        row: &StoredRow,
        filter: Option<&Filter>,
        deadline: Deadline,
    ) -> Result<bool> {
        let Some(filter) = filter else { return Ok(true) };
        deadline.check()?;
        let entity = self.fields(key, row, &filter.read_mask())?;
        Ok(match self.catalogue.by_id(key.collection) {
            Some(collection) => filter.matches(&entity, &collection.text),
            None => false,
        })
    }

    /// The entity rows that a scan looks at: those that a plan names, or all.
    pub(crate) fn first_rows<'a>(
        &'a self,
        collection: &Collection,
        request: &ScanRequest,
        planned: Option<&Planned>,
        deadline: Deadline,
    ) -> Result<RowsInOrder<'a>> {
        let Some(planned) = planned else { return Ok(Box::new(self.rows_by_id(collection, request)?)) };
        let Some(bounds) = id_bounds(request) else { return Ok(Box::new(std::iter::empty())) };
        let mut ids = self.ids_named(collection, planned, &bounds, deadline)?;
        if request.reverse {
            ids.reverse();
        }
        Ok(Box::new(self.rows_named(collection.id, ids)))
    }

    /// The entity rows of a collection in the order of ids: a merge over the partitions.
    pub(crate) fn rows_by_id(&self, collection: &Collection, request: &ScanRequest) -> Result<RowsById> {
        let direction = if request.reverse { Direction::Reverse } else { Direction::Forward };
        let mut merge = RowsById { scans: Vec::new(), heads: BinaryHeap::new(), reverse: request.reverse };
        let Some((lower, upper)) = id_bounds(request) else { return Ok(merge) };
        for partition in 0..PARTITIONS {
            let prefix = collection_prefix(partition, self.tenant, collection.id);
            let after_prefix =
                collection_prefix(partition, self.tenant, crate::model::CollectionId(collection.id.0 + 1));
            let bound = |id: &Bound<String>, open: &[u8]| match id {
                Bound::Unbounded => open.to_vec(),
                Bound::Included(id) | Bound::Excluded(id) => {
                    let mut key = prefix.clone();
                    put_escaped(&mut key, id);
                    key
                }
            };
            let low = bound(&lower, &prefix);
            let high = bound(&upper, &after_prefix);
            let low = if matches!(lower, Bound::Excluded(_)) {
                Bound::Excluded(&low[..])
            } else {
                Bound::Included(&low[..])
            };
            let scan = self.snapshot.scan(
                self.replica.keyspaces.entity,
                low,
                Bound::Excluded(&high[..]),
                direction,
            )?;
            merge.scans.push(scan);
            merge.pull(merge.scans.len() - 1)?;
        }
        Ok(merge)
    }
}

/// The ids that a scan asks for; `None` if there can be none. The upper bound is exclusive.
fn id_bounds(request: &ScanRequest) -> Option<(Bound<String>, Bound<String>)> {
    let mut lower = match &request.start {
        Some(start) => Bound::Included(start.clone()),
        None => Bound::Unbounded,
    };
    let mut upper = request.end.clone();
    if !request.prefix.is_empty() {
        if request.start.as_ref().is_none_or(|start| *start < request.prefix) {
            lower = Bound::Included(request.prefix.clone());
        }
        if let Some(beyond) = successor(&request.prefix) {
            upper = Some(upper.map_or(beyond.clone(), |end| end.min(beyond)));
        }
    }
    if let Some(after) = &request.after {
        if request.reverse {
            upper = Some(upper.map_or(after.clone(), |end| end.min(after.clone())));
        } else {
            lower = Bound::Excluded(after.clone());
        }
    }
    if let (Bound::Included(low) | Bound::Excluded(low), Some(high)) = (&lower, &upper)
        && low >= high
    {
        return None;
    }
    Some((lower, upper.map_or(Bound::Unbounded, Bound::Excluded)))
}

/// The least text above every text that begins with `prefix`; `None` if there is none. UTF-8 sorts as its
/// characters do.
fn successor(prefix: &str) -> Option<String> {
    let mut chars: Vec<char> = prefix.chars().collect();
    while let Some(last) = chars.pop() {
        if let Some(next) = (u32::from(last) + 1..=u32::from(char::MAX)).find_map(char::from_u32) {
            chars.push(next);
            return Some(chars.into_iter().collect());
        }
    }
    None
}

/// Ids and entity rows, in the order of ids or in reverse.
pub(crate) type RowsInOrder<'a> = Box<dyn Iterator<Item = Result<(String, Bytes)>> + 'a>;

/// Entity rows in the order of ids, or in reverse.
pub(crate) struct RowsById {
    scans: Vec<Scan>,
    heads: BinaryHeap<Head>,
    reverse: bool,
}

/// The next row of one partition. Orders so that the next row of all is the greatest.
struct Head {
    order: HeadOrder,
    scan: usize,
    value: Bytes,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum HeadOrder {
    Forward(Reverse<String>),
    Backward(String),
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}
impl Eq for Head {}
impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Head {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.order.cmp(&other.order)
    }
}

impl RowsById {
    fn pull(&mut self, scan: usize) -> Result<()> {
        if let Some(row) = self.scans[scan].next() {
            let (key, value) = row?;
            let decoded = decode_entity(&mut Decoder::new(&key));
            let id = decoded.map_err(|error| Error::corrupt("entity", &key, error))?.id;
            let order = if self.reverse { HeadOrder::Backward(id) } else { HeadOrder::Forward(Reverse(id)) };
            self.heads.push(Head { order, scan, value });
        }
        Ok(())
    }
}

impl Iterator for RowsById {
    type Item = Result<(String, Bytes)>;

    fn next(&mut self) -> Option<Self::Item> {
        let Head { order, scan, value } = self.heads.pop()?;
        let (HeadOrder::Forward(Reverse(id)) | HeadOrder::Backward(id)) = order;
        Some(self.pull(scan).map(|()| (id, value)))
    }
}

#[cfg(test)]
mod tests {
    use super::successor;

    #[test]
    fn a_successor_is_just_above_everything_with_the_prefix() {
        assert_eq!(successor("ab").as_deref(), Some("ac"));
        assert_eq!(successor("a\u{10ffff}").as_deref(), Some("b"));
        assert_eq!(successor("\u{d7ff}").as_deref(), Some("\u{e000}"));
        assert_eq!(successor("\u{10ffff}"), None);
        assert_eq!(successor(""), None);
    }
}
