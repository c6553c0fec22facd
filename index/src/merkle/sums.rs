//! What rows add up to.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use super::LEAVES;
use crate::{
    graph::Side,
    merge::Register,
    model::Value,
    placement::{PARTITIONS, partition_of},
    row::{Content, EntityKey, EntityRow, Scope, encode_register, register_is_live},
    version::Version,
};

/// Rows added up: hashes of what is there and of what tells that something is gone, apart. The order in which rows came does not matter, and one
/// that is taken away is as if it had never been (an incremental multiset hash: Clarke et al., "Incremental Multiset Hash Functions", 2003).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sum {
    live: u128,
    dead: u128,
}

impl Sum {
    /// Whether the same is there, whatever tells that something is gone.
    pub fn is_there_alike(&self, other: &Self) -> bool {
        self.live == other.live
    }

    /// What is there comes to.
    pub fn there(&self) -> u128 {
        self.live
    }

    fn of(hash: u128, is_live: bool) -> Self {
        match is_live {
            true => Self { live: hash, dead: 0 },
            false => Self { live: 0, dead: hash },
        }
    }

    /// All of them together.
    pub(crate) fn total(sums: &[Self]) -> Self {
        let mut total = Self::default();
        sums.iter().for_each(|sum| total.add(*sum));
        total
    }

    /// With what another one is of.
    pub(super) fn add(&mut self, other: Self) {
        self.live = self.live.wrapping_add(other.live);
        self.dead = self.dead.wrapping_add(other.dead);
    }

    /// Without it.
    fn subtract(&mut self, other: Self) {
        self.live = self.live.wrapping_sub(other.live);
        self.dead = self.dead.wrapping_sub(other.dead);
    }
}

/// What a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Entity,
    Chunk,
    Vector,
    Edge,
    EdgeIn,
}

/// What an edge is at one of its ends.
pub(crate) fn kind_of(side: Side) -> Kind {
    match side {
        Side::Out => Kind::Edge,
        Side::In => Kind::EdgeIn,
    }
}

/// A place in the trees: a partition, and a leaf of its tree.
pub(crate) type Place = (u16, u16);

/// Where an entity's rows are added up: by its token, so that a leaf is a range of tokens.
pub(crate) fn place_of(entity: &EntityKey) -> Place {
    let token = entity.token();
    (partition_of(token), leaf_of(token))
}

/// The leaf of a token: the bits below its partition's.
pub(crate) fn leaf_of(token: u64) -> u16 {
    let below = token << PARTITIONS.ilog2();
    (below >> (u64::BITS - LEAVES.ilog2())) as u16
}

/// The tokens of a leaf: the first, and the last.
pub(crate) fn tokens_of((partition, leaf): Place) -> (u64, u64) {
    let bits = PARTITIONS.ilog2() + LEAVES.ilog2();
    let number = (u64::from(partition) << LEAVES.ilog2()) | u64::from(leaf);
    let first = number << (u64::BITS - bits);
    (first, first | (u64::MAX >> bits))
}

/// What a batch changes of the sums, if they are kept. Rows beneath a marker count as if they were not there, swept or not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    seed: u64,
    pub(crate) by_place: BTreeMap<Place, Sum>,
}

impl Sums {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, by_place: BTreeMap::new() }
    }

    fn hash(&self, kind: Kind, key: &[u8], value: &[u8]) -> u128 {
        let mut hash = Xxh3::with_seed(self.seed);
        hash.update(&[kind as u8]);
        hash.update(&(key.len() as u64).to_le_bytes());
        hash.update(key);
        hash.update(value);
        hash.digest128()
    }

    /// With a register as it is stored.
    pub(crate) fn add_row(&mut self, place: Place, kind: Kind, key: &[u8], value: &[u8]) {
        let sum = Sum::of(self.hash(kind, key, value), register_is_live(value));
        self.by_place.entry(place).or_default().add(sum);
    }

    /// Without one.
    pub(crate) fn subtract_row(&mut self, place: Place, kind: Kind, key: &[u8], value: &[u8]) {
        let sum = Sum::of(self.hash(kind, key, value), register_is_live(value));
        self.by_place.entry(place).or_default().subtract(sum);
    }

    /// Fields of what is there that say that they are gone count by themselves, as they go by themselves. So do all puts but the first, which says
    /// when it was created: how many are kept differs from a ring to a node that is alone.
    fn of_entity(&self, entity: &EntityKey, row: &EntityRow) -> Sum {
        let is_gone = |register: &Register<Value>| register.value.is_none();
        let hash = |row: &EntityRow| self.hash(Kind::Entity, &entity.prefix(), &row.encode());
        if *row == EntityRow::default() {
            return Sum::default();
        }
        if !row.exists() || (row.puts.len() <= 1 && !row.fields.values().any(is_gone)) {
            return Sum::of(hash(row), row.exists());
        }
        let mut there = row.clone();
        let mut total = Sum::default();
        for (field, register) in there.fields.extract_if(.., |_, register| is_gone(register)) {
            let mut of_field = EntityRow::default();
            of_field.fields.insert(field, register);
            total.add(Sum::of(hash(&of_field), false));
        }
        for put in there.puts.drain(1.min(row.puts.len())..) {
            let mut of_put = EntityRow::default();
            of_put.puts.push(put);
            total.add(Sum::of(hash(&of_put), false));
        }
        total.add(Sum::of(hash(&there), true));
        total
    }

    /// Without all that comes to this.
    pub(crate) fn subtract_sum(&mut self, place: Place, sum: Sum) {
        self.by_place.entry(place).or_default().subtract(sum);
    }

    /// With an entity's own row.
    pub(crate) fn add_entity(&mut self, place: Place, entity: &EntityKey, row: &EntityRow) {
        let sum = self.of_entity(entity, row);
        self.by_place.entry(place).or_default().add(sum);
    }

    /// An entity's own row changes.
    pub(crate) fn change_entity(&mut self, entity: &EntityKey, before: &EntityRow, after: &EntityRow) {
        if before != after {
            let (was, is) = (self.of_entity(entity, before), self.of_entity(entity, after));
            let sum = self.by_place.entry(place_of(entity)).or_default();
            sum.subtract(was);
            sum.add(is);
        }
    }

    /// Registers of one kind change, and the entity's own row, whose markers may cover them.
    pub(crate) fn change<K: Ord, C: Content + PartialEq>(
        &mut self,
        kind: Kind,
        entity: &EntityKey,
        row_key: impl Fn(&K) -> Vec<u8>,
        (was_of, was): (&EntityRow, &BTreeMap<K, Register<C>>),
        (is_of, is): (&EntityRow, &BTreeMap<K, Register<C>>),
    ) {
        if was.is_empty() && is.is_empty() {
            return;
        }
        let place = place_of(entity);
        let (was_cleared, is_cleared) = (cleared(was_of, kind), cleared(is_of, kind));
        let counts = |register: &&Register<C>, cleared: Version| register.version > cleared;
        for (name, register) in was {
            let new = is.get(name).filter(|register| counts(register, is_cleared));
            if counts(&register, was_cleared) && new != Some(register) {
                self.subtract_row(place, kind, &row_key(name), &encode_register(register));
            }
        }
        for (name, register) in is {
            let old = was.get(name).filter(|register| counts(register, was_cleared));
            if counts(&register, is_cleared) && old != Some(register) {
                self.add_row(place, kind, &row_key(name), &encode_register(register));
            }
        }
    }

    /// Whether they come to what was before.
    pub(crate) fn is_nothing(&self) -> bool {
        self.by_place.values().all(|sum| *sum == Sum::default())
    }
}

/// Up to which version rows of a kind are covered by a marker.
pub(crate) fn cleared(row: &EntityRow, kind: Kind) -> Version {
    match kind {
        Kind::Entity => Version::ZERO,
        Kind::Chunk | Kind::Vector => row.cleared(Scope::Entity),
        Kind::Edge | Kind::EdgeIn => row.cleared(Scope::Edges),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{CollectionId, TenantId},
        row::Field,
    };

    #[test]
    fn a_leaf_is_a_range_of_tokens() {
        for number in 0..1_000 {
            let entity = EntityKey::new(TenantId::DEFAULT, CollectionId(7), &format!("e-{number}"));
            let (first, last) = tokens_of(place_of(&entity));
            assert!((first..=last).contains(&entity.token()));
            assert_eq!(partition_of(first), partition_of(last));
        }
        assert_eq!(tokens_of((PARTITIONS - 1, LEAVES - 1)).1, u64::MAX);
        assert_eq!(tokens_of((0, 1)).0, tokens_of((0, 0)).1 + 1);
    }

    #[test]
    fn how_many_puts_are_kept_changes_nothing_of_what_is_there() {
        let entity = EntityKey::new(TenantId::DEFAULT, CollectionId(7), "e");
        let version = |ms| Version::new(ms, 0, 1);
        let of = |puts: &[u64]| {
            let mut row = EntityRow::default();
            row.puts.extend(puts.iter().map(|ms| version(*ms)));
            let value = Register { version: version(9), value: Some(Value::Int(1)) };
            row.fields.insert(Field::Existence, value);
            Sums::new(1).of_entity(&entity, &row)
        };
        let all = of(&[3, 5, 9]);
        assert!(of(&[3]).is_there_alike(&all) && of(&[3, 9]).is_there_alike(&all));
        assert!(!of(&[5, 9]).is_there_alike(&all), "it was created at another time");
        // Replicas that keep other puts are told apart nevertheless.
        assert!(of(&[3]) != all && of(&[3, 9]) != all && of(&[3, 9]) != of(&[3, 5]));
    }

    #[test]
    fn what_is_taken_away_was_never_there() {
        let mut sums = Sums::new(1);
        let rows: Vec<[u8; 2]> = (0..10).map(|n| [n, n]).collect();
        rows.iter().for_each(|row| sums.add_row((1, 2), Kind::Edge, row, &[]));
        let whole = sums.clone();
        sums.add_row((1, 2), Kind::EdgeIn, &rows[0], &[]);
        assert_ne!(sums, whole, "another kind is another row");
        sums.subtract_row((1, 2), Kind::EdgeIn, &rows[0], &[]);
        assert_eq!(sums, whole);
        rows.iter().rev().for_each(|row| sums.subtract_row((1, 2), Kind::Edge, row, &[]));
        assert!(sums.is_nothing());
    }
}
