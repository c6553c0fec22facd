//! Cells of Arrow arrays as values and vectors.
//!
//! Only the types that Parquet itself knows come here: the reader leaves aside what Arrow wrote beside them, such as
//! dictionaries and views.

use allidb_api::v1::{ListValue, MapValue, Value, Vector, VectorEncoding, value::Kind};
use anyhow::{Result, bail};
use arrow_array::{
    Array, ArrowPrimitiveType,
    cast::AsArray,
    types::{
        Date32Type, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
        TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
        UInt8Type, UInt16Type, UInt32Type, UInt64Type,
    },
};
use arrow_schema::{DataType, TimeUnit};
use bytes::Bytes;

const SECONDS_OF_A_DAY: i64 = 86_400;

/// Whether values of a type can be stored.
pub(crate) fn is_known(of: &DataType) -> bool {
    match of {
        DataType::Null
        | DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::UInt8
        | DataType::UInt16
        | DataType::UInt32
        | DataType::UInt64
        | DataType::Float16
        | DataType::Float32
        | DataType::Float64
        | DataType::Utf8
        | DataType::Binary
        | DataType::FixedSizeBinary(_)
        | DataType::Timestamp(..)
        | DataType::Date32 => true,
        DataType::List(item) | DataType::FixedSizeList(item, _) => is_known(item.data_type()),
        DataType::Struct(fields) => fields.iter().all(|field| is_known(field.data_type())),
        DataType::Map(entry, _) => match entry.data_type() {
            DataType::Struct(pair) => {
                pair.first().is_some_and(|key| key.data_type() == &DataType::Utf8)
                    && pair.last().is_some_and(|value| is_known(value.data_type()))
            }
            _ => false,
        },
        _ => false,
    }
}

/// Whether vectors can be read from a column of this type.
pub(crate) fn is_vector(of: &DataType) -> bool {
    match of {
        DataType::List(item) | DataType::FixedSizeList(item, _) => {
            matches!(
                item.data_type(),
                DataType::Float16 | DataType::Float32 | DataType::Float64 | DataType::Int8
            )
        }
        _ => false,
    }
}

/// The value at a place; `None` where there is none.
///
/// # Errors
/// If no value of ours is the same: a number that is not finite, or larger than an int64 holds.
pub(crate) fn value(array: &dyn Array, at: usize) -> Result<Option<Value>> {
    if array.is_null(at) {
        return Ok(None);
    }
    let kind = match array.data_type() {
        DataType::Null => return Ok(None),
        DataType::Boolean => Kind::BoolValue(array.as_boolean().value(at)),
        DataType::Int8 => whole::<Int8Type>(array, at)?,
        DataType::Int16 => whole::<Int16Type>(array, at)?,
        DataType::Int32 => whole::<Int32Type>(array, at)?,
        DataType::Int64 => whole::<Int64Type>(array, at)?,
        DataType::UInt8 => whole::<UInt8Type>(array, at)?,
        DataType::UInt16 => whole::<UInt16Type>(array, at)?,
        DataType::UInt32 => whole::<UInt32Type>(array, at)?,
        DataType::UInt64 => whole::<UInt64Type>(array, at)?,
        DataType::Float16 => finite(array.as_primitive::<Float16Type>().value(at).to_f64())?,
        DataType::Float32 => finite(array.as_primitive::<Float32Type>().value(at).into())?,
        DataType::Float64 => finite(array.as_primitive::<Float64Type>().value(at))?,
        DataType::Utf8 => Kind::StringValue(array.as_string::<i32>().value(at).to_owned()),
        DataType::Binary => Kind::BytesValue(Bytes::copy_from_slice(array.as_binary::<i32>().value(at))),
        DataType::FixedSizeBinary(_) => {
            Kind::BytesValue(Bytes::copy_from_slice(array.as_fixed_size_binary().value(at)))
        }
        DataType::Date32 => {
            let days = i64::from(array.as_primitive::<Date32Type>().value(at));
            time(days * SECONDS_OF_A_DAY, 0)
        }
        DataType::Timestamp(unit, _) => timestamp(array, *unit, at),
        DataType::List(_) => list(&*array.as_list::<i32>().value(at))?,
        DataType::FixedSizeList(..) => list(&*array.as_fixed_size_list().value(at))?,
        DataType::Struct(fields) => {
            let mut map = MapValue::default();
            for (field, column) in fields.iter().zip(array.as_struct().columns()) {
                if let Some(value) = value(column, at)? {
                    map.fields.insert(field.name().clone(), value);
                }
            }
            Kind::MapValue(map)
        }
        DataType::Map(..) => {
            let entries = array.as_map().value(at);
            let (Some(keys), Some(values)) = (entries.columns().first(), entries.columns().last()) else {
                bail!("a map without keys");
            };
            let mut map = MapValue::default();
            for at in 0..entries.len() {
                let value = value(values, at)?.unwrap_or_else(null);
                map.fields.insert(keys.as_string::<i32>().value(at).to_owned(), value);
            }
            Kind::MapValue(map)
        }
        other => bail!("there are no values of the type {other}"),
    };
    Ok(Some(Value { kind: Some(kind) }))
}

fn null() -> Value {
    Value { kind: Some(Kind::NullValue(0)) }
}

fn list(items: &dyn Array) -> Result<Kind> {
    let read_one = |at| Ok(value(items, at)?.unwrap_or_else(null));
    let values = (0..items.len()).map(read_one).collect::<Result<_>>()?;
    Ok(Kind::ListValue(ListValue { values }))
}

fn whole<T: ArrowPrimitiveType>(array: &dyn Array, at: usize) -> Result<Kind>
where
    i64: TryFrom<T::Native>,
{
    let number = array.as_primitive::<T>().value(at);
    match i64::try_from(number) {
        Ok(number) => Ok(Kind::IntValue(number)),
        Err(_) => bail!("{number:?} is larger than an int64 holds"),
    }
}

fn finite(number: f64) -> Result<Kind> {
    if !number.is_finite() {
        bail!("{number} is not a finite number");
    }
    Ok(Kind::DoubleValue(number))
}

fn time(seconds: i64, nanos: i64) -> Kind {
    // The remainders that come here are below a billion.
    Kind::TimestampValue(prost_types::Timestamp { seconds, nanos: nanos as i32 })
}

fn timestamp(array: &dyn Array, unit: TimeUnit, at: usize) -> Kind {
    let (ticks, in_a_second) = match unit {
        TimeUnit::Second => (array.as_primitive::<TimestampSecondType>().value(at), 1),
        TimeUnit::Millisecond => (array.as_primitive::<TimestampMillisecondType>().value(at), 1_000),
        TimeUnit::Microsecond => (array.as_primitive::<TimestampMicrosecondType>().value(at), 1_000_000),
        TimeUnit::Nanosecond => (array.as_primitive::<TimestampNanosecondType>().value(at), 1_000_000_000),
    };
    time(ticks.div_euclid(in_a_second), ticks.rem_euclid(in_a_second) * (1_000_000_000 / in_a_second))
}

/// The vector at a place; `None` where there is none.
///
/// # Errors
/// If it lacks numbers, or one of them is not finite.
pub(crate) fn vector(array: &dyn Array, at: usize) -> Result<Option<Vector>> {
    if array.is_null(at) {
        return Ok(None);
    }
    let numbers = match array.data_type() {
        DataType::List(_) => array.as_list::<i32>().value(at),
        DataType::FixedSizeList(..) => array.as_fixed_size_list().value(at),
        other => bail!("there are no vectors in a column of the type {other}"),
    };
    if numbers.null_count() > 0 {
        bail!("the vector lacks {} of its {} numbers", numbers.null_count(), numbers.len());
    }
    let (raw, encoding) = match numbers.data_type() {
        DataType::Float16 => {
            let all = numbers.as_primitive::<Float16Type>().values();
            check_finite(all.iter().map(|number| number.to_f32()))?;
            (all.iter().flat_map(|number| number.to_le_bytes()).collect::<Bytes>(), VectorEncoding::F16)
        }
        DataType::Float32 => floats(numbers.as_primitive::<Float32Type>().values().iter().copied())?,
        DataType::Float64 => {
            floats(numbers.as_primitive::<Float64Type>().values().iter().map(|number| *number as f32))?
        }
        DataType::Int8 => {
            let all = numbers.as_primitive::<Int8Type>().values();
            (all.iter().map(|number| number.cast_unsigned()).collect(), VectorEncoding::I8)
        }
        other => bail!("the numbers of a vector are floats, not {other}"),
    };
    let dimension = u32::try_from(numbers.len())?;
    Ok(Some(Vector { raw, encoding: encoding as i32, dimension, ..Vector::default() }))
}

fn floats(numbers: impl Iterator<Item = f32> + Clone) -> Result<(Bytes, VectorEncoding)> {
    check_finite(numbers.clone())?;
    Ok((numbers.flat_map(f32::to_le_bytes).collect(), VectorEncoding::F32))
}

fn check_finite(numbers: impl Iterator<Item = f32>) -> Result<()> {
    for (at, number) in numbers.enumerate() {
        if !number.is_finite() {
            bail!("number {at} of the vector is {number}");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{
        ArrayRef, Float64Array, Int32Array, ListArray, StringArray, StructArray, TimestampMillisecondArray,
        UInt64Array,
    };
    use arrow_schema::Field;
    use serde_json::json;

    use super::*;
    use crate::{value_json, vector_numbers};

    fn read(array: &dyn Array, at: usize) -> serde_json::Value {
        value(array, at).unwrap().map_or(json!("nothing"), |value| value_json::to_json(&value))
    }

    #[test]
    fn cells_become_values() {
        assert_eq!(read(&Int32Array::from(vec![Some(5), None]), 0), json!(5));
        assert_eq!(read(&Int32Array::from(vec![Some(5), None]), 1), json!("nothing"));
        assert_eq!(read(&StringArray::from(vec!["a"]), 0), json!("a"));
        let times = TimestampMillisecondArray::from(vec![-1_500]);
        assert_eq!(read(&times, 0), json!({"$timestamp": "1969-12-31T23:59:58.500Z"}));
        let columns: Vec<(Arc<Field>, ArrayRef)> = vec![
            (Arc::new(Field::new("a", DataType::Int32, true)), Arc::new(Int32Array::from(vec![1]))),
            (Arc::new(Field::new("b", DataType::Int32, true)), Arc::new(Int32Array::from(vec![None]))),
        ];
        assert_eq!(read(&StructArray::from(columns), 0), json!({"a": 1}));
        let lists = ListArray::from_iter_primitive::<Int32Type, _, _>([Some([Some(1), None])]);
        assert_eq!(read(&lists, 0), json!([1, null]));
    }

    #[test]
    fn what_is_no_value_is_refused() {
        assert!(value(&Float64Array::from(vec![f64::NAN]), 0).is_err());
        assert!(value(&UInt64Array::from(vec![u64::MAX]), 0).is_err());
    }

    #[test]
    fn lists_of_numbers_are_vectors() {
        let doubles = ListArray::from_iter_primitive::<Float64Type, _, _>([
            Some(vec![Some(0.5), Some(-1.0)]),
            None,
            Some(vec![None]),
            Some(vec![Some(f64::INFINITY)]),
        ]);
        assert!(is_vector(doubles.data_type()));
        let first = vector(&doubles, 0).unwrap().unwrap();
        assert_eq!((first.dimension, vector_numbers::numbers(&first)), (2, vec![0.5, -1.0]));
        assert_eq!(vector(&doubles, 1).unwrap(), None);
        assert!(vector(&doubles, 2).unwrap_err().to_string().contains("lacks 1 of its 1"));
        assert!(vector(&doubles, 3).unwrap_err().to_string().contains("number 0"));
    }
}
