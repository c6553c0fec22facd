//! What a segment has of a node: its name, its state, and its edges on both sides.

use crate::{
    codec::{DecodeError, Decoder, put_bytes, put_varint},
    graph::{
        adjacency::{Group, Side},
        nodes::NodeState,
    },
    model::{CollectionId, TenantId, Timestamp},
    row::EntityKey,
};

/// Its state and name were written. Otherwise an older segment tells.
const HAS_STATE: u8 = 1;
const EXISTS: u8 = 2;
const GONE: u8 = 4;
const EXPIRES: u8 = 8;
const WAS_CLEARED: u8 = 16;

/// A node in a segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record<'a> {
    state: Option<(NodeState, Decoder<'a>)>,
    sides: [&'a [u8]; 2],
}

/// Adds a record; `sides` are groups, out and in.
pub(crate) fn put_record(out: &mut Vec<u8>, state: Option<&(EntityKey, NodeState)>, sides: [&[u8]; 2]) {
    match state {
        None => out.push(0),
        Some((name, state)) => {
            let flag = |is_so: bool, flag: u8| if is_so { flag } else { 0 };
            let flags = flag(state.exists, EXISTS)
                | flag(state.gone, GONE)
                | flag(state.expire_at.is_some(), EXPIRES)
                | flag(state.cleared > 0, WAS_CLEARED);
            out.push(HAS_STATE | flags);
            if let Some(at) = state.expire_at {
                out.extend_from_slice(&at.0.to_le_bytes());
            }
            if state.cleared > 0 {
                put_varint(out, state.cleared);
            }
            put_varint(out, name.tenant.0);
            put_varint(out, name.collection.0);
            put_bytes(out, name.id.as_bytes());
        }
    }
    put_bytes(out, sides[0]);
    out.extend_from_slice(sides[1]);
}

impl<'a> Record<'a> {
    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut from = Decoder::new(bytes);
        let flags = from.u8()?;
        let has = |flag: u8| flags & flag != 0;
        if flags >= 2 * WAS_CLEARED {
            return Err(DecodeError::Tag(flags));
        }
        let mut state = None;
        if has(HAS_STATE) {
            let expire_at = if has(EXPIRES) { Some(Timestamp(from.u64_le()? as i64)) } else { None };
            let cleared = if has(WAS_CLEARED) { from.varint()? } else { 0 };
            let known = NodeState { exists: has(EXISTS), gone: has(GONE), expire_at, cleared };
            state = Some((known, from));
            from.varint()?;
            from.varint()?;
            from.bytes()?;
        }
        let out = from.bytes()?;
        Ok(Self { state, sides: [out, from.rest()] })
    }

    /// What the node is as of this segment, if it tells.
    pub(crate) fn state(&self) -> Option<NodeState> {
        self.state.map(|(state, _)| state)
    }

    /// Whose number it is, if the segment tells.
    pub(crate) fn name(&self) -> Result<Option<EntityKey>, DecodeError> {
        let Some((_, mut from)) = self.state else { return Ok(None) };
        let (tenant, collection) = (TenantId(from.varint()?), CollectionId(from.varint()?));
        Ok(Some(EntityKey { tenant, collection, id: from.text()? }))
    }

    pub(crate) fn has_edges(&self, side: Side) -> bool {
        !self.sides[side as usize].is_empty()
    }

    /// Its edges on a side, by relations in the order of their numbers.
    pub(crate) fn groups(&self, side: Side) -> Groups<'a> {
        Groups(Decoder::new(self.sides[side as usize]))
    }
}

/// The groups of a side.
#[derive(Clone, Debug)]
pub(crate) struct Groups<'a>(Decoder<'a>);

impl<'a> Iterator for Groups<'a> {
    type Item = Result<Group<'a>, DecodeError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.0.len() == 0 {
            return None;
        }
        let group = Group::take(&mut self.0);
        if group.is_err() {
            self.0.rest();
        }
        Some(group)
    }
}
