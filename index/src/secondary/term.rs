//! Values as bytes that sort as the values do.
//!
//! A term is a tag for what kind of value it is and, after it, the value: numbers as the double nearest to them followed by what
//! rounding took away, so that integers and doubles sort among each other exactly; texts and bytes escaped and ended, and cut off
//! beyond [`MAX_BYTES`].

use std::collections::BTreeSet;

use crate::{
    filter::{Field, any_at},
    model::{Timestamp, Value},
    row::{EntityRow, Field as RowField},
};

/// So many bytes of a text or of bytes are part of its term: values that have them in common share it.
pub(super) const MAX_BYTES: usize = 256;

/// The kinds of values, in the order of their terms.
pub(super) mod tag {
    pub(crate) const NULL: u8 = 1;
    /// Within a list.
    pub(crate) const NULL_ITEM: u8 = 2;
    pub(crate) const BOOL: u8 = 3;
    pub(crate) const NUMBER: u8 = 4;
    pub(crate) const TIMESTAMP: u8 = 5;
    pub(crate) const STRING: u8 = 6;
    pub(crate) const BYTES: u8 = 7;
    /// A list or a map itself, whatever is in it.
    pub(crate) const COMPOUND: u8 = 8;
}

/// The term of a value: those of lists and maps say only that they are there.
pub(super) fn term(value: &Value) -> Vec<u8> {
    let tagged = |tag: u8, rest: &[u8]| [&[tag], rest].concat();
    match value {
        Value::Null => vec![tag::NULL],
        Value::Bool(is_true) => vec![tag::BOOL, u8::from(*is_true)],
        Value::Int(number) => {
            let nearest = *number as f64;
            tagged(tag::NUMBER, &number_bytes(nearest, i128::from(*number) - nearest as i128))
        }
        Value::Double(number) => tagged(tag::NUMBER, &number_bytes(*number, 0)),
        Value::Timestamp(Timestamp(micros)) => tagged(tag::TIMESTAMP, &ordered(*micros).to_be_bytes()),
        Value::String(text) => tagged(tag::STRING, &ended(text.as_bytes())),
        Value::Bytes(bytes) => tagged(tag::BYTES, &ended(bytes)),
        Value::List(_) | Value::Map(_) => vec![tag::COMPOUND],
    }
}

/// What the terms of all texts begin with that begin so.
pub(super) fn text_start(prefix: &str) -> Vec<u8> {
    let mut start = vec![tag::STRING];
    escape(prefix.as_bytes(), &mut start);
    start
}

/// Whether a term tells its value apart from all others.
pub(super) fn is_whole(value: &Value) -> bool {
    match value {
        Value::String(text) => text.len() < MAX_BYTES,
        Value::Bytes(bytes) => bytes.len() < MAX_BYTES,
        Value::List(_) | Value::Map(_) => false,
        _ => true,
    }
}

/// A double, and what an integer is above it: at most 2⁹ for those that are rounded.
fn number_bytes(number: f64, above: i128) -> [u8; 10] {
    // The two zeros are equal.
    let bits = (number + 0.0).to_bits();
    let sorted = if bits >> 63 == 1 { !bits } else { bits | 1 << 63 };
    let mut bytes = [0; 10];
    bytes[..8].copy_from_slice(&sorted.to_be_bytes());
    bytes[8..].copy_from_slice(&(above as i16 as u16 ^ 1 << 15).to_be_bytes());
    bytes
}

fn ordered(number: i64) -> u64 {
    number as u64 ^ 1 << 63
}

fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    for &byte in &bytes[..bytes.len().min(MAX_BYTES)] {
        out.push(byte);
        if byte == 0 {
            out.push(0xff);
        }
    }
}

fn ended(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len().min(MAX_BYTES) + 2);
    escape(bytes, &mut out);
    out.extend_from_slice(&[0, 0]);
    out
}

/// The terms under which an entity is found by a field.
pub(super) fn terms_of(field: &Field, row: &EntityRow) -> BTreeSet<Vec<u8>> {
    let mut terms = BTreeSet::new();
    if row.get(&RowField::Existence).is_none() {
        return terms;
    }
    let mut add = |value: &Value| {
        add_terms(value, &mut terms);
        false
    };
    let time = |time: Option<Timestamp>| time.map(Value::Timestamp);
    let value = match field {
        // Found by its key.
        Field::Id => None,
        Field::Type => Some(row.get(&RowField::Type).cloned().unwrap_or(Value::String(String::new()))),
        Field::Importance => row.get(&RowField::Importance).cloned(),
        Field::CreatedAt => time(row.puts.first().map(|version| version.timestamp())),
        Field::UpdatedAt => time(Some(row.touched.timestamp())),
        Field::ExpireAt => time(row.expire_at()),
        Field::Source => {
            for (name, source) in &row.fields {
                if let (RowField::Source(name), Some(_)) = (name, &source.value) {
                    add(&Value::String(name.clone()));
                }
            }
            None
        }
        Field::Attribute(path) => {
            any_at(row.get(&RowField::Attribute(path[0].clone())), &path[1..], &mut add);
            None
        }
    };
    if let Some(value) = value {
        add(&value);
    }
    terms
}

fn add_terms(value: &Value, terms: &mut BTreeSet<Vec<u8>>) {
    terms.insert(term(value));
    if let Value::List(items) = value {
        for item in items {
            match item {
                Value::Null => terms.insert(vec![tag::NULL_ITEM]),
                item => {
                    add_terms(item, terms);
                    true
                }
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn number() -> impl Strategy<Value = Value> {
        let near = prop_oneof![Just(1_i64 << 53), Just(i64::MAX), Just(i64::MIN), Just(0)];
        prop_oneof![
            any::<i64>().prop_map(Value::Int),
            (near, -1_025_i64..1_025).prop_map(|(near, by)| Value::Int(near.saturating_add(by))),
            (-40_i64..40).prop_map(|number| Value::Double(number as f64 / 4.0)),
            any::<i64>().prop_map(|number| Value::Double(number as f64)),
            any::<f64>().prop_filter("finite", |number| number.is_finite()).prop_map(Value::Double),
            Just(Value::Double(-0.0)),
        ]
    }

    fn text() -> impl Strategy<Value = Value> {
        prop_oneof![
            "[ab\u{0}é]{0,5}".prop_map(Value::String),
            prop::collection::vec(0_u8..3, 0..5).prop_map(|bytes| Value::Bytes(bytes.into())),
        ]
    }

    proptest! {
        #[test]
        fn terms_sort_as_values_do(
            (a, b) in prop_oneof![(number(), number()), (text(), text())],
        ) {
            if let Some(order) = a.compare(&b) {
                prop_assert_eq!(term(&a).cmp(&term(&b)), order, "{:?} {:?}", a, b);
            }
        }
    }

    #[test]
    fn lists_are_found_by_what_is_in_them() {
        let mut terms = BTreeSet::new();
        let nested = Value::List(vec![Value::Int(3), Value::Null]);
        add_terms(&Value::List(vec![Value::String("x".into()), nested]), &mut terms);
        let wanted = [
            vec![tag::NULL_ITEM],
            term(&Value::Int(3)),
            term(&Value::String("x".into())),
            vec![tag::COMPOUND],
        ];
        assert_eq!(terms, BTreeSet::from(wanted));
    }
}
