//! What is shown of two looks: in lines for people, or as a document for programs.

use allidb_api::v1::{Node, Worker, shape::Phase};
use serde_json::{Value as Json, json};

use super::{
    gauges,
    look::Look,
    rates::{Between, MethodRate},
};
use crate::{cluster, maintenance::size, output::table, worker};

/// Methods that are shown: those called most.
const METHODS: usize = 12;
/// Figures in one line.
const COLUMNS: usize = 3;

/// What came of the second look, after the first.
pub(super) struct View<'a> {
    before: &'a Look,
    now: &'a Look,
}

impl<'a> View<'a> {
    pub(super) fn of(before: &'a Look, now: &'a Look) -> Self {
        Self { before, now }
    }

    /// What happened between the figures of both, if there are some; or why not.
    fn between(&self) -> Result<Between<'_>, &str> {
        let now = self.now.figures.as_ref().map_err(String::as_str)?;
        let seconds = (self.now.at - self.before.at).as_secs_f64();
        // What has come to an answer at once still counts by what was there before.
        Ok(Between {
            before: self.before.figures.as_ref().unwrap_or(now),
            now,
            seconds: seconds.max(f64::MIN_POSITIVE),
        })
    }

    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = vec![self.headline()];
        match self.between() {
            Ok(between) => {
                lines.push(String::new());
                lines.extend(figures(&between));
                lines.extend(methods(&between.methods()));
            }
            Err(why) => lines.push(format!("no figures: {why}")),
        }
        lines.extend(self.ring());
        lines.extend(workers(&self.now.workers));
        lines
    }

    fn headline(&self) -> String {
        let described = &self.now.cluster;
        let members = described.nodes.iter().filter(|node| node.is_member);
        let (all, up) = (members.clone().count(), members.filter(|node| node.is_alive).count());
        let own = described.nodes.iter().find(|node| node.id == described.node);
        let release = own.map(|node| node.release.as_str()).unwrap_or_default();
        let mut line = format!("node {} ({release}); {up} of {all} nodes are up", described.node);
        let shape = described.shape.clone().unwrap_or_default();
        if matches!(shape.phase(), Phase::Filling | Phase::HandingOver) {
            let done = shape.takeovers.iter().filter(|of| of.is_done).count();
            line.push_str(&format!("; a move is under way, {done} of {} are done", shape.takeovers.len()));
        }
        if let Some(healing) = &described.healing {
            line.push_str(&format!("; {} partitions heal from damage", healing.partitions));
        }
        line
    }

    fn ring(&self) -> Vec<String> {
        let described = &self.now.cluster;
        let mut shown =
            table(&["node", "address", "state", "partitions", "disk", "waiting", "clock", "kept for it"]);
        for node in &described.nodes {
            let asked = if node.id == described.node { "*" } else { "" };
            shown.add_row([
                format!("{}{asked}", node.id),
                node.address.clone(),
                cluster::state(node, described.catalogue_version).to_owned(),
                node.partitions.to_string(),
                node.load.map(|load| size(load.bytes)).unwrap_or_default(),
                node.load.map(|load| load.waiting.to_string()).unwrap_or_default(),
                node.clock.map(|clock| cluster::offset(&clock)).unwrap_or_default(),
                node.hints.map(|hints| size(hints.bytes)).unwrap_or_default(),
            ]);
        }
        drawn(&shown)
    }

    pub(super) fn document(&self) -> Json {
        let described = &self.now.cluster;
        let node = |node: &Node| {
            json!({
                "id": node.id, "address": node.address,
                "state": cluster::state(node, described.catalogue_version), "partitions": node.partitions,
                "disk_bytes": node.load.map(|load| load.bytes),
                "waiting": node.load.map(|load| load.waiting),
                "clock_ahead_ms": node.clock.map(|clock| clock.ahead_ms),
                "hint_bytes": node.hints.map(|hints| hints.bytes),
            })
        };
        let between = self.between();
        let figures = between.as_ref().ok().map(gauges::to_json);
        let methods = between.as_ref().ok().map(Between::methods).unwrap_or_default();
        json!({
            "node": described.node,
            "seconds": (self.now.at - self.before.at).as_secs_f64(),
            "figures": figures,
            "figures_error": between.err(),
            "methods": methods.iter().map(MethodRate::to_json).collect::<Vec<Json>>(),
            "nodes": described.nodes.iter().map(node).collect::<Vec<Json>>(),
            "healing_partitions": described.healing.as_ref().map_or(0, |healing| healing.partitions),
            "workers": self.now.workers.iter().map(worker::to_json).collect::<Vec<Json>>(),
        })
    }
}

fn drawn(table: &comfy_table::Table) -> Vec<String> {
    table.trim_fmt().lines().map(str::to_owned).collect()
}

/// Titles and amounts side by side.
fn figures(between: &Between<'_>) -> Vec<String> {
    let cells = gauges::to_cells(between);
    let line = |cells: &[[String; 2]]| {
        let cells = cells.iter().map(|[title, amount]| format!("{title:<16}{amount:>14}"));
        cells.collect::<Vec<_>>().join("    ")
    };
    cells.chunks(COLUMNS).map(line).collect()
}

fn methods(methods: &[MethodRate]) -> Vec<String> {
    if methods.is_empty() {
        return Vec::new();
    }
    let mut shown = table(&["method", "calls/s", "failed/s", "p50", "p99"]);
    let millis = |seconds: Option<f64>| seconds.map(|s| format!("{:.2} ms", s * 1e3)).unwrap_or_default();
    for of in &methods[..methods.len().min(METHODS)] {
        shown.add_row([
            of.method.clone(),
            format!("{:.1}", of.calls_per_second),
            format!("{:.1}", of.failures_per_second),
            millis(of.p50),
            millis(of.p99),
        ]);
    }
    drawn(&shown)
}

/// Those that are at something, rest, or have failed.
fn workers(workers: &[Worker]) -> Vec<String> {
    let is_shown = |worker: &&Worker| worker::activity(worker) != "idle" || !worker.last_error.is_empty();
    let busy: Vec<&Worker> = workers.iter().filter(is_shown).collect();
    if busy.is_empty() {
        return vec![format!("{} workers are idle", workers.len())];
    }
    let mut shown = table(&["worker", "activity", "rows", "of", "last error"]);
    for worker in busy {
        shown.add_row([
            worker.name.as_str(),
            worker::activity(worker),
            &worker.done.to_string(),
            &worker.total.to_string(),
            &worker.last_error,
        ]);
    }
    drawn(&shown)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use allidb_api::v1::{DescribeClusterResponse, Load, worker::Activity};

    use super::*;
    use crate::prometheus::Figures;

    fn look(at: Instant, figures: Result<&str, &str>) -> Look {
        let node = Node {
            id: "00ff".to_owned(),
            is_member: true,
            is_alive: true,
            agrees: true,
            load: Some(Load { bytes: 3 << 20, waiting: 2 }),
            ..Node::default()
        };
        let cluster =
            DescribeClusterResponse { node: node.id.clone(), nodes: vec![node], ..Default::default() };
        let worker = Worker {
            name: "vector-merge".to_owned(),
            activity: Activity::Working.into(),
            ..Default::default()
        };
        let figures = figures.map_err(str::to_owned).map(|text| Figures::parse(text).expect("figures"));
        Look { at, cluster, workers: vec![worker], figures }
    }

    #[test]
    fn a_node_is_shown() {
        let begun = Instant::now();
        let calls = "allidb_grpc_requests_total{service=\"allidb.v1.Search\",method=\"Query\",code=\"OK\"}";
        let before = look(begun, Ok(&format!("{calls} 100")));
        let now = look(begun + Duration::from_secs(2), Ok(&format!("{calls} 300\nallidb_vectors 12")));
        let view = View::of(&before, &now);
        let text = view.lines().join("\n");
        for expected in ["00ff*", "1 of 1 nodes are up", "Search.Query", "100.0", "3.00 MiB", "vector-merge"]
        {
            assert!(text.contains(expected), "{expected} is not in\n{text}");
        }
        let document = view.document();
        assert_eq!(document["figures"]["vectors"], 12.0);
        assert_eq!(document["methods"][0]["calls_per_second"], 100.0);
        assert_eq!(document["nodes"][0]["disk_bytes"], 3 << 20);
        assert_eq!(document["figures_error"], Json::Null);
    }

    #[test]
    fn a_node_without_figures_is_shown() {
        let look = look(Instant::now(), Err("it answers 403"));
        let view = View::of(&look, &look);
        assert!(view.lines().join("\n").contains("no figures: it answers 403"));
        let document = view.document();
        assert_eq!(
            (&document["figures"], &document["figures_error"]),
            (&Json::Null, &json!("it answers 403"))
        );
    }
}
