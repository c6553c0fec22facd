//! Rows of a Parquet file, read batch by batch; columns that are not wanted are not read.

use std::{fs::File, path::Path, sync::Arc};

use anyhow::{Context, Result};
use arrow_array::RecordBatch;
use arrow_schema::{DataType, FieldRef, Schema, TimeUnit};
use parquet::{
    arrow::{
        ProjectionMask,
        arrow_reader::{
            ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader,
            ParquetRecordBatchReaderBuilder,
        },
    },
    basic::Type,
    errors::ParquetError,
};

use super::{
    Kind, Original, arrow_value,
    cells::{Cell, Want},
    is_packed,
    rows::{Columns, Reading, Row, Rows},
};
use crate::{failure::Failure, put_stream::Origin};

/// Rows of a Parquet file.
pub(crate) struct ParquetRows {
    reader: ParquetRecordBatchReader,
    columns: Columns,
    /// The columns that are read: their names, and their places in the file.
    read: Vec<(String, usize)>,
    total: u64,
    number: u64,
}

impl ParquetRows {
    /// Opens a file and reads what it says of itself.
    pub(crate) fn open(path: &Path, kind: Kind, reading: &Reading) -> Result<Self> {
        if path == Path::new("-") || is_packed(path) {
            return Err(Failure::usage("Parquet is read from a file that is not compressed as a whole"));
        }
        let file = File::open(path)?;
        // What Arrow wrote beside Parquet's own types is left aside: fewer types are to be known.
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let read = ArrowReaderMetadata::load(&file, options).and_then(with_old_timestamps);
        let metadata = read.context("not a Parquet file that can be read")?;
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata);
        let schema = Arc::clone(builder.schema());
        let names: Vec<String> = schema.fields().iter().map(|field| field.name().clone()).collect();
        let columns = Columns::new(kind, &names, reading)?;
        let mut read = Vec::new();
        for (at, field) in schema.fields().iter().enumerate() {
            let (name, is) = (field.name(), field.data_type());
            let (fits, needed) = match columns.want(at) {
                Want::Nothing => continue,
                Want::Value => (arrow_value::is_known(is), "of which there are no values"),
                Want::Vector => (arrow_value::is_vector(is), "which is no list of floats"),
            };
            if !fits {
                let message =
                    format!("the column `{name}` has the type {is}, {needed}; --omit {name} leaves it out");
                return Err(Failure::usage(message));
            }
            read.push((name.clone(), at));
        }
        let total = u64::try_from(builder.metadata().file_metadata().num_rows()).unwrap_or(0);
        let mask = ProjectionMask::roots(builder.parquet_schema(), read.iter().map(|(_, at)| *at));
        let reader = builder.with_projection(mask).with_batch_size(reading.batch).build()?;
        Ok(Self { reader, columns, read, total, number: 0 })
    }

    fn cells(&self, batch: &RecordBatch, at: usize) -> Result<Vec<(usize, Cell)>> {
        let mut cells = Vec::with_capacity(self.read.len());
        for ((name, column), array) in self.read.iter().zip(batch.columns()) {
            let cell = match self.columns.want(*column) {
                Want::Nothing => continue,
                Want::Value => arrow_value::value(array, at).map(|value| value.map(Cell::Value)),
                Want::Vector => arrow_value::vector(array, at).map(|vector| vector.map(Cell::Vector)),
            };
            if let Some(cell) = cell.with_context(|| format!("`{name}`"))? {
                cells.push((*column, cell));
            }
        }
        Ok(cells)
    }
}

impl Rows for ParquetRows {
    fn next(&mut self) -> Result<Vec<Row>> {
        let Some(batch) = self.reader.next() else { return Ok(Vec::new()) };
        let batch = Arc::new(batch.with_context(|| format!("after row {}", self.number))?);
        let mut rows = Vec::with_capacity(batch.num_rows());
        for at in 0..batch.num_rows() {
            self.number += 1;
            let item = self.cells(&batch, at).and_then(|cells| self.columns.item(cells));
            let original = Original::Row(Arc::clone(&batch), at);
            rows.push(Row { origin: Origin { number: self.number, original }, item });
        }
        Ok(rows)
    }

    fn total(&self) -> Option<u64> {
        Some(self.total)
    }
}

/// Has timestamps of the old type, INT96, read as microseconds: they may be of any year, and nanoseconds hold those of 1677 to
/// 2262 alone.
fn with_old_timestamps(metadata: ArrowReaderMetadata) -> Result<ArrowReaderMetadata, ParquetError> {
    let columns = metadata.parquet_schema().columns();
    if columns.iter().all(|column| column.physical_type() != Type::INT96) {
        return Ok(metadata);
    }
    let mut leaves = columns.iter().map(|column| column.physical_type());
    let schema = metadata.schema();
    let fields: Vec<FieldRef> =
        schema.fields().iter().map(|field| with_microseconds(field, &mut leaves)).collect();
    let schema = Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()));
    let options = ArrowReaderOptions::new().with_schema(schema);
    ArrowReaderMetadata::try_new(Arc::clone(metadata.metadata()), options)
}

/// The field, if it is made of these leaves.
fn with_microseconds(field: &FieldRef, leaves: &mut impl Iterator<Item = Type>) -> FieldRef {
    let of = match field.data_type() {
        DataType::List(item) => DataType::List(with_microseconds(item, leaves)),
        DataType::Map(entry, is_sorted) => DataType::Map(with_microseconds(entry, leaves), *is_sorted),
        DataType::Struct(fields) => {
            DataType::Struct(fields.iter().map(|field| with_microseconds(field, leaves)).collect())
        }
        leaf => match leaves.next() {
            Some(Type::INT96) => DataType::Timestamp(TimeUnit::Microsecond, None),
            _ => leaf.clone(),
        },
    };
    Arc::new(field.as_ref().clone().with_data_type(of))
}

#[cfg(test)]
mod tests {
    use allidb_api::v1::put_stream_request::Item;
    use parquet::{
        column::writer::ColumnWriter,
        data_type::{ByteArray, Int96},
        file::{properties::WriterProperties, writer::SerializedFileWriter},
        schema::parser::parse_message_type,
    };
    use serde_json::json;

    use super::*;
    use crate::{entity_json::entity_to_json, exchange::entity_columns::Mapping};

    #[test]
    fn old_timestamps_may_be_of_any_year() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.parquet");
        let message = "message m { required binary id (UTF8); required int96 at; \
                       required group within { required int96 at; } \
                       required int64 fine (TIMESTAMP(NANOS,false)); }";
        let schema = Arc::new(parse_message_type(message).unwrap());
        let properties = Arc::new(WriterProperties::builder().build());
        let mut writer = SerializedFileWriter::new(File::create(&path).unwrap(), schema, properties).unwrap();
        let mut group = writer.next_row_group().unwrap();
        // Nanoseconds of the day in two halves, and the Julian day.
        let mut end = Int96::new();
        end.set_data(1_500, 0, 2_932_896 + 2_440_588);
        while let Some(mut column) = group.next_column().unwrap() {
            match column.untyped() {
                ColumnWriter::ByteArrayColumnWriter(of) => {
                    of.write_batch(&[ByteArray::from("a")], None, None).unwrap()
                }
                ColumnWriter::Int96ColumnWriter(of) => of.write_batch(&[end], None, None).unwrap(),
                ColumnWriter::Int64ColumnWriter(of) => of.write_batch(&[1], None, None).unwrap(),
                _ => panic!("there is no such column"),
            };
            column.close().unwrap();
        }
        group.close().unwrap();
        writer.close().unwrap();

        let mapping = Mapping::default();
        let reading = Reading { collection: "c".to_owned(), mapping, types: Vec::new(), batch: 10 };
        let mut rows = ParquetRows::open(&path, Kind::Entities, &reading).unwrap();
        let row = rows.next().unwrap().remove(0);
        let Item::Entity(entity) = row.item.unwrap() else { panic!("an edge") };
        let end = json!({"$timestamp": "9999-12-31T00:00:00.000001Z"});
        let attributes = json!({
            "at": end, "within": {"at": end}, "fine": {"$timestamp": "1970-01-01T00:00:00.000000001Z"},
        });
        assert_eq!(entity_to_json(&entity)["attributes"], attributes);
    }
}
