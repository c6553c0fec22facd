//! `allidb query --vectors`: a whole file of queries, timed, and compared with the exact answers.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use allidb_api::v1::{QueryRequest, QueryResponse, nearest::Target};
use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::json;
use tokio::task::JoinSet;

use crate::{
    client::Client,
    dataset::Dataset,
    entity_json::id_of,
    failure::Failure,
    ivecs,
    npy::NpyFile,
    output::{Output, table},
    progress::Progress,
    query::QuestionArgs,
};

/// A file of queries.
#[derive(Args, Clone, Debug)]
pub(crate) struct FileArgs {
    /// Ask for each row of this .npy file, and report speed and recall instead of hits.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seed", "explain"], help_heading = "A file of queries")]
    pub(crate) vectors: Option<PathBuf>,
    /// The exact answers as row numbers (.ivecs).
    #[arg(long, value_name = "FILE", requires = "vectors", help_heading = "A file of queries")]
    truth: Option<PathBuf>,
    /// The directory of the data set whose rows --truth counts; where the truth lies unless given.
    #[arg(long, value_name = "DIR", requires = "truth", help_heading = "A file of queries")]
    ids_from: Option<PathBuf>,
    /// Queries under way at the same time.
    #[arg(
        long, default_value_t = 1, requires = "vectors", help_heading = "A file of queries",
        value_parser = clap::value_parser!(u32).range(1..=1024)
    )]
    concurrency: u32,
    /// Ask only the first N rows.
    #[arg(long, value_name = "N", requires = "vectors", help_heading = "A file of queries")]
    first: Option<usize>,
}

/// One answered query.
struct Answered {
    query: usize,
    latency: Duration,
    ids: Vec<String>,
}

/// Runs the whole file.
pub(crate) async fn run(
    question: QuestionArgs,
    file: FileArgs,
    client: &Client,
    output: Output,
) -> Result<()> {
    let path = file.vectors.as_deref().context("called only with --vectors")?;
    let requests = requests(path, &question, file.first)?;
    let count = requests.len();
    let truth = file.truth.as_deref().map(|truth| read_truth(truth, file.ids_from.as_deref())).transpose()?;
    if let Some(truth) = &truth {
        check_truth(truth, count, question.k as usize)?;
    }
    let started = Instant::now();
    let answers = ask_all(client, requests, file.concurrency).await?;
    let seconds = started.elapsed().as_secs_f64();
    let recall = truth.map(|truth| recall(&truth, &answers, question.k as usize));
    let mut latencies: Vec<Duration> = answers.iter().map(|answer| answer.latency).collect();
    latencies.sort_unstable();
    let per_second = count as f64 / seconds.max(1e-9);
    let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|share| quantile(&latencies, share).as_secs_f64() * 1e3);
    if output.is_json() {
        output.document(&json!({
            "queries": count, "k": question.k, "concurrency": file.concurrency, "seconds": seconds,
            "queries_per_second": per_second, "p50_ms": p50, "p99_ms": p99, "p99_9_ms": p999, "recall": recall,
        }))?;
        return Ok(());
    }
    let recall_name = format!("recall@{}", question.k);
    let mut shown = table(&["queries", "queries/s", "p50 ms", "p99 ms", "p99.9 ms", &recall_name]);
    shown.add_row([
        count.to_string(),
        format!("{per_second:.0}"),
        format!("{p50:.2}"),
        format!("{p99:.2}"),
        format!("{p999:.2}"),
        recall.map_or_else(|| "no --truth".to_owned(), |recall| format!("{recall:.4}")),
    ]);
    output.table(&shown)?;
    Ok(())
}

fn requests(path: &Path, question: &QuestionArgs, first: Option<usize>) -> Result<Vec<QueryRequest>> {
    let vectors = NpyFile::open(path)?.vectors()?;
    if vectors.is_empty() || first == Some(0) {
        return Err(Failure::usage(format!("{}: no queries", path.display())));
    }
    let mut template = None;
    vectors
        .into_iter()
        .take(first.unwrap_or(usize::MAX))
        .map(|vector| {
            let seed = question.nearest(Target::Vector(vector))?;
            // The filter and the rest are read once; only the seed differs.
            let mut request = match template.clone() {
                Some(request) => request,
                None => question.request(vec![seed.clone()])?,
            };
            if template.is_none() {
                // Only ids are compared.
                request.read_mask.get_or_insert_default().paths = vec!["type".to_owned()];
                template = Some(request.clone());
            }
            request.seeds = vec![allidb_api::v1::Seed { kind: Some(seed) }];
            Ok(request)
        })
        .collect()
}

async fn ask_all(
    client: &Client,
    mut requests: Vec<QueryRequest>,
    concurrency: u32,
) -> Result<Vec<Answered>> {
    requests.iter_mut().for_each(|request| request.consistency = client.consistency());
    let count = requests.len();
    let requests = Arc::new(requests);
    let next = Arc::new(AtomicUsize::new(0));
    let (done, mut answered) = tokio::sync::mpsc::unbounded_channel();
    let mut askers = JoinSet::new();
    for _ in 0..concurrency {
        let (requests, next, done, mut service) =
            (Arc::clone(&requests), Arc::clone(&next), done.clone(), client.search());
        askers.spawn(async move {
            loop {
                let query = next.fetch_add(1, Ordering::Relaxed);
                let Some(request) = requests.get(query) else { return Ok::<(), anyhow::Error>(()) };
                let started = Instant::now();
                let answer = service.query(request.clone()).await.map_err(|status| {
                    Failure::from_status(status).context(format!("query {query} failed"))
                })?;
                let latency = started.elapsed();
                let ids = ids(&answer.into_inner());
                if done.send(Answered { query, latency, ids }).is_err() {
                    return Ok(());
                }
            }
        });
    }
    drop(done);
    let mut progress = Progress::start("queries", Some(count as u64));
    let mut answers = Vec::with_capacity(count);
    while let Some(answer) = answered.recv().await {
        answers.push(answer);
        progress.at(answers.len() as u64);
    }
    progress.finish();
    while let Some(asker) = askers.join_next().await {
        asker??;
    }
    Ok(answers)
}

fn ids(answer: &QueryResponse) -> Vec<String> {
    let id = |hit: &allidb_api::v1::Hit| {
        hit.entity.as_ref().map(|entity| id_of(entity.r#ref.as_ref()).to_owned()).unwrap_or_default()
    };
    answer.hits.iter().map(id).collect()
}

/// The exact answers as ids, best first.
fn read_truth(path: &Path, ids_from: Option<&Path>) -> Result<Vec<Vec<String>>> {
    let bytes = fs::read(path).with_context(|| path.display().to_string())?;
    let rows = ivecs::parse(&bytes).with_context(|| path.display().to_string())?;
    let dir = ids_from.or_else(|| path.parent()).filter(|dir| !dir.as_os_str().is_empty());
    let ids = Dataset::open(dir.unwrap_or(Path::new(".")))?.ids()?;
    let id_of_row = |row: &u32| {
        let id = ids.get(*row as usize).cloned();
        id.with_context(|| format!("the truth names row {row}, the entities have {}", ids.len()))
    };
    rows.iter().map(|record| record.iter().map(id_of_row).collect()).collect()
}

fn check_truth(truth: &[Vec<String>], queries: usize, k: usize) -> Result<()> {
    if truth.len() < queries {
        bail!("the truth answers {} queries, {queries} are asked", truth.len());
    }
    let depth = truth.first().map_or(0, Vec::len);
    if depth < k {
        return Err(Failure::usage(format!(
            "the truth holds the best {depth} of each query; -k {k} is more"
        )));
    }
    Ok(())
}

/// The share of the true best k that was found, over all queries.
fn recall(truth: &[Vec<String>], answers: &[Answered], k: usize) -> f64 {
    let mut found = 0;
    for answer in answers {
        let exact = truth.get(answer.query).map_or(&[][..], |exact| exact.get(..k).unwrap_or(exact));
        found += exact.iter().filter(|id| answer.ids.contains(id)).count();
    }
    found as f64 / (answers.len() * k).max(1) as f64
}

/// The nearest-rank quantile of sorted values.
fn quantile(sorted: &[Duration], share: f64) -> Duration {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recall_counts_the_true_best_wherever_they_stand() {
        let strings = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
        let truth = [strings(&["a", "b", "c"]), strings(&["d", "e", "f"])];
        let answer = |query, ids: &[&str]| Answered { query, latency: Duration::ZERO, ids: strings(ids) };
        let answers = [answer(1, &["e", "x"]), answer(0, &["b", "a"])];
        assert_eq!(recall(&truth, &answers, 2), 0.75);
        assert!(check_truth(&truth, 3, 2).is_err());
        assert!(check_truth(&truth, 2, 4).is_err());
        assert!(check_truth(&truth, 2, 3).is_ok());
    }

    #[test]
    fn quantiles_are_values_that_occurred() {
        let sorted: Vec<_> = (1..=1000).map(Duration::from_millis).collect();
        assert_eq!(quantile(&sorted, 0.5), Duration::from_millis(500));
        assert_eq!(quantile(&sorted, 0.999), Duration::from_millis(999));
        assert_eq!(quantile(&[], 0.5), Duration::ZERO);
    }
}
