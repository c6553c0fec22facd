//! Deleting many entities at a time: those that match, and what came from a source.
//!
//! What is deleted is found in pages, and decided again under the latch of each entity, so that nothing goes that no longer
//! matches by then. Each page says where the next one goes on: an interrupted deletion is taken up again by asking for that.

use std::sync::Arc;

use allidb_storage::Direction;
use serde::{Deserialize, Serialize};

use super::derive::mirrored;
use crate::{
    codec::Decoder,
    deadline::Deadline,
    error::{Error, Result},
    filter::Filter,
    model::{
        Collection, CollectionSet, EdgeRef, EntityRef, Limits, ReadMask, SourceOwner, TenantId, Write,
        Written, validate_relation,
    },
    placement::PARTITIONS,
    replica::{Reader, Replica, ScanRequest, decode_row, register},
    row::{
        ChunkContent, EdgeContent, EntityKey,
        key::{collection_prefix, decode_chunk_key, decode_edge_key, decode_entity},
    },
};

/// Deletions that are applied together.
const BATCH: usize = 500;
/// How often a long loop looks at the clock.
const DEADLINE_EVERY: usize = 256;

/// What a page of a deletion came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BulkDeleted {
    /// Entities that were deleted.
    pub entities: u64,
    /// Where the next page goes on; `None`: there is nothing left.
    pub next: Option<String>,
}

/// What is deleted that came from a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceDeletion {
    /// In this collection: its entities, their chunks, and the edges that begin there.
    pub collection: String,
    /// The source's name.
    pub source: String,
    /// Changes at most, about: an entity's edges come together.
    pub limit: usize,
    /// Goes on here.
    pub after: Option<String>,
    /// Edges that lead out of these stay as they are.
    pub collections: CollectionSet,
}

/// What a page of a deletion by source came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BySource {
    /// Entities that were deleted.
    pub entities: u64,
    /// Chunks that were, those of deleted entities not counted.
    pub chunks: u64,
    /// Edges that were, those of deleted entities not counted.
    pub edges: u64,
    /// Entities, chunks and edges that have other sources and stay.
    pub kept: u64,
    /// Where the next page goes on; `None`: there is nothing left.
    pub next: Option<String>,
}

impl Replica {
    /// Deletes entities of a collection that match, in the order of their ids: a page of at most so many, after the last id that the page before
    /// looked at.
    ///
    /// # Errors
    /// If the filter is wrong, or `apply` says so; what was deleted before stays deleted.
    pub fn delete_where(
        &self,
        tenant: TenantId,
        collection: &str,
        filter: Filter,
        (limit, after): (usize, Option<String>),
        apply: &dyn Fn(Vec<Write>) -> Vec<Result<Written>>,
        deadline: Deadline,
    ) -> Result<BulkDeleted> {
        self.check_bulk(Some(&filter), None, limit)?;
        let request = ScanRequest { after, ..ScanRequest::first(collection, limit) };
        let reader = self.reader(tenant);
        let of = Arc::clone(reader.catalogue.get(tenant, collection)?);
        let planned = reader.plan_in_order(&of, &filter, limit)?;
        let filter = Arc::new(filter);
        let mut deleted = BulkDeleted::default();
        let mut writes = Vec::new();
        let mut found = 0;
        let mut last = None;
        for (at, row) in reader.first_rows(&of, &request, planned.as_ref(), deadline)?.enumerate() {
            if at % DEADLINE_EVERY == 0 {
                deadline.check()?;
            }
            if found == limit {
                deleted.next = last;
                break;
            }
            let (id, bytes) = row?;
            let key = EntityKey { tenant, collection: of.id, id };
            let row = decode_row(&key, bytes)?;
            if row.is_live(reader.now) && reader.passes(&key, &row, Some(&filter), deadline)? {
                found += 1;
                let entity = EntityRef::new(collection, &key.id);
                writes.push(Write::DeleteIf { entity, filter: Arc::clone(&filter) });
                if writes.len() == BATCH {
                    deleted.add(apply(std::mem::take(&mut writes)))?;
                }
            }
            last = Some(key.id);
        }
        deleted.add(apply(writes))?;
        Ok(deleted)
    }

    /// Takes a source away from what came from it; what has no other is deleted. Everything in the collection is looked at.
    ///
    /// # Errors
    /// If the request is wrong, or `apply` says so; what was changed before stays so.
    pub fn delete_by_source(
        &self,
        tenant: TenantId,
        SourceDeletion { collection, source, limit, after, collections }: &SourceDeletion,
        apply: &dyn Fn(Vec<Write>) -> Vec<Result<Written>>,
        deadline: Deadline,
    ) -> Result<BySource> {
        self.check_bulk(None, Some(source), *limit)?;
        let reader = self.reader(tenant);
        let of = Arc::clone(reader.catalogue.get(tenant, collection)?);
        let mut place = SourcePlace::new(after.as_deref())?;
        let mut done = BySource::default();
        loop {
            if !place.is_within() {
                return Ok(done);
            }
            let mut found = Vec::new();
            let rest = *limit as u64 - done.all().min(*limit as u64);
            let from = (source.as_str(), collections);
            let end = reader.came_from(&of, from, (&place, false), rest as usize, &mut found, deadline)?;
            for owners in found.chunks(BATCH) {
                let write = |of: &SourceOwner| Write::DropSource { of: of.clone(), source: source.clone() };
                done.add(&place, apply(owners.iter().map(write).collect()))?;
            }
            place.go_on(end);
            if done.all() >= *limit as u64 {
                done.next = Some(place.to_string());
                return Ok(done);
            }
        }
    }
}

impl BySource {
    /// Adds what became of changes there.
    ///
    /// # Errors
    /// The first that one came to.
    pub fn add(&mut self, place: &SourcePlace, results: Vec<Result<Written>>) -> Result<()> {
        let Changed { deleted, kept } = changed(results)?;
        *self.count(place.kind) += deleted;
        self.kept += kept;
        Ok(())
    }

    /// Whatever was looked at and had the source.
    pub fn all(&self) -> u64 {
        self.entities + self.chunks + self.edges + self.kept
    }

    fn count(&mut self, kind: Kind) -> &mut u64 {
        match kind {
            Kind::Entities => &mut self.entities,
            Kind::Chunks => &mut self.chunks,
            Kind::Edges => &mut self.edges,
        }
    }
}

/// Where a deletion by source is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourcePlace {
    kind: Kind,
    partition: u16,
    /// The last entity of the partition that was looked at, if any.
    after: String,
}

/// What is looked at: one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Kind {
    Entities,
    Chunks,
    Edges,
}

impl Kind {
    const ALL: [(Kind, &'static str); 3] =
        [(Kind::Entities, "entities"), (Kind::Chunks, "chunks"), (Kind::Edges, "edges")];

    fn next(self) -> Option<Kind> {
        let at = Self::ALL.iter().position(|(kind, _)| *kind == self)?;
        Self::ALL.get(at + 1).map(|(kind, _)| *kind)
    }
}

impl std::fmt::Display for SourcePlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = Kind::ALL.iter().find(|(kind, _)| *kind == self.kind).map_or("", |(_, name)| name);
        write!(f, "{name}:{}:{}", self.partition, self.after)
    }
}

impl SourcePlace {
    /// Where a page begins, from [`SourceDeletion::after`].
    ///
    /// # Errors
    /// If that is none.
    pub fn new(after: Option<&str>) -> Result<Self> {
        match after {
            Some(after) => Self::parse(after),
            None => Ok(Self { kind: Kind::Entities, partition: 0, after: String::new() }),
        }
    }

    /// Goes on behind the last entity of the partition, or in the next one.
    pub fn go_on(&mut self, last: Option<String>) {
        match last {
            Some(last) => self.after = last,
            None => (self.partition, self.after) = (self.partition + 1, String::new()),
        }
        if self.partition == PARTITIONS
            && let Some(next) = self.kind.next()
        {
            (self.kind, self.partition) = (next, 0);
        }
    }

    /// Whether there is anything left to be looked at.
    pub fn is_within(&self) -> bool {
        self.partition < PARTITIONS
    }

    /// The partition.
    pub fn partition(&self) -> u16 {
        self.partition
    }

    fn parse(text: &str) -> Result<Self> {
        let parsed = || {
            let (name, rest) = text.split_once(':')?;
            let (partition, after) = rest.split_once(':')?;
            let (kind, _) = Kind::ALL.iter().find(|(_, known)| *known == name)?;
            let partition = partition.parse().ok().filter(|partition| *partition <= PARTITIONS)?;
            Some(Self { kind: *kind, partition, after: after.to_owned() })
        };
        parsed().ok_or_else(|| Error::invalid("page_token", "is none of this call"))
    }
}

/// Asks what of a partition came from a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CameFromRequest {
    /// The collection's name.
    pub collection: String,
    /// The source's name.
    pub source: String,
    /// Where, and what.
    pub place: SourcePlace,
    /// So many, or a few more.
    pub most: usize,
    /// Edges that lead out of these are left out.
    pub collections: CollectionSet,
}

/// What of a partition came from a source.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CameFrom {
    /// What did.
    pub owners: Vec<SourceOwner>,
    /// The last entity that was looked at, if there are more.
    pub last: Option<String>,
}

impl Replica {
    /// What of a partition came from a source.
    ///
    /// # Errors
    /// If there is no such collection, or a row cannot be read.
    pub fn came_from(
        &self,
        tenant: TenantId,
        CameFromRequest { collection, source, place, most, collections }: &CameFromRequest,
        deadline: Deadline,
    ) -> Result<CameFrom> {
        let reader = self.reader(tenant);
        let of = reader.catalogue.get(tenant, collection)?;
        let mut owners = Vec::new();
        let last =
            reader.came_from(of, (source, collections), (place, true), *most, &mut owners, deadline)?;
        Ok(CameFrom { owners, last })
    }

    /// # Errors
    /// If something in a deletion of what matches, or by source, is wrong.
    pub fn check_bulk(&self, filter: Option<&Filter>, source: Option<&str>, limit: usize) -> Result<()> {
        if let Some(filter) = filter {
            filter.validate("filter", self.limits())?;
        }
        if let Some(source) = source {
            validate_relation("source", source)?;
        }
        check_limit(limit, self.limits())
    }
}

/// What a batch of conditional changes came to.
struct Changed {
    deleted: u64,
    kept: u64,
}

impl BulkDeleted {
    /// Adds what became of deletions.
    ///
    /// # Errors
    /// The first that one came to.
    pub fn add(&mut self, results: Vec<Result<Written>>) -> Result<()> {
        self.entities += changed(results)?.deleted;
        Ok(())
    }
}

/// What no longer meets its condition is left as it is.
fn changed(results: Vec<Result<Written>>) -> Result<Changed> {
    let mut changed = Changed { deleted: 0, kept: 0 };
    for result in results {
        match result {
            Ok(Written { existed: true, .. }) => changed.deleted += 1,
            Ok(_) => changed.kept += 1,
            Err(Error::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(changed)
}

fn check_limit(limit: usize, limits: &Limits) -> Result<()> {
    if limit == 0 || limit > limits.batch_items {
        let why = format!("is {limit}; it must be 1 to {}", limits.batch_items);
        return Err(Error::invalid("page_size", why));
    }
    Ok(())
}

impl Reader<'_> {
    /// Adds what of a partition came from a source, `most` or a few more, and gives the last entity whose rows were looked at; `None`:
    /// there are no more.
    fn came_from(
        &self,
        of: &Collection,
        (source, collections): (&str, &CollectionSet),
        (place, expired_too): (&SourcePlace, bool),
        most: usize,
        found: &mut Vec<SourceOwner>,
        deadline: Deadline,
    ) -> Result<Option<String>> {
        let keyspaces = &self.replica.keyspaces;
        let prefix = collection_prefix(place.partition, self.tenant, of.id);
        let keyspace = match place.kind {
            Kind::Entities => keyspaces.entity,
            Kind::Chunks => keyspaces.chunk,
            Kind::Edges => keyspaces.edge,
        };
        let from = match &place.after[..] {
            "" => prefix.clone(),
            // Behind all rows of that entity.
            after => {
                let mut key = EntityKey::new(self.tenant, of.id, after).prefix();
                key.push(0xff);
                key
            }
        };
        let bounds = (std::ops::Bound::Included(&from[..]), std::ops::Bound::Unbounded);
        let rows = self.snapshot.scan(keyspace, bounds.0, bounds.1, Direction::Forward)?;
        let mut current: Option<String> = None;
        for (at, row) in rows.enumerate() {
            if at % DEADLINE_EVERY == 0 {
                deadline.check()?;
            }
            let (key, bytes) = row?;
            if !key.starts_with(&prefix) {
                return Ok(None);
            }
            let entity = decode_entity(&mut Decoder::new(&key));
            let entity = entity.map_err(|error| Error::corrupt("entity", &key, error))?;
            if found.len() >= most && current.as_ref().is_some_and(|current| *current != entity.id) {
                return Ok(current);
            }
            let named = EntityRef::new(&of.name, &entity.id);
            current = Some(entity.id.clone());
            let owner = match place.kind {
                Kind::Entities => {
                    let mask = ReadMask { metadata: true, ..ReadMask::nothing() };
                    let row = decode_row(&entity, bytes)?;
                    // Others may have been told that it lives longer.
                    let is_there = row.is_live(self.now) || expired_too && row.exists();
                    let has = is_there && self.fields(&entity, &row, &mask)?.sources.contains(source);
                    has.then_some(SourceOwner::Entity(named))
                }
                Kind::Chunks => {
                    let decoded =
                        decode_chunk_key(&key).map_err(|error| Error::corrupt("chunk", &key, error))?;
                    let content = register::<ChunkContent>("chunk", &key, &bytes)?.value;
                    let has = content.is_some_and(|content| content.sources.contains(source));
                    has.then_some(SourceOwner::Chunk(named, decoded.1))
                }
                Kind::Edges => {
                    let (_, edge) =
                        decode_edge_key(&key).map_err(|error| Error::corrupt("edge", &key, error))?;
                    let content = register::<EdgeContent>("edge", &key, &bytes)?.value;
                    let (other, _) = mirrored(&entity, &edge);
                    let other_of =
                        self.catalogue.by_id(other.collection).filter(|of| collections.has(&of.name));
                    let has = content.is_some_and(|content| content.sources.contains(source));
                    other_of.filter(|_| has).map(|other_of| {
                        let (relation, edge_id) = (edge.relation, edge.edge_id);
                        let to = EntityRef::new(&other_of.name, other.id);
                        SourceOwner::Edge(EdgeRef { from: named, relation, to, edge_id })
                    })
                }
            };
            found.extend(owner);
        }
        Ok(None)
    }
}
