//! `allidb bench query`: how good answers are, and how long they take, over real questions.
//!
//! The questions are sentences, each written for one entity; an answer is right if that entity is among the first k. Ways to
//! ask were chosen on the first half of the questions; the second half tells how good they are.
//!
//! | module | concept |
//! |---|---|
//! | `ways` | what is asked of each question |
//! | `glued` | libraries of one kind each that are asked the same |

#[cfg(feature = "peers")]
mod glued;
mod ways;

use std::{
    collections::HashSet,
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use allidb_api::v1::{
    Collection, Durability, ListWorkersRequest, Metric, QueryRequest, Space, TextField, TextSettings,
    worker::Activity,
};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde::Deserialize;
use serde_json::json;

use super::latency::Latencies;
use crate::{
    client::Client,
    collections,
    daemon::Daemon,
    dataset::Dataset,
    entity_json::id_of,
    failure::Failure,
    import::{self, Job},
    ledger::Ledger,
    npy::NpyFile,
    output::{Output, table},
};
use ways::{COLLECTION, Question, SPACE, Way};

/// Idle growing segments are sealed, and so merged, after some seconds.
const QUIET_SECONDS: u32 = 8;
/// Standard deviations of a normal distribution that 95 % lie within.
const Z: f64 = 1.96;

/// Measures questions of words and vectors: the share whose own entity is among the first hits, and latencies over gRPC.
#[derive(Args, Debug)]
pub(crate) struct QueryBenchArgs {
    /// The data set: a directory as `import` reads it, with queries.jsonl (`text` and the id of its entity, `synset`) and
    /// queries.f32.npy.
    #[arg(long)]
    data: PathBuf,
    /// An attribute that is searched as text: ATTRIBUTE[:KIND[:WEIGHT[:LANGUAGE]]]. May be repeated.
    #[arg(long = "text", value_name = "FIELD", value_parser = collections::parse_text_field, required = true)]
    texts: Vec<TextField>,
    /// Relations that the ways with a graph follow, with commas between; all unless given.
    #[arg(long, value_name = "RELATIONS", value_delimiter = ',')]
    relations: Vec<String>,
    /// A filter for the way that has one.
    #[arg(long, default_value = "type = \"noun\"")]
    filter: String,
    /// Among how many hits the entity must be.
    #[arg(short, long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    k: u32,
    /// Where the daemon's files go while it runs.
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// A line of queries.jsonl.
#[derive(Debug, Deserialize)]
struct Line {
    text: String,
    synset: String,
}

/// What one way came to.
struct Row {
    engine: &'static str,
    way: Way,
    /// Right answers and questions of each half.
    halves: [(u32, u32); 2],
    latencies: Latencies,
}

/// Runs the command.
pub(crate) fn run(args: &QueryBenchArgs, output: Output) -> Result<()> {
    if cfg!(debug_assertions) {
        eprintln!("warning: this is not a release build; its times mean nothing");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let dir = super::scratch(args.dir.as_deref())?;
    #[cfg_attr(not(feature = "peers"), expect(unused_mut, reason = "peers add to it"))]
    let mut rows = runtime.block_on(async {
        let mut daemon = Daemon::start(dir.path()).await?;
        let rows = measure(args, &Client::connect(&daemon.endpoint()).await?).await;
        daemon.stop().await?;
        rows
    })?;
    #[cfg(feature = "peers")]
    rows.extend(measure_glued(args)?);
    report(&rows, output)
}

async fn measure(args: &QueryBenchArgs, client: &Client) -> Result<Vec<Row>> {
    load(args, client).await?;
    let questions = questions(args)?;
    let mut rows = Vec::new();
    for way in Way::ALL {
        let mut row = Row::new("allidb", way)?;
        let mut service = client.search();
        for (at, question) in questions.iter().enumerate() {
            let request: QueryRequest = way.request(question, args.k, &args.relations, &args.filter)?;
            let asked = Instant::now();
            let answer = service.query(request).await.map_err(Failure::from_status)?.into_inner();
            row.latencies.record(asked.elapsed());
            let is_right = answer.hits.iter().any(|hit| {
                hit.entity.as_ref().is_some_and(|entity| id_of(entity.r#ref.as_ref()) == question.entity)
            });
            row.note(is_right, 2 * at >= questions.len());
        }
        eprintln!("{}: {}", way.name(), share(row.halves[1]));
        rows.push(row);
    }
    Ok(rows)
}

#[cfg(feature = "peers")]
fn measure_glued(args: &QueryBenchArgs) -> Result<Vec<Row>> {
    let glued = glued::Glued::load(&args.data, &args.texts)?;
    let questions = questions(args)?;
    let mut rows = Vec::new();
    for way in Way::ALL {
        let mut row = Row::new("glued", way)?;
        for (at, question) in questions.iter().enumerate() {
            let asked = Instant::now();
            let hits = glued.ask(way, question, args.k as usize)?;
            row.latencies.record(asked.elapsed());
            row.note(hits.contains(&question.entity.as_str()), 2 * at >= questions.len());
        }
        rows.push(row);
    }
    Ok(rows)
}

impl Row {
    fn new(engine: &'static str, way: Way) -> Result<Self> {
        Ok(Self { engine, way, halves: [(0, 0); 2], latencies: Latencies::new()? })
    }

    fn note(&mut self, is_right: bool, is_second_half: bool) {
        let (right, all) = &mut self.halves[usize::from(is_second_half)];
        *right += u32::from(is_right);
        *all += 1;
    }
}

async fn load(args: &QueryBenchArgs, client: &Client) -> Result<()> {
    let dataset = Dataset::open(&args.data)?;
    let dimension =
        dataset.vectors.as_ref().context("the data set has no vectors")?.header().dimension as u32;
    let metric = Metric::Cosine.into();
    let space = Space { name: SPACE.to_owned(), dimension, metric, ..Space::default() };
    let text = TextSettings { fields: args.texts.clone(), ..TextSettings::default() };
    collections::create(
        client,
        Collection { name: COLLECTION.into(), spaces: vec![space], text: Some(text), ..Default::default() },
    )
    .await?;
    let job = Job {
        collection: COLLECTION.to_owned(),
        space: Some(SPACE.to_owned()),
        batch: 256,
        in_flight: 1_024,
        durability: Durability::Flush,
    };
    let mut ledger = Ledger::open(None, None)?;
    let loaded = import::load(client, Arc::new(dataset), job, Arc::new(HashSet::new()), &mut ledger).await?;
    let rejected = loaded.entities.rejected + loaded.edges.rejected;
    ensure!(rejected == 0, "{rejected} items were rejected");
    settle(client).await
}

/// Waits until what was loaded is sealed and merged: questions are not to be timed beside that.
pub(crate) async fn settle(client: &Client) -> Result<()> {
    let mut quiet = 0;
    while quiet < QUIET_SECONDS {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let listed = client.maintenance().list_workers(ListWorkersRequest {}).await;
        let workers = listed.map_err(Failure::from_status)?.into_inner().workers;
        let is_quiet = workers.iter().all(|worker| worker.activity() == Activity::Idle);
        quiet = if is_quiet { quiet + 1 } else { 0 };
    }
    Ok(())
}

fn questions(args: &QueryBenchArgs) -> Result<Vec<Question>> {
    let path = args.data.join("queries.jsonl");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let lines = text.lines().map(serde_json::from_str).collect::<Result<Vec<Line>, _>>();
    let lines = lines.with_context(|| path.display().to_string())?;
    let vectors = NpyFile::open(&args.data.join("queries.f32.npy"))?.vectors()?;
    if lines.len() != vectors.len() || lines.len() < 2 {
        bail!("{} questions, but {} vectors of them", lines.len(), vectors.len());
    }
    let question = |(Line { text, synset: entity }, vector)| Question { text, entity, vector };
    Ok(lines.into_iter().zip(vectors).map(question).collect())
}

/// A share and the interval that it lies in with 95 % (Wilson, 1927).
fn share((right, all): (u32, u32)) -> String {
    let (low, high) = interval(right, all);
    let share = f64::from(right) / f64::from(all.max(1));
    format!("{:.1} % [{:.1}, {:.1}]", 100.0 * share, 100.0 * low, 100.0 * high)
}

fn interval(right: u32, all: u32) -> (f64, f64) {
    let n = f64::from(all.max(1));
    let share = f64::from(right) / n;
    let middle = share + Z * Z / (2.0 * n);
    let half = Z * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
    let all = 1.0 + Z * Z / n;
    ((middle - half) / all, (middle + half) / all)
}

fn report(rows: &[Row], output: Output) -> Result<()> {
    let quantiles = |row: &Row| [0.5, 0.99].map(|share| row.latencies.quantile_us(share) / 1e3);
    if output.is_json() {
        let row = |row: &Row| {
            let [p50, p99] = quantiles(row);
            let half = |(right, all): (u32, u32)| json!({ "right": right, "questions": all });
            json!({
                "engine": row.engine, "way": row.way.name(), "first_half": half(row.halves[0]), "second_half": half(row.halves[1]),
                "p50_ms": p50, "p99_ms": p99,
            })
        };
        output.document(&json!(rows.iter().map(row).collect::<Vec<_>>()))?;
        return Ok(());
    }
    let mut shown = table(&["engine", "way", "first half", "second half", "p50 ms", "p99 ms"]);
    for row in rows {
        let [p50, p99] = quantiles(row);
        let [first, second] = row.halves.map(share);
        let times = [p50, p99].map(|ms| format!("{ms:.2}"));
        let names = [row.engine, row.way.name()].map(str::to_owned);
        shown.add_row(names.into_iter().chain([first, second]).chain(times));
    }
    output.table(&shown)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_wilson_s() {
        let (low, high) = interval(750, 1_000);
        assert!((low - 0.7222).abs() < 1e-3 && (high - 0.7759).abs() < 1e-3, "{low} {high}");
        let (low, high) = interval(0, 10);
        assert!(low.abs() < 1e-9 && high > 0.25 && high < 0.3, "{low} {high}");
        assert_eq!(share((1, 2)).split(' ').next(), Some("50.0"));
    }
}
