//! Disks that do not hold what was written to them: a bit of a table turns, and whoever has that disk finds out when it reads the place, or all of it.

use std::{path::PathBuf, sync::atomic::Ordering};

use allidb_cluster::Ring;
use allidb_index::SeededRandom;
use allidb_storage::{
    ScrubOptions,
    fs::{Fs, SimFs},
    inspect::{InspectOptions, Inspection, inspect},
};

use crate::node::{Node, draw, soon};

/// Keyspaces of which no other node holds what this one does: a node that loses these is replaced.
const OF_ONE_NODE: [&str; 2] = ["cluster", "local"];
/// How long at most until a disk is read as a whole.
const SCRUB_WITHIN_MS: u64 = 1_500;
/// When a disk is to be read that nothing is known of.
pub(crate) const NEVER: u64 = u64::MAX;

/// Turns a bit of a table whose rows other nodes hold, too; `None` if there is no such table.
fn turn_a_bit(fs: &SimFs, random: &SeededRandom) -> Option<PathBuf> {
    let healable = |path: &PathBuf| match inspect(fs, path, InspectOptions::default()) {
        Ok(Inspection::Table(table)) => table.properties.is_some_and(|properties| {
            let names = allidb_index::KEYSPACES;
            names.get(properties.keyspace as usize).is_some_and(|name| !OF_ONE_NODE.contains(name))
        }),
        _ => false,
    };
    let mut tables: Vec<PathBuf> = fs.files().into_iter().map(|(path, _)| path).filter(healable).collect();
    tables.sort();
    let path = tables.get(draw(random, tables.len().max(1) as u64) as usize)?.clone();
    let bytes = fs.open(&path).and_then(|file| file.byte_len()).expect("it is there");
    assert!(fs.flip_bit(&path, draw(random, bytes), draw(random, 8) as u8));
    Some(path)
}

impl Node {
    /// Damages the disk of a node that lives. Gives what of it; `None` if nothing of it is in tables yet.
    pub(crate) fn damage(&self, random: &SeededRandom) -> Option<PathBuf> {
        let ring = self.ring.lock().clone()?;
        ring.replica().engine().flush().ok()?;
        let path = turn_a_bit(&self.fs, random)?;
        self.scrub_at.store(self.clock.elapsed() + draw(random, SCRUB_WITHIN_MS), Ordering::SeqCst);
        Some(path)
    }

    /// Reads the whole disk when it is time to, and asks to be started again if something is wrong with it.
    pub(crate) async fn look_at_disk(&self, ring: &Ring) {
        let engine = ring.replica().engine();
        if self.clock.elapsed() >= self.scrub_at.load(Ordering::SeqCst)
            && engine.scrub(ScrubOptions::default(), |_| std::ops::ControlFlow::Continue(())).is_ok()
        {
            self.scrub_at.store(NEVER, Ordering::SeqCst);
        }
        if ring.replica().has_copy() {
            self.is_to_start.store(true, Ordering::SeqCst);
        }
        // Others may not answer yet.
        if matches!(ring.now().may_heal(soon()).await, Ok(true)) {
            self.is_to_start.store(true, Ordering::SeqCst);
        }
    }

    /// Whether nothing is known to be wrong with its disk, and it holds again what was.
    pub(crate) fn is_sound(&self) -> bool {
        let Some(ring) = self.ring.lock().clone() else { return false };
        self.scrub_at.load(Ordering::SeqCst) == NEVER
            && ring.replica().engine().damaged().is_empty()
            && ring.replica().healing().is_empty()
    }
}
