//! A chunk's text and metadata. Its vectors are rows of their own.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    codec::{DecodeError, Decoder, put_bytes},
    model::Value,
    row::{
        Content,
        value::{put_map, put_names, take_map, take_names},
    },
};

/// A chunk without its vectors.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ChunkContent {
    pub(crate) text: String,
    pub(crate) metadata: BTreeMap<String, Value>,
    pub(crate) sources: BTreeSet<String>,
}

impl Content for ChunkContent {
    fn encode(&self, out: &mut Vec<u8>) {
        put_bytes(out, self.text.as_bytes());
        put_map(out, &self.metadata);
        put_names(out, &self.sources);
    }

    fn decode(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(Self { text: from.text()?, metadata: take_map(from)?, sources: take_names(from)? })
    }
}
