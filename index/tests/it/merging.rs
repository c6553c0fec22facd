//! Two entities that turn out to be the same: what is left of them, what their names mean then, and where their edges are.

use std::collections::{BTreeMap, BTreeSet};

use allidb_index::{
    Error, Merged, SourceDeletion,
    graph::NeighborsRequest,
    model::{Chunk, CollectionSet, Direction, Edge, EdgeRef, Entity, EntityPatch, Timestamp, Value, Write},
    query::{Query, Seed, TextQuery},
};
use proptest::prelude::*;

use crate::fixture::{Fixture, TENANT, at, deadline, entity, ids};

fn merge(fixture: &Fixture, from: &str, into: &str) -> Result<Merged, Error> {
    let apply = |writes| fixture.write(writes);
    fixture.replica.merge_entities(TENANT, &at(from), into, &apply, deadline())
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Source, relation, target and weight of an entity's edges.
fn edges(fixture: &Fixture, id: &str) -> BTreeMap<(String, String, String), f64> {
    let request = NeighborsRequest {
        entity: at(id),
        relations: vec![],
        direction: Direction::Both,
        min_weight: 0.0,
        as_of: None,
        any_time: false,
        limit: 1_000,
        collections: CollectionSet::ALL,
        pages: allidb_index::graph::NeighborPages::Heaviest,
    };
    let found = fixture.replica.neighbors(TENANT, &request, deadline()).unwrap();
    let edges = found.neighbors.into_iter().map(|neighbor| neighbor.edge);
    edges.map(|edge| ((edge.from.id, edge.relation, edge.to.id), edge.weight)).collect()
}

fn edge(from: &str, relation: &str, to: &str, weight: f64) -> ((String, String, String), f64) {
    ((from.to_owned(), relation.to_owned(), to.to_owned()), weight)
}

fn attributes(of: &[(&str, i64)]) -> BTreeMap<String, Value> {
    of.iter().map(|(name, value)| ((*name).to_owned(), Value::Int(*value))).collect()
}

fn chunk(text: &str, sources: &[&str], vector: Option<[f32; 2]>) -> Chunk {
    let vectors = vector.map(|vector| ("v".to_owned(), vector.to_vec())).into_iter().collect();
    Chunk { text: text.to_owned(), sources: names(sources), vectors, ..Chunk::default() }
}

fn chunks(of: &[(&str, Chunk)]) -> BTreeMap<String, Chunk> {
    of.iter().map(|(id, chunk)| ((*id).to_owned(), chunk.clone())).collect()
}

#[test]
fn what_stays_keeps_its_own_and_takes_over_the_rest() {
    let mut fixture = Fixture::new();
    fixture.put(Entity {
        entity_type: "person".into(),
        importance: Some(0.25),
        attributes: attributes(&[("age", 41), ("height", 180)]),
        sources: names(&["crm"]),
        vectors: BTreeMap::from([("v".to_owned(), vec![1.0, 0.0])]),
        chunks: chunks(&[
            ("0", chunk("met in spring", &["crm"], Some([5.0, 5.0]))),
            ("1", chunk("equal", &["crm"], Some([6.0, 6.0]))),
            ("2", chunk("only here", &[], Some([7.0, 7.0]))),
        ]),
        ..entity("ann", &[])
    });
    fixture.put(Entity {
        entity_type: String::new(),
        attributes: attributes(&[("age", 42)]),
        sources: names(&["web"]),
        chunks: chunks(&[
            ("0", chunk("met in autumn", &["web"], Some([8.0, 8.0]))),
            ("1", chunk("equal", &["web"], None)),
        ]),
        ..entity("anna", &[])
    });
    for other in ["x", "y", "z"] {
        fixture.put(entity(other, &[]));
    }
    fixture.link("ann", "knows", "x", 0.5);
    fixture.link("y", "knows", "ann", 0.25);
    fixture.link("ann", "same", "anna", 1.0);
    fixture.link("anna", "same", "ann", 1.0);
    fixture.link("ann", "is", "ann", 1.0);
    fixture.link("ann", "likes", "z", 0.75);
    fixture.link("anna", "likes", "z", 0.25);
    let merged = merge(&fixture, "ann", "anna").unwrap();
    assert_eq!((&merged.into[..], merged.is_pending), ("anna", false));
    assert_eq!(merged.edges, 4, "those that the two had between them are gone");
    for is_new in [false, true] {
        if is_new {
            fixture = fixture.crash();
        }
        let found = fixture.get("ann").unwrap();
        assert_eq!(found, fixture.get("anna").unwrap());
        assert_eq!((&found.id[..], &found.entity_type[..], found.importance), ("anna", "person", Some(0.25)));
        assert_eq!(found.attributes, attributes(&[("age", 42), ("height", 180)]));
        assert_eq!((&found.sources, found.version), (&names(&["crm", "web"]), merged.version));
        assert_eq!(found.vectors["v"], [1.0, 0.0]);
        let texts: Vec<_> = found.chunks.iter().map(|(id, chunk)| (&id[..], &chunk.text[..])).collect();
        let moved = ("ann/0", "met in spring");
        assert_eq!(texts, [("0", "met in autumn"), ("1", "equal"), ("2", "only here"), moved]);
        assert_eq!(found.chunks["1"].sources, names(&["crm", "web"]));
        let vectors = found.chunks.values().map(|chunk| chunk.vectors["v"][0]);
        assert_eq!(vectors.collect::<Vec<_>>(), [8.0, 6.0, 7.0, 5.0]);
        assert_eq!(fixture.replica.vector_counts().vectors, 5);
        assert_eq!(fixture.replica.count(TENANT, "c", None, deadline()).unwrap(), 4);
        for near in [[1.0, 0.0], [5.0, 5.0], [6.0, 6.0], [7.0, 7.0], [8.0, 8.0]] {
            assert_eq!(fixture.nearest(&near, 1), ["anna"]);
        }
        let wanted = [
            edge("anna", "knows", "x", 0.5),
            edge("y", "knows", "anna", 0.25),
            edge("anna", "likes", "z", 0.75),
            edge("anna", "is", "anna", 1.0),
        ];
        assert_eq!(edges(&fixture, "anna"), BTreeMap::from(wanted.clone()));
        assert_eq!(edges(&fixture, "ann"), BTreeMap::from(wanted));
        let seeds = vec![Seed::Ids(vec![at("ann"), at("anna"), at("x")])];
        assert_eq!(ids(&fixture.query(&Query::new("c", seeds))).len(), 2);
    }
}

#[test]
fn names_of_what_was_merged_mean_the_other_until_they_are_freed() {
    let fixture = Fixture::new();
    for id in ["a", "b", "c", "x"] {
        fixture.put(entity(id, &[]));
    }
    merge(&fixture, "a", "b").unwrap();
    merge(&fixture, "b", "c").unwrap();
    // Over both, also in a batch.
    fixture.link("x", "r", "a", 0.5);
    assert_eq!(edges(&fixture, "c"), BTreeMap::from([edge("x", "r", "c", 0.5)]));
    let put = |to: &str| Write::PutEdge(Box::new(Edge::new(at("a"), "s", at(to))));
    let done = fixture.write(vec![put("x"), put("b"), Write::DeleteEdge(edge_ref("x", "r", "b"))]);
    assert!(done.iter().all(Result::is_ok), "{done:?}");
    assert!(done[2].as_ref().unwrap().existed);
    let wanted = [edge("c", "s", "x", 1.0), edge("c", "s", "c", 1.0)];
    assert_eq!(edges(&fixture, "c"), BTreeMap::from(wanted));
    let refused = "entity \"a\" of collection \"c\" was merged into \"b\"";
    let put = || Write::Put { collection: "c".into(), entity: Box::new(entity("a", &[])) };
    let update = Write::Update(Box::new(EntityPatch { allow_missing: true, ..EntityPatch::new(at("a")) }));
    for write in [put(), update] {
        assert_eq!(fixture.one(write).unwrap_err().to_string(), refused);
    }
    assert_eq!(merge(&fixture, "a", "x").unwrap_err().to_string(), refused);
    let itself = "into is, or was merged into, the same entity as from";
    assert_eq!(merge(&fixture, "c", "a").unwrap_err().to_string(), itself);
    assert_eq!(merge(&fixture, "c", "c").unwrap_err().to_string(), itself);
    assert_eq!(
        merge(&fixture, "nobody", "c").unwrap_err().to_string(),
        "there is no entity \"nobody\" in collection \"c\""
    );
    assert_eq!(
        merge(&fixture, "x", "nobody").unwrap_err().to_string(),
        "there is no entity \"nobody\" in collection \"c\""
    );
    // Again is no error.
    assert_eq!(merge(&fixture, "a", "c").unwrap().into, "c");
    // What goes with its sources is what has that name, not the other.
    let deletion = SourceDeletion {
        collection: "c".into(),
        source: "s".into(),
        limit: 10,
        after: None,
        collections: CollectionSet::ALL,
    };
    let apply = |writes| fixture.write(writes);
    fixture.replica.delete_by_source(TENANT, &deletion, &apply, deadline()).unwrap();
    assert!(fixture.delete("a").existed);
    assert!(matches!(fixture.get("a"), Err(Error::NotFound { .. })));
    assert_eq!(fixture.get("b").unwrap().id, "c");
    fixture.one(put()).unwrap();
    assert_eq!(fixture.get("a").unwrap().id, "a");
    assert_eq!(edges(&fixture, "a"), BTreeMap::new());
    assert_eq!(edges(&fixture, "c").len(), 2);
}

#[test]
fn a_name_means_the_same_when_another_on_the_way_is_freed_and_taken() {
    let mut fixture = Fixture::new();
    for id in ["a", "b", "c", "d", "e"] {
        fixture.put(entity(id, &[]));
    }
    merge(&fixture, "a", "b").unwrap();
    merge(&fixture, "b", "c").unwrap();
    assert!(fixture.delete("b").existed);
    assert!(matches!(fixture.get("b"), Err(Error::NotFound { .. })));
    assert_eq!(fixture.get("a").unwrap().id, "c");
    fixture.put(entity("b", &[]));
    merge(&fixture, "e", "b").unwrap();
    fixture = fixture.reopen();
    let meant = |fixture: &Fixture| ["a", "b", "e"].map(|name| fixture.get(name).unwrap().id);
    assert_eq!(meant(&fixture), ["c", "b", "b"]);
    merge(&fixture, "b", "d").unwrap();
    assert_eq!(meant(&fixture), ["c", "d", "d"]);
    assert!(fixture.delete("b").existed);
    assert!(!fixture.delete("b").existed);
    fixture.link("a", "r", "e", 0.5);
    assert_eq!(edges(&fixture, "c"), BTreeMap::from([edge("c", "r", "d", 0.5)]));
    // What was freed twice is an entity like any other.
    fixture.put(entity("b", &[]));
    assert_eq!(fixture.get("b").unwrap().id, "b");
    assert!(fixture.delete("b").existed);
    assert!(matches!(fixture.get("b"), Err(Error::NotFound { .. })));
}

fn edge_ref(from: &str, relation: &str, to: &str) -> EdgeRef {
    EdgeRef { from: at(from), relation: relation.into(), to: at(to), edge_id: String::new() }
}

#[test]
fn what_has_no_source_never_goes_with_one_that_it_was_merged_with() {
    let fixture = Fixture::new();
    fixture.put(entity("by-hand", &[]));
    fixture.put(Entity { sources: names(&["s"]), ..entity("found", &[]) });
    merge(&fixture, "found", "by-hand").unwrap();
    fixture.put(Entity { sources: names(&["s"]), ..entity("other", &[]) });
    merge(&fixture, "by-hand", "other").unwrap();
    let deletion = SourceDeletion {
        collection: "c".into(),
        source: "s".into(),
        limit: 10,
        after: None,
        collections: CollectionSet::ALL,
    };
    let apply = |writes| fixture.write(writes);
    let done = fixture.replica.delete_by_source(TENANT, &deletion, &apply, deadline()).unwrap();
    assert_eq!((done.entities, done.kept), (0, 0));
    assert_eq!(fixture.get("found").unwrap().id, "other");
}

#[test]
fn what_is_merged_lasts_as_long_as_the_one_that_lasts_longer() {
    let fixture = Fixture::new();
    let soon = |more: i64| Some(Timestamp(1_700_000_000_000_000 + more * 1_000_000));
    for (id, expire_at) in
        [("for-ever", None), ("soon", soon(60)), ("later", soon(120)), ("sooner", soon(30))]
    {
        fixture.put(Entity { expire_at, ..entity(id, &[]) });
    }
    merge(&fixture, "later", "sooner").unwrap();
    assert_eq!(fixture.get("sooner").unwrap().expire_at, soon(120));
    merge(&fixture, "for-ever", "soon").unwrap();
    assert_eq!(fixture.get("soon").unwrap().expire_at, None);
}

#[test]
fn the_name_of_what_is_gone_is_free() {
    let fixture = Fixture::new();
    fixture.put(entity("a", &[]));
    fixture.put(entity("b", &[]));
    merge(&fixture, "a", "b").unwrap();
    fixture.delete("b");
    assert!(matches!(fixture.get("a"), Err(Error::NotFound { .. })));
    assert!(matches!(merge(&fixture, "a", "b"), Err(Error::NotFound { .. })));
    fixture.put(entity("a", &[]));
    assert_eq!(fixture.get("a").unwrap().id, "a");
}

#[test]
fn what_is_too_much_together_is_refused_and_nothing_changes() {
    let fixture = Fixture::new();
    let many = |prefix: &str| {
        let name = |n: usize| (format!("{prefix}{n}"), Value::Null);
        (0..fixture.replica.limits().attributes / 2 + 1).map(name).collect()
    };
    fixture.put(Entity { attributes: many("a"), ..entity("one", &[]) });
    fixture.put(Entity { attributes: many("b"), ..entity("other", &[]) });
    let clash = [("0", chunk("a", &[], None)), ("one/0", chunk("b", &[], None))];
    fixture.put(Entity { chunks: chunks(&clash), ..entity("third", &[]) });
    let (one, other) = (fixture.get("one").unwrap(), fixture.get("other").unwrap());
    let refused = merge(&fixture, "one", "other").unwrap_err();
    assert!(matches!(refused, Error::OverLimit { .. }), "{refused}");
    let mut patch = EntityPatch::new(at("one"));
    patch.chunks = BTreeMap::from([("0".to_owned(), Some(chunk("c", &[], None)))]);
    assert_eq!((fixture.get("one").unwrap(), fixture.get("other").unwrap()), (one, other));
    fixture.one(Write::Update(Box::new(patch))).unwrap();
    let refused = merge(&fixture, "one", "third").unwrap_err();
    let wanted = "chunk \"0\" is in both, and would become \"one/0\", which there is already";
    assert_eq!(refused.to_string(), wanted);
    assert_eq!(fixture.get("one").unwrap().id, "one");
}

#[test]
fn words_that_moved_are_found_where_they_are() {
    let fixture = Fixture::new();
    fixture.put(Entity { chunks: chunks(&[("0", chunk("a red kite", &[], None))]), ..entity("a", &[]) });
    fixture.put(Entity { chunks: chunks(&[("0", chunk("a blue boat", &[], None))]), ..entity("b", &[]) });
    merge(&fixture, "a", "b").unwrap();
    for words in ["kite", "boat"] {
        let query = Query::new(
            "c",
            vec![Seed::Text { query: TextQuery { text: words.into(), ..TextQuery::default() }, k: 0 }],
        );
        assert_eq!(ids(&fixture.query(&query)), ["b"], "{words}");
    }
    assert_eq!(fixture.replica.text_counts().documents, 2);
}

/// More edges than move before the answer.
#[test]
fn a_hub_moves_in_the_background() {
    const EDGES: usize = 10_300;
    let fixture = Fixture::new();
    fixture.put(entity("hub", &[]));
    fixture.put(entity("center", &[]));
    let plan = |n: usize| {
        let edge = Edge { sources: names(&["s"]), ..Edge::new(at("hub"), "r", at(&format!("o{n:05}"))) };
        fixture.replica.plan(TENANT, Write::PutEdge(Box::new(edge))).unwrap()
    };
    for done in fixture.replica.apply((0..EDGES).map(plan).collect(), allidb_storage::Durability::Flush) {
        done.unwrap();
    }
    let merged = merge(&fixture, "hub", "center").unwrap();
    assert!(merged.is_pending && merged.edges >= 10_000 && merged.edges < EDGES as u64, "{merged:?}");
    // Here all background work is done before the call returns.
    let again = merge(&fixture, "hub", "center").unwrap();
    assert_eq!((again.edges, again.is_pending), (0, false));
    assert!(fixture.delete("hub").existed);
    let mut deletion = SourceDeletion {
        collection: "c".into(),
        source: "s".into(),
        limit: 10_000,
        after: None,
        collections: CollectionSet::ALL,
    };
    let apply = |writes| fixture.write(writes);
    let mut edges = 0;
    loop {
        let done = fixture.replica.delete_by_source(TENANT, &deletion, &apply, deadline()).unwrap();
        (edges, deletion.after) = (edges + done.edges, done.next);
        if deletion.after.is_none() {
            break;
        }
    }
    assert_eq!(edges, EDGES as u64);
}

/// A few entities, and what there is by a model of sets.
#[derive(Default)]
struct Model {
    live: BTreeSet<usize>,
    merged: BTreeMap<usize, usize>,
    /// Which was merged into which, in that order.
    merges: Vec<(usize, usize)>,
    edges: BTreeMap<(usize, usize), f64>,
}

#[derive(Clone, Debug)]
enum Step {
    Put(usize),
    Delete(usize),
    Link(usize, usize, u8),
    Unlink(usize, usize),
    Merge(usize, usize),
    Seal,
    Reopen,
    Crash,
}

const ENTITIES: usize = 7;

fn step() -> impl Strategy<Value = Step> {
    let one = || 0..ENTITIES;
    prop_oneof![
        4 => one().prop_map(Step::Put),
        1 => one().prop_map(Step::Delete),
        8 => (one(), one(), 1..4u8).prop_map(|(from, to, weight)| Step::Link(from, to, weight)),
        1 => (one(), one()).prop_map(|(from, to)| Step::Unlink(from, to)),
        4 => (one(), one()).prop_map(|(from, into)| Step::Merge(from, into)),
        1 => Just(Step::Seal),
        1 => Just(Step::Reopen),
        1 => Just(Step::Crash),
    ]
}

impl Model {
    fn meant(&self, name: usize) -> usize {
        let Some(mut meant) = self.merged.get(&name).copied() else { return name };
        let given = self.merges.iter().rposition(|merge| *merge == (name, meant)).unwrap();
        for (from, into) in &self.merges[given + 1..] {
            if *from == meant {
                meant = *into;
            }
        }
        meant
    }

    /// Whether it is merged.
    fn merge(&mut self, from: usize, into: usize) -> bool {
        let into = self.meant(into);
        if self.merged.contains_key(&from) {
            return self.meant(from) == into && self.live.contains(&into);
        }
        if from == into || !self.live.contains(&from) || !self.live.contains(&into) {
            return false;
        }
        self.live.remove(&from);
        self.merged.insert(from, into);
        self.merges.push((from, into));
        for ((source, target), weight) in std::mem::take(&mut self.edges) {
            let is_moved = source == from || target == from;
            let end = |end| if end == from { into } else { end };
            let is_loop = source == target;
            let (source, target) = (end(source), end(target));
            if is_loop || source != target || !is_moved {
                let there = self.edges.entry((source, target)).or_insert(weight);
                *there = there.max(weight);
            }
        }
        true
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_history_of_merges_comes_to_what_sets_say(steps in prop::collection::vec(step(), 1..60)) {
        let mut fixture = Fixture::new();
        let mut model = Model::default();
        let name = |n: usize| format!("e{n}");
        for step in steps {
            match step {
                Step::Put(n) => {
                    let entity = Box::new(entity(&name(n), &[]));
                    let done = fixture.one(Write::Put { collection: "c".into(), entity });
                    let stands_for_another = model.merged.contains_key(&n) && model.live.contains(&model.meant(n));
                    prop_assert_eq!(done.is_ok(), !stands_for_another);
                    if !stands_for_another {
                        model.merged.remove(&n);
                        model.live.insert(n);
                    }
                }
                Step::Delete(n) => {
                    let existed = model.live.remove(&n) | model.merged.remove(&n).is_some();
                    model.edges.retain(|(source, target), _| *source != n && *target != n);
                    prop_assert_eq!(fixture.delete(&name(n)).existed, existed);
                }
                Step::Link(from, to, weight) => {
                    let weight = f64::from(weight) / 4.0;
                    fixture.link(&name(from), "r", &name(to), weight);
                    model.edges.insert((model.meant(from), model.meant(to)), weight);
                }
                Step::Unlink(from, to) => {
                    let existed = model.edges.remove(&(model.meant(from), model.meant(to))).is_some();
                    let done = fixture.one(Write::DeleteEdge(edge_ref(&name(from), "r", &name(to))));
                    prop_assert_eq!(done.unwrap().existed, existed);
                }
                Step::Merge(from, into) => {
                    let done = merge(&fixture, &name(from), &name(into));
                    prop_assert_eq!(done.is_ok(), model.merge(from, into), "{:?}", done);
                }
                Step::Seal => fixture.replica.seal_graph().unwrap(),
                Step::Reopen => fixture = fixture.reopen(),
                // Writes were synced, moves of edges were not.
                Step::Crash => fixture = fixture.crash(),
            }
            for n in 0..ENTITIES {
                let meant = model.meant(n);
                let found = fixture.get(&name(n));
                let wanted = model.live.contains(&meant).then(|| name(meant));
                prop_assert_eq!(found.ok().map(|entity| entity.id), wanted);
                // Ends that are not there are not told.
                let is_live = |n: &usize| model.live.contains(n);
                let is_its = |ends: &(usize, usize)| ends.0 == meant || ends.1 == meant;
                let wanted = model.edges.iter().filter(|(ends, _)| is_its(ends));
                let wanted = wanted.filter(|(ends, _)| is_live(&ends.0) && is_live(&ends.1));
                let wanted: BTreeMap<_, _> =
                    wanted.map(|(ends, weight)| edge(&name(ends.0), "r", &name(ends.1), *weight)).collect();
                if is_live(&meant) {
                    let mut found = edges(&fixture, &name(n));
                    found.retain(|(from, _, to), _| {
                        model.live.iter().any(|n| name(*n) == *from) && model.live.iter().any(|n| name(*n) == *to)
                    });
                    prop_assert_eq!(found, wanted);
                }
            }
        }
    }
}
