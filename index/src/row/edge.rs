//! An edge's weight, attributes and valid time; the same in `edge` and `edge_in`.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    codec::{DecodeError, Decoder},
    model::{Timestamp, Value},
    row::{
        Content,
        value::{put_map, put_names, take_map, take_names},
    },
};

const HAS_VALID_FROM: u8 = 1;
const HAS_VALID_TO: u8 = 2;

/// An edge without the names of its ends.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct EdgeContent {
    pub(crate) weight: f64,
    pub(crate) attributes: BTreeMap<String, Value>,
    pub(crate) valid_from: Option<Timestamp>,
    pub(crate) valid_to: Option<Timestamp>,
    pub(crate) sources: BTreeSet<String>,
}

impl Content for EdgeContent {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.weight.to_le_bytes());
        let from_flag = if self.valid_from.is_some() { HAS_VALID_FROM } else { 0 };
        let to_flag = if self.valid_to.is_some() { HAS_VALID_TO } else { 0 };
        out.push(from_flag | to_flag);
        for time in [self.valid_from, self.valid_to].into_iter().flatten() {
            out.extend_from_slice(&time.0.to_le_bytes());
        }
        put_map(out, &self.attributes);
        put_names(out, &self.sources);
    }

    fn decode(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let weight = from.f64_le()?;
        let flags = from.u8()?;
        if flags & !(HAS_VALID_FROM | HAS_VALID_TO) != 0 {
            return Err(DecodeError::Tag(flags));
        }
        let mut time = |flag: u8| -> Result<Option<Timestamp>, DecodeError> {
            if flags & flag == 0 { Ok(None) } else { Ok(Some(Timestamp(from.u64_le()? as i64))) }
        };
        let (valid_from, valid_to) = (time(HAS_VALID_FROM)?, time(HAS_VALID_TO)?);
        Ok(Self { weight, valid_from, valid_to, attributes: take_map(from)?, sources: take_names(from)? })
    }
}
