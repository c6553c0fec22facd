//! The numbers of a vector: from JSON, to JSON, and out of the raw encodings.

use allidb_api::v1::{Vector, VectorEncoding};
use anyhow::{Result, bail};
use half::f16;
use serde_json::Value as Json;

/// Reads an array of finite numbers, or a text that the server is to embed.
pub(crate) fn from_json(json: &Json) -> Result<Vector> {
    if let Json::String(text) = json
        && !text.is_empty()
    {
        return Ok(Vector { text: text.clone(), ..Vector::default() });
    }
    let Json::Array(items) = json else { bail!("a vector is an array of numbers, or a text to embed") };
    let read_one = |(position, item): (usize, &Json)| match item.as_f64().map(|number| number as f32) {
        Some(number) if number.is_finite() => Ok(number),
        _ => bail!("number {position} of the vector is {item}"),
    };
    let values = items.iter().enumerate().map(read_one).collect::<Result<Vec<f32>>>()?;
    if values.is_empty() {
        bail!("the vector is empty");
    }
    Ok(Vector { values, ..Vector::default() })
}

/// Writes the shortest decimals that read back to the same f32.
pub(crate) fn to_json(vector: &Vector) -> Json {
    let write_one = |number: f32| number.to_string().parse::<f64>().map_or(Json::Null, Json::from);
    numbers(vector).into_iter().map(write_one).collect()
}

/// The numbers, whichever way they were sent.
pub(crate) fn numbers(vector: &Vector) -> Vec<f32> {
    let raw = &vector.raw;
    match vector.encoding() {
        VectorEncoding::Unspecified => vector.values.clone(),
        VectorEncoding::F32 => raw.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
        VectorEncoding::F16 => {
            raw.as_chunks().0.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f32()).collect()
        }
        VectorEncoding::I8 => raw.iter().map(|&byte| f32::from(byte.cast_signed())).collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn decimals_stay_short_and_exact() {
        let vector = from_json(&json!([0.1, -3, 1e-8])).unwrap();
        assert_eq!(to_json(&vector), json!([0.1, -3.0, 1e-8]));
    }

    #[test]
    fn raw_encodings_are_read() {
        let raw = |encoding: VectorEncoding, raw: &[u8]| Vector {
            raw: raw.to_vec().into(),
            encoding: encoding as i32,
            ..Vector::default()
        };
        assert_eq!(numbers(&raw(VectorEncoding::F16, &[0, 0x3c, 0, 0xc0])), [1.0, -2.0]);
        assert_eq!(numbers(&raw(VectorEncoding::F32, &1.5f32.to_le_bytes())), [1.5]);
        assert_eq!(numbers(&raw(VectorEncoding::I8, &[1, 255])), [1.0, -1.0]);
    }

    #[test]
    fn what_is_no_vector_is_refused() {
        for json in [json!([]), json!(["a"]), json!([1e300]), json!({}), json!([null])] {
            assert!(from_json(&json).is_err(), "{json} was taken");
        }
    }
}
