//! What is done for texts in the background: sealing full sets, merging segments.

use std::{
    collections::HashSet,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, Weak, atomic::Ordering},
    time::{Duration, Instant},
};

use allidb_storage::{Durability, WriteBatch};

use crate::{
    duty::Work,
    error::{Error, Result},
    inventory::{Inventory, Place},
    keyspaces::Keyspaces,
    text::{
        directory::file_prefix,
        growing::Growing,
        index::{Inner, Inputs, Sealed, TextIndex},
        segment::TextSegment,
    },
    worker::{Worker, WorkerChange, WorkerStatus},
};

/// How often the index is looked at.
const TICK: Duration = Duration::from_secs(1);
/// How long a write waits for room, and how often it looks.
const ROOM_WITHIN: Duration = Duration::from_secs(10);
const ROOM_EVERY: Duration = Duration::from_millis(5);

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

impl TextIndex {
    /// Sees to the index in the background, if there is anything to do.
    pub(crate) fn maintain(&self) {
        for work in Work::ALL {
            if self.0.needs(work) && self.0.duty.begin(work) {
                let texts = self.clone();
                let task = move || texts.work(work);
                if self.0.background.is_inline() {
                    task();
                } else {
                    self.0.background.spawn(self.0.worker(work).name(), Box::new(task));
                }
            }
        }
    }

    /// Works until nothing of its kind is due.
    fn work(&self, work: Work) {
        let worker = self.0.worker(work);
        let _turn = worker.begin();
        loop {
            // A defect in writing must not take the node down: searches go on without what was being written.
            let worked = catch_unwind(AssertUnwindSafe(|| self.0.work_off(work)));
            let has_failed = match worked {
                Ok(Ok(())) => false,
                Ok(Err(error)) => {
                    tracing::warn!(worker = worker.name(), %error, "texts could not be written to a segment; it is tried again");
                    worker.failed(self.0.clock.now(), &error);
                    true
                }
                Err(_) => {
                    tracing::error!(worker = worker.name(), "writing texts panicked; it is tried again");
                    worker.failed(self.0.clock.now(), &"it panicked; the log says where");
                    true
                }
            };
            self.0.duty.end(work, has_failed);
            // What became due just before the end was left to this thread.
            if has_failed || !self.0.needs(work) || !self.0.duty.begin(work) {
                break;
            }
        }
        if work == Work::Seal {
            self.maintain();
        }
    }

    /// Looks after the index for as long as there is one.
    pub(crate) fn watch(&self) {
        if self.0.background.is_inline() {
            return;
        }
        let texts = Arc::downgrade(&self.0);
        let watch = move || {
            loop {
                std::thread::sleep(TICK);
                let Some(texts) = Weak::upgrade(&texts).map(TextIndex) else { return };
                if texts.0.closed.load(Ordering::Acquire) {
                    return;
                }
                texts.0.tick();
                texts.maintain();
            }
        };
        self.0.background.spawn("text-watch", Box::new(watch));
    }

    /// Waits until not as much waits to be sealed as may.
    ///
    /// # Errors
    /// If that takes too long: sealing fails, or cannot keep up.
    pub(crate) fn wait_for_room(&self) -> Result<()> {
        let begun = Instant::now();
        while self.0.has_backlog() {
            if self.0.is_over_budget() && self.0.state.read().frozen.is_empty() {
                self.0.close_growing();
            }
            self.maintain();
            let is_inline = self.0.background.is_inline();
            if begun.elapsed() > ROOM_WITHIN || (is_inline && self.0.has_backlog()) {
                let worker = self.0.worker(Work::Seal);
                let why = match worker.is_paused() {
                    true => format!("{} is paused", worker.name()),
                    false => "they are not written to segments as fast as they come".to_owned(),
                };
                return Err(Error::Exhausted(format!(
                    "memory for fresh texts is full: {why}; try again later"
                )));
            }
            if !is_inline {
                std::thread::sleep(ROOM_EVERY);
            }
        }
        Ok(())
    }

    /// Writes what is fresh to a segment, and waits for that.
    pub(crate) fn seal(&self) -> Result<()> {
        self.0.close_growing();
        while !self.0.state.read().frozen.is_empty() {
            if self.0.duty.begin(Work::Seal) {
                let sealed = self.0.work_off(Work::Seal);
                self.0.duty.end(Work::Seal, sealed.is_err());
                sealed?;
            } else {
                std::thread::sleep(ROOM_EVERY);
            }
        }
        self.maintain();
        Ok(())
    }

    /// What the workers are at.
    pub(crate) fn workers(&self) -> Vec<WorkerStatus> {
        Work::ALL.into_iter().map(|work| self.status(work)).collect()
    }

    fn status(&self, work: Work) -> WorkerStatus {
        let waiting = match work {
            Work::Seal => self.0.state.read().frozen.iter().map(|frozen| frozen.living()).sum(),
            Work::Merge => 0,
        };
        self.0.worker(work).status(0, waiting)
    }

    /// Pauses, resumes or slows down a worker; gives what it is at then. `None` if none has this name.
    ///
    /// # Errors
    /// If the change cannot be.
    pub(crate) fn change_worker(&self, name: &str, change: WorkerChange) -> Result<Option<WorkerStatus>> {
        let Some(work) = Work::ALL.into_iter().find(|work| self.0.worker(*work).name() == name) else {
            return Ok(None);
        };
        self.0.worker(work).change(change)?;
        Ok(Some(self.status(work)))
    }
}

impl Inner {
    pub(super) fn worker(&self, work: Work) -> &Worker {
        &self.workers[work as usize]
    }

    fn is_over(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    fn needs(&self, work: Work) -> bool {
        !self.is_over()
            && !self.duty.rests(work)
            && !self.worker(work).is_paused()
            && self.due(work).is_some()
    }

    fn work_off(&self, work: Work) -> Result<()> {
        while let Some(inputs) = self.due(work).filter(|_| !self.is_over() && !self.worker(work).is_paused())
        {
            let begun = Instant::now();
            match inputs {
                Inputs::Frozen(frozen) => self.seal(frozen)?,
                Inputs::Sealed(inputs) => self.merge(inputs)?,
            }
            self.worker(work).pace(begun.elapsed(), &|| self.is_over());
        }
        Ok(())
    }

    fn seal(&self, frozen: Arc<Growing>) -> Result<()> {
        self.seal_into(frozen, true)
    }

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
            let state = self.state.read();
            let segments = state.sealed.iter();
            Inventory {
                is_complete,
                generation: state.frozen.first().unwrap_or(&state.growing).journaled_from,
                segments: segments.map(|sealed| (sealed.segment.id, sealed.deaths.bitmap())).collect(),
            }
        };
        let mut batch = WriteBatch::new();
        inventory.store(&self.engine, &place(&self.keyspaces), &mut batch)?;
        self.engine.write(batch, Durability::Sync)?;
        let oldest = self.engine.oldest_snapshot();
        self.state.read().sealed.iter().for_each(|sealed| sealed.deaths.forget_before(oldest));
        Ok(())
    }

    /// Removes the files that no segment has: left by a crash.
    pub(super) fn remove_orphans(&self) -> Result<()> {
        let known: HashSet<String> =
            self.state.read().sealed.iter().map(|sealed| file_prefix(sealed.segment.id)).collect();
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
