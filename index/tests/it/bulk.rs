//! Deleting those that match, and what came from a source, page by page.

use std::collections::{BTreeMap, BTreeSet};

use allidb_index::{
    Error, SourceDeletion,
    filter::{Field, Filter, Operator},
    graph::NeighborsRequest,
    model::{Chunk, CollectionChange, CollectionSet, Direction, Edge, Entity, Value, Write},
};
use allidb_storage::Durability;

use crate::{
    fixture::{Fixture, TENANT, at, deadline, entity},
    replicas::tells_what_it_holds,
};

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Applies writes as the coordinator does.
fn apply(fixture: &Fixture) -> impl Fn(Vec<Write>) -> Vec<Result<allidb_index::model::Written, Error>> + '_ {
    |writes| {
        let planned = writes.into_iter().map(|write| fixture.replica.plan(TENANT, write).unwrap()).collect();
        fixture.replica.apply(planned, Durability::Flush)
    }
}

fn edges(fixture: &Fixture, id: &str, direction: Direction) -> Vec<Edge> {
    let request = NeighborsRequest {
        entity: at(id),
        relations: vec![],
        direction,
        min_weight: 0.0,
        as_of: None,
        any_time: false,
        limit: 100,
        collections: CollectionSet::ALL,
        pages: allidb_index::graph::NeighborPages::Heaviest,
    };
    let found = fixture.replica.neighbors(TENANT, &request, deadline()).unwrap();
    found.neighbors.into_iter().map(|neighbor| neighbor.edge).collect()
}

fn count(fixture: &Fixture) -> u64 {
    fixture.replica.count(TENANT, "c", None, deadline()).unwrap()
}

#[test]
fn those_that_match_are_deleted_page_by_page() {
    for is_indexed in [false, true] {
        let fixture = Fixture::new();
        let field = Field::parse("n").unwrap();
        if is_indexed {
            let change = CollectionChange { add_indexes: vec![field.clone()], ..CollectionChange::default() };
            fixture.replica.update_collection(TENANT, "c", change).unwrap();
        }
        for n in 0..50 {
            let attributes = BTreeMap::from([("n".to_owned(), Value::Int(n))]);
            fixture.put(Entity { attributes, ..entity(&format!("e{n:02}"), &[]) });
            fixture.link(&format!("e{n:02}"), "next", &format!("e{:02}", (n + 1) % 50), 1.0);
        }
        let filter = Filter::Compare(field, Operator::Less, Value::Int(30));
        let (mut pages, mut deleted, mut after) = (0, 0, None);
        loop {
            let page = (7, after);
            let apply = apply(&fixture);
            let done = fixture.replica.delete_where(TENANT, "c", filter.clone(), page, &apply, deadline());
            let done = done.unwrap();
            assert!(done.entities <= 7);
            (pages, deleted, after) = (pages + 1, deleted + done.entities, done.next);
            if after.is_none() {
                break;
            }
        }
        assert_eq!((deleted, count(&fixture)), (30, 20));
        assert!((5..=6).contains(&pages), "{pages} pages");
        let degree = |id: &str| edges(&fixture, id, Direction::Both).len();
        assert_eq!((degree("e30"), degree("e40")), (1, 2));
        let refused =
            fixture.replica.delete_where(TENANT, "c", filter, (0, None), &apply(&fixture), deadline());
        assert_eq!(refused.unwrap_err().to_string(), "page_size is 0; it must be 1 to 10000");
    }
}

#[test]
fn what_does_not_match_any_more_when_its_turn_comes_stays() {
    let fixture = Fixture::new();
    for n in 0..10 {
        let attributes = BTreeMap::from([("n".to_owned(), Value::Int(n))]);
        fixture.put(Entity { attributes, ..entity(&format!("e{n}"), &[]) });
    }
    let filter = Filter::Compare(Field::parse("n").unwrap(), Operator::Less, Value::Int(5));
    let apply_later = |writes: Vec<Write>| {
        // After it was found, and before it is deleted.
        let attributes = BTreeMap::from([("n".to_owned(), Value::Int(100))]);
        fixture.put(Entity { attributes, ..entity("e3", &[]) });
        apply(&fixture)(writes)
    };
    let done =
        fixture.replica.delete_where(TENANT, "c", filter, (100, None), &apply_later, deadline()).unwrap();
    assert_eq!((done.entities, done.next, count(&fixture)), (4, None, 6));
    assert!(fixture.get("e3").is_ok());
}

#[test]
fn what_came_from_a_source_loses_it_and_goes_with_its_last_one() {
    let mut fixture = Fixture::new();
    let chunk = |text: &str, sources: &[&str]| Chunk {
        text: text.into(),
        sources: names(sources),
        vectors: BTreeMap::from([("v".to_owned(), vec![1.0, 2.0])]),
        ..Chunk::default()
    };
    for n in 0..40 {
        let mut one = entity(&format!("e{n:02}"), &[0.5, n as f32]);
        one.sources = match n % 4 {
            0 => names(&["s"]),
            1 => names(&["s", "t"]),
            2 => names(&["t"]),
            _ => names(&[]),
        };
        one.chunks = BTreeMap::from([
            ("own".to_owned(), chunk("of s alone", &["s"])),
            ("shared".to_owned(), chunk("of both", &["s", "t"])),
            ("other".to_owned(), chunk("of none", &[])),
        ]);
        fixture.put(one);
    }
    for n in 0..40 {
        for (relation, sources) in [("own", vec!["s"]), ("shared", vec!["s", "t"]), ("other", vec!["t"])] {
            let to = format!("e{:02}", (n + 1) % 40);
            let edge = Edge {
                sources: names(&sources),
                weight: 0.5,
                ..Edge::new(at(&format!("e{n:02}")), relation, at(&to))
            };
            fixture.one(Write::PutEdge(Box::new(edge))).unwrap();
        }
    }
    let mut total = (0, 0, 0, 0);
    let mut deletion = SourceDeletion {
        collection: "c".into(),
        source: "s".into(),
        limit: 9,
        after: None,
        collections: CollectionSet::ALL,
    };
    loop {
        let done = fixture.replica.delete_by_source(TENANT, &deletion, &apply(&fixture), deadline()).unwrap();
        let (entities, chunks, edges, kept) = total;
        total = (entities + done.entities, chunks + done.chunks, edges + done.edges, kept + done.kept);
        deletion.after = done.next;
        if deletion.after.is_none() {
            break;
        }
        // Between pages it may be restarted.
        fixture = fixture.reopen();
    }
    // Of 30 entities that stay a chunk each; edges between two that stay: e01→e02 and e02→e03 of each four.
    assert_eq!(total, (10, 30, 20, 10 + 30 + 20));
    assert_eq!(count(&fixture), 30);
    for n in (0..40).filter(|n| n % 4 != 0) {
        let found = fixture.get(&format!("e{n:02}")).unwrap();
        let wanted = if n % 4 == 3 { names(&[]) } else { names(&["t"]) };
        assert_eq!(found.sources, wanted);
        let chunks: Vec<(&str, usize)> =
            found.chunks.iter().map(|(id, chunk)| (id.as_str(), chunk.vectors.len())).collect();
        assert_eq!(chunks, [("other", 1), ("shared", 1)]);
        assert_eq!(found.chunks["shared"].sources, names(&["t"]));
        for step in edges(&fixture, &format!("e{n:02}"), Direction::Out) {
            assert_ne!(step.relation, "own");
            assert!(!step.sources.contains("s"), "{step:?}");
        }
    }
    // Chunks that stay are still found by their vectors, those that went are not.
    assert_eq!(fixture.replica.vector_counts().vectors, 30 * 3);
    let again = fixture.replica.delete_by_source(TENANT, &deletion, &apply(&fixture), deadline()).unwrap();
    assert_eq!((again.entities, again.chunks, again.edges, again.kept), (0, 0, 0, 0));
}

/// Edges of a deleted hub beyond those that go with it are hidden by its marker, and must not come back as if they were new.
#[test]
fn hidden_edges_stay_hidden_when_they_lose_a_source() {
    const EDGES: usize = 10_050;
    let fixture = Fixture::new();
    fixture.put(entity("hub", &[]));
    let edge = |n: usize| {
        let edge = Edge { sources: names(&["s", "t"]), ..Edge::new(at("hub"), "r", at(&format!("o{n:05}"))) };
        fixture.replica.plan(TENANT, Write::PutEdge(Box::new(edge))).unwrap()
    };
    for done in fixture.replica.apply((0..EDGES).map(edge).collect(), Durability::Flush) {
        done.unwrap();
    }
    fixture.delete("hub");
    let mut deletion = SourceDeletion {
        collection: "c".into(),
        source: "s".into(),
        limit: 10_000,
        after: None,
        collections: CollectionSet::ALL,
    };
    loop {
        let done = fixture.replica.delete_by_source(TENANT, &deletion, &apply(&fixture), deadline()).unwrap();
        assert_eq!((done.edges, done.kept), (0, 0), "there are none that anybody can see");
        deletion.after = done.next;
        if deletion.after.is_none() {
            break;
        }
    }
    fixture.put(entity("hub", &[]));
    assert_eq!(edges(&fixture, "hub", Direction::Both), []);
    assert!(tells_what_it_holds(&fixture) > 0);
}
