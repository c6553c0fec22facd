//! Mutation fuzzing of everything that reads bytes.
//!
//! Inputs are what the real writers wrote, changed: bits, lengths, integers, whole parts left out, doubled or swapped. Then
//! checksums are made right again, so that the decoders behind them are reached. Whatever comes in, a decoder refuses it or
//! returns something that can be used; it does not panic, hang, overflow or take memory without bound.
//!
//! Each round has a seed, which is printed if the round fails. `ALLIDB_SIM_SEEDS=n` tries n times as many rounds, and
//! `ALLIDB_FUZZ_SEED=seed` that one only.

mod blocks;
mod mutation;
mod sorted_files;
mod stores;
mod tables;
mod wal;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use mutation::Mutation;

/// A round that takes longer hangs.
const ROUND_LIMIT: Duration = Duration::from_secs(60);

/// What a block may take beside a multiple of its input: a ZSTD block says how long it is, up to 64 MiB.
const ZSTD_BYTES: u64 = 64 << 20;

fn number_of(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Runs `round` with one seed after another.
fn rounds(name: &str, count: u64, mut round: impl FnMut(&mut Mutation)) {
    let seeds = match number_of("ALLIDB_FUZZ_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..count * number_of("ALLIDB_SIM_SEEDS").unwrap_or(1),
    };
    let (progress, watched) = mpsc::channel::<u64>();
    let watched_name = name.to_owned();
    let watchdog = thread::spawn(move || {
        let mut current = 0;
        loop {
            match watched.recv_timeout(ROUND_LIMIT) {
                Ok(seed) => current = seed,
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    eprintln!("{watched_name}: hangs with ALLIDB_FUZZ_SEED={current}");
                    std::process::abort();
                }
            }
        }
    });
    for seed in seeds {
        progress.send(seed).unwrap();
        let mut mutation = Mutation::new(seed);
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| round(&mut mutation))) {
            eprintln!("{name}: fails with ALLIDB_FUZZ_SEED={seed}");
            resume_unwind(panic);
        }
    }
    drop(progress);
    watchdog.join().unwrap();
}

/// What `work` returns, if it did not take more memory at once than that.
fn within<T>(limit_bytes: u64, work: impl FnOnce() -> T) -> T {
    let mut result = None;
    let taken = allocation_counter::measure(|| result = Some(work()));
    assert!(taken.bytes_max <= limit_bytes, "took {} bytes, {limit_bytes} are allowed", taken.bytes_max);
    result.unwrap()
}

#[test]
fn memory_beyond_the_bound_is_noticed() {
    let take = |bytes: usize| within(1 << 20, || std::hint::black_box(vec![1u8; bytes]).len());
    assert_eq!(take(1000), 1000);
    assert!(catch_unwind(|| take(2 << 20)).is_err());
}
