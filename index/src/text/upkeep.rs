//! What is done for texts in the background: sealing full sets, merging segments.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
};

use allidb_storage::{Durability, WriteBatch};

use crate::{
    duty::Work,
    error::{Error, Result},
    inventory::{Inventory, Place},
    keyspaces::Keyspaces,
    shelf::FreshSet,
    text::{
        directory::file_prefix,
        growing::Growing,
        index::{FRESH_BYTES, Inputs, MAX_FROZEN, Sealed, TextIndex},
        segment::TextSegment,
    },
    upkeep::{Machine, Upkeep},
};

/// Where journal and inventory of texts lie.
pub(crate) fn place(keyspaces: &Keyspaces) -> Place {
    Place {
        log: keyspaces.text_log,
        log_name: "text_log",
        segments: keyspaces.text_segment,
        segments_name: "text_segment",
        prefix: b"text".to_vec(),
    }
}

impl Upkeep for TextIndex {
    const OF: &'static str = "texts";
    const WATCH: &'static str = "text-watch";

    fn machine(&self) -> &Machine {
        &self.machine
    }

    fn is_due(&self, work: Work) -> bool {
        self.due(work).is_some()
    }

    fn do_next(&self, work: Work) -> Result<()> {
        match self.due(work) {
            None => Ok(()),
            Some(Inputs::Frozen(frozen)) => self.seal_into(frozen, true),
            Some(Inputs::Sealed(inputs)) => self.merge(inputs),
        }
    }

    fn frozen(&self) -> (usize, usize) {
        let shelf = self.shelf.read();
        (shelf.frozen.len(), shelf.frozen.iter().map(|frozen| frozen.living()).sum())
    }

    fn most_frozen(&self) -> usize {
        MAX_FROZEN
    }

    fn is_over_budget(&self) -> bool {
        self.fresh_bytes.load(Ordering::Relaxed) > FRESH_BYTES
    }

    fn close_growing(&self) {
        let mut shelf = self.shelf.write();
        if shelf.growing.fill() > 0 {
            self.rotate(&mut shelf);
        }
    }

    fn tick(&self) {
        let mut shelf = self.shelf.write();
        if self.machine.tick(&shelf) && shelf.frozen.len() < MAX_FROZEN {
            self.rotate(&mut shelf);
        }
    }
}

impl TextIndex {
    /// Writes a growing set to a segment. Whether segments and journal hold every text then, the caller knows.
    pub(super) fn seal_into(&self, frozen: Arc<Growing>, is_complete: bool) -> Result<()> {
        // Held until the segment is installed: deaths since then are remembered for as long as it is.
        let snapshot = self.engine.snapshot();
        let at = snapshot.sequence();
        let visible = frozen.visible(at);
        let new = match visible.is_empty() {
            true => None,
            false => {
                let id = self.numbers.next(&self.engine)?;
                Some(self.kept_if_whole(id, TextSegment::write(&self.fs, &self.dir, id, visible))?)
            }
        };
        self.install(&Inputs::Frozen(frozen), new, at);
        drop(snapshot);
        self.remember(is_complete)
    }

    /// Makes one segment of several.
    fn merge(&self, inputs: Vec<Arc<Sealed>>) -> Result<()> {
        // Held, as above.
        let snapshot = self.engine.snapshot();
        let at = snapshot.sequence();
        let lives = |input: usize, document: u32| inputs[input].deaths.is_visible(document, at);
        let is_any_alive = (0..inputs.len())
            .any(|input| (0..inputs[input].segment.len()).any(|document| lives(input, document)));
        let new = match is_any_alive {
            false => None,
            true => {
                let id = self.numbers.next(&self.engine)?;
                let segments: Vec<&TextSegment> = inputs.iter().map(|input| &input.segment).collect();
                let merged = TextSegment::merge(&self.fs, &self.dir, id, &segments, lives);
                Some(self.kept_if_whole(id, merged)?)
            }
        };
        let inputs = Inputs::Sealed(inputs);
        self.install(&inputs, new, at);
        drop(snapshot);
        self.remember(true)?;
        if let Inputs::Sealed(inputs) = &inputs {
            inputs.iter().for_each(|input| self.remove_segment(input.segment.id));
        }
        Ok(())
    }

    /// What was written of a segment that did not become whole is removed.
    fn kept_if_whole(&self, id: u64, written: Result<TextSegment>) -> Result<TextSegment> {
        if written.is_err() {
            self.remove_segment(id);
        }
        written
    }

    /// Removes the files of a segment. Those that stay are removed by the next start.
    fn remove_segment(&self, id: u64) {
        let removed = self.files_of(id).and_then(|paths| {
            paths
                .iter()
                .try_for_each(|path| self.fs.remove(path).map_err(|source| Error::io("remove", path, source)))
        });
        if let Err(error) = removed {
            tracing::warn!(%error, "files of a segment of texts stay until the next start");
        }
    }

    fn files_of(&self, id: u64) -> Result<Vec<PathBuf>> {
        let prefix = file_prefix(id);
        let names = self.fs.list(&self.dir).map_err(|source| Error::io("list", &self.dir, source))?;
        let of_segment = names.iter().filter(|name| name.starts_with(&prefix) && !name.ends_with(DAMAGED));
        Ok(of_segment.map(|name| self.dir.join(name)).collect())
    }

    /// Makes durable which segments there are.
    pub(super) fn remember(&self, is_complete: bool) -> Result<()> {
        let _turn = self.remembering.lock();
        let inventory = {
            let shelf = self.shelf.read();
            let segments = shelf.sealed.iter();
            Inventory {
                is_complete,
                generation: shelf.journaled_from(),
                segments: segments.map(|sealed| (sealed.segment.id, sealed.deaths.bitmap())).collect(),
            }
        };
        let mut batch = WriteBatch::new();
        inventory.store(&self.engine, &place(&self.keyspaces), &mut batch)?;
        self.engine.write(batch, Durability::Sync)?;
        let oldest = self.engine.oldest_snapshot();
        self.shelf.read().sealed.iter().for_each(|sealed| sealed.deaths.forget_before(oldest));
        Ok(())
    }

    /// Removes the files that no segment has: left by a crash.
    pub(super) fn remove_orphans(&self) -> Result<()> {
        let known: HashSet<String> =
            self.shelf.read().sealed.iter().map(|sealed| file_prefix(sealed.segment.id)).collect();
        let names = self.fs.list(&self.dir).map_err(|source| Error::io("list", &self.dir, source))?;
        for name in names.iter().filter(|name| !name.ends_with(DAMAGED)) {
            if !known.iter().any(|prefix| name.starts_with(prefix)) {
                let path = self.dir.join(name);
                self.fs.remove(&path).map_err(|source| Error::io("remove", &path, source))?;
            }
        }
        Ok(())
    }

    /// Keeps the files of a damaged segment under other names, for whoever wants to look at them.
    pub(super) fn set_aside(&self, id: u64) -> Result<()> {
        for path in self.files_of(id)? {
            let mut aside = path.clone().into_os_string();
            aside.push(DAMAGED);
            let renamed = self.fs.rename(&path, Path::new(&aside));
            renamed.map_err(|source| Error::io("rename", &path, source))?;
        }
        Ok(())
    }
}

/// What the names of damaged files end with.
const DAMAGED: &str = ".damaged";
