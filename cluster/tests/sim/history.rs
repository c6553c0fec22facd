//! What clients did and saw. Values are a function of the seed and the step that wrote them, so that any can be judged as it is.

use std::fmt::Write as _;

use allidb_index::{
    Version,
    model::{Entity, Value},
};

/// What a write does to its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Put,
    Update,
    Delete,
}

#[derive(Clone, Debug)]
struct Written {
    key: usize,
    kind: Kind,
    version: Version,
    issued: u64,
    /// When it was acknowledged; `None`: never, or nobody knows.
    acknowledged: Option<u64>,
    /// Whether it was answered that there is no such entity.
    refused: bool,
}

#[derive(Clone, Debug)]
struct Seen {
    key: usize,
    end: u64,
    version: Version,
    /// Of the put that it was of.
    put: Version,
}

/// All that happened, and the trace of it.
#[derive(Debug, Default)]
pub(crate) struct History {
    seed: u64,
    written: Vec<Written>,
    seen: Vec<Seen>,
    pub(crate) trace: String,
    pub(crate) reads: u64,
    pub(crate) acknowledged: u64,
}

/// The value that a step writes.
pub(crate) fn value(seed: u64, step: usize) -> i64 {
    (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (step as u64).wrapping_mul(0xbf58_476d_1ce4_e5b9)) as i64 >> 1
}

impl History {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }

    pub(crate) fn note(&mut self, now: u64, what: std::fmt::Arguments<'_>) {
        writeln!(self.trace, "{now} {what}").expect("a string takes everything");
    }

    /// The step of the next write, and the seed that tells its values.
    pub(crate) fn next_step(&self) -> (usize, u64) {
        (self.written.len(), self.seed)
    }

    pub(crate) fn begin_write(&mut self, now: u64, key: usize, kind: Kind, version: Version) {
        let write = Written { key, kind, version, issued: now, acknowledged: None, refused: false };
        self.written.push(write);
    }

    pub(crate) fn acknowledge(&mut self, now: u64, step: usize) {
        self.acknowledged += 1;
        self.written[step].acknowledged = Some(now);
    }

    pub(crate) fn refuse(&mut self, step: usize) {
        self.written[step].refused = true;
    }

    /// The end of what happened to a key, for whoever has to find out why.
    pub(crate) fn end_of(&self, key: usize) -> String {
        let of_key = |line: &&str| line.contains(&format!(" key {key} ")) || !line.contains(" key ");
        let mut lines: Vec<&str> = self.trace.lines().rev().filter(of_key).take(25).collect();
        lines.reverse();
        lines.join("\n")
    }

    /// The end of all that happened.
    pub(crate) fn end_of_all(&self) -> String {
        let mut lines: Vec<&str> = self.trace.lines().rev().take(60).collect();
        lines.reverse();
        lines.join("\n")
    }

    /// Judges what a read of a key at QUORUM saw that began at `start` and ends now. Of what happened within the same millisecond nobody knows
    /// the order.
    pub(crate) fn judge(
        &mut self,
        (start, now): (u64, u64),
        key: usize,
        found: Option<&Entity>,
        has_chunks: bool,
    ) {
        self.reads += 1;
        let wrong = |what: std::fmt::Arguments<'_>| -> ! {
            panic!("seed {}: at {now}, since {start}, key {key} {what}\n{}", self.seed, self.end_of(key))
        };
        let writes =
            |kind: Kind| self.written.iter().filter(move |write| write.key == key && write.kind == kind);
        let acknowledged = |kind: Kind| {
            let before = writes(kind).filter(|write| write.acknowledged.is_some_and(|at| at < start));
            before.map(|write| write.version).max().unwrap_or_default()
        };
        let seen = || self.seen.iter().filter(|seen| seen.key == key && seen.end < start);
        let put = seen().map(|seen| seen.put).max().unwrap_or_default().max(acknowledged(Kind::Put));
        let Some(entity) = found else {
            // Only a put makes an entity exist: an update, however new, that a deletion came before revives nothing.
            let hides = |write: &Written| write.issued <= now && write.version >= put;
            if put != Version::ZERO && !writes(Kind::Delete).any(hides) {
                wrong(format_args!("is gone, though {put:?} was put or seen"));
            }
            return;
        };
        let step = |name: &str| {
            let Some(Value::Int(step)) = entity.attributes.get(name) else { return None };
            let write = &self.written[*step as usize];
            let told = Some(&Value::Int(value(self.seed, *step as usize)));
            if write.key != key || entity.attributes.get(&format!("{name} value")) != told {
                wrong(format_args!("has what nobody wrote: {entity:?}"));
            }
            Some((*step as usize, write))
        };
        let Some((put_step, of)) = step("put") else { wrong(format_args!("was never put: {entity:?}")) };
        if of.version < put || of.version < acknowledged(Kind::Delete) {
            wrong(format_args!(
                "is of {:?}, though {put:?} was put, {:?} deleted",
                of.version,
                acknowledged(Kind::Delete)
            ));
        }
        let updated = acknowledged(Kind::Update);
        let update = step("update").map(|(_, write)| write);
        if updated > of.version && update.is_none_or(|update| update.version < updated) {
            wrong(format_args!("lacks the update {updated:?}: {entity:?}"));
        }
        // A quorum may not have heard yet of a put that is under way, and some replica have.
        let is_under_way = |update: &Written| of.acknowledged.is_none_or(|at| at >= update.issued);
        // So may be a deletion: whoever refused the update had heard of it, and whoever was read had not yet.
        let is_going = writes(Kind::Delete).any(|delete| delete.issued <= now && delete.version > of.version);
        if update.is_some_and(|update| update.refused && !is_under_way(update) && !is_going) {
            wrong(format_args!("has an update that was refused: {entity:?}"));
        }
        if let Some(floor) = seen().map(|seen| seen.version).max().filter(|floor| entity.version < *floor) {
            wrong(format_args!("has version {:?}, and {floor:?} was seen", entity.version));
        }
        if has_chunks && entity.chunks.get("1").is_none_or(|chunk| chunk.text != text(self.seed, put_step)) {
            wrong(format_args!("has not the chunk that it was put with: {entity:?}"));
        }
        self.seen.push(Seen { key, end: now, version: entity.version, put: of.version });
    }
}

/// The text of the chunk that a step puts.
pub(crate) fn text(seed: u64, step: usize) -> String {
    format!("step {step} of {}", value(seed, step))
}
