//! Filters against a naive evaluator: every operator on every type, in scans, counts and queries, before and after a restart.

use std::{cmp::Ordering, collections::BTreeMap};

use allidb_index::{
    ScanRequest,
    filter::{Field, Filter, Operator},
    model::{
        CollectionSpec, Entity, Language, ReadMask, TextField, TextKind, TextSpec, Timestamp, Value, Write,
    },
    query::{Query, Seed, TextMatch},
};
use proptest::prelude::*;

use crate::fixture::{Fixture, TENANT, deadline, entity, ids};

const OPERATORS: [Operator; 8] = [
    Operator::Equal,
    Operator::NotEqual,
    Operator::Less,
    Operator::LessOrEqual,
    Operator::Greater,
    Operator::GreaterOrEqual,
    Operator::StartsWith,
    Operator::Contains,
];

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        (-2..3_i64).prop_map(Value::Int),
        prop::sample::select(vec![-1.5, 0.0, 0.5, 1.0, 2.0]).prop_map(Value::Double),
        "[ab]{0,2}".prop_map(Value::String),
        "[ab]{1,2} [ab]{1,2}( [ab]{1,2})?".prop_map(Value::String),
        prop::collection::vec(0..2_u8, 0..2).prop_map(|bytes| Value::Bytes(bytes.into())),
        (-1..2_i64).prop_map(|time| Value::Timestamp(Timestamp(time))),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    scalar().prop_recursive(2, 6, 2, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::List),
            prop::collection::btree_map("[xy]", inner, 0..2).prop_map(Value::Map),
        ]
    })
}

fn field() -> impl Strategy<Value = Field> {
    let names = vec!["p", "q", "p.x", "p.x.y", "attributes.q.y", "type", "importance", "id"];
    prop::sample::select(names).prop_map(|name| Field::parse(name).expect("a field"))
}

fn words() -> impl Strategy<Value = Filter> {
    let operator = prop::sample::select(vec![TextMatch::Any, TextMatch::All, TextMatch::Phrase]);
    (field(), operator, "[ab]{1,2}( [ab]{1,2})?")
        .prop_map(|(field, operator, text)| Filter::Words(field, operator, text.into()))
}

/// Words of these letters are their own stems.
fn has_words(found: &Value, operator: TextMatch, wanted: &str) -> bool {
    let text = match found {
        Value::List(items) => return items.iter().any(|item| has_words(item, operator, wanted)),
        Value::String(text) => format!(" {text} "),
        _ => return false,
    };
    let mut each = wanted.split(' ').map(|word| text.contains(&format!(" {word} ")));
    match operator {
        TextMatch::Any => each.any(|is_there| is_there),
        TextMatch::All => each.all(|is_there| is_there),
        TextMatch::Phrase => text.contains(&format!(" {wanted} ")),
    }
}

fn filter() -> impl Strategy<Value = Filter> {
    let compare = (field(), prop::sample::select(OPERATORS.to_vec()), value())
        .prop_map(|(field, operator, value)| Filter::Compare(field, operator, value));
    let any_of =
        (field(), prop::collection::vec(value(), 0..3)).prop_map(|(field, any)| Filter::In(field, any));
    let leaf = prop_oneof![
        6 => compare,
        2 => any_of,
        3 => words(),
        1 => field().prop_map(Filter::Exists),
        1 => field().prop_map(Filter::IsNull),
    ];
    leaf.prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Filter::And),
            prop::collection::vec(inner.clone(), 0..3).prop_map(Filter::Or),
            inner.prop_map(|filter| Filter::Not(Box::new(filter))),
        ]
    })
}

/// The values that a field has: those of attributes are reached through maps and through the elements of lists.
fn values(entity: &Entity, field: &Field) -> Vec<Value> {
    fn reach(value: &Value, path: &[String]) -> Vec<Value> {
        let Some((name, rest)) = path.split_first() else { return vec![value.clone()] };
        match value {
            Value::Map(fields) => fields.get(name).map_or(Vec::new(), |value| reach(value, rest)),
            Value::List(items) => items.iter().flat_map(|item| reach(item, path)).collect(),
            _ => Vec::new(),
        }
    }
    match field {
        Field::Id => vec![Value::String(entity.id.clone())],
        Field::Type => vec![Value::String(entity.entity_type.clone())],
        Field::Importance => entity.importance.map(Value::Double).into_iter().collect(),
        Field::Attribute(path) => {
            entity.attributes.get(&path[0]).map_or(Vec::new(), |value| reach(value, &path[1..]))
        }
        other => unreachable!("{other:?} is not asked for"),
    }
}

/// How scalars of one kind compare; `None`: they are of different kinds.
fn order(a: &Value, b: &Value) -> Option<Ordering> {
    let number = |value: &Value| match value {
        Value::Int(number) => Some(*number as f64),
        Value::Double(number) => Some(*number),
        _ => None,
    };
    match (a, b) {
        (Value::Null, Value::Null) => Some(Ordering::Equal),
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (Value::Bytes(a), Value::Bytes(b)) => Some(a.cmp(b)),
        (Value::Timestamp(a), Value::Timestamp(b)) => Some(a.cmp(b)),
        _ => number(a)?.partial_cmp(&number(b)?),
    }
}

fn is_equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::List(a), Value::List(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_equal(a, b))
        }
        (Value::Map(a), Value::Map(b)) => {
            a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| is_equal(a, b)))
        }
        _ => order(a, b) == Some(Ordering::Equal),
    }
}

fn compares(found: &Value, operator: Operator, wanted: &Value) -> bool {
    if let (Value::List(items), false) = (found, matches!(wanted, Value::List(_))) {
        return items.iter().any(|item| compares(item, operator, wanted));
    }
    let is_one_kind =
        matches!((found, wanted), (Value::List(_), Value::List(_)) | (Value::Map(_), Value::Map(_)))
            || order(found, wanted).is_some();
    match operator {
        Operator::Equal => is_equal(found, wanted),
        Operator::NotEqual => is_one_kind && !is_equal(found, wanted),
        Operator::StartsWith => match (found, wanted) {
            (Value::String(found), Value::String(wanted)) => found.starts_with(wanted.as_str()),
            _ => false,
        },
        Operator::Contains => match (found, wanted) {
            (Value::String(found), Value::String(wanted)) => found.matches(wanted.as_str()).next().is_some(),
            _ => false,
        },
        Operator::Less => order(found, wanted) == Some(Ordering::Less),
        Operator::LessOrEqual => matches!(order(found, wanted), Some(Ordering::Less | Ordering::Equal)),
        Operator::Greater => order(found, wanted) == Some(Ordering::Greater),
        Operator::GreaterOrEqual => matches!(order(found, wanted), Some(Ordering::Greater | Ordering::Equal)),
    }
}

fn holds(filter: &Filter, entity: &Entity) -> bool {
    let any = |field: &Field, test: &dyn Fn(&Value) -> bool| values(entity, field).iter().any(test);
    match filter {
        Filter::And(all) => all.iter().all(|filter| holds(filter, entity)),
        Filter::Or(any) => any.iter().any(|filter| holds(filter, entity)),
        Filter::Not(filter) => !holds(filter, entity),
        Filter::Compare(field, operator, wanted) => any(field, &|found| compares(found, *operator, wanted)),
        Filter::In(field, wanted) => {
            any(field, &|found| wanted.iter().any(|wanted| compares(found, Operator::Equal, wanted)))
        }
        Filter::Words(field, operator, text) => any(field, &|found| has_words(found, *operator, text.text())),
        Filter::Exists(field) => any(field, &|_| true),
        Filter::IsNull(field) => any(field, &|found| *found == Value::Null),
    }
}

type Described = (BTreeMap<String, Value>, bool, Option<f64>);

fn found(fixture: &Fixture, collection: &str, filter: &Filter) -> Option<[Vec<String>; 2]> {
    let request = ScanRequest {
        filter: Some(filter.clone()),
        read_mask: ReadMask::nothing(),
        ..ScanRequest::first(collection, 100)
    };
    // Ill-typed conditions are refused, by all alike.
    let page = fixture.replica.scan(TENANT, &request, deadline()).ok()?;
    let scanned: Vec<String> = page.entities.into_iter().map(|entity| entity.id).collect();
    let counted = fixture.replica.count(TENANT, collection, Some(filter), deadline()).expect("counted");
    assert_eq!(counted, scanned.len() as u64);
    let seed = Seed::Matching { filter: filter.clone(), limit: 0 };
    let mut asked = ids(&fixture.query(&Query { limit: 100, ..Query::new(collection, vec![seed]) }));
    asked.sort();
    Some([scanned, asked])
}

/// The attribute p is prose, and q are names.
fn texts() -> CollectionSpec {
    let field = |attribute: &str, kind| TextField {
        attribute: attribute.to_owned(),
        weight: 1.0,
        language: Language::English,
        kind,
    };
    let fields = vec![field("p", TextKind::Prose), field("q", TextKind::Names)];
    CollectionSpec { text: TextSpec { fields, ..TextSpec::default() }, ..CollectionSpec::default() }
}

#[test]
fn words_beyond_what_is_indexed_of_a_text_are_found() {
    let fixture = Fixture::new();
    fixture.replica.create_collection(TENANT, "t", texts()).unwrap();
    let prose = "b ".repeat(140_000) + "a";
    let words = (0..1_100).map(|n| format!("b{n} ")).collect::<String>() + "a";
    let names = |count: usize| (0..count).map(|_| Value::String("b".into()));
    let many = names(4_100).chain([Value::String("a".into())]).collect();
    // What has no word takes no place.
    let blanks = (0..4_100).map(|_| Value::String("-".into())).chain([Value::String("a".into())]);
    let values = [
        ("p", Value::String(prose)),
        ("q", Value::String(words)),
        ("q", Value::List(many)),
        ("q", Value::List(blanks.collect())),
        ("p", Value::String("b".into())),
    ];
    for (n, (name, value)) in values.into_iter().enumerate() {
        let one = Entity {
            attributes: BTreeMap::from([(name.to_owned(), value)]),
            ..entity(&format!("e{n}"), &[])
        };
        fixture.one(Write::Put { collection: "t".into(), entity: Box::new(one) }).unwrap();
    }
    for _ in 0..2 {
        let any = |field| Filter::Words(Field::parse(field).unwrap(), TextMatch::Any, "a".into());
        assert_eq!(found(&fixture, "t", &any("p")).unwrap()[0], ["e0"]);
        assert_eq!(found(&fixture, "t", &any("q")).unwrap()[0], ["e1", "e2", "e3"]);
        fixture.replica.seal_texts().unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn filters_hold_where_a_naive_evaluator_says_so(
        described in prop::collection::vec(
            (prop::collection::btree_map("[pq]", value(), 0..3), any::<bool>(), proptest::option::of(0.0..1.0)),
            1..12,
        ),
        filters in prop::collection::vec(filter(), 1..20),
    ) {
        let mut fixture = Fixture::new();
        fixture.replica.create_collection(TENANT, "t", texts()).unwrap();
        let mut entities = Vec::new();
        for (n, (attributes, is_typed, importance)) in described.into_iter().enumerate() {
            let (attributes, is_typed, importance): Described = (attributes, is_typed, importance);
            let entity_type = if is_typed { "ab".to_owned() } else { String::new() };
            let named = entity(&format!("e{n:02}"), &[]);
            let one = Entity { attributes, entity_type, importance, ..named };
            fixture.put(one.clone());
            fixture.one(Write::Put { collection: "t".into(), entity: Box::new(one.clone()) }).unwrap();
            entities.push(one);
        }
        for is_reopened in [false, true] {
            if is_reopened {
                fixture = fixture.reopen();
            }
            for filter in &filters {
                let wanted = entities.iter().filter(|entity| holds(filter, entity));
                let wanted: Vec<String> = wanted.map(|entity| entity.id.clone()).collect();
                for collection in ["c", "t"] {
                    let Some([scanned, asked]) = found(&fixture, collection, filter) else { continue };
                    prop_assert_eq!(&scanned, &wanted, "{} {:?}", collection, filter);
                    prop_assert_eq!(&asked, &wanted, "{} {:?}", collection, filter);
                }
            }
        }
    }
}
