//! Counting who is so many hops away: the replica beside plain arrays of neighbours, as fast as a walk can be in memory, and petgraph.

use std::{path::Path, time::Instant};

use allidb_index::{
    Deadline,
    graph::HopsRequest,
    model::{CollectionSet, Direction, Edge},
};
use anyhow::{Result, ensure};
use serde_json::json;
use std::time::Duration;

use super::{
    power_law::{self, SplitMix},
    store::{Store, TENANT, entity},
};
use crate::{
    bench::{latency::Latencies, process},
    output::{Output, table},
};

const HOPS: [usize; 3] = [1, 2, 3];
const SEED: u64 = 42;
const RELATION: &str = "link";

/// Plain arrays: where each node's neighbours begin, and all of them.
struct Rows {
    starts: Vec<u32>,
    targets: Vec<u32>,
    /// The last count that came to a node.
    seen: Vec<u32>,
    count: u32,
}

impl Rows {
    fn of(nodes: u32, edges: u64) -> Self {
        let mut starts = vec![0_u32; nodes as usize + 1];
        power_law::edges(nodes, edges, SEED).for_each(|(from, _)| starts[from as usize + 1] += 1);
        for at in 1..starts.len() {
            starts[at] += starts[at - 1];
        }
        let mut next = starts.clone();
        let mut targets = vec![0; edges as usize];
        for (from, to) in power_law::edges(nodes, edges, SEED) {
            targets[next[from as usize] as usize] = to;
            next[from as usize] += 1;
        }
        Self { starts, targets, seen: vec![0; nodes as usize], count: 0 }
    }

    fn count_hops(&mut self, source: u32, hops: usize) -> Vec<u64> {
        self.count += 1;
        self.seen[source as usize] = self.count;
        let mut frontier = vec![source];
        let mut counts = Vec::new();
        for _ in 0..hops {
            let mut next = Vec::new();
            for from in frontier {
                let range = self.starts[from as usize] as usize..self.starts[from as usize + 1] as usize;
                for target in &self.targets[range] {
                    if std::mem::replace(&mut self.seen[*target as usize], self.count) != self.count {
                        next.push(*target);
                    }
                }
            }
            counts.push(next.len() as u64);
            frontier = next;
        }
        counts
    }
}

/// The same walk with what petgraph has for it: compressed rows, and a map of who was visited.
#[cfg(feature = "peers")]
struct Petgraph(petgraph::csr::Csr<(), ()>);

#[cfg(feature = "peers")]
impl Petgraph {
    fn of(nodes: u32, edges: u64) -> Result<Self> {
        let mut sorted: Vec<(u32, u32)> = power_law::edges(nodes, edges, SEED).collect();
        sorted.sort_unstable();
        sorted.dedup();
        let graph = petgraph::csr::Csr::from_sorted_edges(&sorted);
        let mut graph = graph.map_err(|_| anyhow::anyhow!("the edges are not sorted"))?;
        while graph.node_count() < nodes as usize {
            graph.add_node(());
        }
        Ok(Self(graph))
    }

    fn count_hops(&self, source: u32, hops: usize) -> Vec<u64> {
        use petgraph::visit::{VisitMap, Visitable};
        let mut seen = self.0.visit_map();
        seen.visit(source);
        let mut frontier = vec![source];
        let mut counts = Vec::new();
        for _ in 0..hops {
            let targets = frontier.iter().flat_map(|from| self.0.neighbors_slice(*from));
            frontier = targets.filter(|target| seen.visit(**target)).copied().collect();
            counts.push(frontier.len() as u64);
        }
        counts
    }
}

/// What one engine took for one number of hops.
struct Row {
    engine: &'static str,
    hops: usize,
    latencies: Latencies,
    seconds: f64,
    reached: u64,
}

/// Generates the graph, writes it, and counts.
pub(super) fn run(dir: &Path, nodes: u32, edges: u64, sources: u32, output: Output) -> Result<()> {
    let mut store = Store::create(dir)?;
    let (begun, cpu) = (Instant::now(), process::cpu_seconds());
    for node in 0..nodes {
        store.put(node.to_string())?;
    }
    for (from, to) in power_law::edges(nodes, edges, SEED) {
        store.link(Edge::new(entity(from.to_string()), RELATION, entity(to.to_string())))?;
    }
    let written = begun.elapsed().as_secs_f64();
    store.settle()?;
    let counts = store.replica.graph_counts();
    eprintln!(
        "{nodes} nodes and {edges} edges: written in {written:.0} s, {:.0} s of processors with merges; {} segments, {} MiB \
         mapped, {} MiB in memory",
        process::cpu_seconds() - cpu,
        counts.segments,
        counts.mapped_bytes >> 20,
        counts.memory_bytes >> 20,
    );
    let mut rows = Rows::of(nodes, edges);
    #[cfg(feature = "peers")]
    let petgraph = Petgraph::of(nodes, edges)?;
    let mut measured = Vec::new();
    // Blocks of the store, where ids are looked up, are cold at first: the first round is not told.
    for (round, hops) in [HOPS[2]].into_iter().chain(HOPS).enumerate() {
        let (mut ours, mut plain) = (Row::new("allidb", hops)?, Row::new("plain arrays", hops)?);
        #[cfg(feature = "peers")]
        let mut peer = Row::new("petgraph", hops)?;
        let mut random = SplitMix(7);
        for _ in 0..sources {
            let source = random.below(nodes);
            let request = HopsRequest {
                seeds: vec![entity(source.to_string())],
                relations: Vec::new(),
                direction: Direction::Out,
                hops,
                min_weight: 0.0,
                as_of: None,
                collections: CollectionSet::ALL,
            };
            let deadline = Deadline::after(Duration::from_secs(60));
            let found = ours.time(|| Ok(store.replica.count_hops(TENANT, &request, deadline)?.counts))?;
            let expected = plain.time(|| Ok(rows.count_hops(source, hops)))?;
            ensure!(found == expected, "from {source}: {found:?} rather than {expected:?}");
            #[cfg(feature = "peers")]
            ensure!(
                found == peer.time(|| Ok(petgraph.count_hops(source, hops)))?,
                "petgraph counts otherwise"
            );
        }
        if round > 0 {
            measured.extend([ours, plain]);
            #[cfg(feature = "peers")]
            measured.push(peer);
        }
    }
    store.replica.close()?;
    report(&measured, output)
}

impl Row {
    fn new(engine: &'static str, hops: usize) -> Result<Self> {
        Ok(Self { engine, hops, latencies: Latencies::new()?, seconds: 0.0, reached: 0 })
    }

    fn time(&mut self, count: impl FnOnce() -> Result<Vec<u64>>) -> Result<Vec<u64>> {
        let asked = Instant::now();
        let counts = count()?;
        let took = asked.elapsed();
        self.latencies.record(took);
        self.seconds += took.as_secs_f64();
        self.reached += counts.iter().sum::<u64>();
        Ok(counts)
    }
}

fn report(rows: &[Row], output: Output) -> Result<()> {
    let count = |row: &Row| row.latencies.count().max(1) as f64;
    let milliseconds = |row: &Row| {
        let quantile = |share| row.latencies.quantile_us(share) / 1e3;
        [1e3 * row.seconds / count(row), quantile(0.5), quantile(0.99)]
    };
    if output.is_json() {
        let row = |row: &Row| {
            let [mean, p50, p99] = milliseconds(row);
            let reached = row.reached as f64 / count(row);
            json!({
                "engine": row.engine, "hops": row.hops, "reached": reached, "mean_ms": mean, "p50_ms": p50, "p99_ms": p99,
            })
        };
        return Ok(output.document(&json!(rows.iter().map(row).collect::<Vec<_>>()))?);
    }
    let mut shown = table(&["engine", "hops", "reached", "mean ms", "p50 ms", "p99 ms"]);
    for row in rows {
        let [mean, p50, p99] = milliseconds(row).map(|ms| format!("{ms:.3}"));
        let reached = format!("{:.0}", row.reached as f64 / count(row));
        shown.add_row([row.engine.to_owned(), row.hops.to_string(), reached, mean, p50, p99]);
    }
    Ok(output.table(&shown)?)
}
