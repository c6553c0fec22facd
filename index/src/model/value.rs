//! Attribute values and the total order among them that merging needs.

use std::{cmp::Ordering, collections::BTreeMap};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Microseconds since the Unix epoch, in UTC; may be negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// From milliseconds since the Unix epoch; saturates at the ends of the range.
    pub fn from_millis(millis: u64) -> Self {
        Self(i64::try_from(millis).unwrap_or(i64::MAX).saturating_mul(1_000))
    }

    /// Seconds from `earlier` to `self`, negative if `self` is the earlier one.
    pub fn seconds_since(self, earlier: Timestamp) -> f64 {
        (self.0 as f64 - earlier.0 as f64) / 1e6
    }
}

/// A typed attribute value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Value {
    /// There, and without a value.
    Null,
    /// A truth value.
    Bool(bool),
    /// A 64-bit signed integer.
    Int(i64),
    /// A finite number.
    Double(f64),
    /// UTF-8 text.
    String(String),
    /// Raw bytes.
    Bytes(Bytes),
    /// A point in time.
    Timestamp(Timestamp),
    /// Values in order.
    List(Vec<Value>),
    /// Named values.
    Map(BTreeMap<String, Value>),
}

impl Value {
    /// How deep lists and maps are nested; a scalar is 0.
    pub fn depth(&self) -> usize {
        match self {
            Value::List(items) => 1 + items.iter().map(Value::depth).max().unwrap_or(0),
            Value::Map(fields) => 1 + fields.values().map(Value::depth).max().unwrap_or(0),
            _ => 0,
        }
    }

    /// Whether every double inside is finite.
    pub fn is_finite(&self) -> bool {
        match self {
            Value::Double(number) => number.is_finite(),
            Value::List(items) => items.iter().all(Value::is_finite),
            Value::Map(fields) => fields.values().all(Value::is_finite),
            _ => true,
        }
    }

    /// About how many bytes it takes.
    pub fn bytes(&self) -> usize {
        match self {
            Value::String(text) => text.len(),
            Value::Bytes(bytes) => bytes.len(),
            Value::List(items) => items.iter().map(|item| 1 + item.bytes()).sum(),
            Value::Map(fields) => fields.iter().map(|(name, value)| 1 + name.len() + value.bytes()).sum(),
            _ => 8,
        }
    }

    /// Compares two values of comparable types: numbers with numbers (exactly, also an integer with a
    /// double), strings, bytes, booleans and times with their like. `None` for anything else.
    pub fn compare(&self, other: &Value) -> Option<Ordering> {
        match (self, other) {
            (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
            (Value::Double(a), Value::Double(b)) => a.partial_cmp(b),
            (Value::Int(a), Value::Double(b)) => compare_int_double(*a, *b),
            (Value::Double(a), Value::Int(b)) => compare_int_double(*b, *a).map(Ordering::reverse),
            (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
            (Value::Bytes(a), Value::Bytes(b)) => Some(a.cmp(b)),
            (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
            (Value::Timestamp(a), Value::Timestamp(b)) => Some(a.cmp(b)),
            (Value::Null, Value::Null) => Some(Ordering::Equal),
            (Value::List(a), Value::List(b)) if a.len() == b.len() => {
                let equal = a.iter().zip(b).all(|(a, b)| a.compare(b) == Some(Ordering::Equal));
                equal.then_some(Ordering::Equal)
            }
            (Value::Map(a), Value::Map(b)) if a.len() == b.len() => {
                let equal = a
                    .iter()
                    .zip(b)
                    .all(|((ka, a), (kb, b))| ka == kb && a.compare(b) == Some(Ordering::Equal));
                equal.then_some(Ordering::Equal)
            }
            _ => None,
        }
    }
}

/// Exact: a double is never rounded to an integer nor an integer to a double.
fn compare_int_double(int: i64, double: f64) -> Option<Ordering> {
    const TWO_63: f64 = 9_223_372_036_854_775_808.0;
    if double.is_nan() {
        return None;
    }
    if double >= TWO_63 {
        return Some(Ordering::Less);
    }
    if double < -TWO_63 {
        return Some(Ordering::Greater);
    }
    // In range: the integral part fits an i64 exactly, and the fraction decides a tie.
    let floor = double.floor();
    Some(int.cmp(&(floor as i64)).then(if double > floor { Ordering::Less } else { Ordering::Equal }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_and_doubles_compare_exactly() {
        let big = (1_i64 << 53) + 1;
        assert_eq!(Value::Int(big).compare(&Value::Double((1_i64 << 53) as f64)), Some(Ordering::Greater));
        assert_eq!(
            Value::Int(i64::MAX).compare(&Value::Double(9_223_372_036_854_775_807.0)),
            Some(Ordering::Less)
        );
        assert_eq!(
            Value::Int(i64::MIN).compare(&Value::Double(-9_223_372_036_854_775_808.0)),
            Some(Ordering::Equal)
        );
        assert_eq!(Value::Int(2).compare(&Value::Double(2.5)), Some(Ordering::Less));
        assert_eq!(Value::Int(-2).compare(&Value::Double(-2.5)), Some(Ordering::Greater));
        assert_eq!(Value::Double(2.0).compare(&Value::Int(2)), Some(Ordering::Equal));
        assert_eq!(Value::Int(1).compare(&Value::String("1".into())), None);
    }
}
