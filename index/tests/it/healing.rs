//! Healing from damaged tables: as if nothing had happened, once what was let go of is absorbed from others.

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use allidb_index::{EntityKey, EntityState, Error, Extent, Held, KEYSPACES, Version};
use allidb_storage::{
    Durability, ScrubOptions,
    fs::Fs,
    inspect::{InspectOptions, Inspection, inspect},
};
use proptest::prelude::*;

use crate::{
    fixture::{Fixture, TENANT},
    replicas::{IDS, fixture, of, roots, step, view, write, wrong_leaves},
};

/// The tables that the node has, and whose rows are in them.
fn tables(fixture: &Fixture) -> Vec<(PathBuf, &'static str)> {
    let keyspace = |path: &PathBuf| match inspect(&fixture.fs, path, InspectOptions::default()) {
        Ok(Inspection::Table(table)) => table.properties.map(|of| KEYSPACES[of.keyspace as usize]),
        _ => None,
    };
    let paths = fixture.fs.files().into_iter().map(|(path, _)| path);
    paths.filter_map(|path| keyspace(&path).map(|of| (path, of))).collect()
}

fn held(fixture: &Fixture) -> Vec<(EntityKey, EntityState)> {
    let names = (0..IDS.len()).map(|id| fixture.replica.entity_key(TENANT, &of(id)).unwrap());
    let names: Vec<EntityKey> = names.collect();
    let states = fixture.replica.held(&names, Extent::ALL).unwrap();
    names.into_iter().zip(states).collect()
}

/// A replica of which others hold everything, with what these steps lead to, in tables.
fn written(steps: &[crate::replicas::Step]) -> Fixture {
    let fixture = fixture();
    fixture.replica.keep_topology(Vec::new(), true, |_| Held::Shared, None).unwrap();
    fixture.replica.build_trees().unwrap();
    for (at, step) in steps.iter().enumerate() {
        fixture.clock.advance(1);
        // What is refused changes nothing.
        fixture.one(write(step, at)).ok();
    }
    fixture.replica.engine().flush().unwrap();
    fixture
}

/// Damages a table, finds that out, and starts again.
fn damaged(fixture: Fixture, path: &Path, at: u64) -> Fixture {
    let bytes = fixture.fs.open(path).unwrap().byte_len().unwrap();
    assert!(fixture.fs.flip_bit(path, at % bytes, 3));
    fixture.replica.engine().scrub(ScrubOptions::default(), |_| ControlFlow::Continue(())).unwrap();
    fixture
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn what_is_damaged_goes_and_is_as_before_when_it_is_absorbed_again(
        steps in prop::collection::vec(step(), 4..40),
        (which, at) in (any::<prop::sample::Index>(), any::<u64>()),
    ) {
        let fixture = written(&steps);
        let before = (view(&fixture), roots(&fixture), held(&fixture));
        let tables: Vec<_> =
            tables(&fixture).into_iter().filter(|(_, of)| !["cluster", "local"].contains(of)).collect();
        prop_assume!(!tables.is_empty());
        let (path, of) = which.get(&tables);
        let fixture = damaged(fixture, path, at);
        prop_assert!(fixture.replica.damaged_partitions().is_some(), "{of}");
        fixture.replica.note_damage().unwrap();
        let fixture = fixture.crash();
        prop_assert!(fixture.replica.engine().damaged().is_empty() && fixture.replica.damaged_partitions().is_none());
        let healing = fixture.replica.healing();
        let is_derived = !["entity", "vector", "history", "chunk", "edge", "edge_in", "token", "number", "paxos"].contains(of);
        prop_assert_eq!(healing.is_empty(), is_derived, "{}", of);
        // Nothing of what was among the damaged rows is there in part.
        for (name, state) in held(&fixture) {
            let is_healing = healing.contains(&name.partition());
            prop_assert!(!is_healing || state == EntityState::default(), "{} {:?}", of, name);
        }
        // As long as not all is taken over it is noted, whatever happens.
        let fixture = fixture.crash();
        prop_assert_eq!(&fixture.replica.healing(), &healing);
        let lost = before.2.iter().filter(|(name, _)| healing.contains(&name.partition())).cloned().collect();
        fixture.replica.absorb(lost, Version::ZERO, Durability::Sync).unwrap();
        fixture.replica.is_healed(&healing).unwrap();
        fixture.replica.build_trees().unwrap();
        prop_assert_eq!(view(&fixture), before.0, "{}", of);
        prop_assert_eq!(roots(&fixture), before.1, "{}", of);
        let fixture = fixture.crash();
        prop_assert_eq!(fixture.replica.healing(), Vec::<u16>::new());
        fixture.replica.build_trees().unwrap();
        prop_assert_eq!(wrong_leaves(&fixture).len(), 0, "{}", of);
        prop_assert_eq!(held(&fixture), before.2);
    }
}

#[test]
fn what_nobody_else_holds_is_not_let_go_of() {
    let steps = [crate::replicas::Step::Put { id: 0, value: 1, vector: true, chunk: Some(1) }];
    let fixture = written(&steps);
    fixture.replica.keep_topology(Vec::new(), true, |_| Held::Alone, None).unwrap();
    let (path, _) = tables(&fixture).into_iter().find(|(_, of)| *of == "entity").unwrap();
    let fixture = damaged(fixture, &path, 10);
    assert_eq!(fixture.replica.damaged_partitions(), None);
    fixture.replica.note_damage().unwrap();
    let fixture = fixture.crash();
    assert!(fixture.replica.healing().is_empty());
    let name = fixture.replica.entity_key(TENANT, &of(0)).unwrap();
    let error = fixture.replica.held(&[name], Extent::ALL).unwrap_err();
    assert!(matches!(error, Error::Storage(_)), "{error}");
    // Restored, it is as it was.
    assert!(fixture.fs.flip_bit(&path, 10, 3));
    let fixture = fixture.crash();
    assert!(fixture.replica.is_live(&held(&fixture)[0].1));
}
