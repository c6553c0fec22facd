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
    /// A string: the id of the entity, of the same collection, that this one was merged into. Nothing else is left of it.
    MergedInto,
    /// A string: where names lead to that were given to this entity before the version, which is when it was merged into that one.
    /// Nothing clears it: this id may be another entity's since.
    LeadsTo(Version),
}

impl Field {
    /// What clears it beside [`Scope::Entity`].
    pub(crate) fn scope(&self) -> Scope {
        match self {
            Field::Attribute(_) => Scope::Attributes,
            Field::Source(_) => Scope::Sources,
            _ => Scope::Entity,
        }
    }

    fn tag(&self) -> u8 {
        match self {
            Field::Existence => 1,
            Field::Type => 2,
            Field::Importance => 3,
            Field::ExpireAt => 4,
            Field::Source(_) => 5,
            Field::Attribute(_) => 6,
            Field::MergedInto => 7,
            Field::LeadsTo(_) => 8,
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

pub(super) const SCOPES: usize = 5;

impl Scope {
    /// Every one.
    pub(crate) const ALL: [Self; SCOPES] =
        [Self::Entity, Self::Edges, Self::Attributes, Self::Sources, Self::Vectors];
}

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

    /// All versions in it but that up to which edges are gone.
    pub(crate) fn versions_mut(&mut self) -> impl Iterator<Item = &mut Version> {
        let own = Scope::ALL.map(|scope| scope != Scope::Edges);
        let cleared =
            self.cleared.iter_mut().zip(own).filter_map(|(version, is_own)| is_own.then_some(version));
        let fields = self.fields.values_mut().map(|register| &mut register.version);
        cleared.chain([&mut self.touched]).chain(&mut self.puts).chain(fields)
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

    /// Whether the entity was put and not deleted. It may have expired.
    pub(crate) fn exists(&self) -> bool {
        self.get(&Field::Existence).is_some()
    }

    /// Whether the entity is there at `now`.
    pub(crate) fn is_live(&self, now: Timestamp) -> bool {
        self.exists() && self.expire_at().is_none_or(|at| now < at)
    }

    pub(crate) fn expire_at(&self) -> Option<Timestamp> {
        match self.get(&Field::ExpireAt) {
            Some(Value::Timestamp(at)) => Some(*at),
            _ => None,
        }
    }

    /// The id of the entity that this one was merged into, and when it was.
    pub(crate) fn merged_into(&self) -> Option<(&str, Version)> {
        let alias = self.fields.get(&Field::MergedInto)?;
        match alias.value.as_ref()? {
            Value::String(into) => Some((into, alias.version)),
            _ => None,
        }
    }

    /// The highest version of anything in it.
    pub(crate) fn highest_version(&self) -> Version {
        let fields = self.fields.values().map(|register| register.version).max().unwrap_or_default();
        let markers = self.cleared.iter().copied().max().unwrap_or_default();
        fields.max(markers).max(self.touched)
    }

    /// Whether the row says nothing but what was deleted.
    pub(crate) fn is_bare(&self) -> bool {
        self.puts.is_empty() && self.fields.values().all(|register| register.value.is_none())
    }

    /// Keeps the first put, and of the others the newest: together `most` of them. Whoever keeps so many of two rows and merges them has the
    /// same as who merges them and keeps so many then.
    pub(crate) fn keep_puts(&mut self, most: usize) {
        if let Some(beyond) = self.puts.len().checked_sub(most) {
            self.puts.drain(1..=beyond);
        }
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
            let cleared = cleared[Scope::Entity as usize].max(cleared[field.scope() as usize]);
            matches!(field, Field::LeadsTo(_)) || register.version > cleared
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
            match field {
                Field::Source(name) | Field::Attribute(name) => put_bytes(&mut out, name.as_bytes()),
                Field::LeadsTo(version) => out.extend_from_slice(&version.to_bytes()),
                _ => {}
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
        let head = Head::take(&mut from)?;
        let mut row = EntityRow { cleared: head.cleared, touched: head.touched, ..Self::default() };
        row.puts = (0..head.puts).map(|_| head.versions.take(&mut from)).collect::<Result<_, _>>()?;
        for _ in 0..from.count(3)? {
            let field = match FieldName::take(&mut from)? {
                FieldName::Existence => Field::Existence,
                FieldName::Type => Field::Type,
                FieldName::Importance => Field::Importance,
                FieldName::ExpireAt => Field::ExpireAt,
                FieldName::Source(name) => Field::Source(name.to_owned()),
                FieldName::Attribute(name) => Field::Attribute(name.to_owned()),
                FieldName::MergedInto => Field::MergedInto,
                FieldName::LeadsTo(version) => Field::LeadsTo(version),
            };
            let version = head.versions.take(&mut from)?;
            let value = if is_unset(&mut from)? { None } else { Some(take_value(&mut from)?) };
            row.fields.insert(field, Register { version, value });
        }
        from.finish()?;
        Ok(row)
    }
}

/// What stands before the puts and the fields.
pub(super) struct Head<'a> {
    pub(super) cleared: [Version; SCOPES],
    pub(super) versions: Versions<'a>,
    pub(super) touched: Version,
    /// How many follow.
    pub(super) puts: usize,
}

impl<'a> Head<'a> {
    pub(super) fn take(from: &mut Decoder<'a>) -> Result<Self, DecodeError> {
        match from.u8()? {
            FORMAT => {}
            other => return Err(DecodeError::Tag(other)),
        }
        let mut cleared = [Version::ZERO; SCOPES];
        let mask = from.u8()?;
        if u32::from(mask) >= 1 << SCOPES {
            return Err(DecodeError::Tag(mask));
        }
        for scope in (0..SCOPES).filter(|scope| mask & (1 << scope) != 0) {
            cleared[scope] = from.version()?;
        }
        let count = from.count(Version::BYTES)?;
        let versions = Versions(from.take(count * Version::BYTES)?);
        let touched = versions.take(from)?;
        let puts = from.count(1)?;
        Ok(Self { cleared, versions, touched, puts })
    }
}

/// The versions that fields share.
#[derive(Clone, Copy)]
pub(super) struct Versions<'a>(&'a [u8]);

impl Versions<'_> {
    /// The version whose place comes next.
    pub(super) fn take(self, from: &mut Decoder<'_>) -> Result<Version, DecodeError> {
        let place = usize::try_from(from.varint()?).map_err(|_| DecodeError::Range)?;
        let start = place.checked_mul(Version::BYTES).ok_or(DecodeError::Range)?;
        let version = self.0.get(start..).and_then(|from| from.get(..Version::BYTES));
        version.and_then(Version::from_bytes).ok_or(DecodeError::Range)
    }
}

/// A [`Field`] that lies in the row still.
pub(super) enum FieldName<'a> {
    Existence,
    Type,
    Importance,
    ExpireAt,
    Source(&'a str),
    Attribute(&'a str),
    MergedInto,
    LeadsTo(Version),
}

impl<'a> FieldName<'a> {
    pub(super) fn take(from: &mut Decoder<'a>) -> Result<Self, DecodeError> {
        Ok(match from.u8()? {
            1 => FieldName::Existence,
            2 => FieldName::Type,
            3 => FieldName::Importance,
            4 => FieldName::ExpireAt,
            5 => FieldName::Source(from.str()?),
            6 => FieldName::Attribute(from.str()?),
            7 => FieldName::MergedInto,
            8 => FieldName::LeadsTo(from.version()?),
            tag => return Err(DecodeError::Tag(tag)),
        })
    }
}

/// Whether the field that comes next has no value. If it has one, that comes next.
pub(super) fn is_unset(from: &mut Decoder<'_>) -> Result<bool, DecodeError> {
    let is_unset = from.clone().u8()? == 0;
    if is_unset {
        from.u8()?;
    }
    Ok(is_unset)
}
