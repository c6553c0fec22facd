//! Queries and walks over nodes that hold parts, and of whom each has missed writes that others acknowledged: they answer as one node does
//! that holds everything.

mod shape;
mod upkeep;
mod world;

use std::collections::{BTreeMap, BTreeSet};

use allidb_cluster::{Consistency, FacetsRequest, Terms, WriteOptions};
use allidb_index::{
    BySource, Error, ScanRequest, SourceDeletion,
    filter::{Field, Filter, Operator},
    graph::{ExpandRequest, FoundPath, HopsRequest, PathCost, Paths, PathsRequest},
    model::{Chunk, CollectionSet, Direction, Edge, Entity, EntityRef, ReadMask, Value, Write, Written},
    query::{Answer, ExpandSpec, Nearest, NearestTarget, Query, Seed, TextQuery},
};
use allidb_storage::{
    Durability,
    fs::{Effect, Fault, Operation},
};
use world::{TENANT, World};

type Shown = (String, String, usize, BTreeMap<String, Value>, Vec<f32>, Vec<String>);

/// What of an answer must be the same.
fn shown(answer: &Answer) -> Vec<Shown> {
    let show = |hit: &allidb_index::query::Hit| {
        let path = hit.path.iter().map(|step| format!("{:?} {:?}", step.direction, step.edge.edge_ref()));
        let vector = hit.entity.vectors.get("v").cloned().unwrap_or_default();
        let score = format!("{:.6}", hit.score);
        (hit.entity.id.clone(), score, hit.hops, hit.entity.attributes.clone(), vector, path.collect())
    };
    answer.hits.iter().map(show).collect()
}

async fn queries_are_answered(count: usize, seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let world = World::of(count, seed).await;
        world.fill(200);
        for nth in 0..30 {
            let query = world.query();
            let whole = world.lone.query(TENANT, &query, world.terms().deadline).expect("answered");
            let answer = world.anybody().query(query.clone(), world.terms()).await.expect("answered");
            assert_eq!(shown(&answer), shown(&whole), "seed {seed}, query {nth}: {query:#?}");
            let coverage = answer.coverage.expect("told over a ring");
            assert_eq!((coverage.answered, coverage.total), (256, 256));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_answer_queries_as_one_does() {
    queries_are_answered(3, 0..3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_nodes_answer_queries_as_one_does() {
    queries_are_answered(5, 3..6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn words_find_the_same_entities() {
    for (count, seed) in [(3, 1), (5, 2), (5, 3)] {
        let world = World::of(count, seed).await;
        world.fill(200);
        for word in ["whale", "sea captain", "storm island"] {
            let words = TextQuery { text: word.to_owned(), ..TextQuery::default() };
            let seeds = vec![Seed::Text { query: words, k: 0 }];
            let query = Query { limit: 200, ..Query::new("c", seeds) };
            let whole = world.lone.query(TENANT, &query, world.terms().deadline).expect("answered");
            let answer = world.anybody().query(query, world.terms()).await.expect("answered");
            let ids = |answer: &Answer| -> BTreeSet<String> {
                answer.hits.iter().map(|hit| hit.entity.id.clone()).collect()
            };
            assert!(!whole.hits.is_empty());
            assert_eq!(ids(&answer), ids(&whole), "seed {seed}, {word}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn walks_reach_the_same_entities() {
    for (count, seed) in [(3, 4), (5, 5), (5, 6)] {
        let world = World::of(count, seed).await;
        world.fill(300);
        for _ in 0..20 {
            let spec = ExpandSpec {
                hops: 1 + world.draw(4) as usize,
                pattern: (world.draw(3) == 0).then(|| "(r|^s)+".to_owned()),
                max_nodes: 1_000,
                min_weight: 0.1 * world.draw(3) as f64,
                ..ExpandSpec::default()
            };
            let request = ExpandRequest { seeds: vec![world.id(), world.id()], spec, paths: true };
            let mut whole = world.lone.expand(TENANT, &request, world.terms().deadline).expect("walked");
            let mut told = world.anybody().expand(request.clone(), world.terms()).await.expect("walked");
            // Edges that lead nowhere are not told.
            assert!(told.edges <= whole.edges, "seed {seed}: {request:#?}");
            told.edges = whole.edges;
            // Of paths that are equally good another one may be told.
            for node in told.nodes.iter_mut().chain(&mut whole.nodes) {
                assert_eq!(node.path.len(), node.hops);
                node.path.clear();
                node.score = (node.score * 1e9).round();
            }
            assert_eq!(told, whole, "seed {seed}: {request:#?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entity_that_is_near_is_no_answer_itself() {
    let world = World::of(5, 7).await;
    world.fill(0);
    let like = NearestTarget::Entity(EntityRef::new("c", "e007"));
    let seeds = vec![Seed::Nearest(Nearest { target: like, ..Nearest::to_vector("v", vec![]) })];
    let query = Query::new("c", seeds);
    let whole = world.lone.query(TENANT, &query, world.terms().deadline).expect("answered");
    let answer = world.anybody().query(query, world.terms()).await.expect("answered");
    assert_eq!(shown(&answer), shown(&whole));
    assert!(whole.hits.iter().all(|hit| hit.entity.id != "e007"));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_quorum_a_part_is_told_if_that_is_allowed() {
    let world = World::of(5, 8).await;
    world.fill(0);
    // Of some partitions two of three replicas are gone.
    world.nodes[3].server.abort();
    world.nodes[4].server.abort();
    let query = Query { limit: 150, ..Query::new("c", vec![world.nearest()]) };
    let ring = &world.nodes[0].ring;
    let refused = ring.query(query.clone(), world.terms()).await;
    assert!(matches!(refused, Err(Error::Unavailable(_))), "{refused:?}");
    let terms = Terms { may_be_partial: true, ..world.terms() };
    let answer = ring.query(query.clone(), terms).await.expect("a part");
    let coverage = answer.coverage.expect("told");
    assert!(coverage.answered > 0 && coverage.answered < coverage.total, "{coverage:?}");
    assert!(!answer.hits.is_empty() && answer.hits.len() < 150, "{}", answer.hits.len());
    let one = Terms { consistency: Consistency::One, ..world.terms() };
    let answer = ring.query(query, one).await.expect("one replica of each is left");
    assert_eq!(answer.hits.len(), 150);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_told_as_by_one_node() {
    let world = World::of(3, 9).await;
    world.fill(0);
    let words = TextQuery { text: "whale".to_owned(), fuzziness: 9, ..TextQuery::default() };
    let within =
        |query: Query| Query { within: Some(Box::new(query)), ..Query::new("c", vec![world.nearest()]) };
    let deep = within(within(within(within(Query::new("c", vec![world.nearest()])))));
    for query in [
        Query::new("nothing", vec![world.nearest()]),
        Query::new("c", vec![Seed::Text { query: words, k: 0 }]),
        Query::new("c", vec![Seed::Nearest(Nearest::to_vector("w", vec![1.0; 4]))]),
        Query::new("c", vec![Seed::Nearest(Nearest::to_vector("v", vec![1.0; 3]))]),
        Query { limit: 0, ..Query::new("c", vec![world.nearest()]) },
        deep,
        Query::new("c", vec![Seed::Nearest(Nearest { k: 1 << 20, ..Nearest::to_vector("v", vec![1.0; 4]) })]),
    ] {
        let whole = world.lone.query(TENANT, &query, world.terms().deadline).expect_err("wrong");
        let told = world.anybody().query(query, world.terms()).await.expect_err("wrong");
        assert_eq!(told.to_string(), whole.to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn entities_are_scanned_counted_and_surveyed_as_by_one_node() {
    for (count, seed) in [(3, 11), (5, 12), (5, 13)] {
        let world = World::of(count, seed).await;
        world.fill(200);
        let deadline = world.terms().deadline;
        let n = |operator, value| {
            Filter::Compare(Field::Attribute(vec!["n".to_owned()]), operator, Value::Int(value))
        };
        let kind = |name: &str| {
            let field = Field::Attribute(vec!["kind".to_owned()]);
            Filter::Compare(field, Operator::Equal, Value::String(name.to_owned()))
        };
        let filters = [
            None,
            Some(n(Operator::Less, 4)),
            Some(Filter::And(vec![n(Operator::Greater, 2), kind("k1")])),
            Some(Filter::Not(Box::new(Filter::Or(vec![n(Operator::Equal, 3), kind("k2")])))),
        ];
        for (at, filter) in filters.iter().enumerate() {
            let mut scanned = Vec::new();
            let mut request = ScanRequest {
                filter: filter.clone(),
                reverse: at % 2 == 1,
                read_mask: ReadMask::fields(),
                ..ScanRequest::first("c", 7)
            };
            loop {
                let page = world.anybody().scan(request.clone(), world.terms()).await.expect("a page");
                scanned.extend(page.entities);
                request.after = page.next;
                if request.after.is_none() {
                    break;
                }
            }
            let whole = ScanRequest { limit: 1_000, after: None, ..request };
            let whole = world.lone.scan(TENANT, &whole, deadline).expect("a page");
            assert_eq!(scanned, whole.entities, "seed {seed}, filter {at}");
        }
        // Of others than those that the scans have repaired.
        world.fill(200);
        for (at, filter) in filters.into_iter().enumerate() {
            let counted = world.anybody().count("c", filter.clone(), world.terms()).await.expect("counted");
            let whole = world.lone.count(TENANT, "c", filter.as_ref(), deadline).expect("counted");
            assert_eq!(counted, whole, "seed {seed}, filter {at}");
        }
        world.fill(200);
        let fields = vec![Field::Attribute(vec!["n".to_owned()]), Field::Attribute(vec!["kind".to_owned()])];
        let request = FacetsRequest {
            collection: "c".to_owned(),
            fields: fields.clone(),
            filter: Some(kind("k1")),
            limit: 5,
        };
        let told = world.anybody().facets(request, world.terms()).await.expect("counted");
        let whole = world.lone.facets(TENANT, "c", &fields, Some(&kind("k1")), 5, deadline).expect("counted");
        assert_eq!(told, whole, "seed {seed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hops_and_paths_are_those_of_one_node() {
    for (count, seed) in [(3, 21), (5, 22)] {
        let world = World::of(count, seed).await;
        world.fill(300);
        let deadline = world.terms().deadline;
        let mut found = 0;
        for nth in 0..30 {
            let direction = [Direction::Out, Direction::In, Direction::Both][world.draw(3) as usize];
            let min_weight = 0.1 * world.draw(3) as f64;
            let relations: Vec<String> = if nth % 4 == 0 { vec!["r".to_owned()] } else { Vec::new() };
            let request = HopsRequest {
                seeds: vec![world.id(), world.id()],
                relations: relations.clone(),
                direction,
                hops: 1 + world.draw(4) as usize,
                min_weight,
                as_of: None,
                collections: CollectionSet::ALL,
            };
            let whole = world.lone.count_hops(TENANT, &request, deadline).expect("counted");
            let told = world.anybody().count_hops(request.clone(), world.terms()).await.expect("counted");
            assert_eq!(told.counts, whole.counts, "seed {seed}: {request:?}");
            let request = PathsRequest {
                from: world.id(),
                to: world.id(),
                relations,
                direction,
                max_hops: 6,
                min_weight,
                as_of: None,
                cost: [PathCost::Hops, PathCost::Weights][nth % 2],
                k: 3,
                only_shortest: false,
                collections: CollectionSet::ALL,
            };
            let whole = world.lone.shortest_paths(TENANT, &request, deadline);
            let told = world.anybody().shortest_paths(request.clone(), world.terms()).await;
            match (told, whole) {
                (Ok(told), Ok(whole)) => {
                    // Of those that are as short others may be told.
                    let lengths = |paths: &Paths| -> Vec<(usize, i64)> {
                        let length = |path: &FoundPath| match request.cost {
                            PathCost::Hops => (path.steps.len(), 0),
                            PathCost::Weights => (0, (path.weight * 1e9).round() as i64),
                        };
                        paths.paths.iter().map(length).collect()
                    };
                    assert_eq!(lengths(&told), lengths(&whole), "seed {seed}: {request:?}");
                    found += told.paths.len();
                }
                (Err(Error::NotFound { id: told, .. }), Err(Error::NotFound { id: whole, .. })) => {
                    assert_eq!(told, whole);
                }
                (told, whole) => panic!("{told:?} {whole:?}"),
            }
        }
        assert!(found > 10, "{found}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn much_is_deleted_as_by_one_node() {
    for (count, seed) in [(3, 31), (5, 32)] {
        let world = World::of(count, seed).await;
        world.fill(200);
        let options = WriteOptions {
            durability: Durability::None,
            consistency: Consistency::Quorum,
            deadline: world.terms().deadline,
        };
        let lone = |writes: Vec<Write>| -> Vec<Result<Written, Error>> {
            let planned = writes.into_iter().map(|write| world.lone.plan(TENANT, write).expect("planned"));
            world.lone.apply(planned.collect(), Durability::None)
        };
        let n = Field::Attribute(vec!["n".to_owned()]);
        let filter = Filter::Compare(n, Operator::Less, Value::Int(3));
        let mut after = None;
        let mut deleted = 0;
        loop {
            let ring = world.anybody();
            let page = ring.delete_where("c", filter.clone(), (10, after), (world.terms(), options)).await;
            let page = page.expect("a page");
            deleted += page.entities;
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let deadline = world.terms().deadline;
        let whole =
            world.lone.delete_where(TENANT, "c", filter, (1_000, None), &lone, deadline).expect("deleted");
        assert_eq!(deleted, whole.entities, "seed {seed}");
        assert!(deleted > 10);
        // Of what came from one source or from two, one goes.
        for at in 0..40 {
            let names = if at % 2 == 0 { vec!["x"] } else { vec!["x", "y"] };
            let sources = || names.iter().map(|name| (*name).to_owned()).collect();
            let misses = Some(world.draw(count as u64) as usize);
            let entity = Entity { id: format!("s{at:02}"), sources: sources(), ..Entity::default() };
            world.write(Write::Put { collection: "c".to_owned(), entity: Box::new(entity) }, misses);
            let misses = Some(world.draw(count as u64) as usize);
            let edge = Edge { sources: sources(), ..Edge::new(world.id(), "t", world.id()) };
            world.write(Write::PutEdge(Box::new(edge)), misses);
        }
        let deletion = |limit, after| SourceDeletion {
            collection: "c".to_owned(),
            source: "x".to_owned(),
            limit,
            after,
            collections: CollectionSet::ALL,
        };
        let (mut done, mut after) = (BySource::default(), None);
        loop {
            let page = world.anybody().delete_by_source(deletion(7, after), (world.terms(), options)).await;
            let page = page.expect("a page");
            done.entities += page.entities;
            done.edges += page.edges;
            done.kept += page.kept;
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let whole = world.lone.delete_by_source(TENANT, &deletion(1_000, None), &lone, deadline);
        assert_eq!(done, whole.expect("deleted"), "seed {seed}");
        let all = ScanRequest { limit: 1_000, read_mask: ReadMask::fields(), ..ScanRequest::first("c", 1) };
        let mut told = world.anybody().scan(all.clone(), world.terms()).await.expect("a page").entities;
        let mut whole = world.lone.scan(TENANT, &all, deadline).expect("a page").entities;
        for entity in told.iter_mut().chain(&mut whole) {
            (entity.version, entity.updated_at) = Default::default();
        }
        assert_eq!(told, whole, "seed {seed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_walk_begins_at_words_in_chunks() {
    let world = World::of(5, 41).await;
    world.fill(100);
    for at in 0..10 {
        let chunk = Chunk { text: "an albatross overhead".to_owned(), ..Chunk::default() };
        let id = format!("c{at}");
        let entity = Entity { id: id.clone(), chunks: [("0".to_owned(), chunk)].into(), ..Entity::default() };
        let misses = Some(world.draw(5) as usize);
        world.write(Write::Put { collection: "c".to_owned(), entity: Box::new(entity) }, misses);
        let edge = Edge::new(EntityRef::new("c", id), "r", world.id());
        world.write(Write::PutEdge(Box::new(edge)), misses);
    }
    // So that nothing is taken for a write that came meanwhile.
    world.clock.advance(10_000);
    let words = TextQuery { text: "albatross".to_owned(), ..TextQuery::default() };
    let seeds = vec![Seed::Text { query: words, k: 50 }];
    let query = Query { limit: 50, expand: Some(ExpandSpec::default()), ..Query::new("c", seeds) };
    let whole = world.lone.query(TENANT, &query, world.terms().deadline).expect("answered");
    let answer = world.anybody().query(query, world.terms()).await.expect("answered");
    let found = |answer: &Answer| -> BTreeSet<(String, usize, String)> {
        answer.hits.iter().map(|hit| (hit.entity.id.clone(), hit.hops, hit.chunk_id.clone())).collect()
    };
    assert!(whole.hits.iter().filter(|hit| hit.chunk_id == "0").count() == 10, "{:?}", found(&whole));
    assert_eq!(found(&answer), found(&whole));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_cannot_be_repaired_makes_no_answer_wrong() {
    for (count, sick) in [(3, 2), (3, 0), (5, 1)] {
        let world = World::of(count, 40 + sick as u64).await;
        world.fill(0);
        let (operation, effect) = (Operation::Write, Effect::Full(0));
        let full = Fault { operation, effect, suffix: String::new(), skip: 0, times: u64::MAX };
        world.nodes[sick].fs.inject(full);
        for at in 0..60 {
            world.write(world.put(&format!("new{at}")), Some(sick));
        }
        world.clock.advance(10_000);
        let all = Terms { consistency: Consistency::All, ..world.terms() };
        let query = Query { limit: 30, ..Query::new("c", vec![world.nearest()]) };
        let whole = world.lone.query(TENANT, &query, world.terms().deadline).expect("answered");
        for node in &world.nodes {
            let ring = &node.ring;
            assert_eq!(ring.count("c", None, world.terms()).await.expect("a quorum is there"), 210);
            let refused = ring.count("c", None, all).await;
            assert!(matches!(&refused, Err(Error::Unavailable(_))), "{refused:?}");
            let fields = vec![Field::Attribute(vec!["kind".to_owned()])];
            let request = FacetsRequest { collection: "c".to_owned(), fields, filter: None, limit: 10 };
            let facets = ring.facets(request, world.terms()).await.expect("a quorum is there");
            let counted: u64 = facets.iter().flat_map(|facet| &facet.values).map(|(_, count)| count).sum();
            assert_eq!(counted, 210);
            let answer = ring.query(query.clone(), world.terms()).await.expect("a quorum is there");
            assert_eq!(shown(&answer), shown(&whole));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_is_as_full_as_it_may_be_and_says_what_it_leaves_out() {
    let world = World::of(5, 44).await;
    world.fill(0);
    world.nodes[3].server.abort();
    world.nodes[4].server.abort();
    let ring = &world.nodes[0].ring;
    let terms = Terms { may_be_partial: true, ..world.terms() };
    let nearest = world.nearest();
    let query = |limit| Query { limit, ..Query::new("c", vec![nearest.clone()]) };
    let everything = ring.query(query(150), terms).await.expect("a part").hits.len();
    assert!(everything > 50 && everything < 150, "{everything}");
    for limit in [1, 10, everything - 1] {
        let answer = ring.query(query(limit), terms).await.expect("a part");
        assert_eq!(answer.hits.len(), limit);
        let coverage = answer.coverage.expect("told");
        assert!(coverage.answered < coverage.total, "{coverage:?}");
    }
    // What is seen is seen; what lies behind is not, and that is said.
    for _ in 0..20 {
        let seeds = Seed::Ids(vec![world.id()]);
        let expand = Some(ExpandSpec { hops: 3, direction: Direction::Both, ..ExpandSpec::default() });
        let query = Query { expand, limit: 150, ..Query::new("c", vec![seeds]) };
        let Ok(part) = ring.query(query.clone(), terms).await else { continue };
        let whole = world.lone.query(TENANT, &query, world.terms().deadline).expect("answered");
        let coverage = part.coverage.expect("told");
        let is_whole = part.hits.len() == whole.hits.len();
        assert!(is_whole || coverage.answered < coverage.total, "{coverage:?} of {}", part.hits.len());
    }
}
