//! The bytes of attribute values: a tag, then the content.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::{
    codec::{DecodeError, Decoder, put_bytes, put_varint},
    model::{Timestamp, Value},
};

/// Deeper values are refused at the door; this keeps garbage from exhausting the stack.
const MAX_DEPTH: usize = 64;

pub(crate) fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => out.push(1),
        Value::Bool(false) => out.push(2),
        Value::Bool(true) => out.push(3),
        Value::Int(number) => {
            out.push(4);
            out.extend_from_slice(&number.to_le_bytes());
        }
        Value::Double(number) => {
            out.push(5);
            out.extend_from_slice(&number.to_le_bytes());
        }
        Value::String(text) => {
            out.push(6);
            put_bytes(out, text.as_bytes());
        }
        Value::Bytes(bytes) => {
            out.push(7);
            put_bytes(out, bytes);
        }
        Value::Timestamp(time) => {
            out.push(8);
            out.extend_from_slice(&time.0.to_le_bytes());
        }
        Value::List(items) => {
            out.push(9);
            put_varint(out, items.len() as u64);
            items.iter().for_each(|item| put_value(out, item));
        }
        Value::Map(fields) => {
            out.push(10);
            put_map(out, fields);
        }
    }
}

pub(crate) fn take_value(from: &mut Decoder<'_>) -> Result<Value, DecodeError> {
    take_nested(from, 0)
}

/// Passes over a value.
pub(crate) fn skip_value(from: &mut Decoder<'_>) -> Result<(), DecodeError> {
    skip_nested(from, 0)
}

pub(crate) fn put_map(out: &mut Vec<u8>, fields: &BTreeMap<String, Value>) {
    put_varint(out, fields.len() as u64);
    for (name, value) in fields {
        put_bytes(out, name.as_bytes());
        put_value(out, value);
    }
}

pub(crate) fn take_map(from: &mut Decoder<'_>) -> Result<BTreeMap<String, Value>, DecodeError> {
    take_nested_map(from, 0)
}

pub(crate) fn put_names(out: &mut Vec<u8>, names: &BTreeSet<String>) {
    put_varint(out, names.len() as u64);
    names.iter().for_each(|name| put_bytes(out, name.as_bytes()));
}

pub(crate) fn take_names(from: &mut Decoder<'_>) -> Result<BTreeSet<String>, DecodeError> {
    (0..from.count(1)?).map(|_| from.text()).collect()
}

fn take_nested(from: &mut Decoder<'_>, depth: usize) -> Result<Value, DecodeError> {
    if depth > MAX_DEPTH {
        return Err(DecodeError::Depth);
    }
    Ok(match from.u8()? {
        1 => Value::Null,
        2 => Value::Bool(false),
        3 => Value::Bool(true),
        4 => Value::Int(from.u64_le()? as i64),
        5 => Value::Double(from.f64_le()?),
        6 => Value::String(from.text()?),
        7 => Value::Bytes(Bytes::copy_from_slice(from.bytes()?)),
        8 => Value::Timestamp(Timestamp(from.u64_le()? as i64)),
        9 => {
            Value::List((0..from.count(1)?).map(|_| take_nested(from, depth + 1)).collect::<Result<_, _>>()?)
        }
        10 => Value::Map(take_nested_map(from, depth + 1)?),
        tag => return Err(DecodeError::Tag(tag)),
    })
}

fn skip_nested(from: &mut Decoder<'_>, depth: usize) -> Result<(), DecodeError> {
    if depth > MAX_DEPTH {
        return Err(DecodeError::Depth);
    }
    match from.u8()? {
        1..=3 => {}
        4 | 5 | 8 => drop(from.take(8)?),
        6 | 7 => drop(from.bytes()?),
        9 => (0..from.count(1)?).try_for_each(|_| skip_nested(from, depth + 1))?,
        10 => (0..from.count(2)?).try_for_each(|_| {
            from.bytes()?;
            skip_nested(from, depth + 2)
        })?,
        tag => return Err(DecodeError::Tag(tag)),
    }
    Ok(())
}

fn take_nested_map(from: &mut Decoder<'_>, depth: usize) -> Result<BTreeMap<String, Value>, DecodeError> {
    (0..from.count(2)?).map(|_| Ok((from.text()?, take_nested(from, depth + 1)?))).collect()
}
