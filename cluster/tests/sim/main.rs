//! Rings of real nodes in one process, over a simulated network, on simulated disks, by a simulated clock: everything that happens follows
//! from one seed. `ALLIDB_SIM_SEEDS=n` tries n of them, `ALLIDB_SIM_SEED=s` only that one.
//!
//! | module | what it holds |
//! |---|---|
//! | `history` | what clients did and saw, and whether that may be |
//! | `network` | gRPC over turmoil |
//! | `node` | a node with its disk, and clients beside it |
//! | `world` | a ring, and what befalls it |

mod history;
mod network;
mod node;
mod world;

use world::{Chaos, World};

/// Seeds of a test, unless `ALLIDB_SIM_SEEDS` or `ALLIDB_SIM_SEED` says something else.
fn seeds(usually: u64) -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    match (number("ALLIDB_SIM_SEED"), number("ALLIDB_SIM_SEEDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, count) => 0..count.unwrap_or(usually),
    }
}

#[test]
fn what_a_quorum_acknowledged_is_read_ever_after_and_replicas_become_alike() {
    for seed in seeds(40) {
        let nodes = if seed % 3 == 0 { 5 } else { 3 };
        World::new(seed, nodes).run(&Chaos::everything());
    }
}

#[test]
fn the_same_seed_leads_to_the_same_trace() {
    for seed in seeds(4) {
        let trace = || World::new(seed, 3).run(&Chaos::everything());
        let (first, second) = (trace(), trace());
        let place = first.lines().zip(second.lines()).position(|(a, b)| a != b);
        let told = |trace: &str| place.and_then(|at| trace.lines().nth(at).map(str::to_owned));
        assert_eq!(told(&first), told(&second), "seed {seed}, line {place:?}");
        assert_eq!(first.lines().count(), second.lines().count(), "seed {seed}");
    }
}
