//! Collections that clients create: each name once, whoever does, and what was acknowledged is there ever after.

use std::collections::BTreeMap;

use allidb_cluster::Ring;
use allidb_index::{
    Error, Replica, SeededRandom,
    model::{CollectionSpec, TenantId},
};

use crate::{
    history::History,
    node::{Node, draw, soon},
};

/// Names that they are given.
const NAMES: u64 = 12;

/// How often the creation of each was acknowledged.
#[derive(Default)]
pub(crate) struct Created(BTreeMap<String, usize>);

impl Node {
    /// Creates a collection, perhaps one that is there.
    pub(crate) async fn create(&self, ring: &Ring, random: &SeededRandom) {
        let name = format!("collection-{}", draw(random, NAMES));
        self.create_named(ring, name).await;
    }

    async fn create_named(&self, ring: &Ring, name: String) {
        let created = name.clone();
        let create = move |replica: &Replica| {
            replica.with_created(TenantId::DEFAULT, &created, CollectionSpec::default())
        };
        let result = ring.change_catalogue(soon(), create).await;
        self.history
            .lock()
            .note(self.clock.elapsed(), format_args!("{} creates {name}: {result:?}", self.at));
        match result {
            Ok(()) => *self.created.lock().0.entry(name).or_default() += 1,
            Err(Error::CollectionExists(_) | Error::Unavailable(_) | Error::DeadlineExceeded) => {}
            Err(error) => panic!("seed {}: {name} is not created: {error}", self.seed),
        }
    }

    /// All is over, and everybody answers: one more is created, and all that were are there.
    pub(crate) async fn judge_collections(&self, ring: &Ring) {
        let name = format!("last-{}", self.at);
        self.create_named(ring, name.clone()).await;
        let created = self.created.lock();
        assert!(created.0.contains_key(&name), "seed {}: nobody creates {name}", self.seed);
        for (name, times) in &created.0 {
            let is_there = ring.replica().collection(TenantId::DEFAULT, name).is_ok();
            let trace = || self.history.lock().end_of_all();
            assert!(is_there, "seed {}: {name} is lost: the collection\n{}", self.seed, trace());
            assert!(*times == 1, "seed {}: {name} was created {times} times\n{}", self.seed, trace());
        }
    }
}

/// Of one version there is one catalogue.
pub(crate) fn judge_alike(seed: u64, rings: impl Iterator<Item = Ring>, history: &History) {
    let mut known: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    for ring in rings {
        let (version, catalogue) = (ring.replica().catalogue_version(), ring.replica().encoded_catalogue());
        let first = known.entry(version).or_insert_with(|| catalogue.clone());
        assert!(
            *first == catalogue,
            "seed {seed}: two catalogues are of version {version}\n{}",
            history.end_of_all()
        );
    }
}
