//! Rings of real nodes in one process, over a simulated network, on simulated disks, by a simulated clock: everything that happens follows
//! from one seed. `ALLIDB_SIM_SEEDS=n` tries n of them, `ALLIDB_SIM_SEED=s` only that one.
//!
//! | module | what it holds |
//! |---|---|
//! | `edges` | edges, and whether what was acknowledged of them is there |
//! | `history` | what clients did and saw, and whether that may be |
//! | `network` | gRPC over turmoil |
//! | `node` | a node with its disk, and clients beside it |
//! | `world` | a ring, and what befalls it |

mod edges;
mod history;
mod network;
mod node;
mod world;

use std::panic::catch_unwind;

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
fn a_node_that_goes_by_an_older_layout_does_no_harm() {
    for seed in seeds(12) {
        World::new(seed, Setup { is_first_stale: true, ..Setup::of(5) }).run();
    }
}

/// Otherwise the other tests prove nothing.
#[test]
fn what_is_wrong_is_noticed() {
    let with = |wrong| Setup { wrong: Some(wrong), ..Setup::of(3) };
    for setup in [
        with(Wrong::NoReadRepair),
        Setup { nobody_dies: true, ..with(Wrong::NoHints) },
        with(Wrong::HintsLoseVersions),
        with(Wrong::EarlyAcknowledgement),
        Setup { is_first_stale: true, nodes: 5, ..with(Wrong::NoFence) },
    ] {
        let is_noticed = |seed: &u64| catch_unwind(|| World::new(*seed, setup).run()).is_err();
        let seed = (0..60).find(is_noticed);
        println!("{setup:?}: noticed with seed {seed:?}");
        assert!(seed.is_some(), "{setup:?} was never noticed");
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
