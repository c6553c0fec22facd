//! Replicas of the same entities: what one keeps for the others changes no answer.

use std::fmt::Write as _;

use allidb_index::{
    ScanRequest,
    filter::{Field, Filter, Operator},
    graph::NeighborsRequest,
    model::{
        Chunk, CollectionChange, CollectionSpec, Direction, Edge, EdgeRef, Entity, EntityPatch, EntityRef,
        Metric, ReadMask, SpaceSpec, Value, Write,
    },
    query::{Nearest, Query, Seed, TextQuery},
};
use proptest::prelude::*;

use crate::fixture::{Fixture, TENANT, deadline};

const IDS: [&str; 4] = ["a", "b", "c", "d"];
const WORDS: [&str; 3] = ["red", "green", "blue"];

#[derive(Clone, Debug)]
enum Step {
    Put {
        id: usize,
        value: i64,
        vector: bool,
        chunk: Option<usize>,
    },
    /// Values, and whether an entity may come to be.
    Update {
        id: usize,
        value: Option<i64>,
        vector: Option<bool>,
        chunk: Option<Option<usize>>,
        replace: bool,
    },
    Delete(usize),
    Link(usize, usize, u8),
    Unlink(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let id = || 0..IDS.len();
    let word = || proptest::option::of(0..WORDS.len());
    let put = (id(), 0..3_i64, any::<bool>(), word()).prop_map(|(id, value, vector, chunk)| Step::Put {
        id,
        value,
        vector,
        chunk,
    });
    let update = (
        id(),
        proptest::option::of(0..3_i64),
        proptest::option::of(any::<bool>()),
        proptest::option::of(word()),
        any::<bool>(),
    )
        .prop_map(|(id, value, vector, chunk, replace)| Step::Update {
            id,
            value,
            vector,
            chunk,
            replace,
        });
    prop_oneof![
        4 => put,
        4 => update,
        2 => id().prop_map(Step::Delete),
        4 => (id(), id(), 0..4_u8).prop_map(|(from, to, weight)| Step::Link(from, to, weight)),
        2 => (id(), id()).prop_map(|(from, to)| Step::Unlink(from, to)),
    ]
}

fn of(id: usize) -> EntityRef {
    EntityRef::new("r", IDS[id])
}

fn vector(value: i64) -> Vec<f32> {
    vec![value as f32, 1.0]
}

fn chunk(word: usize) -> Chunk {
    let vectors = [("v".to_owned(), vector(word as i64))].into();
    Chunk { text: format!("{} {}", WORDS[word], WORDS[(word + 1) % 3]), vectors, ..Chunk::default() }
}

/// The write of a step, the `at`th.
fn write(step: &Step, at: usize) -> Write {
    match *step {
        Step::Put { id, value, vector: has_vector, chunk: word } => {
            let mut entity = Entity { id: IDS[id].into(), ..Entity::default() };
            entity.attributes.insert("n".into(), Value::Int(value));
            entity.attributes.insert("at".into(), Value::Int(at as i64));
            if has_vector {
                entity.vectors.insert("v".into(), vector(value));
            }
            entity.chunks.extend(word.map(|word| ("1".to_owned(), chunk(word))));
            Write::Put { collection: "r".into(), entity: Box::new(entity) }
        }
        Step::Update { id, value, vector: has_vector, chunk: word, replace } => {
            let mut patch = EntityPatch::new(of(id));
            patch.allow_missing = true;
            patch.replace_attributes = replace;
            patch.attributes.insert("n".into(), value.map(Value::Int));
            if let Some(has_vector) = has_vector {
                patch.vectors.insert("v".into(), has_vector.then(|| vector(at as i64 % 3)));
            }
            if let Some(word) = word {
                patch.chunks.insert("1".into(), word.map(chunk));
            }
            Write::Update(Box::new(patch))
        }
        Step::Delete(id) => Write::Delete(of(id)),
        Step::Link(from, to, weight) => Write::PutEdge(Box::new(Edge {
            weight: f64::from(weight) / 4.0,
            ..Edge::new(of(from), "r", of(to))
        })),
        Step::Unlink(from, to) => {
            let (from, to) = (of(from), of(to));
            Write::DeleteEdge(EdgeRef { from, relation: "r".into(), to, edge_id: String::new() })
        }
    }
}

/// With collection `r`: a space, texts of chunks, an index on attribute `n`.
fn fixture() -> Fixture {
    let fixture = Fixture::new();
    let spec = CollectionSpec {
        spaces: vec![SpaceSpec::new("v", 2, Metric::L2)],
        indexes: vec![Field::parse("n").unwrap()],
        ..CollectionSpec::default()
    };
    fixture.replica.create_collection(TENANT, "r", spec).unwrap();
    fixture
}

/// All that a caller can see.
fn view(fixture: &Fixture) -> String {
    let replica = &fixture.replica;
    let mut view = String::new();
    let mut tell = |what: &str, seen: String| writeln!(view, "{what}: {seen}").unwrap();
    for id in 0..IDS.len() {
        let found = replica.get(TENANT, &[of(id)], &ReadMask::everything(), deadline()).pop().unwrap();
        tell("get", format!("{found:?}"));
        let request = NeighborsRequest {
            entity: of(id),
            relations: vec![],
            direction: Direction::Both,
            min_weight: 0.0,
            as_of: None,
            limit: 100,
        };
        tell("neighbors", format!("{:?}", replica.neighbors(TENANT, &request, deadline())));
    }
    let scan = ScanRequest::first("r", 10);
    tell("scan", format!("{:?}", replica.scan(TENANT, &scan, deadline()).unwrap()));
    tell("count", format!("{:?}", replica.count(TENANT, "r", None, deadline())));
    for value in 0..3 {
        let filter = Filter::Compare(Field::parse("n").unwrap(), Operator::Equal, Value::Int(value));
        tell("matches", format!("{:?}", replica.count(TENANT, "r", Some(&filter), deadline())));
        let mut nearest = Nearest::to_vector("v", vector(value));
        nearest.exact = true;
        let words = TextQuery { text: WORDS[value as usize].into(), ..TextQuery::default() };
        for seed in [Seed::Nearest(nearest), Seed::Text { query: words, k: 0 }] {
            let query = Query { limit: 10, ..Query::new("r", vec![seed]) };
            let answer = replica.query(TENANT, &query, deadline()).unwrap();
            let hits: Vec<_> = answer.hits.iter().map(|hit| (&hit.entity.id, hit.score)).collect();
            tell("query", format!("{hits:?}"));
        }
    }
    view
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn who_keeps_what_was_deleted_answers_as_who_purges(steps in prop::collection::vec(step(), 1..40)) {
        let (mut purges, mut keeps) = (fixture(), fixture());
        keeps.replica.keep_layout(Vec::new(), true).unwrap();
        for (at, step) in steps.iter().enumerate() {
            let results = [&purges, &keeps].map(|fixture| format!("{:?}", fixture.one(write(step, at))));
            prop_assert_eq!(&results[0], &results[1], "{:?}", step);
        }
        prop_assert_eq!(view(&purges), view(&keeps));
        (purges, keeps) = (purges.reopen(), keeps.crash());
        prop_assert_eq!(view(&purges), view(&keeps));
        let rebuild = CollectionChange { drop_indexes: vec![Field::parse("n").unwrap()], ..CollectionChange::default() };
        for fixture in [&purges, &keeps] {
            fixture.replica.update_collection(TENANT, "r", rebuild.clone()).unwrap();
            let add = CollectionChange { add_indexes: rebuild.drop_indexes.clone(), ..CollectionChange::default() };
            fixture.replica.update_collection(TENANT, "r", add).unwrap();
        }
        prop_assert_eq!(view(&purges), view(&keeps));
    }
}
