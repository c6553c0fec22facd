//! The entity row: existence, type, importance, expiry, sources and attributes, each with its version.

use std::collections::BTreeMap;

use crate::{
    codec::{DecodeError, Decoder, put_bytes, put_varint},
    merge::Register,
    model::{Timestamp, Value},
    row::{
        FORMAT,
        value::{put_value, take_value},
    },
    version::Version,
};

/// A field of the entity row. The values of fields other than attributes are of one type each.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Field {
    /// `true`: set by puts alone.
    Existence,
    /// A string.
    Type,
    /// A double.
    Importance,
    /// A timestamp.
    ExpireAt,
    /// `true`: the entity came from this source.
    Source(String),
    /// Anything.
    Attribute(String),
}

impl Field {
    fn tag(&self) -> u8 {
        match self {
            Field::Existence => 1,
            Field::Type => 2,
            Field::Importance => 3,
            Field::ExpireAt => 4,
            Field::Source(_) => 5,
            Field::Attribute(_) => 6,
        }
    }
}

/// What a clearing marker covers: rows and fields in its scope with versions up to it do not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Everything but edges (`cleared`).
    Entity = 0,
    /// Edges in both directions (`edges_cleared`).
    Edges = 1,
    /// Attributes.
    Attributes = 2,
    /// Sources.
    Sources = 3,
    /// The entity's own vectors.
    Vectors = 4,
}

const SCOPES: usize = 5;

/// The entity row.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct EntityRow {
    cleared: [Version; SCOPES],
    /// The highest version of any write to the entity's rows, edges not counted.
    pub(crate) touched: Version,
    /// The versions of the puts above the edges marker, in order: the first is when the entity was
    /// created. A purge keeps only the first.
    pub(crate) puts: Vec<Version>,
    pub(crate) fields: BTreeMap<Field, Register<Value>>,
}

impl EntityRow {
    pub(crate) fn cleared(&self, scope: Scope) -> Version {
        self.cleared[scope as usize]
    }

    /// Raises the marker of `scope`, never lowers it.
    pub(crate) fn clear(&mut self, scope: Scope, upto: Version) {
        let marker = &mut self.cleared[scope as usize];
        *marker = (*marker).max(upto);
    }

    pub(crate) fn set(&mut self, field: Field, version: Version, value: Option<Value>) {
        self.fields.insert(field, Register { version, value });
    }

    pub(crate) fn get(&self, field: &Field) -> Option<&Value> {
        self.fields.get(field)?.value.as_ref()
    }

    /// Whether the entity is there at `now`.
    pub(crate) fn is_live(&self, now: Timestamp) -> bool {
        self.get(&Field::Existence).is_some() && self.expire_at().is_none_or(|at| now < at)
    }

    pub(crate) fn expire_at(&self) -> Option<Timestamp> {
        match self.get(&Field::ExpireAt) {
            Some(Value::Timestamp(at)) => Some(*at),
            _ => None,
        }
    }

    pub(crate) fn created_at(&self) -> Option<Timestamp> {
        self.puts.first().map(|version| version.timestamp())
    }

    /// Whether nothing is left to keep: no field and no marker that anything unswept depends on.
    pub(crate) fn is_bare(&self) -> bool {
        self.fields.is_empty() && self.puts.is_empty()
    }

    /// The one merge of two entity rows.
    pub(crate) fn merge(mut self, other: EntityRow) -> EntityRow {
        for (mine, theirs) in self.cleared.iter_mut().zip(other.cleared) {
            *mine = (*mine).max(theirs);
        }
        self.touched = self.touched.max(other.touched);
        self.puts.extend(other.puts);
        self.puts.sort_unstable();
        self.puts.dedup();
        for (field, register) in other.fields {
            match self.fields.entry(field) {
                std::collections::btree_map::Entry::Vacant(free) => {
                    free.insert(register);
                }
                std::collections::btree_map::Entry::Occupied(mut taken) => taken.get_mut().merge(register),
            }
        }
        let cleared = self.cleared;
        self.puts.retain(|version| *version > cleared[Scope::Edges as usize]);
        self.fields.retain(|field, register| {
            let scope = match field {
                Field::Attribute(_) => Scope::Attributes,
                Field::Source(_) => Scope::Sources,
                _ => Scope::Entity,
            };
            register.version > cleared[Scope::Entity as usize].max(cleared[scope as usize])
        });
        self
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        out.push(FORMAT);
        let mask = (0..SCOPES)
            .filter(|scope| self.cleared[*scope] != Version::ZERO)
            .fold(0, |mask, at| mask | 1 << at);
        out.push(mask);
        for marker in self.cleared.iter().filter(|marker| **marker != Version::ZERO) {
            out.extend_from_slice(&marker.to_bytes());
        }
        // Most fields share few versions: they are listed once and named by their place.
        let mut versions: Vec<Version> = self.fields.values().map(|register| register.version).collect();
        versions.extend(self.puts.iter().copied());
        versions.push(self.touched);
        versions.sort_unstable();
        versions.dedup();
        put_varint(&mut out, versions.len() as u64);
        versions.iter().for_each(|version| out.extend_from_slice(&version.to_bytes()));
        let place = |version: &Version| versions.binary_search(version).unwrap_or_default() as u64;
        put_varint(&mut out, place(&self.touched));
        put_varint(&mut out, self.puts.len() as u64);
        self.puts.iter().for_each(|put| put_varint(&mut out, place(put)));
        put_varint(&mut out, self.fields.len() as u64);
        for (field, register) in &self.fields {
            out.push(field.tag());
            if let Field::Source(name) | Field::Attribute(name) = field {
                put_bytes(&mut out, name.as_bytes());
            }
            put_varint(&mut out, place(&register.version));
            match &register.value {
                None => out.push(0),
                Some(value) => put_value(&mut out, value),
            }
        }
        // The store keeps it as it is until it is flushed.
        out.shrink_to_fit();
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut from = Decoder::new(bytes);
        match from.u8()? {
            FORMAT => {}
            other => return Err(DecodeError::Tag(other)),
        }
        let mut row = EntityRow::default();
        let mask = from.u8()?;
        if u32::from(mask) >= 1 << SCOPES {
            return Err(DecodeError::Tag(mask));
        }
        for scope in (0..SCOPES).filter(|scope| mask & (1 << scope) != 0) {
            row.cleared[scope] = from.version()?;
        }
        let count = from.count(Version::BYTES)?;
        let versions = (0..count).map(|_| from.version()).collect::<Result<Vec<_>, _>>()?;
        let version = |from: &mut Decoder<'_>| -> Result<Version, DecodeError> {
            let place = usize::try_from(from.varint()?).map_err(|_| DecodeError::Range)?;
            versions.get(place).copied().ok_or(DecodeError::Range)
        };
        row.touched = version(&mut from)?;
        row.puts = (0..from.count(1)?).map(|_| version(&mut from)).collect::<Result<_, _>>()?;
        for _ in 0..from.count(3)? {
            let field = match from.u8()? {
                1 => Field::Existence,
                2 => Field::Type,
                3 => Field::Importance,
                4 => Field::ExpireAt,
                5 => Field::Source(from.text()?),
                6 => Field::Attribute(from.text()?),
                tag => return Err(DecodeError::Tag(tag)),
            };
            let version = version(&mut from)?;
            let value = match from.clone().u8()? {
                0 => {
                    from.u8()?;
                    None
                }
                _ => Some(take_value(&mut from)?),
            };
            row.fields.insert(field, Register { version, value });
        }
        from.finish()?;
        Ok(row)
    }
}
