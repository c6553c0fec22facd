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
    issued: u64,
    /// When it was acknowledged, and with which version; `None`: never, or nobody knows.
    acknowledged: Option<(u64, Version)>,
    /// Whether it is known that it was not made.
    refused: bool,
}

#[derive(Clone, Debug)]
struct Seen {
    key: usize,
    end: u64,
    version: Version,
    /// The step that put it.
    put: Option<usize>,
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

    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    pub(crate) fn note(&mut self, now: u64, what: std::fmt::Arguments<'_>) {
        writeln!(self.trace, "{now} {what}").expect("a string takes everything");
    }

    /// A write begins; gives its step.
    pub(crate) fn begin_write(&mut self, now: u64, key: usize, kind: Kind) -> usize {
        self.written.push(Written { key, kind, issued: now, acknowledged: None, refused: false });
        self.written.len() - 1
    }

    pub(crate) fn acknowledge(&mut self, now: u64, step: usize, version: Version) {
        self.acknowledged += 1;
        self.written[step].acknowledged = Some((now, version));
    }

    pub(crate) fn refuse(&mut self, step: usize) {
        self.written[step].refused = true;
    }

    /// The end of what happened to a key, for whoever has to find out why.
    fn end_of(&self, key: usize) -> String {
        let of_key = |line: &&str| line.contains(&format!(" key {key} ")) || !line.contains(" key ");
        let mut lines: Vec<&str> = self.trace.lines().rev().filter(of_key).take(25).collect();
        lines.reverse();
        lines.join("\n")
    }

    /// Judges what a read of a key at QUORUM saw that began at `start` and ends now. Of what happened within the same millisecond nobody knows
    /// the order.
    pub(crate) fn judge(&mut self, (start, now): (u64, u64), key: usize, found: Option<&Entity>) {
        self.reads += 1;
        let writes = || self.written.iter().filter(|write| write.key == key);
        let before =
            |write: &Written| write.acknowledged.filter(|(at, _)| *at < start).map(|(_, version)| version);
        let seen = || self.seen.iter().filter(|seen| seen.key == key && seen.end < start);
        let Some(entity) = found else {
            // Only a put makes an entity exist: an update, however new, that a deletion came before revives nothing.
            let puts = writes().filter(|write| write.kind == Kind::Put).filter_map(before);
            let put_of_seen =
                |seen: &Seen| self.written.get(seen.put?)?.acknowledged.map(|(_, version)| version);
            let floor = puts.chain(seen().filter_map(put_of_seen)).max();
            let may_hide = |write: &Written| {
                write.kind == Kind::Delete
                    && !write.refused
                    && write.issued <= now
                    && write.acknowledged.is_none_or(|(_, version)| Some(version) >= floor)
            };
            assert!(
                floor.is_none() || writes().any(may_hide),
                "seed {}: at {now} key {key} is gone, though {floor:?} was put or seen before {start}\n{}",
                self.seed,
                self.end_of(key)
            );
            return;
        };
        let floor =
            writes().filter_map(before).chain(seen().map(|seen| seen.version)).max().unwrap_or_default();
        let version = entity.version;
        assert!(
            version >= floor,
            "seed {}: at {now} key {key} has version {version:?}, though {floor:?} was written or seen before {start}\n{}",
            self.seed,
            self.end_of(key)
        );
        for (step, told) in [("put", "put value"), ("update", "update value")] {
            let (Some(Value::Int(step)), Some(Value::Int(told))) =
                (entity.attributes.get(step), entity.attributes.get(told))
            else {
                assert!(
                    !entity.attributes.contains_key(step) && !entity.attributes.contains_key(told),
                    "{entity:?}"
                );
                continue;
            };
            let write = self.written.get(*step as usize).expect("a step that was taken");
            assert_eq!(write.key, key, "seed {}: key {key} has what was written to another", self.seed);
            // A quorum may not have heard yet of the put that is under way, and some replica have.
            let put = entity.attributes.get("put");
            let put =
                put.and_then(
                    |put| if let Value::Int(put) = put { self.written.get(*put as usize) } else { None },
                );
            let is_under_way = |put: &Written| put.acknowledged.is_none_or(|(at, _)| at >= write.issued);
            assert!(
                !write.refused || put.is_some_and(is_under_way),
                "seed {}: key {key} has what was refused at step {step}\n{}",
                self.seed,
                self.end_of(key)
            );
            assert_eq!(*told, value(self.seed, *step as usize), "seed {}: {entity:?}", self.seed);
        }
        let put = match entity.attributes.get("put") {
            Some(Value::Int(step)) => Some(*step as usize),
            _ => None,
        };
        self.seen.push(Seen { key, end: now, version, put });
    }
}
