//! Options to the parts' own settings, and the parts' figures to metrics. The only place that knows both.

use std::{collections::BTreeSet, path::Path};

use allidb_api::server::Settings;
use allidb_cluster::Coordinator;
use allidb_index::model::Limits;
use anyhow::Context;
use metrics::{counter, gauge};

use crate::config::{ByteSize, Config, LimitOptions};

/// Opens the store and everything above it. Blocks while it recovers.
pub(crate) fn open(config: &Config) -> anyhow::Result<Coordinator> {
    let dir = &config.data_dir;
    std::fs::create_dir_all(dir)
        .with_context(|| format!("cannot make the data directory {}", dir.display()))?;
    Coordinator::open(node(config))
        .with_context(|| format!("cannot open the data directory {}", dir.display()))
}

/// What the gRPC port is told.
pub(crate) fn settings(config: &Config) -> Settings {
    Settings {
        message_bytes: bytes(config.limits.message_bytes),
        answer_bytes: bytes(config.limits.answer_bytes),
        concurrent_requests: config.limits.concurrent_requests,
        concurrent_streams: config.limits.concurrent_streams,
        batch_concurrency: config.threads.batch_queries,
    }
}

fn node(config: &Config) -> allidb_cluster::Config {
    let automatic = allidb_cluster::Config::new(&config.data_dir);
    let or_automatic = |threads: usize, automatic: usize| if threads == 0 { automatic } else { threads };
    allidb_cluster::Config {
        storage: storage(config),
        vectors: allidb_index::VectorOptions {
            build_threads: or_automatic(config.vectors.build_threads, automatic.vectors.build_threads),
            connections: config.vectors.connections,
            build_breadth: config.vectors.build_breadth,
            search_breadth: config.vectors.search_breadth,
        },
        limits: limits(&config.limits),
        write_threads: config.threads.write,
        read_threads: or_automatic(config.threads.read, automatic.read_threads),
        queue: config.threads.queue,
        ..automatic
    }
}

fn storage(config: &Config) -> allidb_storage::Options {
    let storage = &config.storage;
    allidb_storage::Options {
        memtable_bytes: bytes(storage.memtable_bytes),
        frozen_memtables: storage.frozen_memtables,
        block_cache_bytes: bytes(storage.block_cache_bytes),
        wal_segment_bytes: storage.wal_segment_bytes.0,
        batch_bytes: bytes(storage.batch_bytes),
        table_bytes: storage.table_bytes.0,
        level0_files: storage.level0_files,
        level0_slowdown_files: storage.level0_slowdown_files,
        level0_stop_files: storage.level0_stop_files,
        level_base_bytes: storage.level_base_bytes.0,
        level_multiplier: storage.level_multiplier,
        min_free_bytes: storage.min_free_bytes.0,
        ..allidb_storage::Options::default()
    }
}

/// Written out in full, so that a new limit does not go without its option.
fn limits(limits: &LimitOptions) -> Limits {
    Limits {
        batch_items: limits.batch_items,
        batch_queries: limits.batch_queries,
        attributes: limits.attributes,
        entity_bytes: bytes(limits.entity_bytes),
        answer_bytes: bytes(limits.answer_bytes),
        chunks: limits.chunks,
        vectors: limits.vectors,
        sources: limits.sources,
        value_depth: limits.value_depth,
        filter_depth: limits.filter_depth,
        filter_conditions: limits.filter_conditions,
        page_size: limits.page_size,
        k: limits.k,
        ef: limits.ef,
        seeds: limits.seeds,
        seed_ids: limits.seed_ids,
        hops: limits.hops,
        fan_out: limits.fan_out,
        nodes: limits.nodes,
        edges: limits.edges,
        candidates: limits.candidates,
        deadline: limits.deadline.0,
    }
}

/// On a machine whose addresses are shorter, more than all of them is all of them.
fn bytes(size: ByteSize) -> usize {
    usize::try_from(size.0).unwrap_or(usize::MAX)
}

/// Sets the metrics of what lies beneath the services.
pub(crate) fn export(coordinator: &Coordinator) {
    let counts = coordinator.counts();
    let storage = counts.storage;
    gauge!("allidb_ready").set(f64::from(u8::from(coordinator.is_ready())));
    gauge!("allidb_vectors").set(counts.vectors as f64);
    gauge!("allidb_vectors_in_graphs").set(counts.vectors_in_graphs as f64);
    gauge!("allidb_vectors_dead").set(counts.vectors_dead as f64);
    gauge!("allidb_queued_requests", "kind" => "write").set(counts.writes_queued as f64);
    gauge!("allidb_queued_requests", "kind" => "read").set(counts.reads_queued as f64);
    gauge!("allidb_storage_memtable_bytes")
        .set((storage.memtable_bytes + storage.frozen_memtable_bytes) as f64);
    gauge!("allidb_storage_frozen_memtables").set(storage.frozen_memtables as f64);
    gauge!("allidb_storage_wal_bytes").set(storage.wal_bytes as f64);
    gauge!("allidb_storage_cache_bytes").set(storage.cache_bytes as f64);
    gauge!("allidb_storage_table_memory_bytes").set(storage.table_memory_bytes as f64);
    counter!("allidb_storage_cache_hits_total").absolute(storage.cache_hits);
    counter!("allidb_storage_cache_misses_total").absolute(storage.cache_misses);
    counter!("allidb_storage_batches_total").absolute(storage.batches);
    counter!("allidb_storage_commit_groups_total").absolute(storage.commit_groups);
    counter!("allidb_storage_wal_fsyncs_total").absolute(storage.wal_fsyncs);
    counter!("allidb_storage_wal_written_bytes_total").absolute(storage.wal_bytes_written);
    counter!("allidb_storage_flushes_total").absolute(storage.flushes);
    counter!("allidb_storage_compactions_total").absolute(storage.compactions);
    counter!("allidb_storage_flush_written_bytes_total").absolute(storage.flush_bytes_written);
    counter!("allidb_storage_compaction_written_bytes_total").absolute(storage.compaction_bytes_written);
    counter!("allidb_storage_read_bytes_total").absolute(storage.bytes_read);
    counter!("allidb_storage_slowdowns_total").absolute(storage.slowdowns);
    counter!("allidb_storage_stalls_total").absolute(storage.stalls);
    counter!("allidb_storage_background_errors_total").absolute(storage.background_errors);
    counter!("allidb_storage_scrub_read_bytes_total").absolute(storage.scrub_bytes_read);
    let damaged: BTreeSet<&Path> = storage.damages.iter().map(|damage| damage.path.as_path()).collect();
    gauge!("allidb_storage_damaged_files").set(damaged.len() as f64);
    gauge!("allidb_storage_quarantined_tables").set(storage.quarantined_tables as f64);
    // Keyspaces are the engine's own names, a handful.
    for keyspace in storage.keyspaces {
        let (mut tables, mut size) = (0, 0);
        for level in &keyspace.levels {
            tables += level.tables;
            size += level.bytes;
        }
        gauge!("allidb_storage_tables", "keyspace" => keyspace.name.clone()).set(tables as f64);
        gauge!("allidb_storage_table_bytes", "keyspace" => keyspace.name).set(size as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_the_parts_own() {
        let config = Config::default();
        assert_eq!(limits(&config.limits), Limits::default());
        let (ours, theirs) = (storage(&config), allidb_storage::Options::default());
        assert_eq!(format!("{ours:?}"), format!("{theirs:?}"));
        let (ours, theirs) = (node(&config), allidb_cluster::Config::new(&config.data_dir));
        assert_eq!(format!("{ours:?}"), format!("{theirs:?}"));
    }

    /// Each option, set to something else, reaches the part it is meant for and changes nothing else.
    #[test]
    fn every_option_reaches_its_part() {
        let plain = |config: &Config| format!("{:?} {:?}", node(config), settings(config));
        let default = Config::default();
        let defaults = serde_json::to_value(&default).expect("plain data");
        let mut seen = std::collections::HashSet::from([plain(&default)]);
        for section in ["storage", "vectors", "threads", "limits"] {
            for (option, value) in defaults[section].as_object().expect("a section") {
                let mut changed = defaults.clone();
                changed[section][option] = match value.as_str() {
                    Some(text) if text.ends_with('s') => "3333s".into(),
                    _ => 3_333.into(),
                };
                let changed: Config = serde_json::from_value(changed).expect("still a configuration");
                assert!(seen.insert(plain(&changed)), "{section}.{option} changes nothing of its own");
            }
        }
    }
}
