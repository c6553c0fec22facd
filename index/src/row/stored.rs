//! An entity row as it lies in the store: read, but not taken apart before somebody wants its fields.

use bytes::Bytes;

use super::{
    Scope,
    entity::{FieldName, Head, is_unset},
    value::{skip_value, take_value},
};
use crate::{
    codec::{DecodeError, Decoder},
    model::{Entity, ReadMask, Timestamp, Value},
    version::Version,
};

/// An [`EntityRow`](super::EntityRow) for whoever only reads.
#[derive(Clone, Debug)]
pub(crate) struct StoredRow {
    bytes: Bytes,
    fields_at: usize,
    edges_cleared: Version,
    created: Option<Version>,
    pub(crate) touched: Version,
    exists: bool,
    expire_at: Option<Timestamp>,
    pub(crate) importance: Option<f64>,
    alias: Option<Box<Alias>>,
}

/// Says that an entity was merged into another one of its collection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Alias {
    /// Its id.
    pub(crate) into: String,
    /// When they were merged.
    pub(crate) version: Version,
}

impl StoredRow {
    /// Reads what tells whether the entity is there, and checks the lengths of all else.
    pub(crate) fn new(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut from = Decoder::new(&bytes);
        let head = Head::take(&mut from)?;
        let mut created = None;
        for _ in 0..head.puts {
            let put = head.versions.take(&mut from)?;
            created.get_or_insert(put);
        }
        let mut row = Self {
            fields_at: bytes.len() - from.len(),
            edges_cleared: head.cleared[Scope::Edges as usize],
            created,
            touched: head.touched,
            exists: false,
            expire_at: None,
            importance: None,
            alias: None,
            bytes: Bytes::new(),
        };
        for _ in 0..from.count(3)? {
            let name = FieldName::take(&mut from)?;
            let version = head.versions.take(&mut from)?;
            if is_unset(&mut from)? {
                continue;
            }
            match name {
                FieldName::Existence => {
                    skip_value(&mut from)?;
                    row.exists = true;
                }
                FieldName::ExpireAt => {
                    if let Value::Timestamp(at) = take_value(&mut from)? {
                        row.expire_at = Some(at);
                    }
                }
                FieldName::Importance => {
                    if let Value::Double(importance) = take_value(&mut from)? {
                        row.importance = Some(importance);
                    }
                }
                FieldName::MergedInto => {
                    if let Value::String(into) = take_value(&mut from)? {
                        row.alias = Some(Box::new(Alias { into, version }));
                    }
                }
                _ => skip_value(&mut from)?,
            }
        }
        from.finish()?;
        Ok(Self { bytes, ..row })
    }

    /// The same with bytes of its own, for whoever keeps it: what was read is part of a block, which would stay in memory with it.
    pub(crate) fn detached(self) -> Self {
        Self { bytes: Bytes::copy_from_slice(&self.bytes), ..self }
    }

    /// As it lies in the store.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Which entity this one was merged into, if it was.
    pub(crate) fn alias(&self) -> Option<&Alias> {
        self.alias.as_deref()
    }

    /// Where a name leads that was given to this entity at a version: to itself, unless it was merged into another since.
    pub(crate) fn leads_to(&self, given: Version) -> Result<Option<Alias>, DecodeError> {
        let mut from = Decoder::new(&self.bytes[self.fields_at..]);
        for _ in 0..from.count(3)? {
            let name = FieldName::take(&mut from)?;
            from.varint()?;
            if is_unset(&mut from)? {
                continue;
            }
            match name {
                // They come in the order of their versions.
                FieldName::LeadsTo(version) if version > given => {
                    if let Value::String(into) = take_value(&mut from)? {
                        return Ok(Some(Alias { into, version }));
                    }
                }
                _ => skip_value(&mut from)?,
            }
        }
        Ok(None)
    }

    /// Whether the entity was put and not deleted; it may have expired.
    pub(crate) fn exists(&self) -> bool {
        self.exists
    }

    /// Edges with versions up to this do not exist.
    pub(crate) fn edges_cleared(&self) -> Version {
        self.edges_cleared
    }

    /// From when on it is not there any more.
    pub(crate) fn expire_at(&self) -> Option<Timestamp> {
        self.expire_at
    }

    /// Whether the entity is there at `now`.
    pub(crate) fn is_live(&self, now: Timestamp) -> bool {
        self.exists && self.expire_at.is_none_or(|at| now < at)
    }

    /// The entity of this id as far as the mask asks and the row tells.
    pub(crate) fn entity(&self, id: &str, mask: &ReadMask) -> Result<Entity, DecodeError> {
        let mut entity = Entity { id: id.to_owned(), version: self.touched, ..Entity::default() };
        if mask.metadata {
            entity.created_at = self.created.map(|version| version.timestamp());
            entity.updated_at = Some(self.touched.timestamp());
            entity.importance = self.importance;
            entity.expire_at = self.expire_at;
        }
        let mut from = Decoder::new(&self.bytes[self.fields_at..]);
        for _ in 0..from.count(3)? {
            let name = FieldName::take(&mut from)?;
            from.varint()?;
            if is_unset(&mut from)? {
                continue;
            }
            match name {
                FieldName::Type if mask.entity_type => {
                    if let Value::String(name) = take_value(&mut from)? {
                        entity.entity_type = name;
                    }
                }
                FieldName::Source(name) if mask.metadata => {
                    skip_value(&mut from)?;
                    entity.sources.insert(name.to_owned());
                }
                FieldName::Attribute(name) if mask.attributes || mask.attribute_names.contains(name) => {
                    entity.attributes.insert(name.to_owned(), take_value(&mut from)?);
                }
                _ => skip_value(&mut from)?,
            }
        }
        Ok(entity)
    }
}
