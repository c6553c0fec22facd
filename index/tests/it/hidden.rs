//! Edges of what is deleted that are more than go at a time, and those that a deletion which comes late leaves: rows, the names that replicas compare
//! and snapshots are made by, and trees agree.

use std::collections::BTreeSet;

use allidb_index::{
    Held,
    model::{Edge, EntityRef, Write},
};
use allidb_storage::Durability;
use proptest::prelude::*;

use crate::{
    fixture::{Fixture, TENANT},
    purge::keys,
    replicas::{fixture, step, write, wrong_leaves},
};

/// So many go with what they lead to.
const AT_ONCE: usize = 10_000;

fn r(id: &str) -> EntityRef {
    EntityRef::new("r", id)
}

fn edge(from: &str, to: &str) -> Write {
    Write::PutEdge(Box::new(Edge::new(r(from), "r", r(to))))
}

/// A node, alone or with others, on which so many edges lead to a hub.
fn with_hub(edges: usize, has_others: bool) -> Fixture {
    let fixture = fixture();
    if has_others {
        fixture.replica.keep_topology(Vec::new(), true, |_| Held::Shared, None).unwrap();
    }
    fixture.replica.build_trees().unwrap();
    for at in 0..edges.div_ceil(1_000) {
        let some = (at * 1_000..edges.min((at + 1) * 1_000)).map(|at| edge(&format!("s{at}"), "hub"));
        fixture.write(some.collect()).into_iter().for_each(|written| assert!(written.is_ok(), "{written:?}"));
    }
    fixture
}

/// Rows of a kind.
fn rows(fixture: &Fixture, of: &str) -> usize {
    keys(fixture).iter().filter(|(name, _)| *name == of).count()
}

fn delete(fixture: &Fixture, id: &str) {
    fixture.one(Write::Delete(r(id))).unwrap();
}

fn is_whole(fixture: &Fixture) {
    assert_eq!(wrong_leaves(fixture).len(), 0);
    let is_beneath = |key: &[u8]| key.starts_with(b"beneath/");
    let engine = fixture.replica.engine();
    let local = engine.keyspace("local").unwrap();
    let left = engine.snapshot().prefix(local, b"beneath/", allidb_storage::Direction::Forward).unwrap();
    assert_eq!(left.filter(|row| is_beneath(&row.as_ref().unwrap().0)).count(), 0);
}

#[test]
fn more_edges_than_go_at_a_time_all_go_from_a_node_alone() {
    let fixture = with_hub(2 * AT_ONCE + 3, false);
    delete(&fixture, "hub");
    is_whole(&fixture);
    assert_eq!(["entity", "edge", "edge_in"].map(|of| rows(&fixture, of)), [0; 3]);
    let fixture = fixture.crash();
    fixture.replica.build_trees().unwrap();
    is_whole(&fixture);
    // It is a name like any other.
    fixture.one(edge("s1", "hub")).unwrap();
    assert_eq!(["entity", "edge", "edge_in"].map(|of| rows(&fixture, of)), [0, 1, 1]);
    is_whole(&fixture);
}

#[test]
fn where_others_hold_them_all_are_told_as_gone() {
    let fixture = with_hub(AT_ONCE + 3, true);
    delete(&fixture, "hub");
    is_whole(&fixture);
    // Beneath the marker there is nothing, and a tombstone at each other end.
    assert_eq!(["entity", "edge", "edge_in"].map(|of| rows(&fixture, of)), [1, AT_ONCE + 3, 0]);
}

#[test]
fn they_go_though_the_power_is_cut_off_in_between() {
    let mut cuts = 0;
    for operations in [1, 2, 3, 4, 6, 9, 14, 20] {
        let fixture = with_hub(AT_ONCE + 3, false);
        fixture.fs.power_off_at(fixture.fs.operations() + operations);
        let planned = fixture.replica.plan(TENANT, Write::Delete(r("hub"))).unwrap();
        let is_told = fixture.replica.apply(vec![planned], Durability::Sync).pop().unwrap().is_ok();
        let fixture = fixture.crash();
        fixture.replica.build_trees().unwrap();
        is_whole(&fixture);
        let left = rows(&fixture, "edge");
        assert!(left == 0 || (!is_told && left == AT_ONCE + 3), "{left} after {operations}");
        cuts += usize::from(left == 0);
    }
    assert!(cuts > 1, "it was made {cuts} times");
}

/// An edge that was put after an end was deleted, and is made before that.
#[test]
fn an_edge_that_a_late_deletion_leaves_is_named_at_both_ends() {
    for both in [false, true] {
        let fixture = fixture();
        fixture.replica.build_trees().unwrap();
        for id in ["a", "b"] {
            let entity = allidb_index::model::Entity { id: id.into(), ..Default::default() };
            fixture.one(Write::Put { collection: "r".into(), entity: Box::new(entity) }).unwrap();
        }
        let plan = |write| {
            fixture.clock.advance(1);
            fixture.replica.plan(TENANT, write).unwrap()
        };
        let deleted: Vec<_> =
            ["a", "b"].into_iter().take(1 + usize::from(both)).map(|id| plan(Write::Delete(r(id)))).collect();
        let put = plan(edge("a", "b"));
        for mutations in [vec![put], deleted] {
            fixture
                .replica
                .apply(mutations, Durability::Sync)
                .into_iter()
                .for_each(|made| assert!(made.is_ok(), "{made:?}"));
        }
        assert_eq!(["edge", "edge_in", "token"].map(|of| rows(&fixture, of)), [1, 1, 2], "both: {both}");
        is_whole(&fixture);
        fixture.one(Write::Delete(r("a"))).unwrap();
        fixture.one(Write::Delete(r("b"))).unwrap();
        assert_eq!(["entity", "edge", "edge_in"].map(|of| rows(&fixture, of)), [0; 3], "both: {both}");
        is_whole(&fixture);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// Snapshots of a node alone are made by names and trees, too.
    #[test]
    fn names_and_trees_of_a_node_alone_are_those_of_its_rows(
        steps in prop::collection::vec((step(), any::<bool>()), 1..40),
    ) {
        let fixture = fixture();
        fixture.replica.build_trees().unwrap();
        let mut late = Vec::new();
        for (at, (step, is_late)) in steps.iter().enumerate() {
            fixture.clock.advance(1);
            let Ok(planned) = fixture.replica.plan(TENANT, write(step, at)) else { continue };
            late.push(planned);
            if !is_late {
                // Those that were planned first come last.
                while let Some(planned) = late.pop() {
                    // What is refused changes nothing.
                    fixture.replica.apply(vec![planned], Durability::Sync);
                }
            }
            let rows = keys(&fixture);
            let of = |name: &'static str| rows.iter().filter(move |(of, _)| *of == name);
            let tokens: BTreeSet<&[u8]> = of("token").map(|(_, key)| &key[key.len() - 3..]).collect();
            for name in ["entity", "chunk", "vector", "edge", "edge_in"] {
                for (_, key) in of(name) {
                    // Their names are of one letter, and end so.
                    prop_assert!(tokens.contains(&key[18..21]), "{} {:?} after {}", name, key, at);
                }
            }
            prop_assert_eq!(wrong_leaves(&fixture), vec![], "after {}", at);
        }
    }
}
