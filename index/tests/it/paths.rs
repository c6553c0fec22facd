//! Paths, counts and patterns, checked against petgraph and against trying everything.

use std::collections::{BTreeMap, BTreeSet};

use allidb_index::{
    graph::{ExpandRequest, FoundPath, HopsRequest, PathCost, PathsRequest},
    model::{CollectionSet, Direction, Edge, Value, Write},
    query::{ExpandSpec, Query, Scoring, Seed, Signal, TruncationReason, Weights},
};
use petgraph::{algo, graph::DiGraph, graph::NodeIndex};
use proptest::prelude::*;

use crate::fixture::{Fixture, TENANT, at, deadline, entity};

const NODES: u8 = 7;

fn id(node: u8) -> String {
    format!("n{node}")
}

/// From, relation and to, with tenths of weight.
type Edges = BTreeMap<(u8, u8), u8>;

fn edges() -> impl Strategy<Value = Edges> {
    prop::collection::btree_map((0..NODES, 0..NODES), 1..=10_u8, 0..22)
}

fn fixture(edges: &Edges, is_sealed: bool) -> Fixture {
    let fixture = Fixture::new();
    for node in 0..NODES {
        fixture.put(entity(&id(node), &[]));
    }
    for (nth, ((from, to), weight)) in edges.iter().enumerate() {
        fixture.link(&id(*from), "r", &id(*to), f64::from(*weight) / 10.0);
        if is_sealed && nth % 5 == 4 {
            fixture.replica.seal_graph().unwrap();
        }
    }
    fixture
}

fn paths(fixture: &Fixture, cost: PathCost, k: usize, only_shortest: bool) -> Vec<FoundPath> {
    let request = PathsRequest {
        from: at(&id(0)),
        to: at(&id(1)),
        relations: vec![],
        direction: Direction::Out,
        max_hops: 32,
        min_weight: 0.0,
        as_of: None,
        cost,
        k,
        only_shortest,
        collections: CollectionSet::ALL,
    };
    let found = fixture.replica.shortest_paths(TENANT, &request, deadline()).unwrap();
    assert!(found.truncated.is_empty());
    for path in &found.paths {
        let mut nodes = vec![id(0)];
        for step in &path.steps {
            assert_eq!(nodes.last(), Some(&step.edge.from.id), "steps hang together");
            nodes.push(step.edge.to.id.clone());
        }
        assert_eq!(nodes.last(), Some(&id(1)));
        assert_eq!(nodes.iter().collect::<BTreeSet<_>>().len(), nodes.len(), "no node twice");
    }
    found.paths
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn paths_are_those_of_petgraph(edges in edges(), is_sealed: bool, k in 1..8_usize) {
        let fixture = fixture(&edges, is_sealed);
        let mut graph = DiGraph::<(), f64>::new();
        for _ in 0..NODES {
            graph.add_node(());
        }
        let node = |node: u8| NodeIndex::new(node.into());
        for ((from, to), weight) in &edges {
            graph.add_edge(node(*from), node(*to), f64::from(*weight) / 10.0);
        }
        let hops = algo::dijkstra(&graph, node(0), Some(node(1)), |_| 1_usize).get(&node(1)).copied();
        let found = paths(&fixture, PathCost::Hops, 1, false);
        prop_assert_eq!(found.first().map(|path| path.steps.len()), hops);
        let cost = algo::dijkstra(&graph, node(0), Some(node(1)), |edge| -edge.weight().ln());
        let found = paths(&fixture, PathCost::Weights, 1, false);
        prop_assert_eq!(found.len(), usize::from(hops.is_some()));
        if let (Some(path), Some(cost)) = (found.first(), cost.get(&node(1))) {
            prop_assert!((path.weight.ln() + cost).abs() < 1e-9);
        }
        let all: Vec<Vec<NodeIndex>> =
            algo::all_simple_paths::<Vec<_>, _, std::collections::hash_map::RandomState>(&graph, node(0), node(1), 0, None).collect();
        let mut lengths: Vec<usize> = all.iter().map(|path| path.len() - 1).collect();
        lengths.sort_unstable();
        let found: Vec<usize> = paths(&fixture, PathCost::Hops, k, false).iter().map(|p| p.steps.len()).collect();
        prop_assert_eq!(&found[..], &lengths[..k.min(lengths.len())]);
        let shortest = lengths.iter().filter(|length| Some(*length) == lengths.first()).count();
        prop_assert_eq!(paths(&fixture, PathCost::Hops, 1_000, true).len(), shortest);
        let weight = |path: &Vec<NodeIndex>| -> f64 {
            path.windows(2).map(|ends| graph[graph.find_edge(ends[0], ends[1]).expect("an edge")]).product()
        };
        let mut weights: Vec<f64> = all.iter().map(weight).collect();
        weights.sort_by(|a, b| b.total_cmp(a));
        let found = paths(&fixture, PathCost::Weights, k, false);
        prop_assert_eq!(found.len(), k.min(weights.len()));
        for (path, weight) in found.iter().zip(&weights) {
            prop_assert!((path.weight - weight).abs() < 1e-9, "{} {}", path.weight, weight);
        }
    }

    #[test]
    fn hops_are_counted_as_a_plain_search_does(edges in edges(), is_sealed: bool, both: bool) {
        let fixture = fixture(&edges, is_sealed);
        let direction = if both { Direction::Both } else { Direction::Out };
        let mut seen = BTreeSet::from([0]);
        let mut wanted = Vec::new();
        for _ in 0..3 {
            let before = seen.len();
            for from in seen.clone() {
                seen.extend(edges.keys().filter(|(a, _)| *a == from).map(|(_, b)| *b));
                if both {
                    seen.extend(edges.keys().filter(|(_, b)| *b == from).map(|(a, _)| *a));
                }
            }
            wanted.push((seen.len() - before) as u64);
        }
        let request = HopsRequest {
            seeds: vec![at(&id(0))],
            relations: vec![],
            direction,
            hops: 3,
            min_weight: 0.0,
            as_of: None,
            collections: CollectionSet::ALL,
        };
        let found = fixture.replica.count_hops(TENANT, &request, deadline()).unwrap();
        prop_assert_eq!(found.counts, wanted);
    }

    #[test]
    fn patterns_lead_where_trying_every_walk_does(
        edges in prop::collection::btree_set((0..NODES, 0..2_u8, 0..NODES), 0..25),
        is_sealed: bool,
    ) {
        let fixture = fixture(&Edges::new(), false);
        for (from, relation, to) in &edges {
            fixture.link(&id(*from), &format!("r{relation}"), &id(*to), 1.0);
        }
        if is_sealed {
            fixture.replica.seal_graph().unwrap();
        }
        let step = |from: &BTreeSet<u8>, relation: u8, is_back: bool| -> BTreeSet<u8> {
            let of = edges.iter().filter(|(_, other, _)| *other == relation);
            let ends = of.map(|(a, _, b)| if is_back { (*b, *a) } else { (*a, *b) });
            ends.filter(|(a, _)| from.contains(a)).map(|(_, b)| b).collect()
        };
        let start = BTreeSet::from([0]);
        let once = step(&start, 0, false);
        let twice = step(&once, 0, false);
        let either: BTreeSet<u8> = once.union(&twice).copied().collect();
        let then = step(&either, 1, false);
        let there_and_back = step(&step(&start, 1, false), 1, true);
        for (pattern, wanted) in [
            ("r0{1,2}/r1?", either.union(&then).copied().collect::<BTreeSet<u8>>()),
            ("r1/^r1", there_and_back),
            ("(r0|r1)/r0", step(&once.union(&step(&start, 1, false)).copied().collect(), 0, false)),
        ] {
            let spec = ExpandSpec { hops: 8, pattern: Some(pattern.into()), ..ExpandSpec::default() };
            let request = ExpandRequest { seeds: vec![at(&id(0))], spec, paths: true };
            let found = fixture.replica.expand(TENANT, &request, deadline()).unwrap();
            let found: BTreeSet<String> = found.nodes.into_iter().map(|node| node.entity.id).collect();
            prop_assert_eq!(found, wanted.into_iter().map(id).collect::<BTreeSet<_>>(), "{}", pattern);
        }
    }
}

#[test]
fn of_walks_that_are_as_good_always_the_same_is_told() {
    let fixture = fixture(&Edges::new(), false);
    for (from, relation, to, weight) in
        [(0, "a", 1, 0.5), (1, "b", 3, 0.5), (0, "b", 2, 0.25), (2, "a", 3, 1.0)]
    {
        fixture.link(&id(from), relation, &id(to), weight);
    }
    let spec = ExpandSpec { pattern: Some("a/b|b/a".into()), hops: 2, ..ExpandSpec::default() };
    let request = ExpandRequest { seeds: vec![at(&id(0))], spec, paths: true };
    let ask = || fixture.replica.expand(TENANT, &request, deadline()).unwrap();
    let first = ask();
    assert_eq!(first.nodes.len(), 1);
    for _ in 0..50 {
        assert_eq!(ask(), first);
    }
}

#[test]
fn edges_that_fail_the_filter_are_not_followed() {
    let fixture = fixture(&Edges::new(), false);
    for (to, year) in [(1, 1990), (2, 2020)] {
        let mut edge = Edge::new(at(&id(0)), "r", at(&id(to)));
        edge.attributes.insert("year".into(), Value::Int(year));
        fixture.one(Write::PutEdge(Box::new(edge))).unwrap();
    }
    use allidb_index::filter::{Field, Filter, Operator};
    let recent = Filter::Compare(Field::Attribute(vec!["year".into()]), Operator::Greater, Value::Int(2_000));
    let spec = ExpandSpec { edge_filter: Some(recent), ..ExpandSpec::default() };
    let request = ExpandRequest { seeds: vec![at(&id(0))], spec, paths: false };
    let found = fixture.replica.expand(TENANT, &request, deadline()).unwrap();
    assert_eq!(found.nodes.iter().map(|node| node.entity.id.as_str()).collect::<Vec<_>>(), ["n2"]);
}

#[test]
fn page_rank_prefers_what_several_edges_lead_to() {
    let edges = [((0, 1), 10), ((0, 2), 10), ((1, 3), 10), ((2, 3), 10), ((2, 4), 10)];
    let fixture = fixture(&Edges::from(edges), true);
    let spec = ExpandSpec { hops: 2, page_rank: Some(0.85), ..ExpandSpec::default() };
    let request = ExpandRequest { seeds: vec![at(&id(0))], spec, paths: false };
    let found = fixture.replica.expand(TENANT, &request, deadline()).unwrap();
    let score = |wanted: u8| found.nodes.iter().find(|node| node.entity.id == id(wanted)).unwrap().score;
    assert!(score(3) > score(4) && score(3) > score(1), "{found:?}");
    assert!(found.nodes.iter().all(|node| (0.0..=1.0).contains(&node.score)));
}

/// Where a wanderer is who begins at the first two nodes, among `reached`, by trying it for long; the greatest share is 1.
fn masses(edges: &Edges, reached: &BTreeSet<u8>, damping: f64) -> BTreeMap<u8, f64> {
    let anew = |node: u8| if node < 2 { 0.5 } else { 0.0 };
    let within = || edges.iter().filter(|((from, to), _)| reached.contains(from) && reached.contains(to));
    let leaving =
        |from: u8| within().filter(|((of, _), _)| *of == from).map(|(_, w)| f64::from(*w)).sum::<f64>();
    let mut mass: BTreeMap<u8, f64> = reached.iter().map(|node| (*node, anew(*node))).collect();
    for _ in 0..3_000 {
        let stuck: f64 = reached.iter().filter(|node| leaving(**node) == 0.0).map(|node| mass[node]).sum();
        let mut next: BTreeMap<u8, f64> =
            reached.iter().map(|node| (*node, anew(*node) * (1.0 - damping + damping * stuck))).collect();
        for ((from, to), weight) in within() {
            *next.get_mut(to).unwrap() += damping * mass[from] * f64::from(*weight) / leaving(*from);
        }
        mass = next;
    }
    let most = mass.values().copied().fold(0.0, f64::max);
    mass.into_iter().map(|(node, mass)| (node, mass / most)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn page_rank_is_what_a_wanderer_comes_to(edges in edges(), hops in 1..5_usize, nth in 0..3_usize) {
        let fixture = fixture(&edges, false);
        let damping = [0.5, 0.85, 0.99][nth];
        let mut reached = BTreeSet::from([0, 1]);
        for _ in 0..hops {
            reached.extend(edges.keys().filter(|(from, _)| reached.contains(from)).map(|(_, to)| *to).collect::<Vec<_>>());
        }
        let mut query = Query::new("c", vec![Seed::Ids(vec![at(&id(0)), at(&id(1))])]);
        query.expand = Some(ExpandSpec { hops, page_rank: Some(damping), ..ExpandSpec::default() });
        query.scoring = Scoring { weights: Some(Weights { graph: 1.0, ..Weights::default() }), ..Scoring::default() };
        query.explain = true;
        let answer = fixture.query(&query);
        prop_assert!(answer.truncated.is_empty());
        let found: BTreeMap<String, f64> = answer.hits.iter().map(|hit| {
            (hit.entity.id.clone(), hit.breakdown.iter().find(|part| part.signal == Signal::Graph).unwrap().value)
        }).collect();
        let wanted = masses(&edges, &reached, damping);
        prop_assert_eq!(found.len(), wanted.len());
        for (node, mass) in wanted {
            prop_assert!((found[&id(node)] - mass).abs() < 1e-5, "{}: {:?}, not {}", node, found, mass);
        }
    }
}

#[test]
fn edges_that_lead_out_of_what_is_reached_take_no_places() {
    let fixture = Fixture::new();
    let names: Vec<String> = (0..40).map(|n| format!("x{n:02}")).collect();
    for id in names.iter().map(String::as_str).chain(["s1", "s2", "a", "b"]) {
        fixture.put(entity(id, &[]));
    }
    for (from, to, weight) in [("s1", "a", 1.0), ("s2", "b", 1.0), ("a", "s1", 0.1)] {
        fixture.link(from, "r", to, weight);
    }
    for x in &names {
        fixture.link("a", "r", x, 1.0);
    }
    let spec = |fan_out| ExpandSpec { hops: 1, fan_out, page_rank: Some(0.85), ..ExpandSpec::default() };
    let expand = |fan_out| {
        let request = ExpandRequest { seeds: vec![at("s1"), at("s2")], spec: spec(fan_out), paths: false };
        let mut found = fixture.replica.expand(TENANT, &request, deadline()).unwrap();
        found.nodes.sort_by(|a, b| a.entity.id.cmp(&b.entity.id));
        let scores: Vec<f64> = found.nodes.iter().map(|node| node.score).collect();
        (scores, found.truncated.len())
    };
    let (scores, truncated) = expand(32);
    assert!((scores[0] - 0.85).abs() < 1e-4 && (scores[1] - 0.2359).abs() < 1e-4, "{scores:?}");
    assert_eq!((truncated, expand(100)), (0, (scores, 0)));
}

#[test]
fn a_hub_is_capped_and_that_is_told() {
    let fixture = Fixture::new();
    let spokes = 20_000;
    for from in (0..spokes).step_by(4_000) {
        let nodes = from..from + 4_000;
        let put =
            |n: i32| Write::Put { collection: "c".into(), entity: Box::new(entity(&format!("s{n}"), &[])) };
        let link = |n: i32| {
            let weight = f64::from(n % 100) / 100.0;
            Write::PutEdge(Box::new(Edge { weight, ..Edge::new(at("hub"), "r", at(&format!("s{n}"))) }))
        };
        let writes = nodes.clone().map(put).chain(nodes.map(link)).collect();
        assert!(fixture.write(writes).iter().all(Result::is_ok));
    }
    fixture.put(entity("hub", &[]));
    for is_sealed in [false, true] {
        if is_sealed {
            fixture.replica.seal_graph().unwrap();
        }
        let spec = ExpandSpec { fan_out: 100, ..ExpandSpec::default() };
        let request = ExpandRequest { seeds: vec![at("hub")], spec, paths: false };
        let found = fixture.replica.expand(TENANT, &request, deadline()).unwrap();
        assert_eq!(
            (found.nodes.len(), found.edges),
            (100, 101),
            "the heaviest are found without looking at all"
        );
        assert!(found.nodes.iter().all(|node| node.score > 0.7 * 0.98));
        assert_eq!(found.truncated[0].reason, TruncationReason::FanOut);
    }
}
