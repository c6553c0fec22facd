//! Forgetting what was deleted, at one replica.

use std::collections::BTreeSet;

use allidb_index::{Clock, Error, Extent, Held, Mutation, Version, model::Write};
use allidb_storage::{Direction, Durability, WriteBatch};
use proptest::prelude::*;

use crate::{
    fixture::{Fixture, TENANT, only},
    replicas::{Step, fixture, of, roots, step, view, write, wrong_leaves},
};

/// Above everything that was planned until now.
fn now(fixture: &Fixture) -> Version {
    fixture.clock.advance(10);
    Version::new(fixture.clock.now_ms() - 5, 0, 0)
}

/// Forgets what was deleted until now, as a round of the ring does here.
fn forget(fixture: &Fixture) {
    let upto = now(fixture);
    assert_eq!(fixture.replica.prepare_to_close(upto).unwrap(), None);
    fixture.replica.close_up_to(upto).unwrap();
    fixture.replica.mark(upto);
    fixture.replica.purge_up_to(upto, Some(upto)).unwrap();
    assert_eq!((fixture.replica.purged(), fixture.replica.swept()), (upto, upto));
}

/// The keys of all rows of entities; numbers are given in any order.
pub(crate) fn keys(fixture: &Fixture) -> Vec<(&'static str, Vec<u8>)> {
    let engine = fixture.replica.engine();
    let keys = |name: &'static str| {
        let keyspace = engine.keyspace(name).unwrap();
        let rows = engine.snapshot().prefix(keyspace, &[], Direction::Forward).unwrap();
        let is_named = move |key: &[u8]| name != "number" || key[0] == 0;
        rows.map(|row| row.unwrap().0).filter(move |key| is_named(key)).map(move |key| (name, key.to_vec()))
    };
    ["entity", "chunk", "vector", "edge", "edge_in", "token", "number"].into_iter().flat_map(keys).collect()
}

/// How many entities have rows, by those, and by what replicas compare.
fn named(keys: &[(&str, Vec<u8>)]) -> (usize, usize) {
    let rows = keys.iter().filter(|(name, _)| !["token", "number"].contains(name));
    // Their names are of one letter.
    let entities: BTreeSet<&[u8]> = rows.map(|(_, key)| &key[..21]).collect();
    (entities.len(), keys.iter().filter(|(name, _)| *name == "token").count())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn who_forgets_what_was_deleted_holds_what_a_node_alone_does(
        steps in prop::collection::vec((step(), prop::bool::weighted(0.1)), 1..40),
    ) {
        let (alone, mut keeps) = (fixture(), fixture());
        keeps.replica.keep_topology(Vec::new(), true, |_| Held::Shared, None).unwrap();
        keeps.replica.build_trees().unwrap();
        for (at, (step, forgets)) in steps.iter().enumerate() {
            let results = [&alone, &keeps].map(|fixture| format!("{:?}", fixture.one(write(step, at))));
            prop_assert_eq!(&results[0], &results[1], "{:?}", step);
            if *forgets {
                alone.clock.advance(10);
                forget(&keeps);
                prop_assert_eq!(view(&alone), view(&keeps));
                prop_assert_eq!(wrong_leaves(&keeps), vec![]);
            }
        }
        alone.clock.advance(10);
        forget(&keeps);
        prop_assert_eq!(view(&alone), view(&keeps));
        let (left, kept) = (keys(&alone), keys(&keeps));
        let is_more = |key: &&(&str, Vec<u8>)| key.0 != "token" && !left.contains(key);
        let more: Vec<_> = kept.iter().filter(is_more).collect();
        let (named, compared) = named(&kept);
        prop_assert_eq!(named, compared);
        // Who is alone goes on to name what had nothing but edges.
        let is_fewer = |key: &&(&str, Vec<u8>)| key.0 != "token" && !kept.contains(key);
        let fewer: Vec<_> = left.iter().filter(is_fewer).collect();
        prop_assert!(more.is_empty() && fewer.is_empty(), "more: {more:?}, fewer: {fewer:?}");
        let told = roots(&keeps);
        keeps = keeps.crash();
        prop_assert_eq!(view(&alone), view(&keeps));
        prop_assert_eq!(roots(&keeps), told);
        prop_assert_eq!(wrong_leaves(&keeps), vec![]);
    }
}

/// A node of a ring with an entity whose attribute, chunk and edge were deleted, and one that was deleted itself.
fn deleted() -> Fixture {
    let keeps = fixture();
    keeps.replica.keep_topology(Vec::new(), true, |_| Held::Shared, None).unwrap();
    let steps = [
        Step::Put { id: 0, value: 1, vector: true, chunk: Some(0) },
        Step::Put { id: 1, value: 1, vector: true, chunk: Some(1) },
        Step::Put { id: 2, value: 1, vector: true, chunk: Some(1) },
        Step::Link(0, 1, 1),
        Step::Link(0, 2, 1),
        Step::Unlink(0, 2),
        Step::Update { id: 0, value: None, vector: Some(false), chunk: Some(None), replace: false },
        Step::Delete(1),
    ];
    for (at, step) in steps.iter().enumerate() {
        keeps.one(write(step, at)).unwrap();
    }
    keeps
}

fn told(fixture: &Fixture) -> String {
    let keys: Vec<_> = (0..3).map(|id| fixture.replica.entity_key(TENANT, &of(id)).unwrap()).collect();
    format!("{:?}", fixture.replica.held(&keys, Extent::ALL).unwrap())
}

#[test]
fn nothing_that_was_planned_before_is_taken_once_that_is_closed_but_ends_of_edges() {
    let keeps = deleted();
    let late =
        keeps.replica.plan(TENANT, write(&Step::Put { id: 3, value: 1, vector: false, chunk: None }, 9));
    let late = late.unwrap();
    let upto = now(&keeps);
    keeps.replica.close_up_to(upto).unwrap();
    let keeps = keeps.crash();
    let timely = keeps.replica.plan(TENANT, write(&Step::Delete(2), 9)).unwrap();
    let results = keeps.replica.receive(vec![late.clone(), timely.clone(), late.clone()], Durability::Sync);
    let is_late = |result: &Result<_, Error>| matches!(result, Err(Error::Late { version, closed }) if (*version, *closed) == (late.version(), upto));
    assert!(is_late(&results[0]) && results[1].is_ok() && is_late(&results[2]), "{results:?}");
    // The end of an edge has the version of what it ends.
    let (a, b) = (fixture(), fixture());
    let [at_a, at_b] = [0, 1].map(|id| a.replica.entity_key(TENANT, &of(id)).unwrap().partition());
    a.replica.keep_topology(Vec::new(), true, only(at_a), None).unwrap();
    b.replica.keep_topology(Vec::new(), true, only(at_b), None).unwrap();
    let edge = a.replica.plan(TENANT, write(&Step::Link(0, 1, 1), 0)).unwrap();
    let receive = |at: &Fixture, sent: &[u8]| {
        at.replica.receive(vec![Mutation::decode(sent).unwrap()], Durability::Sync).pop().unwrap().unwrap();
    };
    receive(&a, &edge.encode(|partition| partition == at_a).unwrap().unwrap());
    receive(&b, &edge.encode(|partition| partition == at_b).unwrap().unwrap());
    let upto = now(&a);
    b.replica.close_up_to(upto).unwrap();
    a.one(Write::Delete(of(0))).unwrap();
    let posted = a.replica.outbox(None, 10, u64::MAX).unwrap();
    assert_eq!(a.replica.prepare_to_close(upto).unwrap(), None, "what is taken however late delays nothing");
    receive(&b, &posted[0].mutation);
    let key = b.replica.entity_key(TENANT, &of(1)).unwrap();
    let held = format!("{:?}", b.replica.held(&[key], Extent::ALL).unwrap());
    assert!(held.contains("value: None") && !held.contains("weight"), "{held}");
}

#[test]
fn what_is_kept_for_others_delays_closing_and_what_was_planned_before_is_not_posted() {
    let keeps = deleted();
    let edge = keeps.replica.plan(TENANT, write(&Step::Link(0, 2, 2), 9)).unwrap();
    let posted = keeps.replica.post_all(std::slice::from_ref(&edge), Durability::Sync).unwrap();
    keeps.clock.advance(1);
    let put = keeps.replica.plan(TENANT, write(&Step::Delete(2), 9)).unwrap();
    for node in [7, u64::MAX, 9] {
        keeps.replica.keep_hints(node, &[put.encode(|_| true).unwrap().unwrap()]).unwrap();
    }
    let upto = now(&keeps);
    assert_eq!(keeps.replica.prepare_to_close(upto).unwrap(), Some(edge.version()));
    let refused = keeps.replica.post_all(std::slice::from_ref(&edge), Durability::Sync);
    assert!(matches!(refused, Err(Error::Late { .. })), "{refused:?}");
    let mut outgoing = keeps.replica.outgoing();
    assert!(!keeps.replica.is_delivered(&mut outgoing).unwrap());
    keeps.replica.forget_hints(&posted).unwrap();
    assert!(keeps.replica.is_delivered(&mut outgoing).unwrap());
    assert_eq!(keeps.replica.prepare_to_close(upto).unwrap(), Some(put.version()));
    for node in [7, u64::MAX, 9] {
        let hints = keeps.replica.hints(node, None, 10, u64::MAX).unwrap();
        keeps.replica.forget_hints(&hints).unwrap();
    }
    assert_eq!(keeps.replica.prepare_to_close(upto).unwrap(), None);
    assert!(keeps.replica.plan(TENANT, write(&Step::Delete(2), 9)).unwrap().version() > upto);
}

#[test]
fn what_was_read_before_is_not_taken_over_once_that_is_purged() {
    let (keeps, other) = (deleted(), fixture());
    other.replica.keep_topology(Vec::new(), true, |_| Held::Shared, None).unwrap();
    let key = other.replica.entity_key(TENANT, &of(1)).unwrap();
    other.one(write(&Step::Put { id: 1, value: 2, vector: false, chunk: None }, 0)).unwrap();
    let read = other.replica.held(std::slice::from_ref(&key), Extent::ALL).unwrap().remove(0);
    forget(&keeps);
    let before = told(&keeps);
    let states = || vec![(key.clone(), read.clone())];
    let refused = keeps.replica.absorb(states(), Version::ZERO, Durability::Sync);
    assert!(matches!(refused, Err(Error::Purged(purged)) if purged == keeps.replica.purged()), "{refused:?}");
    assert_eq!(told(&keeps), before);
    keeps.replica.absorb(states(), keeps.replica.purged(), Durability::Sync).unwrap();
    assert_ne!(told(&keeps), before);
}

/// The end of an edge has the version of the edge, and may come after the replicas compared: others may not have heard of it.
#[test]
fn what_was_not_there_when_it_was_marked_is_not_forgotten() {
    let (a, b) = (fixture(), fixture());
    let [at_a, at_b] = [0, 1].map(|id| a.replica.entity_key(TENANT, &of(id)).unwrap().partition());
    a.replica.keep_topology(Vec::new(), true, only(at_a), None).unwrap();
    b.replica.keep_topology(Vec::new(), true, only(at_b), None).unwrap();
    let edge = a.replica.plan(TENANT, write(&Step::Link(0, 1, 1), 0)).unwrap();
    let receive = |at: &Fixture, sent: &[u8]| {
        at.replica.receive(vec![Mutation::decode(sent).unwrap()], Durability::Sync).pop().unwrap().unwrap();
    };
    receive(&a, &edge.encode(|partition| partition == at_a).unwrap().unwrap());
    receive(&b, &edge.encode(|partition| partition == at_b).unwrap().unwrap());
    let (upto, other_round) = (now(&b), Version::new(1, 0, 0));
    b.replica.close_up_to(upto).unwrap();
    b.replica.mark(upto);
    a.one(Write::Delete(of(0))).unwrap();
    receive(&b, &a.replica.outbox(None, 10, u64::MAX).unwrap()[0].mutation);
    let told = |fixture: &Fixture| {
        let key = fixture.replica.entity_key(TENANT, &of(1)).unwrap();
        format!("{:?}", fixture.replica.held(&[key], Extent::ALL).unwrap())
    };
    assert!(told(&b).contains("value: None"));
    b.replica.purge_up_to(upto, Some(upto)).unwrap();
    assert!(b.replica.swept() == upto && told(&b).contains("value: None"), "{}", told(&b));
    // What another round marked is none of this one's.
    b.replica.mark(other_round);
    b.replica.purge_up_to(upto, Some(upto)).unwrap();
    assert!(told(&b).contains("value: None"), "{}", told(&b));
    b.replica.purge_up_to(upto, Some(other_round)).unwrap();
    assert!(!told(&b).contains("value: None"), "{}", told(&b));
}

/// Trees whose rows cannot be read are made anew; the node serves meanwhile.
#[test]
fn a_node_whose_trees_are_damaged_opens_and_makes_them_anew() {
    let keeps = deleted();
    keeps.replica.build_trees().unwrap();
    let right = roots(&keeps);
    for (key, value) in
        [(vec![0, 0, 1], vec![0xff; 3]), (vec![1, 9], vec![0]), (vec![0, 0xff, 0xff], vec![0, 0])]
    {
        let engine = keeps.replica.engine();
        let mut batch = WriteBatch::new();
        batch.put(engine.keyspace("merkle").unwrap(), key, value);
        engine.write(batch, Durability::Sync).unwrap();
    }
    let keeps = keeps.crash();
    let all = allidb_index::TreeRequest::Roots(vec![0]);
    let refused = keeps.replica.tree(TENANT, &all, crate::fixture::deadline());
    assert!(matches!(refused, Err(Error::Unavailable(_))), "{refused:?}");
    keeps.replica.build_trees().unwrap();
    assert_eq!(roots(&keeps), right);
    assert_eq!(roots(&keeps.reopen()), right);
}
