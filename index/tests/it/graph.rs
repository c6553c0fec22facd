//! The graph index against a plain model, through seals, merges, restarts and crashes.

use std::collections::{BTreeMap, BTreeSet};

use allidb_index::{
    graph::{ExpandRequest, HopsRequest, NeighborPages, NeighborsRequest},
    model::{CollectionSet, CollectionSpec, Direction, Edge, EdgeRef, EntityRef, Timestamp, Write},
    query::{ExpandSpec, TruncationReason},
};
use allidb_storage::fs::Fs as _;
use proptest::prelude::*;

use crate::fixture::{Fixture, TENANT, at, deadline, entity};

const NODES: u8 = 6;
/// In microseconds, as times are.
const MILLI: i64 = 1_000;

#[derive(Clone, Debug)]
enum Step {
    Put(u8, Option<i64>),
    Delete(u8),
    Link {
        from: u8,
        relation: u8,
        to: u8,
        id: u8,
        weight: u8,
        until: Option<i64>,
    },
    Unlink {
        from: u8,
        relation: u8,
        to: u8,
        id: u8,
    },
    /// Several at once, in one batch.
    Batch(Vec<Step>),
    Seal,
    Reopen,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    let node = || 0..NODES;
    let put = (node(), proptest::option::weighted(0.2, 1..40_i64)).prop_map(|(n, at)| Step::Put(n, at));
    let until = proptest::option::weighted(0.2, 1..40_i64);
    let link = (node(), 0..2_u8, node(), 0..2_u8, 0..=4_u8, until).prop_map(
        |(from, relation, to, id, weight, until)| Step::Link { from, relation, to, id, weight, until },
    );
    let unlink = (node(), 0..2_u8, node(), 0..2_u8).prop_map(|(from, relation, to, id)| Step::Unlink {
        from,
        relation,
        to,
        id,
    });
    let write = prop_oneof![3 => put, 2 => node().prop_map(Step::Delete), 10 => link, 2 => unlink].boxed();
    prop_oneof![
        20 => write.clone(),
        3 => prop::collection::vec(write, 2..6).prop_map(Step::Batch),
        4 => Just(Step::Seal),
        1 => Just(Step::Reopen),
        1 => Just(Step::Crash),
    ]
}

/// From, relation, to, edge id.
type Name = (u8, u8, u8, u8);

#[derive(Default)]
struct Model {
    /// Until when each entity is there.
    entities: BTreeMap<u8, Option<i64>>,
    edges: BTreeMap<Name, (u8, Option<i64>)>,
}

impl Model {
    fn is_live(&self, node: u8, now: i64) -> bool {
        self.entities.get(&node).is_some_and(|until| until.is_none_or(|until| now < until))
    }

    fn forget_edges(&mut self, node: u8) {
        self.edges.retain(|(from, _, to, _), _| *from != node && *to != node);
    }

    fn write(&mut self, step: &Step, now: i64) -> Write {
        match step {
            Step::Put(node, until) => {
                if self.entities.contains_key(node) && !self.is_live(*node, now) {
                    self.forget_edges(*node);
                }
                let until = until.map(|after| now + after * MILLI);
                self.entities.insert(*node, until);
                let mut put = entity(&name(*node), &[]);
                put.expire_at = until.map(Timestamp);
                Write::Put { collection: "c".into(), entity: Box::new(put) }
            }
            Step::Delete(node) => {
                self.entities.remove(node);
                self.forget_edges(*node);
                Write::Delete(at(&name(*node)))
            }
            Step::Link { from, relation, to, id, weight, until } => {
                let until = until.map(|after| now + after * MILLI);
                self.edges.insert((*from, *relation, *to, *id), (*weight, until));
                let edge = edge_ref((*from, *relation, *to, *id));
                let mut edge = Edge {
                    edge_id: edge.edge_id.clone(),
                    weight: f64::from(*weight) / 4.0,
                    ..Edge::new(edge.from, edge.relation, edge.to)
                };
                edge.valid_to = until.map(Timestamp);
                Write::PutEdge(Box::new(edge))
            }
            Step::Unlink { from, relation, to, id } => {
                let edge = (*from, *relation, *to, *id);
                self.edges.remove(&edge);
                Write::DeleteEdge(edge_ref(edge))
            }
            _ => unreachable!("a write"),
        }
    }

    /// What the edges of a node are at `now`: direction, name and weight.
    fn edges_of(&self, node: u8, now: i64) -> BTreeSet<(Direction, Name, u8)> {
        let mut found = BTreeSet::new();
        let is_expired = |node: u8| self.entities.contains_key(&node) && !self.is_live(node, now);
        if is_expired(node) {
            return found;
        }
        for (name, (weight, until)) in &self.edges {
            let (from, _, to, _) = *name;
            if until.is_some_and(|until| now >= until) || is_expired(from) || is_expired(to) {
                continue;
            }
            if from == node {
                found.insert((Direction::Out, *name, *weight));
            }
            if to == node {
                found.insert((Direction::In, *name, *weight));
            }
        }
        found
    }

    /// Who is reached from a node in so many hops either way, along edges that weigh something.
    fn reached(&self, node: u8, hops: usize, now: i64) -> BTreeSet<u8> {
        let mut all = BTreeSet::new();
        if !self.is_live(node, now) {
            return all;
        }
        all.insert(node);
        for _ in 0..hops {
            for from in all.clone() {
                for (direction, (source, _, target, _), weight) in self.edges_of(from, now) {
                    let other = if direction == Direction::Out { target } else { source };
                    if weight > 0 && self.is_live(other, now) {
                        all.insert(other);
                    }
                }
            }
        }
        all.remove(&node);
        all
    }
}

fn name(node: u8) -> String {
    format!("n{node}")
}

fn edge_ref((from, relation, to, id): Name) -> EdgeRef {
    let edge_id = if id == 0 { String::new() } else { "x".repeat(id.into()) };
    EdgeRef { from: at(&name(from)), relation: format!("r{relation}"), to: at(&name(to)), edge_id }
}

fn check(fixture: &Fixture, model: &Model, now: i64) {
    for node in 0..NODES {
        let request = NeighborsRequest {
            entity: at(&name(node)),
            relations: vec![],
            direction: Direction::Both,
            min_weight: 0.0,
            as_of: None,
            any_time: false,
            limit: 100,
            collections: CollectionSet::ALL,
            pages: NeighborPages::Heaviest,
        };
        let answer = fixture.replica.neighbors(TENANT, &request, deadline()).unwrap();
        let found = answer.neighbors.iter();
        let found: BTreeSet<_> = found
            .map(|found| (found.direction, found.edge.edge_ref(), (found.edge.weight * 4.0) as u8))
            .collect();
        let wanted = model.edges_of(node, now).into_iter();
        let wanted: BTreeSet<_> =
            wanted.map(|(direction, name, weight)| (direction, edge_ref(name), weight)).collect();
        assert_eq!(found, wanted, "edges of {node}");
        let spec =
            ExpandSpec { hops: 2, direction: Direction::Both, min_weight: 0.1, ..ExpandSpec::default() };
        let request = ExpandRequest { seeds: vec![at(&name(node))], spec, paths: true };
        let found = fixture.replica.expand(TENANT, &request, deadline()).unwrap();
        let found: BTreeSet<String> = found.nodes.into_iter().map(|found| found.entity.id).collect();
        let wanted: BTreeSet<String> = model.reached(node, 2, now).into_iter().map(name).collect();
        assert_eq!(found, wanted, "reached from {node}");
    }
}

fn now(fixture: &Fixture) -> i64 {
    use allidb_index::Clock;
    fixture.clock.now().0
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn the_graph_is_what_was_written_whatever_happens_between(steps in prop::collection::vec(step(), 1..60)) {
        let mut fixture = Fixture::new();
        let mut model = Model::default();
        for step in &steps {
            match step {
                Step::Seal => fixture.replica.seal_graph().unwrap(),
                Step::Reopen => fixture = fixture.reopen(),
                Step::Crash => fixture = fixture.crash(),
                Step::Batch(steps) => {
                    let now = now(&fixture) + MILLI;
                    let writes = steps.iter().map(|step| model.write(step, now)).collect();
                    prop_assert!(fixture.write(writes).iter().all(Result::is_ok));
                }
                step => {
                    let now = now(&fixture) + MILLI;
                    fixture.one(model.write(step, now)).unwrap();
                }
            }
            check(&fixture, &model, now(&fixture));
        }
    }
}

/// Loses the segments of the graph, as a broken disk does, and opens the store again.
fn without_segments(fixture: Fixture) -> Fixture {
    let dir = std::path::Path::new("/node/graph");
    fixture.replica.close().unwrap();
    for name in fixture.fs.list(dir).unwrap() {
        fixture.fs.remove(&dir.join(name)).unwrap();
    }
    fixture.crash()
}

fn neighbors(fixture: &Fixture, id: &str) -> usize {
    let request = NeighborsRequest {
        entity: at(id),
        relations: vec![],
        direction: Direction::Both,
        min_weight: 0.0,
        as_of: None,
        any_time: false,
        limit: 100,
        collections: CollectionSet::ALL,
        pages: NeighborPages::Heaviest,
    };
    fixture.replica.neighbors(TENANT, &request, deadline()).unwrap().neighbors.len()
}

#[test]
fn lost_segments_are_made_again_from_the_rows() {
    let fixture = Fixture::new();
    fixture.put(entity("hub", &[]));
    let edge = |to: &str| EdgeRef { from: at("hub"), relation: "r".into(), to: at(to), edge_id: "".into() };
    fixture.link("hub", "r", "ghost", 0.5);
    fixture.link("hub", "r", "other", 0.5);
    fixture.one(Write::DeleteEdge(edge("ghost"))).unwrap();
    fixture.replica.seal_graph().unwrap();
    let fixture = without_segments(fixture);
    assert_eq!(neighbors(&fixture, "hub"), 1);
    // Its number outlived its only edge.
    fixture.link("hub", "r", "ghost", 0.5);
    assert_eq!((neighbors(&fixture, "hub"), neighbors(&fixture, "ghost")), (2, 1));
    let fixture = without_segments(fixture.reopen());
    assert_eq!((neighbors(&fixture, "hub"), neighbors(&fixture, "ghost")), (2, 1));
}

#[test]
fn a_damaged_segment_is_set_aside_and_made_again() {
    let fixture = Fixture::new();
    for node in 0..300 {
        fixture.put(entity(&format!("s{node}"), &[]));
        fixture.link("hub", "r", &format!("s{node}"), 0.5);
    }
    fixture.replica.seal_graph().unwrap();
    fixture.replica.close().unwrap();
    let dir = std::path::Path::new("/node/graph");
    let names = fixture.fs.list(dir).unwrap();
    let path = dir.join(names.first().unwrap());
    let mut bytes = fixture.fs.open_read(&path).unwrap().read_all().unwrap();
    let at_ = bytes.len() / 2;
    bytes[at_] ^= 4;
    let file = fixture.fs.open(&path).unwrap();
    file.write_all_at(0, &bytes).unwrap();
    file.sync().unwrap();
    let fixture = fixture.crash();
    assert_eq!(neighbors(&fixture, "hub"), 100, "as many as were asked for");
    assert_eq!(neighbors(&fixture, "s7"), 1);
    let names = fixture.fs.list(dir).unwrap();
    assert!(names.iter().any(|name| name.ends_with(".damaged")), "{names:?}");
}

#[test]
fn nobody_walks_through_a_dropped_collection() {
    let fixture = Fixture::new();
    fixture.replica.create_collection(TENANT, "d", CollectionSpec::default()).unwrap();
    let there = |id: &str| EntityRef::new("d", id);
    fixture.put(entity("a", &[]));
    fixture.put(entity("z", &[]));
    let middle = Write::Put { collection: "d".into(), entity: Box::new(entity("m", &[])) };
    fixture.one(middle).unwrap();
    for (from, to) in [(at("a"), there("m")), (there("m"), at("z"))] {
        fixture.one(Write::PutEdge(Box::new(Edge::new(from, "r", to)))).unwrap();
    }
    let count = || {
        let request = HopsRequest {
            seeds: vec![at("a")],
            relations: vec![],
            direction: Direction::Out,
            hops: 2,
            min_weight: 0.0,
            as_of: None,
            collections: CollectionSet::ALL,
        };
        fixture.replica.count_hops(TENANT, &request, deadline()).unwrap().counts
    };
    assert_eq!(count(), [1, 1]);
    fixture.replica.seal_graph().unwrap();
    fixture.replica.drop_collection(TENANT, "d").unwrap();
    assert_eq!(count(), [0, 0]);
}

#[test]
fn edges_that_nobody_sees_count_towards_bounds() {
    let fixture = Fixture::new();
    fixture.put(entity("hub", &[]));
    for node in 0..600 {
        let mut spoke = entity(&format!("s{node}"), &[]);
        spoke.expire_at = Some(Timestamp(now(&fixture) + 5_000 * MILLI));
        fixture.put(spoke);
        fixture.link("hub", "r", &format!("s{node}"), 0.5);
    }
    fixture.clock.advance(10_000);
    let past = allidb_index::Deadline(std::time::Instant::now());
    let request = NeighborsRequest {
        entity: at("hub"),
        relations: vec![],
        direction: Direction::Both,
        min_weight: 0.0,
        as_of: None,
        any_time: false,
        limit: 1,
        collections: CollectionSet::ALL,
        pages: NeighborPages::Heaviest,
    };
    let answer = fixture.replica.neighbors(TENANT, &request, past).unwrap();
    assert_eq!((answer.neighbors.len(), answer.truncated[0].reason), (0, TruncationReason::Deadline));
}

#[test]
fn what_is_known_of_nodes_that_are_gone_takes_no_more_memory() {
    let fixture = Fixture::new();
    let mut last = 0;
    for round in 0..4 {
        let ids = || (0..2_000).map(|node| format!("e{node}"));
        let put = |id: String| Write::Put { collection: "c".into(), entity: Box::new(entity(&id, &[])) };
        assert!(fixture.write(ids().map(put).collect()).iter().all(Result::is_ok));
        assert!(fixture.write(ids().map(|id| Write::Delete(at(&id))).collect()).iter().all(Result::is_ok));
        fixture.replica.seal_graph().unwrap();
        let now = fixture.replica.graph_counts().memory_bytes;
        assert!(round == 0 || now <= last + 50_000, "{last} to {now}");
        last = now;
    }
    assert_eq!(fixture.replica.graph_counts().nodes, 0);
}

/// One thread deletes the middle of a path and puts it back, in one batch each; no walk may see half of that.
#[test]
fn a_walk_sees_the_graph_of_one_moment() {
    let fixture = Fixture::new();
    let restore = || {
        let put = |id: &str| Write::Put { collection: "c".into(), entity: Box::new(entity(id, &[])) };
        let link = |from: &str, to: &str| Write::PutEdge(Box::new(Edge::new(at(from), "r", at(to))));
        vec![put("a"), put("n"), put("z"), link("a", "n"), link("n", "z")]
    };
    assert!(fixture.write(restore()).iter().all(Result::is_ok));
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..1_500 {
                fixture.delete("n");
                assert!(fixture.write(restore()).iter().all(Result::is_ok));
                if round % 100 == 0 {
                    fixture.replica.seal_graph().unwrap();
                }
            }
            is_over.store(true, std::sync::atomic::Ordering::Release);
        });
        while !is_over.load(std::sync::atomic::Ordering::Acquire) {
            let spec = ExpandSpec { hops: 2, ..ExpandSpec::default() };
            let request = ExpandRequest { seeds: vec![at("a")], spec, paths: true };
            let found = fixture.replica.expand(TENANT, &request, deadline()).unwrap();
            let found: Vec<_> =
                found.nodes.iter().map(|node| (node.entity.id.as_str(), node.path.len())).collect();
            assert!(found.is_empty() || found == [("n", 1), ("z", 2)], "{found:?}");
        }
    });
}
