//! Mutation fuzzing of the segment reader: files of every kind with bits, numbers and runs of bytes changed, then signed again
//! so that what stands behind the checksums is reached. Whatever comes in, it is refused by name, or can be used; nothing
//! panics, hangs or leads out of the file.
//!
//! `ALLIDB_SIM_SEEDS=n` tries n times as many rounds, `ALLIDB_FUZZ_SEED=seed` runs that one alone.

use std::{
    ops::ControlFlow,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::Path,
    time::{Duration, Instant},
};

use allidb_storage::fs::{Fs, SimFs};

use super::{
    Probe, Searcher, Segment,
    golden_tests::{GOLDEN, golden},
    layout::{BLOCK, Header, Section, checksum},
};
use crate::{Random, SeededRandom, error::Result};

const PATH: &str = "/s/1.segment";
/// Rounds for each kind of file.
const ROUNDS: u64 = 150;
/// A round that takes longer hangs, or as good as that.
const ROUND_LIMIT: Duration = Duration::from_secs(30);

/// Everything that searches, merges and scrubs do with a segment.
pub(super) fn use_it(fs: &SimFs, path: &Path) -> Result<()> {
    let segment = Segment::open(fs, path)?;
    let rows = segment.rows() as u32;
    let query = vec![0.3; segment.header.dimension as usize];
    let mut searcher = Searcher::default();
    // What one of them refuses is no reason not to try the others.
    let scrubbed = segment.scrub(fs, &mut |_| ControlFlow::Continue(())).map(drop);
    let walked = segment.walk(&mut Probe::new(&query), 50, 20, None, &mut searcher);
    let near = segment.walk(&mut Probe::new(&query), 50, 20, Some(&|row| row % 7 != 0), &mut searcher);
    for candidate in walked.iter().chain(&near).flatten() {
        segment.number(candidate.row())?;
        segment.owner_of(candidate.row())?;
    }
    let scanned = segment.scan_exactly(&mut Probe::new(&query), 0..rows, 10, &mut searcher);
    let found = [3, 13, 500, u64::MAX].map(|number| segment.row_of(number));
    let of_numbers = segment.rows_of(&(0..1_000).collect());
    // Merges read links, and only of files that were verified.
    let verified = segment.verify_all();
    if verified.is_ok() {
        for row in 0..rows {
            (0..20).for_each(|layer| drop(segment.links(row, layer).to_vec()));
        }
    }
    scrubbed.and(verified).and(walked.map(drop)).and(near.map(drop)).and(scanned.map(drop))?;
    found.into_iter().collect::<Result<Vec<_>>>()?;
    of_numbers.map(drop)
}

/// Makes all checksums match, as those of whoever means harm would.
fn sign(bytes: &mut [u8]) {
    let Ok(mut header) = Header::decode(&whole_header(bytes)) else { return };
    let place = header.section(Section::Checksums);
    if place.end != bytes.len() {
        return;
    }
    for block in 1..place.start / BLOCK {
        let sum = checksum(header.id, block, &bytes[block * BLOCK..(block + 1) * BLOCK]);
        bytes[place.start + 4 * (block - 1)..][..4].copy_from_slice(&sum.to_le_bytes());
    }
    header.checksums = crc32fast::hash(&bytes[place]);
    let encoded = header.encode();
    bytes[..encoded.len()].copy_from_slice(&encoded);
}

/// The header block with a checksum that matches.
pub(super) fn whole_header(bytes: &[u8]) -> Vec<u8> {
    let mut header = bytes[..BLOCK.min(bytes.len())].to_vec();
    let end = header.get(12..16).map_or(0, |len| u32::from_le_bytes(len.try_into().unwrap()) as usize);
    if end.saturating_add(4) <= header.len() {
        let sum = crc32fast::hash(&header[..end]).to_le_bytes();
        header[end..end + 4].copy_from_slice(&sum);
    }
    header
}

/// Numbers at which arithmetic goes wrong.
const EDGES: [u32; 8] = [0, 1, 0x7f, 0x80, 0x7fff_ffff, 0x8000_0000, u32::MAX - 1, u32::MAX];

fn mutate(whole: &[u8], random: &mut dyn FnMut(usize) -> usize) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    for _ in 0..1 + random(4) {
        // The header is short, and says how all else is read.
        let below = if random(2) == 0 { bytes.len().min(160) } else { bytes.len() };
        let at = random(below);
        match random(6) {
            0 => bytes.truncate(at.max(1)),
            1 => bytes[at] ^= 1 << random(8),
            2 => {
                let end = (at + 1 + random(64)).min(bytes.len());
                bytes[at..end].fill(if random(2) == 0 { 0 } else { 0xff });
            }
            3 if at + 64 < bytes.len() => {
                let to = random(bytes.len() - 64);
                bytes.copy_within(at..at + 64, to);
            }
            _ => {
                let at = at / 4 * 4;
                let number = if random(2) == 0 { EDGES[random(EDGES.len())] } else { random(400) as u32 };
                if let Some(word) = bytes.get_mut(at..at + 4) {
                    word.copy_from_slice(&number.to_le_bytes());
                }
            }
        }
    }
    if random(4) > 0 {
        sign(&mut bytes);
    }
    bytes
}

#[test]
fn no_bytes_make_the_reader_panic_or_hang() {
    let number_of = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let seeds = match number_of("ALLIDB_FUZZ_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..ROUNDS * number_of("ALLIDB_SIM_SEEDS").unwrap_or(1),
    };
    let (mut refused, mut used) = (0, 0);
    for (name, whole) in GOLDEN.map(|(name, ..)| (name, golden(name))) {
        for seed in seeds.clone() {
            let source = SeededRandom::new(seed);
            let mut random = |below: usize| {
                let mut word = [0; 8];
                source.fill(&mut word).unwrap();
                (u64::from_le_bytes(word) % below as u64) as usize
            };
            let fs = SimFs::new();
            fs.create_dir_all(Path::new("/s")).unwrap();
            let file = fs.create(Path::new(PATH)).unwrap();
            file.write_all_at(0, &mutate(&whole, &mut random)).unwrap();
            let begun = Instant::now();
            let result = catch_unwind(AssertUnwindSafe(|| use_it(&fs, Path::new(PATH))));
            match result {
                Ok(Ok(())) => used += 1,
                Ok(Err(error)) => {
                    assert!(error.to_string().contains("1.segment"), "{name}, seed {seed}: {error}");
                    refused += 1;
                }
                Err(panic) => {
                    eprintln!("{name} fails with ALLIDB_FUZZ_SEED={seed}");
                    resume_unwind(panic);
                }
            }
            assert!(begun.elapsed() < ROUND_LIMIT, "{name} hangs with ALLIDB_FUZZ_SEED={seed}");
        }
    }
    if seeds.clone().count() > 1 {
        assert!(refused > 0 && used > 0, "{refused} refused, {used} used: one side was never reached");
    }
}
