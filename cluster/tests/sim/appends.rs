//! Writes on conditions: clients read a trail, and append to it if it is still as they read it. So whatever is ever read is the beginning of what
//! is read at last. And they make an entity with a value of its own if it is not there, and delete it if it is as they read it: what was deleted so
//! never comes back, whoever has not heard yet whether it was made.

use std::collections::BTreeSet;

use allidb_cluster::{Consistency, Ring};
use allidb_index::{
    Error, SeededRandom, Version,
    model::{Entity, EntityPatch, EntityRef, Precondition, ReadMask, TenantId, Value, Write},
};

use crate::node::{Node, draw, far, quorum};

/// Trails that clients append to.
pub(crate) const TRAILS: usize = 2;

/// What is known of one trail.
#[derive(Debug, Default)]
pub(crate) struct Trail {
    /// The longest that was read.
    longest: Vec<u64>,
    /// What was appended for sure.
    acknowledged: BTreeSet<u64>,
    /// What was not appended, nor will be.
    refused: BTreeSet<u64>,
}

/// All trails, and what the next append says.
#[derive(Debug, Default)]
pub(crate) struct Trails {
    next: u64,
    of: [Trail; TRAILS],
    /// Values that were deleted for sure, or never made.
    gone: BTreeSet<i64>,
}

impl Trails {
    /// How many appends were acknowledged.
    pub(crate) fn acknowledged(&self) -> usize {
        self.of.iter().map(|trail| trail.acknowledged.len()).sum()
    }
}

impl Trail {
    /// Whether it may read so, when so much was appended for sure before.
    fn judge(&mut self, read: &[u64], acknowledged: &BTreeSet<u64>) -> Result<(), String> {
        let told = || format!("the trail {read:?}, of which {:?} was read before", self.longest);
        let is_distinct = read.iter().collect::<BTreeSet<_>>().len() == read.len();
        let common = read.len().min(self.longest.len());
        if !is_distinct || read[..common] != self.longest[..common] {
            return Err(format!("appends did not come one after the other: {}", told()));
        }
        if let Some(lost) = acknowledged.iter().find(|append| !read.contains(append)) {
            return Err(format!("append {lost} was acknowledged, and is lost: {}", told()));
        }
        if let Some(made) = read.iter().find(|append| self.refused.contains(append)) {
            return Err(format!("append {made} was refused, and was made: {}", told()));
        }
        if read.len() > self.longest.len() {
            self.longest = read.to_vec();
        }
        Ok(())
    }
}

pub(crate) fn trail(at: usize) -> EntityRef {
    EntityRef::new("c", format!("trail-{at}"))
}

/// What is made and deleted.
pub(crate) fn passing() -> EntityRef {
    EntityRef::new("c", "passing")
}

fn appends(entity: &Entity) -> Vec<u64> {
    match entity.attributes.get("trail") {
        Some(Value::String(text)) => {
            text.split_terminator(' ').map(|append| append.parse().expect("a number")).collect()
        }
        other => panic!("a trail is {other:?}"),
    }
}

impl Node {
    /// Reads a trail, and judges it. `None`: too few replicas answer.
    async fn read_trail(&self, ring: &Ring, at: usize, consistency: Consistency) -> Option<Option<Entity>> {
        let acknowledged = self.trails.lock().of[at].acknowledged.clone();
        let mask = ReadMask::everything();
        let found = ring.get(TenantId::DEFAULT, &[trail(at)], &mask, consistency, far()).await.pop();
        let found = match found.expect("one answer") {
            Ok(entity) => Some(entity),
            Err(Error::NotFound { .. }) => None,
            Err(Error::Unavailable(_)) => return None,
            Err(error) => panic!("{error}"),
        };
        let read = found.as_ref().map(appends).unwrap_or_default();
        let now = self.clock.elapsed();
        self.history.lock().note(now, format_args!("{} reads trail {at}: {read:?}", self.at));
        let judged = self.trails.lock().of[at].judge(&read, &acknowledged);
        if let Err(why) = judged {
            panic!("seed {}: trail {at}: {why}\n{}", self.seed, self.history.lock().end_of_all());
        }
        Some(found)
    }

    /// Appends to a trail if nobody else does meanwhile.
    pub(crate) async fn append(&self, ring: &Ring, random: &SeededRandom) {
        let at = draw(random, TRAILS as u64) as usize;
        let Some(found) = self.read_trail(ring, at, Consistency::Quorum).await else { return };
        let append = {
            let mut trails = self.trails.lock();
            trails.next += 1;
            trails.next
        };
        let text = |before: Vec<u64>| -> String {
            before.into_iter().chain([append]).map(|append| format!("{append} ")).collect()
        };
        let (precondition, write) = match found {
            None => {
                let mut entity = Entity { id: trail(at).id, ..Entity::default() };
                entity.attributes.insert("trail".into(), Value::String(text(Vec::new())));
                (Precondition::Absent, Write::Put { collection: "c".into(), entity: Box::new(entity) })
            }
            Some(entity) => {
                let mut patch = EntityPatch::new(trail(at));
                patch.attributes.insert("trail".into(), Some(Value::String(text(appends(&entity)))));
                (Precondition::Version(entity.version), Write::Update(Box::new(patch)))
            }
        };
        let write = Write::If { precondition, write: Box::new(write) };
        let planned = ring.replica().plan(TenantId::DEFAULT, write).expect("a good write");
        let result = ring.write(vec![planned], quorum()).await.pop().expect("one answer");
        let now = self.clock.elapsed();
        self.history.lock().note(now, format_args!("{} appends {append} to trail {at}: {result:?}", self.at));
        let mut trails = self.trails.lock();
        match result {
            Ok(_) => drop(trails.of[at].acknowledged.insert(append)),
            Err(Error::VersionMismatch { .. } | Error::Exists { .. } | Error::NotFound { .. }) => {
                trails.of[at].refused.insert(append);
            }
            Err(Error::Unavailable(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }

    /// Reads what is made and deleted. `None`: too few replicas answer.
    async fn read_passing(&self, ring: &Ring, consistency: Consistency) -> Option<Option<(i64, Version)>> {
        let gone = self.trails.lock().gone.clone();
        let found = ring
            .get(TenantId::DEFAULT, &[passing()], &ReadMask::everything(), consistency, far())
            .await
            .pop();
        let found = match found.expect("one answer") {
            Ok(entity) => match entity.attributes.get("value") {
                Some(Value::Int(value)) => Some((*value, entity.version)),
                other => panic!("the value is {other:?}"),
            },
            Err(Error::NotFound { .. }) => None,
            Err(Error::Unavailable(_)) => return None,
            Err(error) => panic!("{error}"),
        };
        let now = self.clock.elapsed();
        self.history.lock().note(now, format_args!("{} reads {found:?} in passing", self.at));
        if let Some((value, _)) = found.filter(|(value, _)| gone.contains(value)) {
            panic!(
                "seed {}: value {value} was gone on a condition, and is back\n{}",
                self.seed,
                self.history.lock().end_of_all()
            );
        }
        Some(found)
    }

    /// Makes an entity if it is not there, or deletes it if it is as it was read.
    pub(crate) async fn pass(&self, ring: &Ring) {
        let Some(found) = self.read_passing(ring, Consistency::Quorum).await else { return };
        let (value, write) = match found {
            None => {
                let mut trails = self.trails.lock();
                trails.next += 1;
                let value = trails.next as i64;
                let mut entity = Entity { id: passing().id, ..Entity::default() };
                entity.attributes.insert("value".into(), Value::Int(value));
                let write = Write::Put { collection: "c".into(), entity: Box::new(entity) };
                (value, Write::If { precondition: Precondition::Absent, write: Box::new(write) })
            }
            Some((value, version)) => {
                let (precondition, write) =
                    (Precondition::Version(version), Box::new(Write::Delete(passing())));
                (value, Write::If { precondition, write })
            }
        };
        let planned = ring.replica().plan(TenantId::DEFAULT, write).expect("a good write");
        let result = ring.write(vec![planned], quorum()).await.pop().expect("one answer");
        let now = self.clock.elapsed();
        let what = if found.is_some() { "deletes" } else { "makes" };
        self.history.lock().note(now, format_args!("{} {what} {value} in passing: {result:?}", self.at));
        match (found, result) {
            (Some(_), Ok(_)) | (None, Err(Error::Exists { .. })) => {
                self.trails.lock().gone.insert(value);
            }
            (None, Ok(_))
            | (Some(_), Err(Error::VersionMismatch { .. }))
            | (_, Err(Error::Unavailable(_))) => {}
            (_, other) => panic!("{other:?}"),
        }
    }

    /// Reads all trails: everybody answers.
    pub(crate) async fn judge_trails(&self, ring: &Ring, consistency: Consistency) {
        for at in 0..TRAILS {
            let read = self.read_trail(ring, at, consistency).await;
            assert!(read.is_some(), "seed {}: nobody tells of trail {at}", self.seed);
        }
        let read = self.read_passing(ring, consistency).await;
        assert!(read.is_some(), "seed {}: nobody tells of what passes", self.seed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_follow_is_noticed() {
        let mut trail = Trail { refused: [9].into(), ..Trail::default() };
        let mut judge = |read: &[u64], acknowledged: &[u64]| {
            trail.judge(read, &acknowledged.iter().copied().collect()).err().unwrap_or_default()
        };
        assert_eq!(judge(&[1, 3], &[1]), "");
        assert_eq!(judge(&[1], &[1]), "", "a read under way may be older");
        assert!(judge(&[1, 2], &[]).contains("one after the other"));
        assert!(judge(&[1, 3, 3], &[]).contains("one after the other"));
        assert!(judge(&[1], &[3]).contains("is lost"));
        assert!(judge(&[1, 3, 9], &[]).contains("was refused"));
    }
}
