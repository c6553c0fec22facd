//! `allidb data sample`: cuts a small, well connected piece out of the WordNet data set.
//!
//! The piece that this makes is what `allidb demo` carries. The same input always gives the same bytes.

mod choice;
mod source;
mod text;

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use allidb_api::v1::VectorEncoding;
use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand};
use serde_json::json;

use crate::{ivecs, npy, output::Output, vector_numbers};
#[cfg(test)]
pub(crate) use choice::ASKED_BY_THE_DEMO;
use source::Source;

/// Entities in the sample.
const ENTITIES: usize = 2000;
/// Queries in the sample.
const QUERIES: usize = 100;
/// Exact answers kept of each query.
const TRUTH: usize = 10;
/// zstd's highest ordinary level: made once, read often.
const COMPRESSION: i32 = 19;

/// Works on data sets.
#[derive(Debug, Subcommand)]
pub(crate) enum DataCommand {
    /// Cuts about 2,000 well connected synsets, with queries and exact answers, out of the WordNet data set.
    Sample(SampleArgs),
}

/// Where from and where to.
#[derive(Args, Debug)]
pub(crate) struct SampleArgs {
    /// The WordNet data set.
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
    /// The directory to write.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Runs the command.
pub(crate) fn run(command: DataCommand, output: Output) -> Result<()> {
    let DataCommand::Sample(args) = command;
    let source = Source::read(&args.from)?;
    let queries = choice::queries(&source, QUERIES);
    let rows = choice::entities(&source, &queries, ENTITIES);
    ensure!(rows.len() == ENTITIES, "only {} entities could be reached", rows.len());
    // A query whose own synset was not reached could not be answered by it.
    let queries: Vec<usize> =
        queries.into_iter().filter(|&query| rows.binary_search(&source.queries[query].row).is_ok()).collect();
    fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    let edges = write(&source, &rows, &queries, &args.out)?;
    let sentence = format!(
        "{} entities, {edges} edges, {} queries in {}",
        rows.len(),
        queries.len(),
        args.out.display()
    );
    output.either(sentence, json!({"entities": rows.len(), "edges": edges, "queries": queries.len()}))?;
    Ok(())
}

/// Writes every file; returns how many edges there are.
fn write(source: &Source, rows: &[usize], queries: &[usize], out: &Path) -> Result<usize> {
    let entities: Vec<&str> = rows.iter().map(|&row| source.lines[row].as_str()).collect();
    write_lines(&out.join("entities.jsonl.zst"), &entities)?;
    let inside =
        |edge: &&source::Edge| rows.binary_search(&edge.from).is_ok() && rows.binary_search(&edge.to).is_ok();
    let edges: Vec<&str> = source.edges.iter().filter(inside).map(|edge| edge.line.as_str()).collect();
    write_lines(&out.join("edges.jsonl.zst"), &edges)?;

    let mut vectors = Vec::new();
    for &row in rows {
        vectors.extend_from_slice(&source.vectors.rows(row, 1)?);
    }
    let dimension = source.vectors.header().dimension;
    let file = fs::File::create(out.join("vectors.f16.npy"))?;
    npy::write(file, VectorEncoding::F16, rows.len(), dimension, &vectors)?;

    let mut lines = Vec::new();
    let mut numbers = Vec::new();
    for &query in queries {
        let asked = &source.queries[query];
        let row = rows.binary_search(&asked.row).ok().context("queries were filtered by their rows")?;
        let line = json!({"text": asked.text, "synset": asked.synset, "row": row, "lexname": asked.lexname});
        lines.push(line.to_string());
        numbers.extend_from_slice(&source.query_vectors.rows(query, 1)?);
    }
    fs::write(out.join("queries.jsonl"), lines.join("\n") + "\n")?;
    let file = fs::File::create(out.join("queries.f32.npy"))?;
    npy::write(file, VectorEncoding::F32, queries.len(), dimension, &numbers)?;
    fs::write(out.join("truth.top10.ivecs"), ivecs::write(&truth(source, rows, queries)?))?;

    fs::write(out.join("NOTICE"), text::notice(&source.readme)?)?;
    fs::write(out.join("README.md"), text::readme(rows.len(), edges.len(), queries.len(), dimension))?;
    Ok(edges.len())
}

fn write_lines(path: &Path, lines: &[&str]) -> Result<()> {
    let mut text = lines.join("\n");
    text.push('\n');
    let mut packer = zstd::Encoder::new(fs::File::create(path)?, COMPRESSION)?;
    packer.set_pledged_src_size(Some(text.len() as u64))?;
    packer.include_contentsize(true)?;
    packer.write_all(text.as_bytes())?;
    packer.finish()?;
    Ok(())
}

/// The exact best rows of the sample by cosine, equal ones in the order of rows.
fn truth(source: &Source, rows: &[usize], queries: &[usize]) -> Result<Vec<Vec<u32>>> {
    let numbers = |file: &npy::NpyFile, row: usize| -> Result<Vec<f64>> {
        let block = file.rows(row, 1)?;
        let numbers = vector_numbers::numbers(&file.vector(&block, 0));
        Ok(numbers.into_iter().map(f64::from).collect())
    };
    let vectors = rows.iter().map(|&row| numbers(&source.vectors, row)).collect::<Result<Vec<_>>>()?;
    let mut truth = Vec::new();
    for &query in queries {
        let asked = numbers(&source.query_vectors, query)?;
        let mut scored: Vec<(f64, u32)> =
            vectors.iter().zip(0..).map(|(vector, row)| (cosine(&asked, vector), row)).collect();
        scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        truth.push(scored.iter().take(TRUTH).map(|&(_, row)| row).collect());
    }
    Ok(truth)
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}
