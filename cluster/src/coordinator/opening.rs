//! Opening a node: alone, or as a member of a ring.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use allidb_index::{
    Error, Replica, ReplicaOptions, Result, SystemClock, SystemRandom, VectorOptions, build_pool,
    model::Limits,
};
use allidb_storage::{Threads, fs::RealFs};
use tokio::{net::TcpListener, task::spawn_blocking};

use super::{CHORES, Coordinator, Inner, quotas::count_usage};
use crate::{
    layout::{Layout, NodeId, Topology},
    maintenance::Jobs,
    member::{Life, MemberOptions, join, kept_topology},
    peer::plaintext,
    pool::{Pool, SPARES},
    ring::{HintLimits, PurgeTerms, Ring, RingOptions},
    snapshot::SnapshotPlace,
};

/// What a node is opened with.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node's directory.
    pub data_dir: PathBuf,
    /// How the storage engine works.
    pub storage: allidb_storage::Options,
    /// How each keyspace is stored; its name counts for nothing.
    pub keyspace: allidb_storage::KeyspaceOptions,
    /// How vectors are indexed.
    pub vectors: VectorOptions,
    /// Bounds on requests.
    pub limits: Limits,
    /// Threads that write: each waits for the disk, and those that wait together share one fsync.
    pub write_threads: usize,
    /// Threads that read and search.
    pub read_threads: usize,
    /// Requests that may wait for a thread of each kind.
    pub queue: usize,
    /// Where snapshots are kept, if anywhere.
    pub snapshots: Option<SnapshotPlace>,
}

impl Config {
    /// What a node of its own directory uses unless told otherwise.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        let cores = std::thread::available_parallelism().map_or(2, |cores| cores.get());
        Self {
            data_dir: data_dir.into(),
            storage: allidb_storage::Options::default(),
            keyspace: allidb_storage::KeyspaceOptions::new(""),
            vectors: VectorOptions { build_threads: (cores / 2).max(1), ..VectorOptions::default() },
            limits: Limits::default(),
            write_threads: 16,
            read_threads: cores.max(2),
            queue: 1_024,
            snapshots: None,
        }
    }
}

impl Coordinator {
    /// Opens the store of a node that is a ring by itself. Blocks while it recovers.
    ///
    /// # Errors
    /// If it cannot be opened, or the node is a member of a ring with others.
    pub fn open(config: Config) -> Result<Self> {
        let replica = open_replica(&config)?;
        let node = NodeId(replica.node());
        let founded = || Topology::founded(Layout::of_one(node));
        let topology = kept_topology(&replica)?.unwrap_or_else(founded);
        if topology.nodes() != [node] {
            let why = "this node is a member of a ring with others, and is not told where they are";
            return Err(Error::FailedPrecondition(why.to_owned()));
        }
        let ring = Ring::open(RingOptions {
            replica,
            topology,
            addresses: Default::default(),
            connector: plaintext(),
            // All but snapshots is done by the coordinator's own.
            threads: 2,
            queue: 64,
            call_timeout: Duration::from_secs(1),
            hedge_after: Duration::from_secs(1),
            hints: HintLimits::default(),
            // There is nobody to compare with.
            repair_every: Duration::MAX,
            purge: PurgeTerms { every: Duration::MAX, behind: Duration::ZERO },
            move_bytes_per_second: 0,
            copy_from_bytes: 0,
            #[cfg(feature = "wrong")]
            wrong: None,
        })?;
        Self::of(ring, node.to_string(), None, &config)
    }

    /// Opens the store of a node that is a member of a ring, or founds it with the others: that waits for all of them. Other nodes are listened to
    /// at `listener`.
    ///
    /// # Errors
    /// If it cannot be opened, or the node can be no member.
    pub async fn join(config: Config, member: MemberOptions, listener: TcpListener) -> Result<Self> {
        let (opening, name) = (config.clone(), member.ring.clone());
        let replica = spawn_blocking(move || open_replica(&opening)).await;
        let replica = replica.map_err(|error| Error::Internal(format!("opening broke off: {error}")))??;
        let (ring, life) = join(replica, listener, member).await?;
        Self::of(ring, name, Some(life), &config)
    }

    fn of(ring: Ring, ring_name: String, life: Option<Life>, config: &Config) -> Result<Self> {
        if let Some(snapshot) = ring.replica().restoring()? {
            tracing::warn!(snapshot, "a part of a snapshot may be missing: restore it here once more");
        }
        let inner = Arc::new(Inner {
            replica: Arc::clone(ring.replica()),
            ring,
            life,
            writes: Pool::start("write", config.write_threads, SPARES, config.queue)?,
            reads: Pool::start("read", config.read_threads, SPARES, config.queue)?,
            gets: Pool::start("get", config.read_threads, SPARES, config.queue)?,
            chores: Pool::start("maintenance", 1, 0, CHORES)?,
            jobs: Jobs::default(),
            snapshots: config.snapshots.clone(),
            ring_name,
            is_drained: AtomicBool::new(false),
            opened_at: Instant::now(),
        });
        count_usage(&inner)?;
        Ok(Self(inner))
    }
}

fn open_replica(config: &Config) -> Result<Arc<Replica>> {
    Replica::open(ReplicaOptions {
        fs: Arc::new(RealFs),
        dir: config.data_dir.clone(),
        storage: config.storage.clone(),
        keyspace: config.keyspace.clone(),
        build_pool: build_pool(&config.vectors)?,
        vectors: config.vectors.clone(),
        limits: config.limits.clone(),
        clock: Arc::new(SystemClock),
        random: Arc::new(SystemRandom),
        background: Arc::new(Threads),
    })
}
