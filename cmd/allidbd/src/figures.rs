//! The parts' figures as metrics: each with its help beside it.

mod nodes;

use std::{collections::BTreeSet, fmt::Write, path::Path};

use allidb_cluster::{
    Coordinator, GossipCounts, GraphCounts, HintCounts, OutboxCounts, RingCounts, TextCounts, VectorCounts,
};
use allidb_storage::{KeyspaceStats, Latency, Stats};
use metrics::{counter, describe_counter, describe_gauge, gauge};

use crate::{build, certificates::Own};

/// Sets the metrics of what lies beneath the services.
pub(crate) fn export(coordinator: &Coordinator) {
    let counts = coordinator.counts();
    build();
    flag("allidb_ready", "Whether requests are served", coordinator.is_ready());
    // What cannot be read is told as unfinished, too.
    flag(
        "allidb_restore_unfinished",
        "Whether a part of a snapshot may be missing, whose restoring was begun here and did not end",
        !matches!(coordinator.restoring(), Ok(None)),
    );
    vectors(&counts.vectors);
    texts(&counts.texts);
    graph(&counts.graph);
    describe_gauge!("allidb_queued_requests", "Requests that wait for a thread");
    gauge!("allidb_queued_requests", "kind" => "write").set(counts.writes_queued as f64);
    gauge!("allidb_queued_requests", "kind" => "read").set(counts.reads_queued as f64);
    memory(&counts.storage);
    disk(&counts.storage);
    writes(&counts.storage);
    background(&counts.storage);
    reads(&counts.storage);
    keyspaces(counts.storage.keyspaces);
    if let Some(counts) = coordinator.ring_counts() {
        ring(&counts, &coordinator.hints());
        membership(coordinator);
        let OutboxCounts { bytes, delivered } = coordinator.outbox();
        level(
            "allidb_ring_outbox_bytes",
            "Edges, and ends of edges, that wait until a quorum at each end has them",
            bytes,
        );
        total(
            "allidb_ring_outbox_delivered_total",
            "Edges, and ends of edges, that were delivered",
            delivered,
        );
    }
}

/// Sets until when the certificates are good that are shown.
pub(crate) fn certificates(own: &Own) {
    const NAME: &str = "allidb_certificate_expires_timestamp_seconds";
    for (port, end) in own.ends() {
        describe_gauge!(NAME, "When the certificate expires that is shown at a port, in seconds since 1970");
        gauge!(NAME, "port" => port).set(end as f64);
    }
}

/// Always 1: what it is about stands in its labels.
fn build() {
    describe_gauge!("allidb_build_info", "The release that runs, and the commit that it was built from");
    gauge!("allidb_build_info", "version" => build::VERSION, "commit" => build::COMMIT).set(1.0);
}

fn membership(coordinator: &Coordinator) {
    describe_gauge!(
        "allidb_ring_healing_partitions",
        "Partitions about which this node has no say until it has taken over what was damaged"
    );
    gauge!("allidb_ring_healing_partitions").set(f64::from(coordinator.healing().partitions));
    if let Some(age) = coordinator.purged_age() {
        describe_gauge!(
            "allidb_ring_purged_age_seconds",
            "How long ago that was up to which what was deleted is forgotten; if nothing ever was, how long the node has been open"
        );
        gauge!("allidb_ring_purged_age_seconds").set(age.as_secs_f64());
    }
    if let Some(GossipCounts { sent, lost, received }) = coordinator.gossip_counts() {
        describe_counter!("allidb_ring_gossip_messages_total", "Messages of gossip, by what became of them");
        for (outcome, count) in [("sent", sent), ("lost", lost), ("received", received)] {
            counter!("allidb_ring_gossip_messages_total", "outcome" => outcome).absolute(count);
        }
    }
}

fn ring(counts: &RingCounts, hints: &[HintCounts]) {
    let RingCounts {
        calls_answered,
        calls_failed,
        calls_withheld,
        calls_retried,
        calls_refused,
        catalogues_adopted,
        reads_hedged,
        reads_disputed,
        reads_repaired,
        writes_settled,
        writes_renewed,
        writes_decided,
        ballots_lost,
        writes_unacknowledged,
        questions_hedged,
        queries_repeated,
        queries_partial,
        entities_repaired,
        trees_wrong,
    } = *counts;
    describe_counter!("allidb_ring_calls_total", "Calls of other nodes, by what became of them");
    let calls = [("answered", calls_answered), ("failed", calls_failed), ("withheld", calls_withheld)];
    for (outcome, count) in calls {
        counter!("allidb_ring_calls_total", "outcome" => outcome).absolute(count);
    }
    total("allidb_ring_calls_retried_total", "Calls made again that failed on the way", calls_retried);
    total(
        "allidb_ring_calls_refused_total",
        "Calls of other nodes by another layout or catalogue, or a clock that is wrong",
        calls_refused,
    );
    total(
        "allidb_ring_catalogues_adopted_total",
        "Newer catalogues taken over from others",
        catalogues_adopted,
    );
    total("allidb_ring_reads_hedged_total", "Replicas asked beside others that let wait", reads_hedged);
    total("allidb_ring_reads_disputed_total", "Entities on which replicas differed", reads_disputed);
    total(
        "allidb_ring_entities_repaired_total",
        "Entities that were not the same at another node as they were compared, and are now",
        entities_repaired,
    );
    total(
        "allidb_ring_trees_wrong_total",
        "Merkle trees that were not what their rows come to, and were made anew",
        trees_wrong,
    );
    total("allidb_ring_reads_repaired_total", "Entities that replicas were told to merge", reads_repaired);
    total(
        "allidb_ring_writes_settled_total",
        "Writes about whose conditions replicas differed",
        writes_settled,
    );
    total(
        "allidb_ring_writes_renewed_total",
        "Writes made at another version, as something newer was there",
        writes_renewed,
    );
    total("allidb_ring_writes_decided_total", "Writes on conditions that were made", writes_decided);
    total(
        "allidb_ring_ballots_lost_total",
        "Ballots of writes on conditions that were begun again",
        ballots_lost,
    );
    total(
        "allidb_ring_writes_unacknowledged_total",
        "Writes that too few replicas acknowledged",
        writes_unacknowledged,
    );
    total(
        "allidb_ring_questions_hedged_total",
        "Nodes asked about much that they hold beside others that let wait",
        questions_hedged,
    );
    total(
        "allidb_ring_queries_repeated_total",
        "Queries asked again, as something else was told than is there",
        queries_repeated,
    );
    total("allidb_ring_queries_partial_total", "Answers that were about a part", queries_partial);
    describe_counter!("allidb_ring_hints_delivered_total", "Writes that were kept for a node, and delivered");
    describe_counter!(
        "allidb_ring_hints_dropped_total",
        "Writes for a node for which there was no room, or that were kept too long"
    );
    for HintCounts { node, dropped, delivered, .. } in hints {
        let node = node.to_string();
        counter!("allidb_ring_hints_delivered_total", "node" => node.clone()).absolute(*delivered);
        counter!("allidb_ring_hints_dropped_total", "node" => node).absolute(*dropped);
    }
}

fn texts(counts: &TextCounts) {
    level("allidb_texts", "Entities and chunks that are searched as text", counts.documents as u64);
    level("allidb_texts_segments", "Segments of texts", counts.segments as u64);
    level("allidb_texts_dead", "Replaced and deleted texts that are still held", counts.dead as u64);
    level("allidb_texts_memory_bytes", "Fresh texts held in memory", counts.memory_bytes as u64);
}

fn graph(counts: &GraphCounts) {
    level("allidb_graph_segments", "Segments of the graph", counts.segments as u64);
    level("allidb_graph_edges", "Edges in segments, also those that were replaced or deleted", counts.edges);
    level("allidb_graph_fresh", "Changes of nodes and edges that are in no segment yet", counts.fresh as u64);
    level("allidb_graph_mapped_bytes", "Segments of the graph mapped into memory", counts.mapped_bytes);
    level(
        "allidb_graph_memory_bytes",
        "Fresh edges, and what is known of every node, in memory",
        counts.memory_bytes as u64,
    );
}

fn vectors(counts: &VectorCounts) {
    level("allidb_vectors", "Vectors in all spaces", counts.vectors as u64);
    level(
        "allidb_vectors_in_graphs",
        "Vectors in segments under a graph; others are scanned",
        counts.in_graphs as u64,
    );
    level("allidb_vectors_segments", "Segment files of all spaces", counts.segments as u64);
    if let Some(recall) = counts.recall {
        describe_gauge!(
            "allidb_vectors_recall",
            "Measured share of the 10 nearest that walks of the default breadth find, of the worst space"
        );
        gauge!("allidb_vectors_recall").set(recall);
    }
    level("allidb_vectors_dead", "Replaced and deleted vectors that are still held", counts.dead as u64);
    level("allidb_vectors_memory_bytes", "Fresh vectors held in memory", counts.memory_bytes as u64);
    level(
        "allidb_vectors_mapped_bytes",
        "Segments mapped into memory: the kernel takes their pages back when it needs them",
        counts.mapped_bytes as u64,
    );
    level(
        "allidb_vectors_inserting",
        "Vectors so far inserted into graphs being built",
        counts.rows_inserting as u64,
    );
    level(
        "allidb_vectors_to_insert",
        "Vectors to be inserted into graphs being built",
        counts.rows_to_insert as u64,
    );
    describe_counter!(
        "allidb_vectors_written_total",
        "Vectors written to segments; a vector counts again with every merge"
    );
    counter!("allidb_vectors_written_total").absolute(counts.rows_written);
    describe_counter!(
        "allidb_vectors_inserted_total",
        "Vectors inserted into graphs; a merge inserts those of all but its largest segment"
    );
    counter!("allidb_vectors_inserted_total").absolute(counts.rows_inserted);
}

/// What the recorder cannot hold, in the text format of Prometheus: it takes single times, and these are counted already,
/// and whole numbers, and it forgets no node.
pub(crate) fn text(coordinator: &Coordinator) -> String {
    let storage = coordinator.counts().storage;
    let calls = coordinator.call_times().map(|calls| {
        histogram("allidb_ring_call_seconds", "How long other nodes took to answer calls", &calls)
    });
    calls.unwrap_or_default()
        + &nodes::text(coordinator)
        + &histogram(
            "allidb_storage_wal_fsync_seconds",
            "How long fsyncs of the write-ahead log took",
            &storage.wal_fsyncs,
        )
        + &seconds_total(
            "allidb_storage_slowdown_seconds_total",
            "How long writes were delayed",
            storage.slowdown_micros,
        )
        + &seconds_total(
            "allidb_storage_stall_seconds_total",
            "How long writes were stopped",
            storage.stall_micros,
        )
}

fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

fn seconds_total(name: &str, help: &str, micros: u64) -> String {
    format!("# HELP {name} {help}\n# TYPE {name} counter\n{name} {}\n\n", seconds(micros))
}

fn histogram(name: &str, help: &str, latency: &Latency) -> String {
    let mut text = format!("# HELP {name} {help}\n# TYPE {name} histogram\n");
    let mut count = 0;
    for (bound, in_bucket) in Latency::BOUNDS_MICROS.iter().zip(latency.counts()) {
        count += in_bucket;
        // Writing to a string cannot fail.
        writeln!(text, "{name}_bucket{{le=\"{}\"}} {count}", seconds(*bound)).ok();
    }
    let (sum, count) = (seconds(latency.sum_micros()), latency.count());
    writeln!(text, "{name}_bucket{{le=\"+Inf\"}} {count}\n{name}_sum {sum}\n{name}_count {count}\n").ok();
    text
}

fn level(name: &'static str, help: &'static str, value: u64) {
    describe_gauge!(name, help);
    gauge!(name).set(value as f64);
}

fn flag(name: &'static str, help: &'static str, holds: bool) {
    level(name, help, u64::from(holds));
}

fn total(name: &'static str, help: &'static str, value: u64) {
    describe_counter!(name, help);
    counter!(name).absolute(value);
}

fn memory(storage: &Stats) {
    level(
        "allidb_storage_memory_bytes",
        "Memory in use of the storage engine's budget",
        storage.memory_bytes,
    );
    level(
        "allidb_storage_memory_budget_bytes",
        "The budget of memory of the storage engine",
        storage.memory_budget_bytes,
    );
    let memtables = storage.memtable_bytes + storage.frozen_memtable_bytes;
    level("allidb_storage_memtable_bytes", "Memory of memtables, frozen ones among them", memtables);
    level(
        "allidb_storage_spare_memtable_bytes",
        "Memory that flushed memtables have left for those to come",
        storage.spare_memtable_bytes,
    );
    level(
        "allidb_storage_frozen_memtables",
        "Sets of memtables that wait for the flush",
        storage.frozen_memtables as u64,
    );
    level("allidb_storage_cache_bytes", "Memory of the cache", storage.cache_bytes);
    level(
        "allidb_storage_cache_capacity_bytes",
        "What the cache may take at the moment",
        storage.cache_capacity_bytes,
    );
    level(
        "allidb_storage_table_memory_bytes",
        "Memory of open tables outside of the cache",
        storage.table_memory_bytes,
    );
}

fn disk(storage: &Stats) {
    level("allidb_storage_wal_bytes", "Segments of the write-ahead log on disk", storage.wal_bytes);
    level("allidb_storage_blob_files", "Files of separated values", storage.blob_files as u64);
    level("allidb_storage_blob_bytes", "Files of separated values on disk", storage.blob_bytes);
    level(
        "allidb_storage_blob_garbage_bytes",
        "The part of the files of separated values that nothing refers to",
        storage.blob_garbage_bytes,
    );
    let damaged: BTreeSet<&Path> = storage.damages.iter().map(|damage| damage.path.as_path()).collect();
    level("allidb_storage_damaged_files", "Files in which damage was found", damaged.len() as u64);
    level(
        "allidb_storage_quarantined_tables",
        "Damaged tables that are left alone",
        storage.quarantined_tables as u64,
    );
    total("allidb_storage_scrub_read_bytes_total", "Bytes that scrubs have read", storage.scrub_bytes_read);
}

fn writes(storage: &Stats) {
    total("allidb_storage_batches_total", "Batches committed", storage.batches);
    total("allidb_storage_batch_bytes_total", "Bytes of batches committed", storage.batch_bytes);
    total(
        "allidb_storage_commit_groups_total",
        "Groups of batches written to the log together",
        storage.commit_groups,
    );
    total("allidb_storage_wal_fsyncs_total", "Fsyncs of the write-ahead log", storage.wal_fsyncs.count());
    total("allidb_storage_wal_written_bytes_total", "Bytes written to the log", storage.wal_bytes_written);
    total("allidb_storage_ingested_bytes_total", "Bytes of files ingested", storage.ingested_bytes);
    total(
        "allidb_storage_slowdowns_total",
        "Writes delayed as flush or compaction lagged",
        storage.slowdowns,
    );
    total(
        "allidb_storage_stalls_total",
        "Writes stopped until flush or compaction caught up",
        storage.stalls,
    );
    flag("allidb_storage_poisoned", "Whether no writes are accepted any more", storage.poisoned.is_some());
}

fn background(storage: &Stats) {
    describe_gauge!(
        "allidb_storage_write_amplification_ratio",
        "Bytes written to disk for each byte committed, since the start"
    );
    gauge!("allidb_storage_write_amplification_ratio").set(storage.write_amplification());
    level(
        "allidb_storage_compaction_debt_bytes",
        "What compaction still has to take to the next level",
        storage.compaction_debt_bytes,
    );
    level("allidb_storage_running_compactions", "Compactions under way", storage.running_compactions as u64);
    total("allidb_storage_flushes_total", "Flushes of memtables", storage.flushes);
    total("allidb_storage_compactions_total", "Compactions that wrote tables", storage.compactions);
    total("allidb_storage_trivial_moves_total", "Tables moved down without rewriting", storage.trivial_moves);
    total(
        "allidb_storage_dropped_tables_total",
        "Tables dropped unread after range deletes",
        storage.dropped_tables,
    );
    total("allidb_storage_flush_written_bytes_total", "Bytes of tables flushed", storage.flush_bytes_written);
    total(
        "allidb_storage_compaction_written_bytes_total",
        "Bytes of tables written by compactions",
        storage.compaction_bytes_written,
    );
    total(
        "allidb_storage_compaction_read_bytes_total",
        "Bytes of tables read by compactions",
        storage.compaction_bytes_read,
    );
    total(
        "allidb_storage_blob_written_bytes_total",
        "Bytes of separated values written by flushes and compactions",
        storage.blob_bytes_written,
    );
    total(
        "allidb_storage_background_errors_total",
        "Flushes and compactions that failed",
        storage.background_errors,
    );
}

fn reads(storage: &Stats) {
    total("allidb_storage_cache_hits_total", "Parts of files found in the cache", storage.cache_hits);
    total("allidb_storage_cache_misses_total", "Parts of files not found in the cache", storage.cache_misses);
    total("allidb_storage_filter_checks_total", "Filters asked for a key", storage.filter_checks);
    total("allidb_storage_filter_useful_total", "Filters that saved a look", storage.filter_useful);
    total("allidb_storage_read_bytes_total", "Bytes read from disk by gets and scans", storage.bytes_read);
}

/// Keyspaces are the engine's own names, a handful.
fn keyspaces(keyspaces: Vec<KeyspaceStats>) {
    describe_gauge!("allidb_storage_tables", "Tables");
    describe_gauge!("allidb_storage_table_bytes", "Tables on disk");
    describe_gauge!("allidb_storage_range_tombstones", "Deletes of ranges that compaction has yet to apply");
    for keyspace in keyspaces {
        let (mut tables, mut size) = (0, 0);
        for level in &keyspace.levels {
            tables += level.tables;
            size += level.bytes;
        }
        let name = keyspace.name;
        gauge!("allidb_storage_tables", "keyspace" => name.clone()).set(tables as f64);
        gauge!("allidb_storage_table_bytes", "keyspace" => name.clone()).set(size as f64);
        gauge!("allidb_storage_range_tombstones", "keyspace" => name).set(keyspace.range_tombstones as f64);
    }
}
