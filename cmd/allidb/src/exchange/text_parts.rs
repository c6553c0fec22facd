//! JSONL and CSV as they are written: plain, or packed by zstd. Parts of such files one behind the other are such a file.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
};

use allidb_api::v1::put_stream_request::Item;
use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;

use super::layout::{Column, Datum, Layout, Record, line};

/// As `zstd` has it.
const COMPRESSION: i32 = 3;

/// A file of text.
pub(super) enum TextFile {
    Plain(BufWriter<File>),
    Packed(zstd::Encoder<'static, BufWriter<File>>),
}

impl TextFile {
    pub(super) fn create(path: &Path, is_packed: bool) -> Result<Self> {
        let file = BufWriter::new(File::create(path)?);
        Ok(if is_packed { Self::Packed(zstd::Encoder::new(file, COMPRESSION)?) } else { Self::Plain(file) })
    }

    /// Makes sure that everything is on disk.
    pub(super) fn finish(self) -> Result<()> {
        let file = match self {
            Self::Plain(file) => file,
            Self::Packed(encoder) => encoder.finish()?,
        };
        let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all().context("cannot be synced")
    }
}

impl Write for TextFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(file) => file.write(bytes),
            Self::Packed(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(file) => file.flush(),
            Self::Packed(encoder) => encoder.flush(),
        }
    }
}

/// Writes items as lines of JSON.
pub(super) fn write_lines(file: &mut TextFile, items: &[Item]) -> Result<()> {
    for item in items {
        writeln!(file, "{}", line(item))?;
    }
    Ok(())
}

/// Begins a part of a CSV file; the first one has the header.
pub(super) fn csv_writer(file: TextFile, layout: &Layout, is_first: bool) -> Result<csv::Writer<TextFile>> {
    let mut writer = csv::Writer::from_writer(file);
    if is_first {
        writer.write_record(layout.columns().iter().map(header))?;
    }
    Ok(writer)
}

/// Writes items as rows of CSV.
pub(super) fn write_csv(writer: &mut csv::Writer<TextFile>, layout: &Layout, items: Vec<Item>) -> Result<()> {
    for item in items {
        let record: Record = layout.record(item)?;
        writer.write_record(record.into_iter().map(|cell| cell.map_or_else(String::new, cell_text)))?;
    }
    Ok(())
}

fn header(column: &Column) -> String {
    match column.of.in_csv() {
        Some(of) => format!("{}:{}", column.name, of.name()),
        None => column.name.clone(),
    }
}

fn cell_text(cell: Datum) -> String {
    match cell {
        Datum::Bool(truth) => truth.to_string(),
        Datum::Int(number) => number.to_string(),
        // The shortest that reads back as the same number.
        Datum::Double(number) => format!("{number:?}"),
        Datum::String(text) => text,
        Datum::Bytes(bytes) => STANDARD.encode(bytes),
        Datum::Timestamp(micros) => {
            let nanos = micros.rem_euclid(1_000_000) * 1_000;
            // Below a billion.
            let time = prost_types::Timestamp { seconds: micros.div_euclid(1_000_000), nanos: nanos as i32 };
            time.to_string()
        }
        Datum::Strings(all) => json!(all).to_string(),
        Datum::Vector(numbers) => {
            let numbers: Vec<String> = numbers.iter().map(f32::to_string).collect();
            format!("[{}]", numbers.join(","))
        }
    }
}
