//! A mutation as nodes send it to each other, and keep it for those that did not get it.

use crate::{
    codec::{DecodeError, Decoder, put_bytes, put_varint},
    error::{Error, Result},
    merge::EntityState,
    model::EntityRef,
    mutation::{Condition, Kind, Mutation, Part},
    row::EntityKey,
    version::Version,
};

const FORMAT: u8 = 1;
const PLAIN: u8 = 0;
const EDGE: u8 = 1;
const NO_CONDITION: u8 = 0;
const EXISTS: u8 = 1;
const CREATE_IF_MISSING: u8 = 2;
const REPLACES: u8 = 3;

impl Mutation {
    /// Those of its parts that `holds` says of their partitions; `None` if there are none.
    ///
    /// # Errors
    /// If whether it is made, or what it says, depends on more than whoever gets it knows: that must be found out first.
    pub fn encode(&self, holds: impl Fn(u16) -> bool) -> Result<Option<Vec<u8>>> {
        let parts = || self.parts.iter().filter(|part| holds(part.entity.partition()));
        if parts().next().is_none() {
            return Ok(None);
        }
        let unsettled = |what| Err(Error::Internal(format!("{what} was to be sent before it was settled")));
        let kind = match self.kind {
            Kind::Plain => PLAIN,
            Kind::Edge => EDGE,
            Kind::If(_) => return unsettled("a condition"),
            Kind::Merge | Kind::Rewire { .. } => return unsettled("a merge of entities"),
            Kind::Sweep => return unsettled("what a replica does by itself"),
        };
        let mut out = vec![FORMAT];
        out.extend_from_slice(&self.version.to_bytes());
        out.push(kind);
        put_bytes(&mut out, self.subject.collection.as_bytes());
        put_bytes(&mut out, self.subject.id.as_bytes());
        put_varint(&mut out, parts().count() as u64);
        for Part { entity, delta, condition } in parts() {
            put_bytes(&mut out, &entity.encode());
            out.push(match condition {
                Condition::None => NO_CONDITION,
                Condition::Exists => EXISTS,
                Condition::CreateIfMissing => CREATE_IF_MISSING,
                Condition::Replaces => REPLACES,
                Condition::Matches(_) | Condition::HasSource(_) => return unsettled("a condition"),
            });
            put_bytes(&mut out, &delta.encode());
        }
        Ok(Some(out))
    }

    /// The version of an encoded mutation.
    pub fn version_of(bytes: &[u8]) -> Option<Version> {
        Version::from_bytes(bytes.get(1..=Version::BYTES)?)
    }

    /// The inverse of [`encode`](Self::encode).
    ///
    /// # Errors
    /// If these bytes are no mutation.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut from = Decoder::new(bytes);
        match from.u8()? {
            FORMAT => {}
            other => return Err(DecodeError::Tag(other)),
        }
        let version = from.version()?;
        let kind = match from.u8()? {
            PLAIN => Kind::Plain,
            EDGE => Kind::Edge,
            other => return Err(DecodeError::Tag(other)),
        };
        let subject = EntityRef { collection: from.text()?, id: from.text()? };
        let mut parts = Vec::new();
        for _ in 0..from.count(3)? {
            let entity = EntityKey::decode(from.bytes()?)?;
            let condition = match from.u8()? {
                NO_CONDITION => Condition::None,
                EXISTS => Condition::Exists,
                CREATE_IF_MISSING => Condition::CreateIfMissing,
                REPLACES => Condition::Replaces,
                other => return Err(DecodeError::Tag(other)),
            };
            let delta = EntityState::decode(from.bytes()?)?;
            parts.push(Part { entity, delta, condition });
        }
        from.finish()?;
        Ok(Self { version, subject, kind, parts, bytes: bytes.len() })
    }
}
