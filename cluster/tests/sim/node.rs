//! A node with its disk, and the clients beside it: they go when it goes.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use allidb_cluster::{
    Change, Consistency, HintLimits, Member, NodeId, Phase, PurgeTerms, Ring, RingOptions, Staged, Topology,
    WriteOptions, Wrong,
};
use allidb_index::{
    BuildPool, Clock, Deadline, Error, Mutation, Random, Replica, ReplicaOptions, SeededRandom,
    VectorOptions, Version,
    model::{
        Chunk, CollectionSpec, Entity, EntityPatch, EntityRef, Limits, ReadMask, TenantId, Timestamp, Value,
        Write,
    },
};
use allidb_storage::{Durability, Inline, KeyspaceOptions, Options, fs::SimFs};
use parking_lot::Mutex;

use crate::{
    appends::Trails,
    collections::Created,
    edges::Changes,
    history::{History, Kind, text, value},
    network,
    sides::Sides,
    world::REPLICATION,
};

/// What clients read and write.
pub(crate) const KEYS: usize = 8;
/// Entities that expire and are upserted.
pub(crate) const LOOSE: usize = 3;
const EPOCH_MS: u64 = 1_700_000_000_000;
/// Versions may be so far ahead of the time at which they are given: nodes that start begin a second ahead.
pub(crate) const AHEAD_MS: u64 = 2_000;

/// Milliseconds since the simulation began, as it tells everybody.
#[derive(Debug, Default)]
pub(crate) struct SimClock(pub(crate) AtomicU64);

impl SimClock {
    pub(crate) fn elapsed(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

impl Clock for SimClock {
    fn now_ms(&self) -> u64 {
        EPOCH_MS + self.elapsed()
    }
}

/// A node's clock, which is ahead of that of the simulation.
#[derive(Debug)]
pub(crate) struct NodeClock {
    pub(crate) of: Arc<SimClock>,
    pub(crate) ahead_ms: Arc<AtomicI64>,
}

impl Clock for NodeClock {
    fn now_ms(&self) -> u64 {
        self.of.now_ms().saturating_add_signed(self.ahead_ms.load(Ordering::SeqCst))
    }
}

/// What a node is made of, over all its lives.
pub(crate) struct Node {
    pub(crate) at: usize,
    pub(crate) seed: u64,
    pub(crate) fs: SimFs,
    pub(crate) clock: Arc<SimClock>,
    /// So far is its own ahead of that; before it if negative.
    pub(crate) ahead_ms: Arc<AtomicI64>,
    /// When its disk is to be read.
    pub(crate) scrub_at: AtomicU64,
    /// Whether it is to end, and to start again.
    pub(crate) is_to_start: AtomicBool,
    pub(crate) build_pool: BuildPool,
    /// What it goes by if nothing is kept on its disk.
    pub(crate) founded: Topology,
    pub(crate) addresses: BTreeMap<NodeId, String>,
    pub(crate) history: Arc<Mutex<History>>,
    pub(crate) edges: Arc<Mutex<Changes>>,
    pub(crate) trails: Arc<Mutex<Trails>>,
    pub(crate) created: Arc<Mutex<Created>>,
    pub(crate) sides: Arc<Mutex<Sides>>,
    /// Of each epoch the digest of the topology that an operator was told to have made.
    pub(crate) made: Arc<Mutex<BTreeMap<u64, u64>>>,
    /// What it is to read everything at, when all is over.
    pub(crate) errand: Mutex<Option<Consistency>>,
    pub(crate) is_quiet: Arc<AtomicBool>,
    /// It of its present life.
    pub(crate) ring: Mutex<Option<Ring>>,
    pub(crate) lives: AtomicU64,
    pub(crate) wrong: Option<Wrong>,
    /// Whether it compares what it holds with others all the time.
    pub(crate) compares: bool,
    /// Whether deletions are forgotten all the time.
    pub(crate) purges: bool,
    /// Whether the ring is given another shape all the time.
    pub(crate) reshapes: bool,
    /// Whether operators do so at each node, all at once.
    pub(crate) has_operators: bool,
    /// Whether clients write at ONE, and nothing else.
    pub(crate) splits: bool,
    /// Whether it begins with a copy of another one.
    pub(crate) copies: bool,
}

pub(crate) fn name(at: usize) -> String {
    format!("node-{at}")
}

pub(crate) fn entity(key: usize) -> EntityRef {
    EntityRef::new("c", format!("key-{key}"))
}

pub(crate) fn loose(at: usize) -> EntityRef {
    EntityRef::new("c", format!("loose-{at}"))
}

/// The replica on a disk, as it is opened there for the first time or again.
pub(crate) fn open(fs: &SimFs, clock: Arc<dyn Clock>, seed: u64, build_pool: &BuildPool) -> Arc<Replica> {
    Replica::open(ReplicaOptions {
        fs: Arc::new(fs.clone()),
        dir: PathBuf::from("/node"),
        keyspace: KeyspaceOptions::new(""),
        storage: Options { background: Arc::new(Inline), ..Options::default() },
        build_pool: Arc::clone(build_pool),
        vectors: VectorOptions::default(),
        limits: Limits::default(),
        clock,
        random: Arc::new(SeededRandom::new(seed)),
        background: Arc::new(Inline),
    })
    .expect("a replica opens")
}

/// Founds a disk: the node, with the catalogue of the first one, which has a collection. Gives the node's id.
pub(crate) fn found(
    fs: &SimFs,
    clock: &Arc<SimClock>,
    seed: u64,
    build_pool: &BuildPool,
    catalogue: &mut Option<Vec<u8>>,
) -> NodeId {
    let replica = open(fs, Arc::clone(clock) as _, seed, build_pool);
    match catalogue {
        Some(catalogue) => drop(replica.adopt_catalogue(catalogue).expect("a catalogue")),
        None => {
            replica
                .create_collection(TenantId::DEFAULT, "c", CollectionSpec::default())
                .expect("a collection");
            *catalogue = Some(replica.encoded_catalogue());
        }
    }
    let node = NodeId(replica.node());
    replica.close().expect("it closes");
    node
}

impl Node {
    /// A life of the node: it serves others, delivers hints, and has a client that reads and writes.
    pub(crate) async fn live(self: Arc<Self>) -> turmoil::Result {
        let life = self.lives.fetch_add(1, Ordering::SeqCst);
        let clock = NodeClock { of: Arc::clone(&self.clock), ahead_ms: Arc::clone(&self.ahead_ms) };
        let replica = open(&self.fs, Arc::new(clock), self.seed, &self.build_pool);
        let kept = replica.topology().expect("it can be read");
        let kept = kept.map(|kept| Topology::decode(&kept).expect("a topology"));
        let topology = kept.unwrap_or_else(|| self.founded.clone());
        let ring = Ring::open(RingOptions {
            replica,
            topology,
            addresses: self.addresses.clone(),
            connector: network::connector(),
            threads: 1,
            queue: 1,
            call_timeout: Duration::from_millis(500),
            hedge_after: Duration::from_millis(50),
            hints: HintLimits { bytes: 1 << 20, bytes_per_second: 256 << 10, ..HintLimits::default() },
            repair_every: if self.compares { Duration::from_secs(1) } else { Duration::from_hours(1) },
            purge: PurgeTerms {
                every: if self.purges { Duration::from_millis(300) } else { Duration::from_hours(1) },
                behind: Duration::from_millis(700),
            },
            move_bytes_per_second: 256 << 10,
            copy_from_bytes: if self.copies { 1 } else { 0 },
            wrong: self.wrong,
        })?;
        *self.ring.lock() = Some(ring.clone());
        let server = tonic::transport::Server::builder().add_service(ring.service());
        let incoming = network::accept().await?;
        tokio::spawn(async move { server.serve_with_incoming(incoming).await });
        // As long as it lives.
        let _looked_after = ring.look_after();
        let random = SeededRandom::new(self.seed ^ ((self.at as u64) << 32) ^ (life << 48));
        self.ask(&ring, &random).await;
        Ok(())
    }

    /// Reads and writes until it is to be quiet, then does nothing.
    async fn ask(&self, ring: &Ring, random: &SeededRandom) {
        loop {
            tokio::time::sleep(Duration::from_millis(5 + draw(random, 40))).await;
            self.look_at_disk(ring).await;
            if self.is_quiet.load(Ordering::SeqCst) {
                let errand = *self.errand.lock();
                if let Some(consistency) = errand {
                    self.check(ring, consistency).await;
                    self.errand.lock().take();
                }
                continue;
            }
            if self.splits {
                match draw(random, 4) {
                    0 => self.write_loosely(ring, random).await,
                    _ => self.write_on_its_side(ring, random).await,
                }
                continue;
            }
            if self.reshapes && draw(random, if self.has_operators { 4 } else { 50 }) == 0 {
                self.reshape(ring, random).await;
                continue;
            }
            if self.reshapes && draw(random, 60) == 0 {
                self.create(ring, random).await;
                continue;
            }
            let key = draw(random, KEYS as u64) as usize;
            match draw(random, 18) {
                10 | 11 => self.ask_of_edges(ring, random).await,
                14 | 15 => self.append(ring, random).await,
                16 | 17 => self.pass(ring).await,
                12 => self.write_loosely(ring, random).await,
                13 => drop(self.read(ring, key, Consistency::All).await),
                0..3 => self.write(ring, key, &[Kind::Put]).await,
                3 => {
                    let kinds = [Kind::Put, Kind::Put, Kind::Update, Kind::Update, Kind::Delete];
                    let mut kind = |_| kinds[draw(random, kinds.len() as u64) as usize];
                    let batch: Vec<Kind> = (0..2 + draw(random, 4)).map(&mut kind).collect();
                    self.write(ring, key, &batch).await;
                }
                4 => self.write(ring, key, &[Kind::Update]).await,
                5 => self.write(ring, key, &[Kind::Delete]).await,
                _ => drop(self.read(ring, key, Consistency::Quorum).await),
            }
        }
    }

    /// Gives the ring another shape, or goes back from what was begun.
    async fn reshape(&self, ring: &Ring, random: &SeededRandom) {
        let ring = ring.now();
        let topology = Arc::clone(ring.topology());
        let mut epoch = topology.epoch();
        let told = if topology.phase() == Phase::Settled {
            let mut nodes: Vec<NodeId> = self.addresses.keys().copied().collect();
            let members = REPLICATION + draw(random, (nodes.len() - REPLICATION) as u64 + 1) as usize;
            while nodes.len() > members {
                nodes.remove(draw(random, nodes.len() as u64) as usize);
            }
            let member = |node: NodeId| Member { node, zone: String::new(), capacity: 1 };
            let members = nodes.into_iter().map(member).collect();
            let staged = Staged { members, replication: REPLICATION };
            match ring.stage(epoch, staged, soon()).await {
                Ok(Change::Made(topology)) => {
                    self.note_made(&topology);
                    epoch += 1;
                    let applied = ring.now().apply(epoch, soon()).await;
                    if let Ok(Change::Made(topology)) = &applied {
                        self.note_made(topology);
                    }
                    format!("applies {:?}", changed(applied))
                }
                other => format!("stages {:?}", changed(other)),
            }
        } else if draw(random, 4) == 0 {
            format!("reverts {:?}", changed(ring.revert(epoch, soon()).await))
        } else {
            return;
        };
        self.history.lock().note(self.clock.elapsed(), format_args!("{} at {epoch} {told}", self.at));
    }

    /// Of two operators who change the layout at once one wins.
    fn note_made(&self, topology: &Topology) {
        let digest = *self.made.lock().entry(topology.epoch()).or_insert(topology.digest());
        let epoch = topology.epoch();
        assert_eq!(
            digest,
            topology.digest(),
            "seed {}: two have made the topology of epoch {epoch}",
            self.seed
        );
    }

    /// Reads everything: all is over, and everybody answers.
    async fn check(&self, ring: &Ring, consistency: Consistency) {
        for key in 0..KEYS {
            let is_told = self.read(ring, key, consistency).await;
            assert!(
                is_told,
                "seed {}: nobody tells of key {key}\n{}",
                self.seed,
                self.history.lock().end_of(key)
            );
        }
        for at in 0..LOOSE {
            let mask = ReadMask::everything();
            let found = ring.get(TenantId::DEFAULT, &[loose(at)], &mask, consistency, far()).await.pop();
            let is_told = matches!(found, Some(Ok(_) | Err(Error::NotFound { .. })));
            assert!(is_told, "seed {}: loose {at}: {found:?}", self.seed);
        }
        self.judge_edges(ring, consistency).await;
        self.judge_trails(ring, consistency).await;
        self.judge_collections(ring).await;
        self.judge_sides(ring, consistency).await;
    }

    /// Upserts, puts for a short time, and deletes an entity of which only the replicas' agreement at the end is judged.
    async fn write_loosely(&self, ring: &Ring, random: &SeededRandom) {
        let at = draw(random, LOOSE as u64) as usize;
        let soon = Timestamp::from_millis(self.clock.now_ms() + draw(random, 500));
        let write = match draw(random, 5) {
            0 | 1 => {
                let mut patch = EntityPatch::new(loose(at));
                patch.allow_missing = true;
                patch.attributes.insert("up".into(), Some(Value::Int(draw(random, 1_000) as i64)));
                patch.expire_at = (draw(random, 2) == 0).then_some(Some(soon));
                Write::Update(Box::new(patch))
            }
            2 | 3 => {
                let entity = Entity { id: loose(at).id, expire_at: Some(soon), ..Entity::default() };
                Write::Put { collection: "c".into(), entity: Box::new(entity) }
            }
            _ => Write::Delete(loose(at)),
        };
        let planned = ring.replica().plan(TenantId::DEFAULT, write).expect("a good write");
        let consistency = [Consistency::One, Consistency::Quorum, Consistency::All][draw(random, 3) as usize];
        let options = WriteOptions { consistency, ..quorum() };
        let result = ring.write(vec![planned], options).await.pop().expect("one answer");
        let now = self.clock.elapsed();
        self.history.lock().note(now, format_args!("{} loosely {at}: {result:?}", self.at));
        assert!(matches!(result, Ok(_) | Err(Error::Unavailable(_))), "{result:?}");
    }

    /// What a write of this kind is at the next step, as it is planned.
    fn plan(&self, ring: &Ring, key: usize, kind: Kind) -> (usize, Mutation) {
        let (step, seed) = self.history.lock().next_step();
        let told = value(seed, step);
        let write = match kind {
            Kind::Put => {
                let mut put = Entity { id: entity(key).id, ..Entity::default() };
                put.attributes.insert("put".into(), Value::Int(step as i64));
                put.attributes.insert("put value".into(), Value::Int(told));
                put.chunks.insert("1".into(), Chunk { text: text(seed, step), ..Chunk::default() });
                Write::Put { collection: "c".into(), entity: Box::new(put) }
            }
            Kind::Update => {
                let mut patch = EntityPatch::new(entity(key));
                patch.attributes.insert("update".into(), Some(Value::Int(step as i64)));
                patch.attributes.insert("update value".into(), Some(Value::Int(told)));
                Write::Update(Box::new(patch))
            }
            Kind::Delete => Write::Delete(entity(key)),
        };
        let planned = ring.replica().plan(TenantId::DEFAULT, write).expect("a good write");
        self.history.lock().begin_write(self.clock.elapsed(), key, kind, planned.version());
        (step, planned)
    }

    /// The newest version that what this node has begun may be made at: its clock may be ahead.
    pub(crate) fn newest_by_now(&self, ring: &Ring) -> Version {
        let given = ring.replica().next_version().millis();
        Version::new(given.max(self.clock.now_ms()) + AHEAD_MS, 0, 0)
    }

    /// Makes writes to a key in one batch: each comes after the one before.
    async fn write(&self, ring: &Ring, key: usize, kinds: &[Kind]) {
        let planned = kinds.iter().map(|kind| self.plan(ring, key, *kind));
        let (steps, planned): (Vec<usize>, Vec<Mutation>) = planned.unzip();
        let results = ring.write(planned, quorum()).await;
        assert_eq!(results.len(), kinds.len());
        let (now, mut history) = (self.clock.elapsed(), self.history.lock());
        let made = results.iter().flatten().map(|written| written.version);
        assert!(made.is_sorted(), "seed {}: a batch lost its order: {results:?}", self.seed);
        for ((step, kind), result) in steps.into_iter().zip(kinds).zip(results) {
            history.note(now, format_args!("{} {kind:?} key {key} at step {step}: {result:?}", self.at));
            match result {
                Ok(written) => history.acknowledge(now, step, written.version),
                Err(Error::NotFound { .. }) => history.refuse(step),
                // If it was made at a newer version, that is about this node's time.
                Err(Error::Unavailable(_)) => {
                    history.give_up(step, self.newest_by_now(ring));
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Whether it was told.
    async fn read(&self, ring: &Ring, key: usize, consistency: Consistency) -> bool {
        let start = self.clock.elapsed();
        let mask = if start.is_multiple_of(2) { ReadMask::everything() } else { ReadMask::fields() };
        let found = ring.get(TenantId::DEFAULT, &[entity(key)], &mask, consistency, far()).await;
        let found = found.into_iter().next().expect("one answer");
        let (now, mut history) = (self.clock.elapsed(), self.history.lock());
        history.note(now, format_args!("{} reads key {key} since {start}: {}", self.at, told(&found)));
        match found {
            Ok(entity) => history.judge((start, now), key, Some(&entity), mask.chunks),
            Err(Error::NotFound { .. }) => history.judge((start, now), key, None, false),
            Err(Error::Unavailable(_)) => return false,
            Err(error) => panic!("{error}"),
        }
        true
    }
}

fn told(found: &Result<Entity, Error>) -> String {
    match found {
        Ok(entity) => format!("{:?} {:?}", entity.version, entity.attributes),
        Err(error) => error.to_string(),
    }
}

/// How writes are made.
pub(crate) fn quorum() -> WriteOptions {
    WriteOptions { durability: Durability::Sync, consistency: Consistency::Quorum, deadline: far() }
}

/// What an operator waits for.
pub(crate) fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(3))
}

/// By which members the ring goes then.
fn changed(change: Result<Change, Error>) -> Result<(bool, u64, usize), Error> {
    change.map(|change| match change {
        Change::Made(topology) => (true, topology.epoch(), topology.nodes().len()),
        Change::Another(topology) => (false, topology.epoch(), topology.nodes().len()),
    })
}

/// Beyond every time of a simulation: what ends there ends by the simulated clock.
pub(crate) fn far() -> Deadline {
    Deadline::after(Duration::from_secs(3_600))
}

pub(crate) fn draw(random: &SeededRandom, below: u64) -> u64 {
    let mut bytes = [0; 8];
    random.fill(&mut bytes).expect("there is always more");
    u64::from_le_bytes(bytes) % below
}
