//! Secondary indexes: the same answers as without them, kept in step with writes, built beside them, gone with what they are of.

use std::collections::BTreeMap;

use allidb_index::{
    Facet, ScanRequest,
    filter::{Field, Filter, Operator},
    model::{
        Chunk, CollectionChange, CollectionSpec, Entity, EntityRef, Metric, ReadMask, Timestamp, Value, Write,
    },
    query::{Nearest, Query, Seed},
};
use allidb_storage::Durability;
use proptest::prelude::*;

use crate::fixture::{Fixture, TENANT, deadline};

const FIELDS: [&str; 7] = ["type", "importance", "source", "expire_at", "a", "b", "b.c"];

fn field(name: &str) -> Field {
    Field::parse(name).unwrap()
}

fn fields() -> Vec<Field> {
    FIELDS.map(field).into()
}

fn indexed() -> CollectionSpec {
    CollectionSpec { indexes: fields(), ..CollectionSpec::default() }
}

fn compare(name: &str, operator: Operator, value: Value) -> Filter {
    Filter::Compare(field(name), operator, value)
}

fn ids(fixture: &Fixture, collection: &str, filter: &Filter, limit: usize) -> Vec<String> {
    let mut request = ScanRequest {
        collection: collection.to_owned(),
        start: None,
        end: None,
        prefix: String::new(),
        reverse: false,
        filter: Some(filter.clone()),
        limit,
        after: None,
        read_mask: ReadMask::nothing(),
    };
    let mut ids = Vec::new();
    loop {
        let page = fixture.replica.scan(TENANT, &request, deadline()).unwrap();
        ids.extend(page.entities.into_iter().map(|entity| entity.id));
        if page.next.is_none() {
            return ids;
        }
        request.after = page.next;
    }
}

fn count(fixture: &Fixture, collection: &str, filter: &Filter) -> u64 {
    fixture.replica.count(TENANT, collection, Some(filter), deadline()).unwrap()
}

fn seeds(fixture: &Fixture, collection: &str, filter: &Filter) -> Vec<String> {
    let seed = Seed::Matching { filter: filter.clone(), limit: 5 };
    let answer = fixture.replica.query(TENANT, &Query::new(collection, vec![seed]), deadline()).unwrap();
    answer.hits.into_iter().map(|hit| hit.entity.id).collect()
}

fn put(fixture: &Fixture, collection: &str, entity: Entity) {
    fixture.one(Write::Put { collection: collection.to_owned(), entity: Box::new(entity) }).unwrap();
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, Box<Entity>),
    Delete(u8),
    Flush,
}

fn value() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        (-3_i64..3).prop_map(Value::Int),
        (-6_i64..6).prop_map(|number| Value::Double(number as f64 / 2.0)),
        "[ab]{0,3}".prop_map(Value::String),
        (250_usize..260).prop_map(|length| Value::String("a".repeat(length))),
    ];
    scalar.prop_recursive(2, 6, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::List),
            inner.prop_map(|inner| Value::Map(BTreeMap::from([("c".to_owned(), inner)]))),
        ]
    })
}

fn entity() -> impl Strategy<Value = Entity> {
    let attributes = prop::collection::btree_map("[ab]", value(), 0..3);
    let sources = prop::collection::btree_set("[st]", 0..3);
    let expiry = prop::option::of(prop_oneof![Just(i64::MAX / 2), Just(1_i64)]);
    (attributes, prop::option::of(0_u8..3), "[no]?", sources, expiry).prop_map(
        |(attributes, importance, entity_type, sources, expiry)| Entity {
            attributes,
            entity_type,
            importance: importance.map(|importance| f64::from(importance) / 2.0),
            sources,
            expire_at: expiry.map(Timestamp),
            ..Entity::default()
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0_u8..12, entity()).prop_map(|(at, entity)| Step::Put(at, Box::new(entity))),
        2 => (0_u8..12).prop_map(Step::Delete),
        1 => Just(Step::Flush),
    ]
}

fn condition() -> impl Strategy<Value = Filter> {
    let operator = prop_oneof![
        Just(Operator::Equal),
        Just(Operator::NotEqual),
        Just(Operator::Less),
        Just(Operator::GreaterOrEqual),
        Just(Operator::StartsWith),
    ];
    let name = prop::sample::select(FIELDS.to_vec());
    let leaf = (name, operator, value(), 0..5).prop_map(|(name, operator, value, which)| {
        let (own, field) = (value, field(name));
        match which {
            0 => Filter::Exists(field),
            1 => Filter::IsNull(field),
            2 => Filter::In(Field::Id, vec![Value::String("3".into()), Value::String("none".into())]),
            3 => Filter::In(field, vec![own, Value::Int(1)]),
            _ => Filter::Compare(field, operator, own),
        }
    });
    leaf.prop_recursive(2, 6, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Filter::And),
            prop::collection::vec(inner.clone(), 0..3).prop_map(Filter::Or),
            inner.prop_map(|inner| Filter::Not(Box::new(inner))),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// One collection has indexes from the beginning, one gets them at the end, one never.
    #[test]
    fn answers_are_the_same_with_and_without(
        steps in prop::collection::vec(step(), 1..25),
        conditions in prop::collection::vec(condition(), 12),
    ) {
        let mut fixture = Fixture::new();
        let all = ["kept", "built", "none"];
        for (name, spec) in all.into_iter().zip([indexed(), CollectionSpec::default(), CollectionSpec::default()]) {
            fixture.replica.create_collection(TENANT, name, spec).unwrap();
        }
        for step in &steps {
            for name in all {
                match step {
                    Step::Put(at, entity) => put(&fixture, name, Entity { id: at.to_string(), ..(**entity).clone() }),
                    Step::Delete(at) => {
                        fixture.one(Write::Delete(EntityRef::new(name, at.to_string()))).unwrap();
                    }
                    Step::Flush => {}
                }
            }
            if matches!(step, Step::Flush) {
                fixture.replica.engine().flush().unwrap();
            }
        }
        let change = CollectionChange { add_indexes: fields(), ..CollectionChange::default() };
        fixture.replica.update_collection(TENANT, "built", change).unwrap();
        for restarts in 0..2 {
            let limits = fixture.replica.limits().clone();
            for condition in conditions.iter().filter(|condition| condition.validate("f", &limits).is_ok()) {
                let want = (ids(&fixture, "none", condition, 100), count(&fixture, "none", condition));
                for name in ["kept", "built"] {
                    let state = fixture.replica.collection(TENANT, name).unwrap();
                    prop_assert!(state.indexes.iter().all(|index| index.state.is_built()));
                    let got = (ids(&fixture, name, condition, 100), count(&fixture, name, condition));
                    prop_assert_eq!(&got, &want, "{} {:?}", name, condition);
                    prop_assert_eq!(ids(&fixture, name, condition, 2), want.0.clone());
                    prop_assert_eq!(seeds(&fixture, name, condition), seeds(&fixture, "none", condition));
                }
            }
            if restarts == 0 {
                fixture = fixture.reopen();
            }
        }
        let filters = conditions.iter().filter(|condition| condition.validate("f", fixture.replica.limits()).is_ok());
        for filter in filters.take(4).map(Some).chain([None]) {
            let facets = |name| fixture.replica.facets(TENANT, name, &fields(), filter, 100, deadline()).unwrap();
            let none = facets("none");
            for name in ["kept", "built"] {
                for (with, without) in facets(name).iter().zip(&none) {
                    prop_assert_eq!(with.distinct, without.distinct);
                    let counts = |facet: &Facet| facet.values.iter().map(|(_, count)| *count).collect::<Vec<_>>();
                    prop_assert_eq!(counts(with), counts(without));
                    for ((a, _), (b, _)) in with.values.iter().zip(&without.values) {
                        // Of values that are one for filters, any may stand for all.
                        let are_one = a.compare(b) == Some(std::cmp::Ordering::Equal) || a.bytes() > 250;
                        prop_assert!(are_one, "{:?} {:?}", a, b);
                    }
                }
            }
        }
        // What is deleted leaves no posting behind.
        for name in ["kept", "built"] {
            for at in 0..12 {
                fixture.one(Write::Delete(EntityRef::new(name, at.to_string()))).unwrap();
            }
        }
        prop_assert_eq!(postings(&fixture), 0);
    }
}

fn postings(fixture: &Fixture) -> usize {
    let engine = fixture.replica.engine();
    let keyspace = engine.keyspace("posting").unwrap();
    engine.snapshot().prefix(keyspace, &[], allidb_storage::Direction::Forward).unwrap().count()
}

#[test]
fn what_is_dropped_is_swept() {
    let fixture = Fixture::new();
    fixture.replica.create_collection(TENANT, "d", indexed()).unwrap();
    for at in 0..100 {
        let attributes = BTreeMap::from([("a".to_owned(), Value::Int(at))]);
        put(&fixture, "d", Entity { id: at.to_string(), attributes, ..Entity::default() });
    }
    assert_eq!(postings(&fixture), 200);
    let change = CollectionChange { drop_indexes: vec![field("a")], ..CollectionChange::default() };
    let changed = fixture.replica.update_collection(TENANT, "d", change.clone()).unwrap();
    assert_eq!((changed.indexes.len(), postings(&fixture)), (FIELDS.len() - 1, 100));
    let error = fixture.replica.update_collection(TENANT, "d", change).unwrap_err();
    assert_eq!(error.to_string(), "drop_indexes names `attributes.a`, which has no index");
    let change = CollectionChange { add_indexes: vec![Field::Id], ..CollectionChange::default() };
    let error = fixture.replica.update_collection(TENANT, "d", change).unwrap_err();
    assert_eq!(error.to_string(), "add_indexes[0] names `id`, by which entities are found anyway");
    for (add, why) in [
        (vec![field("x"), field("x")], "add_indexes[1] is `attributes.x` for the second time"),
        (vec![field(&"x".repeat(300))], "add_indexes[0] is 300 bytes long; at most 255 are allowed"),
    ] {
        let change = CollectionChange { add_indexes: add, ..CollectionChange::default() };
        let error = fixture.replica.update_collection(TENANT, "d", change).unwrap_err();
        assert_eq!(error.to_string(), why);
    }
    let less = compare("a", Operator::Less, Value::Int(10));
    assert_eq!(count(&fixture, "d", &less), 10);
    let change = CollectionChange { add_indexes: vec![field("a")], ..CollectionChange::default() };
    fixture.replica.update_collection(TENANT, "d", change).unwrap();
    assert_eq!((postings(&fixture), count(&fixture, "d", &less)), (200, 10));
    fixture.replica.drop_collection(TENANT, "d").unwrap();
    assert_eq!(postings(&fixture), 0);
}

#[test]
fn facets_count_each_value_once_for_each_entity() {
    let fixture = Fixture::new();
    let word = |text: &str| Value::String(text.into());
    let lists = [vec!["x", "y", "x"], vec!["y"], vec![], vec!["y", "z"]];
    for is_indexed in [false, true] {
        if is_indexed {
            let change = CollectionChange { add_indexes: vec![field("tags")], ..CollectionChange::default() };
            fixture.replica.update_collection(TENANT, "c", change).unwrap();
        }
        for (at, list) in lists.iter().enumerate() {
            let tags = Value::List(list.iter().map(|tag| word(tag)).collect());
            let attributes =
                BTreeMap::from([("tags".to_owned(), tags), ("n".to_owned(), Value::Int(at as i64))]);
            put(&fixture, "c", Entity { id: at.to_string(), attributes, ..Entity::default() });
        }
        let facets = |filter: Option<&Filter>, limit| {
            fixture.replica.facets(TENANT, "c", &[field("tags"), field("type")], filter, limit, deadline())
        };
        let found = facets(None, 2).unwrap();
        assert_eq!(found[0], Facet { distinct: 3, values: vec![(word("y"), 3), (word("x"), 1)] });
        assert_eq!(found[1], Facet { distinct: 1, values: vec![(word(""), 4)] });
        let filter = compare("n", Operator::Greater, Value::Int(1));
        let found = facets(Some(&filter), 9).unwrap();
        assert_eq!(found[0], Facet { distinct: 2, values: vec![(word("y"), 1), (word("z"), 1)] });
        let refused = facets(None, 1_001).unwrap_err();
        assert_eq!(refused.to_string(), "limit is 1001; at most 1000 are allowed");
    }
}

#[test]
fn the_nearest_are_found_through_an_index() {
    let fixture = Fixture::with_space(3, Metric::L2);
    let change = CollectionChange { add_indexes: vec![field("a")], ..CollectionChange::default() };
    fixture.replica.update_collection(TENANT, "c", change).unwrap();
    let batch = (0..400_i64).map(|at| {
        let attributes = BTreeMap::from([("a".to_owned(), Value::Int(at % 40))]);
        let vectors = BTreeMap::from([("v".to_owned(), vec![at as f32 / 400.0, 1.0, 0.0])]);
        let entity = Entity { id: format!("{at:03}"), attributes, vectors, ..Entity::default() };
        let write = Write::Put { collection: "c".into(), entity: Box::new(entity) };
        fixture.replica.plan(TENANT, write).unwrap()
    });
    fixture
        .replica
        .apply(batch.collect(), Durability::Flush)
        .into_iter()
        .for_each(|done| assert!(done.is_ok(), "{done:?}"));
    let seed = Seed::Nearest(Nearest::to_vector("v", vec![0.5, 1.0, 0.0]));
    let filter = Some(compare("a", Operator::Equal, Value::Int(7)));
    let query = Query { filter, limit: 3, ..Query::new("c", vec![seed]) };
    let answer = fixture.replica.query(TENANT, &query, deadline()).unwrap();
    let found: Vec<String> = answer.hits.into_iter().map(|hit| hit.entity.id).collect();
    assert_eq!(found, ["207", "167", "247"]);
    // Only those that match were compared, though nobody had asked for them before.
    assert!(answer.cost.vectors_compared <= 10, "{:?}", answer.cost);
}

/// As long as there are no chunks, numbers are taken for entities; from the first one on they are not.
#[test]
fn vectors_of_chunks_are_found_through_an_index_from_the_first_one_on() {
    let mut fixture = Fixture::with_space(3, Metric::L2);
    let change = CollectionChange { add_indexes: vec![field("a")], ..CollectionChange::default() };
    fixture.replica.update_collection(TENANT, "c", change).unwrap();
    let entity = |at: i64| Entity {
        id: format!("{at:03}"),
        attributes: BTreeMap::from([("a".to_owned(), Value::Int(at % 7))]),
        vectors: BTreeMap::from([("v".to_owned(), vec![at as f32, 1.0, 0.0])]),
        ..Entity::default()
    };
    (0..200).for_each(|at| put(&fixture, "c", entity(at)));
    let nearest = |fixture: &Fixture, value| {
        let seed = Seed::Nearest(Nearest::to_vector("v", vec![500.0, 1.0, 0.0]));
        let filter = Some(compare("a", Operator::Equal, Value::Int(value)));
        let query = Query { filter, limit: 1, ..Query::new("c", vec![seed]) };
        let answer = fixture.replica.query(TENANT, &query, deadline()).unwrap();
        answer.hits.into_iter().map(|hit| (hit.entity.id, hit.chunk_id)).collect::<Vec<_>>()
    };
    let own = |at: i64| vec![(format!("{at:03}"), String::new())];
    assert_eq!((nearest(&fixture, 0), nearest(&fixture, 1)), (own(196), own(197)));
    let vectors = BTreeMap::from([("v".to_owned(), vec![490.0, 1.0, 0.0])]);
    let chunks = BTreeMap::from([("far".to_owned(), Chunk { vectors, ..Chunk::default() })]);
    put(&fixture, "c", Entity { chunks, ..entity(9) });
    let chunk = vec![("009".to_owned(), "far".to_owned())];
    // Asked for the first time, and after a restart, when nothing is known yet.
    assert_eq!((nearest(&fixture, 2), nearest(&fixture, 3)), (chunk.clone(), own(199)));
    fixture = fixture.reopen();
    assert_eq!((nearest(&fixture, 2), nearest(&fixture, 0)), (chunk, own(196)));
    put(&fixture, "c", entity(9));
    assert_eq!(nearest(&fixture, 2), own(198));
}
