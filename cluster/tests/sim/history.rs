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

    /// Judges what a read of a key at QUORUM saw that began at `start` and ends now.
    pub(crate) fn judge(&mut self, (start, now): (u64, u64), key: usize, found: Option<&Entity>) {
        self.reads += 1;
        let writes = || self.written.iter().filter(|write| write.key == key);
        let acknowledged = writes().filter_map(|write| write.acknowledged.filter(|(at, _)| *at <= start));
        let seen = self.seen.iter().filter(|seen| seen.key == key && seen.end <= start);
        let floor = acknowledged.map(|(_, version)| version).chain(seen.map(|seen| seen.version)).max();
        let floor = floor.unwrap_or_default();
        let Some(entity) = found else {
            let may_hide = |write: &Written| {
                write.kind == Kind::Delete
                    && !write.refused
                    && write.issued <= now
                    && write.acknowledged.is_none_or(|(_, version)| version >= floor)
            };
            assert!(
                floor == Version::ZERO || writes().any(may_hide),
                "seed {}: at {now} key {key} is gone, though {floor:?} was written or seen before {start}",
                self.seed
            );
            return;
        };
        let version = entity.version;
        assert!(
            version >= floor,
            "seed {}: at {now} key {key} has version {version:?}, though {floor:?} was written or seen before {start}",
            self.seed
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
            assert!(!write.refused, "seed {}: key {key} has what was refused at step {step}", self.seed);
            assert_eq!(*told, value(self.seed, *step as usize), "seed {}: {entity:?}", self.seed);
        }
        self.seen.push(Seen { key, end: now, version });
    }
}
