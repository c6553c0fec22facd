//! The newest vector of an entity or chunk in a space.

use std::sync::Arc;

use crate::{
    codec::{DecodeError, Decoder},
    row::Content,
};

/// Little-endian f32 to the end of the row; shared with the index that searches it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct VectorContent(pub(crate) Arc<[f32]>);

impl Content for VectorContent {
    fn encode(&self, out: &mut Vec<u8>) {
        out.reserve(self.0.len() * 4);
        out.extend(self.0.iter().flat_map(|number| number.to_le_bytes()));
    }

    fn decode(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let (numbers, rest) = from.rest().as_chunks::<4>();
        if !rest.is_empty() {
            return Err(DecodeError::Trailing);
        }
        Ok(Self(numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()))
    }
}
