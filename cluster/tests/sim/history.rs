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
    /// As it was planned, or acknowledged.
    version: Version,
    /// It may have been made at a newer one, up to this.
    newest: Version,
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
    /// Of the put that it was of, at least.
    put: Version,
}

/// A key that was seen gone.
#[derive(Clone, Debug)]
struct Gone {
    key: usize,
    end: u64,
    /// It was deleted at this version, or a newer one.
    deleted: Version,
}

/// All that happened, and the trace of it.
#[derive(Debug, Default)]
pub(crate) struct History {
    seed: u64,
    written: Vec<Written>,
    seen: Vec<Seen>,
    gone: Vec<Gone>,
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
        let newest = Version::new(u64::MAX >> 16, 0, 0);
        let write = Written { key, kind, version, newest, issued: now, acknowledged: None, refused: false };
        self.written.push(write);
    }

    /// It is acknowledged at this version: above all that was acknowledged before it was issued.
    pub(crate) fn acknowledge(&mut self, now: u64, step: usize, version: Version) {
        self.acknowledged += 1;
        let (before, rest) = self.written.split_at_mut(step);
        let write = &mut rest[0];
        let is_before = |other: &&Written| {
            other.key == write.key && other.acknowledged.is_some_and(|at| at < write.issued)
        };
        if let Some(other) = before.iter().filter(is_before).find(|other| other.version > version) {
            let (other, write) = (other.clone(), write.clone());
            panic!(
                "seed {}: {other:?} was acknowledged before {write:?} was issued, which got {version:?}\n{}",
                self.seed,
                self.end_of(other.key)
            );
        }
        (write.acknowledged, write.version, write.newest) = (Some(now), version, version);
    }

    /// Nobody makes it at a newer version after this.
    pub(crate) fn give_up(&mut self, step: usize, newest: Version) {
        self.written[step].newest = newest;
    }

    pub(crate) fn refuse(&mut self, step: usize) {
        self.written[step].refused = true;
    }

    /// The end of what happened to a key, for whoever has to find out why.
    pub(crate) fn end_of(&self, key: usize) -> String {
        let of_key = |line: &&str| line.contains(&format!(" key {key} ")) || !line.contains(" key ");
        let mut lines: Vec<&str> = self.trace.lines().rev().filter(of_key).take(lines_told(25)).collect();
        lines.reverse();
        lines.join("\n")
    }

    /// The end of all that happened.
    pub(crate) fn end_of_all(&self) -> String {
        let mut lines: Vec<&str> = self.trace.lines().rev().take(lines_told(60)).collect();
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
            let hides = |write: &&Written| write.issued <= now && write.newest >= put;
            let deleted = writes(Kind::Delete).filter(hides).map(|delete| delete.version).min();
            if put != Version::ZERO && deleted.is_none() {
                wrong(format_args!("is gone, though {put:?} was put or seen"));
            }
            // Whatever hides it: it is no older than what was put before. If nothing is known to have been put, nothing need hide it.
            if let Some(deleted) = deleted.filter(|_| put != Version::ZERO) {
                self.gone.push(Gone { key, end: now, deleted: deleted.max(put) });
            }
            return;
        };
        let gone = self.gone.iter().filter(|gone| gone.key == key && gone.end < start);
        let gone = gone.map(|gone| gone.deleted).max().unwrap_or_default();
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
        if of.newest < put || of.newest < acknowledged(Kind::Delete) || of.newest < gone {
            wrong(format_args!(
                "is of {:?}, though {put:?} was put, {:?} deleted, and it was gone of {gone:?}",
                of.version,
                acknowledged(Kind::Delete)
            ));
        }
        let updated = acknowledged(Kind::Update);
        let update = step("update").map(|(_, write)| write);
        if updated > of.newest && update.is_none_or(|update| update.newest < updated) {
            wrong(format_args!("lacks the update {updated:?}: {entity:?}"));
        }
        // A quorum may not have heard yet of a put that is under way, and some replica have.
        let is_under_way = |update: &Written| of.acknowledged.is_none_or(|at| at >= update.issued);
        // So may be a deletion: whoever refused the update had heard of it, and whoever was read had not yet.
        let is_going = writes(Kind::Delete).any(|delete| delete.issued <= now && delete.newest > of.version);
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

/// What the judge is for is noticed.
mod tests {
    use super::*;

    const KEY: usize = 3;

    fn at(ms: u64) -> Version {
        Version::new(ms, 0, 1)
    }

    /// A history of writes, each issued at its version, acknowledged a millisecond later if it was.
    fn history(writes: &[(Kind, u64, bool)]) -> History {
        let mut history = History::new(7);
        for (step, (kind, ms, is_acknowledged)) in writes.iter().enumerate() {
            history.begin_write(*ms, KEY, *kind, at(*ms));
            match is_acknowledged {
                true => history.acknowledge(ms + 1, step, at(*ms)),
                false => history.give_up(step, at(*ms)),
            }
        }
        history
    }

    /// The entity as a put and an update, by their steps, leave it.
    fn entity(history: &History, put: usize, update: Option<usize>) -> Entity {
        let mut entity = Entity { version: history.written[put].version, ..Entity::default() };
        let mut set = |name: &str, step: usize| {
            entity.attributes.insert(name.to_owned(), Value::Int(step as i64));
            entity.attributes.insert(format!("{name} value"), Value::Int(value(7, step)));
            entity.version = entity.version.max(history.written[step].version);
        };
        set("put", put);
        if let Some(update) = update {
            set("update", update);
        }
        entity
    }

    #[test]
    fn what_may_be_is_not_judged() {
        let mut history =
            history(&[(Kind::Put, 10, true), (Kind::Update, 20, true), (Kind::Delete, 30, false)]);
        let whole = entity(&history, 0, Some(1));
        history.judge((40, 41), KEY, Some(&whole), false);
        history.judge((50, 51), KEY, None, false);
    }

    #[test]
    fn what_was_never_put_is_not_there_whatever_is_deleted() {
        let mut history = history(&[(Kind::Delete, 20, false)]);
        history.judge((25, 26), KEY, None, false);
        history.begin_write(27, KEY, Kind::Put, at(10));
        history.acknowledge(28, 1, at(10));
        let put = entity(&history, 1, None);
        history.judge((30, 31), KEY, Some(&put), false);
    }

    #[test]
    #[should_panic(expected = "is gone, though")]
    fn what_was_acknowledged_is_lost() {
        history(&[(Kind::Put, 10, true)]).judge((20, 21), KEY, None, false);
    }

    #[test]
    #[should_panic(expected = "was put, ")]
    fn an_older_put_is_read() {
        let mut history = history(&[(Kind::Put, 10, true), (Kind::Put, 20, true)]);
        let older = entity(&history, 0, None);
        history.judge((30, 31), KEY, Some(&older), false);
    }

    #[test]
    #[should_panic(expected = "lacks the update")]
    fn an_update_is_lost() {
        let mut history = history(&[(Kind::Put, 10, true), (Kind::Update, 20, true)]);
        let older = entity(&history, 0, None);
        history.judge((30, 31), KEY, Some(&older), false);
    }

    #[test]
    #[should_panic(expected = "deleted")]
    fn what_was_deleted_comes_back() {
        let mut history = history(&[(Kind::Put, 10, true), (Kind::Delete, 20, true)]);
        let older = entity(&history, 0, None);
        history.judge((30, 31), KEY, Some(&older), false);
    }

    #[test]
    #[should_panic(expected = "it was gone of")]
    fn what_was_seen_gone_comes_back() {
        let mut history = history(&[(Kind::Put, 10, true), (Kind::Delete, 20, false)]);
        let older = entity(&history, 0, None);
        history.judge((30, 31), KEY, None, false);
        history.judge((40, 41), KEY, Some(&older), false);
    }

    #[test]
    #[should_panic(expected = "was seen")]
    fn a_read_sees_less_than_the_one_before() {
        let mut history = history(&[(Kind::Put, 10, true), (Kind::Update, 20, false)]);
        let (newer, older) = (entity(&history, 0, Some(1)), entity(&history, 0, None));
        history.judge((30, 31), KEY, Some(&newer), false);
        history.judge((40, 41), KEY, Some(&older), false);
    }

    #[test]
    #[should_panic(expected = "has what nobody wrote")]
    fn a_value_is_of_nobody() {
        let mut history = history(&[(Kind::Put, 10, true)]);
        let mut other = entity(&history, 0, None);
        other.attributes.insert("put value".to_owned(), Value::Int(1));
        history.judge((30, 31), KEY, Some(&other), false);
    }

    #[test]
    #[should_panic(expected = "was acknowledged before")]
    fn a_later_write_gets_an_older_version() {
        let mut history = history(&[(Kind::Put, 10, true)]);
        history.begin_write(20, KEY, Kind::Put, at(5));
        history.acknowledge(21, 1, at(5));
    }
}

/// How many lines of what happened are told: `ALLIDB_SIM_LINES` if that is set.
fn lines_told(usually: usize) -> usize {
    std::env::var("ALLIDB_SIM_LINES").ok().and_then(|lines| lines.parse().ok()).unwrap_or(usually)
}
