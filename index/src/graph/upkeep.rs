//! What is done for the graph in the background: sealing full sets, merging segments.

use std::{
    collections::HashSet,
    iter::Peekable,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
};

use allidb_storage::{Durability, Sequence, WriteBatch};
use roaring::RoaringBitmap;

use crate::{
    duty::Work,
    error::{Error, Result},
    graph::{
        adjacency::{EdgeName, EdgeValue, Group, Side, put_group},
        growing::{GROWING_BYTES, Growing},
        index::GraphIndex,
        nodes::{NodeState, NodesView},
        segment::{GraphSegment, Record, SegmentWriter, put_record},
    },
    inventory::{Inventory, Place},
    keyspaces::Keyspaces,
    row::EntityKey,
    shelf::FreshSet,
    upkeep::{Machine, Upkeep},
};

/// Full sets that wait in memory to be sealed, before writes wait for them.
const MAX_FROZEN: usize = 4;
/// Bytes of all of them, before writes wait.
const FRESH_BYTES: usize = (MAX_FROZEN + 2) * GROWING_BYTES;
/// A segment is merged with those that came after it when they are, together, at least its size by this.
const RATIO: u64 = 2;
/// What the files of segments end with, and those of damaged ones.
const SUFFIX: &str = ".graph";
const DAMAGED: &str = ".graph.damaged";

/// Where journal and inventory of the graph lie.
pub(crate) fn place(keyspaces: &Keyspaces) -> Place {
    Place {
        log: keyspaces.graph_log,
        log_name: "graph_log",
        segments: keyspaces.graph_segment,
        segments_name: "graph_segment",
        prefix: b"graph".to_vec(),
    }
}

impl Upkeep for GraphIndex {
    const OF: &'static str = "edges";
    const WATCH: &'static str = "graph-watch";

    fn machine(&self) -> &Machine {
        &self.machine
    }

    fn is_due(&self, work: Work) -> bool {
        match work {
            Work::Seal => self.shelf.read().settled().is_some(),
            Work::Merge => !self.to_merge().is_empty(),
        }
    }

    fn do_next(&self, work: Work) -> Result<()> {
        match work {
            Work::Seal => {
                let frozen = self.shelf.read().settled().cloned();
                frozen.map_or(Ok(()), |frozen| self.seal_into(&frozen, true))
            }
            Work::Merge => match self.to_merge() {
                inputs if inputs.is_empty() => Ok(()),
                inputs => self.merge(&inputs),
            },
        }
    }

    fn frozen(&self) -> (usize, usize) {
        let shelf = self.shelf.read();
        (shelf.frozen.len(), shelf.frozen.iter().map(|frozen| frozen.fill()).sum())
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

/// Edges of a side, in the order of their names, not two of one name.
type Edges = Vec<(EdgeName, Option<EdgeValue>)>;

/// What is to be written of a node.
#[derive(Default)]
struct Merged {
    state: Option<(EntityKey, NodeState)>,
    sides: [Edges; 2],
}

/// What a new segment need not have.
struct Purge<'a> {
    nodes: NodesView<'a>,
    /// Nothing older is left for which deletions would have to be kept.
    is_oldest: bool,
}

impl Purge<'_> {
    /// Whether an edge that is as old as this is still one, or a deletion still needed.
    fn keeps(&self, number: u64, name: &EdgeName, value: Option<&EdgeValue>, age: Sequence) -> bool {
        let ends = [number, name.other];
        let is_whole = |state: NodeState| !state.gone && state.cleared <= age;
        (value.is_some() || !self.is_oldest) && ends.into_iter().all(|end| is_whole(self.nodes.get(end)))
    }
}

impl Merged {
    fn write(&self, number: u64, purge: &Purge<'_>, writer: &mut SegmentWriter) -> Result<()> {
        // What stands for nobody, or for somebody who is not there and has no edges, the store knows as well.
        let has_edges = self.sides.iter().any(|edges| !edges.is_empty());
        let is_gone = purge.nodes.get(number).gone;
        let is_needed = |state: &NodeState| !is_gone && (state.exists || state.cleared > 0 || has_edges);
        let state = self.state.as_ref().filter(|(_, state)| !purge.is_oldest || is_needed(state));
        if state.is_none() && !has_edges {
            return Ok(());
        }
        let groups = |edges: &Edges| {
            let mut out = Vec::new();
            edges
                .chunk_by(|(a, _), (b, _)| a.relation == b.relation)
                .for_each(|group| put_group(&mut out, group));
            out
        };
        let (out, into) = (groups(&self.sides[0]), groups(&self.sides[1]));
        let mut record = Vec::with_capacity(out.len() + into.len() + 64);
        put_record(&mut record, state, [&out, &into]);
        writer.put(number, &record, self.sides[0].len() as u64)
    }
}

impl GraphIndex {
    pub(super) fn path_of(&self, id: u64) -> PathBuf {
        self.dir.join(format!("{id}{SUFFIX}"))
    }

    /// Writes a growing set to a segment. Whether segments and journal hold every edge then, the caller knows.
    pub(super) fn seal_into(&self, frozen: &Arc<Growing>, is_complete: bool) -> Result<()> {
        // Held until the segment is installed, so that nothing is forgotten meanwhile of what nodes were.
        let snapshot = self.engine.snapshot();
        let at = snapshot.sequence();
        let purge = Purge { nodes: self.nodes.view(at), is_oldest: self.shelf.read().sealed.is_empty() };
        let id = self.numbers.next(&self.engine)?;
        let new = self.write_segment(id, at, |writer| {
            let fresh = frozen.read();
            for number in fresh.numbers() {
                let Some(node) = fresh.node(number) else { continue };
                let mut merged = Merged { state: node.state.clone(), ..Merged::default() };
                for side in [Side::Out, Side::In] {
                    let edges = node.edges(side, Sequence::MAX);
                    merged.sides[side as usize] = edges
                        .filter(|(name, born, value)| purge.keeps(number, name, value.as_ref(), *born))
                        .map(|(name, _, value)| (name.clone(), value))
                        .collect();
                }
                merged.write(number, &purge, writer)?;
            }
            Ok(())
        })?;
        let mut shelf = self.shelf.write();
        shelf.frozen.retain(|other| !Arc::ptr_eq(other, frozen));
        shelf.sealed.extend(new);
        shelf.changed_at = shelf.changed_at.max(self.engine.visible_sequence());
        drop(shelf);
        drop(snapshot);
        self.remember(is_complete)
    }

    /// Which neighbouring segments are to be one: those that are not much larger than what came after them, so that each edge is
    /// written again few times, and the order of age is kept.
    fn to_merge(&self) -> Vec<Arc<GraphSegment>> {
        let shelf = self.shelf.read();
        if shelf.sealed.len() > 1 && self.machine.is_quiet() {
            // Nobody writes: walks are faster over one.
            return shelf.sealed.clone();
        }
        let mut newer = 0;
        let mut from = shelf.sealed.len();
        for (at, segment) in shelf.sealed.iter().enumerate().rev() {
            if segment.bytes() <= RATIO * newer {
                from = at;
            }
            newer += segment.bytes();
        }
        shelf.sealed[from..].to_vec()
    }

    fn merge(&self, inputs: &[Arc<GraphSegment>]) -> Result<()> {
        let snapshot = self.engine.snapshot();
        let oldest = self.shelf.read().sealed.first().map(|segment| segment.id());
        let is_oldest = oldest == inputs.first().map(|input| input.id());
        let purge = Purge { nodes: self.nodes.view(snapshot.sequence()), is_oldest };
        let covered = inputs.iter().map(|input| input.covered()).max().unwrap_or_default();
        let id = self.numbers.next(&self.engine)?;
        let new = self.write_segment(id, covered, |writer| merge_records(inputs, &purge, writer))?;
        let is_input = |segment: &Arc<GraphSegment>| inputs.iter().any(|input| Arc::ptr_eq(input, segment));
        let mut shelf = self.shelf.write();
        let place = shelf.sealed.iter().position(is_input).unwrap_or_default();
        shelf.sealed.retain(|segment| !is_input(segment));
        if let Some(new) = new {
            shelf.sealed.insert(place, new);
        }
        shelf.changed_at = shelf.changed_at.max(self.engine.visible_sequence());
        drop(shelf);
        drop(snapshot);
        self.remember(true)?;
        inputs.iter().for_each(|input| self.remove_file(input.id()));
        Ok(())
    }

    /// Writes a segment and opens it; none if nothing is in it.
    fn write_segment(
        &self,
        id: u64,
        covered: Sequence,
        fill: impl FnOnce(&mut SegmentWriter) -> Result<()>,
    ) -> Result<Option<Arc<GraphSegment>>> {
        let path = self.path_of(id);
        let write = || {
            let mut writer = SegmentWriter::create(&*self.fs, &path, id, covered)?;
            fill(&mut writer)?;
            if writer.nodes() == 0 {
                return Ok(None);
            }
            let path = writer.finish(&*self.fs)?;
            let segment = GraphSegment::open(&*self.fs, &path)?;
            // Now rather than when a walk comes by.
            segment.verify_all()?;
            Ok(Some(Arc::new(segment)))
        };
        let written = write();
        if !matches!(written, Ok(Some(_))) {
            self.remove_file(id);
        }
        written
    }

    /// Removes the file of a segment. One that stays is removed by the next start.
    pub(super) fn remove_file(&self, id: u64) {
        let path = self.path_of(id);
        if let Err(error) = self.fs.remove(&path) {
            tracing::warn!(path = %path.display(), %error, "a segment of the graph stays until the next start");
        }
    }

    /// Makes durable which segments there are.
    pub(super) fn remember(&self, is_complete: bool) -> Result<()> {
        let _turn = self.remembering.lock();
        let inventory = {
            let shelf = self.shelf.read();
            let segments = shelf.sealed.iter();
            Inventory {
                is_complete: is_complete && self.damage.read().is_none(),
                generation: shelf.journaled_from(),
                segments: segments.map(|segment| (segment.id(), RoaringBitmap::new())).collect(),
            }
        };
        let mut batch = WriteBatch::new();
        inventory.store(&self.engine, &place(&self.keyspaces), &mut batch)?;
        self.engine.write(batch, Durability::Sync)?;
        self.nodes.forget_before(self.engine.oldest_snapshot());
        Ok(())
    }

    /// Removes the files that are no segment's: left by a crash.
    pub(super) fn remove_orphans(&self) -> Result<()> {
        let known: HashSet<String> =
            self.shelf.read().sealed.iter().map(|segment| format!("{}{SUFFIX}", segment.id())).collect();
        let names = self.fs.list(&self.dir).map_err(|source| Error::io("list", &self.dir, source))?;
        for name in names.iter().filter(|name| !name.ends_with(DAMAGED) && !known.contains(*name)) {
            let path = self.dir.join(name);
            self.fs.remove(&path).map_err(|source| Error::io("remove", &path, source))?;
        }
        Ok(())
    }

    /// Keeps a damaged file under another name, for whoever wants to look at it.
    pub(super) fn set_aside(&self, id: u64) -> Result<()> {
        let path = self.path_of(id);
        let aside = self.dir.join(format!("{id}{DAMAGED}"));
        match self.fs.rename(&path, &aside) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            renamed => renamed.map_err(|source| Error::io("rename", &path, source)),
        }
    }
}

/// Writes what several segments, oldest first, have of each node.
fn merge_records(inputs: &[Arc<GraphSegment>], purge: &Purge<'_>, writer: &mut SegmentWriter) -> Result<()> {
    let mut records: Vec<Peekable<_>> = inputs.iter().map(|input| input.records().peekable()).collect();
    loop {
        let mut number = u64::MAX;
        for records in &mut records {
            if let Some(Ok((head, _))) = records.peek() {
                number = number.min(*head);
            } else if let Some(Err(_)) = records.peek() {
                number = 0;
                break;
            }
        }
        let mut of_node: Vec<(&GraphSegment, Record<'_>)> = Vec::new();
        let mut is_over = true;
        for (input, records) in inputs.iter().zip(&mut records) {
            is_over &= records.peek().is_none();
            let is_next =
                |head: &Result<(u64, Record<'_>)>| head.as_ref().map_or(true, |(n, _)| *n == number);
            if let Some(record) = records.next_if(is_next) {
                of_node.push((input, record?.1));
            }
        }
        if is_over {
            return Ok(());
        }
        merge_node(number, &of_node, purge)?.write(number, purge, writer)?;
    }
}

/// What segments, oldest first, have of one node.
fn merge_node(number: u64, records: &[(&GraphSegment, Record<'_>)], purge: &Purge<'_>) -> Result<Merged> {
    let mut merged = Merged::default();
    for (segment, record) in records.iter().rev() {
        if let Some(state) = record.state() {
            let name = record.name().map_err(|error| segment.damaged(error))?;
            merged.state = name.map(|name| (name, state));
            break;
        }
    }
    for side in [Side::Out, Side::In] {
        // By relations, those of each newest first.
        let mut groups: Vec<(Group<'_>, Sequence)> = Vec::new();
        for (segment, record) in records.iter().rev() {
            for group in record.groups(side) {
                groups.push((group.map_err(|error| segment.damaged(error))?, segment.covered()));
            }
        }
        groups.sort_by_key(|(group, _)| group.relation);
        for of_relation in groups.chunk_by(|(a, _), (b, _)| a.relation == b.relation) {
            merge_groups(number, of_relation, purge, &mut merged.sides[side as usize]);
        }
    }
    Ok(merged)
}

/// Edges of one relation from several segments, newest first: of those of one name the newest counts.
fn merge_groups(number: u64, groups: &[(Group<'_>, Sequence)], purge: &Purge<'_>, out: &mut Edges) {
    let mut heads = vec![0; groups.len()];
    let name = |place: usize, at: usize| (groups[place].0.other(at), groups[place].0.edge_id(at));
    loop {
        let waiting = (0..groups.len()).filter(|place| heads[*place] < groups[*place].0.len());
        // The first of equals, which is the newest.
        let Some(place) = waiting.min_by_key(|place| name(*place, heads[*place])) else { return };
        let (group, age) = &groups[place];
        let at = heads[place];
        let next = name(place, at);
        for (older, head) in heads.iter_mut().enumerate().skip(place) {
            if *head < groups[older].0.len() && name(older, *head) == next {
                *head += 1;
            }
        }
        let (name, value) = (group.name(at), (!group.is_dead(at)).then(|| group.value(at)));
        if purge.keeps(number, &name, value.as_ref(), *age) {
            out.push((name, value));
        }
    }
}
