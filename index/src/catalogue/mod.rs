//! The catalogue: which collections there are, their spaces and aliases, and the numbers given to them; and the keys of callers, and quotas of tenants.

mod exchange;
mod keys;
mod quotas;
mod record;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use allidb_storage::{Direction, Engine, Keyspace, WriteBatch};
use foldhash::HashSet;
use prost::Message;

use crate::{
    error::{Error, Result},
    filter::Field,
    model::{
        ApiKey, Collection, CollectionChange, CollectionId, CollectionSet, CollectionSpec, Index, IndexId,
        IndexState, Quota, Space, SpaceId, TenantId, Timestamp, validate_attribute_name,
        validate_collection_name,
    },
};

/// Most spaces and aliases of one collection.
const MAX_SPACES: usize = 64;
/// Most secondary indexes of one collection: each takes its part of every write.
const MAX_INDEXES: usize = 64;
/// Most collections of one tenant.
const MAX_COLLECTIONS: usize = 10_000;

/// The catalogue at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Catalogue {
    by_name: BTreeMap<(TenantId, String), Arc<Collection>>,
    by_id: BTreeMap<CollectionId, Arc<Collection>>,
    keys: BTreeMap<String, Arc<ApiKey>>,
    quotas: BTreeMap<TenantId, Quota>,
    last_id: u64,
    /// How often it was changed.
    version: u64,
}

/// What a request calls the spaces and aliases that it sets.
struct Fields {
    spaces: &'static str,
    aliases: &'static str,
    indexes: &'static str,
}

const CREATE: Fields =
    Fields { spaces: "collection.spaces", aliases: "collection.aliases", indexes: "collection.indexes" };
const UPDATE: Fields = Fields { spaces: "add_spaces", aliases: "set_aliases", indexes: "add_indexes" };

/// Something dropped whose rows are still to be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dropped {
    pub(crate) tenant: TenantId,
    pub(crate) collection: CollectionId,
    pub(crate) part: DroppedPart,
}

/// What of a collection was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DroppedPart {
    /// All of it.
    Everything,
    Space(SpaceId),
    Index(IndexId),
}

impl Catalogue {
    pub(crate) fn get(&self, tenant: TenantId, name: &str) -> Result<&Arc<Collection>> {
        if name.is_empty() {
            return Err(Error::invalid("collection", "must not be empty"));
        }
        self.by_name.get(&(tenant, name.to_owned())).ok_or_else(|| Error::UnknownCollection(name.to_owned()))
    }

    pub(crate) fn by_id(&self, id: CollectionId) -> Option<&Arc<Collection>> {
        self.by_id.get(&id)
    }

    /// In the order of their names, those after `after`.
    pub(crate) fn list(
        &self,
        tenant: TenantId,
        among: &CollectionSet,
        after: Option<&str>,
        limit: usize,
    ) -> Vec<Arc<Collection>> {
        let start = (tenant, after.unwrap_or_default().to_owned());
        let of_tenant = self.by_name.range(start..).take_while(|((owner, _), _)| *owner == tenant);
        of_tenant
            .filter(|((_, name), _)| after != Some(name) && among.has(name))
            .take(limit)
            .map(|(_, collection)| Arc::clone(collection))
            .collect()
    }

    /// Which these are that are there; `None`: all.
    pub(crate) fn ids(&self, tenant: TenantId, set: &CollectionSet) -> Option<HashSet<CollectionId>> {
        let ids = || self.list(tenant, set, None, usize::MAX).iter().map(|found| found.id).collect();
        (!set.is_all()).then(ids)
    }

    /// Every collection, and whose it is.
    pub(crate) fn owned(&self) -> impl Iterator<Item = (TenantId, &Arc<Collection>)> {
        self.by_name.iter().map(|((tenant, _), collection)| (*tenant, collection))
    }

    /// With a new collection added.
    pub(crate) fn create(
        &self,
        tenant: TenantId,
        name: &str,
        CollectionSpec { spaces, aliases, text, indexes }: CollectionSpec,
        now: Timestamp,
    ) -> Result<(Catalogue, Arc<Collection>)> {
        validate_collection_name("collection.name", name)?;
        text.validate("collection.text")?;
        if self.by_name.contains_key(&(tenant, name.to_owned())) {
            return Err(Error::CollectionExists(name.to_owned()));
        }
        if self.list(tenant, &CollectionSet::ALL, None, MAX_COLLECTIONS).len() >= MAX_COLLECTIONS {
            return Err(Error::Exhausted(format!("a tenant may have at most {MAX_COLLECTIONS} collections")));
        }
        let mut next = self.changed();
        let id = CollectionId(next.take_id());
        let mut collection = Collection {
            id,
            name: name.to_owned(),
            spaces: BTreeMap::new(),
            aliases: BTreeMap::new(),
            text,
            indexes: Vec::new(),
            created_at: now,
        };
        let change = CollectionChange {
            add_spaces: spaces,
            set_aliases: aliases,
            add_indexes: indexes,
            ..CollectionChange::default()
        };
        next.change(&mut collection, change, &CREATE)?;
        Ok((next.with(tenant, collection.clone()), Arc::new(collection)))
    }

    /// With a collection changed; also what was dropped.
    pub(crate) fn update(
        &self,
        tenant: TenantId,
        name: &str,
        change: CollectionChange,
    ) -> Result<(Catalogue, Arc<Collection>, Vec<Dropped>)> {
        let mut collection = Collection::clone(self.get(tenant, name)?);
        let mut next = self.changed();
        let parts = next.change(&mut collection, change, &UPDATE)?;
        let dropped = parts.into_iter().map(|part| Dropped { tenant, collection: collection.id, part });
        let dropped = dropped.collect();
        Ok((next.with(tenant, collection.clone()), Arc::new(collection), dropped))
    }

    /// Without a collection.
    pub(crate) fn without(&self, tenant: TenantId, name: &str) -> Result<(Catalogue, Arc<Collection>)> {
        let collection = Arc::clone(self.get(tenant, name)?);
        let mut next = self.changed();
        next.by_name.remove(&(tenant, name.to_owned()));
        next.by_id.remove(&collection.id);
        Ok((next, collection))
    }

    /// To be changed.
    fn changed(&self) -> Self {
        Self { version: self.version + 1, ..self.clone() }
    }

    /// With this collection, in the place of the one of its id.
    pub(crate) fn with(mut self, tenant: TenantId, collection: Collection) -> Self {
        let collection = Arc::new(collection);
        self.by_id.insert(collection.id, Arc::clone(&collection));
        self.by_name.insert((tenant, collection.name.clone()), collection);
        self
    }

    fn take_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Makes the change, all of it or none, and returns what was dropped.
    fn change(
        &mut self,
        collection: &mut Collection,
        change: CollectionChange,
        fields: &Fields,
    ) -> Result<Vec<DroppedPart>> {
        let mut dropped = Vec::new();
        for name in &change.drop_spaces {
            let unknown = || Error::UnknownSpace { collection: collection.name.clone(), space: name.clone() };
            dropped.push(DroppedPart::Space(collection.spaces.remove(name).ok_or_else(unknown)?.id));
        }
        for field in &change.drop_indexes {
            let Some(at) = collection.indexes.iter().position(|index| index.field == *field) else {
                let why = format!("names `{field}`, which has no index");
                return Err(Error::invalid("drop_indexes", why));
            };
            dropped.push(DroppedPart::Index(collection.indexes.remove(at).id));
        }
        let mut named = BTreeSet::new();
        for (at, field) in change.add_indexes.into_iter().enumerate() {
            let place = || format!("{}[{at}]", fields.indexes);
            if !named.insert(field.clone()) {
                return Err(Error::invalid(place(), format!("is `{field}` for the second time")));
            }
            if let Field::Attribute(path) = &field {
                path.iter().try_for_each(|name| validate_attribute_name(&place(), name))?;
            }
            if field == Field::Id {
                let why = "names `id`, by which entities are found anyway";
                return Err(Error::invalid(place(), why));
            }
            if collection.indexes.iter().all(|index| index.field != field) {
                let (id, state) = (IndexId(self.take_id()), IndexState::default());
                collection.indexes.push(Index { id, field, state });
            }
        }
        collection.indexes.sort_by(|a, b| a.field.cmp(&b.field));
        if collection.indexes.len() > MAX_INDEXES {
            let why = format!("would be {}; at most {MAX_INDEXES} are allowed", collection.indexes.len());
            return Err(Error::invalid(fields.indexes, why));
        }
        for alias in &change.remove_aliases {
            if collection.aliases.remove(alias).is_none() {
                return Err(Error::invalid("remove_aliases", format!("names {alias:?}, which is no alias")));
            }
        }
        let mut named = BTreeSet::new();
        for (at, spec) in change.add_spaces.into_iter().enumerate() {
            let field = format!("{}[{at}]", fields.spaces);
            spec.validate(&field)?;
            if !named.insert(spec.name.clone()) {
                return Err(Error::invalid(
                    format!("{field}.name"),
                    format!("is {:?} for the second time", spec.name),
                ));
            }
            match collection.spaces.get(&spec.name) {
                Some(space) if space.spec == spec => continue,
                Some(_) => {
                    return Err(Error::FailedPrecondition(format!(
                        "space {:?} exists already with another dimension, metric or history",
                        spec.name
                    )));
                }
                None => {
                    let space = Space { id: SpaceId(self.take_id()), spec };
                    collection.spaces.insert(space.spec.name.clone(), space);
                }
            }
        }
        for (alias, space) in change.set_aliases {
            validate_collection_name(fields.aliases, &alias)?;
            collection.aliases.insert(alias, space);
        }
        for (alias, space) in &collection.aliases {
            if collection.spaces.contains_key(alias) {
                return Err(Error::invalid(fields.aliases, format!("names {alias:?}, which is a space")));
            }
            if !collection.spaces.contains_key(space) {
                return Err(Error::UnknownSpace {
                    collection: collection.name.clone(),
                    space: space.clone(),
                });
            }
        }
        for (what, count) in
            [(fields.spaces, collection.spaces.len()), (fields.aliases, collection.aliases.len())]
        {
            if count > MAX_SPACES {
                return Err(Error::invalid(
                    what,
                    format!("would be {count}; at most {MAX_SPACES} are allowed"),
                ));
            }
        }
        Ok(dropped)
    }

    /// Reads the catalogue and what was dropped but not yet removed.
    pub(crate) fn load(engine: &Engine, cluster: Keyspace) -> Result<(Catalogue, Vec<Dropped>)> {
        let mut catalogue = Catalogue::default();
        let snapshot = engine.snapshot();
        for row in snapshot.prefix(cluster, COLLECTION, Direction::Forward)? {
            let (key, value) = row?;
            let record: record::Collection = decode(&key, &value)?;
            let tenant = TenantId(record.tenant);
            let collection = record
                .try_into_model()
                .ok_or_else(|| corrupt(&key, "it names something that is not known, such as a metric"))?;
            catalogue = catalogue.with(tenant, collection);
        }
        for row in snapshot.prefix(cluster, keys::KEY, Direction::Forward)? {
            let (key, value) = row?;
            let record: record::Key = decode(&key, &value)?;
            let found = record.try_into_model().ok_or_else(|| corrupt(&key, "it is no key"))?;
            catalogue.keys.insert(found.id.clone(), Arc::new(found));
        }
        for row in snapshot.prefix(cluster, quotas::QUOTA, Direction::Forward)? {
            let (key, value) = row?;
            let record: record::Quota = decode(&key, &value)?;
            let (tenant, quota) = record.into_model();
            catalogue.quotas.insert(tenant, quota);
        }
        if let Some(value) = snapshot.get(cluster, LAST_ID)? {
            let bytes = value[..].try_into().map_err(|_| corrupt(LAST_ID, "it is not eight bytes long"))?;
            catalogue.last_id = u64::from_be_bytes(bytes);
        }
        if let Some(value) = snapshot.get(cluster, VERSION)? {
            let bytes = value[..].try_into().map_err(|_| corrupt(VERSION, "it is not eight bytes long"))?;
            catalogue.version = u64::from_be_bytes(bytes);
        }
        let mut dropped = Vec::new();
        for row in snapshot.prefix(cluster, DROPPED, Direction::Forward)? {
            let (key, value) = row?;
            let record: record::Dropped = decode(&key, &value)?;
            let part = match (record.space, record.index) {
                (0, 0) => DroppedPart::Everything,
                (0, index) => DroppedPart::Index(IndexId(index)),
                (space, _) => DroppedPart::Space(SpaceId(space)),
            };
            let (tenant, collection) = (TenantId(record.tenant), CollectionId(record.collection));
            dropped.push(Dropped { tenant, collection, part });
        }
        Ok((catalogue, dropped))
    }

    /// The rows of a change: the collection as it is now, and what was dropped.
    pub(crate) fn put_rows(
        &self,
        cluster: Keyspace,
        tenant: TenantId,
        collection: &Collection,
        dropped: &[Dropped],
        batch: &mut WriteBatch,
    ) {
        let key = collection_row(collection.id);
        if self.by_id.contains_key(&collection.id) {
            batch.put(cluster, key, record::Collection::from_model(tenant, collection).encode_to_vec());
        } else {
            batch.delete(cluster, key);
        }
        for dropped in dropped {
            let (space, index) = match dropped.part {
                DroppedPart::Everything => (0, 0),
                DroppedPart::Space(space) => (space.0, 0),
                DroppedPart::Index(index) => (0, index.0),
            };
            let (tenant, collection) = (dropped.tenant.0, dropped.collection.0);
            let record = record::Dropped { tenant, collection, space, index };
            batch.put(cluster, dropped_row(*dropped), record.encode_to_vec());
        }
    }

    /// The rows that count what was given and changed.
    pub(crate) fn put_numbers(&self, cluster: Keyspace, batch: &mut WriteBatch) {
        batch.put(cluster, LAST_ID, self.last_id.to_be_bytes().to_vec());
        batch.put(cluster, VERSION, self.version.to_be_bytes().to_vec());
    }
}

const COLLECTION: &[u8] = b"collection/";
pub(crate) const DROPPED: &[u8] = b"dropped/";
const LAST_ID: &[u8] = b"last_id";
const VERSION: &[u8] = b"catalogue_version";

/// How often the catalogue in a store was changed.
pub(crate) fn catalogue_version(engine: &Engine, cluster: Keyspace) -> Result<u64> {
    let Some(value) = engine.get(cluster, VERSION)? else { return Ok(0) };
    value[..].try_into().map(u64::from_be_bytes).map_err(|_| corrupt(VERSION, "it is not eight bytes long"))
}

fn collection_row(id: CollectionId) -> Vec<u8> {
    [COLLECTION, &id.0.to_be_bytes()].concat()
}

/// The row that says that something dropped is still to be removed.
pub(crate) fn dropped_row(dropped: Dropped) -> Vec<u8> {
    // Numbers of all kinds of things are counted together.
    let part = match dropped.part {
        DroppedPart::Everything => 0,
        DroppedPart::Space(space) => space.0,
        DroppedPart::Index(index) => index.0,
    };
    [DROPPED, &dropped.collection.0.to_be_bytes(), &part.to_be_bytes()].concat()
}

fn corrupt(key: &[u8], what: &str) -> Error {
    Error::corrupt("cluster", key, what)
}

fn decode<M: prost::Message + Default>(key: &[u8], value: &[u8]) -> Result<M> {
    M::decode(value).map_err(|error| Error::corrupt("cluster", key, error))
}
