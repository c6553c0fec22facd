//! Data files: JSON lines, NumPy arrays and the row numbers of exact answers.

use std::{fs, io::Read, path::Path};

use allidb_api::v1::{self, put_stream_request::Item};
use serde_json::Value as Json;

use crate::make::{edge, entity, name, text, vectors};

/// The objects of a `.jsonl.zst` file, at most so many.
pub(crate) fn lines(path: &Path, most: usize) -> Vec<Json> {
    let file = fs::File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut all = String::new();
    zstd::Decoder::new(file).expect("Zstandard").read_to_string(&mut all).expect("text");
    all.lines().take(most).map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// The first rows of a NumPy file of little-endian float16 or float32 in C order.
pub(crate) fn rows(path: &Path, most: usize) -> Vec<Vec<f32>> {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00", "NumPy, version 1");
    let data = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = std::str::from_utf8(&bytes[10..data]).expect("ASCII");
    let (_, shape) = header.split_once("'shape': (").expect("a shape");
    let (_, columns) = shape.split_once(')').expect("closed").0.split_once(", ").expect("two dimensions");
    let columns: usize = columns.parse().expect("a number");
    let is_half = header.contains("'<f2'");
    assert!(is_half || header.contains("'<f4'"), "{header}");
    let read = |row: &[u8]| -> Vec<f32> {
        if is_half {
            row.as_chunks().0.iter().map(|bytes| half::f16::from_le_bytes(*bytes).to_f32()).collect()
        } else {
            row.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
        }
    };
    let width = columns * if is_half { 2 } else { 4 };
    bytes[data..].chunks_exact(width).take(most).map(read).collect()
}

/// Records of a count and as many row numbers, all int32.
pub(crate) fn row_numbers(path: &Path) -> Vec<Vec<usize>> {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let numbers: Vec<usize> =
        bytes.as_chunks().0.iter().map(|bytes| i32::from_le_bytes(*bytes) as usize).collect();
    let width = numbers[0] + 1;
    numbers.chunks_exact(width).map(|record| record[1..].to_vec()).collect()
}

/// A synset as an entity with its vector.
pub(crate) fn synset(collection: &str, space: &str, line: &Json, values: &[f32]) -> v1::Entity {
    let field = |name: &str| line[name].as_str().unwrap_or_default();
    let lemmas = line["lemmas"].as_array().into_iter().flatten();
    let lemmas = lemmas.map(|lemma| text(lemma.as_str().expect("a word"))).collect();
    let lemmas = v1::value::Kind::ListValue(v1::ListValue { values: lemmas });
    let attributes = [
        ("lexname", text(field("lexname"))),
        ("gloss", text(field("gloss"))),
        ("lemmas", crate::make::value(lemmas)),
    ];
    v1::Entity {
        r#type: field("type").into(),
        attributes: attributes.map(|(name, value)| (name.to_owned(), value)).into(),
        vectors: vectors(space, values),
        ..entity(collection, field("id"))
    }
}

/// A line of the edges: source, relation, target.
pub(crate) fn triple(line: &Json) -> (String, String, String) {
    let field = |name: &str| line[name].as_str().expect("a name").to_owned();
    (field("from"), field("relation"), field("to"))
}

pub(crate) fn edge_item(collection: &str, (from, relation, to): &(String, String, String)) -> Item {
    Item::Edge(edge(name(collection, from), relation, name(collection, to)))
}
