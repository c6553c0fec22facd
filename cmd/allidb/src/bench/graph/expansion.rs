//! Expanding from some seeds over a data set's edges: in the process, and over gRPC at a steady rate.

use std::{
    collections::HashSet,
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use allidb_api::v1::{self, Collection, Durability};
use allidb_index::{
    Deadline,
    graph::ExpandRequest,
    model::{Direction, Edge},
    query::ExpandSpec,
};
use anyhow::{Context, Result, ensure};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;

use super::{
    power_law::SplitMix,
    store::{COLLECTION, Store, TENANT, entity},
};
use crate::{
    bench::{latency::Latencies, query::settle},
    client::Client,
    collections,
    daemon::Daemon,
    dataset::Dataset,
    failure::Failure,
    import::{self, Job},
    ledger::Ledger,
    output::{Output, table},
};

const SEEDS: usize = 10;
const HOPS: usize = 2;
/// Expansions in the process.
const ROUNDS: u32 = 20_000;
/// Requests that may be under way over gRPC; later ones count from when they should have been sent.
const IN_FLIGHT: usize = 64;

/// Loads the edges twice, into a replica and into a daemon, and expands.
pub(super) fn run(data: &Path, dir: &Path, rate: u32, seconds: u32, output: Output) -> Result<()> {
    let ids = ids(&Dataset::open(data)?)?;
    ensure!(!ids.is_empty(), "{} has no entities", data.display());
    let (inside, reached) = inside(&Dataset::open(data)?, &dir.join("replica"), &ids)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let outside = runtime.block_on(async {
        let dir = dir.join("daemon");
        std::fs::create_dir(&dir)?;
        let mut daemon = Daemon::start(&dir).await?;
        let client = Client::connect(&daemon.endpoint()).await?;
        let measured = outside(data, &client, &ids, rate, seconds).await;
        daemon.stop().await?;
        measured
    })?;
    eprintln!("{SEEDS} seeds, {HOPS} hops either way: {reached:.0} nodes reached on average");
    report(&[("in the process", &inside), ("over gRPC", &outside)], output)
}

fn ids(dataset: &Dataset) -> Result<Vec<String>> {
    let lines = dataset.entity_lines()?.enumerate();
    let id = |(row, line): (usize, Result<String>)| {
        let object = dataset.entity_object(row, &line?)?;
        let id = object.get("id").and_then(serde_json::Value::as_str);
        Ok(id.context("an entity has no id")?.to_owned())
    };
    lines.map(id).collect()
}

fn spec() -> ExpandSpec {
    ExpandSpec { hops: HOPS, direction: Direction::Both, ..ExpandSpec::default() }
}

fn inside(dataset: &Dataset, dir: &Path, ids: &[String]) -> Result<(Latencies, f64)> {
    let mut store = Store::create(dir)?;
    for id in ids {
        store.put(id.clone())?;
    }
    for line in dataset.edge_lines()?.context("the data set has no edges")? {
        let edge: serde_json::Value = serde_json::from_str(&line?)?;
        let text = |field: &str| {
            edge.get(field)
                .and_then(serde_json::Value::as_str)
                .with_context(|| format!("an edge has no {field}"))
        };
        store.link(Edge::new(entity(text("from")?), text("relation")?, entity(text("to")?)))?;
    }
    store.settle()?;
    let mut latencies = Latencies::new()?;
    let (mut random, mut reached) = (SplitMix(3), 0);
    for _ in 0..ROUNDS {
        let seeds = (0..SEEDS).map(|_| entity(&ids[random.below(ids.len() as u32) as usize]));
        let request = ExpandRequest { seeds: seeds.collect(), spec: spec(), paths: false };
        let asked = Instant::now();
        let found = store.replica.expand(TENANT, &request, Deadline::after(Duration::from_secs(60)))?;
        latencies.record(asked.elapsed());
        reached += found.nodes.len();
    }
    store.replica.close()?;
    Ok((latencies, reached as f64 / f64::from(ROUNDS)))
}

async fn outside(data: &Path, client: &Client, ids: &[String], rate: u32, seconds: u32) -> Result<Latencies> {
    collections::create(client, Collection { name: COLLECTION.into(), ..Default::default() }).await?;
    let job = Job {
        collection: COLLECTION.to_owned(),
        space: None,
        batch: 256,
        in_flight: 1_024,
        durability: Durability::Flush,
    };
    let mut ledger = Ledger::open(None, None)?;
    let dataset = Arc::new(Dataset::open(data)?);
    let loaded = import::load(client, dataset, job, Arc::new(HashSet::new()), &mut ledger).await?;
    let rejected = loaded.entities.rejected + loaded.edges.rejected;
    ensure!(rejected == 0, "{rejected} items were rejected");
    settle(client).await?;
    let mut random = SplitMix(3);
    let mut ticks = ticks(rate, u64::from(rate) * u64::from(seconds));
    let mut under_way = tokio::task::JoinSet::new();
    let mut latencies = Latencies::new()?;
    while let Some(due) = ticks.recv().await {
        if under_way.len() >= IN_FLIGHT {
            latencies.record(under_way.join_next().await.context("none under way")???);
        }
        let seed = |_| &ids[random.below(ids.len() as u32) as usize];
        let seeds = (0..SEEDS)
            .map(seed)
            .map(|id| v1::EntityRef { collection: COLLECTION.to_owned(), id: id.clone() });
        let options = v1::ExpandOptions {
            hops: HOPS as u32,
            direction: v1::Direction::Both.into(),
            ..Default::default()
        };
        let request =
            v1::ExpandRequest { seeds: seeds.collect(), options: Some(options), ..Default::default() };
        let mut service = client.graph();
        under_way.spawn(async move {
            let mut answer = service.expand(request).await.map_err(Failure::from_status)?.into_inner();
            while let Some(message) = answer.next().await {
                message.map_err(Failure::from_status)?;
            }
            anyhow::Ok(due.elapsed())
        });
    }
    while let Some(latency) = under_way.join_next().await {
        latencies.record(latency??);
    }
    Ok(latencies)
}

/// When each of so many requests is due. A thread tells that sleeps in between: the runtime's timers are a millisecond coarse, which would
/// count as the daemon's.
fn ticks(rate: u32, count: u64) -> mpsc::Receiver<Instant> {
    let (tell, ticks) = mpsc::channel(IN_FLIGHT);
    let begun = Instant::now();
    thread::spawn(move || {
        for nth in 0..count {
            let due = begun + Duration::from_secs_f64(nth as f64 / f64::from(rate.max(1)));
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if tell.blocking_send(due).is_err() {
                return;
            }
        }
    });
    ticks
}

fn report(rows: &[(&str, &Latencies)], output: Output) -> Result<()> {
    let quantiles = |row: &Latencies| [0.5, 0.99, 0.999].map(|share| row.quantile_us(share) / 1e3);
    if output.is_json() {
        let row = |(place, row): &(&str, &Latencies)| {
            let [p50, p99, p999] = quantiles(row);
            json!({ "expansions": place, "count": row.count(), "p50_ms": p50, "p99_ms": p99, "p99.9_ms": p999 })
        };
        return Ok(output.document(&json!(rows.iter().map(row).collect::<Vec<_>>()))?);
    }
    let mut shown = table(&["expansions", "count", "p50 ms", "p99 ms", "p99.9 ms"]);
    for (place, row) in rows {
        let [p50, p99, p999] = quantiles(row).map(|ms| format!("{ms:.3}"));
        shown.add_row([(*place).to_owned(), row.count().to_string(), p50, p99, p999]);
    }
    Ok(output.table(&shown)?)
}
