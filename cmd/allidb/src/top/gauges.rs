//! The figures of a node that are shown, each with its name, its unit, and how it is read.

use serde_json::{Map, Value as Json};

use super::rates::Between;
use crate::maintenance::size;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Count,
    PerSecond,
    Bytes,
    BytesPerSecond,
    Percent,
}

/// A figure as people and as programs call it.
struct Gauge {
    title: &'static str,
    name: &'static str,
    unit: Unit,
    read: fn(&Between<'_>) -> Option<f64>,
}

const fn gauge(
    title: &'static str,
    name: &'static str,
    unit: Unit,
    read: fn(&Between<'_>) -> Option<f64>,
) -> Gauge {
    Gauge { title, name, unit, read }
}

/// In the order in which they are shown, three in a line.
const GAUGES: &[Gauge] = &[
    gauge("calls", "calls_per_second", Unit::PerSecond, |at| at.rate("allidb_grpc_requests_total")),
    gauge("failed", "failures_per_second", Unit::PerSecond, |at| at.failures()),
    gauge("under way", "calls_under_way", Unit::Count, |at| at.now.sum("allidb_grpc_requests_in_flight")),
    gauge("batches", "batches_per_second", Unit::PerSecond, |at| at.rate("allidb_storage_batches_total")),
    gauge("written", "written_bytes_per_second", Unit::BytesPerSecond, |at| {
        at.rate("allidb_storage_batch_bytes_total")
    }),
    gauge("queued", "queued", Unit::Count, |at| at.now.sum("allidb_queued_requests")),
    gauge("read from disk", "read_bytes_per_second", Unit::BytesPerSecond, |at| {
        at.rate("allidb_storage_read_bytes_total")
    }),
    gauge("cache hits", "cache_hit_percent", Unit::Percent, |at| {
        at.percent("allidb_storage_cache_hits_total", "allidb_storage_cache_misses_total")
    }),
    gauge("cache", "cache_bytes", Unit::Bytes, |at| at.now.sum("allidb_storage_cache_bytes")),
    gauge("memory", "memory_bytes", Unit::Bytes, |at| at.now.sum("allidb_storage_memory_bytes")),
    gauge("of at most", "memory_budget_bytes", Unit::Bytes, |at| {
        at.now.sum("allidb_storage_memory_budget_bytes")
    }),
    gauge("memtables", "memtable_bytes", Unit::Bytes, |at| at.now.sum("allidb_storage_memtable_bytes")),
    gauge("flushes waiting", "flushes_waiting", Unit::Count, |at| {
        at.now.sum("allidb_storage_frozen_memtables")
    }),
    gauge("compaction debt", "compaction_debt_bytes", Unit::Bytes, |at| {
        at.now.sum("allidb_storage_compaction_debt_bytes")
    }),
    gauge("compactions", "compactions", Unit::Count, |at| at.now.sum("allidb_storage_running_compactions")),
    gauge("tables", "table_bytes", Unit::Bytes, |at| at.now.sum("allidb_storage_table_bytes")),
    gauge("large values", "blob_bytes", Unit::Bytes, |at| at.now.sum("allidb_storage_blob_bytes")),
    gauge("log", "log_bytes", Unit::Bytes, |at| at.now.sum("allidb_storage_wal_bytes")),
    gauge("vectors", "vectors", Unit::Count, |at| at.now.sum("allidb_vectors")),
    gauge("in graphs", "vectors_in_graphs", Unit::Count, |at| at.now.sum("allidb_vectors_in_graphs")),
    gauge("fresh vectors", "vector_memory_bytes", Unit::Bytes, |at| {
        at.now.sum("allidb_vectors_memory_bytes")
    }),
    gauge("edges", "edges", Unit::Count, |at| at.now.sum("allidb_graph_edges")),
    gauge("fresh edges", "fresh_edges", Unit::Count, |at| at.now.sum("allidb_graph_fresh")),
    gauge("damaged files", "damaged_files", Unit::Count, |at| at.now.sum("allidb_storage_damaged_files")),
];

/// Titles and amounts, as people read them.
pub(super) fn to_cells(at: &Between<'_>) -> Vec<[String; 2]> {
    let cells = |gauge: &Gauge| {
        let amount = (gauge.read)(at).map_or_else(|| "-".to_owned(), |value| written(value, gauge.unit));
        [gauge.title.to_owned(), amount]
    };
    GAUGES.iter().map(cells).collect()
}

/// An object with all of them; null for those that cannot be told.
pub(super) fn to_json(at: &Between<'_>) -> Map<String, Json> {
    GAUGES.iter().map(|gauge| (gauge.name.to_owned(), Json::from((gauge.read)(at)))).collect()
}

fn written(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Count => format!("{value:.0}"),
        Unit::PerSecond => format!("{value:.1}/s"),
        Unit::Bytes => size(value as u64),
        Unit::BytesPerSecond => format!("{}/s", size(value as u64)),
        Unit::Percent => format!("{value:.1} %"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::prometheus::Figures;

    #[test]
    fn every_figure_has_a_name_and_a_title_of_its_own() {
        let names: HashSet<_> = GAUGES.iter().map(|gauge| gauge.name).collect();
        let titles: HashSet<_> = GAUGES.iter().map(|gauge| gauge.title).collect();
        assert_eq!((names.len(), titles.len()), (GAUGES.len(), GAUGES.len()));
    }

    #[test]
    fn figures_are_written_with_their_units() {
        let before = Figures::parse("allidb_storage_batch_bytes_total 0").expect("figures");
        let now = "allidb_storage_batch_bytes_total 4096\nallidb_vectors 7\nallidb_storage_wal_bytes 2048";
        let now = Figures::parse(now).expect("figures");
        let at = Between { before: &before, now: &now, seconds: 2.0 };
        let cells = to_cells(&at);
        let amount = |title: &str| {
            cells.iter().find(|[other, _]| other == title).map(|[_, amount]| amount.clone()).expect("a title")
        };
        assert_eq!(amount("vectors"), "7");
        assert_eq!(amount("log"), "2.00 KiB");
        assert_eq!(amount("written"), "2.00 KiB/s");
        assert_eq!(amount("cache hits"), "-");
        let document = to_json(&at);
        assert_eq!(document["written_bytes_per_second"], 2048.0);
        assert_eq!(document["cache_hit_percent"], Json::Null);
    }
}
