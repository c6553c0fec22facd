//! Coding rows, building the graph over them, writing the file.

use std::{path::Path, sync::Arc, time::Instant};

use allidb_storage::fs::{File, Fs};

use super::{
    layout::{BLOCK, Header, Section, checksum},
    probe::rounding,
};
use crate::{
    error::Result,
    model::Metric,
    vector::{
        graph::{BuildOptions, BuildRows, BuildRun, Graph, Kept, NONE},
        kernel::CodeKind,
        quantize::{Form, Grid},
        rotation::Rotation,
    },
};

/// Rows that the centre is taken from: more make it no better.
const CENTRE_ROWS: usize = 10_000;
/// Rows so many times as long as the middle one are left out of it.
const LONG: f64 = 8.0;

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
    /// How rows are held for the walk.
    pub(crate) form: Form,
    /// Whether residuals are kept for the re-ranking.
    pub(crate) has_residuals: bool,
    /// How the graph is built; a flat segment has none, and is scanned.
    pub(crate) build: Option<BuildOptions>,
}

/// The rows that a segment is made of.
pub(crate) struct SegmentRows<'a> {
    /// Ascending.
    pub(crate) numbers: &'a [u64],
    /// Gives whose the n-th number is.
    pub(crate) owner: &'a dyn Fn(usize, &mut Vec<u8>) -> Result<()>,
    /// Gives the prepared vector of the n-th number.
    pub(crate) vector: &'a dyn Fn(usize, &mut Vec<f32>) -> Result<()>,
    /// A graph over some of them.
    pub(crate) kept: Option<&'a Kept<'a>>,
}

/// Writes a segment and makes it durable. False if it was cancelled; what was written then is no segment.
///
/// # Errors
/// If a vector cannot be read or the file cannot be written.
pub(crate) fn write(
    fs: &dyn Fs,
    path: &Path,
    spec: &SegmentSpec,
    rows: &SegmentRows<'_>,
    run: &BuildRun<'_>,
) -> Result<bool> {
    let io = |op| move |source| crate::Error::io(op, path, source);
    let connections = spec.build.map_or(0, |build| build.connections as u32);
    let mut header = Header {
        id: spec.id,
        covered: spec.covered,
        seed: spec.seed,
        metric: spec.metric,
        dimension: spec.dimension as u32,
        rows: rows.numbers.len() as u32,
        form: spec.form,
        has_residuals: spec.has_residuals,
        width: 2 * connections,
        upper_width: connections,
        entry: 0,
        layers: Vec::new(),
        owner_bytes: 0,
        walk_error: 0.0,
        error: 0.0,
        checksums: 0,
    };
    let file = fs.create(path).map_err(io("create"))?;
    let mut out = SegmentWriter { file, id: spec.id, checksums: Vec::new() };
    let write = io("write");

    let centre = centre(spec.dimension, rows)?;
    out.section(&header, Section::Centre, |section| section.put(bytemuck::cast_slice(&centre)))
        .map_err(&write)?;
    let Some(build) = put_codes(&mut out, &mut header, spec, rows, &centre, run, &write)? else {
        return Ok(false);
    };
    if let Some(options) = spec.build {
        let Some(graph) = Graph::build(&build, options, rows.kept, run)? else { return Ok(false) };
        drop(build);
        put_graph(&mut out, &mut header, &graph).map_err(&write)?;
    }
    let numbers = bytemuck::cast_slice(rows.numbers);
    out.section(&header, Section::Numbers, |section| section.put(numbers)).map_err(&write)?;
    put_owners(&mut out, &mut header, rows, &write)?;

    let checksums: &[u8] = bytemuck::cast_slice(&out.checksums);
    header.checksums = crc32fast::hash(checksums);
    let place = header.section(Section::Checksums);
    debug_assert_eq!(checksums.len(), place.len());
    out.file.write_all_at(place.start as u64, checksums).map_err(&write)?;
    let mut first = header.encode();
    first.resize(BLOCK, 0);
    out.file.write_all_at(0, &first).map_err(&write)?;
    out.file.sync().map_err(io("fsync"))?;
    if let Some(dir) = path.parent() {
        fs.sync_dir(dir).map_err(io("fsync the directory of"))?;
    }
    Ok(true)
}

/// The mean of the vectors, or of a sample of them. Those that are much longer than most do not count: they would move it far
/// from all others, of which codes would then tell little.
fn centre(dimension: usize, rows: &SegmentRows<'_>) -> Result<Vec<f32>> {
    let count = rows.numbers.len();
    let every = count.div_ceil(CENTRE_ROWS).max(1);
    let mut prepared = Vec::with_capacity(dimension);
    let mut lengths = Vec::with_capacity(count.div_ceil(every));
    for at in (0..count).step_by(every) {
        (rows.vector)(at, &mut prepared)?;
        lengths.push(prepared.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt());
    }
    let mut sorted = lengths.clone();
    sorted.sort_unstable_by(f64::total_cmp);
    let longest = LONG * sorted.get(sorted.len() / 2).copied().unwrap_or_default();
    let mut centre = vec![0.0_f64; dimension];
    let mut counted = 0;
    for (at, _) in (0..count).step_by(every).zip(&lengths).filter(|(_, length)| **length <= longest) {
        (rows.vector)(at, &mut prepared)?;
        centre.iter_mut().zip(&prepared).for_each(|(sum, x)| *sum += f64::from(*x));
        counted += 1;
    }
    Ok(centre.into_iter().map(|sum| (sum / f64::from(counted.max(1))) as f32).collect())
}

/// Writes the sections that tell of each row alone, and gives what a graph is built from. `None` if it was cancelled.
fn put_codes(
    out: &mut SegmentWriter,
    header: &mut Header,
    spec: &SegmentSpec,
    rows: &SegmentRows<'_>,
    centre: &[f32],
    run: &BuildRun<'_>,
    write: &dyn Fn(std::io::Error) -> crate::Error,
) -> Result<Option<BuildRows>> {
    let SegmentSpec { dimension, form, metric, has_residuals, .. } = *spec;
    let count = rows.numbers.len();
    let rotation = Rotation::new(dimension, spec.seed);
    let row_bytes = CodeKind::Bits8.row_bytes(dimension);
    let mut build = BuildRows { row_bytes, ..BuildRows::default() };
    if spec.build.is_some() {
        build.numbers = rows.numbers.to_vec();
        build.codes = run.zero_codes(count * row_bytes)?;
    }
    let mut codes = out.begin(header, Section::Codes);
    let mut residuals = out.begin(header, Section::Residuals);
    let mut steps: Vec<f32> = Vec::with_capacity(count);
    let mut half_squares: Vec<f32> = Vec::new();
    let mut residual_steps: Vec<f32> = Vec::new();
    let mut row = vec![0; form.row_bytes(dimension)];
    let mut residual = vec![0; row_bytes];
    let mut squares = 0.0;
    let mut prepared = Vec::with_capacity(dimension);
    let mut since = Instant::now();
    for at in 0..count {
        if at % 1024 == 0 {
            (run.pace)(since.elapsed());
            since = Instant::now();
            if (run.is_cancelled)() {
                return Ok(None);
            }
        }
        (rows.vector)(at, &mut prepared)?;
        let rest = &mut prepared[..];
        rest.iter_mut().zip(centre).for_each(|(x, c)| *x -= c);
        rotation.apply(rest);
        let half_square = rest.iter().map(|x| x * x).sum::<f32>() / 2.0;
        if spec.build.is_some() {
            // Graphs are built by Euclidean distance, also where products are asked for: it alone says which of two
            // neighbours hides the other.
            build.biases.push(half_square);
            let codes = &mut build.codes[at * row_bytes..][..row_bytes];
            build.steps.push(Grid(CodeKind::Bits8).encode(&mut rest.to_vec(), codes));
        }
        if metric == Metric::L2 {
            half_squares.push(half_square);
        }
        row.fill(0);
        steps.push(form.encode(rest, &mut row));
        codes.put(&row).map_err(write)?;
        squares += rest.iter().map(|x| f64::from(x * x)).sum::<f64>();
        if has_residuals {
            residual.fill(0);
            residual_steps.push(Grid(CodeKind::Bits8).encode(rest, &mut residual));
            residuals.put(&residual).map_err(write)?;
        }
        let left_over = rest.iter().map(|x| x * x).sum::<f32>().sqrt();
        // Sums of so many products of f32 are off by so much at most, in the lanes that kernels sum up.
        let rounding = rounding(dimension) * (2.0 * half_square).sqrt();
        header.error = header.error.max(if form == Form::Floats { rounding } else { left_over });
    }
    header.walk_error = (squares / count.max(1) as f64).sqrt() as f32;
    let written = [codes.end().map_err(write)?, residuals.end().map_err(write)?];
    written.into_iter().for_each(|written| out.took(written));
    let of_rows = [
        (Section::Steps, &steps),
        (Section::Biases, &half_squares),
        (Section::ResidualSteps, &residual_steps),
    ];
    for (section, numbers) in of_rows {
        out.section(header, section, |section| section.put(bytemuck::cast_slice(numbers))).map_err(write)?;
    }
    Ok(Some(build))
}

fn put_owners(
    out: &mut SegmentWriter,
    header: &mut Header,
    rows: &SegmentRows<'_>,
    write: &dyn Fn(std::io::Error) -> crate::Error,
) -> Result<()> {
    let mut owner = Vec::new();
    let mut ends: Vec<u64> = Vec::with_capacity(rows.numbers.len());
    for nth in 0..rows.numbers.len() {
        (rows.owner)(nth, &mut owner)?;
        header.owner_bytes += owner.len() as u64;
        ends.push(header.owner_bytes);
    }
    out.section(header, Section::OwnerEnds, |section| section.put(bytemuck::cast_slice(&ends)))
        .map_err(write)?;
    let mut owners = out.begin(header, Section::Owners);
    for nth in 0..rows.numbers.len() {
        (rows.owner)(nth, &mut owner)?;
        owners.put(&owner).map_err(write)?;
    }
    out.took(owners.end().map_err(write)?);
    Ok(())
}

fn put_graph(out: &mut SegmentWriter, header: &mut Header, graph: &Graph) -> std::io::Result<()> {
    header.entry = graph.entry();
    let layers: Vec<Vec<u32>> =
        (1..graph.layers()).map(|layer| graph.rows_of_layer(layer).collect()).collect();
    header.layers = layers.iter().map(|rows| rows.len() as u32).collect();
    let put_links = |section: &mut SectionWriter, row: u32, layer: usize, width: u32| {
        let mut links: Vec<u32> = graph.neighbours(row, layer).collect();
        links.resize(width as usize, NONE);
        section.put(bytemuck::cast_slice(&links))
    };
    out.section(header, Section::Links, |section| {
        (0..header.rows).try_for_each(|row| put_links(section, row, 0, header.width))
    })?;
    out.section(header, Section::UpperRows, |section| {
        layers.iter().try_for_each(|rows| section.put(bytemuck::cast_slice(rows)))
    })?;
    out.section(header, Section::UpperLinks, |section| {
        for (below, rows) in layers.iter().enumerate() {
            for row in rows {
                put_links(section, *row, below + 1, header.upper_width)?;
            }
        }
        Ok(())
    })
}

/// Writes sections to their places, several at a time if need be.
struct SegmentWriter {
    file: Arc<dyn File>,
    id: u64,
    /// Of the blocks behind the first.
    checksums: Vec<u32>,
}

impl SegmentWriter {
    /// Begins a section of whose length, and that of all before it, the header tells already.
    fn begin(&self, header: &Header, section: Section) -> SectionWriter {
        let first = header.section(section).start / BLOCK;
        SectionWriter {
            file: Arc::clone(&self.file),
            id: self.id,
            first,
            block: Vec::new(),
            checksums: Vec::new(),
        }
    }

    /// Notes the checksums of a section that was written.
    fn took(&mut self, written: WrittenSection) {
        let first = written.first - 1;
        let end = first + written.checksums.len();
        if self.checksums.len() < end {
            self.checksums.resize(end, 0);
        }
        self.checksums[first..end].copy_from_slice(&written.checksums);
    }

    fn section(
        &mut self,
        header: &Header,
        section: Section,
        put: impl FnOnce(&mut SectionWriter) -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        let mut writer = self.begin(header, section);
        put(&mut writer)?;
        let written = writer.end()?;
        debug_assert_eq!(written.checksums.len(), header.section_len(section).div_ceil(BLOCK));
        self.took(written);
        Ok(())
    }
}

/// Writes one section, block by block.
struct SectionWriter {
    file: Arc<dyn File>,
    id: u64,
    first: usize,
    block: Vec<u8>,
    checksums: Vec<u32>,
}

/// A section's first block and the checksums of all of them.
struct WrittenSection {
    first: usize,
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

    /// Fills up the last block.
    fn end(mut self) -> std::io::Result<WrittenSection> {
        if !self.block.is_empty() {
            self.block.resize(BLOCK, 0);
            self.end_block()?;
        }
        Ok(WrittenSection { first: self.first, checksums: self.checksums })
    }

    fn end_block(&mut self) -> std::io::Result<()> {
        let block = self.first + self.checksums.len();
        self.checksums.push(checksum(self.id, block, &self.block));
        self.file.write_all_at((block * BLOCK) as u64, &self.block)?;
        self.block.clear();
        Ok(())
    }
}
