//! Rows of a CSV file. The first one names the columns; `NAME:TYPE` says what a column's cells are, and without a type
//! they are strings. An empty cell holds nothing.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    sync::Arc,
};

use allidb_api::v1::{Value, Vector, value::Kind as ValueKind};
use anyhow::{Context, Result, bail};
use base64::{Engine, engine::general_purpose::STANDARD};
use csv::{ByteRecord, StringRecord};

use super::{
    Kind, Original, cells,
    cells::{Cell, Want},
    is_packed,
    rows::{Columns, Reading, Row, Rows},
};
use crate::{put_stream::Origin, value_json};

/// A longer row is not one: a quotation mark is missing.
const MAX_ROW_BYTES: u64 = 64 << 20;
/// Read behind the end of a file, whose last row may have no end.
const BEHIND: &str = "\n\u{1}allidb: nothing comes behind this row\u{1}\n";
/// It, as a row of its own: a row that has it within has lost its last quotation mark.
const END: &str = BEHIND.trim_ascii();

/// What the cells of a column are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CellType {
    String,
    Int,
    Double,
    Bool,
    Timestamp,
    Bytes,
    Json,
}

impl CellType {
    const ALL: [(&'static str, Self); 7] = [
        ("string", Self::String),
        ("int", Self::Int),
        ("double", Self::Double),
        ("bool", Self::Bool),
        ("timestamp", Self::Timestamp),
        ("bytes", Self::Bytes),
        ("json", Self::Json),
    ];

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find_map(|(of, is)| (of == name).then_some(is))
    }

    /// As headers and options call it.
    pub(crate) fn name(self) -> &'static str {
        Self::ALL.into_iter().find_map(|(name, is)| (is == self).then_some(name)).unwrap_or("string")
    }

    /// What a cell says that is not empty.
    fn read(self, text: &str) -> Result<Value> {
        let kind = match self {
            Self::String => ValueKind::StringValue(text.to_owned()),
            Self::Int => ValueKind::IntValue(
                text.trim().parse().with_context(|| format!("`{text}` is no whole number of 64 bits"))?,
            ),
            Self::Double => match text.trim().parse::<f64>() {
                Ok(number) if number.is_finite() => ValueKind::DoubleValue(number),
                _ => bail!("`{text}` is no finite number"),
            },
            Self::Bool => match text.trim() {
                "true" | "True" | "TRUE" | "1" => ValueKind::BoolValue(true),
                "false" | "False" | "FALSE" | "0" => ValueKind::BoolValue(false),
                _ => bail!("`{text}` is neither true nor false"),
            },
            Self::Timestamp => ValueKind::TimestampValue(value_json::timestamp(text.trim())?),
            Self::Bytes => ValueKind::BytesValue(
                STANDARD.decode(text.trim()).with_context(|| format!("`{text}` is not base64"))?.into(),
            ),
            Self::Json => return value_json::from_json(cells::json(text)?),
        };
        Ok(Value { kind: Some(kind) })
    }
}

/// COLUMN=TYPE.
pub(crate) fn parse_type(text: &str) -> Result<(String, CellType), String> {
    let (column, name) = text.rsplit_once('=').ok_or("a type is COLUMN=TYPE")?;
    let is = CellType::named(name).ok_or_else(|| {
        let all = CellType::ALL.map(|(name, _)| name).join(", ");
        format!("`{name}` is none of {all}")
    })?;
    Ok((column.to_owned(), is))
}

/// Rows of a CSV file.
pub(crate) struct CsvRows {
    reader: csv::Reader<Bounded>,
    names: Arc<[String]>,
    types: Vec<CellType>,
    columns: Columns,
    number: u64,
    batch: usize,
}

impl CsvRows {
    /// Opens a file and reads its header.
    pub(crate) fn open(path: &Path, kind: Kind, reading: &Reading) -> Result<Self> {
        let file: Box<dyn Read + Send> = match path {
            path if path == Path::new("-") => Box::new(io::stdin()),
            path if is_packed(path) => Box::new(zstd::Decoder::new(File::open(path)?)?),
            path => Box::new(File::open(path)?),
        };
        Self::new(file, kind, reading)
    }

    fn new(file: Box<dyn Read + Send>, kind: Kind, reading: &Reading) -> Result<Self> {
        let bounded = Bounded { inner: Box::new(file.chain(BEHIND.as_bytes())), left: MAX_ROW_BYTES };
        let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(bounded);
        let header = match reader.headers() {
            Ok(header) if header.is_empty() || is_end(header.as_byte_record()) => {
                bail!("there is no header that names the columns")
            }
            Ok(header) if is_torn(header.as_byte_record()) => {
                bail!("the header: a quotation mark is missing")
            }
            Ok(header) => header.clone(),
            Err(error) => return Err(anyhow::Error::new(error).context("the header cannot be read")),
        };
        let (names, mut types): (Vec<String>, Vec<CellType>) = header.iter().map(column).unzip();
        for (column, is) in &reading.types {
            let Some(place) = names.iter().position(|name| name == column) else {
                return Err(super::entity_columns::no_column(column, &names));
            };
            if let Some(of) = types.get_mut(place) {
                *of = *is;
            }
        }
        let columns = Columns::new(kind, &names, reading)?;
        Ok(Self { reader, names: names.into(), types, columns, number: 0, batch: reading.batch })
    }

    fn row(&self, record: ByteRecord) -> Row {
        let (record, is_text) = match StringRecord::from_byte_record(record) {
            Ok(record) => (record, true),
            Err(error) => (StringRecord::from_byte_record_lossy(error.into_byte_record()), false),
        };
        let item = if is_text { self.read(&record) } else { Err(anyhow::anyhow!("the row is not UTF-8")) };
        let item = item.and_then(|cells| self.columns.item(cells));
        let original = Original::Record(Arc::clone(&self.names), record);
        Row { origin: Origin { number: self.number, original }, item }
    }

    fn read(&self, record: &StringRecord) -> Result<Vec<(usize, Cell)>> {
        if record.len() != self.names.len() {
            bail!("the row has {} cells, the header names {}", record.len(), self.names.len());
        }
        let mut cells = Vec::with_capacity(record.len());
        for (at, ((text, is), name)) in record.iter().zip(&self.types).zip(&*self.names).enumerate() {
            if text.is_empty() {
                continue;
            }
            let cell = match self.columns.want(at) {
                Want::Nothing => continue,
                Want::Value => is.read(text).map(Cell::Value),
                Want::Vector => numbers(text).map(Cell::Vector),
            };
            cells.push((at, cell.with_context(|| format!("`{name}`"))?));
        }
        Ok(cells)
    }
}

impl Rows for CsvRows {
    fn next(&mut self) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        while rows.len() < self.batch {
            self.reader.get_mut().left = MAX_ROW_BYTES;
            let mut record = ByteRecord::new();
            let is_there = self.reader.read_byte_record(&mut record);
            if !is_there.with_context(|| format!("after row {}", self.number))? {
                break;
            }
            if is_end(&record) {
                if self.reader.read_byte_record(&mut record)? {
                    bail!("after row {}: a row is what marks the end of a file", self.number);
                }
                break;
            }
            self.number += 1;
            if is_torn(&record) {
                bail!("row {}: a quotation mark is missing", self.number);
            }
            rows.push(self.row(record));
        }
        Ok(rows)
    }

    fn total(&self) -> Option<u64> {
        None
    }
}

/// Whether the file ends before this row.
fn is_end(record: &ByteRecord) -> bool {
    record.len() == 1 && record.get(0) == Some(END.as_bytes())
}

/// Whether the file ends within this row. Its last cell has everything from the mark that is not closed on.
fn is_torn(record: &ByteRecord) -> bool {
    record.iter().next_back().is_some_and(|last| last.ends_with(BEHIND.as_bytes()))
}

/// A column's name, and its type if the header says one.
fn column(header: &str) -> (String, CellType) {
    match header.rsplit_once(':').and_then(|(name, is)| Some((name, CellType::named(is)?))) {
        Some((name, is)) => (name.to_owned(), is),
        None => (header.to_owned(), CellType::String),
    }
}

/// Whether a column may be called so without its name being taken for one with a type.
pub(crate) fn has_no_type(name: &str) -> bool {
    column(name).0 == name
}

/// Numbers with commas or blanks between, in brackets or not: JSON, and what NumPy prints.
fn numbers(text: &str) -> Result<Vector> {
    let inner = text.trim();
    let inner = inner.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(inner);
    let parts = inner.split(|of: char| of == ',' || of.is_whitespace()).filter(|part| !part.is_empty());
    let read_one = |(at, part): (usize, &str)| match part.parse::<f32>() {
        Ok(number) if number.is_finite() => Ok(number),
        _ => bail!("number {at} of the vector is `{part}`"),
    };
    let values = parts.enumerate().map(read_one).collect::<Result<Vec<f32>>>()?;
    if values.is_empty() {
        bail!("the vector is empty");
    }
    Ok(Vector { values, ..Vector::default() })
}

/// Ends a row that does not end by itself.
struct Bounded {
    inner: Box<dyn Read + Send>,
    left: u64,
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Err(io::Error::other(format!("a row is longer than {MAX_ROW_BYTES} bytes")));
        }
        let read = self.inner.read(buffer)?;
        self.left = self.left.saturating_sub(read as u64);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use allidb_api::v1::put_stream_request::Item;
    use serde_json::{Value as Json, json};

    use super::*;
    use crate::{
        entity_json::{edge_to_json, entity_to_json},
        exchange::entity_columns::Mapping,
    };

    fn reading() -> Reading {
        Reading { collection: "c".to_owned(), mapping: Mapping::default(), types: Vec::new(), batch: 2 }
    }

    fn read(text: &'static [u8], kind: Kind, reading: &Reading) -> Result<Vec<(u64, Result<Json>)>> {
        let mut rows = CsvRows::new(Box::new(text), kind, reading)?;
        let mut all = Vec::new();
        loop {
            let some = rows.next()?;
            if some.is_empty() {
                return Ok(all);
            }
            let json = |item| match item {
                Item::Entity(entity) => entity_to_json(&entity),
                Item::Edge(edge) => edge_to_json(&edge),
            };
            all.extend(some.into_iter().map(|row| (row.origin.number, row.item.map(json))));
        }
    }

    fn one(text: &'static [u8], reading: &Reading) -> Json {
        let mut rows = read(text, Kind::Entities, reading).unwrap();
        assert_eq!(rows.len(), 1);
        rows.remove(0).1.unwrap()
    }

    #[test]
    fn cells_are_read_by_their_type() {
        let text =
            b"\xef\xbb\xbfid,rank:int,share:double,is:bool,at:timestamp,raw:bytes,tags:json,text,none\n\
            a,5,1e3,true,2024-05-01T00:00:00Z,AP8=,\"[\"\"x\"\",1]\",\"two\nlines, and \"\"quotes\"\"\",\n";
        let attributes = json!({
            "rank": 5, "share": 1000.0, "is": true, "at": {"$timestamp": "2024-05-01T00:00:00Z"},
            "raw": {"$bytes": "AP8="}, "tags": ["x", 1], "text": "two\nlines, and \"quotes\"",
        });
        assert_eq!(one(text, &reading())["attributes"], attributes);
        let types = vec![parse_type("n=int").unwrap()];
        let typed = Reading { types, ..reading() };
        assert_eq!(one(b"id,n\nx,7\n", &typed)["attributes"], json!({"n": 7}));
        assert_eq!(one(b"id,n\nx,7\n", &reading())["attributes"], json!({"n": "7"}));
        assert!(read(b"id\nx\n", Kind::Entities, &typed).is_err());
        assert!(parse_type("n=number").is_err() && parse_type("n").is_err());
    }

    #[test]
    fn vectors_are_read_as_json_and_as_people_write_them() {
        let vectors = vec![("s".to_owned(), "e".to_owned())];
        let mapped = Reading { mapping: Mapping { vectors, ..Mapping::default() }, ..reading() };
        for text in [&b"id,e\na,\"[0.5, -1]\"\n"[..], b"id,e\na,0.5 -1\n", b"id,e\na,\"[0.5\n -1. ]\"\n"] {
            assert_eq!(one(text, &mapped)["vectors"], json!({"s": [0.5, -1.0]}));
        }
        assert_eq!(one(b"id,vectors.t\na,1 2\n", &reading())["vectors"], json!({"t": [1.0, 2.0]}));
        let rows = read(b"id,vectors.t\na,1 x\n", Kind::Entities, &reading()).unwrap();
        let error = rows[0].1.as_ref().unwrap_err();
        assert!(format!("{error:#}").contains("number 1 of the vector is `x`"), "{error:#}");
    }

    #[test]
    fn rows_that_are_wrong_cost_themselves_alone() {
        let text = b"id,n:int\na,1\nb\n\xff,2\nc,x\nd,4\n";
        let rows = read(text, Kind::Entities, &reading()).unwrap();
        let reasons =
            rows.iter().map(|(number, row)| (*number, row.as_ref().err().map(|e| format!("{e:#}"))));
        let reasons: Vec<_> = reasons.collect();
        assert_eq!(reasons.len(), 5);
        assert!(reasons[0].1.is_none() && reasons[4].1.is_none() && reasons[4].0 == 5);
        assert_eq!(reasons[1].1.as_deref(), Some("the row has 1 cells, the header names 2"));
        assert_eq!(reasons[2].1.as_deref(), Some("the row is not UTF-8"));
        assert!(reasons[3].1.as_deref().is_some_and(|why| why.starts_with("`n`: `x` is no whole number")));
    }

    #[test]
    fn edges_are_read() {
        let text = b"from,relation,to,weight:double\na,r,b,0.5\n";
        let rows = read(text, Kind::Edges, &reading()).unwrap();
        let edge = rows[0].1.as_ref().unwrap();
        assert_eq!(*edge, json!({"from": "a", "relation": "r", "to": "b", "weight": 0.5}));
    }

    #[test]
    fn what_is_no_table_is_refused() {
        for (text, part) in [
            (&b""[..], "no header"),
            (b"\n\n", "no header"),
            (b"\x00\xff\xfe\n", "the header cannot be read"),
            (b"id,\"n\na,1\n", "the header: a quotation mark is missing"),
            (b"a,b\n1,2\n", "no column `id`"),
            (b"id,a,a\n1,2,3\n", "two columns are called `a`"),
        ] {
            let error = read(text, Kind::Entities, &reading()).unwrap_err();
            assert!(format!("{error:#}").contains(part), "{error:#}");
        }
    }

    #[test]
    fn a_quotation_mark_that_is_never_closed_ends_the_import() {
        for text in [
            &b"id,n\na,1\nb,\"2\nc,3\n"[..],
            b"id,n\na,1\n\"b",
            b"id,n\na,1\nb,\"",
            b"id,n\na,1\nb,\"2\"\"\r\n",
        ] {
            let mut rows =
                CsvRows::new(Box::new(text), Kind::Entities, &Reading { batch: 1, ..reading() }).unwrap();
            assert_eq!(rows.next().unwrap().len(), 1);
            let error = rows.next().err().expect("an error");
            assert_eq!(format!("{error:#}"), "row 2: a quotation mark is missing");
        }
        for text in [&b"id,n\na,1\nb,\"2\"\n"[..], b"id,n\r\na,1\r\nb,\"2\"", b"id,n\na,1\nb,\"2\"\"\"\n\n\n"]
        {
            assert_eq!(read(text, Kind::Entities, &reading()).unwrap().len(), 2);
        }
        let marked = Box::new(io::Cursor::new(format!("id\na\n{END}\nb\n")));
        let mut rows = CsvRows::new(marked, Kind::Entities, &reading()).unwrap();
        let error = rows.next().err().expect("what comes behind the row would be lost");
        assert!(format!("{error:#}").contains("marks the end of a file"), "{error:#}");
    }

    #[test]
    fn a_row_that_does_not_end_is_not_read_into_memory() {
        let endless = io::Cursor::new(b"id\n\"".to_vec()).chain(io::repeat(b'x'));
        let mut rows = CsvRows::new(Box::new(endless), Kind::Entities, &reading()).unwrap();
        let error = rows.next().err().expect("an error");
        assert!(format!("{error:#}").contains("longer than"), "{error:#}");
    }
}
