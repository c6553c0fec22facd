//! Which writes are let in: none without free space, and slower ones while flush and compaction lag.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::batch::{ChangeKind, WriteBatch};
use crate::compaction::level0_due;
use crate::error::Error;
use crate::options::Keyspace;
use crate::range_tombstone::MAX_RANGE_TOMBSTONES;
use crate::state::Inner;
use crate::version::SuperVersion;

/// Bytes of batches between two looks at the free space.
const SPACE_CHECK_BYTES: i64 = 8 << 20;
/// While writers are slowed down, each lot of this many bytes …
const SLOW_BYTES: u64 = 64 << 10;
/// … waits this long: 32 MiB a second.
const SLOW_DELAY: Duration = Duration::from_millis(2);
/// What a batch counts beside its bytes.
const BATCH_BYTES: u64 = 64;

/// How far background work lags.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Pressure {
    None,
    Slow,
    Stop,
}

/// The state of admission.
#[derive(Debug, Default)]
pub(crate) struct Admission {
    /// Bytes that may be written before the free space is looked at again.
    unchecked_bytes: AtomicI64,
    pressure: AtomicU8,
    /// Bytes let in since the last delay.
    slow_bytes: AtomicU64,
}

impl Inner {
    /// Waits until the batch may be written.
    pub(crate) fn admit(&self, batch: &WriteBatch, byte_len: usize) -> Result<(), Error> {
        if !batch.may_use_reserve() {
            self.check_space(byte_len)?;
        }
        match self.pressure() {
            Pressure::None => Ok(()),
            Pressure::Slow => {
                self.slow_down(byte_len);
                Ok(())
            }
            Pressure::Stop => self.stop(),
        }
    }

    /// Refuses range deletes beyond what a keyspace may have of them: each takes memory and a place in every manifest
    /// until compaction has applied it.
    pub(crate) fn check_range_deletes(&self, batch: &WriteBatch) -> Result<(), Error> {
        if batch.range_deletes() == 0 {
            return Ok(());
        }
        let mut added = BTreeMap::<Keyspace, usize>::new();
        for change in
            batch.changes().iter().filter(|change| matches!(change.kind, ChangeKind::DeleteRange(_)))
        {
            *added.entry(change.keyspace).or_default() += 1;
        }
        let super_version = self.super_version();
        for (keyspace, added) in added {
            if added > MAX_RANGE_TOMBSTONES {
                let what = format!("{added} range deletes in a batch; the limit is {MAX_RANGE_TOMBSTONES}");
                return Err(Error::InvalidArgument { what });
            }
            let present = super_version.range_tombstones(keyspace);
            if present + added > MAX_RANGE_TOMBSTONES {
                if super_version.active.has_many_range_tombstones() {
                    // Compaction gets them once they are flushed, for which no further write may come.
                    self.freeze_active()?;
                }
                let reason = format!(
                    "{present} range deletes wait for compaction, or for snapshots older than they are to be dropped"
                );
                return Err(Error::Busy { reason });
            }
        }
        Ok(())
    }

    /// Computes anew how far background work lags; to be called after each change of the super-version.
    pub(crate) fn update_pressure(&self, super_version: &SuperVersion) {
        let frozen = super_version.frozen.len();
        let limit = self.options.frozen_memtables.max(1);
        // Those that a table in quarantine holds up do not count: no waiting would make them fewer.
        let level0 = super_version.version.keyspaces();
        let level0 = level0.map(|(_, keyspace)| level0_due(&self.options, keyspace));
        let level0 = level0.max().unwrap_or(0);
        let pressure = if frozen >= limit || level0 >= self.options.level0_stop_files {
            Pressure::Stop
        } else if (limit > 2 && frozen + 1 >= limit) || level0 >= self.options.level0_slowdown_files {
            Pressure::Slow
        } else {
            Pressure::None
        };
        self.admission.pressure.store(pressure as u8, Ordering::Release);
    }

    fn pressure(&self) -> Pressure {
        match self.admission.pressure.load(Ordering::Acquire) {
            0 => Pressure::None,
            1 => Pressure::Slow,
            _ => Pressure::Stop,
        }
    }

    fn slow_down(&self, byte_len: usize) {
        if self.options.background.is_inline() {
            return;
        }
        self.counters().slowdowns.add(1);
        let bytes = byte_len as u64 + BATCH_BYTES;
        let before = self.admission.slow_bytes.fetch_add(bytes, Ordering::Relaxed);
        let lots = (before + bytes) / SLOW_BYTES - before / SLOW_BYTES;
        if lots > 0 {
            let start = Instant::now();
            thread::sleep(SLOW_DELAY * u32::try_from(lots).unwrap_or(u32::MAX));
            self.counters().slowdown_micros.add_time(start.elapsed());
        }
    }

    /// Waits until background work has caught up. If it fails, waiting is of no use.
    fn stop(&self) -> Result<(), Error> {
        self.counters().stalls.add(1);
        let start = Instant::now();
        let caught_up = self.wait_to_catch_up();
        self.counters().stall_micros.add_time(start.elapsed());
        caught_up
    }

    fn wait_to_catch_up(&self) -> Result<(), Error> {
        if self.options.background.is_inline() {
            self.run_inline();
        }
        self.signal.wait(|| {
            // Damage that was found meanwhile changes what can be waited for.
            self.update_pressure(&self.super_version());
            if self.pressure() != Pressure::Stop {
                return Some(Ok(()));
            }
            if let Err(error) = self.check_writable() {
                return Some(Err(error));
            }
            if let Some(reason) = self.background_error() {
                return Some(Err(Error::Busy { reason }));
            }
            // Nobody is left who could catch up.
            (self.options.background.is_inline() || self.lacks_workers())
                .then(|| Err(Error::Busy { reason: "flush and compaction do not keep up".to_owned() }))
        })
    }

    pub(crate) fn check_space(&self, byte_len: usize) -> Result<(), Error> {
        let required = self.options.min_free_bytes;
        if required == 0 {
            return Ok(());
        }
        let byte_len = i64::try_from(byte_len).unwrap_or(i64::MAX);
        if self.admission.unchecked_bytes.fetch_sub(byte_len, Ordering::Relaxed) > byte_len {
            return Ok(());
        }
        let free = self.free_space().inspect_err(|_| {
            // The next write looks again, so service resumes by itself.
            self.admission.unchecked_bytes.store(0, Ordering::Relaxed);
        })?;
        let unchecked = i64::try_from(free - required).unwrap_or(i64::MAX).min(SPACE_CHECK_BYTES);
        self.admission.unchecked_bytes.store(unchecked, Ordering::Relaxed);
        Ok(())
    }

    /// How much is free.
    ///
    /// # Errors
    /// [`Error::DiskFull`] if that is less than writes must leave.
    pub(crate) fn free_space(&self) -> Result<u64, Error> {
        let (free_bytes, required_bytes) = (self.free_bytes()?, self.options.min_free_bytes);
        match free_bytes < required_bytes {
            true => Err(Error::DiskFull { free_bytes, required_bytes }),
            false => Ok(free_bytes),
        }
    }

    /// The error of a write that found no space although there seemed to be some.
    pub(crate) fn disk_full(&self) -> Error {
        self.admission.unchecked_bytes.store(0, Ordering::Relaxed);
        Error::DiskFull {
            free_bytes: self.free_bytes().unwrap_or(0),
            required_bytes: self.options.min_free_bytes,
        }
    }

    fn free_bytes(&self) -> Result<u64, Error> {
        self.fs()
            .free_bytes(self.dir())
            .map_err(|source| Error::io("stat the file system of", self.dir(), source))
    }
}
