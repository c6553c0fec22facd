//! Parquet as it is written: each part is a file with one row group, and a file out of parts has all of their row groups,
//! copied as they are.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use arrow_array::{
    ArrayRef, BinaryArray, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
    builder::{FixedSizeListBuilder, Float32Builder, ListBuilder, StringBuilder},
};
use arrow_schema::{DataType, Field, Schema, TimeUnit};
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, ZstdLevel},
    column::writer::ColumnCloseResult,
    file::{
        metadata::{PageIndexPolicy, ParquetMetaDataReader},
        properties::WriterProperties,
        writer::SerializedFileWriter,
    },
    schema::types::ColumnPath,
};

use super::layout::{Column, ColumnType, Datum, Record};

/// Begins a file.
pub(super) fn writer(path: &Path, columns: &[Column]) -> Result<ArrowWriter<File>> {
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
        // A part ends where its rows are written out, and nowhere else.
        .set_max_row_group_row_count(None);
    for column in columns {
        if let ColumnType::Vector(_) = column.of {
            // Hardly two numbers of vectors are the same.
            let path = ["list", "item"].map(str::to_owned);
            let path = [vec![column.name.clone()], path.to_vec()].concat();
            properties = properties.set_column_dictionary_enabled(ColumnPath::new(path), false);
        }
    }
    let schema = Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()));
    Ok(ArrowWriter::try_new(File::create(path)?, schema, Some(properties.build()))?)
}

/// Writes rows.
pub(super) fn write(writer: &mut ArrowWriter<File>, columns: &[Column], records: Vec<Record>) -> Result<()> {
    let mut cells: Vec<Vec<Option<Datum>>> =
        columns.iter().map(|_| Vec::with_capacity(records.len())).collect();
    for record in records {
        for (column, cell) in cells.iter_mut().zip(record) {
            column.push(cell);
        }
    }
    let arrays = columns.iter().zip(cells).map(|(column, cells)| array(column, cells));
    let arrays = arrays.collect::<Result<Vec<ArrayRef>>>()?;
    let schema = Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()));
    writer.write(&RecordBatch::try_new(schema, arrays)?)?;
    Ok(())
}

/// Ends a file and makes sure that it is on disk.
pub(super) fn finish(mut writer: ArrowWriter<File>) -> Result<()> {
    writer.finish()?;
    writer.inner().sync_all().context("cannot be synced")
}

/// Writes the row groups of all parts to one file.
pub(super) fn join(parts: &[PathBuf], to: &Path) -> Result<()> {
    let mut writer: Option<SerializedFileWriter<File>> = None;
    for path in parts {
        let part = File::open(path).with_context(|| path.display().to_string())?;
        let metadata = ParquetMetaDataReader::new()
            .with_page_index_policy(PageIndexPolicy::Optional)
            .parse_and_finish(&part)
            .with_context(|| path.display().to_string())?;
        let writer = match &mut writer {
            Some(writer) => writer,
            None => {
                let properties = WriterProperties::builder()
                    .set_key_value_metadata(metadata.file_metadata().key_value_metadata().cloned());
                let schema = metadata.file_metadata().schema_descr().root_schema_ptr();
                let begun =
                    SerializedFileWriter::new(File::create(to)?, schema, Arc::new(properties.build()))?;
                writer.insert(begun)
            }
        };
        for (at, group) in metadata.row_groups().iter().enumerate() {
            let column_indexes = metadata.column_index().and_then(|all| all.get(at));
            let offset_indexes = metadata.offset_index().and_then(|all| all.get(at));
            let mut copy = writer.next_row_group()?;
            for (at, column) in group.columns().iter().enumerate() {
                let close = ColumnCloseResult {
                    bytes_written: u64::try_from(column.compressed_size())?,
                    rows_written: u64::try_from(group.num_rows())?,
                    metadata: column.clone(),
                    bloom_filter: None,
                    column_index: column_indexes.and_then(|row| row.get(at)).cloned(),
                    offset_index: offset_indexes.and_then(|row| row.get(at)).cloned(),
                };
                copy.append_column(&part, close).with_context(|| path.display().to_string())?;
            }
            copy.close()?;
        }
    }
    let Some(mut writer) = writer else { bail!("there are no parts") };
    writer.finish()?;
    writer.inner().sync_all().context("cannot be synced")
}

fn field(column: &Column) -> Field {
    let of = match column.of {
        ColumnType::Bool => DataType::Boolean,
        ColumnType::Int => DataType::Int64,
        ColumnType::Double => DataType::Float64,
        ColumnType::String => DataType::Utf8,
        ColumnType::Bytes => DataType::Binary,
        ColumnType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        ColumnType::Strings => DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true))),
        ColumnType::Vector(dimension) => {
            let number = Arc::new(Field::new_list_field(DataType::Float32, true));
            // The server has none of more than 65,535.
            DataType::FixedSizeList(number, dimension.cast_signed())
        }
    };
    Field::new(&column.name, of, true)
}

/// The cells of a column, all of which are of its type.
fn array(column: &Column, cells: Vec<Option<Datum>>) -> Result<ArrayRef> {
    macro_rules! all {
        ($kind:ident) => {
            cells.into_iter().map(|cell| match cell {
                None => Ok(None),
                Some(Datum::$kind(value)) => Ok(Some(value)),
                Some(other) => bail!("the column `{}` cannot hold {other:?}", column.name),
            })
        };
    }
    Ok(match column.of {
        ColumnType::Bool => Arc::new(all!(Bool).collect::<Result<BooleanArray>>()?),
        ColumnType::Int => Arc::new(all!(Int).collect::<Result<Int64Array>>()?),
        ColumnType::Double => Arc::new(all!(Double).collect::<Result<Float64Array>>()?),
        ColumnType::String => Arc::new(all!(String).collect::<Result<StringArray>>()?),
        ColumnType::Bytes => Arc::new(all!(Bytes).collect::<Result<BinaryArray>>()?),
        ColumnType::Timestamp => {
            Arc::new(all!(Timestamp).collect::<Result<TimestampMicrosecondArray>>()?.with_timezone("UTC"))
        }
        ColumnType::Strings => {
            let mut lists = ListBuilder::new(StringBuilder::new());
            for list in all!(Strings) {
                lists.append_option(list?.map(|list| list.into_iter().map(Some)));
            }
            Arc::new(lists.finish())
        }
        ColumnType::Vector(dimension) => {
            let mut vectors = FixedSizeListBuilder::new(Float32Builder::new(), dimension.cast_signed());
            for vector in all!(Vector) {
                match vector? {
                    Some(numbers) => {
                        vectors.values().append_slice(&numbers);
                        vectors.append(true);
                    }
                    None => {
                        vectors.values().append_nulls(dimension as usize);
                        vectors.append(false);
                    }
                }
            }
            Arc::new(vectors.finish())
        }
    })
}
