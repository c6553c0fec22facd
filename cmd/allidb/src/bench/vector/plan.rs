//! What is measured, and what processes tell each other.

use std::path::PathBuf;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::engines::EngineName;

/// What a measuring process is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    pub(super) engine: EngineName,
    pub(super) data: PathBuf,
    /// Where the store goes.
    pub(super) dir: PathBuf,
    pub(super) k: usize,
    pub(super) breadths: Vec<usize>,
    pub(super) threads: Vec<usize>,
    pub(super) build_threads: usize,
    pub(super) codes: CodesName,
    pub(super) rows: Option<usize>,
    pub(super) part: Part,
}

/// What of it all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Part {
    /// Queries of all kinds. The store stays as it was built.
    Queries,
    /// Queries while vectors are written.
    Writes,
    /// Recall after so many overwrites.
    Churn(u64),
}

/// How our index holds vectors.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ValueEnum)]
pub(super) enum CodesName {
    /// 4 bits a number for walks, 8 more for the re-ranking.
    #[value(name = "4+8")]
    Bits4And8,
    /// 8 bits a number.
    #[value(name = "8")]
    Bits8,
    /// 1 bit a number for walks, 8 more for the re-ranking.
    #[value(name = "1+8")]
    Bits1And8,
    /// None.
    #[value(name = "f32")]
    Float,
}

/// A line of what a measuring process prints.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Line {
    /// For people.
    Note(String),
    /// For the report.
    Measured(Measured),
}

/// One figure or point of a curve.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Measured {
    Built(Built),
    Point(Point),
    Filtered(Filtered),
    Target(Target),
    Writes(Writes),
    Churn(Churn),
}

/// What it took to have everything in the index.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Built {
    pub(super) engine: EngineName,
    pub(super) vectors: usize,
    pub(super) dimension: usize,
    /// Until the last vector could be found.
    pub(super) insert_seconds: f64,
    /// Until the index was complete.
    pub(super) seconds: f64,
    pub(super) cpu_seconds: f64,
    /// Anonymous memory that the engine took, and the most that it took while building.
    pub(super) memory_bytes: u64,
    pub(super) peak_bytes: u64,
    /// Bytes of files that are mapped into memory.
    pub(super) mapped_bytes: u64,
    pub(super) disk_bytes: u64,
}

/// Which way queries are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Way {
    /// Calls of the index alone.
    Index,
    /// Whole queries, with the rows of what they find, by calls in the process.
    Query,
    /// Whole queries over gRPC, one at a time on each connection.
    Grpc,
    /// The same in batches of 100.
    Batch,
}

impl Way {
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Index => "index",
            Self::Query => "query",
            Self::Grpc => "grpc",
            Self::Batch => "grpc batch",
        }
    }
}

/// A point of a curve.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Point {
    pub(super) engine: EngineName,
    pub(super) way: Way,
    pub(super) threads: usize,
    pub(super) breadth: usize,
    pub(super) recall: f64,
    /// Queries in a second.
    pub(super) rate: f64,
    /// Queries in a second of processor time, of all processes.
    pub(super) cpu_rate: f64,
}

/// Queries that ask for a recall.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Target {
    pub(super) target: f64,
    pub(super) recall: f64,
    pub(super) rate: f64,
}

/// Queries under filters that so much passes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Filtered {
    pub(super) name: String,
    pub(super) queries: usize,
    pub(super) recall: f64,
    pub(super) rate: f64,
    pub(super) slowest_ms: f64,
}

/// Searching and writing at the same time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Writes {
    pub(super) vectors_per_second: f64,
    pub(super) queries_per_second: f64,
    pub(super) p99_ms: f64,
}

/// Recall after many overwrites.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Churn {
    pub(super) overwrites: u64,
    pub(super) seconds: f64,
    pub(super) cpu_seconds: f64,
    /// At the end.
    pub(super) recall: Option<f64>,
    pub(super) fresh_recall: Option<f64>,
    pub(super) segments: usize,
}

impl Measured {
    /// In one line, while the rest is still measured.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Built(b) => format!(
                "{:<8} built in {:.1} s, {:.1} CPU s; {:.0} MiB of memory, {:.0} mapped",
                b.engine.title(),
                b.seconds,
                b.cpu_seconds,
                b.memory_bytes as f64 / f64::from(1 << 20),
                b.mapped_bytes as f64 / f64::from(1 << 20),
            ),
            Self::Point(p) => format!(
                "{:<8} {:<10} ×{} ef {:<4} recall {:.4}  {:>8.0}/s  {:>8.0}/CPU s",
                p.engine.title(),
                p.way.title(),
                p.threads,
                p.breadth,
                p.recall,
                p.rate,
                p.cpu_rate
            ),
            Self::Filtered(f) => format!(
                "filter {:<22} {} queries, recall {:.4}, {:.0}/s, slowest {:.1} ms",
                f.name, f.queries, f.recall, f.rate, f.slowest_ms
            ),
            Self::Target(t) => {
                format!("target recall {:.2}: recall {:.4}, {:.0}/s", t.target, t.recall, t.rate)
            }
            Self::Writes(w) => format!(
                "writes {:.0} vectors/s beside {:.0} queries/s, p99 {:.2} ms",
                w.vectors_per_second, w.queries_per_second, w.p99_ms
            ),
            Self::Churn(c) => {
                let recall =
                    |recall: Option<f64>| recall.map_or("–".to_owned(), |recall| format!("{recall:.4}"));
                format!(
                    "churn {} overwrites in {:.0} s ({:.0} CPU s): recall {}, fresh {}, {} segments",
                    c.overwrites,
                    c.seconds,
                    c.cpu_seconds,
                    recall(c.recall),
                    recall(c.fresh_recall),
                    c.segments
                )
            }
        }
    }
}
