//! Replicas of the same entities: what one keeps for the others changes no answer.

use std::fmt::Write as _;

use allidb_index::{
    Clock, EntityState, Extent, Held, HoldingsRequest, Mutation, PARTITIONS, Random, ScanRequest,
    SeededRandom, Sum, TreeAnswer, TreeRequest, Version,
    filter::{Field, Filter, Operator},
    graph::NeighborsRequest,
    model::{
        Chunk, CollectionChange, CollectionSet, CollectionSpec, Direction, Edge, EdgeRef, Entity,
        EntityPatch, EntityRef, Metric, ReadMask, SpaceSpec, Timestamp, Value, Write,
    },
    query::{Nearest, Query, Seed, TextQuery},
};
use allidb_storage::{Direction as Order, Durability, WriteBatch};
use proptest::prelude::*;

use crate::fixture::{Fixture, TENANT, deadline, only};

pub(crate) const IDS: [&str; 4] = ["a", "b", "c", "d"];
const WORDS: [&str; 3] = ["red", "green", "blue"];

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Put {
        id: usize,
        value: i64,
        vector: bool,
        chunk: Option<usize>,
    },
    /// Values, and whether an entity may come to be.
    Update {
        id: usize,
        value: Option<i64>,
        vector: Option<bool>,
        chunk: Option<Option<usize>>,
        replace: bool,
    },
    Delete(usize),
    Link(usize, usize, u8),
    Unlink(usize, usize),
}

pub(crate) fn step() -> impl Strategy<Value = Step> {
    let id = || 0..IDS.len();
    let word = || proptest::option::of(0..WORDS.len());
    let put = (id(), 0..3_i64, any::<bool>(), word()).prop_map(|(id, value, vector, chunk)| Step::Put {
        id,
        value,
        vector,
        chunk,
    });
    let update = (
        id(),
        proptest::option::of(0..3_i64),
        proptest::option::of(any::<bool>()),
        proptest::option::of(word()),
        any::<bool>(),
    )
        .prop_map(|(id, value, vector, chunk, replace)| Step::Update {
            id,
            value,
            vector,
            chunk,
            replace,
        });
    prop_oneof![
        4 => put,
        4 => update,
        2 => id().prop_map(Step::Delete),
        4 => (id(), id(), 0..4_u8).prop_map(|(from, to, weight)| Step::Link(from, to, weight)),
        2 => (id(), id()).prop_map(|(from, to)| Step::Unlink(from, to)),
    ]
}

pub(crate) fn of(id: usize) -> EntityRef {
    EntityRef::new("r", IDS[id])
}

fn vector(value: i64) -> Vec<f32> {
    vec![value as f32, 1.0]
}

fn chunk(word: usize) -> Chunk {
    let vectors = [("v".to_owned(), vector(word as i64))].into();
    Chunk { text: format!("{} {}", WORDS[word], WORDS[(word + 1) % 3]), vectors, ..Chunk::default() }
}

/// The write of a step, the `at`th.
pub(crate) fn write(step: &Step, at: usize) -> Write {
    match *step {
        Step::Put { id, value, vector: has_vector, chunk: word } => {
            let mut entity = Entity { id: IDS[id].into(), ..Entity::default() };
            entity.attributes.insert("n".into(), Value::Int(value));
            entity.attributes.insert("at".into(), Value::Int(at as i64));
            if has_vector {
                entity.vectors.insert("v".into(), vector(value));
            }
            entity.chunks.extend(word.map(|word| ("1".to_owned(), chunk(word))));
            Write::Put { collection: "r".into(), entity: Box::new(entity) }
        }
        Step::Update { id, value, vector: has_vector, chunk: word, replace } => {
            let mut patch = EntityPatch::new(of(id));
            patch.allow_missing = true;
            patch.replace_attributes = replace;
            patch.attributes.insert("n".into(), value.map(Value::Int));
            if let Some(has_vector) = has_vector {
                patch.vectors.insert("v".into(), has_vector.then(|| vector(at as i64 % 3)));
            }
            if let Some(word) = word {
                patch.chunks.insert("1".into(), word.map(chunk));
            }
            Write::Update(Box::new(patch))
        }
        Step::Delete(id) => Write::Delete(of(id)),
        Step::Link(from, to, weight) => Write::PutEdge(Box::new(Edge {
            weight: f64::from(weight) / 4.0,
            ..Edge::new(of(from), "r", of(to))
        })),
        Step::Unlink(from, to) => {
            let (from, to) = (of(from), of(to));
            Write::DeleteEdge(EdgeRef { from, relation: "r".into(), to, edge_id: String::new() })
        }
    }
}

/// With collection `r`: a space, texts of chunks, an index on attribute `n`.
pub(crate) fn fixture() -> Fixture {
    let fixture = Fixture::new();
    let spec = CollectionSpec {
        spaces: vec![SpaceSpec::new("v", 2, Metric::L2)],
        indexes: vec![Field::parse("n").unwrap()],
        ..CollectionSpec::default()
    };
    fixture.replica.create_collection(TENANT, "r", spec).unwrap();
    fixture
}

/// All that a caller can see.
pub(crate) fn view(fixture: &Fixture) -> String {
    let replica = &fixture.replica;
    let mut view = String::new();
    let mut tell = |what: &str, seen: String| writeln!(view, "{what}: {seen}").unwrap();
    for id in 0..IDS.len() {
        let found = replica.get(TENANT, &[of(id)], &ReadMask::everything(), deadline()).pop().unwrap();
        tell("get", format!("{found:?}"));
        let request = NeighborsRequest {
            entity: of(id),
            relations: vec![],
            direction: Direction::Both,
            min_weight: 0.0,
            as_of: None,
            any_time: false,
            limit: 100,
            collections: CollectionSet::ALL,
            pages: allidb_index::graph::NeighborPages::Heaviest,
        };
        tell("neighbors", format!("{:?}", replica.neighbors(TENANT, &request, deadline())));
    }
    let scan = ScanRequest::first("r", 10);
    tell("scan", format!("{:?}", replica.scan(TENANT, &scan, deadline()).unwrap()));
    tell("count", format!("{:?}", replica.count(TENANT, "r", None, deadline())));
    for value in 0..3 {
        let filter = Filter::Compare(Field::parse("n").unwrap(), Operator::Equal, Value::Int(value));
        tell("matches", format!("{:?}", replica.count(TENANT, "r", Some(&filter), deadline())));
        let mut nearest = Nearest::to_vector("v", vector(value));
        nearest.exact = true;
        let words = TextQuery { text: WORDS[value as usize].into(), ..TextQuery::default() };
        for seed in [Seed::Nearest(nearest), Seed::Text { query: words, k: 0 }] {
            let query = Query { limit: 10, ..Query::new("r", vec![seed]) };
            let answer = replica.query(TENANT, &query, deadline()).unwrap();
            let hits: Vec<_> = answer.hits.iter().map(|hit| (&hit.entity.id, hit.score)).collect();
            tell("query", format!("{hits:?}"));
        }
    }
    view
}

/// Each tells the others what it holds of every entity, until all have heard of everything.
fn exchange(replicas: &[Fixture]) {
    let keys = (0..IDS.len()).map(|id| replicas[0].replica.entity_key(TENANT, &of(id)).unwrap());
    let keys: Vec<_> = keys.collect();
    for _ in 0..2 {
        for from in replicas {
            let held = from.replica.held(&keys, Extent::ALL).unwrap();
            // As it goes over the wire.
            let held = held.iter().map(|state| EntityState::decode(&state.encode()).unwrap());
            let held: Vec<_> = keys.iter().cloned().zip(held).collect();
            for to in replicas {
                to.replica.absorb(held.clone(), Version::ZERO, Durability::Sync).unwrap();
            }
        }
    }
}

fn digests(fixture: &Fixture) -> Vec<u128> {
    let keys = (0..IDS.len()).map(|id| fixture.replica.entity_key(TENANT, &of(id)).unwrap());
    let held = fixture.replica.held(&keys.collect::<Vec<_>>(), Extent::ALL).unwrap();
    held.iter().map(EntityState::digest).collect()
}

/// All that a node tells who takes its partitions over is what is held.
pub(crate) fn tells_what_it_holds(fixture: &Fixture) -> usize {
    let mut told = 0;
    for partition in 0..PARTITIONS {
        let mut after = None;
        loop {
            let request = HoldingsRequest { partition, after, leaves: None };
            let page = fixture.replica.holdings(TENANT, &request, deadline()).unwrap();
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            for (entity, state) in page {
                let held = fixture.replica.held(&[entity], Extent::ALL).unwrap();
                assert_eq!(held[0].encode(), state);
                told += 1;
            }
        }
    }
    told
}

/// The roots of the trees of what lies here.
pub(crate) fn roots(fixture: &Fixture) -> Vec<Sum> {
    let all = TreeRequest::Roots((0..PARTITIONS).collect());
    match fixture.replica.tree(TENANT, &all, deadline()).unwrap() {
        TreeAnswer::Sums(roots) => roots,
        TreeAnswer::Entities(_) | TreeAnswer::Swept { .. } => panic!("not what was asked for"),
    }
}

/// Leaves that are not what the rows come to.
pub(crate) fn wrong_leaves(fixture: &Fixture) -> Vec<(u16, u16)> {
    let wrong = |partition| {
        let leaves = fixture.replica.check_tree(partition).unwrap();
        leaves.into_iter().map(move |leaf| (partition, leaf))
    };
    (0..PARTITIONS).flat_map(wrong).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn who_keeps_what_was_deleted_answers_as_who_purges(steps in prop::collection::vec(step(), 1..40)) {
        let (mut purges, mut keeps) = (fixture(), fixture());
        keeps.replica.keep_topology(Vec::new(), true, |_| Held::Shared, None).unwrap();
        for (at, step) in steps.iter().enumerate() {
            let results = [&purges, &keeps].map(|fixture| format!("{:?}", fixture.one(write(step, at))));
            prop_assert_eq!(&results[0], &results[1], "{:?}", step);
        }
        prop_assert_eq!(view(&purges), view(&keeps));
        (purges, keeps) = (purges.reopen(), keeps.crash());
        prop_assert_eq!(view(&purges), view(&keeps));
        let rebuild = CollectionChange { drop_indexes: vec![Field::parse("n").unwrap()], ..CollectionChange::default() };
        for fixture in [&purges, &keeps] {
            fixture.replica.update_collection(TENANT, "r", rebuild.clone()).unwrap();
            let add = CollectionChange { add_indexes: rebuild.drop_indexes.clone(), ..CollectionChange::default() };
            fixture.replica.update_collection(TENANT, "r", add).unwrap();
        }
        prop_assert_eq!(view(&purges), view(&keeps));
    }

    #[test]
    fn replicas_that_heard_the_same_in_any_order_are_alike(steps in prop::collection::vec(step(), 1..30), seed in any::<u64>()) {
        let replicas = [fixture(), fixture(), fixture()];
        let in_order = fixture();
        let change = CollectionChange { add_indexes: vec![Field::parse("at").unwrap()], ..CollectionChange::default() };
        let changed = in_order.replica.with_updated(TENANT, "r", change).unwrap();
        for fixture in replicas.iter().chain([&in_order]) {
            fixture.replica.keep_topology(Vec::new(), true, |_| Held::Shared, None).unwrap();
            // As one node of a ring takes it over from another: their trees hash alike.
            fixture.replica.adopt_catalogue(&changed).unwrap();
            fixture.replica.build_trees().unwrap();
        }
        let mut heard: [Vec<Vec<u8>>; 3] = Default::default();
        let random = SeededRandom::new(seed);
        let draw = |below: usize| {
            let mut bytes = [0; 8];
            random.fill(&mut bytes).unwrap();
            (u64::from_le_bytes(bytes) % below as u64) as usize
        };
        for (at, step) in steps.iter().enumerate() {
            in_order.clock.advance(1);
            let planned = in_order.replica.plan(TENANT, write(step, at)).unwrap();
            let sent = planned.encode(|_| true).unwrap().unwrap();
            in_order.replica.apply(vec![planned], Durability::Sync).pop().unwrap().unwrap();
            // One hears of it at least; some hear of it twice, some never.
            for to in [draw(3), draw(3)] {
                let heard = &mut heard[to];
                heard.insert(draw(heard.len() + 1), sent.clone());
            }
        }
        for (fixture, heard) in replicas.iter().zip(&heard) {
            for sent in heard {
                let mutation = Mutation::decode(sent).unwrap();
                fixture.replica.receive(vec![mutation], Durability::Sync).pop().unwrap().unwrap();
            }
        }
        exchange(&replicas);
        for fixture in &replicas {
            fixture.clock.advance(steps.len() as u64);
            prop_assert_eq!(digests(fixture), digests(&in_order));
            prop_assert_eq!(roots(fixture), roots(&in_order));
            prop_assert_eq!(wrong_leaves(fixture), vec![]);
            prop_assert_eq!(view(fixture), view(&in_order));
            prop_assert_eq!(tells_what_it_holds(fixture), tells_what_it_holds(&in_order));
        }
        for fixture in replicas.map(Fixture::crash) {
            prop_assert_eq!(view(&fixture), view(&in_order));
            prop_assert_eq!(roots(&fixture), roots(&in_order));
            // They are saved when it ends.
            let fixture = fixture.reopen();
            prop_assert_eq!(roots(&fixture), roots(&in_order));
            fixture.one(Write::Delete(of(0))).unwrap();
            prop_assert_eq!(wrong_leaves(&fixture.crash()), vec![]);
        }
    }
}

fn link(fixture: &Fixture, from: usize, to: usize) -> Mutation {
    fixture.replica.plan(TENANT, write(&Step::Link(from, to, 1), 0)).unwrap()
}

/// Whether edges of an entity are there, tombstones aside.
fn has_edges(fixture: &Fixture, id: usize) -> bool {
    let key = fixture.replica.entity_key(TENANT, &of(id)).unwrap();
    format!("{:?}", fixture.replica.held(&[key], Extent::ALL).unwrap()).contains("weight")
}

/// Whoever holds only one end of an edge has the other end told when its own is deleted, also if the edge comes after the deletion.
#[test]
fn edges_end_where_only_others_hold_their_other_end() {
    let (a, b) = (fixture(), fixture());
    let [at_a, at_b] = [0, 1].map(|id| a.replica.entity_key(TENANT, &of(id)).unwrap().partition());
    assert_ne!(at_a, at_b);
    a.replica.keep_topology(Vec::new(), true, only(at_a), None).unwrap();
    b.replica.keep_topology(Vec::new(), true, only(at_b), None).unwrap();
    let receive = |at: &Fixture, sent: &[u8]| {
        let mutation = Mutation::decode(sent).unwrap();
        at.replica.receive(vec![mutation], Durability::Sync).pop().unwrap().unwrap();
    };
    for comes_late in [false, true] {
        a.clock.advance(10);
        let edge = link(&a, 0, 1);
        a.clock.advance(10);
        let delete = a.replica.plan(TENANT, Write::Delete(of(0))).unwrap();
        receive(&b, &edge.encode(|partition| partition == at_b).unwrap().unwrap());
        let mut at_a_alone = vec![edge.encode(|partition| partition == at_a).unwrap().unwrap()];
        at_a_alone.insert(usize::from(!comes_late), delete.encode(|_| true).unwrap().unwrap());
        at_a_alone.iter().for_each(|sent| receive(&a, sent));
        assert!(has_edges(&b, 1));
        let posted = a.replica.outbox(None, 10, u64::MAX).unwrap();
        assert_eq!(posted.len(), 1, "late: {comes_late}");
        receive(&b, &posted[0].mutation);
        assert!(!has_edges(&b, 1), "late: {comes_late}");
        assert_eq!(b.replica.outbox(None, 10, u64::MAX).unwrap().len(), 0, "what was told is not told back");
        a.replica.forget_hints(&posted).unwrap();
    }
}

/// Who reads an edge from one end has other replicas hold it: from the other end it is seen then, too.
#[test]
fn an_edge_that_a_replica_hears_of_from_one_end_is_there_at_both() {
    let (told, hears) = (fixture(), fixture());
    let keys = [0, 1].map(|id| told.replica.entity_key(TENANT, &of(id)).unwrap());
    for fixture in [&told, &hears] {
        fixture.replica.keep_topology(Vec::new(), true, |_| Held::Shared, None).unwrap();
    }
    let tell = |at: usize| {
        let held = told.replica.held(&keys[at..=at], Extent::ALL).unwrap();
        hears
            .replica
            .absorb(vec![(keys[at].clone(), held[0].clone())], Version::ZERO, Durability::Sync)
            .unwrap();
    };
    for (value, at) in [0, 1].into_iter().enumerate() {
        told.clock.advance(10);
        told.one(write(&Step::Link(0, 1, value as u8), 0)).unwrap();
        tell(at);
        assert_eq!(digests(&hears)[..2], digests(&told)[..2], "heard at end {at}");
    }
    // It comes after its other end was deleted, and ends with that.
    hears.clock.advance(1_000);
    hears.one(Write::Delete(of(1))).unwrap();
    tell(0);
    assert!(!has_edges(&hears, 0) && !has_edges(&hears, 1));
}

/// A replica alone does not know whether an entity has expired for all: whoever coordinates a write over it finds out.
#[test]
fn what_expired_is_replaced_only_when_that_is_settled() {
    let keeps = fixture();
    keeps.replica.keep_topology(Vec::new(), true, |_| Held::Shared, None).unwrap();
    let in_a_second = |fixture: &Fixture| Timestamp::from_millis(fixture.clock.now_ms() + 1_000);
    let expires = in_a_second(&keeps);
    let entity = |at: i64| {
        let mut entity = Entity { id: "a".into(), ..Entity::default() };
        entity.attributes.insert("at".into(), Value::Int(at));
        entity
    };
    let put = |entity: Entity| Write::Put { collection: "r".into(), entity: Box::new(entity) };
    keeps.one(put(Entity { expire_at: Some(expires), ..entity(0) })).unwrap();
    keeps.one(put(Entity { id: "b".into(), ..Entity::default() })).unwrap();
    keeps.one(write(&Step::Link(0, 1, 1), 0)).unwrap();
    keeps.clock.advance(5_000);
    let mut upsert = EntityPatch::new(of(0));
    upsert.allow_missing = true;
    upsert.attributes.insert("n".into(), Some(Value::Int(1)));
    for write in [put(entity(1)), Write::Update(Box::new(upsert))] {
        let planned = keeps.replica.plan(TENANT, write).unwrap();
        let refused = keeps.replica.apply(vec![planned.clone()], Durability::Sync).pop().unwrap();
        assert!(matches!(refused, Err(allidb_index::Error::Expired { .. })), "{refused:?}");
        let held = keeps.replica.held(&[keeps.replica.entity_key(TENANT, &of(0)).unwrap()], Extent::ALL);
        let (newest, asked) = (held.unwrap()[0].highest_version(), planned.version());
        let settled = keeps.replica.settled_over_expired(&planned, newest, asked, None);
        keeps.replica.apply(vec![settled], Durability::Sync).pop().unwrap().unwrap();
        let found =
            keeps.replica.get(TENANT, &[of(0)], &ReadMask::everything(), deadline()).pop().unwrap().unwrap();
        assert_eq!(found.expire_at, None);
        assert_eq!(found.attributes.len(), 1, "{found:?}");
        assert!(!has_edges(&keeps, 0));
        // Once more.
        let mut again = EntityPatch::new(of(0));
        again.expire_at = Some(Some(in_a_second(&keeps)));
        keeps.one(Write::Update(Box::new(again))).unwrap();
        keeps.clock.advance(5_000);
    }
}

/// The catalogue as a node tells it to another is there what it is here, whatever was there before.
#[test]
fn a_catalogue_is_adopted_if_it_is_newer() {
    let (ours, mut theirs) = (fixture(), Fixture::new());
    let tell = |to: &Fixture| to.replica.adopt_catalogue(&ours.replica.encoded_catalogue()).unwrap();
    let seen = |of: &Fixture| format!("{:?}", of.replica.collections(TENANT, &CollectionSet::ALL, None, 10));
    assert!(tell(&theirs));
    assert!(!tell(&theirs), "it is as new");
    assert_eq!(seen(&theirs), seen(&ours));
    assert_eq!(theirs.replica.cursor_key(), ours.replica.cursor_key());
    let put = write(&Step::Put { id: 0, value: 1, vector: true, chunk: Some(0) }, 0);
    for fixture in [&ours, &theirs] {
        fixture.one(put.clone()).unwrap();
    }
    let change = CollectionChange {
        add_spaces: vec![SpaceSpec::new("w", 3, Metric::Dot)],
        drop_spaces: vec!["v".into()],
        drop_indexes: vec![Field::parse("n").unwrap()],
        add_indexes: vec![Field::parse("at").unwrap()],
        ..CollectionChange::default()
    };
    // Agreed on by all at once, none of them having made it.
    let next = ours.replica.with_updated(TENANT, "r", change).unwrap();
    for fixture in [&ours, &theirs] {
        assert!(fixture.replica.adopt_catalogue(&next).unwrap());
        let found = fixture.replica.get(TENANT, &[of(0)], &ReadMask::everything(), deadline()).pop().unwrap();
        assert!(found.unwrap().vectors.is_empty(), "its space is gone");
        let filter = Filter::Compare(Field::parse("at").unwrap(), Operator::Equal, Value::Int(0));
        assert_eq!(fixture.replica.count(TENANT, "r", Some(&filter), deadline()).unwrap(), 1);
    }
    assert_eq!(seen(&theirs), seen(&ours));
    let created = ours.replica.with_created(TENANT, "more", CollectionSpec::default()).unwrap();
    assert!(ours.replica.adopt_catalogue(&created).unwrap());
    let dropped = ours.replica.with_dropped(TENANT, "r").unwrap();
    assert!(ours.replica.adopt_catalogue(&dropped).unwrap());
    assert!(tell(&theirs), "two changes at once");
    theirs = theirs.crash();
    assert_eq!(seen(&theirs), seen(&ours));
    assert_eq!(theirs.replica.catalogue_version(), ours.replica.catalogue_version());
    assert!(!theirs.replica.adopt_catalogue(&next).unwrap(), "it is older");
    assert!(theirs.replica.adopt_catalogue(b"garbage").is_err());
}

/// What goes behind the trees' back is noticed, and they are made anew.
#[test]
fn a_tree_that_is_wrong_is_noticed_and_made_anew() {
    let fixture = fixture();
    fixture.replica.keep_topology(Vec::new(), true, |_| Held::Shared, None).unwrap();
    fixture.replica.build_trees().unwrap();
    for id in 0..IDS.len() {
        fixture.one(write(&Step::Put { id, value: 1, vector: true, chunk: Some(0) }, 0)).unwrap();
    }
    let all = |fixture: &Fixture| -> Vec<(u16, Vec<u16>)> {
        let verify = |partition| (partition, fixture.replica.verify_tree(partition).unwrap());
        (0..PARTITIONS).map(verify).filter(|(_, wrong)| !wrong.is_empty()).collect()
    };
    assert_eq!(all(&fixture), []);
    let engine = fixture.replica.engine();
    let rows = engine.keyspace("vector").unwrap();
    let lost = engine.snapshot().prefix(rows, &[], Order::Forward).unwrap().next().unwrap().unwrap().0;
    let mut batch = WriteBatch::new();
    batch.delete(rows, lost);
    engine.write(batch, Durability::Sync).unwrap();
    let wrong = all(&fixture);
    assert_eq!(wrong.len(), 1, "{wrong:?}");
    assert_eq!(wrong[0].1.len(), 1, "{wrong:?}");
    let ask = |fixture: &Fixture| fixture.replica.tree(TENANT, &TreeRequest::Roots(vec![0]), deadline());
    assert!(ask(&fixture).is_err(), "there are none");
    fixture.replica.build_trees().unwrap();
    assert!(ask(&fixture).is_ok());
    assert_eq!(all(&fixture), []);
    // What is durable after it makes it durable, too.
    fixture.one(write(&Step::Delete(0), 1)).unwrap();
    let roots_before = roots(&fixture);
    let fixture = fixture.crash();
    assert!(roots(&fixture) == roots_before);
    assert_eq!(all(&fixture), []);
}

/// More edges end with a hub than are removed at a time: those that its marker hides are in no tree, and were taken out of it once.
#[test]
fn trees_are_right_when_a_hub_goes_with_its_neighbors() {
    const EDGES: usize = 10_050;
    let fixture = fixture();
    fixture.replica.keep_topology(Vec::new(), true, |_| Held::Shared, None).unwrap();
    fixture.replica.build_trees().unwrap();
    let (hub, spoke) = (of(0), |at: usize| EntityRef::new("r", format!("spoke-{at:05}")));
    let plan = |write: Write| fixture.replica.plan(TENANT, write).unwrap();
    let edge = |at: usize| Write::PutEdge(Box::new(Edge::new(hub.clone(), "r", spoke(at))));
    let apply = |writes: Vec<Mutation>| {
        let made = fixture.replica.apply(writes, Durability::None);
        assert!(made.iter().all(Result::is_ok));
    };
    apply((0..EDGES).map(|at| plan(edge(at))).collect());
    fixture.clock.advance(1);
    // The last ones are hidden.
    let gone = [hub.clone(), spoke(EDGES - 1), spoke(0)].map(|entity| plan(Write::Delete(entity)));
    apply(gone.into());
    assert_eq!(wrong_leaves(&fixture), vec![]);
    fixture.clock.advance(1);
    apply([Write::Delete(hub.clone()), edge(EDGES - 1), Write::Delete(hub.clone())].map(plan).into());
    assert_eq!(wrong_leaves(&fixture), vec![]);
}

#[test]
fn what_was_restored_is_told_from_collections_of_the_same_names() {
    let change =
        CollectionChange { add_indexes: vec![Field::parse("at").unwrap()], ..CollectionChange::default() };
    let (source, same_name, other) = (fixture(), Fixture::new(), Fixture::new());
    let encoded = source.replica.with_updated(TENANT, "r", change).unwrap();
    same_name.clock.advance(10);
    same_name.replica.create_collection(TENANT, "r", CollectionSpec::default()).unwrap();
    let held = [&source, &same_name, &other].map(|fixture| fixture.replica.has_restored(&encoded).unwrap());
    assert_eq!(held, [true, false, false]);
    assert!(other.replica.with_restored(&encoded).is_err(), "there are collections");
    other.replica.keep_restoring(Some("s")).unwrap();
    let other = other.crash();
    assert_eq!(other.replica.restoring().unwrap().as_deref(), Some("s"));
    other.replica.keep_restoring(None).unwrap();
    assert_eq!(other.crash().replica.restoring().unwrap(), None);
}

/// Who deletes one end of an edge writes at the other one, too, which somebody else may delete meanwhile.
#[test]
fn trees_are_right_when_both_ends_of_edges_go_at_once() {
    const ROUNDS: usize = 40;
    const EDGES: usize = 20;
    let fixture = fixture();
    fixture.replica.keep_topology(Vec::new(), true, |_| Held::Shared, None).unwrap();
    fixture.replica.build_trees().unwrap();
    let plan = |write: Write| fixture.replica.plan(TENANT, write).unwrap();
    let apply = |writes: Vec<Mutation>| {
        for result in fixture.replica.apply(writes, Durability::None) {
            result.unwrap();
        }
    };
    let end = |side: char, round: usize, at: usize| EntityRef::new("r", format!("{side}-{round}-{at}"));
    for round in 0..ROUNDS {
        let edge = |at: usize| Edge::new(end('a', round, at % 3), "r", end('b', round, at % 4));
        apply((0..EDGES).map(|at| plan(Write::PutEdge(Box::new(edge(at))))).collect());
        let begins = std::sync::Barrier::new(2);
        std::thread::scope(|scope| {
            for (side, count) in [('a', 3), ('b', 4)] {
                let (plan, apply, begins) = (&plan, &apply, &begins);
                scope.spawn(move || {
                    let writes = (0..count).map(|at| plan(Write::Delete(end(side, round, at)))).collect();
                    begins.wait();
                    apply(writes);
                });
            }
        });
    }
    assert_eq!(wrong_leaves(&fixture), vec![]);
}

/// Snapshots are made of what is told page by page, and an edge's ends need not be there.
#[test]
fn a_node_that_is_alone_tells_of_edges_without_entities() {
    let fixture = fixture();
    for edge in [Edge::new(of(0), "r", of(1)), Edge::new(of(2), "r", of(2))] {
        fixture.one(Write::PutEdge(Box::new(edge))).unwrap();
    }
    assert_eq!(tells_what_it_holds(&fixture), 3);
    fixture.one(write(&Step::Put { id: 0, value: 1, vector: false, chunk: None }, 0)).unwrap();
    fixture.one(write(&Step::Delete(0), 1)).unwrap();
    let edge = Edge::new(of(1), "r", of(0));
    fixture.one(Write::PutEdge(Box::new(edge))).unwrap();
    assert_eq!(tells_what_it_holds(&fixture), 3);
}
