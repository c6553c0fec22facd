//! A copy of another node's disk, and what becomes of a node that begins with it.

use std::collections::BTreeSet;

use allidb_index::{
    CopiedFile, CopyNote, EntityKey, EntityState, Error, Extent, Given, Held, PARTITIONS, Replica, Taken,
    Version,
    model::{CollectionSpec, ReadMask, Write},
};
use allidb_storage::fs::Fs;
use proptest::prelude::*;

use crate::{
    fixture::{Fixture, TENANT, deadline},
    replicas::{IDS, Step, fixture, of, roots, step, view, write, wrong_leaves},
};

const EPOCH: u64 = 7;

/// A node of a ring in which these steps were made.
fn source(steps: &[Step]) -> Fixture {
    let fixture = fixture();
    goes_by(&fixture, |_| true);
    fixture.replica.build_trees().unwrap();
    for (at, step) in steps.iter().enumerate() {
        fixture.clock.advance(1);
        // What is refused changes nothing.
        fixture.one(write(step, at)).ok();
        if at == steps.len() / 2 {
            fixture.replica.seal_graph().unwrap();
            fixture.replica.seal_texts().unwrap();
        }
    }
    fixture
}

/// A node that is to hold what that one does, and has heard of the catalogue.
fn taker(of: &Fixture, holds: impl Fn(u16) -> bool) -> Fixture {
    let fixture = Fixture::bare(99);
    fixture.replica.adopt_catalogue(&of.replica.encoded_catalogue()).unwrap();
    goes_by(&fixture, holds);
    fixture.clock.advance(10_000);
    fixture
}

fn goes_by(fixture: &Fixture, holds: impl Fn(u16) -> bool) {
    let held = |partition| if holds(partition) { Held::Shared } else { Held::Elsewhere };
    fixture.replica.keep_topology(b"topology".to_vec(), true, held, None).unwrap();
}

fn fetch(given: &Given, taken: &Taken, files: impl Iterator<Item = CopiedFile>) {
    for file in files {
        let at = given.files().iter().position(|of| *of == file).unwrap();
        let mut arriving = taken.begin(&file).unwrap();
        let mut offset = 0;
        while offset < file.bytes {
            let content = given.read(at, offset, 1 << 20).unwrap();
            arriving.append(&content).unwrap();
            offset += content.len() as u64;
        }
        arriving.finish().unwrap();
    }
}

fn copy(from: &Replica, to: &Replica) {
    let given = from.give_copy().unwrap();
    let taken = to.take_copy(1, given.files().to_vec()).unwrap();
    fetch(&given, &taken, given.files().iter().cloned());
    to.conclude_copy(&taken, EPOCH).unwrap();
    from.end_copy().unwrap();
}

fn held(fixture: &Fixture, holds: impl Fn(u16) -> bool) -> Vec<(EntityKey, EntityState)> {
    let names = (0..IDS.len()).map(|id| fixture.replica.entity_key(TENANT, &of(id)).unwrap());
    let names: Vec<EntityKey> = names.filter(|name| holds(name.partition())).collect();
    let states = fixture.replica.held(&names, Extent::ALL).unwrap();
    names.into_iter().zip(states).collect()
}

/// What lies in the directories of copies.
fn left_of_copies(fixture: &Fixture) -> Vec<String> {
    let paths = fixture.fs.files().into_iter().map(|(path, _)| path.display().to_string());
    paths
        .filter(|path| path.contains("/given/") || (path.contains("/taken/") && !path.ends_with("LOCK")))
        .collect()
}

const HERE: CopyNote = CopyNote { epoch: EPOCH, is_here: true };

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn whoever_begins_with_a_copy_holds_and_answers_what_that_node_did(
        steps in prop::collection::vec(step(), 1..40),
        more in prop::collection::vec(step(), 1..10),
        flushes in any::<bool>(),
        crashes in any::<bool>(),
    ) {
        let gives = source(&steps);
        if flushes {
            gives.replica.engine().flush().unwrap();
        }
        let takes = taker(&gives, |_| true);
        let node = takes.replica.node();
        // What it is told meanwhile others hold, too.
        takes.one(write(&Step::Put { id: 0, value: 1, vector: true, chunk: Some(2) }, 900)).unwrap();
        copy(&gives.replica, &takes.replica);
        prop_assert!(takes.replica.has_copy());
        let before = (view(&gives), roots(&gives), held(&gives, |_| true));
        let takes = if crashes { takes.crash() } else { takes.reopen() };
        prop_assert!(!takes.replica.has_copy());
        prop_assert_eq!(takes.replica.copy_note().unwrap(), Some(HERE));
        prop_assert_eq!(takes.replica.node(), node);
        prop_assert_eq!(takes.replica.topology().unwrap().unwrap(), b"topology".to_vec());
        takes.replica.build_trees().unwrap();
        prop_assert_eq!(view(&takes), before.0);
        prop_assert_eq!(roots(&takes), before.1);
        prop_assert_eq!(held(&takes, |_| true), before.2);
        prop_assert_eq!(left_of_copies(&takes), Vec::<String>::new());
        // It goes on as that node does.
        takes.clock.advance(10_000);
        for (at, step) in more.iter().enumerate() {
            for fixture in [&gives, &takes] {
                fixture.clock.advance(1);
                fixture.one(write(step, 1_000 + at)).ok();
            }
        }
        prop_assert_eq!(wrong_leaves(&takes).len(), 0);
        let takes = takes.crash();
        takes.replica.build_trees().unwrap();
        prop_assert_eq!(wrong_leaves(&takes).len(), 0);
        // Versions differ, as the nodes do.
        let seen = |fixture: &Fixture| (0..IDS.len()).map(|id| {
            let entity = fixture.replica.get(TENANT, &[of(id)], &ReadMask::everything(), deadline()).pop().unwrap();
            entity.ok().map(|entity| (entity.attributes, entity.vectors, entity.chunks.into_keys().collect::<BTreeSet<_>>()))
        }).collect::<Vec<_>>();
        prop_assert_eq!(seen(&takes), seen(&gives));
    }

    #[test]
    fn what_a_node_is_not_to_hold_it_lets_go_of(
        steps in prop::collection::vec(step(), 1..40),
        kept in prop::collection::vec(any::<bool>(), IDS.len()),
    ) {
        let gives = source(&steps);
        let names: Vec<EntityKey> = (0..IDS.len()).map(|id| gives.replica.entity_key(TENANT, &of(id)).unwrap()).collect();
        let holds = |partition: u16| names.iter().zip(&kept).any(|(name, kept)| *kept && name.partition() == partition);
        let takes = taker(&gives, holds);
        copy(&gives.replica, &takes.replica);
        let takes = takes.crash();
        goes_by(&takes, holds);
        takes.replica.build_trees().unwrap();
        let left: BTreeSet<u16> = takes.replica.leftovers().into_iter().collect();
        prop_assert_eq!(&left, &(0..PARTITIONS).filter(|of| !holds(*of)).collect());
        for partition in left {
            takes.replica.let_go_of(partition).unwrap();
        }
        prop_assert_eq!(wrong_leaves(&takes).len(), 0);
        prop_assert_eq!(held(&takes, holds), held(&gives, holds));
        for (name, state) in held(&takes, |partition| !holds(partition)) {
            prop_assert_eq!(state, EntityState::default(), "{:?}", name);
        }
    }
}

fn some_steps() -> Vec<Step> {
    let put = |id, value| Step::Put { id, value, vector: true, chunk: Some(value as usize) };
    vec![
        put(0, 0),
        put(1, 1),
        Step::Link(0, 1, 3),
        put(2, 2),
        Step::Delete(1),
        Step::Link(2, 0, 1),
        put(3, 0),
    ]
}

/// Wherever its power is cut off while the copy takes its place: afterwards it has.
#[test]
fn a_power_cut_while_a_copy_takes_its_place_does_no_harm() {
    let gives = source(&some_steps());
    gives.replica.engine().flush().unwrap();
    let takes = taker(&gives, |_| true);
    copy(&gives.replica, &takes.replica);
    let (view_before, roots_before) = (view(&gives), roots(&gives));
    let mut failed_before = 0;
    for operations in 1.. {
        let fork =
            Fixture { fs: takes.fs.fork(), clock: takes.clock.clone(), replica: takes.replica.clone() };
        let (fork, failed) = fork.crash_and_again_after(operations);
        fork.replica.build_trees().unwrap();
        assert_eq!(fork.replica.copy_note().unwrap(), Some(HERE), "after {operations}");
        assert_eq!(view(&fork), view_before, "after {operations}");
        assert_eq!(roots(&fork), roots_before, "after {operations}");
        assert_eq!(left_of_copies(&fork), Vec::<String>::new(), "after {operations}");
        if !failed {
            break;
        }
        failed_before += 1;
    }
    assert!(failed_before > 60, "it was cut off {failed_before} times");
}

#[test]
fn a_copy_goes_on_arriving_after_a_crash_and_another_one_begins_anew() {
    let gives = source(&some_steps());
    let takes = taker(&gives, |_| true);
    let given = gives.replica.give_copy().unwrap();
    let files = given.files();
    let taken = takes.replica.take_copy(1, files.to_vec()).unwrap();
    let (first, rest) = files.split_at(files.len() / 2);
    fetch(&given, &taken, first.iter().cloned());
    let partly = taken.begin(&rest[0]).unwrap();
    drop(partly);
    let missing = takes.replica.conclude_copy(&taken, EPOCH).unwrap_err();
    assert!(missing.to_string().contains("is missing"), "{missing}");
    // Files are synced as they are finished, and names before the copy is whole.
    takes.fs.sync_dir(std::path::Path::new("/node/taken/rows")).unwrap();
    let takes = takes.crash();
    assert_eq!(takes.replica.copy_note().unwrap(), None);
    let taken = takes.replica.take_copy(1, files.to_vec()).unwrap();
    let there: Vec<&CopiedFile> = files.iter().filter(|file| taken.has(file).unwrap()).collect();
    assert!(!there.is_empty() && there.iter().all(|file| first.contains(file)), "{there:?}");
    let left: Vec<CopiedFile> = files.iter().filter(|file| !taken.has(file).unwrap()).cloned().collect();
    fetch(&given, &taken, left.into_iter());
    takes.replica.conclude_copy(&taken, EPOCH).unwrap();
    let takes = takes.crash();
    assert_eq!(view(&takes), view(&gives));

    let other = taker(&gives, |_| true);
    let taken = other.replica.take_copy(1, files.to_vec()).unwrap();
    fetch(&given, &taken, first.iter().cloned());
    let taken = other.replica.take_copy(2, files.to_vec()).unwrap();
    assert!(files.iter().all(|file| !taken.has(file).unwrap()));
    other.replica.forget_copy().unwrap();
    assert_eq!(left_of_copies(&other), Vec::<String>::new());
}

#[test]
fn a_copy_is_of_no_use_once_catalogue_or_topology_are_others() {
    let gives = source(&some_steps());
    for changes_topology in [true, false] {
        let takes = taker(&gives, |_| true);
        takes.one(write(&Step::Put { id: 3, value: 2, vector: true, chunk: None }, 900)).unwrap();
        let before = (view(&takes), takes.replica.node());
        copy(&gives.replica, &takes.replica);
        match changes_topology {
            true => takes.replica.keep_topology(b"another".to_vec(), true, |_| Held::Shared, None).unwrap(),
            false => {
                drop(takes.replica.create_collection(TENANT, "more", CollectionSpec::default()).unwrap())
            }
        }
        let takes = takes.crash();
        assert_eq!((view(&takes), takes.replica.node()), before);
        assert_eq!(takes.replica.copy_note().unwrap(), Some(CopyNote { epoch: EPOCH, is_here: false }));
        assert_eq!(left_of_copies(&takes), Vec::<String>::new());
    }
}

#[test]
fn what_a_node_keeps_for_others_and_has_promised_stays_with_it() {
    let gives = source(&some_steps());
    let takes = taker(&gives, |_| true);
    gives.clock.advance(50_000);
    let planned = |by: &Fixture| {
        let planned = by.replica.plan(TENANT, Write::Delete(of(0))).unwrap();
        vec![planned.encode(|_| true).unwrap().unwrap()]
    };
    takes.replica.keep_hints(5, &planned(&takes)).unwrap();
    gives.replica.keep_hints(6, &planned(&gives)).unwrap();
    let (low, high) = (Version::new(1_000, 0, 1), Version::new(2_000, 0, 1));
    gives.replica.close_up_to(low).unwrap();
    takes.replica.close_up_to(high).unwrap();
    takes.replica.keep_ballot("topology", b"promised".to_vec()).unwrap();
    gives.replica.keep_ballot("topology", b"another's".to_vec()).unwrap();
    copy(&gives.replica, &takes.replica);
    let takes = takes.crash();
    assert_eq!(takes.replica.copy_note().unwrap(), Some(HERE));
    assert_eq!(takes.replica.kept_for().unwrap(), vec![5]);
    assert_eq!(takes.replica.closed(), high);
    assert_eq!(takes.replica.ballot("topology").unwrap().unwrap(), b"promised".to_vec());
}

#[test]
fn nothing_damaged_is_given_and_no_copy_stays_when_its_giver_starts_again() {
    let gives = source(&some_steps());
    let given = gives.replica.give_copy().unwrap();
    assert!(given.files().iter().any(|file| file.name == "rows/MANIFEST"));
    assert!(given.read(given.files().len(), 0, 1).is_err());
    let last = given.files().len() - 1;
    assert_eq!(given.read(last, given.files()[last].bytes, 10).unwrap(), Vec::<u8>::new());
    let gives = gives.crash();
    assert_eq!(left_of_copies(&gives), Vec::<String>::new());
    gives.replica.engine().flush().unwrap();
    let (path, _) =
        gives.fs.files().into_iter().find(|(path, _)| path.to_string_lossy().ends_with(".table")).unwrap();
    assert!(gives.fs.flip_bit(&path, 10, 3));
    gives.replica.engine().scrub(Default::default(), |_| std::ops::ControlFlow::Continue(())).unwrap();
    let refused = gives.replica.give_copy().unwrap_err();
    assert!(matches!(refused, Error::FailedPrecondition(_)), "{refused}");
}

#[test]
fn a_try_that_was_given_up_writes_to_no_file_of_the_next() {
    let gives = source(&some_steps());
    let takes = taker(&gives, |_| true);
    let given = gives.replica.give_copy().unwrap();
    let files = given.files();
    let file = files.iter().max_by_key(|file| file.bytes).unwrap().clone();
    let at = files.iter().position(|of| *of == file).unwrap();
    let content = given.read(at, 0, 1 << 20).unwrap();
    assert!(content.len() as u64 == file.bytes && content.len() > 100);
    let (first, rest) = content.split_at(100);
    let given_up = takes.replica.take_copy(1, files.to_vec()).unwrap();
    let mut late = given_up.begin(&file).unwrap();
    late.append(first).unwrap();

    let taken = takes.replica.take_copy(1, files.to_vec()).unwrap();
    let mut arriving = taken.begin(&file).unwrap();
    arriving.append(first).unwrap();
    late.append(rest).unwrap();
    // Its part is gone, and the other one's is not its.
    assert!(late.finish().is_err());
    assert!(!taken.has(&file).unwrap());
    arriving.append(rest).unwrap();
    arriving.finish().unwrap();
    assert!(taken.has(&file).unwrap());
    fetch(&given, &taken, files.iter().filter(|of| **of != file).cloned());
    takes.replica.conclude_copy(&taken, EPOCH).unwrap();
    assert_eq!(view(&takes.crash()), view(&gives));
}

#[test]
fn no_copy_is_given_where_little_space_is_left() {
    let gives = source(&some_steps());
    assert!(gives.replica.may_give_copies());
    gives.fs.set_capacity(Some(gives.fs.files().iter().map(|(_, bytes)| bytes).sum::<u64>() + 1_000));
    assert!(!gives.replica.may_give_copies());
    let refused = gives.replica.give_copy().unwrap_err();
    assert!(matches!(&refused, Error::FailedPrecondition(why) if why.contains("space")), "{refused}");
    gives.fs.set_capacity(None);
    gives.replica.give_copy().unwrap();
}
