//! The catalogue's rows: protobuf messages, so that they can grow.

use std::collections::BTreeMap;

use crate::{
    filter::Field,
    model::{
        self, ApiKey, Codes, CollectionId, CollectionSet, Index, IndexId, IndexState, Language, Metric, Role,
        Space, SpaceId, SpaceSpec, TenantId, TextField, TextKind, TextSpec, Timestamp,
    },
};

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Collection {
    #[prost(uint64, tag = "1")]
    pub(super) tenant: u64,
    #[prost(uint64, tag = "2")]
    id: u64,
    #[prost(string, tag = "3")]
    pub(super) name: String,
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
    #[prost(message, repeated, tag = "9")]
    indexes: Vec<IndexRecord>,
}

/// All of it.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Catalogue {
    #[prost(uint64, tag = "1")]
    pub(super) version: u64,
    #[prost(uint64, tag = "2")]
    pub(super) last_id: u64,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) cursor_key: Vec<u8>,
    #[prost(message, repeated, tag = "4")]
    pub(super) collections: Vec<Collection>,
    #[prost(message, repeated, tag = "5")]
    pub(super) keys: Vec<Key>,
    #[prost(message, repeated, tag = "6")]
    pub(super) quotas: Vec<Quota>,
}

/// What a tenant may use.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct Quota {
    #[prost(uint64, tag = "1")]
    tenant: u64,
    #[prost(uint64, optional, tag = "2")]
    requests_per_second: Option<u64>,
    #[prost(uint64, optional, tag = "3")]
    bytes_per_second: Option<u64>,
    #[prost(uint64, optional, tag = "4")]
    entities: Option<u64>,
    #[prost(uint64, optional, tag = "5")]
    vectors: Option<u64>,
    #[prost(uint64, optional, tag = "6")]
    bytes: Option<u64>,
}

impl Quota {
    pub(super) fn from_model(tenant: TenantId, quota: model::Quota) -> Self {
        let model::Quota { requests_per_second, bytes_per_second, entities, vectors, bytes } = quota;
        Self { tenant: tenant.0, requests_per_second, bytes_per_second, entities, vectors, bytes }
    }

    pub(super) fn into_model(self) -> (TenantId, model::Quota) {
        let Self { tenant, requests_per_second, bytes_per_second, entities, vectors, bytes } = self;
        let quota = model::Quota { requests_per_second, bytes_per_second, entities, vectors, bytes };
        (TenantId(tenant), quota)
    }
}

/// A key of callers.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Key {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(uint64, tag = "3")]
    tenant: u64,
    #[prost(string, tag = "4")]
    role: String,
    #[prost(bytes = "vec", tag = "5")]
    hash: Vec<u8>,
    #[prost(int64, tag = "6")]
    created_at: i64,
    #[prost(int64, optional, tag = "7")]
    expire_at: Option<i64>,
    /// Patterns of names; none: all.
    #[prost(string, repeated, tag = "8")]
    collections: Vec<String>,
}

impl Key {
    pub(super) fn from_model(key: &ApiKey) -> Self {
        Self {
            id: key.id.clone(),
            name: key.name.clone(),
            tenant: key.tenant.0,
            role: key.role.name().to_owned(),
            hash: key.hash.to_vec(),
            created_at: key.created_at.0,
            expire_at: key.expire_at.map(|end| end.0),
            collections: key.collections.patterns().to_vec(),
        }
    }

    /// `None` for what is no key, or one that this release does not know.
    pub(super) fn try_into_model(self) -> Option<ApiKey> {
        let key = ApiKey {
            id: self.id,
            name: self.name,
            tenant: TenantId(self.tenant),
            role: Role::named(&self.role)?,
            hash: self.hash.try_into().ok()?,
            created_at: Timestamp(self.created_at),
            expire_at: self.expire_at.map(Timestamp),
            collections: CollectionSet::of("collections", self.collections).ok()?,
        };
        key.validate().is_ok().then_some(key)
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct IndexRecord {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(string, tag = "2")]
    field: String,
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
    #[prost(uint64, tag = "4")]
    pub(super) index: u64,
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
            indexes: (collection.indexes.iter())
                .map(|index| IndexRecord { id: index.id.0, field: index.field.to_string() })
                .collect(),
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
            fields: self.text_fields.into_iter().map(TextRecord::try_into_model).collect::<Option<_>>()?,
        };
        let index = |record: IndexRecord| {
            let field = Field::parse(&record.field).ok()?;
            Some(Index { id: IndexId(record.id), field, state: IndexState::default() })
        };
        Some(model::Collection {
            id: CollectionId(self.id),
            text,
            indexes: self.indexes.into_iter().map(index).collect::<Option<_>>()?,
            name: self.name,
            spaces: self.spaces.into_iter().map(space).collect::<Option<_>>()?,
            aliases: self.aliases,
            created_at: Timestamp(self.created_at),
        })
    }
}
