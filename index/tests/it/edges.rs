//! Edges: both directions, deletes, and walks checked against plain search.

use std::collections::HashMap;

use allidb_index::{
    graph::{ExpandRequest, NeighborPages, NeighborPlace, NeighborsRequest},
    model::{CollectionSet, Direction, Edge, EdgeRef, EntityRef, Timestamp, Write},
    query::{ExpandSpec, TruncationReason},
};
use proptest::prelude::*;

use crate::fixture::{Fixture, TENANT, at, deadline, entity};

fn neighbors(fixture: &Fixture, id: &str, direction: Direction) -> Vec<(String, String, f64)> {
    let request = NeighborsRequest {
        entity: at(id),
        relations: vec![],
        direction,
        min_weight: 0.0,
        as_of: None,
        any_time: false,
        limit: 100,
        collections: CollectionSet::ALL,
        pages: NeighborPages::Heaviest,
    };
    let answer = fixture.replica.neighbors(TENANT, &request, deadline()).unwrap();
    let other = |edge: &Edge, direction| {
        if direction == Direction::In { edge.from.id.clone() } else { edge.to.id.clone() }
    };
    answer
        .neighbors
        .iter()
        .map(|n| (n.edge.relation.clone(), other(&n.edge, n.direction), n.edge.weight))
        .collect()
}

fn expand(fixture: &Fixture, seed: &str, spec: ExpandSpec) -> allidb_index::graph::Expansion {
    fixture
        .replica
        .expand(TENANT, &ExpandRequest { seeds: vec![at(seed)], spec, paths: true }, deadline())
        .unwrap()
}

fn edge_ref(from: &str, relation: &str, to: &str) -> EdgeRef {
    EdgeRef { from: at(from), relation: relation.into(), to: at(to), edge_id: String::new() }
}

/// The names of all edges of an entity, page by page, and how many pages there were.
fn paged(fixture: &Fixture, id: &str, limit: usize, between: &dyn Fn(usize)) -> (Vec<EdgeRef>, usize) {
    let (mut found, mut pages, mut place) = (Vec::new(), 0, None);
    loop {
        let request = NeighborsRequest {
            entity: at(id),
            relations: vec![],
            direction: Direction::Both,
            min_weight: 0.1,
            as_of: None,
            any_time: false,
            limit,
            collections: CollectionSet::ALL,
            pages: NeighborPages::After(place),
        };
        let page = fixture.replica.neighbors(TENANT, &request, deadline()).unwrap();
        assert!(page.truncated.is_empty() && page.neighbors.len() <= limit);
        found.extend(page.neighbors.iter().map(|neighbor| neighbor.edge.edge_ref()));
        pages += 1;
        let Some(next) = page.next else { return (found, pages) };
        place = Some(NeighborPlace::decode(&next.encode().unwrap()).unwrap());
        between(pages);
    }
}

#[test]
fn all_edges_of_a_hub_come_page_by_page() {
    let mut fixture = Fixture::new();
    let mut expected = Vec::new();
    let name = |at: usize| format!("e{at:03}");
    for at in 0..150 {
        fixture.put(entity(&name(at), &[]));
    }
    fixture.put(entity("hub", &[]));
    for at in 0..150 {
        let (relation, weight) = (["r", "s", "t"][at % 3], [1.0, 0.5, 0.25, 0.05][at % 4]);
        let out = at % 5 > 0;
        let (from, to) = if out { ("hub".to_owned(), name(at)) } else { (name(at), "hub".to_owned()) };
        fixture.link(&from, relation, &to, weight);
        if weight > 0.1 && at % 7 > 0 {
            expected.push(edge_ref(&from, relation, &to));
        }
    }
    for at in (0..150).filter(|at| at % 7 == 0) {
        fixture.write(vec![Write::Delete(crate::fixture::at(&name(at)))]).pop().unwrap().unwrap();
    }
    expected.sort();
    for round in 0..2 {
        for limit in [1, 7, 50, 1_000] {
            let (mut found, pages) = paged(&fixture, "hub", limit, &|_| {});
            found.sort();
            assert_eq!(found, expected, "pages of {limit}");
            assert_eq!(pages, expected.len().div_ceil(limit), "pages of {limit}, round {round}");
        }
        fixture = fixture.reopen();
    }
    // What comes and goes meanwhile may be told or not; the others are told once.
    let changes = |page: usize| {
        fixture.put(entity(&format!("new{page}"), &[]));
        fixture.link("hub", "r", &format!("new{page}"), 1.0);
        fixture.link("hub", "t", &format!("new{page}"), 0.2);
        fixture.write(vec![Write::Delete(crate::fixture::at(&name(page)))]).pop().unwrap().unwrap();
    };
    let (found, _) = paged(&fixture, "hub", 10, &changes);
    let is_told = |edge: &EdgeRef| found.iter().filter(|other| *other == edge).count();
    for edge in &expected {
        let end = if edge.from.id == "hub" { &edge.to.id } else { &edge.from.id };
        let may_be_gone = end[1..].parse::<usize>().unwrap() <= 20;
        assert!(is_told(edge) == 1 || may_be_gone && is_told(edge) == 0, "{edge:?}");
    }
    // Nor is what somebody else's page ended with a place here.
    assert!(NeighborPlace::decode(&[9, 9]).is_err());
}

#[test]
fn an_edge_is_seen_from_both_ends_heaviest_first() {
    let fixture = Fixture::new();
    for id in ["a", "b", "c", "d"] {
        fixture.put(entity(id, &[]));
    }
    fixture.link("a", "r", "b", 0.2);
    fixture.link("a", "r", "c", 0.9);
    fixture.link("d", "s", "a", 0.5);
    let fixture = fixture.reopen();
    let row = |relation: &str, other: &str, weight| (relation.to_owned(), other.to_owned(), weight);
    assert_eq!(neighbors(&fixture, "a", Direction::Out), [row("r", "c", 0.9), row("r", "b", 0.2)]);
    assert_eq!(neighbors(&fixture, "a", Direction::In), [row("s", "d", 0.5)]);
    assert_eq!(neighbors(&fixture, "a", Direction::Both).len(), 3);
    assert_eq!(neighbors(&fixture, "b", Direction::In), [row("r", "a", 0.2)]);
    fixture.link("a", "r", "b", 1.0);
    assert_eq!(neighbors(&fixture, "b", Direction::In), [row("r", "a", 1.0)]);
    let gone = fixture.one(Write::DeleteEdge(edge_ref("a", "r", "b"))).unwrap();
    assert!(gone.existed);
    assert!(neighbors(&fixture, "b", Direction::In).is_empty());
    assert!(!fixture.one(Write::DeleteEdge(edge_ref("a", "r", "b"))).unwrap().existed);
}

#[test]
fn deleting_an_entity_deletes_its_edges_for_good_and_put_keeps_them() {
    let fixture = Fixture::new();
    for id in ["a", "b", "c"] {
        fixture.put(entity(id, &[]));
    }
    fixture.link("a", "r", "b", 1.0);
    fixture.link("b", "r", "c", 1.0);
    fixture.put(entity("b", &[1.0, 1.0]));
    assert_eq!(neighbors(&fixture, "b", Direction::Both).len(), 2, "put replaces all but the edges");
    fixture.delete("b");
    let fixture = fixture.reopen();
    assert!(neighbors(&fixture, "a", Direction::Out).is_empty());
    assert!(neighbors(&fixture, "c", Direction::In).is_empty());
    fixture.put(entity("b", &[]));
    assert!(neighbors(&fixture, "b", Direction::Both).is_empty(), "what comes anew has no old edges");
    assert!(neighbors(&fixture, "a", Direction::Out).is_empty());
}

#[test]
fn edges_of_a_deleted_hub_stay_gone_though_they_are_too_many_to_remove_at_once() {
    let fixture = Fixture::new();
    fixture.put(entity("hub", &[]));
    let spokes = 10_100;
    for from in (0..spokes).step_by(5_050) {
        let edge = |at_: i32| Edge::new(at(&format!("n{at_:05}")), "r", at("hub"));
        let results =
            fixture.write((from..from + 5_050).map(|n| Write::PutEdge(Box::new(edge(n)))).collect());
        assert!(results.iter().all(Result::is_ok));
    }
    fixture.delete("hub");
    let last = format!("n{:05}", spokes - 1);
    assert!(neighbors(&fixture, &last, Direction::Out).is_empty());
    fixture.put(entity("hub", &[]));
    let fixture = fixture.reopen();
    assert!(neighbors(&fixture, &last, Direction::Out).is_empty());
    assert!(neighbors(&fixture, "hub", Direction::In).is_empty());
    fixture.link(&last, "r", "hub", 0.5);
    assert_eq!(neighbors(&fixture, "hub", Direction::In).len(), 1);
}

#[test]
fn valid_time_and_weight_bound_what_is_seen() {
    let fixture = Fixture::new();
    for id in ["a", "b"] {
        fixture.put(entity(id, &[]));
    }
    let mut edge = Edge::new(at("a"), "r", at("b"));
    (edge.valid_from, edge.valid_to) = (Some(Timestamp(10)), Some(Timestamp(20)));
    fixture.one(Write::PutEdge(Box::new(edge.clone()))).unwrap();
    let seen = |as_of, any_time| {
        let relations = vec!["r".to_owned()];
        let request = NeighborsRequest {
            entity: at("a"),
            relations,
            direction: Direction::Out,
            min_weight: 0.5,
            as_of,
            any_time,
            limit: 9,
            collections: CollectionSet::ALL,
            pages: NeighborPages::Heaviest,
        };
        fixture.replica.neighbors(TENANT, &request, deadline()).unwrap().neighbors.len()
    };
    assert_eq!(
        [9, 10, 20].map(|micros| seen(Some(Timestamp(micros)), false)),
        [0, 1, 0],
        "from the first moment on, and not at the last"
    );
    assert_eq!([seen(None, false), seen(None, true)], [0, 1], "now, and whenever");
    edge.valid_to = Some(Timestamp(5));
    assert!(fixture.one(Write::PutEdge(Box::new(edge.clone()))).is_err());
    edge.valid_to = None;
    edge.weight = 1.5;
    assert!(fixture.one(Write::PutEdge(Box::new(edge))).is_err());
}

#[test]
fn a_walk_reports_what_its_bounds_cut_off() {
    let fixture = Fixture::new();
    fixture.put(entity("a", &[]));
    for at_ in 0..20 {
        let id = format!("n{at_:02}");
        fixture.put(entity(&id, &[]));
        fixture.link("a", "r", &id, f64::from(at_) / 20.0);
    }
    let whole = expand(&fixture, "a", ExpandSpec::default());
    assert_eq!((whole.nodes.len(), whole.truncated.len()), (20, 0));
    let narrow = expand(&fixture, "a", ExpandSpec { fan_out: 3, ..ExpandSpec::default() });
    let ids: Vec<_> = narrow.nodes.iter().map(|node| node.entity.id.as_str()).collect();
    assert_eq!(ids, ["n19", "n18", "n17"], "the heaviest are followed");
    assert_eq!(narrow.truncated[0].reason, TruncationReason::FanOut);
    let few = expand(&fixture, "a", ExpandSpec { max_nodes: 5, ..ExpandSpec::default() });
    assert_eq!((few.nodes.len(), few.truncated[0].reason), (5, TruncationReason::MaxNodes));
    let light = expand(&fixture, "a", ExpandSpec { min_weight: 0.5, ..ExpandSpec::default() });
    assert_eq!(light.nodes.len(), 10);
    let past = allidb_index::Deadline(std::time::Instant::now());
    let request = ExpandRequest { seeds: vec![at("a")], spec: ExpandSpec::default(), paths: true };
    let late = fixture.replica.expand(TENANT, &request, past).unwrap();
    assert_eq!(late.truncated[0].reason, TruncationReason::Deadline);
    for spec in [
        ExpandSpec { hops: 0, ..ExpandSpec::default() },
        ExpandSpec { hops: 99, ..ExpandSpec::default() },
        ExpandSpec { decay: 0.0, ..ExpandSpec::default() },
        ExpandSpec { min_weight: f64::NAN, ..ExpandSpec::default() },
    ] {
        assert!(
            fixture
                .replica
                .expand(TENANT, &ExpandRequest { seeds: vec![at("a")], spec, paths: true }, deadline())
                .is_err()
        );
    }
}

#[test]
fn a_walk_stays_off_deleted_and_missing_entities() {
    let fixture = Fixture::new();
    for id in ["a", "b", "c"] {
        fixture.put(entity(id, &[]));
    }
    fixture.link("a", "r", "b", 1.0);
    fixture.link("b", "r", "c", 1.0);
    fixture.link("a", "r", "never-put", 1.0);
    let spec = || ExpandSpec { hops: 3, ..ExpandSpec::default() };
    let reached = |fixture: &Fixture| {
        expand(fixture, "a", spec()).nodes.iter().map(|n| n.entity.id.clone()).collect::<Vec<_>>()
    };
    assert_eq!(reached(&fixture), ["b", "c"]);
    fixture.delete("b");
    assert!(reached(&fixture).is_empty());
    assert_eq!(
        neighbors(&fixture, "a", Direction::Out).len(),
        1,
        "an edge may lead to what is not there yet"
    );
    fixture.put(entity("never-put", &[]));
    assert_eq!(reached(&fixture), ["never-put"]);
}

/// The best score of each node over all walks of at most so many hops, by trying them all.
fn oracle(edges: &[(u8, u8, u8)], hops: usize, decay: f64) -> HashMap<u8, f64> {
    let mut best = HashMap::from([(0, 1.0)]);
    let mut level = best.clone();
    for _ in 0..hops {
        let mut next: HashMap<u8, f64> = HashMap::new();
        for (from, to, weight) in edges {
            if let Some(score) = level.get(from) {
                let score = score * decay * (f64::from(*weight) / 10.0);
                let slot = next.entry(*to).or_insert(-1.0);
                *slot = slot.max(score);
            }
        }
        for (node, score) in &next {
            let slot = best.entry(*node).or_insert(-1.0);
            *slot = slot.max(*score);
        }
        level = next;
    }
    best
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn walks_find_the_best_score_of_every_node(
        edges in prop::collection::btree_map((0..8_u8, 0..8_u8), 1..=10_u8, 0..24),
        hops in 1..4_usize,
    ) {
        let fixture = Fixture::new();
        for node in 0..8 {
            fixture.put(entity(&format!("n{node}"), &[]));
        }
        let edges: Vec<(u8, u8, u8)> = edges.into_iter().map(|((from, to), weight)| (from, to, weight)).collect();
        for (from, to, weight) in &edges {
            fixture.link(&format!("n{from}"), "r", &format!("n{to}"), f64::from(*weight) / 10.0);
        }
        let found = expand(&fixture, "n0", ExpandSpec { hops, decay: 0.8, ..ExpandSpec::default() });
        let mut wanted = oracle(&edges, hops, 0.8);
        wanted.remove(&0);
        prop_assert_eq!(found.nodes.len(), wanted.len());
        for node in &found.nodes {
            let id: u8 = node.entity.id[1..].parse().unwrap();
            prop_assert!((node.score - wanted[&id]).abs() < 1e-12, "{} {} {}", id, node.score, wanted[&id]);
            // The path told is the path scored.
            prop_assert_eq!(node.path.len(), node.hops);
            let product: f64 = node.path.iter().map(|step| step.edge.weight * 0.8).product();
            prop_assert!((product - node.score).abs() < 1e-12);
            prop_assert_eq!(&node.path[0].edge.from, &at("n0"));
            prop_assert_eq!(&node.path[node.hops - 1].edge.to, &EntityRef::new("c", &node.entity.id));
        }
    }
}

#[test]
fn an_edge_and_the_delete_of_one_of_its_ends_in_one_batch_leave_nothing() {
    for (deleted, other) in [("a", "b"), ("b", "a")] {
        let fixture = Fixture::new();
        fixture.put(entity("a", &[]));
        fixture.put(entity("b", &[]));
        let link = || Write::PutEdge(Box::new(Edge::new(at("a"), "r", at("b"))));
        let results = fixture.write(vec![link(), Write::Delete(at(deleted))]);
        assert!(results.iter().all(Result::is_ok));
        assert!(neighbors(&fixture, other, Direction::Both).is_empty());
        fixture.put(entity(deleted, &[]));
        assert!(neighbors(&fixture, other, Direction::Both).is_empty());
        let results = fixture.write(vec![link(), Write::Delete(at(deleted)), link()]);
        assert!(results.iter().all(Result::is_ok));
        assert_eq!(neighbors(&fixture, other, Direction::Both).len(), 1);
        assert_eq!(neighbors(&fixture, deleted, Direction::Both).len(), 1);
    }
}
