//! Vectors: numbers, or raw little-endian bytes with their encoding.

use std::collections::BTreeMap;

use tonic::Status;

use super::Path;
use crate::v1::{self, VectorEncoding};

pub(super) fn vector_from_proto(path: &Path<'_>, vector: v1::Vector) -> Result<Vec<f32>, Status> {
    let dimension = vector.dimension as usize;
    if !vector.text.is_empty() {
        return Err(path.invalid("holds both numbers and a text; send one of them"));
    }
    if vector.raw.is_empty() {
        if dimension != 0 && dimension != vector.values.len() {
            let why = format!("is {dimension}, but there are {} values", vector.values.len());
            return Err(path.field("dimension").invalid(why));
        }
        return Ok(vector.values);
    }
    if !vector.values.is_empty() {
        return Err(path.invalid("holds both values and raw bytes; send one of them"));
    }
    let encoding = VectorEncoding::try_from(vector.encoding).unwrap_or(VectorEncoding::Unspecified);
    let size = match encoding {
        VectorEncoding::F32 => 4,
        VectorEncoding::F16 => 2,
        VectorEncoding::I8 => 1,
        VectorEncoding::Unspecified => {
            return Err(path
                .field("encoding")
                .invalid("must say how the raw bytes are laid out: F32, F16 or I8"));
        }
    };
    if dimension.checked_mul(size) != Some(vector.raw.len()) {
        let why = format!("holds {} bytes; dimension {dimension} takes {size} bytes each", vector.raw.len());
        return Err(path.field("raw").invalid(why));
    }
    Ok(numbers(encoding, &vector.raw))
}

fn numbers(encoding: VectorEncoding, raw: &[u8]) -> Vec<f32> {
    match encoding {
        VectorEncoding::F16 => {
            let (pairs, _) = raw.as_chunks::<2>();
            pairs.iter().map(|bytes| half::f16::from_le_bytes(*bytes).to_f32()).collect()
        }
        VectorEncoding::I8 => raw.iter().map(|byte| f32::from(i8::from_le_bytes([*byte]))).collect(),
        VectorEncoding::F32 | VectorEncoding::Unspecified => {
            let (quads, _) = raw.as_chunks::<4>();
            quads.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
        }
    }
}

pub(super) fn vectors_from_proto(
    path: &Path<'_>,
    vectors: BTreeMap<String, v1::Vector>,
) -> Result<BTreeMap<String, Vec<f32>>, Status> {
    vectors
        .into_iter()
        .map(|(space, vector)| {
            let vector = vector_from_proto(&path.key(&space), vector)?;
            Ok((space, vector))
        })
        .collect()
}

pub(super) fn vectors_to_proto(vectors: BTreeMap<String, Vec<f32>>) -> BTreeMap<String, v1::Vector> {
    vectors
        .into_iter()
        .map(|(space, values)| (space, v1::Vector { values, ..v1::Vector::default() }))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(vector: v1::Vector) -> Result<Vec<f32>, String> {
        let entity = Path::Root("entity");
        let vectors = entity.field("vectors");
        vector_from_proto(&vectors.key("gloss"), vector).map_err(|status| status.message().to_owned())
    }

    fn raw(encoding: VectorEncoding, raw: Vec<u8>, dimension: u32) -> v1::Vector {
        v1::Vector { raw: raw.into(), encoding: encoding.into(), dimension, ..v1::Vector::default() }
    }

    proptest! {
        #[test]
        fn raw_and_values_are_the_same_numbers(values: Vec<f32>) {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            let numbers = read(raw(VectorEncoding::F32, bytes, values.len() as u32)).expect("fits");
            let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            prop_assert_eq!(bits(&numbers), bits(&values));
            let numbers = read(v1::Vector { values: values.clone(), ..v1::Vector::default() }).expect("as is");
            prop_assert_eq!(bits(&numbers), bits(&values));
        }
    }

    #[test]
    fn other_encodings_become_numbers() {
        assert_eq!(
            read(raw(VectorEncoding::I8, vec![0, 127, 128, 255], 4)),
            Ok(vec![0.0, 127.0, -128.0, -1.0])
        );
        assert_eq!(read(raw(VectorEncoding::F16, vec![0x00, 0x3c, 0x00, 0xc0], 2)), Ok(vec![1.0, -2.0]));
    }

    #[test]
    fn contradictions_name_the_field() {
        let both = v1::Vector { values: vec![1.0], ..raw(VectorEncoding::I8, vec![1], 1) };
        assert_eq!(
            read(both).expect_err("both"),
            "entity.vectors[\"gloss\"] holds both values and raw bytes; send one of them"
        );
        let short = read(raw(VectorEncoding::F32, vec![0; 7], 2)).expect_err("short");
        assert_eq!(short, "entity.vectors[\"gloss\"].raw holds 7 bytes; dimension 2 takes 4 bytes each");
        assert!(
            read(raw(VectorEncoding::Unspecified, vec![1], 1)).expect_err("unknown").contains(".encoding")
        );
        assert!(read(raw(VectorEncoding::F32, vec![0; 8], u32::MAX)).is_err());
        let wrong = v1::Vector { values: vec![1.0], dimension: 2, ..v1::Vector::default() };
        assert!(read(wrong).expect_err("wrong").contains(".dimension is 2"));
    }
}
