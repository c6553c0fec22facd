//! Entities that are put and deleted at ONE, each by one client alone, while the ring falls into two sides that do not hear each other: what either side
//! acknowledged is there in the end, and what either deleted is not.

use std::collections::BTreeMap;

use allidb_cluster::{Consistency, Ring, WriteOptions};
use allidb_index::{
    Error, SeededRandom,
    model::{Entity, EntityRef, ReadMask, TenantId, Write},
};

use crate::node::{Node, draw, far, quorum};

/// What became of an entity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Nobody knows.
    Unknown,
    Put,
    Deleted,
}

/// All of them, and what each is to be in the end.
#[derive(Default)]
pub(crate) struct Sides(BTreeMap<String, Fate>);

impl Sides {
    /// How many were put, and how many deleted, for sure.
    pub(crate) fn counts(&self) -> [usize; 2] {
        [Fate::Put, Fate::Deleted].map(|fate| self.0.values().filter(|of| **of == fate).count())
    }

    pub(crate) fn names(&self) -> Vec<EntityRef> {
        self.0.keys().map(|id| EntityRef::new("c", id)).collect()
    }
}

impl Node {
    /// Puts another entity at ONE, or deletes one that this node's clients have put: their clock tells which came later.
    pub(crate) async fn write_on_its_side(&self, ring: &Ring, random: &SeededRandom) {
        let own = format!("side-{}-", self.at);
        let put: Vec<String> = {
            let sides = self.sides.lock();
            let put = sides.0.iter().filter(|(id, fate)| id.starts_with(&own) && **fate == Fate::Put);
            put.map(|(id, _)| id.clone()).collect()
        };
        let (id, write, fate) = match put.is_empty() || draw(random, 3) > 0 {
            true => {
                let id = format!("{own}{}", self.sides.lock().0.len());
                let entity = Entity { id: id.clone(), ..Entity::default() };
                (id, Write::Put { collection: "c".into(), entity: Box::new(entity) }, Fate::Put)
            }
            false => {
                let id = put[draw(random, put.len() as u64) as usize].clone();
                let name = EntityRef::new("c", &id);
                (id, Write::Delete(name), Fate::Deleted)
            }
        };
        self.sides.lock().0.insert(id.clone(), Fate::Unknown);
        let planned = ring.replica().plan(TenantId::DEFAULT, write).expect("a good write");
        let options = WriteOptions { consistency: Consistency::One, ..quorum() };
        let result = ring.write(vec![planned], options).await.pop().expect("one answer");
        let now = self.clock.elapsed();
        self.history.lock().note(now, format_args!("{} {fate:?} {id}: {result:?}", self.at));
        match result {
            Ok(_) => drop(self.sides.lock().0.insert(id, fate)),
            Err(Error::Unavailable(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }

    /// All is over, and everybody answers.
    pub(crate) async fn judge_sides(&self, ring: &Ring, consistency: Consistency) {
        let all: Vec<(String, Fate)> =
            self.sides.lock().0.iter().map(|(id, fate)| (id.clone(), *fate)).collect();
        for (id, fate) in all {
            let name = [EntityRef::new("c", &id)];
            let found =
                ring.get(TenantId::DEFAULT, &name, &ReadMask::fields(), consistency, far()).await.pop();
            let is_there = match found.expect("one answer") {
                Ok(_) => true,
                Err(Error::NotFound { .. }) => false,
                Err(error) => panic!("seed {}: nobody tells of {id}: {error}", self.seed),
            };
            let is_right = fate == Fate::Unknown || is_there == (fate == Fate::Put);
            let trace = || self.history.lock().end_of_all();
            assert!(is_right, "seed {}: {id} {fate:?}, and is there: {is_there}\n{}", self.seed, trace());
        }
    }
}
