//! The one merge function: what two states of an entity's rows come to.
//!
//! It is commutative, associative and idempotent, so that replicas that saw the same writes in any order,
//! any number of times, hold the same. The same function runs in writes, in reads over replicas, in read
//! repair, in hint replay and in anti-entropy.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, btree_map::Entry},
};

use crate::{
    model::Value,
    row::{
        ChunkContent, ChunkKey, Content, EdgeContent, EdgeKey, EntityRow, Field, Scope, VectorContent,
        VectorKey,
    },
    version::Version,
};

/// A value or its tombstone, with the version of the write that made it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Register<T> {
    pub(crate) version: Version,
    /// `None`: a tombstone.
    pub(crate) value: Option<T>,
}

/// Values whose encoded forms can be compared, to break a tie of versions.
pub(crate) trait TieBreak {
    fn tie_bytes(&self) -> Vec<u8>;
}

impl<C: Content> TieBreak for C {
    fn tie_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode(&mut out);
        out
    }
}

impl TieBreak for Value {
    fn tie_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        crate::row::put_value(&mut out, self);
        out
    }
}

impl<T: TieBreak> Register<T> {
    /// The higher version wins; at equal versions a tombstone beats a value, then the greater bytes win.
    pub(crate) fn merge(&mut self, other: Self) {
        let order = other.version.cmp(&self.version).then_with(|| match (&other.value, &self.value) {
            (None, None) | (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(theirs), Some(mine)) => theirs.tie_bytes().cmp(&mine.tie_bytes()),
        });
        if order == Ordering::Greater {
            *self = other;
        }
    }
}

/// An entity's rows, or some of them: what lies on disk, what a write changes, what replicas tell each other.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EntityState {
    pub(crate) row: EntityRow,
    pub(crate) vectors: BTreeMap<VectorKey, Register<VectorContent>>,
    pub(crate) chunks: BTreeMap<ChunkKey, Register<ChunkContent>>,
    pub(crate) edges: BTreeMap<EdgeKey, Register<EdgeContent>>,
    pub(crate) edges_in: BTreeMap<EdgeKey, Register<EdgeContent>>,
}

impl EntityState {
    /// What the two come to together: in any order, any grouping, any number of times the same.
    #[must_use]
    pub fn merge(mut self, other: EntityState) -> EntityState {
        self.row = self.row.merge(other.row);
        merge_maps(&mut self.vectors, other.vectors);
        merge_maps(&mut self.chunks, other.chunks);
        merge_maps(&mut self.edges, other.edges);
        merge_maps(&mut self.edges_in, other.edges_in);
        self.drop_cleared();
        self
    }

    /// Bytes that it takes, about.
    pub fn bytes(&self) -> usize {
        let fields = self.row.fields.values().filter_map(|register| register.value.as_ref());
        let chunk = |chunk: &ChunkContent| {
            let metadata = chunk.metadata.iter().map(|(name, value)| name.len() + value.bytes());
            64 + chunk.text.len() + metadata.sum::<usize>()
        };
        let chunks = self.chunks.values().filter_map(|register| register.value.as_ref());
        let vectors = self.vectors.values().filter_map(|register| register.value.as_ref());
        let edges = self.edges.iter().chain(&self.edges_in).map(|(name, edge)| {
            let content = edge.value.as_ref().map_or(0, |content| {
                let attributes = content.attributes.iter().map(|(name, value)| name.len() + value.bytes());
                attributes.sum()
            });
            64 + name.relation.len() + name.other.len() + content
        });
        let rows = 64 + fields.map(|value| 32 + value.bytes()).sum::<usize>() + edges.sum::<usize>();
        rows + chunks.map(chunk).sum::<usize>() + vectors.map(|vector| 64 + vector.0.len() * 4).sum::<usize>()
    }

    /// The same without chunks and vectors.
    #[must_use]
    pub fn without_contents(self) -> Self {
        Self { chunks: BTreeMap::new(), vectors: BTreeMap::new(), ..self }
    }

    /// The version of the entity, as callers are told it.
    pub fn version(&self) -> Version {
        self.row.touched
    }

    /// The highest version of anything in it.
    pub fn highest_version(&self) -> Version {
        fn highest<K, T>(registers: &BTreeMap<K, Register<T>>) -> Version {
            registers.values().map(|register| register.version).max().unwrap_or_default()
        }
        let edges = highest(&self.edges).max(highest(&self.edges_in));
        let own = highest(&self.vectors).max(highest(&self.chunks));
        edges.max(own).max(self.row.highest_version())
    }

    /// The newest version above `version` that is there of what `delta` writes at that one: it hides what is written. What the same node gave later
    /// does not count: nobody was told of that before this was asked for.
    pub(crate) fn overtaker(&self, delta: &Self, version: Version) -> Option<Version> {
        let mut newest = None;
        // Markers are just below versions.
        let is_own =
            |other: Version| [version.node(), version.node().wrapping_sub(1)].contains(&other.node());
        let mut note = |other: Version| {
            if other > version && !is_own(other) {
                newest = newest.max(Some(other));
            }
        };
        fn of<K, T>(registers: &BTreeMap<K, Register<T>>) -> impl Iterator<Item = Version> {
            registers.values().map(|register| register.version)
        }
        let row = &self.row;
        let is_cleared = |scope: Scope| delta.row.cleared(scope) > Version::ZERO;
        if delta.row.touched > Version::ZERO {
            note(row.cleared(Scope::Entity));
        }
        for scope in Scope::ALL.into_iter().filter(|scope| is_cleared(*scope)) {
            note(row.cleared(scope));
        }
        // What takes the place of everything there is, or of all of something, is to be above it.
        for (field, register) in &row.fields {
            let is_written = delta.row.fields.contains_key(field) || is_cleared(field.scope());
            if is_written || (is_cleared(Scope::Entity) && !matches!(field, Field::LeadsTo(_))) {
                note(register.version);
            }
        }
        for field in delta.row.fields.keys() {
            note(row.cleared(field.scope()));
        }
        for (key, register) in &self.vectors {
            let is_written = delta.vectors.contains_key(key) || delta.chunks.contains_key(&key.chunk);
            if is_written || is_cleared(Scope::Entity) || (key.chunk.is_empty() && is_cleared(Scope::Vectors))
            {
                note(register.version);
            }
        }
        if delta.vectors.keys().any(|key| key.chunk.is_empty()) {
            note(row.cleared(Scope::Vectors));
        }
        for (chunk, register) in &self.chunks {
            if delta.chunks.contains_key(chunk) || is_cleared(Scope::Entity) {
                note(register.version);
            }
        }
        if is_cleared(Scope::Edges) {
            of(&self.edges).chain(of(&self.edges_in)).for_each(&mut note);
        }
        for (there, delta) in [(&self.edges, &delta.edges), (&self.edges_in, &delta.edges_in)] {
            for edge in delta.keys() {
                there.get(edge).into_iter().for_each(|register| note(register.version));
                note(row.cleared(Scope::Edges));
            }
        }
        newest
    }

    /// The same as it would be if what it says at one version, and just below it, was said at another. Edges that end with what expired are those
    /// that came before what takes its place was asked for: that stays as it is.
    pub(crate) fn restamped(mut self, from: Version, to: Version) -> Self {
        fn of<K, T>(registers: &mut BTreeMap<K, Register<T>>) -> impl Iterator<Item = &mut Version> {
            registers.values_mut().map(|register| &mut register.version)
        }
        let edges = of(&mut self.edges).chain(of(&mut self.edges_in));
        let own = of(&mut self.vectors).chain(of(&mut self.chunks)).chain(self.row.versions_mut());
        for version in edges.chain(own) {
            if *version == from {
                *version = to;
            } else if *version == from.just_below() {
                *version = to.just_below();
            }
        }
        if self.row.cleared(Scope::Edges) == from {
            self.row.clear(Scope::Edges, to);
        }
        self
    }

    /// Removes what the markers cover, and vectors of chunks that were deleted or replaced.
    fn drop_cleared(&mut self) {
        let cleared = self.row.cleared(Scope::Entity);
        let own = self.row.cleared(Scope::Vectors).max(cleared);
        let edges = self.row.cleared(Scope::Edges);
        self.chunks.retain(|_, register| register.version > cleared);
        let chunks = &self.chunks;
        self.vectors.retain(|key, register| {
            if key.chunk.is_empty() {
                return register.version > own;
            }
            // A chunk is replaced whole: only vectors written with it or after it are its own.
            let of_chunk = chunks.get(&key.chunk).is_none_or(|chunk| match chunk.value {
                Some(_) => register.version >= chunk.version,
                None => register.version > chunk.version,
            });
            register.version > cleared && of_chunk
        });
        self.edges.retain(|_, register| register.version > edges);
        self.edges_in.retain(|_, register| register.version > edges);
    }
}

fn merge_maps<K: Ord, T: TieBreak>(into: &mut BTreeMap<K, Register<T>>, from: BTreeMap<K, Register<T>>) {
    for (key, register) in from {
        match into.entry(key) {
            Entry::Vacant(free) => {
                free.insert(register);
            }
            Entry::Occupied(mut taken) => taken.get_mut().merge(register),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Arc};

    use proptest::{prelude::*, sample::select};

    use super::*;
    use crate::{
        model::{CollectionId, ReadMask, SpaceId, Timestamp},
        row::{Field, StoredRow, decode_register, encode_register},
    };

    fn version() -> impl Strategy<Value = Version> {
        // Few of them, so that ties and markers just below a version happen.
        (1..6_u64, 0..2_u64).prop_map(|(time, node)| Version::new(time, 0, 1 + node))
    }

    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            (-3..3_i64).prop_map(Value::Int),
            "[ab]{0,2}".prop_map(Value::String),
            prop::collection::vec((-3..3_i64).prop_map(Value::Int), 0..3).prop_map(Value::List),
        ]
    }

    fn register<T: Clone + std::fmt::Debug + 'static>(
        value: impl Strategy<Value = T> + 'static,
    ) -> impl Strategy<Value = Register<T>> {
        (version(), proptest::option::of(value)).prop_map(|(version, value)| Register { version, value })
    }

    fn field() -> impl Strategy<Value = Field> {
        select(vec![
            Field::Existence,
            Field::Type,
            Field::ExpireAt,
            Field::Source("s".into()),
            Field::Attribute("a".into()),
            Field::Attribute("b".into()),
            Field::LeadsTo(Version::new(1, 0, 1)),
        ])
    }

    fn row() -> impl Strategy<Value = EntityRow> {
        let scopes = [Scope::Entity, Scope::Edges, Scope::Attributes, Scope::Sources, Scope::Vectors];
        let markers = prop::collection::vec((select(scopes.to_vec()), version()), 0..3);
        let fields = prop::collection::btree_map(field(), register(value()), 0..5);
        (markers, fields, prop::collection::vec(version(), 0..3), version()).prop_map(
            |(markers, fields, puts, touched)| {
                let mut row = EntityRow::default();
                (row.touched, row.puts, row.fields) = (touched, puts, fields);
                markers.into_iter().for_each(|(scope, upto)| row.clear(scope, upto));
                row
            },
        )
    }

    fn edge_key() -> impl Strategy<Value = EdgeKey> {
        ("[ab]", 1..3_u64, "[xy]").prop_map(|(relation, collection, other)| EdgeKey {
            relation,
            collection: CollectionId(collection),
            other,
            edge_id: String::new(),
        })
    }

    fn edge() -> impl Strategy<Value = EdgeContent> {
        (0..3_u8).prop_map(|weight| EdgeContent {
            weight: f64::from(weight) / 2.0,
            attributes: BTreeMap::new(),
            valid_from: None,
            valid_to: None,
            sources: Default::default(),
        })
    }

    fn state() -> impl Strategy<Value = EntityState> {
        let vector_key =
            ("[c]{0,1}", 1..3_u64).prop_map(|(chunk, space)| VectorKey { chunk, space: SpaceId(space) });
        let vector = prop::collection::vec(-2.0..2.0_f32, 1..3).prop_map(|v| VectorContent(Arc::from(v)));
        let chunk = "[xy]{0,2}".prop_map(|text| ChunkContent { text, ..ChunkContent::default() });
        let vectors = prop::collection::btree_map(vector_key, register(vector), 0..3);
        let chunks = prop::collection::btree_map("[cd]", register(chunk), 0..3);
        let edges = || prop::collection::btree_map(edge_key(), register(edge()), 0..3);
        (row(), vectors, chunks, edges(), edges()).prop_map(|(row, vectors, chunks, edges, edges_in)| {
            // Normalised, as every state on disk and on the wire is.
            EntityState { row, vectors, chunks, edges, edges_in }.merge(EntityState::default())
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

        #[test]
        fn merging_is_commutative_associative_and_idempotent(a in state(), b in state(), c in state()) {
            let merge = |a: &EntityState, b: &EntityState| a.clone().merge(b.clone());
            prop_assert_eq!(merge(&a, &b), merge(&b, &a));
            prop_assert_eq!(merge(&merge(&a, &b), &c), merge(&a, &merge(&b, &c)));
            prop_assert_eq!(merge(&a, &a), a);
        }

        #[test]
        fn states_survive_their_encoding_and_are_told_apart_by_digests(a in state(), b in state()) {
            prop_assert_eq!(EntityState::decode(&a.encode()), Ok(a.clone()));
            prop_assert_eq!(a.digest() == b.digest(), a == b);
        }

        #[test]
        fn puts_may_be_left_out_before_or_after_merging(a in prop::collection::btree_set(version(), 1..9), b in prop::collection::btree_set(version(), 1..9), most in 1_usize..5) {
            let row = |puts: &BTreeSet<Version>| {
                let mut row = EntityRow::default();
                row.puts = puts.iter().copied().collect();
                row
            };
            let kept = |mut row: EntityRow| {
                row.keep_puts(most);
                row
            };
            let after = kept(row(&a).merge(row(&b)));
            prop_assert_eq!(kept(kept(row(&a)).merge(kept(row(&b)))), after.clone());
            prop_assert_eq!(after.puts.first(), a.union(&b).next());
            prop_assert!(after.puts.len() <= most);
        }

        #[test]
        fn entity_rows_survive_their_encoding(row in row()) {
            prop_assert_eq!(EntityRow::decode(&row.encode()), Ok(row));
        }

        #[test]
        fn a_row_read_in_place_says_what_the_whole_row_says(row in row()) {
            let stored = StoredRow::new(row.encode().into()).expect("our own");
            for now in [0, 1, 2, 1_000] {
                prop_assert_eq!(stored.is_live(Timestamp(now)), row.is_live(Timestamp(now)));
            }
            prop_assert_eq!(stored.edges_cleared(), row.cleared(Scope::Edges));
            let entity = stored.entity("a", &ReadMask::fields()).expect("our own");
            prop_assert_eq!(entity.created_at, row.puts.first().map(|put| put.timestamp()));
            prop_assert_eq!(entity.version, row.touched);
            prop_assert_eq!(entity.expire_at, row.expire_at());
            for name in ["a", "b"] {
                prop_assert_eq!(entity.attributes.get(name), row.get(&Field::Attribute(name.into())));
            }
            prop_assert_eq!(entity.sources.contains("s"), row.get(&Field::Source("s".into())).is_some());
            let only = ReadMask { attribute_names: ["b".to_owned()].into(), ..ReadMask::nothing() };
            let entity = stored.entity("a", &only).expect("our own");
            prop_assert_eq!(entity.attributes.get("b"), row.get(&Field::Attribute("b".into())));
            prop_assert_eq!(entity.attributes.contains_key("a"), false);
        }

        #[test]
        fn registers_survive_their_encoding(edge in register(edge()), numbers in prop::collection::vec(any::<f32>().prop_filter("comparable", |x| !x.is_nan()), 0..9), version in version()) {
            prop_assert_eq!(decode_register(&encode_register(&edge)), Ok(edge));
            let vector = Register { version, value: Some(VectorContent(numbers.into())) };
            prop_assert_eq!(decode_register(&encode_register(&vector)), Ok(vector));
        }

        #[test]
        fn garbage_is_an_error_and_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in any::<prop::sample::Index>(), row in row()) {
            let (_, _, _) = (EntityRow::decode(&bytes), decode_register::<EdgeContent>(&bytes), decode_register::<ChunkContent>(&bytes));
            let (_, _) = (decode_register::<VectorContent>(&bytes), crate::row::key::decode_edge_key(&bytes));
            drop((EntityState::decode(&bytes), crate::mutation::Mutation::decode(&bytes)));
            let encoded = row.encode();
            let cut = cut.index(encoded.len());
            prop_assert!(EntityRow::decode(&encoded[..cut]).is_err());
            prop_assert!(StoredRow::new(encoded[..cut].to_vec().into()).is_err());
            drop(StoredRow::new(bytes.into()).and_then(|row| row.entity("a", &ReadMask::everything())));
            let mut flipped = encoded.clone();
            flipped[cut] ^= 0x81;
            // Either outcome will do; what matters is that there is one.
            drop(EntityRow::decode(&flipped));
            drop(StoredRow::new(flipped.into()).and_then(|row| row.entity("a", &ReadMask::everything())));
        }
    }
}
