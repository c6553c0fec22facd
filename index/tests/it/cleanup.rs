//! Letting go of partitions that only others hold by now, and taking them up again, at one replica.

use std::collections::BTreeSet;

use allidb_index::{EntityKey, EntityState, Extent, Held, PARTITIONS, Version};
use allidb_storage::Durability;
use proptest::prelude::*;

use crate::{
    fixture::{Fixture, TENANT},
    purge::keys,
    replicas::{IDS, fixture, of, roots, step, view, write, wrong_leaves},
};

fn names(fixture: &Fixture) -> Vec<EntityKey> {
    (0..IDS.len()).map(|id| fixture.replica.entity_key(TENANT, &of(id)).unwrap()).collect()
}

/// What is seen; words are scored by what was there before, too, until segments are merged.
fn seen(fixture: &Fixture) -> Vec<String> {
    let found =
        |line: &str| -> BTreeSet<String> { line.split('"').skip(1).step_by(2).map(str::to_owned).collect() };
    let line = |line: &str| match line.starts_with("query: ") {
        true => format!("{:?}", found(line)),
        false => line.to_owned(),
    };
    view(fixture).lines().map(line).collect()
}

/// Rows of entities, without the numbers by which indexes call them.
fn rows(fixture: &Fixture) -> Vec<(&'static str, Vec<u8>)> {
    keys(fixture).into_iter().filter(|(name, _)| *name != "number").collect()
}

fn held(fixture: &Fixture, holds: impl Fn(u16) -> bool) -> Vec<(EntityKey, EntityState)> {
    let names: Vec<EntityKey> = names(fixture).into_iter().filter(|name| holds(name.partition())).collect();
    let states = fixture.replica.held(&names, Extent::ALL).unwrap();
    names.into_iter().zip(states).collect()
}

fn goes_by(fixture: &Fixture, holds: impl Fn(u16) -> bool) {
    let held = |partition| if holds(partition) { Held::Shared } else { Held::Elsewhere };
    fixture.replica.keep_topology(Vec::new(), true, held, None).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn what_only_others_hold_goes_as_if_it_had_never_been_here_and_comes_again(
        steps in prop::collection::vec(step(), 1..40),
        kept in prop::collection::vec(any::<bool>(), IDS.len()),
        crashes in any::<bool>(),
    ) {
        let mut gives = fixture();
        goes_by(&gives, |_| true);
        gives.replica.build_trees().unwrap();
        for (at, step) in steps.iter().enumerate() {
            gives.clock.advance(1);
            // What is refused changes nothing.
            gives.one(write(step, at)).ok();
        }
        let names = names(&gives);
        let of_kept = |partition: u16| {
            let is_kept = |(name, kept): (&EntityKey, &bool)| *kept && name.partition() == partition;
            names.iter().zip(&kept).any(is_kept)
        };
        let (before, whole) = (held(&gives, |_| true), (seen(&gives), roots(&gives)));

        // One that never held anything else.
        let never = fixture();
        goes_by(&never, of_kept);
        never.replica.build_trees().unwrap();
        never.replica.absorb(held(&gives, of_kept), Version::ZERO, Durability::Sync).unwrap();

        goes_by(&gives, of_kept);
        if crashes {
            gives = gives.crash();
            goes_by(&gives, of_kept);
        }
        let left = gives.replica.leftovers();
        prop_assert_eq!(left.len(), (0..PARTITIONS).filter(|partition| !of_kept(*partition)).count());
        prop_assert!(gives.replica.keep_topology(Vec::new(), true, |_| Held::Shared, None).is_err(), "what is left might come back");
        for partition in left {
            gives.replica.let_go_of(partition).unwrap();
        }
        prop_assert!(gives.replica.leftovers().is_empty());
        if crashes {
            gives = gives.crash();
            goes_by(&gives, of_kept);
        }
        let is_kept = |(_, key): &(&str, Vec<u8>)| of_kept(u16::from_be_bytes([key[0], key[1]]));
        prop_assert!(rows(&gives).iter().all(is_kept), "{:?}", rows(&gives));
        prop_assert_eq!(seen(&gives), seen(&never));
        prop_assert_eq!(roots(&gives), roots(&never));
        prop_assert!(wrong_leaves(&gives).is_empty());

        // It comes again, but for what markers hid.
        goes_by(&gives, |_| true);
        gives.replica.absorb(before, Version::ZERO, Durability::Sync).unwrap();
        prop_assert_eq!((seen(&gives), roots(&gives)), whole);
        let again = gives.crash();
        prop_assert!(wrong_leaves(&again).is_empty());
    }
}

#[test]
fn what_is_held_is_not_let_go_of() {
    let fixture = fixture();
    assert!(fixture.replica.let_go_of(0).is_err());
}
