//! The graph index against a plain model, through seals, merges, restarts and crashes.

use std::collections::{BTreeMap, BTreeSet};

use allidb_index::{
    graph::{ExpandRequest, NeighborsRequest},
    model::{Direction, Edge, EdgeRef, Timestamp, Write},
    query::ExpandSpec,
};
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
            limit: 100,
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
                    fixture.write(writes).into_iter().for_each(|written| drop(written.unwrap()));
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
