//! Edges as the graph index has them, and how those of one relation at one side of a node lie in a segment.
//!
//! Columns, each of one width, sorted by the other end, so that an edge is found by bisection and all are read in one
//! sweep. Most graphs need the first column alone: weights that are all 1, times and ids that nobody gave take no room.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use crate::{
    codec::{DecodeError, Decoder, put_varint},
    model::{Direction, Timestamp},
};

/// Which end of an edge it is seen from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) enum Side {
    /// From its source.
    Out,
    /// From its target.
    In,
}

impl Side {
    /// The other end.
    pub(crate) fn opposite(self) -> Self {
        match self {
            Self::Out => Self::In,
            Self::In => Self::Out,
        }
    }
}

impl From<Side> for Direction {
    fn from(side: Side) -> Self {
        if side == Side::Out { Self::Out } else { Self::In }
    }
}

/// What tells an edge apart from all others of a node on one side.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct EdgeName {
    pub(crate) relation: u32,
    /// The node at the other end.
    pub(crate) other: u64,
    pub(crate) edge_id: Box<str>,
}

/// What walks need to know of an edge beyond its name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct EdgeValue {
    pub(crate) weight: f64,
    pub(crate) valid_from: Option<Timestamp>,
    pub(crate) valid_to: Option<Timestamp>,
}

impl EdgeValue {
    /// Whether it holds at `time`.
    pub(crate) fn holds_at(&self, time: Timestamp) -> bool {
        self.valid_from.is_none_or(|from| from <= time) && self.valid_to.is_none_or(|to| time < to)
    }
}

/// Groups of more edges than this also have their order by weight.
const ORDERED_FROM: usize = 64;

const HAS_DEAD: u8 = 1;
const ONE_WEIGHT: u8 = 2;
const SHORT_WEIGHTS: u8 = 4;
const WEIGHTS: u8 = 8;
const HAS_TIMES: u8 = 16;
const HAS_IDS: u8 = 32;
const HAS_ORDER: u8 = 64;

/// The edges of one relation at one side of a node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group<'a> {
    pub(crate) relation: u32,
    len: usize,
    base: u64,
    width: usize,
    others: &'a [u8],
    /// A bit for each edge that is no more.
    dead: Option<&'a [u8]>,
    weights: Weights<'a>,
    /// When each begins and ends to hold.
    times: Option<(&'a [u8], &'a [u8])>,
    /// Where each id ends, and all of them.
    ids: Option<(&'a [u8], &'a [u8])>,
    /// Places by weight, heaviest first.
    order: Option<&'a [u8]>,
}

#[derive(Clone, Copy, Debug)]
enum Weights<'a> {
    All(f64),
    Short(&'a [u8]),
    Long(&'a [u8]),
}

/// Adds a group of edges that all have one relation, in the order of their names; those without a value are no more.
pub(crate) fn put_group(out: &mut Vec<u8>, edges: &[(EdgeName, Option<EdgeValue>)]) {
    let Some((first, _)) = edges.first() else { return };
    let others = || edges.iter().map(|(name, _)| name.other);
    let base = first.other;
    let spread = others().max().unwrap_or(base) - base;
    let width = (64 - spread.leading_zeros() as usize).div_ceil(8).max(1);
    let values = || edges.iter().map(|(_, value)| value);
    let weights: Vec<f64> = values().map(|value| value.map_or(1.0, |value| value.weight)).collect();
    let is_same = weights.iter().all(|weight| weight.to_bits() == weights[0].to_bits());
    let is_short = weights.iter().all(|weight| f64::from(*weight as f32).to_bits() == weight.to_bits());
    let has_times = values().flatten().any(|value| value.valid_from.or(value.valid_to).is_some());
    let mut flags = match (is_same, is_short) {
        (true, _) if weights[0] == 1.0 => 0,
        (true, _) => ONE_WEIGHT,
        (false, true) => SHORT_WEIGHTS,
        (false, false) => WEIGHTS,
    };
    let flag = |is_so: bool, flag: u8| if is_so { flag } else { 0 };
    flags |= flag(values().any(Option::is_none), HAS_DEAD);
    flags |= flag(has_times, HAS_TIMES);
    flags |= flag(edges.iter().any(|(name, _)| !name.edge_id.is_empty()), HAS_IDS);
    flags |= flag(!is_same && edges.len() > ORDERED_FROM, HAS_ORDER);
    put_varint(out, u64::from(first.relation));
    out.push(flags);
    put_varint(out, edges.len() as u64);
    put_varint(out, base);
    out.push(width as u8);
    others().for_each(|other| out.extend_from_slice(&(other - base).to_le_bytes()[..width]));
    if flags & HAS_DEAD != 0 {
        for eight in edges.chunks(8) {
            let bits = eight.iter().enumerate().map(|(at, (_, value))| u8::from(value.is_none()) << at);
            out.push(bits.sum());
        }
    }
    match flags & (ONE_WEIGHT | SHORT_WEIGHTS | WEIGHTS) {
        ONE_WEIGHT => out.extend_from_slice(&weights[0].to_le_bytes()),
        SHORT_WEIGHTS => {
            weights.iter().for_each(|weight| out.extend_from_slice(&(*weight as f32).to_le_bytes()))
        }
        WEIGHTS => weights.iter().for_each(|weight| out.extend_from_slice(&weight.to_le_bytes())),
        _ => {}
    }
    if has_times {
        let time = |time: Option<Timestamp>, none: i64| time.map_or(none, |time| time.0).to_le_bytes();
        let from = |value: &Option<EdgeValue>| time(value.and_then(|value| value.valid_from), i64::MIN);
        let to = |value: &Option<EdgeValue>| time(value.and_then(|value| value.valid_to), i64::MAX);
        values().for_each(|value| out.extend_from_slice(&from(value)));
        values().for_each(|value| out.extend_from_slice(&to(value)));
    }
    if flags & HAS_IDS != 0 {
        let mut end = 0_u64;
        for (name, _) in edges {
            end += name.edge_id.len() as u64;
            out.extend_from_slice(&end.to_le_bytes());
        }
        edges.iter().for_each(|(name, _)| out.extend_from_slice(name.edge_id.as_bytes()));
    }
    if flags & HAS_ORDER != 0 {
        let mut order: Vec<u32> = (0..edges.len() as u32).collect();
        order.sort_by(|a, b| weights[*b as usize].total_cmp(&weights[*a as usize]));
        order.iter().for_each(|at| out.extend_from_slice(&at.to_le_bytes()));
    }
}

fn item<const N: usize>(column: &[u8], at: usize) -> [u8; N] {
    column.get(N * at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}

impl<'a> Group<'a> {
    /// Takes a group off the front.
    pub(crate) fn take(from: &mut Decoder<'a>) -> Result<Self, DecodeError> {
        let relation = u32::try_from(from.varint()?).map_err(|_| DecodeError::Range)?;
        let flags = from.u8()?;
        let len = from.count(1)?;
        let base = from.varint()?;
        let width = usize::from(from.u8()?);
        if len == 0 || !(1..=8).contains(&width) || flags & !(HAS_ORDER * 2 - 1) != 0 {
            return Err(DecodeError::Tag(flags));
        }
        let has = |flag: u8| flags & flag != 0;
        let others = from.take(len * width)?;
        let dead = if has(HAS_DEAD) { Some(from.take(len.div_ceil(8))?) } else { None };
        let weights = match flags & (ONE_WEIGHT | SHORT_WEIGHTS | WEIGHTS) {
            0 => Weights::All(1.0),
            ONE_WEIGHT => Weights::All(from.f64_le()?),
            SHORT_WEIGHTS => Weights::Short(from.take(4 * len)?),
            WEIGHTS => Weights::Long(from.take(8 * len)?),
            _ => return Err(DecodeError::Tag(flags)),
        };
        let times = if has(HAS_TIMES) { Some((from.take(8 * len)?, from.take(8 * len)?)) } else { None };
        let ids = match has(HAS_IDS) {
            false => None,
            true => {
                let ends = from.take(8 * len)?;
                let all = u64::from_le_bytes(item(ends, len - 1));
                Some((ends, from.take(usize::try_from(all).map_err(|_| DecodeError::Range)?)?))
            }
        };
        let order = if has(HAS_ORDER) { Some(from.take(4 * len)?) } else { None };
        Ok(Self { relation, len, base, width, others, dead, weights, times, ids, order })
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The node at the other end of the edge at a place.
    #[inline]
    pub(crate) fn other(&self, at: usize) -> u64 {
        let all = self.others;
        // For the compiler to see that the common widths are single loads.
        self.base
            + match self.width {
                1 => u64::from(all[at]),
                2 => u64::from(u16::from_le_bytes(item(all, at))),
                3 => {
                    let [a, b, c]: [u8; 3] = item(all, at);
                    u64::from(u32::from_le_bytes([a, b, c, 0]))
                }
                4 => u64::from(u32::from_le_bytes(item(all, at))),
                width => {
                    let mut bytes = [0; 8];
                    bytes[..width].copy_from_slice(&all[at * width..][..width]);
                    u64::from_le_bytes(bytes)
                }
            }
    }

    #[inline]
    pub(crate) fn is_dead(&self, at: usize) -> bool {
        self.dead.is_some_and(|dead| dead[at / 8] & 1 << (at % 8) != 0)
    }

    pub(crate) fn weight(&self, at: usize) -> f64 {
        match self.weights {
            Weights::All(weight) => weight,
            Weights::Short(weights) => f32::from_le_bytes(item(weights, at)).into(),
            Weights::Long(weights) => f64::from_le_bytes(item(weights, at)),
        }
    }

    pub(crate) fn value(&self, at: usize) -> EdgeValue {
        let (mut valid_from, mut valid_to) = (None, None);
        if let Some((from, to)) = self.times {
            let (from, to) = (i64::from_le_bytes(item(from, at)), i64::from_le_bytes(item(to, at)));
            valid_from = (from != i64::MIN).then_some(Timestamp(from));
            valid_to = (to != i64::MAX).then_some(Timestamp(to));
        }
        EdgeValue { weight: self.weight(at), valid_from, valid_to }
    }

    /// Whether nothing is to be known of its edges but their other ends.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        self.dead.is_none() && self.times.is_none()
    }

    /// The one weight that all have, if they do.
    pub(crate) fn one_weight(&self) -> Option<f64> {
        if let Weights::All(weight) = self.weights { Some(weight) } else { None }
    }

    pub(crate) fn edge_id(&self, at: usize) -> &'a str {
        let Some((ends, all)) = self.ids else { return "" };
        let end = |at: usize| u64::from_le_bytes(item(ends, at)) as usize;
        let start = if at == 0 { 0 } else { end(at - 1) };
        all.get(start..end(at)).and_then(|id| std::str::from_utf8(id).ok()).unwrap_or_default()
    }

    /// The place of the `nth` heaviest edge, if places by weight are kept.
    pub(crate) fn heaviest(&self, nth: usize) -> Option<usize> {
        let at = u32::from_le_bytes(item(self.order?, nth)) as usize;
        Some(at.min(self.len.saturating_sub(1)))
    }

    /// Whether there is an edge of this name, be it dead.
    pub(crate) fn has(&self, other: u64, edge_id: &str) -> bool {
        let (mut low, mut high) = (0, self.len);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.other(middle).cmp(&other).then_with(|| self.edge_id(middle).cmp(edge_id)) {
                Ordering::Equal => return true,
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
            }
        }
        false
    }

    pub(crate) fn name(&self, at: usize) -> EdgeName {
        EdgeName { relation: self.relation, other: self.other(at), edge_id: self.edge_id(at).into() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn edges() -> impl Strategy<Value = Vec<(EdgeName, Option<EdgeValue>)>> {
        let time = || proptest::option::of((-9..9_i64).prop_map(Timestamp));
        let weight = prop_oneof![Just(1.0), Just(0.5), Just(0.1), 0.0..1.0];
        let value = (weight, time(), time()).prop_map(|(weight, valid_from, valid_to)| EdgeValue {
            weight,
            valid_from,
            valid_to,
        });
        let other = prop_oneof![0..20_u64, 1_u64 << 20..1 << 40, any::<u64>()];
        let names = (other, "[ab]{0,2}");
        prop::collection::btree_map(names, proptest::option::of(value), 1..200).prop_map(|edges| {
            let named = |(other, id): (u64, String)| EdgeName { relation: 7, other, edge_id: id.into() };
            edges.into_iter().map(|(name, value)| (named(name), value)).collect()
        })
    }

    proptest! {
        #[test]
        fn groups_survive_their_encoding(edges in edges()) {
            let mut bytes = Vec::new();
            put_group(&mut bytes, &edges);
            put_group(&mut bytes, &edges);
            let mut from = Decoder::new(&bytes);
            Group::take(&mut from).expect("our own");
            let group = Group::take(&mut from).expect("our own");
            prop_assert_eq!(from.len(), 0);
            prop_assert_eq!(group.len(), edges.len());
            for (at, (name, value)) in edges.iter().enumerate() {
                prop_assert_eq!(&group.name(at), name);
                prop_assert_eq!(group.is_dead(at), value.is_none());
                prop_assert!(group.has(name.other, &name.edge_id));
                prop_assert!(!group.has(name.other, "c"));
                if let Some(value) = value {
                    prop_assert_eq!(&group.value(at), value);
                }
            }
            if group.heaviest(0).is_some() {
                let mut places: Vec<usize> = (0..edges.len()).filter_map(|nth| group.heaviest(nth)).collect();
                prop_assert!(places.windows(2).all(|pair| group.weight(pair[0]) >= group.weight(pair[1])));
                places.sort_unstable();
                prop_assert_eq!(places, (0..edges.len()).collect::<Vec<_>>());
            }
        }

        #[test]
        fn garbage_is_no_group(mut bytes in prop::collection::vec(any::<u8>(), 0..80), edges in edges(), cut: prop::sample::Index) {
            if let Ok(group) = Group::take(&mut Decoder::new(&bytes)) {
                prop_assert!(group.len() > 0);
            }
            bytes.clear();
            put_group(&mut bytes, &edges);
            let cut = cut.index(bytes.len());
            prop_assert!(Group::take(&mut Decoder::new(&bytes[..cut])).is_err());
            bytes[cut] ^= 0x55;
            if let Ok(group) = Group::take(&mut Decoder::new(&bytes)) {
                for at in 0..group.len() {
                    drop((group.name(at), group.value(at), group.is_dead(at), group.heaviest(at)));
                }
            }
        }
    }
}
