//! Threads that write and search at once, over segments that are sealed and merged meanwhile.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use allidb_index::{
    Replica, ReplicaOptions, SystemClock, SystemRandom, VectorOptions, build_pool,
    filter::{Field, Filter, Operator},
    model::{CollectionChange, CollectionSpec, Entity, EntityRef, Limits, Metric, SpaceSpec, Value, Write},
    query::{Nearest, Query, Seed},
};
use allidb_storage::{Durability, Options, Threads, fs::RealFs};

use crate::fixture::{TENANT, deadline, entity, ids};

const DIMENSION: usize = 64;
const WRITERS: usize = 4;
/// Entities of each writer.
const ENTITIES: usize = 3_000;

/// How long it goes on; longer if the environment says so.
fn duration() -> Duration {
    let seconds = std::env::var("ALLIDB_FRESH_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(6))
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % end
    }

    fn vector(&mut self) -> Vec<f32> {
        (0..DIMENSION).map(|_| self.below(1 << 20) as f32 / (1 << 19) as f32 - 1.0).collect()
    }
}

fn open(dir: &std::path::Path) -> Arc<Replica> {
    let vectors =
        VectorOptions { build_threads: 1, connections: 12, build_breadth: 60, ..Default::default() };
    Replica::open(ReplicaOptions {
        fs: Arc::new(RealFs),
        dir: dir.to_owned(),
        keyspace: allidb_storage::KeyspaceOptions::new(""),
        storage: Options { min_free_bytes: 0, ..Options::default() },
        build_pool: build_pool(&vectors).unwrap(),
        vectors,
        limits: Limits::default(),
        clock: Arc::new(SystemClock),
        random: Arc::new(SystemRandom),
        background: Arc::new(Threads),
    })
    .unwrap()
}

fn write(replica: &Replica, write: Write) {
    let planned = replica.plan(TENANT, write).unwrap();
    replica.apply(vec![planned], Durability::Flush).pop().unwrap().unwrap();
}

fn nearest(replica: &Replica, vector: &[f32], exact: bool) -> Vec<String> {
    let nearest = Nearest { exact, ..Nearest::to_vector("v", vector.to_vec()) };
    let query = Query { limit: 5, ..Query::new("c", vec![Seed::Nearest(nearest)]) };
    ids(&replica.query(TENANT, &query, deadline()).unwrap())
}

/// The entity whose vector equals this one.
fn equal(replica: &Replica, vector: &[f32]) -> Option<String> {
    let query =
        Query { limit: 1, ..Query::new("c", vec![Seed::Nearest(Nearest::to_vector("v", vector.to_vec()))]) };
    let answer = replica.query(TENANT, &query, deadline()).unwrap();
    answer.hits.into_iter().find(|hit| hit.score > 0.9999).map(|hit| hit.entity.id)
}

#[test]
fn a_vector_is_found_once_it_was_put_and_never_once_it_was_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let replica = open(dir.path());
    let spaces = vec![SpaceSpec::new("v", DIMENSION as u32, Metric::Cosine)];
    replica.create_collection(TENANT, "c", CollectionSpec::of_spaces(spaces)).unwrap();
    let until = Instant::now() + duration();
    let latest = until + Duration::from_secs(60);
    let (writes, walked, missed) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let work = |writer: usize| {
        let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ (writer as u64 + 1) << 32);
        let mut current: Vec<Option<Vec<f32>>> = vec![None; ENTITIES];
        // On a slow machine it goes on until something is sealed.
        while Instant::now() < until || (Instant::now() < latest && replica.vector_counts().rows_written == 0)
        {
            let of_writer = random.below(ENTITIES);
            let id = format!("w{writer}-{of_writer}");
            let before = current[of_writer].take();
            if before.is_some() && random.below(4) == 0 {
                write(&replica, Write::Delete(EntityRef::new("c", &id)));
            } else {
                let vector = random.vector();
                let put = entity(&id, &vector);
                write(&replica, Write::Put { collection: "c".into(), entity: Box::new(put) });
                assert_eq!(nearest(&replica, &vector, false)[0], id, "put, and not found");
                current[of_writer] = Some(vector);
            }
            // Nothing else is the same as what it was.
            let same = before.and_then(|before| equal(&replica, &before));
            assert_eq!(same, None, "replaced or deleted, and found");
            // Something written long ago: in some segment by now.
            let old = random.below(ENTITIES);
            if let Some(vector) = &current[old] {
                let id = format!("w{writer}-{old}");
                walked.fetch_add(1, Ordering::Relaxed);
                if nearest(&replica, vector, false)[0] != id {
                    missed.fetch_add(1, Ordering::Relaxed);
                    assert_eq!(nearest(&replica, vector, true)[0], id, "not even compared with all");
                }
            }
            writes.fetch_add(1, Ordering::Relaxed);
        }
        current
    };
    let current: Vec<Vec<Option<Vec<f32>>>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..WRITERS).map(|writer| scope.spawn(move || work(writer))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let counts = replica.vector_counts();
    println!("{writes:?} writes, {missed:?} of {walked:?} walks missed; {counts:?}");
    assert!(counts.rows_written > 0, "nothing was sealed: {counts:?}");
    let (walked, missed) = (walked.into_inner(), missed.into_inner());
    assert!(missed * 100 <= walked, "{missed} of {walked} walks missed");
    replica.close().unwrap();
    drop(replica);
    let replica = open(dir.path());
    for (writer, of_writer) in current.iter().enumerate() {
        for (at, vector) in of_writer.iter().enumerate().step_by(40) {
            let id = format!("w{writer}-{at}");
            let found = vector.as_ref().map(|vector| nearest(&replica, vector, true)[0] == id);
            assert_ne!(found, Some(false), "{id} after a restart");
        }
    }
    let living = current.iter().flatten().flatten().count();
    assert_eq!(replica.vector_counts().vectors, living);
    replica.close().unwrap();
}

/// Half of what is there is overwritten or deleted while the index is built.
#[test]
fn an_index_that_is_built_beside_writes_misses_nothing() {
    const WRITTEN: usize = 12_000;
    let dir = tempfile::tempdir().unwrap();
    let replica = open(dir.path());
    replica.create_collection(TENANT, "c", CollectionSpec::default()).unwrap();
    let put = |at: usize, value: i64| {
        let attributes = BTreeMap::from([("n".to_owned(), Value::Int(value))]);
        let entity = Entity { id: format!("e{at}"), attributes, ..Entity::default() };
        replica.plan(TENANT, Write::Put { collection: "c".into(), entity: Box::new(entity) }).unwrap()
    };
    for done in replica.apply((0..WRITTEN).map(|at| put(at, 1)).collect(), Durability::Flush) {
        done.unwrap();
    }
    let field = Field::parse("n").unwrap();
    let change = CollectionChange { add_indexes: vec![field.clone()], ..CollectionChange::default() };
    let changed = replica.update_collection(TENANT, "c", change).unwrap();
    let mut beside = 0;
    for at in (0..WRITTEN).step_by(2) {
        beside += usize::from(!changed.indexes[0].state.is_built());
        let mutation = match at % 3 {
            0 => replica.plan(TENANT, Write::Delete(EntityRef::new("c", format!("e{at}")))).unwrap(),
            _ => put(at, 2),
        };
        replica.apply(vec![mutation], Durability::None).pop().unwrap().unwrap();
    }
    assert!(beside > 0, "it was built before anything was written");
    let until = Instant::now() + Duration::from_secs(60);
    while !changed.indexes[0].state.is_built() {
        assert!(Instant::now() < until, "it is not built");
        thread::sleep(Duration::from_millis(5));
    }
    let check = |replica: &Replica| {
        let count = |value: i64| {
            let filter = Filter::Compare(field.clone(), Operator::Equal, Value::Int(value));
            replica.count(TENANT, "c", Some(&filter), deadline()).unwrap()
        };
        assert_eq!((count(1), count(2)), (WRITTEN as u64 / 2, WRITTEN as u64 / 3));
        let engine = replica.engine();
        let keyspace = engine.keyspace("posting").unwrap();
        let postings = engine.snapshot().prefix(keyspace, &[], allidb_storage::Direction::Forward).unwrap();
        assert_eq!(postings.count(), WRITTEN / 2 + WRITTEN / 3);
    };
    check(&replica);
    replica.close().unwrap();
    drop(replica);
    let replica = open(dir.path());
    check(&replica);
    replica.close().unwrap();
}
