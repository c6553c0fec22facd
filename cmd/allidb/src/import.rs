//! `allidb import`: a directory of entities, vectors and edges, or one file, into a collection.

use std::{collections::HashSet, path::PathBuf, sync::Arc, time::Instant};

use allidb_api::v1::{Codes, Durability, Metric, Space, TextField, TextSettings, put_stream_request::Item};
use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde_json::json;
use tokio::sync::mpsc;

use crate::{
    acknowledged::{self, Label},
    client::Client,
    collections,
    dataset::{Dataset, Line, Lines},
    entity_json::{UnknownFields, edge_from_json, entity_from_json},
    exchange::{
        Original,
        import::{self as files, FileArgs},
    },
    failure::Failure,
    ledger::{Counts, Ledger},
    output::{Output, table},
    put_stream::{self, Batch, Origin, Prepared},
};

/// Batches that the reader may be ahead of the sender.
const BATCHES_AHEAD: usize = 4;

/// When the server acknowledges a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum WriteDurability {
    /// After it is on disk (fsync).
    Sync,
    /// When the operating system has it: survives the daemon, not a power cut.
    Flush,
}

impl From<WriteDurability> for Durability {
    fn from(durability: WriteDurability) -> Self {
        match durability {
            WriteDurability::Sync => Self::Sync,
            WriteDurability::Flush => Self::Flush,
        }
    }
}

/// Loads a file (.jsonl, .csv, .parquet; the first two may be .zst), what `export` wrote to a directory, or a directory with
/// `entities.jsonl[.zst]` (or `words.txt`), `vectors.f16.npy` or `vectors.f32.npy`, and `edges.jsonl[.zst]`.
#[derive(Args, Debug)]
pub(crate) struct ImportArgs {
    /// The file or directory; `-` reads JSONL from standard input.
    path: PathBuf,
    /// The collection to load into.
    #[arg(short, long)]
    collection: String,
    /// The vector space of the .npy file's rows; needed if there is one.
    #[arg(short, long)]
    space: Option<String>,
    /// How the vectors of a space that has to be created are compared: cosine, dot or l2.
    #[arg(long, default_value = "cosine", value_parser = collections::parse_metric)]
    metric: Metric,
    /// How the index holds the vectors of a new space: 4+8, 8, 1+8 bits a number, or f32.
    #[arg(long, default_value = "4+8", value_parser = collections::parse_codes)]
    codes: Codes,
    /// An attribute of a new collection that is searched as text: ATTRIBUTE[:KIND[:WEIGHT[:LANGUAGE]]], kind names (the default)
    /// or prose. May be repeated.
    #[arg(long = "text", value_name = "FIELD", value_parser = collections::parse_text_field)]
    texts: Vec<TextField>,
    /// Create the collection and the space if they are missing (the default).
    #[arg(long, overrides_with = "no_create")]
    create: bool,
    /// Fail if the collection or the space is missing.
    #[arg(long, overrides_with = "create")]
    no_create: bool,
    /// Items read and prepared together.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    batch: u32,
    /// Items sent and not yet answered, at most.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    in_flight: u32,
    /// When the server acknowledges an item.
    #[arg(long, value_enum, default_value_t = WriteDurability::Sync)]
    durability: WriteDurability,
    /// Write items that were refused here, one JSON object a line, with the reason.
    #[arg(long, value_name = "FILE")]
    rejects: Option<PathBuf>,
    /// Append a line for each acknowledged item: its id (of an edge: source, relation, target, edge id, and the
    /// target's collection if it is another) and a hash of what it holds, with tabs between.
    #[arg(long, value_name = "FILE")]
    acknowledged: Option<PathBuf>,
    /// Skip what an earlier run noted in this file, if it is there yet; may be the same file as --acknowledged.
    #[arg(long, value_name = "FILE")]
    resume: Option<PathBuf>,
    #[command(flatten)]
    file: FileArgs,
}

/// What to load, and where to.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    /// The collection.
    pub(crate) collection: String,
    /// The space of the vectors.
    pub(crate) space: Option<String>,
    /// Items read together.
    pub(crate) batch: usize,
    /// Items unanswered at most.
    pub(crate) in_flight: usize,
    /// When the server acknowledges.
    pub(crate) durability: Durability,
}

/// How an import went.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Report {
    /// Of entities.
    pub(crate) entities: Counts,
    /// Of edges.
    pub(crate) edges: Counts,
    /// From the first item to the last answer.
    pub(crate) seconds: f64,
}

impl Report {
    /// Acknowledged items a second.
    pub(crate) fn rate(&self) -> f64 {
        (self.entities.acknowledged + self.edges.acknowledged) as f64 / self.seconds.max(1e-9)
    }
}

/// Runs the command.
pub(crate) async fn run(args: ImportArgs, client: &Client, output: Output) -> Result<()> {
    let done = args.resume.as_deref().map(acknowledged::read).transpose()?.unwrap_or_default();
    // Only once there is something to import: rejects start afresh.
    let ledger = || Ledger::open(args.acknowledged.as_deref(), args.rejects.as_deref());
    let text = TextSettings { fields: args.texts.clone(), ..TextSettings::default() };
    let job = Job {
        collection: args.collection.clone(),
        space: args.space.clone(),
        batch: args.batch as usize,
        in_flight: args.in_flight as usize,
        durability: args.durability.into(),
    };
    let report = match files::Source::find(&args.path, &args.file)? {
        Some(source) => {
            if args.space.is_some() {
                return Err(Failure::usage("--space is for .npy files; here --vector SPACE=COLUMN says it"));
            }
            let (metric, codes) = (args.metric as i32, args.codes as i32);
            let missing = files::Missing { may_create: !args.no_create, metric, codes, text };
            files::load(client, source, job, missing, Arc::new(done), &mut ledger()?).await?
        }
        None => {
            let dataset = dataset(&args, text, client).await?;
            load(client, Arc::new(dataset), job, Arc::new(done), &mut ledger()?).await?
        }
    };
    print(&report, output)?;
    let rejected = report.entities.rejected + report.edges.rejected;
    if rejected > 0 {
        bail!("rejected: {rejected}");
    }
    Ok(())
}

/// Opens a directory, and makes sure that there is a collection for what it holds.
async fn dataset(args: &ImportArgs, text: TextSettings, client: &Client) -> Result<Dataset> {
    let dataset = Dataset::open(&args.path)?;
    let dimension = dataset.vectors.as_ref().map(|vectors| vectors.header().dimension as u32);
    let spaces = match (&args.space, dimension) {
        (Some(name), Some(dimension)) => {
            let (metric, codes) = (args.metric as i32, args.codes as i32);
            vec![Space { name: name.clone(), dimension, metric, codes, history: 0 }]
        }
        (None, Some(_)) => {
            return Err(Failure::usage("the directory has vectors: --space names their space"));
        }
        (Some(_), None) => return Err(Failure::usage("the directory has no vectors for --space")),
        (None, None) => Vec::new(),
    };
    collections::ensure(client, &args.collection, &spaces, text, !args.no_create).await?;
    Ok(dataset)
}

/// Sends all entities, then all edges.
pub(crate) async fn load(
    client: &Client,
    dataset: Arc<Dataset>,
    job: Job,
    done: Arc<HashSet<String>>,
    ledger: &mut Ledger,
) -> Result<Report> {
    let started = Instant::now();
    let total = dataset.vectors.as_ref().map(|vectors| vectors.header().rows as u64);
    let (sender, batches) = mpsc::channel(BATCHES_AHEAD);
    let reader = Reader { dataset, job: job.clone(), done, sender };
    let edges_reader = reader.clone_for_edges();
    let read = tokio::task::spawn_blocking(move || reader.entities());
    let entities = one_file(client, &job, batches, "entities", total, ledger).await?;
    read.await?;

    let mut edges = Counts::default();
    let (edges_reader, batches) = edges_reader;
    if let Some(lines) = edges_reader.dataset.edge_lines()? {
        let read = tokio::task::spawn_blocking(move || edges_reader.edges(lines));
        edges = one_file(client, &job, batches, "edges", None, ledger).await?;
        read.await?;
    }
    Ok(Report { entities, edges, seconds: started.elapsed().as_secs_f64() })
}

/// Sends the items of one file, as they come.
pub(crate) async fn one_file(
    client: &Client,
    job: &Job,
    batches: mpsc::Receiver<Batch>,
    file: &'static str,
    total: Option<u64>,
    ledger: &mut Ledger,
) -> Result<Counts> {
    ledger.begin(file, total);
    let acknowledged = (job.durability, client.consistency());
    let sent = put_stream::send(client.entities(), batches, job.in_flight, acknowledged, ledger).await;
    let counts = ledger.end()?;
    sent.with_context(|| {
        let Counts { acknowledged, rejected, skipped } = counts;
        format!("{file}: stopped after {acknowledged} acknowledged, {rejected} rejected, {skipped} skipped")
    })?;
    Ok(counts)
}

/// Prepares items on a thread of its own: reading, unpacking and parsing are work for a processor.
struct Reader {
    dataset: Arc<Dataset>,
    job: Job,
    done: Arc<HashSet<String>>,
    sender: mpsc::Sender<Batch>,
}

impl Reader {
    fn clone_for_edges(&self) -> (Self, mpsc::Receiver<Batch>) {
        let (sender, batches) = mpsc::channel(BATCHES_AHEAD);
        let reader = Self {
            dataset: Arc::clone(&self.dataset),
            job: self.job.clone(),
            done: Arc::clone(&self.done),
            sender,
        };
        (reader, batches)
    }

    fn entities(&self) {
        let mut lines = match self.dataset.entity_lines() {
            Ok(lines) => lines,
            Err(error) => return self.fail(error),
        };
        let mut rows = Rows { first: 0, lines: Vec::new() };
        while let Some(line) = lines.next_line() {
            match line {
                Ok(line) => rows.lines.push(line),
                Err(error) => return self.fail(error),
            }
            if rows.lines.len() == self.job.batch && !self.send_rows(&mut rows) {
                return;
            }
        }
        if !rows.lines.is_empty() && !self.send_rows(&mut rows) {
            return;
        }
        if let Some(vectors) = &self.dataset.vectors
            && rows.first != vectors.header().rows
        {
            let (have, expected) = (vectors.header().rows, rows.first);
            self.fail(anyhow::anyhow!("{expected} entities, but {have} vectors"));
        }
    }

    /// Prepares the rows, sends them and goes on behind them. False when nobody listens any more.
    fn send_rows(&self, rows: &mut Rows) -> bool {
        let batch = self.prepare_rows(rows);
        rows.first += rows.lines.len();
        rows.lines.clear();
        let goes_on = batch.is_ok();
        self.sender.blocking_send(batch).is_ok() && goes_on
    }

    fn prepare_rows(&self, rows: &Rows) -> Batch {
        let block = match &self.dataset.vectors {
            Some(vectors) => {
                let have = vectors.header().rows;
                if rows.first + rows.lines.len() > have {
                    bail!("there are more entities than the {have} vectors");
                }
                Some((vectors, vectors.rows(rows.first, rows.lines.len())?))
            }
            None => None,
        };
        let prepare_one = |(index, line): (usize, &Line)| {
            let row = rows.first + index;
            let origin = Origin { number: row as u64 + 1, original: Original::Line(line.text.clone()) };
            let object = line.utf8().and_then(|text| self.dataset.entity_object(row, text));
            let read = object.and_then(|object| {
                entity_from_json(object, &self.job.collection, UnknownFields::AsAttributes)
            });
            match read {
                Ok(mut entity) => {
                    if let (Some((vectors, block)), Some(space)) = (&block, &self.job.space) {
                        entity.vectors.insert(space.clone(), vectors.vector(block, index));
                    }
                    prepared(Ok(Item::Entity(entity)), origin, &self.done)
                }
                Err(error) => prepared(Err(error), origin, &self.done),
            }
        };
        Ok(rows.lines.iter().enumerate().map(prepare_one).collect())
    }

    fn edges(&self, mut lines: Lines) {
        let (mut batch, mut number) = (Vec::new(), 0);
        while let Some(line) = lines.next_line() {
            number += 1;
            match line {
                Ok(line) => batch.push(self.prepare_edge(number, line)),
                Err(error) => return self.fail(error),
            }
            if batch.len() == self.job.batch
                && self.sender.blocking_send(Ok(std::mem::take(&mut batch))).is_err()
            {
                return;
            }
        }
        // Whether anyone still listens makes no difference to the last batch.
        self.sender.blocking_send(Ok(batch)).ok();
    }

    fn prepare_edge(&self, number: u64, line: Line) -> Prepared {
        let object = line.utf8().and_then(|text| Ok(serde_json::from_str(text)?));
        let edge = object.and_then(|object| edge_from_json(object, &self.job.collection));
        let origin = Origin { number, original: Original::Line(line.text) };
        prepared(edge.map(Item::Edge), origin, &self.done)
    }

    fn fail(&self, error: anyhow::Error) {
        // If nobody listens any more, the import has failed already.
        self.sender.blocking_send(Err(error)).ok();
    }
}

/// An item that was read, unless an earlier run had it acknowledged.
pub(crate) fn prepared(item: Result<Item>, origin: Origin, done: &HashSet<String>) -> Prepared {
    match item {
        Ok(item) => {
            let label = Label::of(&item);
            if label.is_in(done) { Prepared::Skipped } else { Prepared::Ready { origin, label, item } }
        }
        Err(error) => Prepared::Bad { origin, reason: format!("{error:#}") },
    }
}

/// Lines that wait to be prepared together, and the row of the first of them.
struct Rows {
    first: usize,
    lines: Vec<Line>,
}

fn print(report: &Report, output: Output) -> Result<()> {
    let Report { entities, edges, seconds } = *report;
    if output.is_json() {
        let counts = |counts: Counts| {
            json!({
                "acknowledged": counts.acknowledged, "rejected": counts.rejected, "skipped": counts.skipped,
            })
        };
        output.document(&json!({
            "entities": counts(entities), "edges": counts(edges),
            "seconds": seconds, "items_per_second": report.rate(),
        }))?;
        return Ok(());
    }
    let mut summary = table(&["", "acknowledged", "rejected", "skipped"]);
    for (name, counts) in [("entities", entities), ("edges", edges)] {
        let cells = [
            name.to_owned(),
            counts.acknowledged.to_string(),
            counts.rejected.to_string(),
            counts.skipped.to_string(),
        ];
        summary.add_row(cells);
    }
    output.table(&summary)?;
    output.line(format!("{seconds:.1} s, {:.0} items/s", report.rate()))?;
    Ok(())
}
