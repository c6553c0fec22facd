//! Rows of an entity together, as nodes tell them to each other and keep them for each other: each as it lies in the store, after its
//! key without the entity's name.

use std::collections::BTreeMap;

use xxhash_rust::xxh3::xxh3_128;

use super::{
    Content, EntityRow, FORMAT, decode_register, encode_register,
    key::{put_edge, put_vector, take_edge, take_vector},
};
use crate::{
    codec::{DecodeError, Decoder, put_bytes},
    merge::{EntityState, Register},
};

const ENTITY: u8 = 1;
const VECTOR: u8 = 2;
const CHUNK: u8 = 3;
const EDGE: u8 = 4;
const EDGE_IN: u8 = 5;

impl EntityState {
    /// Equal states have equal bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        let mut key = Vec::new();
        let mut put = |kind: u8, key: &mut Vec<u8>, value: &[u8]| {
            out.push(kind);
            put_bytes(&mut out, key);
            put_bytes(&mut out, value);
            key.clear();
        };
        if self.row != EntityRow::default() {
            put(ENTITY, &mut key, &self.row.encode());
        }
        for (name, register) in &self.vectors {
            put_vector(&mut key, name);
            put(VECTOR, &mut key, &encode_register(register));
        }
        for (name, register) in &self.chunks {
            key.extend_from_slice(name.as_bytes());
            put(CHUNK, &mut key, &encode_register(register));
        }
        for (kind, edges) in [(EDGE, &self.edges), (EDGE_IN, &self.edges_in)] {
            for (name, register) in edges {
                put_edge(&mut key, name);
                put(kind, &mut key, &encode_register(register));
            }
        }
        out
    }

    /// The inverse of [`encode`](Self::encode).
    ///
    /// # Errors
    /// If these bytes are no state.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut from = Decoder::new(bytes);
        match from.u8()? {
            FORMAT => {}
            other => return Err(DecodeError::Tag(other)),
        }
        let mut state = Self::default();
        while from.len() > 0 {
            let kind = from.u8()?;
            let mut key = Decoder::new(from.bytes()?);
            let value = from.bytes()?;
            match kind {
                ENTITY => state.row = EntityRow::decode(value)?,
                VECTOR => insert(&mut state.vectors, take_vector(&mut key)?, value)?,
                CHUNK => {
                    let name = std::str::from_utf8(key.rest()).map_err(|_| DecodeError::Utf8)?;
                    insert(&mut state.chunks, name.to_owned(), value)?;
                }
                EDGE => insert(&mut state.edges, take_edge(&mut key)?, value)?,
                EDGE_IN => insert(&mut state.edges_in, take_edge(&mut key)?, value)?,
                other => return Err(DecodeError::Tag(other)),
            }
            key.finish()?;
        }
        Ok(state)
    }

    /// Tells states apart without their rows: equal states have equal digests, and others have others, but by a chance of one in 2¹²⁸.
    pub fn digest(&self) -> u128 {
        xxh3_128(&self.encode())
    }
}

fn insert<K: Ord, C: Content>(
    into: &mut BTreeMap<K, Register<C>>,
    key: K,
    value: &[u8],
) -> Result<(), DecodeError> {
    into.insert(key, decode_register(value)?);
    Ok(())
}
