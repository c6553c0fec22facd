//! What is measured, and what a measuring process says about it.

use std::{collections::BTreeMap, path::PathBuf};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::engines::EngineName;

/// One workload, in the order in which they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Row {
    /// Durable writes, one thread.
    FillSyncX1,
    /// Durable writes, eight threads.
    FillSyncX8,
    /// All keys in random order, one thread, handed to the operating system.
    FillRandom,
    /// Opening the filled store, everything flushed.
    Reopen,
    /// Random gets with empty caches.
    GetCold,
    /// Random gets after every key was got once.
    GetWarm,
    /// Gets of keys that are not there.
    GetAbsent,
    /// 100 rows from a random key on.
    Scan100,
    /// A get or an overwrite, each as likely.
    Mixed,
    /// Random overwrites while compaction runs.
    Overwrite,
    /// Durable random overwrites, eight threads.
    OverwriteSyncX8,
    /// Opening the store after `kill -9`, with 32 MiB of writes in the log.
    ReopenLog,
}

impl Row {
    /// As it is called in reports.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::FillSyncX1 => "fill sync x1",
            Self::FillSyncX8 => "fill sync x8",
            Self::FillRandom => "fill random",
            Self::Reopen => "reopen",
            Self::GetCold => "get cold",
            Self::GetWarm => "get warm",
            Self::GetAbsent => "get absent",
            Self::Scan100 => "scan 100",
            Self::Mixed => "mixed 50/50",
            Self::Overwrite => "overwrite",
            Self::OverwriteSyncX8 => "overwrite sync x8",
            Self::ReopenLog => "reopen, log full",
        }
    }
}

/// One thing that is measured in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Metric {
    /// Operations, or rows of scans, per second.
    Rate,
    /// The same with the time until flush and compaction are idle.
    RateSettled,
    /// The time from the last write until flush and compaction are idle.
    Settle,
    /// Of opening the store.
    Time,
    P50,
    P99,
    P999,
    Max,
    /// Bytes handed to the operating system for each byte of keys and values, until idle.
    WriteAmplification,
    /// Bytes allocated on disk when idle.
    Disk,
    /// Bytes that came from the disk for each operation.
    DiskReads,
    /// Processor time of all threads for each operation, until idle where the row writes.
    Cpu,
    /// The largest resident memory of the process during the row.
    PeakMemory,
}

impl Metric {
    /// As it is called in documents, with its unit.
    pub(super) fn name_and_unit(self) -> (&'static str, &'static str) {
        match self {
            Self::Rate => ("rate", "1/s"),
            Self::RateSettled => ("rate_settled", "1/s"),
            Self::Settle => ("settle", "s"),
            Self::Time => ("time", "s"),
            Self::P50 => ("p50", "us"),
            Self::P99 => ("p99", "us"),
            Self::P999 => ("p99_9", "us"),
            Self::Max => ("max", "us"),
            Self::WriteAmplification => ("write_amplification", "bytes/byte"),
            Self::Disk => ("disk", "bytes"),
            Self::DiskReads => ("disk_reads", "bytes/operation"),
            Self::Cpu => ("cpu", "us/operation"),
            Self::PeakMemory => ("peak_memory", "bytes"),
        }
    }
}

/// What was measured in one row.
pub(super) type Metrics = BTreeMap<Metric, f64>;

/// The work of one process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    pub(super) engine: EngineName,
    pub(super) phase: Phase,
    pub(super) rows: Vec<Row>,
    /// Keys in the store.
    pub(super) entries: u64,
    /// Durable writes of each row of them.
    pub(super) sync_entries: u64,
    pub(super) value_bytes: usize,
    pub(super) cache_bytes: usize,
    /// Of random choices; another in each round.
    pub(super) seed: u64,
    /// A directory for this process and the next phase alone.
    pub(super) dir: PathBuf,
}

/// Which part of the rows a process measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Phase {
    /// Everything but the opening after a kill; ends in that kill if it is measured.
    Workloads,
    /// The opening after the kill.
    Recovery,
}

impl Plan {
    pub(super) fn has(&self, row: Row) -> bool {
        self.rows.contains(&row)
    }

    /// Writes that are in the log when the process is killed.
    pub(super) fn log_entries(&self) -> u64 {
        (32 << 20) / (self.value_bytes + super::data::KEY_BYTES) as u64
    }
}

/// A line of a measuring process' output.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Line {
    /// A row begins.
    Started(Row),
    /// A row is done.
    Measured(Row, Metrics),
    /// The process is about to kill itself, as planned.
    Killing,
}
