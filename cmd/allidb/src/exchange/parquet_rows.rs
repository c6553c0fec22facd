//! Rows of a Parquet file, read batch by batch; columns that are not wanted are not read.

use std::{fs::File, path::Path, sync::Arc};

use anyhow::{Context, Result};
use arrow_array::RecordBatch;
use parquet::arrow::{
    ProjectionMask,
    arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder},
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
        let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(file, options);
        let builder = builder.context("not a Parquet file that can be read")?;
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
