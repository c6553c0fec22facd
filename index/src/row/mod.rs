//! Rows: the pieces of an entity as they lie in the storage engine.
//!
//! Keys are order-preserving, so that within a partition all rows of an entity are neighbours and entities
//! are in the order of their ids. Values carry a format version. `docs/format.md` has the byte tables.

mod chunk;
mod edge;
mod entity;
#[cfg(test)]
mod golden;
pub(crate) mod key;
mod state;
mod stored;
mod value;
mod vector;

pub(crate) use chunk::ChunkContent;
pub(crate) use edge::EdgeContent;
pub(crate) use entity::{EntityRow, Field, Scope};
pub use key::EntityKey;
pub(crate) use key::{ChunkKey, EdgeKey, VectorKey};
pub(crate) use state::StateRows;
pub(crate) use stored::StoredRow;
pub(crate) use value::put_value;
pub(crate) use vector::VectorContent;

pub(crate) use crate::codec::DecodeError;
use crate::{codec::Decoder, merge::Register, version::Version};

/// The first byte of every row value.
pub(crate) const FORMAT: u8 = 1;
const TOMBSTONE: u8 = 0;
const LIVE: u8 = 1;

/// What a register row holds.
pub(crate) trait Content: Sized {
    fn encode(&self, out: &mut Vec<u8>);
    fn decode(from: &mut Decoder<'_>) -> Result<Self, DecodeError>;
}

/// Format, version, live or tombstone, content.
pub(crate) fn encode_register<C: Content>(register: &Register<C>) -> Vec<u8> {
    let mut out = vec![FORMAT];
    out.extend_from_slice(&register.version.to_bytes());
    match &register.value {
        None => out.push(TOMBSTONE),
        Some(content) => {
            out.push(LIVE);
            content.encode(&mut out);
        }
    }
    // The store keeps it as it is until it is flushed.
    out.shrink_to_fit();
    out
}

pub(crate) fn decode_register<C: Content>(bytes: &[u8]) -> Result<Register<C>, DecodeError> {
    let mut from = Decoder::new(bytes);
    let version = register_head(&mut from)?;
    let value = match from.u8()? {
        TOMBSTONE => None,
        LIVE => Some(C::decode(&mut from)?),
        tag => return Err(DecodeError::Tag(tag)),
    };
    from.finish()?;
    Ok(Register { version, value })
}

/// The version of a register, of which the rest is not read.
pub(crate) fn register_version(bytes: &[u8]) -> Result<Version, DecodeError> {
    register_head(&mut Decoder::new(bytes))
}

/// Whether a register has a value, of which the rest is not read.
pub(crate) fn register_is_live(bytes: &[u8]) -> bool {
    bytes.get(1 + Version::BYTES) == Some(&LIVE)
}

fn register_head(from: &mut Decoder<'_>) -> Result<Version, DecodeError> {
    match from.u8()? {
        FORMAT => from.version(),
        other => Err(DecodeError::Tag(other)),
    }
}
