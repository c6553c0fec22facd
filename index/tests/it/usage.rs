//! What a tenant uses, counted and followed.

use allidb_index::{
    Held, PARTITIONS,
    model::{Quota, ReadMask, TenantId, Usage},
};
use allidb_storage::Durability;
use proptest::prelude::*;

use crate::{
    fixture::{Fixture, TENANT, deadline, entity},
    replicas::{IDS, fixture, of, step, write},
};

fn all() -> Vec<u16> {
    (0..PARTITIONS).collect()
}

fn count(fixture: &Fixture) {
    for partition in all() {
        fixture.replica.count_usage(TENANT, partition).unwrap();
    }
}

fn usage(fixture: &Fixture) -> Usage {
    fixture.replica.usage(TENANT, &all()).expect("it was counted")
}

/// What a caller sees: how many entities there are, and vectors.
fn seen(fixture: &Fixture) -> (u64, u64) {
    let (mut entities, mut vectors) = (0, 0);
    for id in 0..IDS.len() {
        let found = fixture.replica.get(TENANT, &[of(id)], &ReadMask::everything(), deadline()).pop();
        if let Some(Ok(entity)) = found {
            entities += 1;
            let of_chunks: usize = entity.chunks.values().map(|chunk| chunk.vectors.len()).sum();
            vectors += (entity.vectors.len() + of_chunks) as u64;
        }
    }
    (entities, vectors)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn what_is_counted_is_what_there_is_and_follows_what_is_written(
        before in prop::collection::vec(step(), 0..20),
        after in prop::collection::vec(step(), 0..20),
        keeps_deletes in any::<bool>(),
    ) {
        let fixture = fixture();
        if keeps_deletes {
            fixture.replica.keep_topology(Vec::new(), true, |_| Held::Shared, None).unwrap();
        }
        let make = |steps: &[_], from: usize| {
            for (at, step) in steps.iter().enumerate() {
                fixture.clock.advance(1);
                // What is refused changes nothing.
                if let Ok(planned) = fixture.replica.plan(TENANT, write(step, from + at)) {
                    drop(fixture.replica.apply(vec![planned], Durability::Sync));
                }
            }
        };
        make(&before, 0);
        fixture.replica.count_usage_of(&[TENANT]);
        prop_assert_eq!(fixture.replica.usage(TENANT, &all()), None);
        prop_assert_eq!(fixture.replica.uncounted(TENANT, &all()).len(), usize::from(PARTITIONS));
        count(&fixture);
        prop_assert!(fixture.replica.uncounted(TENANT, &all()).is_empty());
        let counted = usage(&fixture);
        prop_assert_eq!((counted.entities, counted.vectors), seen(&fixture));
        prop_assert_eq!(counted.bytes == 0, counted.entities == 0);
        make(&after, before.len());
        let followed = usage(&fixture);
        prop_assert_eq!((followed.entities, followed.vectors), seen(&fixture));
        count(&fixture);
        let counted = usage(&fixture);
        prop_assert_eq!((counted.entities, counted.vectors), seen(&fixture));
    }
}

#[test]
fn bytes_follow_what_is_written_but_for_edges() {
    let fixture = Fixture::new();
    fixture.replica.count_usage_of(&[TENANT]);
    count(&fixture);
    for at in 0..50 {
        fixture.put(entity(&format!("e-{at}"), &[at as f32, 1.0]));
    }
    for at in 0..20 {
        fixture.delete(&format!("e-{at}"));
    }
    for at in 20..30 {
        fixture.put(entity(&format!("e-{at}"), &[]));
    }
    let followed = usage(&fixture);
    count(&fixture);
    assert_eq!(followed, usage(&fixture));
    assert_eq!((followed.entities, followed.vectors), (30, 20));
    fixture.link("e-30", "r", "e-31", 1.0);
    assert_eq!(usage(&fixture), followed);
    count(&fixture);
    assert!(usage(&fixture).bytes > followed.bytes);
    fixture.replica.count_usage_of(&[]);
    assert_eq!(fixture.replica.usage(TENANT, &all()), None);
}

#[test]
fn the_whole_is_estimated_by_the_partitions_that_are_held() {
    let fixture = Fixture::new();
    for at in 0..4_000 {
        fixture.put(entity(&format!("e-{at}"), &[]));
    }
    fixture.replica.count_usage_of(&[TENANT]);
    let some: Vec<u16> = all().into_iter().step_by(2).collect();
    some.iter().for_each(|partition| fixture.replica.count_usage(TENANT, *partition).unwrap());
    let estimated = fixture.replica.usage(TENANT, &some).expect("some are counted").entities;
    assert!((3_600..4_400).contains(&estimated), "{estimated}");
}

#[test]
fn quotas_outlive_a_restart_and_are_told_with_the_catalogue() {
    let fixture = Fixture::new();
    let quota = Quota { requests_per_second: Some(3), bytes: Some(0), ..Quota::default() };
    let other = TenantId(9);
    fixture.replica.set_quota(other, quota).unwrap();
    fixture.replica.set_quota(TENANT, Quota { entities: Some(1), ..Quota::default() }).unwrap();
    fixture.replica.set_quota(TENANT, Quota::default()).unwrap();
    let refused = Quota { bytes_per_second: Some(0), ..Quota::default() };
    assert!(fixture.replica.set_quota(other, refused).is_err());
    let fixture = fixture.reopen();
    assert_eq!(fixture.replica.quotas(), [(other, quota)]);
    assert_eq!(fixture.replica.quota(TENANT), Quota::default());
    let told = fixture.replica.with_quota(TENANT, quota).unwrap();
    fixture.replica.adopt_catalogue(&told).unwrap();
    assert_eq!(fixture.replica.quotas(), [(TENANT, quota), (other, quota)]);
}
