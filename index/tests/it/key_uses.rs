//! When keys were used last: noted, kept, and heard from others.

use allidb_index::model::{ApiKey, CollectionSet, Role, Timestamp};

use crate::fixture::{Fixture, TENANT};

const IDS: [&str; 2] = ["aaaaaaaaaaaa", "bbbbbbbbbbbb"];

/// A replica with two keys.
fn with_keys() -> Fixture {
    let fixture = Fixture::new();
    for id in IDS {
        let key = ApiKey {
            id: id.to_owned(),
            name: "somebody".to_owned(),
            tenant: TENANT,
            role: Role::Reader,
            collections: CollectionSet::ALL,
            hash: [7; 32],
            created_at: Timestamp(1),
            expire_at: None,
        };
        fixture.replica.create_key(key).unwrap();
    }
    fixture
}

fn used(fixture: &Fixture) -> [Option<i64>; 2] {
    IDS.map(|id| fixture.replica.key_used_at(id).map(|at| at.0))
}

#[test]
fn the_last_use_counts_and_what_was_kept_is_there_after_a_restart() {
    let fixture = with_keys();
    assert_eq!(used(&fixture), [None, None]);
    for at in [5, 9, 7] {
        fixture.replica.note_key_use(IDS[0], Timestamp(at));
    }
    assert_eq!(used(&fixture), [Some(9), None]);
    fixture.replica.keep_key_uses().unwrap();
    fixture.replica.note_key_use(IDS[1], Timestamp(10));
    let fixture = fixture.reopen();
    assert_eq!(used(&fixture), [Some(9), None], "what was not kept is forgotten");
    fixture.replica.note_key_use(IDS[1], Timestamp(11));
    fixture.replica.keep_key_uses().unwrap();
    assert_eq!(used(&fixture.reopen()), [Some(9), Some(11)]);
}

#[test]
fn nodes_hear_of_keys_that_they_have_and_of_no_time_to_come() {
    let (here, there) = (with_keys(), with_keys());
    here.replica.note_key_use(IDS[0], Timestamp(5));
    there.replica.note_key_use(IDS[0], Timestamp(9));
    there.replica.note_key_use(IDS[1], Timestamp(i64::MAX));
    here.replica.adopt_key_uses(&there.replica.encoded_key_uses()).unwrap();
    let now = here.replica.wall().now().0;
    assert_eq!(used(&here), [Some(9), Some(now)]);
    there.replica.note_key_use(IDS[0], Timestamp(2));
    here.replica.adopt_key_uses(&there.replica.encoded_key_uses()).unwrap();
    assert_eq!(used(&here), [Some(9), Some(now)]);

    here.replica.revoke_key(None, IDS[0]).unwrap();
    here.replica.keep_key_uses().unwrap();
    assert_eq!(used(&here), [None, Some(now)], "of a key that is gone nothing is kept");
    here.replica.adopt_key_uses(&there.replica.encoded_key_uses()).unwrap();
    assert_eq!(used(&here), [None, Some(now)]);
    assert!(here.replica.adopt_key_uses(b"\xff").is_err());
}
