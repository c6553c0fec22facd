//! The ranges of terms that a condition asks for.

use super::term::{MAX_BYTES, is_whole, tag, term, text_start};
use crate::{
    filter::{Field, Filter, Operator},
    model::Value,
};

/// Ranges of terms, from the first and below the second of each.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Lookup {
    pub(super) ranges: Vec<(Vec<u8>, Vec<u8>)>,
    /// Whether just those that have a term in a range meet the condition; otherwise all that do have one, and others, too.
    pub(super) is_exact: bool,
}

/// The field that a condition speaks of, and the terms that it asks for; `None` if it is none of one field.
pub(super) fn lookup(condition: &Filter) -> Option<(&Field, Lookup)> {
    let exactly = |ranges| Lookup { ranges, is_exact: true };
    match condition {
        Filter::Compare(field, operator, value) if *operator != Operator::Contains => {
            Some((field, compare(*operator, value)))
        }
        Filter::In(field, values) => {
            let mut all = exactly(Vec::new());
            for value in values {
                let Lookup { ranges, is_exact } = compare(Operator::Equal, value);
                all.ranges.extend(ranges);
                all.is_exact &= is_exact;
            }
            all.ranges.sort();
            all.ranges.dedup();
            Some((field, all))
        }
        Filter::Exists(field) => Some((field, exactly(vec![(vec![0], vec![0xff])]))),
        Filter::IsNull(field) => Some((field, exactly(vec![kind(tag::NULL)]))),
        // Nothing is known of what is inside of a text.
        Filter::Compare(..) | Filter::Words(..) | Filter::And(_) | Filter::Or(_) | Filter::Not(_) => None,
    }
}

/// All terms of a kind.
fn kind(tag: u8) -> (Vec<u8>, Vec<u8>) {
    (vec![tag], vec![tag + 1])
}

/// Where the terms end that begin so.
fn end_of(mut start: Vec<u8>) -> Vec<u8> {
    while let Some(last) = start.pop() {
        if last < 0xff {
            start.push(last + 1);
            break;
        }
    }
    start
}

fn compare(operator: Operator, value: &Value) -> Lookup {
    let is_exact = is_whole(value);
    let (first, behind) = kind(term(value)[0]);
    let at = term(value);
    let after = end_of(at.clone());
    let ranges = match (operator, value) {
        (Operator::Equal, Value::Null) => vec![kind(tag::NULL), kind(tag::NULL_ITEM)],
        (Operator::NotEqual, Value::Null) => Vec::new(),
        (Operator::StartsWith, Value::String(prefix)) => {
            let start = text_start(prefix);
            let end = end_of(start.clone());
            return Lookup { ranges: vec![(start, end)], is_exact: prefix.len() <= MAX_BYTES };
        }
        (Operator::StartsWith | Operator::Contains, _) => Vec::new(),
        (Operator::Equal, _) => vec![(at, after)],
        // Of values that share a term with this one, some may be less and some greater.
        (Operator::NotEqual, _) if !is_exact => vec![(first, behind)],
        (Operator::NotEqual, _) => vec![(first, at), (after, behind)],
        (Operator::Less, _) if is_exact => vec![(first, at)],
        (Operator::Less | Operator::LessOrEqual, _) => vec![(first, after)],
        (Operator::Greater, _) if is_exact => vec![(after, behind)],
        (Operator::Greater | Operator::GreaterOrEqual, _) => vec![(at, behind)],
    };
    Lookup { ranges, is_exact }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        merge::Register,
        model::{Entity, Limits},
        row::EntityRow,
        secondary::term::terms_of,
        version::Version,
    };

    fn value() -> impl Strategy<Value = Value> {
        let scalar = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            (-3_i64..3).prop_map(Value::Int),
            (-6_i64..6).prop_map(|number| Value::Double(number as f64 / 2.0)),
            "[ab]{0,3}".prop_map(Value::String),
            // Longer than what terms hold, and alike as far as they do.
            (254_usize..259, "[ab]?").prop_map(|(length, end)| Value::String("a".repeat(length) + &end)),
            (-3_i64..3).prop_map(|micros| Value::Timestamp(crate::model::Timestamp(micros))),
            prop::collection::vec(0_u8..2, 0..3).prop_map(|bytes| Value::Bytes(bytes.into())),
        ];
        scalar.prop_recursive(2, 8, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::List),
                prop::collection::btree_map("[xy]", inner, 0..2).prop_map(Value::Map),
            ]
        })
    }

    fn condition() -> impl Strategy<Value = Filter> {
        let path = prop_oneof![Just(vec!["f".to_owned()]), Just(vec!["f".to_owned(), "x".to_owned()])];
        let operator = prop_oneof![
            Just(Operator::Equal),
            Just(Operator::NotEqual),
            Just(Operator::Less),
            Just(Operator::LessOrEqual),
            Just(Operator::Greater),
            Just(Operator::GreaterOrEqual),
            Just(Operator::StartsWith),
        ];
        (path, operator, value(), prop::collection::vec(value(), 0..3), 0..4).prop_map(
            |(path, operator, value, values, which)| {
                let field = Field::Attribute(path);
                match which {
                    0 => Filter::Exists(field),
                    1 => Filter::IsNull(field),
                    2 => Filter::In(field, values),
                    _ => Filter::Compare(field, operator, value),
                }
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn terms_in_the_ranges_are_those_that_meet_the_condition(value in value(), condition in condition()) {
            let mut row = EntityRow::default();
            row.set(crate::row::Field::Existence, Version::ZERO, Some(Value::Bool(true)));
            let name = crate::row::Field::Attribute("f".into());
            row.fields.insert(name, Register { version: Version::ZERO, value: Some(value.clone()) });
            let entity = Entity { attributes: BTreeMap::from([("f".to_owned(), value)]), ..Entity::default() };
            prop_assume!(condition.validate("filter", &Limits::default()).is_ok());
            let (field, lookup) = lookup(&condition).expect("of one field");
            let terms = terms_of(field, &row);
            let is_found = lookup.ranges.iter().any(|(from, to)| terms.iter().any(|term| from <= term && term < to));
            let matches = condition.matches(&entity, &crate::model::TextSpec::default());
            prop_assert!(is_found || !matches, "{terms:?} {lookup:?}");
            prop_assert!(!is_found || matches || !lookup.is_exact, "{terms:?} {lookup:?}");
        }
    }
}
