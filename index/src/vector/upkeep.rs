//! What is done for vector spaces in the background: sealing full segments, merging sealed ones, reading missing rows again,
//! verifying files.
//!
//! Sealing is quick and keeps memory bounded; merging builds graphs and takes as long as that does. Each is done by
//! one thread at most for each space, and work that fails is tried again after ever longer times.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Weak, atomic::Ordering},
    time::{Duration, Instant},
};

use allidb_storage::{Sequence, Snapshot, fs::ScratchFile};

use crate::{
    duty::Work,
    error::{Error, Result},
    model::{Codes, CollectionId, TenantId},
    replica::register,
    row::{EntityKey, VectorContent, VectorKey},
    upkeep::NO_THREAD,
    vector::{
        SpaceIndex,
        graph::{BuildOptions, BuildRun, Kept, NONE},
        growing::Growing,
        kernel::CodeKind,
        merge::GRAPH_ROWS,
        owner::Owner,
        quantize::Form,
        segment::{self, Segment, SegmentRows, SegmentSpec},
        space::{Inputs, ROTATION_SEED, Sealed},
        spaces::{Inner, Spaces},
    },
    worker::{Activity, Worker},
};

/// Spaces that are merged at a time: each takes as much memory for building as one may.
const MERGES_AT_ONCE: usize = 4;
/// Edges longer than strictly needed are kept up to this factor: walks get by with fewer steps.
const SLACK: f32 = 1.1;
/// Codes, and links, of a graph in the making stay in memory if they take one part in so many of what vectors may.
const BUILD_PART: usize = 16;
/// A part of the memory of fresh vectors that is not worth a segment.
const TINY: usize = 256;
/// How often spaces are looked at.
const TICK: Duration = Duration::from_secs(1);
/// How long a write waits for room, and how often it looks.
const ROOM_WITHIN: Duration = Duration::from_secs(10);
pub(super) const ROOM_EVERY: Duration = Duration::from_millis(5);

/// A place among those that merge.
struct Merging(Spaces);

impl Drop for Merging {
    fn drop(&mut self) {
        let Self(spaces) = self;
        spaces.0.merging.fetch_sub(1, Ordering::AcqRel);
        if spaces.0.is_merge_waiting.swap(false, Ordering::AcqRel) && !spaces.is_closed() {
            spaces.all().iter().for_each(|space| spaces.maintain(space));
        }
    }
}

impl Spaces {
    /// Sees to a space in the background, if there is anything to do.
    pub(crate) fn maintain(&self, space: &Arc<SpaceIndex>) {
        for work in Work::ALL {
            if !self.0.needs(work, space) || space.duty.is_busy(work) {
                continue;
            }
            let Some(place) = self.place_for(work, space) else { continue };
            if !space.duty.begin(work) {
                continue;
            }
            let (spaces, begun) = (self.clone(), Arc::clone(space));
            let task = move || {
                spaces.work(work, &begun);
                drop(place);
            };
            let worker = self.0.worker(work);
            if self.0.background.is_inline() {
                task();
            } else if !self.0.background.spawn(worker.name(), Box::new(task)) {
                worker.failed(self.0.clock.now(), &NO_THREAD);
                space.duty.end(work, true);
            }
        }
    }

    /// A place among those that merge, which take memory as long as they do; `None` if all are taken: then whoever gives one back looks who waits. Where rows
    /// are missing that is not waited for: searches take long meanwhile.
    fn place_for(&self, work: Work, space: &SpaceIndex) -> Option<Option<Merging>> {
        if work != Work::Merge || self.0.background.is_inline() || self.0.must_restore(space) {
            return Some(None);
        }
        let taken = |count: usize| (count < MERGES_AT_ONCE).then_some(count + 1);
        if self.0.merging.fetch_update(Ordering::AcqRel, Ordering::Acquire, taken).is_ok() {
            return Some(Some(Merging(self.clone())));
        }
        self.0.is_merge_waiting.store(true, Ordering::Release);
        None
    }

    /// Works until nothing of its kind is due.
    fn work(&self, work: Work, space: &Arc<SpaceIndex>) {
        let worker = self.0.worker(work);
        let _turn = worker.begin();
        loop {
            // A defect in building must not take the node down: searches go on without what was being built.
            let worked = catch_unwind(AssertUnwindSafe(|| match work {
                Work::Seal => self.0.seal_all(space),
                Work::Merge => self.0.merge_all(space),
            }));
            let has_failed = match worked {
                Ok(Ok(())) => false,
                Ok(Err(_)) if self.0.is_over(space) => false,
                Ok(Err(error)) => {
                    let name = worker.name();
                    tracing::warn!(worker = name, %error, "vectors could not be written to a segment; it is tried again");
                    worker.failed(self.0.clock.now(), &error);
                    // Also where that helps: a file that is damaged as soon as it was written would be written again and again.
                    self.heal(space, &error);
                    true
                }
                Err(_) => {
                    let name = worker.name();
                    tracing::error!(
                        worker = name,
                        "writing vectors to a segment panicked; it is tried again"
                    );
                    worker.failed(self.0.clock.now(), &"it panicked; the log says where");
                    true
                }
            };
            space.duty.end(work, has_failed);
            // What became due just before the end was left to this thread.
            if has_failed || !self.0.needs(work, space) || !space.duty.begin(work) {
                break;
            }
        }
        if work == Work::Seal {
            self.maintain(space);
        }
    }

    /// Looks after all spaces for as long as there are any.
    pub(crate) fn watch(&self) {
        if self.0.background.is_inline() {
            return;
        }
        let spaces = Arc::downgrade(&self.0);
        let watch = move || {
            loop {
                std::thread::sleep(TICK);
                let Some(spaces) = Weak::upgrade(&spaces).map(Spaces) else { return };
                if spaces.is_closed() {
                    return;
                }
                for space in spaces.all() {
                    space.tick();
                    spaces.maintain(&space);
                }
            }
        };
        self.0.background.spawn("vector-watch", Box::new(watch));
    }

    /// Waits until no space of the collections has as much waiting to be sealed as it may, and all spaces together take no more
    /// memory than they may.
    ///
    /// # Errors
    /// If that takes too long: sealing fails, or cannot keep up.
    pub(crate) fn wait_for_room(&self, collections: impl Fn(CollectionId) -> bool) -> Result<()> {
        let begun = Instant::now();
        let full = || {
            let all = self.0.by_id.read();
            let mut all_spaces = all.values().map(|(_, space)| space);
            if self.0.fresh_bytes.load(Ordering::Relaxed) > self.0.options.memory_bytes {
                let largest = all_spaces.max_by_key(|space| space.fresh_bytes())?;
                // Queries may hold on to what was sealed: writing tiny segments would not change that.
                if largest.fresh_bytes() > self.0.options.memory_bytes / TINY {
                    largest.close_growing();
                }
                return Some(Arc::clone(largest));
            }
            all_spaces.find(|space| space.has_backlog() && collections(space.id.0)).cloned()
        };
        while let Some(space) = full() {
            self.maintain(&space);
            let is_inline = self.0.background.is_inline();
            if begun.elapsed() > ROOM_WITHIN || (is_inline && full().is_some()) {
                let why = match self.0.worker(Work::Seal) {
                    worker if worker.is_paused() => format!("{} is paused", worker.name()),
                    _ => "they are not written to segments as fast as they come".to_owned(),
                };
                return Err(Error::Exhausted(format!(
                    "memory for fresh vectors is full: {why}; try again later"
                )));
            }
            std::thread::sleep(ROOM_EVERY);
        }
        Ok(())
    }

    /// Verifies the segments that were opened, in the background: afterwards searches need not.
    pub(crate) fn verify(&self) {
        let spaces = self.clone();
        let work = move || {
            for space in spaces.all() {
                for sealed in space.inventory().0 {
                    if spaces.0.is_over(&space) {
                        continue;
                    }
                    if let Err(error) = sealed.segment.verify_all() {
                        spaces.heal(&space, &error);
                    }
                }
            }
        };
        self.0.background.run("vector-verify", Box::new(work));
    }
}

impl Inner {
    fn needs(&self, work: Work, space: &SpaceIndex) -> bool {
        let is_due = || match work {
            Work::Seal => space.due(work).is_some(),
            Work::Merge => self.must_restore(space) || space.due(work).is_some() || space.is_curve_due(),
        };
        !self.is_over(space) && !space.duty.rests(work) && !self.worker(work).is_paused() && is_due()
    }

    /// Whether rows are missing that can be read.
    fn must_restore(&self, space: &SpaceIndex) -> bool {
        space.is_missing_rows() && !self.damages.read().contains_key(&space.id.0)
    }

    /// Why nothing is merged now, if that is so.
    pub(super) fn why_merging_waits(&self) -> Option<String> {
        let worker = self.worker(Work::Merge);
        let status = worker.status(0, 0);
        match status.activity {
            Activity::Paused => Some(format!("{} is paused", worker.name())),
            Activity::Working => None,
            Activity::Idle => {
                let (_, why) = status.last_error?;
                Some(format!("{} failed, and tries again: {why}", worker.name()))
            }
        }
    }

    pub(super) fn worker(&self, work: Work) -> &Worker {
        &self.workers[work as usize]
    }

    pub(super) fn seal_all(&self, space: &SpaceIndex) -> Result<()> {
        while let Some(Inputs::Frozen(frozen)) = space.due(Work::Seal).filter(|_| !self.is_over(space)) {
            self.seal(space, &frozen)?;
        }
        Ok(())
    }

    fn merge_all(&self, space: &SpaceIndex) -> Result<()> {
        while !self.is_over(space) && !self.worker(Work::Merge).is_paused() {
            if self.must_restore(space) {
                match self.restore(space) {
                    Err(error) if error.is_damage() && self.lost_file(&error).is_none() => {
                        tracing::error!(%error, "vectors are damaged: searches of their collection fail");
                        self.damages.write().insert(space.id.0, error);
                    }
                    restored => restored?,
                }
            } else if let Some(Inputs::Sealed(inputs)) = space.due(Work::Merge) {
                self.merge(space, inputs)?;
            } else if space.is_curve_due() {
                self.measure_recall(space)?;
            } else {
                break;
            }
        }
        Ok(())
    }

    /// Writes a growing segment to a file. A graph comes when it is merged.
    fn seal(&self, space: &SpaceIndex, frozen: &Arc<Growing>) -> Result<()> {
        let at = self.engine.snapshot().sequence();
        let written = frozen.with_visible(at, |visible| {
            let numbers: Vec<u64> = visible.iter().map(|row| row.number).collect();
            let owner = |nth: usize, out: &mut Vec<u8>| {
                out.clear();
                out.extend_from_slice(visible[nth].owner);
                Ok(())
            };
            let vector = |nth: usize, out: &mut Vec<f32>| {
                out.clear();
                out.extend_from_slice(visible[nth].vector);
                Ok(())
            };
            let rows = SegmentRows { numbers: &numbers, owner: &owner, vector: &vector, kept: None };
            if numbers.is_empty() {
                Ok(None)
            } else {
                self.write(Work::Seal, space, at, &rows, None).map(Some)
            }
        })?;
        let new = match written {
            None => None,
            Some(Some(segment)) => Some(segment),
            // Cancelled.
            Some(None) => return Ok(()),
        };
        space.install(&Inputs::Frozen(Arc::clone(frozen)), new, at, &|| self.engine.visible_sequence())?;
        self.remember(space)
    }

    /// Makes one segment of several.
    fn merge(&self, space: &SpaceIndex, inputs: Vec<Arc<Sealed>>) -> Result<()> {
        let snapshot = self.engine.snapshot();
        let at = snapshot.sequence();
        // Number, input, row.
        let mut living: Vec<(u64, usize, u32)> = Vec::new();
        for (input, sealed) in inputs.iter().enumerate() {
            sealed.segment.verify_all()?;
            for row in (0..sealed.segment.rows() as u32).filter(|row| sealed.deaths.is_visible(*row, at)) {
                living.push((sealed.segment.number(row)?, input, row));
            }
        }
        living.sort_unstable();
        living.dedup_by_key(|(number, ..)| *number);
        let numbers: Vec<u64> = living.iter().map(|(number, ..)| *number).collect();
        let build = (numbers.len() >= GRAPH_ROWS).then_some(BuildOptions {
            connections: self.options.connections.clamp(2, 256),
            breadth: self.options.build_breadth.max(8),
            slack: SLACK,
        });
        // Nothing of what is to be made anew is gone on from.
        let build_on = build.filter(|_| !space.is_rebuilding());
        let base = build_on.and_then(|build| base(&inputs, build.connections, numbers.len()));
        let links = |row: u32, layer: usize| base.map_or(&[][..], |base| base.segment.links(row, layer));
        let kept = base.map(|base| kept(base, &numbers, at, &links)).transpose()?;
        let Some((tenant, _)) = self.by_id.read().get(&space.id).cloned() else { return Ok(()) };
        let owner = |nth: usize, out: &mut Vec<u8>| {
            let (_, input, row) = living[nth];
            out.clear();
            out.extend_from_slice(inputs[input].segment.owner(row)?);
            Ok(())
        };
        let vector = |nth: usize, out: &mut Vec<f32>| {
            let (_, input, row) = living[nth];
            let key = vector_key(space, tenant, inputs[input].segment.owner_of(row)?);
            let missing = || Error::corrupt("vector", &key, "the index has it and it is not there");
            *out = self.stored(space, &snapshot, &key)?.ok_or_else(missing)?;
            Ok(())
        };
        let rows = SegmentRows { numbers: &numbers, owner: &owner, vector: &vector, kept: kept.as_ref() };
        let new = if numbers.is_empty() { None } else { self.write(Work::Merge, space, at, &rows, build)? };
        if new.is_none() && !numbers.is_empty() {
            return Ok(());
        }
        let inputs = Inputs::Sealed(inputs);
        let path = new.as_ref().map(|new| new.path().to_owned());
        let installed = space.install(&inputs, new, at, &|| self.engine.visible_sequence());
        if !matches!(installed, Ok(true)) {
            path.iter().for_each(|path| self.remove(path));
            return installed.map(drop);
        }
        self.remember(space)?;
        if let Inputs::Sealed(inputs) = &inputs {
            inputs.iter().for_each(|sealed| self.remove(sealed.segment.path()));
        }
        Ok(())
    }

    /// The stored vector under a key, prepared, if it is there.
    pub(super) fn stored(
        &self,
        space: &SpaceIndex,
        snapshot: &Snapshot,
        key: &[u8],
    ) -> Result<Option<Vec<f32>>> {
        let Some(bytes) = snapshot.get(self.keyspaces.vector, key)? else { return Ok(None) };
        let Some(content) = register::<VectorContent>("vector", key, &bytes)?.value else { return Ok(None) };
        if content.0.len() != space.shape.dimension {
            return Err(Error::corrupt("vector", key, "it has another dimension than its space"));
        }
        Ok(Some(space.measure().prepare(&content.0)))
    }

    /// A scratch file for what takes more than builds may have of this process's memory.
    fn scratch(&self, len: usize) -> Result<Option<ScratchFile>> {
        if len <= self.options.memory_bytes / BUILD_PART {
            return Ok(None);
        }
        let refused = |source| Error::io("allocate a scratch file in", &self.dir, source);
        self.fs.scratch(&self.dir, len as u64).map_err(refused)
    }

    /// Writes a segment; `None` if that is not needed any more.
    fn write(
        &self,
        work: Work,
        space: &SpaceIndex,
        at: Sequence,
        rows: &SegmentRows<'_>,
        build: Option<BuildOptions>,
    ) -> Result<Option<Segment>> {
        let id = self.numbers.next(&self.engine)?;
        let (form, has_residuals) = match space.shape.codes {
            Codes::Bits4And8 => (Form::Codes(CodeKind::Bits4), true),
            Codes::Bits8 => (Form::Codes(CodeKind::Bits8), false),
            Codes::Bits1And8 => (Form::Codes(CodeKind::Bits1), true),
            Codes::Float => (Form::Floats, false),
        };
        let spec = SegmentSpec {
            id,
            covered: at,
            seed: ROTATION_SEED,
            metric: space.measure().0,
            dimension: space.shape.dimension,
            form,
            has_residuals,
            build,
        };
        let is_cancelled = || self.is_over(space);
        let progress = &space.progress;
        let kept = rows.kept.map_or(0, Kept::living_rows);
        if build.is_some() {
            progress.inserted.store(0, Ordering::Relaxed);
            progress.to_insert.store(rows.numbers.len() - kept, Ordering::Relaxed);
        }
        let run = BuildRun {
            pool: (!self.background.is_inline()).then_some(&*self.pool),
            is_cancelled: &is_cancelled,
            inserted: &progress.inserted,
            pace: &|worked| self.worker(work).pace(worked, &is_cancelled),
            scratch: &|len| self.scratch(len),
        };
        let path = self.path(id);
        let written = segment::write(&*self.fs, &path, &spec, rows, &run);
        if build.is_some() {
            let inserted = progress.inserted.swap(0, Ordering::Relaxed);
            progress.to_insert.store(0, Ordering::Relaxed);
            self.rows_inserted.fetch_add(inserted as u64, Ordering::Relaxed);
        }
        let opened = written.and_then(|is_whole| {
            let segment = is_whole.then(|| Segment::open(&*self.fs, &path)).transpose()?;
            segment.as_ref().map_or(Ok(()), Segment::verify_all)?;
            Ok(segment)
        });
        match &opened {
            Ok(Some(segment)) => {
                self.rows_written.fetch_add(segment.rows() as u64, Ordering::Relaxed);
            }
            Ok(None) | Err(_) => self.remove(&path),
        }
        opened
    }
}

/// Where the vector of an owner is stored.
pub(super) fn vector_key(space: &SpaceIndex, tenant: TenantId, owner: Owner) -> Vec<u8> {
    let (collection, space) = space.id;
    let entity = EntityKey { tenant, collection, id: owner.id };
    entity.vector(&VectorKey { chunk: owner.chunk, space })
}

/// The segment whose graph is gone on from: the largest, if it makes up a good part of the rows.
fn base(inputs: &[Arc<Sealed>], connections: usize, rows: usize) -> Option<&Sealed> {
    let fits = |sealed: &&Arc<Sealed>| {
        !sealed.segment.is_flat()
            && sealed.segment.connections() == connections
            && 3 * sealed.living() >= rows
    };
    inputs.iter().filter(fits).max_by_key(|sealed| sealed.living()).map(|sealed| &**sealed)
}

/// Which rows of the base are among the numbers still, and where.
fn kept<'a>(
    base: &Sealed,
    numbers: &[u64],
    at: Sequence,
    links: &'a (dyn Fn(u32, usize) -> &'a [u32] + Sync),
) -> Result<Kept<'a>> {
    let mut old_rows = vec![NONE; numbers.len()];
    let mut new_rows = vec![NONE; base.segment.rows()];
    let mut row = 0;
    for old in (0..base.segment.rows() as u32).filter(|old| base.deaths.is_visible(*old, at)) {
        let number = base.segment.number(old)?;
        while numbers.get(row).is_some_and(|other| *other < number) {
            row += 1;
        }
        if numbers.get(row) == Some(&number) {
            old_rows[row] = old;
            new_rows[old as usize] = row as u32;
        }
    }
    Ok(Kept::new(old_rows, new_rows, links))
}
