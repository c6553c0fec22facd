//! The options, section by section: each with its name, type, default and description.

use std::{net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::{ByteSize, Compression, Span};

/// Declares a section: the struct, its defaults, and what the reference says of each option.
macro_rules! section {
    (
        $(#[doc = $about:literal])*
        $name:ident {
            $( $(#[doc = $doc:literal])* $option:ident: $type:ty = $default:expr; )*
        }
    ) => {
        $(#[doc = $about])*
        #[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name {
            $( $(#[doc = $doc])* pub $option: $type, )*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $( $option: $default, )* }
            }
        }

        impl $name {
            pub(super) const ABOUT: &[&str] = &[$($about),*];
            pub(super) const OPTIONS: &[(&str, &[&str])] = &[$( (stringify!($option), &[$($doc),*]), )*];
        }
    };
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Pretty,
    /// One JSON object a line.
    Json,
}

section! {
    /// All options of the daemon.
    Config {
        /// The directory that holds everything. Made if it is not there.
        data_dir: PathBuf = PathBuf::from("allidb-data");
        /// Where the daemon listens.
        listen: Listen = Listen::default();
        /// Who is let in.
        access: Access = Access::default();
        /// Letting in whoever shows a token (JWT) of an identity provider.
        jwt: JwtOptions = JwtOptions::default();
        /// The other nodes of the ring, if there are any.
        ring: RingOptions = RingOptions::default();
        /// Where snapshots of the ring are kept.
        snapshots: SnapshotOptions = SnapshotOptions::default();
        /// The storage engine.
        storage: StorageOptions = StorageOptions::default();
        /// The vector indexes.
        vectors: VectorOptions = VectorOptions::default();
        /// Threads and the queues before them.
        threads: Threads = Threads::default();
        /// What one request may hold or ask for.
        limits: LimitOptions = LimitOptions::default();
        /// Turning texts in place of vectors into vectors.
        embedding: EmbeddingOptions = EmbeddingOptions::default();
        /// The log, on standard error.
        log: Log = Log::default();
        /// Traces, told to a collector.
        tracing: Tracing = Tracing::default();
        /// Going down.
        shutdown: Shutdown = Shutdown::default();
    }
}

section! {
    /// Where the daemon listens. Without certificates, and keys or certificates of clients, only loopback addresses are taken.
    Listen {
        /// Where gRPC is served; port 0 takes any free one.
        grpc: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 7000));
        /// Where /metrics, /livez, /readyz and /startupz are served, and the same services as over gRPC as JSON (/v1/…, see
        /// /openapi.json) and as gRPC-web; port 0 takes any free one.
        http: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 7001));
        /// A file that tells both addresses, as JSON, once they are served.
        port_file: Option<PathBuf> = None;
        /// A PEM file with the certificate that is shown at both ports, and those that lead to its authority's: what is said there is
        /// encrypted then. Read again when it changes, as the others are.
        certificate_file: Option<PathBuf> = None;
        /// A PEM file with its key.
        key_file: Option<PathBuf> = None;
        /// A PEM file with the certificate of the authority that has signed those of clients. Whoever has none of them is not served
        /// then, but for the probes.
        client_authority_file: Option<PathBuf> = None;
        /// The sites (https://example.org) whose pages may ask, as browsers say. Requests of other pages are refused. Where neither keys nor
        /// certificates of clients are asked for, so is whatever is asked of other hosts than theirs, localhost, and addresses.
        origins: Vec<String> = Vec::new();
        /// Listens beyond loopback even so: whoever reaches the ports can read and change everything.
        unprotected: bool = false;
    }
}

section! {
    /// Who is let in.
    Access {
        /// Whether whoever shows no key is refused. `allidb key create` makes keys.
        keys_required: bool = false;
        /// A file with a key that may do everything at this node; read again when it changes. null: `admin-key` in the data directory, which is
        /// made if keys are required.
        admin_key_file: Option<PathBuf> = None;
    }
}

section! {
    /// Letting in whoever shows a token (JWT) of an identity provider, beside those who show keys. Without either place of keys nobody is.
    JwtOptions {
        /// A file with the keys that may sign tokens, as a JSON Web Key Set; read again when it changes.
        jwks_file: Option<PathBuf> = None;
        /// An address that tells the same, such as https://id.example.com/.well-known/jwks.json.
        jwks_url: Option<String> = None;
        /// How often it is asked. It is asked also when a token names a key that is not known.
        refresh_every: Span = Span::secs(300);
        /// Who has to have issued a token (its claim `iss`), letter by letter.
        issuer: Option<String> = None;
        /// Whom a token has to be for, among others (its claim `aud`).
        audience: Option<String> = None;
        /// The claim that says whose data is meant: the number of a tenant.
        tenant_claim: String = "tenant".to_owned();
        /// The claim that says what its holder may do: reader, writer, admin or operator.
        role_claim: String = "role".to_owned();
        /// The claim that says which collections alone a reader or writer sees: a list of names, or of how names begin and `*`. Without it all.
        collections_claim: String = "collections".to_owned();
        /// By how much clocks may differ.
        leeway: Span = Span::secs(30);
    }
}

section! {
    /// The other nodes of the ring, if there are any.
    RingOptions {
        /// The addresses (host:port) of the nodes that found the ring: on all of them the same. They are waited for once; later they are asked
        /// first who is there. A node that is not among them joins: it holds nothing until it is added (`allidb cluster layout`). Empty:
        /// the node is alone.
        founders: Vec<String> = Vec::new();
        /// Where other nodes are listened to. Without certificates only loopback addresses are taken.
        listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 7002));
        /// Where other nodes reach this one (host:port), as among the founders if it is one; null: as `listen` says.
        address: Option<String> = None;
        /// The ring's name: nodes of others are not listened to.
        name: String = "allidb".to_owned();
        /// How many nodes hold each entity, as the ring is founded; 1 to 7.
        replication: usize = 3;
        /// What may fail together with this node, such as a rack. Replicas are spread over zones.
        zone: String = String::new();
        /// How much this node is to hold, compared with the others.
        capacity: u32 = 1;
        /// A PEM file with the certificate that this node shows the others, and those that lead to the authority's.
        certificate_file: Option<PathBuf> = None;
        /// A PEM file with its key.
        key_file: Option<PathBuf> = None;
        /// A PEM file with the certificate of the authority that has signed those of all nodes, and no others.
        authority_file: Option<PathBuf> = None;
        /// The name that the certificates of all nodes are for.
        certificate_name: String = "allidb".to_owned();
        /// Threads for what other nodes ask, and for this node's part in what it asks them.
        threads: usize = 16;
        /// How long another node may take before it counts as one that does not answer.
        call_timeout: Span = Span::secs(2);
        /// When another replica is read beside one that has not answered yet: at the latest, once it is known how long most
        /// take.
        hedge_after: Span = Span(std::time::Duration::from_millis(100));
        /// Bytes of writes that are kept for a node that does not take them, for each; what comes beyond is dropped, and counted.
        hint_bytes: ByteSize = ByteSize::mib(4 << 10);
        /// How long a write is kept for such a node; what is older is dropped, and counted.
        hint_age: Span = Span::secs(24 * 3_600);
        /// Bytes a second of such writes that are delivered to each node that is back; 0: as many as it takes.
        hint_bytes_per_second: ByteSize = ByteSize::mib(16);
        /// Bytes of edges whose ends lie on different nodes that may wait for those that do not answer; beyond, such edges are
        /// refused.
        outbox_bytes: ByteSize = ByteSize::mib(256);
        /// How often what lies here is compared with what each other node holds of the same, and repaired.
        repair_every: Span = Span::secs(600);
        /// How often what says of deletions is forgotten everywhere; that needs all nodes.
        purge_every: Span = Span::secs(24 * 3_600);
        /// How old deletions are at least that are forgotten. A write that is under way for longer is refused.
        purge_behind: Span = Span::secs(600);
        /// Bytes a second that this node takes over while the ring changes its shape; 0: as many as it can.
        move_bytes_per_second: ByteSize = ByteSize::mib(32);
        /// How much must lie at another node for this one to begin with a copy of its disk, indexes and all, when it joins or takes a node's place
        /// and is to hold most of that; below, and where it is to hold less, it is told row by row. 0: it always is.
        copy_from_bytes: ByteSize = ByteSize::mib(64);
    }
}

section! {
    /// Where snapshots of the ring are kept.
    SnapshotOptions {
        /// A directory (an absolute path), or `s3://BUCKET/PREFIX`: then `AWS_ENDPOINT_URL`, `AWS_REGION`, `AWS_ACCESS_KEY_ID` and
        /// `AWS_SECRET_ACCESS_KEY` in the environment say how it is reached. Each ring that shares a place needs a `ring.name` of its own.
        /// null: none can be made.
        location: Option<String> = None;
        /// A file that holds the key of such a store in place of the environment: lines `aws_access_key_id = …` and
        /// `aws_secret_access_key = …`, as its own tools write them. Read with each call.
        credentials_file: Option<PathBuf> = None;
    }
}

section! {
    /// The storage engine.
    StorageOptions {
        /// Memory of everything together: fresh writes (all memtables), the cache, and what open tables keep. The
        /// cache gets what the others leave. Requests, the vector indexes, and for a time the buffers of flushes
        /// and compactions come on top.
        memory_bytes: ByteSize = ByteSize::mib(512);
        /// Memory of fresh writes before they are flushed to tables.
        memtable_bytes: ByteSize = ByteSize::mib(64);
        /// How many flushes may be behind before writers are stopped.
        frozen_memtables: usize = 3;
        /// The size of a segment of the write-ahead log.
        wal_segment_bytes: ByteSize = ByteSize::mib(64);
        /// The largest batch the log takes.
        batch_bytes: ByteSize = ByteSize::mib(64);
        /// The size of a table that compaction writes.
        table_bytes: ByteSize = ByteSize::mib(64);
        /// The size of a table's block before compression: what a read of one row reads.
        block_bytes: ByteSize = ByteSize::kib(8);
        /// How blocks are compressed, by level from 0, the last one for all deeper levels: none, lz4, or zstd:1 to
        /// zstd:22, as in [lz4, lz4, zstd:3].
        compression: Vec<Compression> = vec![Compression(allidb_storage::Compression::Lz4)];
        /// Bits of bloom filter for each key; 10 let one in a hundred absent keys through. 0: no filter.
        filter_bits_per_key: u8 = 10;
        /// Values from this size on are kept apart from their keys, so that compaction need not rewrite them;
        /// 0: never.
        separation_bytes: ByteSize = ByteSize::kib(1);
        /// The size of a file of values that are kept apart.
        blob_file_bytes: ByteSize = ByteSize::mib(256);
        /// The part of such a file, in percent, that must be garbage before the rest is moved to another; 1 to 100.
        blob_garbage_percent: u8 = 50;
        /// Tables in level 0 of a keyspace at which compaction starts.
        level0_files: usize = 4;
        /// Tables in level 0 at which writers are slowed down.
        level0_slowdown_files: usize = 12;
        /// Tables in level 0 at which writers are stopped.
        level0_stop_files: usize = 24;
        /// The size at which level 1 of a keyspace is compacted into level 2.
        level_base_bytes: ByteSize = ByteSize::mib(256);
        /// How many times larger each further level is.
        level_multiplier: u64 = 10;
        /// Compactions that may run at once.
        compaction_threads: usize = 2;
        /// Bytes a second that all compactions together may write; 0: as many as the disk takes.
        compaction_bytes_per_second: ByteSize = ByteSize(0);
        /// Below this much free space on the disk writes other than deletes are refused.
        min_free_bytes: ByteSize = ByteSize::mib(256);
    }
}

section! {
    /// The vector indexes.
    VectorOptions {
        /// Threads that build graphs; 0: half of the cores.
        build_threads: usize = 0;
        /// Most neighbours of a node in a graph (M); 2 to 256.
        connections: usize = 24;
        /// Breadth of the walk that finds a new node's neighbours (efConstruction).
        build_breadth: usize = 200;
        /// Breadth of a search whose request does not say (ef).
        search_breadth: usize = 128;
        /// Memory for fresh vectors, until they are written to segments; once it is full, writes wait. Beside it graphs are
        /// built in a quarter of this at most, or else in scratch files.
        memory_bytes: ByteSize = ByteSize::mib(512);
    }
}

section! {
    /// Threads and the queues before them.
    Threads {
        /// Threads that write. Those that wait for the disk together share one fsync.
        write: usize = 16;
        /// Threads that read and search; 0: as many as cores.
        read: usize = 0;
        /// Requests that may wait for a thread, of each kind; more are refused.
        queue: usize = 1_024;
        /// Queries of one batch that run at once.
        batch_queries: usize = 8;
    }
}

section! {
    /// What one request may hold or ask for; more is refused.
    LimitOptions {
        /// The largest message taken.
        message_bytes: ByteSize = ByteSize::mib(16);
        /// The largest message given.
        answer_bytes: ByteSize = ByteSize::mib(64);
        /// Connections that are open at the gRPC port, and at the HTTP port. Beyond that the one is closed over which nothing was said for longest, of
        /// the address that has most. At each port a quarter of the files that this process may have open, if that is less.
        connections: usize = 4_096;
        /// Requests under way in all; more are refused.
        concurrent_requests: usize = 1_024;
        /// Bytes of requests and answers under way in all, with what messages take beyond that once they are unpacked; more are refused. Each stream
        /// of requests counts for a 128th of it, 4 MiB at most, beside what was read of it.
        request_bytes: ByteSize = ByteSize::mib(512);
        /// Requests under way on one connection; more wait.
        concurrent_streams: u32 = 256;
        /// Longest time one request may take; also the default.
        deadline: Span = Span::secs(30);
        /// Entities or edges in one batch.
        batch_items: usize = 10_000;
        /// Queries in one batch.
        batch_queries: usize = 100;
        /// Attributes of one entity, or entries of one chunk's metadata.
        attributes: usize = 1_000;
        /// Bytes of one entity: ids, names, values, texts and vectors together.
        entity_bytes: ByteSize = ByteSize::mib(16);
        /// Chunks of one entity in one write.
        chunks: usize = 1_000;
        /// Vectors of one entity or chunk.
        vectors: usize = 64;
        /// Sources of one entity, chunk or edge.
        sources: usize = 1_000;
        /// Nesting of lists and maps.
        value_depth: usize = 16;
        /// Nesting of filters.
        filter_depth: usize = 16;
        /// Conditions in one filter.
        filter_conditions: usize = 1_000;
        /// Entities in one page.
        page_size: usize = 1_000;
        /// Seeds, nearest neighbours or hits of one query.
        k: usize = 10_000;
        /// Breadth of an index walk.
        ef: usize = 20_000;
        /// Bytes of the words that one clause of a query looks for, or all conditions of a filter.
        query_text_bytes: ByteSize = ByteSize::kib(64);
        /// Seed clauses of one query.
        seeds: usize = 16;
        /// Entities given as seeds.
        seed_ids: usize = 1_000;
        /// Hops of one expansion.
        hops: usize = 8;
        /// Edges of a shortest path.
        path_hops: usize = 32;
        /// Paths of one answer.
        paths: usize = 1_000;
        /// Edges followed from each node for each relation, or asked of one entity.
        fan_out: usize = 10_000;
        /// Nodes reached by one expansion.
        nodes: usize = 100_000;
        /// Edges looked at by one expansion or one question for neighbours.
        edges: usize = 1_000_000;
        /// Candidates that one query holds at once.
        candidates: usize = 200_000;
    }
}

section! {
    /// Turning texts in place of vectors into vectors, for all spaces: by a service over HTTP or by a model from a folder.
    /// Without either such texts are refused.
    EmbeddingOptions {
        /// The address of the call: OpenAI-compatible, such as https://api.openai.com/v1/embeddings, or, if it ends in
        /// /api/embed, Ollama, such as http://127.0.0.1:11434/api/embed.
        url: Option<String> = None;
        /// The name of the service's model.
        model: Option<String> = None;
        /// A file that holds the key which the service asks for.
        key_file: Option<PathBuf> = None;
        /// A folder with a static model (Model2Vec): tokenizer.json, model.safetensors and config.json.
        folder: Option<PathBuf> = None;
        /// Texts in one call.
        batch: usize = 64;
        /// How often a call is tried again that failed for want of a connection, with 408, 429 or 5xx.
        retries: usize = 3;
        /// How long one try may take.
        timeout: Span = Span::secs(10);
        /// How long the texts of one request may take in all.
        request_timeout: Span = Span::secs(30);
    }
}

section! {
    /// The log, on standard error.
    Log {
        /// `pretty` for people, `json` for programs.
        format: LogFormat = LogFormat::Pretty;
        /// What is logged, such as `info` or `allidb_storage=debug,info`.
        filter: String = "info,h2=error".to_owned();
        /// Queries that take so long or longer are logged, with what was done; 0: none.
        slow_query: Span = Span::secs(1);
    }
}

section! {
    /// Traces, told to a collector by OTLP over gRPC. Those are told that begin with a request, here or at its caller.
    Tracing {
        /// Where the collector is, such as http://127.0.0.1:4317 or https://collector.example:4317; without, nothing is told.
        otlp_endpoint: Option<String> = None;
        /// A PEM file with the certificate of the authority that has signed the collector's; without, those that browsers trust are trusted.
        authority_file: Option<PathBuf> = None;
        /// A file with headers to send along, one a line, such as `authorization: Bearer …`.
        headers_file: Option<PathBuf> = None;
        /// The share of requests that are traced, of those whose callers do not say whether they are: 0 to 1.
        sample_ratio: f64 = 0.01;
        /// By which name the collector knows the daemon; nodes of a ring have the same.
        service_name: String = "allidb".to_owned();
    }
}

section! {
    /// Going down on SIGTERM or SIGINT.
    Shutdown {
        /// How long requests under way may take to end.
        grace: Span = Span::secs(30);
    }
}

impl RingOptions {
    /// Where other nodes reach this one.
    pub(crate) fn address(&self) -> String {
        self.address.clone().unwrap_or_else(|| self.listen.to_string())
    }
}
