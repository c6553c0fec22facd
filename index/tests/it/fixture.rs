//! A replica in a simulated file system, and short ways to say things.

use std::{path::PathBuf, sync::Arc, time::Duration};

use allidb_index::{
    Deadline, Error, Held, ManualClock, Replica, ReplicaOptions, SeededRandom, VectorOptions, build_pool,
    model::{
        CollectionChange, CollectionSpec, Edge, Entity, EntityRef, Limits, Metric, ReadMask, SpaceSpec,
        TenantId, Value, Write, Written,
    },
    query::{Answer, Nearest, Query, Seed},
};
use allidb_storage::{Background, Durability, Inline, Options, fs::SimFs};

pub(crate) const TENANT: TenantId = TenantId::DEFAULT;

/// Of fresh vectors.
pub(crate) const MEMORY_BYTES: usize = 16 << 20;

pub(crate) struct Fixture {
    pub(crate) fs: SimFs,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) replica: Arc<Replica>,
}

pub(crate) fn deadline() -> Deadline {
    Deadline::after(Duration::from_secs(60))
}

pub(crate) fn at(id: &str) -> EntityRef {
    EntityRef::new("c", id)
}

impl Fixture {
    /// With collection `c`, which has a space `v` of the given dimension and metric.
    pub(crate) fn with_space(dimension: u32, metric: Metric) -> Self {
        Self::with_spec(SpaceSpec::new("v", dimension, metric))
    }

    /// With collection `c`, which has this space.
    pub(crate) fn with_spec(space: SpaceSpec) -> Self {
        let fs = SimFs::new();
        let clock = Arc::new(ManualClock::new(1_700_000_000_000));
        let replica = open(&fs, &clock);
        replica.create_collection(TENANT, "c", CollectionSpec::of_spaces(vec![space])).unwrap();
        Self { fs, clock, replica }
    }

    pub(crate) fn new() -> Self {
        Self::with_space(2, Metric::L2)
    }

    /// Another node than those of other seeds, without a collection.
    pub(crate) fn bare(seed: u64) -> Self {
        let fs = SimFs::new();
        let clock = Arc::new(ManualClock::new(1_700_000_000_000));
        let replica = try_open(&fs, &clock, seed).unwrap();
        Self { fs, clock, replica }
    }

    /// Loses what was not synced, opens the store again, and has that fail when so much was done with files; then loses what was not synced and opens
    /// it again. Says whether it failed before.
    pub(crate) fn crash_and_again_after(self, operations: u64) -> (Self, bool) {
        let Self { fs, clock, replica } = self;
        fs.crash(11);
        drop(replica);
        fs.power_off_at(fs.operations() + operations);
        let opened = try_open(&fs, &clock, 1);
        let failed = opened.is_err();
        fs.crash(13 + operations);
        drop(opened);
        let replica = open(&fs, &clock);
        (Self { fs, clock, replica }, failed)
    }

    /// Closes the store and opens it again.
    pub(crate) fn reopen(self) -> Self {
        self.replica.close().unwrap();
        let Self { fs, clock, replica } = self;
        drop(replica);
        let replica = open(&fs, &clock);
        Self { fs, clock, replica }
    }

    /// Loses what was not synced and opens the store again.
    pub(crate) fn crash(self) -> Self {
        let Self { fs, clock, replica } = self;
        fs.crash(7);
        drop(replica);
        let replica = open(&fs, &clock);
        Self { fs, clock, replica }
    }

    pub(crate) fn write(&self, writes: Vec<Write>) -> Vec<Result<Written, Error>> {
        self.clock.advance(1);
        let mut planned = Vec::new();
        for write in writes {
            match self.replica.plan(TENANT, write) {
                Ok(mutation) => planned.push(mutation),
                Err(error) => return vec![Err(error)],
            }
        }
        self.replica.apply(planned, Durability::Sync)
    }

    pub(crate) fn one(&self, write: Write) -> Result<Written, Error> {
        self.write(vec![write]).pop().unwrap()
    }

    pub(crate) fn put(&self, entity: Entity) -> Written {
        self.one(Write::Put { collection: "c".into(), entity: Box::new(entity) }).unwrap()
    }

    pub(crate) fn delete(&self, id: &str) -> Written {
        self.one(Write::Delete(at(id))).unwrap()
    }

    pub(crate) fn link(&self, from: &str, relation: &str, to: &str, weight: f64) -> Written {
        let edge = Edge { weight, ..Edge::new(at(from), relation, at(to)) };
        self.one(Write::PutEdge(Box::new(edge))).unwrap()
    }

    pub(crate) fn get(&self, id: &str) -> Result<Entity, Error> {
        self.replica.get(TENANT, &[at(id)], &ReadMask::everything(), deadline()).pop().unwrap()
    }

    pub(crate) fn nearest(&self, vector: &[f32], k: usize) -> Vec<String> {
        self.nearest_in("v", vector, k)
    }

    pub(crate) fn nearest_in(&self, space: &str, vector: &[f32], k: usize) -> Vec<String> {
        let query = Query {
            limit: k,
            ..Query::new("c", vec![Seed::Nearest(Nearest::to_vector(space, vector.to_vec()))])
        };
        ids(&self.query(&query))
    }

    pub(crate) fn query(&self, query: &Query) -> Answer {
        self.replica.query(TENANT, query, deadline()).unwrap()
    }

    pub(crate) fn change(&self, change: CollectionChange) -> Result<(), Error> {
        self.replica.update_collection(TENANT, "c", change).map(|_| ())
    }
}

fn open(fs: &SimFs, clock: &Arc<ManualClock>) -> Arc<Replica> {
    try_open(fs, clock, 1).unwrap()
}

/// A node that is made draws its id by the seed.
fn try_open(fs: &SimFs, clock: &Arc<ManualClock>, seed: u64) -> Result<Arc<Replica>, Error> {
    open_with(fs, clock, seed, Arc::new(Inline))
}

/// With background work of its indexes done elsewhere than in the calls that make it due.
pub(crate) fn open_with(
    fs: &SimFs,
    clock: &Arc<ManualClock>,
    seed: u64,
    background: Arc<dyn Background>,
) -> Result<Arc<Replica>, Error> {
    let vectors = VectorOptions { build_threads: 2, memory_bytes: MEMORY_BYTES, ..VectorOptions::default() };
    Replica::open(ReplicaOptions {
        fs: Arc::new(fs.clone()),
        dir: PathBuf::from("/node"),
        keyspace: allidb_storage::KeyspaceOptions::new(""),
        storage: Options { background: Arc::new(Inline), ..Options::default() },
        build_pool: build_pool(&vectors).unwrap(),
        vectors,
        limits: Limits::default(),
        clock: clock.clone(),
        random: Arc::new(SeededRandom::new(seed)),
        background,
    })
}

pub(crate) fn ids(answer: &Answer) -> Vec<String> {
    answer.hits.iter().map(|hit| hit.entity.id.clone()).collect()
}

/// An entity with a vector in space `v` (unless it is empty).
pub(crate) fn entity(id: &str, vector: &[f32]) -> Entity {
    let mut entity = Entity { id: id.into(), entity_type: "thing".into(), ..Entity::default() };
    if !vector.is_empty() {
        entity.vectors.insert("v".into(), vector.to_vec());
    }
    entity
}

pub(crate) fn with(mut entity: Entity, name: &str, value: impl Into<Text>) -> Entity {
    entity.attributes.insert(name.into(), value.into().0);
    entity
}

pub(crate) struct Text(Value);
impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(Value::String(text.into()))
    }
}
impl From<i64> for Text {
    fn from(number: i64) -> Self {
        Self(Value::Int(number))
    }
}

/// Who holds each partition where one node holds a single one, and others that and the rest.
pub(crate) fn only(partition: u16) -> impl Fn(u16) -> Held {
    move |other| if other == partition { Held::Shared } else { Held::Elsewhere }
}
