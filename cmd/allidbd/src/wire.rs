//! Options to the parts' own settings. The only place that knows both.

use std::{env::VarError, os::unix::fs::DirBuilderExt};

use allidb_api::{
    access::{Access, AdminKey, KeySetPlace, TokenTerms, Tokens},
    embedding::{Embedder, HttpProvider, Provider, ServiceKey},
    server::Settings,
};
use allidb_cluster::{
    Certificates, Coordinator, HintLimits, Incoming, MemberOptions, PeerTls, Protocol, PurgeTerms, Security,
    Shown, SnapshotPlace,
};
use allidb_index::model::Limits;
use anyhow::{Context, bail};
use tokio::{net::TcpListener, task::spawn_blocking};

use crate::{
    config::{ByteSize, Config, EmbeddingOptions, JwtOptions, LimitOptions, RingOptions},
    files,
};

/// Variables that hold secrets. They are no options, which `show` shows.
const ADMIN_KEY: &str = "ALLIDB_ADMIN_KEY";
const EMBEDDING_KEY: &str = "ALLIDB_EMBEDDING_KEY";

/// Pieces of work of other nodes that may wait for a thread.
const QUEUE: usize = 1_024;

/// Opens the store and everything above it. `ring` is where other nodes are listened to, if there are any; until they have founded the ring
/// together this waits. `tls` is what they are shown.
pub(crate) async fn open(
    config: &Config,
    ring: Option<TcpListener>,
    tls: Option<PeerTls>,
) -> anyhow::Result<Coordinator> {
    let dir = &config.data_dir;
    // What it holds is nobody else's on this machine.
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.with_context(|| format!("cannot make the data directory {}", dir.display()))?;
    let node = allidb_cluster::Config { snapshots: place(config)?, ..node(config) };
    let opened = match ring {
        None => {
            spawn_blocking(move || Coordinator::open(node)).await.context("opening the store broke off")?
        }
        Some(listener) => Coordinator::join(node, member(&config.ring, tls), listener).await,
    };
    opened.with_context(|| format!("cannot open the data directory {}", dir.display()))
}

/// Where snapshots are kept, if anywhere.
fn place(config: &Config) -> anyhow::Result<Option<SnapshotPlace>> {
    let credentials = config.snapshots.credentials_file.as_deref();
    let place = config.snapshots.location.as_deref();
    let place = place.map(|location| SnapshotPlace::open(location, credentials)).transpose();
    place.context("`snapshots.location` cannot be used")
}

/// The connections of the gRPC port and of the HTTP port, with certificates if there are any.
pub(crate) fn incoming(
    config: &Config,
    [grpc, http]: [TcpListener; 2],
    certificates: Option<Certificates>,
) -> anyhow::Result<[Incoming; 2]> {
    let most = files::connections(config.limits.connections);
    let Some(certificates) = certificates else {
        return Ok([Incoming::plain(grpc, most)?, Incoming::plain(http, most)?]);
    };
    let asks = config.listen.client_authority_file.is_some();
    let secure = |listener, shown, protocol| {
        let shown = if asks { shown } else { Shown::NoMatter };
        let certificates = certificates.clone();
        Incoming::secure(listener, most, Security { certificates, shown, name: None, protocol })
    };
    // Probes have none to show.
    Ok([secure(grpc, Shown::Must, Protocol::Http2)?, secure(http, Shown::MayBe, Protocol::Http1)?])
}

fn member(ring: &RingOptions, tls: Option<PeerTls>) -> MemberOptions {
    MemberOptions {
        ring: ring.name.clone(),
        address: ring.address(),
        founders: ring.founders.clone(),
        replication: ring.replication,
        zone: ring.zone.clone(),
        capacity: ring.capacity,
        tls,
        threads: ring.threads,
        queue: QUEUE,
        call_timeout: ring.call_timeout.0,
        hedge_after: ring.hedge_after.0,
        hints: HintLimits {
            bytes: ring.hint_bytes.0,
            age: ring.hint_age.0,
            bytes_per_second: ring.hint_bytes_per_second.0,
            outbox_bytes: ring.outbox_bytes.0,
        },
        repair_every: ring.repair_every.0,
        purge: PurgeTerms { every: ring.purge_every.0, behind: ring.purge_behind.0 },
        move_bytes_per_second: ring.move_bytes_per_second.0,
        copy_from_bytes: ring.copy_from_bytes.0,
    }
}

/// What the gRPC port is told. Reads the model that turns texts into vectors, if there is one.
pub(crate) fn settings(config: &Config) -> anyhow::Result<Settings> {
    Ok(Settings {
        embedder: embedder(&config.embedding)?,
        message_bytes: bytes(config.limits.message_bytes),
        answer_bytes: bytes(config.limits.answer_bytes),
        concurrent_requests: config.limits.concurrent_requests,
        request_bytes: bytes(config.limits.request_bytes),
        concurrent_streams: config.limits.concurrent_streams,
        batch_concurrency: config.threads.batch_queries,
        slow_query: config.log.slow_query.0,
        arrival: config.limits.deadline.0,
    })
}

/// Who is let in. The key that may do everything at this node is made if it is to be there.
pub(crate) fn access(config: &Config, coordinator: &Coordinator) -> anyhow::Result<Access> {
    let own = config.data_dir.join("admin-key");
    let admin_key = match (&config.access.admin_key_file, secret(ADMIN_KEY)?) {
        (Some(path), _) => Some(AdminKey::read(path).context("`access.admin_key_file` cannot be used")?),
        (None, Some(key)) => {
            Some(AdminKey::given(key).with_context(|| format!("{ADMIN_KEY} cannot be used"))?)
        }
        (None, None) if config.access.keys_required => Some(AdminKey::read_or_make(&own)?),
        (None, None) => None,
    };
    Ok(Access::new(coordinator.clone(), admin_key, tokens(&config.jwt)?, config.access.keys_required))
}

/// What a variable holds, if it is set.
fn secret(variable: &str) -> anyhow::Result<Option<String>> {
    match std::env::var(variable) {
        Ok(secret) => Ok(Some(secret.trim().to_owned()).filter(|secret| !secret.is_empty())),
        Err(VarError::NotPresent) => Ok(None),
        // Without what the error would show of it.
        Err(VarError::NotUnicode(_)) => bail!("{variable} is no text"),
    }
}

fn tokens(options: &JwtOptions) -> anyhow::Result<Option<Tokens>> {
    let Some((place, terms)) = token_terms(options) else { return Ok(None) };
    Tokens::new(place, terms).context("`jwt.jwks_file` cannot be used").map(Some)
}

/// Where keys of tokens are told, and what the tokens have to say.
fn token_terms(options: &JwtOptions) -> Option<(KeySetPlace, TokenTerms)> {
    let place = match (&options.jwks_file, &options.jwks_url) {
        (Some(path), _) => KeySetPlace::File(path.clone()),
        (None, Some(url)) => KeySetPlace::Url { url: url.clone(), every: options.refresh_every.0 },
        (None, None) => return None,
    };
    let terms = TokenTerms {
        issuer: options.issuer.clone()?,
        audience: options.audience.clone()?,
        tenant_claim: options.tenant_claim.clone(),
        role_claim: options.role_claim.clone(),
        collections_claim: options.collections_claim.clone(),
        leeway: options.leeway.0,
    };
    Some((place, terms))
}

fn embedder(options: &EmbeddingOptions) -> anyhow::Result<Option<Embedder>> {
    let key = match &options.key_file {
        Some(path) => {
            let key = std::fs::read_to_string(path);
            key.with_context(|| format!("cannot read `embedding.key_file` {}", path.display()))?;
            Some(ServiceKey::File(path.clone()))
        }
        None => secret(EMBEDDING_KEY)?.map(ServiceKey::Given),
    };
    let provider = match (&options.url, &options.folder) {
        (Some(url), _) => Provider::Http(HttpProvider {
            url: url.clone(),
            model: options.model.clone().unwrap_or_default(),
            key,
            batch: options.batch,
            retries: u32::try_from(options.retries).unwrap_or(u32::MAX),
            timeout: options.timeout.0,
        }),
        (None, Some(folder)) => Provider::Local(folder.clone()),
        (None, None) => return Ok(None),
    };
    Ok(Some(Embedder::new(provider, options.request_timeout.0)?))
}

fn node(config: &Config) -> allidb_cluster::Config {
    let automatic = allidb_cluster::Config::new(&config.data_dir);
    let or_automatic = |threads: usize, automatic: usize| if threads == 0 { automatic } else { threads };
    allidb_cluster::Config {
        storage: storage(config),
        keyspace: keyspace(config),
        vectors: allidb_index::VectorOptions {
            build_threads: or_automatic(config.vectors.build_threads, automatic.vectors.build_threads),
            connections: config.vectors.connections,
            build_breadth: config.vectors.build_breadth,
            search_breadth: config.vectors.search_breadth,
            memory_bytes: bytes(config.vectors.memory_bytes),
        },
        limits: limits(&config.limits),
        write_threads: config.threads.write,
        read_threads: or_automatic(config.threads.read, automatic.read_threads),
        queue: config.threads.queue,
        ..automatic
    }
}

pub(crate) fn storage(config: &Config) -> allidb_storage::Options {
    let storage = &config.storage;
    allidb_storage::Options {
        memtable_bytes: bytes(storage.memtable_bytes),
        frozen_memtables: storage.frozen_memtables,
        memory_bytes: bytes(storage.memory_bytes),
        wal_segment_bytes: storage.wal_segment_bytes.0,
        batch_bytes: bytes(storage.batch_bytes),
        table_bytes: storage.table_bytes.0,
        blob_file_bytes: storage.blob_file_bytes.0,
        blob_garbage_percent: storage.blob_garbage_percent,
        level0_files: storage.level0_files,
        level0_slowdown_files: storage.level0_slowdown_files,
        level0_stop_files: storage.level0_stop_files,
        level_base_bytes: storage.level_base_bytes.0,
        level_multiplier: storage.level_multiplier,
        compaction_threads: storage.compaction_threads,
        compaction_bytes_per_second: storage.compaction_bytes_per_second.0,
        min_free_bytes: storage.min_free_bytes.0,
        ..allidb_storage::Options::default()
    }
}

/// What all keyspaces have in common.
fn keyspace(config: &Config) -> allidb_storage::KeyspaceOptions {
    let storage = &config.storage;
    allidb_storage::KeyspaceOptions {
        block_bytes: bytes(storage.block_bytes),
        compression: storage.compression.iter().map(|compression| compression.0).collect(),
        filter_bits_per_key: storage.filter_bits_per_key,
        separation_bytes: bytes(storage.separation_bytes),
        ..allidb_storage::KeyspaceOptions::new("")
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
        query_text_bytes: bytes(limits.query_text_bytes),
        seeds: limits.seeds,
        seed_ids: limits.seed_ids,
        hops: limits.hops,
        path_hops: limits.path_hops,
        paths: limits.paths,
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

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

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

    #[test]
    fn every_option_of_tokens_reaches_its_part() {
        let plain = |options: &Json| {
            let options: JwtOptions = serde_json::from_value(options.clone()).expect("still options");
            format!("{:?}", token_terms(&options))
        };
        let options = json!({
            "jwks_url": "https://id.example/jwks", "refresh_every": "60s", "issuer": "id", "audience": "us",
            "tenant_claim": "t", "role_claim": "r", "collections_claim": "c", "leeway": "1s",
        });
        let mut seen = std::collections::HashSet::from([plain(&options)]);
        let every = serde_json::to_value(JwtOptions::default()).expect("plain data");
        for option in every.as_object().expect("a section").keys() {
            let mut changed = options.clone();
            changed[option] = match option.as_str() {
                "refresh_every" | "leeway" => "3333s".into(),
                _ => "another".into(),
            };
            assert!(seen.insert(plain(&changed)), "jwt.{option} changes nothing");
        }
        assert_eq!(plain(&every), "None");
    }

    /// Each option, set to something else, reaches the part it is meant for and changes nothing else.
    #[test]
    fn every_option_reaches_its_part() {
        let plain = |config: &Config| {
            format!(
                "{:?} {:?} {}",
                node(config),
                settings(config),
                files::connections(config.limits.connections)
            )
        };
        let default = Config::default();
        let defaults = serde_json::to_value(&default).expect("plain data");
        let mut seen = std::collections::HashSet::from([plain(&default)]);
        for section in ["storage", "vectors", "threads", "limits"] {
            for (option, value) in defaults[section].as_object().expect("a section") {
                let mut changed = defaults.clone();
                changed[section][option] = match (value.as_str(), option.as_str()) {
                    (Some(text), _) if text.ends_with('s') => "3333s".into(),
                    (_, "compression") => serde_json::json!(["none", "zstd:3"]),
                    (_, "blob_garbage_percent" | "filter_bits_per_key") => 33.into(),
                    _ => 3_333.into(),
                };
                let changed: Config = serde_json::from_value(changed).expect("still a configuration");
                assert!(seen.insert(plain(&changed)), "{section}.{option} changes nothing of its own");
            }
        }
    }
}
