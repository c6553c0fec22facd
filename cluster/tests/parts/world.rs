//! Some nodes in one process, and one that has everything.

use std::{
    collections::BTreeMap,
    os::fd::AsFd,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use allidb_cluster::{
    Consistency, HintCounts, HintLimits, Layout, Member, NodeId, PurgeTerms, Ring, RingOptions, Terms,
    Topology, WriteOptions, Wrong, plaintext,
};
use allidb_index::{
    Deadline, Error, ManualClock, Mutation, Random, Replica, ReplicaOptions, SeededRandom, VectorOptions,
    build_pool,
    filter::{Field, Filter, Operator},
    model::{
        CollectionSpec, Direction, Edge, EdgeRef, Entity, EntityPatch, EntityRef, Language, Limits, Metric,
        ReadMask, SpaceSpec, TenantId, TextField, TextKind, TextSpec, Value, Write, Written,
    },
    query::{Diversity, ExpandSpec, GroupBy, Nearest, Order, Query, Seed},
};
use allidb_storage::{Durability, Inline, KeyspaceOptions, Options, fs::SimFs};
use parking_lot::Mutex;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_stream::{StreamExt, wrappers::TcpListenerStream};

pub(crate) const TENANT: TenantId = TenantId::DEFAULT;
pub(crate) const ENTITIES: u64 = 150;
const NOW_MS: u64 = 1_700_000_000_000;

/// The replica on a disk.
pub(crate) fn open_on(fs: &SimFs, seed: u64, clock: &Arc<ManualClock>) -> Arc<Replica> {
    Replica::open(ReplicaOptions {
        fs: Arc::new(fs.clone()),
        dir: PathBuf::from("/node"),
        keyspace: KeyspaceOptions::new(""),
        storage: Options { background: Arc::new(Inline), ..Options::default() },
        build_pool: build_pool(&VectorOptions::default()).expect("threads"),
        vectors: VectorOptions::default(),
        limits: Limits::default(),
        clock: Arc::clone(clock) as _,
        random: Arc::new(SeededRandom::new(seed)),
        background: Arc::new(Inline),
    })
    .expect("a replica opens")
}

/// Some nodes, and one that has everything.
pub(crate) struct World {
    pub(crate) nodes: Vec<Node>,
    pub(crate) lone: Arc<Replica>,
    pub(crate) random: SeededRandom,
    pub(crate) clock: Arc<ManualClock>,
}

pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) replica: Arc<Replica>,
    pub(crate) ring: Ring,
    pub(crate) layout: Layout,
    pub(crate) fs: SimFs,
    pub(crate) address: String,
    pub(crate) server: JoinHandle<()>,
    connections: Connections,
}

/// Those that a node has taken.
type Connections = Arc<Mutex<Vec<std::net::TcpStream>>>;

/// Answers what other nodes ask.
fn serve(ring: &Ring, listener: TcpListener, connections: &Connections) -> JoinHandle<()> {
    let server = tonic::transport::Server::builder().add_service(ring.service());
    let connections = Arc::clone(connections);
    let incoming = TcpListenerStream::new(listener).map(move |connection| {
        let connection = connection?;
        connections.lock().push(connection.as_fd().try_clone_to_owned()?.into());
        Ok::<_, std::io::Error>(connection)
    });
    tokio::spawn(async move { drop(server.serve_with_incoming(incoming).await) })
}

impl Drop for Node {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl World {
    pub(crate) async fn of(count: usize, seed: u64) -> Self {
        let clock = Arc::new(ManualClock::new(NOW_MS));
        Self::with_clocks(seed, &vec![clock; count], HintLimits::default()).await
    }

    /// Nodes that do something wrong on purpose.
    pub(crate) async fn being_wrong(count: usize, seed: u64, wrong: Option<Wrong>) -> Self {
        let clock = Arc::new(ManualClock::new(NOW_MS));
        Self::made(seed, &vec![clock; count], HintLimits::default(), wrong).await
    }

    /// Nodes with clocks of their own; the one that has everything goes by the first.
    pub(crate) async fn with_clocks(seed: u64, clocks: &[Arc<ManualClock>], hints: HintLimits) -> Self {
        Self::made(seed, clocks, hints, None).await
    }

    async fn made(seed: u64, clocks: &[Arc<ManualClock>], hints: HintLimits, wrong: Option<Wrong>) -> Self {
        let (count, clock) = (clocks.len(), Arc::clone(&clocks[0]));
        let disks: Vec<SimFs> = clocks.iter().map(|_| SimFs::new()).collect();
        let open = |((fs, clock), seed): ((&SimFs, _), _)| open_on(fs, seed, clock);
        let replicas: Vec<Arc<Replica>> = disks.iter().zip(clocks).zip(seed * 100..).map(open).collect();
        let words = TextField {
            attribute: "words".to_owned(),
            weight: 1.0,
            language: Language::English,
            kind: TextKind::Prose,
        };
        let spec = CollectionSpec {
            text: TextSpec { fields: vec![words], ..TextSpec::default() },
            indexes: vec![Field::Attribute(vec!["n".to_owned()])],
            ..CollectionSpec::of_spaces(vec![SpaceSpec::new("v", 4, Metric::Cosine)])
        };
        replicas[0].create_collection(TENANT, "c", spec).expect("a collection");
        let catalogue = replicas[0].encoded_catalogue();
        let lone = open_on(&SimFs::new(), seed * 100 + 99, &clock);
        for replica in replicas[1..].iter().chain([&lone]) {
            replica.adopt_catalogue(&catalogue).expect("adopted");
        }
        let members = replicas.iter().map(|replica| Member {
            node: NodeId(replica.node()),
            zone: String::new(),
            capacity: 1,
        });
        let layout = Layout::found(members.collect(), 3).expect("a layout");
        let mut listeners = Vec::new();
        for _ in 0..count {
            listeners.push(TcpListener::bind("127.0.0.1:0").await.expect("a port"));
        }
        let addresses: BTreeMap<NodeId, String> = replicas
            .iter()
            .zip(&listeners)
            .map(|(replica, listener)| {
                (NodeId(replica.node()), listener.local_addr().expect("bound").to_string())
            })
            .collect();
        let mut nodes = Vec::new();
        for ((replica, listener), fs) in replicas.into_iter().zip(listeners).zip(disks) {
            let ring = Ring::open(RingOptions {
                replica: Arc::clone(&replica),
                topology: Topology::founded(layout.clone()),
                addresses: addresses.clone(),
                connector: plaintext(),
                threads: 1,
                queue: 1,
                call_timeout: Duration::from_secs(5),
                hedge_after: Duration::from_millis(100),
                hints,
                repair_every: Duration::from_hours(1),
                purge: PurgeTerms { every: Duration::MAX, behind: Duration::ZERO },
                move_bytes_per_second: 0,
                copy_from_bytes: 0,
                wrong,
            })
            .expect("a node");
            let connections = Connections::default();
            let server = serve(&ring, listener, &connections);
            let id = NodeId(replica.node());
            let address = addresses[&id].clone();
            nodes.push(Node { id, replica, ring, layout: layout.clone(), fs, address, server, connections });
        }
        Self { nodes, lone, random: SeededRandom::new(seed), clock }
    }

    /// Has a node not be reached any more. Gives where it was.
    pub(crate) async fn stop(&mut self, at: usize) -> String {
        let node = &mut self.nodes[at];
        node.server.abort();
        // Until then it listens.
        assert!((&mut node.server).await.is_err_and(|ended| ended.is_cancelled()), "it was stopped");
        for connection in node.connections.lock().drain(..) {
            // It may have been closed at the other end.
            connection.shutdown(std::net::Shutdown::Both).ok();
        }
        node.address.clone()
    }

    /// Has it be reached again.
    pub(crate) async fn go_on(&mut self, at: usize, address: String) {
        let listener = TcpListener::bind(address).await.expect("the port is free");
        self.nodes[at].server = serve(&self.nodes[at].ring, listener, &self.nodes[at].connections);
    }

    pub(crate) fn draw(&self, below: u64) -> u64 {
        let mut bytes = [0; 8];
        self.random.fill(&mut bytes).expect("there is always more");
        u64::from_le_bytes(bytes) % below
    }

    /// Makes a write at the lone node and at all others but one: a quorum of whatever it is for.
    pub(crate) fn write(&self, write: Write, misses: Option<usize>) {
        let mutation = self.lone.plan(TENANT, write).expect("planned");
        self.make(&self.lone, mutation.encode(|_| true));
        for (at, node) in self.nodes.iter().enumerate().filter(|(at, _)| Some(*at) != misses) {
            let _ = at;
            self.make(
                &node.replica,
                mutation.encode(|partition| node.layout.replicas(partition).contains(&node.id)),
            );
        }
    }

    pub(crate) fn make(&self, replica: &Replica, encoded: Result<Option<Vec<u8>>, Error>) {
        let Some(bytes) = encoded.expect("it can be sent") else { return };
        let mutation = Mutation::decode(&bytes).expect("a mutation");
        for result in replica.receive(vec![mutation], Durability::None) {
            match result {
                Ok(_) | Err(Error::NotFound { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    pub(crate) fn id(&self) -> EntityRef {
        EntityRef::new("c", format!("e{:03}", self.draw(ENTITIES)))
    }

    pub(crate) fn vector(&self) -> Vec<f32> {
        (0..4).map(|_| self.draw(2_000) as f32 / 1_000.0 - 1.0).collect()
    }

    pub(crate) fn put(&self, id: &str) -> Write {
        let words = ["whale", "ship", "sea", "captain", "harpoon", "storm", "island"];
        let text: Vec<&str> =
            (0..1 + self.draw(4)).map(|_| words[self.draw(words.len() as u64) as usize]).collect();
        let n = self.draw(10) as i64;
        let entity = Entity {
            id: id.to_owned(),
            importance: Some(self.draw(100) as f64 / 100.0),
            attributes: [
                ("n".to_owned(), Value::Int(n)),
                ("kind".to_owned(), Value::String(format!("k{}", self.draw(4)))),
                ("words".to_owned(), Value::String(text.join(" "))),
            ]
            .into(),
            vectors: [("v".to_owned(), self.vector())].into(),
            ..Entity::default()
        };
        Write::Put { collection: "c".to_owned(), entity: Box::new(entity) }
    }

    pub(crate) fn edge(&self) -> Write {
        let relation = ["r", "s"][self.draw(2) as usize];
        let edge = Edge { weight: 0.05 * self.draw(20) as f64, ..Edge::new(self.id(), relation, self.id()) };
        Write::PutEdge(Box::new(edge))
    }

    /// Everybody knows this; then everybody misses something.
    pub(crate) fn fill(&self, changes: u64) {
        for at in 0..ENTITIES {
            self.write(self.put(&format!("e{at:03}")), None);
        }
        for _ in 0..3 * ENTITIES {
            self.write(self.edge(), None);
        }
        for _ in 0..changes {
            let misses = Some(self.draw(self.nodes.len() as u64) as usize);
            let change = match self.draw(10) {
                0 => Write::Delete(self.id()),
                1 => self.put(&self.id().id),
                2..5 => self.edge(),
                5 => {
                    let edge = Edge::new(self.id(), "r", self.id());
                    Write::DeleteEdge(EdgeRef {
                        from: edge.from,
                        relation: edge.relation,
                        to: edge.to,
                        edge_id: String::new(),
                    })
                }
                6 | 7 => {
                    let mut patch = EntityPatch::new(self.id());
                    patch.vectors = [("v".to_owned(), Some(self.vector()))].into();
                    Write::Update(Box::new(patch))
                }
                _ => {
                    let mut patch = EntityPatch::new(self.id());
                    patch.attributes = [("n".to_owned(), Some(Value::Int(self.draw(10) as i64)))].into();
                    Write::Update(Box::new(patch))
                }
            };
            self.write(change, misses);
        }
        self.clock.advance(10_000);
    }

    pub(crate) fn nearest(&self) -> Seed {
        Seed::Nearest(Nearest { exact: true, ..Nearest::to_vector("v", self.vector()) })
    }

    /// A query whose answer does not depend on how often words are used.
    pub(crate) fn query(&self) -> Query {
        let filter = || {
            let field = Field::Attribute(vec!["n".to_owned()]);
            Filter::Compare(field, Operator::Less, Value::Int(2 + self.draw(8) as i64))
        };
        let expand = || ExpandSpec {
            hops: 1 + self.draw(3) as usize,
            direction: [Direction::Out, Direction::In, Direction::Both][self.draw(3) as usize],
            ..ExpandSpec::default()
        };
        let ids = Seed::Ids((0..3).map(|_| self.id()).collect());
        let mut query = match self.draw(9) {
            0 => Query::new("c", vec![self.nearest()]),
            1 => Query { filter: Some(filter()), ..Query::new("c", vec![self.nearest()]) },
            2 => Query { expand: Some(expand()), ..Query::new("c", vec![ids]) },
            3 => Query { expand: Some(expand()), explain: true, ..Query::new("c", vec![self.nearest()]) },
            4 => {
                let spec = ExpandSpec { page_rank: Some(0.85), ..expand() };
                Query { expand: Some(spec), ..Query::new("c", vec![ids]) }
            }
            5 => {
                let matching = Seed::Matching { filter: filter(), limit: 20 };
                let order_by = vec![
                    Order { field: Field::Attribute(vec!["n".to_owned()]), descending: true },
                    Order { field: Field::Id, descending: false },
                ];
                Query { order_by, ..Query::new("c", vec![matching]) }
            }
            6 => {
                let field = Field::Attribute(vec!["kind".to_owned()]);
                Query { group_by: Some(GroupBy { field, size: 2 }), ..Query::new("c", vec![self.nearest()]) }
            }
            7 => {
                let diversity = Some(Diversity { lambda: 0.5, candidates: 40 });
                Query { diversity, ..Query::new("c", vec![self.nearest()]) }
            }
            _ => {
                let within = Query {
                    expand: Some(expand()),
                    limit: 40,
                    ..Query::new("c", vec![Seed::Ids((0..4).map(|_| self.id()).collect())])
                };
                Query { within: Some(Box::new(within)), ..Query::new("c", vec![self.nearest()]) }
            }
        };
        query.limit = 5 + self.draw(10) as usize;
        query.read_mask = ReadMask { vectors: true, ..ReadMask::fields() };
        query
    }

    pub(crate) fn terms(&self) -> Terms {
        let deadline = Deadline::after(Duration::from_secs(60));
        Terms { tenant: TENANT, consistency: Consistency::Quorum, deadline, may_be_partial: false }
    }

    pub(crate) fn anybody(&self) -> &Ring {
        &self.nodes[self.draw(self.nodes.len() as u64) as usize].ring
    }
}

pub(crate) fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(30))
}

impl World {
    /// Puts an entity through a node.
    pub(crate) async fn put_through(&self, at: usize, id: &str) -> Result<Written, Error> {
        let ring = &self.nodes[at].ring;
        let entity = Entity {
            id: id.to_owned(),
            vectors: [("v".to_owned(), vec![1.0; 4])].into(),
            ..Entity::default()
        };
        let write = Write::Put { collection: "c".to_owned(), entity: Box::new(entity) };
        let planned = ring.replica().plan(TENANT, write)?;
        let options =
            WriteOptions { durability: Durability::None, consistency: Consistency::Quorum, deadline: soon() };
        ring.write(vec![planned], options).await.pop().expect("one answer")
    }

    /// Whether a node has it, whatever others have.
    pub(crate) fn has(&self, at: usize, id: &str) -> bool {
        let entity = [EntityRef::new("c", id)];
        matches!(&self.nodes[at].replica.get(TENANT, &entity, &ReadMask::fields(), soon())[..], [Ok(_)])
    }

    /// What a node keeps for another one.
    pub(crate) fn kept(&self, at: usize, other: usize) -> HintCounts {
        let counts = self.nodes[at].ring.hints();
        *counts.iter().find(|counts| counts.node == self.nodes[other].id).expect("it is a member")
    }

    /// Hints are kept after the answer.
    pub(crate) async fn is_kept(&self, at: usize, other: usize) {
        let begun = Instant::now();
        while self.kept(at, other).bytes == 0 {
            assert!(begun.elapsed() < Duration::from_secs(10), "nothing is kept");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
