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
    graph::Side,
    merge::{EntityState, Register},
};

const ENTITY: u8 = 1;
const VECTOR: u8 = 2;
const CHUNK: u8 = 3;
const EDGE: u8 = 4;
const EDGE_IN: u8 = 5;

/// A state that is put together row by row, in this order: the entity, vectors, chunks, edges, edges that lead here.
pub(crate) struct StateRows(Vec<u8>);

impl StateRows {
    pub(crate) fn new() -> Self {
        Self(vec![FORMAT])
    }

    fn put(&mut self, kind: u8, key: &[u8], value: &[u8]) {
        self.0.push(kind);
        put_bytes(&mut self.0, key);
        put_bytes(&mut self.0, value);
    }

    pub(crate) fn put_entity(&mut self, row: &[u8]) {
        self.put(ENTITY, &[], row);
    }

    /// `name` is what follows the entity in the key of the row.
    pub(crate) fn put_vector(&mut self, name: &[u8], register: &[u8]) {
        self.put(VECTOR, name, register);
    }

    pub(crate) fn put_chunk(&mut self, id: &str, register: &[u8]) {
        self.put(CHUNK, id.as_bytes(), register);
    }

    /// `name` is what follows the entity in the key of the row.
    pub(crate) fn put_edge(&mut self, side: Side, name: &[u8], register: &[u8]) {
        let kind = match side {
            Side::Out => EDGE,
            Side::In => EDGE_IN,
        };
        self.put(kind, name, register);
    }

    /// The state, encoded.
    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }
}

impl EntityState {
    /// Equal states have equal bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut rows = StateRows::new();
        let mut name = Vec::new();
        if self.row != EntityRow::default() {
            rows.put_entity(&self.row.encode());
        }
        for (vector, register) in &self.vectors {
            name.clear();
            put_vector(&mut name, vector);
            rows.put_vector(&name, &encode_register(register));
        }
        for (id, register) in &self.chunks {
            rows.put_chunk(id, &encode_register(register));
        }
        for (side, edges) in [(Side::Out, &self.edges), (Side::In, &self.edges_in)] {
            for (edge, register) in edges {
                name.clear();
                put_edge(&mut name, edge);
                rows.put_edge(side, &name, &encode_register(register));
            }
        }
        rows.finish()
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
