//! Whose a vector is, as the index keeps it: so that a search needs no row to tell.

use crate::codec::{DecodeError, Decoder, put_escaped};

/// An entity of the space's collection, and the chunk of it; empty: the entity itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) id: String,
    pub(crate) chunk: String,
}

impl Owner {
    /// Both escaped, one after the other.
    pub(crate) fn encode(id: &str, chunk: &str) -> Box<[u8]> {
        let mut out = Vec::with_capacity(id.len() + chunk.len() + 4);
        put_escaped(&mut out, id);
        put_escaped(&mut out, chunk);
        out.into()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Owner, DecodeError> {
        let mut from = Decoder::new(bytes);
        let owner = Owner { id: from.escaped()?, chunk: from.escaped()? };
        from.finish()?;
        Ok(owner)
    }
}
