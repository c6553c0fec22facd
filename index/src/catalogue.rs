//! The catalogue: which collections there are, their spaces and aliases, and the numbers given to them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use allidb_storage::{Direction, Engine, Keyspace, WriteBatch};

use crate::{
    error::{Error, Result},
    model::{
        Codes, Collection, CollectionChange, CollectionId, Language, Metric, Space, SpaceId, SpaceSpec,
        TenantId, TextField, TextKind, TextSpec, Timestamp, validate_collection_name,
    },
};

/// Most spaces and aliases of one collection.
const MAX_SPACES: usize = 64;
/// Most collections of one tenant.
const MAX_COLLECTIONS: usize = 10_000;

/// The catalogue at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Catalogue {
    by_name: BTreeMap<(TenantId, String), Arc<Collection>>,
    by_id: BTreeMap<CollectionId, Arc<Collection>>,
    last_id: u64,
}

/// What a request calls the spaces and aliases that it sets.
struct Fields {
    spaces: &'static str,
    aliases: &'static str,
}

const CREATE: Fields = Fields { spaces: "collection.spaces", aliases: "collection.aliases" };
const UPDATE: Fields = Fields { spaces: "add_spaces", aliases: "set_aliases" };

/// Something dropped whose rows are still to be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dropped {
    pub(crate) tenant: TenantId,
    pub(crate) collection: CollectionId,
    /// `None`: the whole collection.
    pub(crate) space: Option<SpaceId>,
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
    pub(crate) fn list(&self, tenant: TenantId, after: Option<&str>, limit: usize) -> Vec<Arc<Collection>> {
        let start = (tenant, after.unwrap_or_default().to_owned());
        let of_tenant = self.by_name.range(start..).take_while(|((owner, _), _)| *owner == tenant);
        of_tenant
            .filter(|((_, name), _)| after != Some(name))
            .take(limit)
            .map(|(_, collection)| Arc::clone(collection))
            .collect()
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
        spaces: Vec<SpaceSpec>,
        aliases: BTreeMap<String, String>,
        text: TextSpec,
        now: Timestamp,
    ) -> Result<(Catalogue, Arc<Collection>)> {
        validate_collection_name("collection.name", name)?;
        text.validate("collection.text")?;
        if self.by_name.contains_key(&(tenant, name.to_owned())) {
            return Err(Error::CollectionExists(name.to_owned()));
        }
        if self.list(tenant, None, MAX_COLLECTIONS).len() >= MAX_COLLECTIONS {
            return Err(Error::Exhausted(format!("a tenant may have at most {MAX_COLLECTIONS} collections")));
        }
        let mut next = self.clone();
        let id = CollectionId(next.take_id());
        let mut collection = Collection {
            id,
            name: name.to_owned(),
            spaces: BTreeMap::new(),
            aliases: BTreeMap::new(),
            text,
            created_at: now,
        };
        let change =
            CollectionChange { add_spaces: spaces, set_aliases: aliases, ..CollectionChange::default() };
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
        let mut next = self.clone();
        let spaces = next.change(&mut collection, change, &UPDATE)?;
        let dropped =
            spaces.into_iter().map(|space| Dropped { tenant, collection: collection.id, space: Some(space) });
        let dropped = dropped.collect();
        Ok((next.with(tenant, collection.clone()), Arc::new(collection), dropped))
    }

    /// Without a collection.
    pub(crate) fn without(&self, tenant: TenantId, name: &str) -> Result<(Catalogue, Arc<Collection>)> {
        let collection = Arc::clone(self.get(tenant, name)?);
        let mut next = self.clone();
        next.by_name.remove(&(tenant, name.to_owned()));
        next.by_id.remove(&collection.id);
        Ok((next, collection))
    }

    fn with(mut self, tenant: TenantId, collection: Collection) -> Self {
        let collection = Arc::new(collection);
        self.by_id.insert(collection.id, Arc::clone(&collection));
        self.by_name.insert((tenant, collection.name.clone()), collection);
        self
    }

    fn take_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Makes the change, all of it or none, and returns the spaces that were dropped.
    fn change(
        &mut self,
        collection: &mut Collection,
        change: CollectionChange,
        fields: &Fields,
    ) -> Result<Vec<SpaceId>> {
        let mut dropped = Vec::new();
        for name in &change.drop_spaces {
            let unknown = || Error::UnknownSpace { collection: collection.name.clone(), space: name.clone() };
            dropped.push(collection.spaces.remove(name).ok_or_else(unknown)?.id);
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
                .ok_or_else(|| corrupt(&key, "it names a metric, codes or a language that are not known"))?;
            catalogue = catalogue.with(tenant, collection);
        }
        if let Some(value) = snapshot.get(cluster, LAST_ID)? {
            let bytes = value[..].try_into().map_err(|_| corrupt(LAST_ID, "it is not eight bytes long"))?;
            catalogue.last_id = u64::from_be_bytes(bytes);
        }
        let mut dropped = Vec::new();
        for row in snapshot.prefix(cluster, DROPPED, Direction::Forward)? {
            let (key, value) = row?;
            let record: record::Dropped = decode(&key, &value)?;
            let space = (record.space != 0).then_some(SpaceId(record.space));
            let (tenant, collection) = (TenantId(record.tenant), CollectionId(record.collection));
            dropped.push(Dropped { tenant, collection, space });
        }
        Ok((catalogue, dropped))
    }

    /// The rows of this change: the collection as it is now, and what was dropped.
    pub(crate) fn rows(
        &self,
        cluster: Keyspace,
        tenant: TenantId,
        collection: &Collection,
        dropped: &[Dropped],
    ) -> WriteBatch {
        use prost::Message;
        let mut batch = WriteBatch::new();
        let key = collection_row(collection.id);
        if self.by_id.contains_key(&collection.id) {
            batch.put(cluster, key, record::Collection::from_model(tenant, collection).encode_to_vec());
        } else {
            batch.delete(cluster, key);
        }
        for dropped in dropped {
            let record = record::Dropped {
                tenant: dropped.tenant.0,
                collection: dropped.collection.0,
                space: dropped.space.map_or(0, |space| space.0),
            };
            batch.put(cluster, dropped_row(*dropped), record.encode_to_vec());
        }
        batch.put(cluster, LAST_ID, self.last_id.to_be_bytes().to_vec());
        batch
    }
}

const COLLECTION: &[u8] = b"collection/";
const DROPPED: &[u8] = b"dropped/";
const LAST_ID: &[u8] = b"last_id";

fn collection_row(id: CollectionId) -> Vec<u8> {
    [COLLECTION, &id.0.to_be_bytes()].concat()
}

/// The row that says that something dropped is still to be removed.
pub(crate) fn dropped_row(dropped: Dropped) -> Vec<u8> {
    let space = dropped.space.map_or(0, |space| space.0);
    [DROPPED, &dropped.collection.0.to_be_bytes(), &space.to_be_bytes()].concat()
}

fn corrupt(key: &[u8], what: &str) -> Error {
    Error::corrupt("cluster", key, what)
}

fn decode<M: prost::Message + Default>(key: &[u8], value: &[u8]) -> Result<M> {
    M::decode(value).map_err(|error| Error::corrupt("cluster", key, error))
}

/// The catalogue's rows: protobuf messages, so that they can grow.
mod record {
    use super::{
        BTreeMap, Codes, CollectionId, Language, Metric, Space, SpaceId, SpaceSpec, TenantId, TextField,
        TextKind, TextSpec, Timestamp,
    };
    use crate::model;

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Collection {
        #[prost(uint64, tag = "1")]
        pub(super) tenant: u64,
        #[prost(uint64, tag = "2")]
        id: u64,
        #[prost(string, tag = "3")]
        name: String,
        #[prost(message, repeated, tag = "4")]
        spaces: Vec<SpaceRecord>,
        #[prost(btree_map = "string, string", tag = "5")]
        aliases: BTreeMap<String, String>,
        #[prost(int64, tag = "6")]
        created_at: i64,
        /// Empty in what was written before there was a choice.
        #[prost(string, tag = "7")]
        chunk_language: String,
        #[prost(message, repeated, tag = "8")]
        text_fields: Vec<TextRecord>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct TextRecord {
        #[prost(string, tag = "1")]
        attribute: String,
        #[prost(double, tag = "2")]
        weight: f64,
        #[prost(string, tag = "3")]
        language: String,
        /// 0: names, 1: prose.
        #[prost(uint32, tag = "4")]
        kind: u32,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct SpaceRecord {
        #[prost(uint64, tag = "1")]
        id: u64,
        #[prost(string, tag = "2")]
        name: String,
        #[prost(uint32, tag = "3")]
        dimension: u32,
        #[prost(uint32, tag = "4")]
        metric: u32,
        #[prost(uint32, tag = "5")]
        history: u32,
        /// Zero in what was written before there was a choice.
        #[prost(uint32, tag = "6")]
        codes: u32,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Dropped {
        #[prost(uint64, tag = "1")]
        pub(super) tenant: u64,
        #[prost(uint64, tag = "2")]
        pub(super) collection: u64,
        #[prost(uint64, tag = "3")]
        pub(super) space: u64,
    }

    impl TextRecord {
        fn from_model(field: &TextField) -> Self {
            let language = field.language.name().to_owned();
            let kind = match field.kind {
                TextKind::Names => 0,
                TextKind::Prose => 1,
            };
            Self { attribute: field.attribute.clone(), weight: field.weight, language, kind }
        }

        fn try_into_model(self) -> Option<TextField> {
            let language = Language::parse("", &self.language).ok()?;
            let kind = match self.kind {
                0 => TextKind::Names,
                1 => TextKind::Prose,
                _ => return None,
            };
            Some(TextField { attribute: self.attribute, weight: self.weight, language, kind })
        }
    }

    impl Collection {
        pub(super) fn from_model(tenant: TenantId, collection: &model::Collection) -> Self {
            let space = |space: &Space| SpaceRecord {
                id: space.id.0,
                name: space.spec.name.clone(),
                dimension: space.spec.dimension,
                metric: match space.spec.metric {
                    Metric::Cosine => 1,
                    Metric::Dot => 2,
                    Metric::L2 => 3,
                },
                history: space.spec.history,
                codes: match space.spec.codes {
                    Codes::Bits4And8 => 0,
                    Codes::Bits8 => 1,
                    Codes::Bits1And8 => 2,
                    Codes::Float => 3,
                },
            };
            Self {
                tenant: tenant.0,
                id: collection.id.0,
                name: collection.name.clone(),
                spaces: collection.spaces.values().map(space).collect(),
                aliases: collection.aliases.clone(),
                created_at: collection.created_at.0,
                chunk_language: collection.text.chunks.name().to_owned(),
                text_fields: collection.text.fields.iter().map(TextRecord::from_model).collect(),
            }
        }

        pub(super) fn try_into_model(self) -> Option<model::Collection> {
            let space = |record: SpaceRecord| {
                let metric = match record.metric {
                    1 => Metric::Cosine,
                    2 => Metric::Dot,
                    3 => Metric::L2,
                    _ => return None,
                };
                let codes = match record.codes {
                    0 => Codes::Bits4And8,
                    1 => Codes::Bits8,
                    2 => Codes::Bits1And8,
                    3 => Codes::Float,
                    _ => return None,
                };
                let (name, dimension, history) = (record.name, record.dimension, record.history);
                let spec = SpaceSpec { name, dimension, metric, history, codes };
                Some((spec.name.clone(), Space { id: SpaceId(record.id), spec }))
            };
            let text = TextSpec {
                chunks: Language::parse("", &self.chunk_language).ok()?,
                fields: self
                    .text_fields
                    .into_iter()
                    .map(TextRecord::try_into_model)
                    .collect::<Option<_>>()?,
            };
            Some(model::Collection {
                id: CollectionId(self.id),
                text,
                name: self.name,
                spaces: self.spaces.into_iter().map(space).collect::<Option<_>>()?,
                aliases: self.aliases,
                created_at: Timestamp(self.created_at),
            })
        }
    }
}
