//! `kill -9` at a random moment, again and again on one directory: whatever was acknowledged is there with
//! exactly its content, and nothing is there by halves.

mod check;
mod content;
mod ledger;
mod writers;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::timeout;

use crate::{process::Process, random::Random};

pub(super) const COLLECTION: &str = "survivors";
pub(super) const SPACE: &str = "main";
/// So that vectors are separated from their rows.
pub(super) const DIMENSION: usize = 320;

/// Acknowledgements after which the daemon is killed.
const KILL_AFTER: std::ops::Range<usize> = 20..2_500;
const ROUND_LIMIT: Duration = Duration::from_secs(60);

/// So small that every round flushes and compacts.
const SETTINGS: &[(&str, &str)] = &[
    ("ALLIDB__STORAGE__MEMTABLE_BYTES", "512KiB"),
    ("ALLIDB__STORAGE__WAL_SEGMENT_BYTES", "256KiB"),
    ("ALLIDB__STORAGE__TABLE_BYTES", "256KiB"),
    ("ALLIDB__STORAGE__LEVEL_BASE_BYTES", "1MiB"),
    ("ALLIDB__STORAGE__LEVEL0_FILES", "2"),
];

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_writes_survive_and_nothing_is_there_by_halves() {
    let rounds: u64 = std::env::var("ALLIDB_KILL_ROUNDS")
        .map_or(8, |rounds| rounds.parse().expect("ALLIDB_KILL_ROUNDS is a number"));
    let mut random = Random::seeded("kill_nine");
    let mut process = Process::start_with(SETTINGS).await;
    process.client().create(COLLECTION, SPACE, DIMENSION as u32).await;
    let ledger = Arc::new(ledger::Ledger::default());
    for round in 1..=rounds {
        let begun = Instant::now();
        ledger.begin_round(round);
        let target = random.within(KILL_AFTER);
        let writers = writers::start(&process.client(), &ledger, &mut random);
        let reached = timeout(ROUND_LIMIT, ledger.acknowledged_writes(target)).await;
        assert!(reached.is_ok(), "{target} acknowledgements take more than {ROUND_LIMIT:?}");
        ledger.expect_breakage();
        process.kill();
        writers.join_all().await;
        let acknowledged = ledger.round_total();
        process.restart().await;
        let seen = check::everything(&process.client(), &ledger, &mut random).await;
        println!(
            "round {round}: killed after {acknowledged} acknowledgements, {seen}, {:?}",
            begun.elapsed()
        );
    }
    // Once more after a clean end, which flushes all of it.
    process.end_and_restart().await;
    check::everything(&process.client(), &ledger, &mut random).await;
    assert_eq!(process.client().scrub().await, []);
}
