//! Coding rows, building the graph over them, writing the file.

use std::{path::Path, sync::Arc};

use allidb_storage::fs::{File, Fs};

use super::layout::{BLOCK, Header, checksum};
use crate::{
    error::Result,
    model::Metric,
    vector::{
        graph::{BuildOptions, BuildRows, BuildRun, Graph, NONE},
        kernel::CodeKind,
        quantize::Grid,
        rotation::Rotation,
    },
};

/// Rows that the centre is taken from: more make it no better.
const CENTRE_ROWS: usize = 10_000;

/// What a segment is to be.
#[derive(Clone, Debug)]
pub(crate) struct SegmentSpec {
    /// Never given to another file.
    pub(crate) id: u64,
    /// Rows are as of this sequence of the log.
    pub(crate) covered: u64,
    /// Of the rotation.
    pub(crate) seed: u64,
    pub(crate) metric: Metric,
    pub(crate) dimension: usize,
    /// Codes for the walk.
    pub(crate) kind: CodeKind,
    /// Whether residuals are kept for the re-ranking.
    pub(crate) has_residuals: bool,
    pub(crate) build: BuildOptions,
}

/// Writes a segment of the rows with these numbers, ascending, and makes it durable. `vector` gives the prepared vector of
/// the n-th. False if it was cancelled; what was written then is no segment.
///
/// # Errors
/// If a vector cannot be read or the file cannot be written.
pub(crate) fn write(
    fs: &dyn Fs,
    path: &Path,
    spec: &SegmentSpec,
    numbers: &[u64],
    vector: &dyn Fn(usize, &mut Vec<f32>) -> Result<()>,
    run: &BuildRun<'_>,
) -> Result<bool> {
    let SegmentSpec { dimension, kind, metric, .. } = *spec;
    let io = |op| {
        move |source| {
            let path = path.to_owned();
            crate::Error::from(allidb_storage::Error::Io { op, path, source })
        }
    };
    let mut header = Header {
        id: spec.id,
        covered: spec.covered,
        seed: spec.seed,
        metric,
        dimension: dimension as u32,
        rows: numbers.len() as u32,
        kind,
        has_residuals: spec.has_residuals,
        width: 2 * spec.build.connections as u32,
        upper_width: spec.build.connections as u32,
        entry: 0,
        layers: Vec::new(),
        error: 0.0,
        checksums: 0,
    };
    let file = fs.create(path).map_err(io("create"))?;
    let mut out =
        SectionWriter { file, id: spec.id, offset: BLOCK as u64, block: Vec::new(), checksums: Vec::new() };
    let write = io("write");

    let mut prepared = Vec::with_capacity(dimension);
    let mut centre = vec![0.0_f64; dimension];
    let every = numbers.len().div_ceil(CENTRE_ROWS).max(1);
    for at in (0..numbers.len()).step_by(every) {
        vector(at, &mut prepared)?;
        centre.iter_mut().zip(&prepared).for_each(|(sum, x)| *sum += f64::from(*x));
    }
    let sampled = numbers.len().div_ceil(every).max(1) as f64;
    let centre: Vec<f32> = centre.into_iter().map(|sum| (sum / sampled) as f32).collect();
    out.put(bytemuck::cast_slice(&centre)).map_err(&write)?;
    out.end_section().map_err(&write)?;

    let rotation = Rotation::new(dimension, spec.seed);
    let row_bytes = CodeKind::Bits8.row_bytes(dimension);
    let mut build = BuildRows {
        codes: vec![128; numbers.len() * row_bytes],
        row_bytes,
        steps: Vec::with_capacity(numbers.len()),
        biases: Vec::with_capacity(numbers.len()),
    };
    let mut steps: Vec<f32> = Vec::with_capacity(numbers.len());
    let mut half_squares: Vec<f32> = Vec::new();
    let mut residuals = vec![0; if spec.has_residuals { numbers.len() * row_bytes } else { 0 }];
    let mut residual_steps: Vec<f32> = Vec::new();
    let mut row = vec![0; kind.row_bytes(dimension)];
    for at in 0..numbers.len() {
        vector(at, &mut prepared)?;
        let rest = &mut prepared[..];
        rest.iter_mut().zip(&centre).for_each(|(x, c)| *x -= c);
        rotation.apply(rest);
        let half_square = rest.iter().map(|x| x * x).sum::<f32>() / 2.0;
        // Graphs are built by Euclidean distance, also where products are asked for: it alone says which of two neighbours
        // hides the other.
        build.biases.push(half_square);
        let codes = &mut build.codes[at * row_bytes..][..row_bytes];
        build.steps.push(Grid(CodeKind::Bits8).encode(&mut rest.to_vec(), codes));
        if metric == Metric::L2 {
            half_squares.push(half_square);
        }
        row.fill(0);
        steps.push(Grid(kind).encode(rest, &mut row));
        out.put(&row).map_err(&write)?;
        if spec.has_residuals {
            let residual = &mut residuals[at * row_bytes..][..row_bytes];
            residual_steps.push(Grid(CodeKind::Bits8).encode(rest, residual));
        }
        let left_over = rest.iter().map(|x| x * x).sum::<f32>().sqrt();
        header.error = header.error.max(left_over);
    }
    out.end_section().map_err(&write)?;
    let numbers_of_rows: [&[u8]; 4] = [
        bytemuck::cast_slice(&steps),
        bytemuck::cast_slice(&half_squares),
        &residuals,
        bytemuck::cast_slice(&residual_steps),
    ];
    for section in numbers_of_rows {
        out.put(section).map_err(&write)?;
        out.end_section().map_err(&write)?;
    }
    drop((steps, half_squares, residuals, residual_steps));

    let Some(graph) = Graph::build(&build, spec.build, run) else { return Ok(false) };
    header.entry = graph.entry();
    let put_links = |out: &mut SectionWriter, row: u32, layer: usize, width: u32| {
        let mut links: Vec<u32> = graph.neighbours(row, layer).collect();
        links.resize(width as usize, NONE);
        out.put(bytemuck::cast_slice(&links))
    };
    for row in 0..header.rows {
        put_links(&mut out, row, 0, header.width).map_err(&write)?;
    }
    out.end_section().map_err(&write)?;
    let layers: Vec<Vec<u32>> =
        (1..graph.layers()).map(|layer| graph.rows_of_layer(layer).collect()).collect();
    header.layers = layers.iter().map(|rows| rows.len() as u32).collect();
    for rows in &layers {
        out.put(bytemuck::cast_slice(rows)).map_err(&write)?;
    }
    out.end_section().map_err(&write)?;
    for (below, rows) in layers.iter().enumerate() {
        for row in rows {
            put_links(&mut out, *row, below + 1, header.upper_width).map_err(&write)?;
        }
    }
    out.end_section().map_err(&write)?;
    out.put(bytemuck::cast_slice(numbers)).map_err(&write)?;
    out.end_section().map_err(&write)?;

    let checksums: &[u8] = bytemuck::cast_slice(&out.checksums);
    header.checksums = crc32fast::hash(checksums);
    out.file.write_all_at(out.offset, checksums).map_err(&write)?;
    let mut first = header.encode();
    first.resize(BLOCK, 0);
    out.file.write_all_at(0, &first).map_err(&write)?;
    debug_assert_eq!(out.offset as usize + checksums.len(), header.file_len());
    out.file.sync().map_err(io("fsync"))?;
    if let Some(dir) = path.parent() {
        fs.sync_dir(dir).map_err(io("fsync the directory of"))?;
    }
    Ok(true)
}

/// Writes sections one after the other, block by block.
struct SectionWriter {
    file: Arc<dyn File>,
    id: u64,
    offset: u64,
    block: Vec<u8>,
    checksums: Vec<u32>,
}

impl SectionWriter {
    fn put(&mut self, mut bytes: &[u8]) -> std::io::Result<()> {
        while !bytes.is_empty() {
            let (taken, rest) = bytes.split_at(bytes.len().min(BLOCK - self.block.len()));
            self.block.extend_from_slice(taken);
            bytes = rest;
            if self.block.len() == BLOCK {
                self.end_block()?;
            }
        }
        Ok(())
    }

    /// The next section begins at the next block.
    fn end_section(&mut self) -> std::io::Result<()> {
        if self.block.is_empty() {
            return Ok(());
        }
        self.block.resize(BLOCK, 0);
        self.end_block()
    }

    fn end_block(&mut self) -> std::io::Result<()> {
        let block = self.offset as usize / BLOCK;
        self.checksums.push(checksum(self.id, block, &self.block));
        self.file.write_all_at(self.offset, &self.block)?;
        self.offset += BLOCK as u64;
        self.block.clear();
        Ok(())
    }
}
