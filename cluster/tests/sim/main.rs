//! Rings of real nodes in one process, over a simulated network, on simulated disks, by a simulated clock: everything that happens follows
//! from one seed. `ALLIDB_SIM_SEEDS=n` tries n of them, `ALLIDB_SIM_SEED=s` only that one.
//!
//! | module | what it holds |
//! |---|---|
//! | `appends` | writes on conditions, and whether they came one after the other |
//! | `collections` | collections, and whether those that were created are there |
//! | `disks` | disks that lose what was written to them |
//! | `edges` | edges, and whether what was acknowledged of them is there |
//! | `history` | what clients did and saw, and whether that may be |
//! | `network` | gRPC over turmoil |
//! | `node` | a node with its disk, and clients beside it |
//! | `sides` | what is written at ONE while a ring is cut in two, and what becomes of it |
//! | `world` | a ring, and what befalls it |

mod appends;
mod collections;
mod disks;
mod edges;
mod history;
mod network;
mod node;
mod sides;
mod world;

use std::{any::Any, panic::catch_unwind};

use allidb_cluster::Wrong;
use world::{Setup, World};

/// Seeds of a test, unless `ALLIDB_SIM_SEEDS` or `ALLIDB_SIM_SEED` says something else.
fn seeds(usually: u64) -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    match (number("ALLIDB_SIM_SEED"), number("ALLIDB_SIM_SEEDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, count) => 0..count.unwrap_or(usually),
    }
}

#[test]
fn what_a_quorum_of_three_acknowledged_is_read_ever_after_and_replicas_become_alike() {
    for seed in seeds(110) {
        World::new(seed, Setup { nobody_dies: seed % 4 == 1, ..Setup::of(3) }).run();
    }
}

#[test]
fn what_a_quorum_of_five_acknowledged_is_read_ever_after_and_replicas_become_alike() {
    for seed in seeds(90) {
        World::new(seed, Setup { nobody_dies: seed % 4 == 1, ..Setup::of(5) }).run();
    }
}

#[test]
fn what_a_quorum_acknowledged_is_there_when_a_node_is_lost_for_good() {
    for seed in seeds(30) {
        World::new(seed, Setup { loses_one: true, ..Setup::of(5) }).run();
    }
}

/// Both sides write at ONE while neither hears the other.
#[test]
fn what_both_sides_of_a_cut_acknowledged_at_one_is_there_and_nothing_deleted_comes_back() {
    let (mut cuts, seeds) = (0, seeds(24));
    let all = seeds.end - seeds.start;
    for seed in seeds {
        let setup = Setup {
            nobody_dies: seed % 2 == 1,
            splits: true,
            purges: seed % 3 == 0,
            ..Setup::of(3 + 2 * (seed as usize % 2))
        };
        cuts += World::new(seed, setup).run().matches("falls into two sides").count();
    }
    println!("{cuts} times the ring was cut in two with {all} seeds");
    assert!(cuts as u64 > 2 * all, "too little happened to prove anything");
}

#[test]
fn of_operators_who_change_the_layout_at_once_one_wins_and_the_others_are_told() {
    let (mut won, mut told, seeds) = (0, 0, seeds(12));
    let all = seeds.end - seeds.start;
    for seed in seeds {
        let trace = World::new(seed, Setup { reshapes: true, has_operators: true, ..Setup::of(6) }).run();
        won += trace.matches("applies Ok((true").count();
        told += trace.matches("stages Ok((false").count() + trace.matches("applies Ok((false").count();
    }
    println!("{won} won and {told} were told of another with {all} seeds");
    assert!(won as u64 > all && told as u64 > all, "too little happened to prove anything");
}

/// Nothing is kept for who was away: what replicas miss of each other they find out by comparing, without a read.
#[test]
fn replicas_that_compare_what_they_hold_become_alike() {
    for seed in seeds(24) {
        let wrong = Some(Wrong::NoHints);
        World::new(seed, Setup { nobody_dies: true, compares: true, wrong, ..Setup::of(5) }).run();
    }
}

#[test]
fn what_was_deleted_stays_so_though_that_is_forgotten_everywhere() {
    for seed in seeds(24) {
        World::new(seed, Setup { nobody_dies: seed % 4 == 1, purges: true, ..Setup::of(5) }).run();
    }
}

#[test]
fn nothing_is_lost_while_nodes_join_and_leave() {
    let (mut moves, mut copies, seeds) = (0, 0, seeds(40));
    let all = seeds.end - seeds.start;
    for seed in seeds {
        let setup =
            Setup { nobody_dies: seed % 4 == 1, reshapes: true, copies: seed % 2 == 0, ..Setup::of(6) };
        let trace = World::new(seed, setup).run();
        moves += trace.matches("applies Ok((true").count();
        copies += trace.matches("starts again as it asked for").count();
    }
    println!("{moves} moves and {copies} copies with {all} seeds");
    assert!(copies as u64 > all / 4, "there are too few copies to prove anything");
    assert!(moves as u64 > all, "there are too few moves to prove anything");
}

/// Of each damaged disk others hold what it held.
#[test]
fn what_a_damaged_disk_held_is_healed_from_others_and_clocks_that_jump_do_no_harm() {
    let (mut healed, seeds) = (0, seeds(30));
    let all = seeds.end - seeds.start;
    for seed in seeds {
        let setup =
            Setup { nobody_dies: seed % 4 == 1, is_mean: true, ..Setup::of(3 + 2 * (seed as usize % 2)) };
        healed += World::new(seed, setup).run().matches("starts again as it asked for").count();
    }
    println!("{healed} times something was healed with {all} seeds");
    assert!(healed as u64 > all / 2, "too little was healed to prove anything");
}

/// All of it at once.
#[test]
fn nothing_is_lost_whatever_happens() {
    for seed in seeds(24) {
        let setup =
            Setup { reshapes: true, copies: seed % 2 == 0, purges: true, is_mean: true, ..Setup::of(6) };
        World::new(seed, setup).run();
    }
}

#[test]
fn a_node_that_goes_by_an_older_layout_does_no_harm() {
    for seed in seeds(12) {
        World::new(seed, Setup { is_first_stale: true, ..Setup::of(5) }).run();
    }
}

/// What a panic says.
fn said(panic: &(dyn Any + Send)) -> &str {
    panic.downcast_ref::<String>().map_or("", String::as_str)
}

/// Otherwise the other tests prove nothing. What notices it is what ought to: another panic is none of theirs.
#[test]
fn what_is_wrong_is_noticed() {
    let with = |wrong| Setup { wrong: Some(wrong), ..Setup::of(3) };
    let (differs, seen) = ("differs: [", "was seen");
    for (setup, verdicts) in [
        (with(Wrong::NoReadRepair), vec![differs, seen, "it was gone of"]),
        (Setup { nobody_dies: true, ..with(Wrong::NoHints) }, vec![differs]),
        (Setup { splits: true, ..with(Wrong::NoHints) }, vec!["and is there: "]),
        (
            with(Wrong::HintsLoseVersions),
            vec![differs, "is gone, though", "was put, ", "has what nobody wrote"],
        ),
        (
            with(Wrong::EarlyAcknowledgement),
            vec!["is gone, though", "was put, ", "was acknowledged before", "lacks the update", "is lost"],
        ),
        (
            Setup { is_first_stale: true, nodes: 5, ..with(Wrong::NoFence) },
            vec![
                "is gone, though",
                "was put, ",
                "was acknowledged before",
                "lacks the update",
                "is lost",
                "the ends of",
            ],
        ),
        (with(Wrong::NoRenewal), vec!["was acknowledged before"]),
        (
            with(Wrong::OutbidIsAccepted),
            vec!["one after the other", "is lost: the trail", "was refused, and was made"],
        ),
        (Setup { purges: true, ..with(Wrong::PurgeWithoutClosing) }, vec![differs, seen, "it was gone of"]),
        (Setup { purges: true, ..with(Wrong::PurgeByTime) }, vec![differs, seen, "it was gone of"]),
        (
            Setup { reshapes: true, nodes: 6, ..with(Wrong::UnsyncedLayout) },
            vec!["is gone, though", "was put, ", "was acknowledged before", "lacks the update", "is lost"],
        ),
    ] {
        let notice = |seed| {
            let panic = catch_unwind(|| World::new(seed, setup).run()).err()?;
            let verdict = verdicts.iter().find(|verdict| said(&*panic).contains(**verdict))?;
            Some((seed, *verdict))
        };
        let noticed = (0..60).find_map(notice);
        println!("{setup:?}: noticed with {noticed:?}");
        assert!(noticed.is_some(), "{setup:?} was never noticed");
    }
}

#[test]
fn the_same_seed_leads_to_the_same_trace() {
    for seed in seeds(4) {
        let trace = || World::new(seed, Setup::of(3)).run();
        let (first, second) = (trace(), trace());
        let place = first.lines().zip(second.lines()).position(|(a, b)| a != b);
        let told = |trace: &str| place.and_then(|at| trace.lines().nth(at).map(str::to_owned));
        assert_eq!(told(&first), told(&second), "seed {seed}, line {place:?}");
        assert_eq!(first.lines().count(), second.lines().count(), "seed {seed}");
    }
}
