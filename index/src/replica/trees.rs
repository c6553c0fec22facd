//! What the trees say of what lies here, and what lies here of what they say.

use std::{ops::Bound, sync::atomic::Ordering};

use allidb_storage::{Direction, Keyspace, Snapshot};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    catalogue::DROPPED,
    codec::Decoder,
    deadline::Deadline,
    error::{Error, Result},
    merkle::{BRANCH, Kind, LEAVES, Place, Sum, Sums, cleared, place_of, tokens_of},
    model::TenantId,
    placement::PARTITIONS,
    replica::Replica,
    row::{
        EntityKey, EntityRow,
        key::{collection_prefix, decode_entity, decode_token_row},
        register_version,
    },
    version::Version,
};

/// What another replica asks of the trees.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum TreeRequest {
    /// Up to where deletions were forgotten.
    Swept,
    /// The roots of some partitions' trees.
    Roots(Vec<u16>),
    /// All branches of a partition's tree.
    Branches(u16),
    /// The leaves of some branches.
    Leaves {
        /// Of which partition.
        partition: u16,
        /// Which branches.
        branches: Vec<u16>,
    },
    /// What is in some leaves.
    Entities {
        /// Of which partition.
        partition: u16,
        /// Which leaves.
        leaves: Vec<u16>,
    },
}

/// What it is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum TreeAnswer {
    /// Up to where deletions were forgotten, and whether that is all that is to be.
    Swept {
        /// Up to where.
        upto: Version,
        /// Whether nothing is being removed, nor to be.
        is_done: bool,
        /// Up to where nothing is taken any more.
        closed: Version,
    },
    /// In the order of what was asked for.
    Sums(Vec<Sum>),
    /// Entities, those that were deleted too, and what the rows of each come to.
    Entities(Vec<(EntityKey, Sum)>),
}

impl Replica {
    /// Makes the trees of what lies here, unless they are whole: after an upgrade, or after something was dropped. Takes as long as reading
    /// everything does; what is written meanwhile is in them.
    ///
    /// # Errors
    /// If rows cannot be read, or trees not be written.
    pub fn build_trees(&self) -> Result<()> {
        if self.trees.is_whole() {
            return Ok(());
        }
        let _building = self.building_trees.lock();
        // What is being removed is in no tree, and the trees would not hear of it.
        if self.trees.is_whole() || self.is_sweeping()? {
            return Ok(());
        }
        let (snapshot, begun) = self.trees.begin(&self.engine, seed_of(self.cursor_key()))?;
        let mut sums = self.trees.fresh();
        // Also of what is to go from here: what is removed is taken out of them.
        for partition in 0..PARTITIONS {
            self.add_partition(&snapshot, partition, &mut sums)?;
        }
        self.trees.fill(&self.engine, &sums, begun)
    }

    /// Saves the trees if much has changed.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn save_trees(&self) -> Result<()> {
        match self.trees.is_due() {
            true => self.trees.save(&self.engine),
            false => Ok(()),
        }
    }

    /// What the trees say.
    ///
    /// # Errors
    /// [`Error::Unavailable`] while they are being made; if rows cannot be read.
    pub fn tree(&self, _: TenantId, request: &TreeRequest, deadline: Deadline) -> Result<TreeAnswer> {
        if !self.trees.is_whole() {
            return Err(Error::Unavailable("the trees of what lies here are being made".to_owned()));
        }
        Ok(match request {
            TreeRequest::Swept => {
                let upto = self.swept();
                TreeAnswer::Swept { upto, is_done: upto == self.purged(), closed: self.closed() }
            }
            TreeRequest::Roots(partitions) => {
                TreeAnswer::Sums(partitions.iter().map(|of| self.root(*of)).collect())
            }
            TreeRequest::Branches(partition) => TreeAnswer::Sums(self.branches(*partition)),
            TreeRequest::Leaves { partition, branches } => {
                TreeAnswer::Sums(self.leaves(*partition, branches))
            }
            TreeRequest::Entities { partition, leaves } => {
                TreeAnswer::Entities(self.in_leaves(*partition, leaves, deadline)?)
            }
        })
    }

    /// The root of a partition's tree.
    fn root(&self, partition: u16) -> Sum {
        self.trees.tree(partition).map(|tree| Sum::total(&tree)).unwrap_or_default()
    }

    /// All branches of a partition's tree, in their order.
    fn branches(&self, partition: u16) -> Vec<Sum> {
        match self.trees.tree(partition) {
            None => vec![Sum::default(); usize::from(LEAVES / BRANCH)],
            Some(tree) => tree.chunks(usize::from(BRANCH)).map(Sum::total).collect(),
        }
    }

    /// The leaves of some branches of a partition's tree, in their order.
    fn leaves(&self, partition: u16, branches: &[u16]) -> Vec<Sum> {
        let tree = self.trees.tree(partition);
        let leaves = branches.iter().flat_map(|branch| {
            let first = branch.saturating_mul(BRANCH);
            first..first.saturating_add(BRANCH)
        });
        let leaf = |leaf: u16| tree.as_ref().and_then(|tree| tree.get(usize::from(leaf)).copied());
        leaves.map(|at| leaf(at).unwrap_or_default()).collect()
    }

    /// What is in some leaves of a partition's tree: entities, those that were deleted too, and what the rows of each come to.
    ///
    /// # Errors
    /// If rows cannot be read.
    fn in_leaves(&self, partition: u16, leaves: &[u16], deadline: Deadline) -> Result<Vec<(EntityKey, Sum)>> {
        let (snapshot, catalogue) = (self.engine.snapshot(), self.catalogue());
        let mut found = Vec::new();
        for leaf in leaves {
            let (first, last) = tokens_of((partition, *leaf));
            for (tenant, collection) in catalogue.owned() {
                let prefix = collection_prefix(partition, tenant, collection.id);
                let bound = |token: u64| [&prefix[..], &token.to_be_bytes()].concat();
                let (lower, upper) = (bound(first), [bound(last), vec![u8::MAX]].concat());
                let (lower, upper) = (Bound::Included(&lower[..]), Bound::Included(&upper[..]));
                for row in snapshot.scan(self.keyspaces.token, lower, upper, Direction::Forward)? {
                    deadline.check()?;
                    let (key, _) = row?;
                    let entity =
                        decode_token_row(&key).map_err(|error| Error::corrupt("token", &key, error))?;
                    let sum = self.sum_of(&snapshot, &entity)?;
                    found.push((entity, sum));
                }
            }
        }
        Ok(found)
    }

    /// The leaves of a partition's tree that are not what its rows come to.
    ///
    /// # Errors
    /// If rows cannot be read.
    pub fn check_tree(&self, partition: u16) -> Result<Vec<u16>> {
        let (snapshot, tree) = self.trees.as_of_now(&self.engine, partition);
        let mut sums = self.trees.fresh();
        self.add_partition(&snapshot, partition, &mut sums)?;
        let is = |leaf: u16| sums.by_place.get(&(partition, leaf)).copied().unwrap_or_default();
        let kept = |leaf: u16| tree.as_ref().and_then(|tree| tree.get(usize::from(leaf)).copied());
        Ok((0..LEAVES).filter(|leaf| is(*leaf) != kept(*leaf).unwrap_or_default()).collect())
    }

    /// Compares a partition's tree with what its rows come to. If it is not that, all trees are forgotten, to be made anew. Gives the leaves that
    /// were wrong.
    ///
    /// # Errors
    /// If rows cannot be read.
    pub fn verify_tree(&self, partition: u16) -> Result<Vec<u16>> {
        if !self.trees.is_whole() || self.is_sweeping()? {
            return Ok(Vec::new());
        }
        let wrong = self.check_tree(partition)?;
        if !wrong.is_empty() {
            self.forget_trees(self.cursor_key())?;
        }
        Ok(wrong)
    }

    /// Forgets the trees: much goes that they are not told of. They are made anew by [`build_trees`](Self::build_trees).
    pub(super) fn forget_trees(&self, seed: [u8; 32]) -> Result<()> {
        self.trees.forget(&self.engine, seed_of(seed))
    }

    /// Whether rows of something dropped are still being removed.
    fn is_sweeping(&self) -> Result<bool> {
        let dropped = self.engine.snapshot().prefix(self.keyspaces.cluster, DROPPED, Direction::Forward)?;
        Ok(dropped.take(1).count() > 0)
    }

    pub(super) fn sum_of(&self, snapshot: &Snapshot, entity: &EntityKey) -> Result<Sum> {
        let (place, prefix) = (place_of(entity), entity.prefix());
        let mut sums = self.trees.fresh();
        let row = self.row_of(snapshot, entity)?;
        sums.add_entity(place, entity, &row);
        for (kind, keyspace, name) in self.kinds() {
            for of_entity in snapshot.prefix(keyspace, &prefix, Direction::Forward)? {
                let of_entity = of_entity?;
                add_row(&mut sums, place, (kind, name), &row, &of_entity)?;
            }
        }
        Ok(sums.by_place.remove(&place).unwrap_or_default())
    }

    pub(super) fn check_open(&self) -> Result<()> {
        match self.closed.load(Ordering::Acquire) {
            true => Err(Error::FailedPrecondition("the replica is closing".into())),
            false => Ok(()),
        }
    }

    pub(super) fn row_of(&self, snapshot: &Snapshot, entity: &EntityKey) -> Result<EntityRow> {
        let key = entity.prefix();
        match snapshot.get(self.keyspaces.entity, &key)? {
            None => Ok(EntityRow::default()),
            Some(bytes) => EntityRow::decode(&bytes).map_err(|error| Error::corrupt("entity", &key, error)),
        }
    }

    /// What lies beside the rows of entities.
    pub(super) fn kinds(&self) -> [(Kind, Keyspace, &'static str); 4] {
        [
            (Kind::Chunk, self.keyspaces.chunk, "chunk"),
            (Kind::Vector, self.keyspaces.vector, "vector"),
            (Kind::Edge, self.keyspaces.edge, "edge"),
            (Kind::EdgeIn, self.keyspaces.edge_in, "edge_in"),
        ]
    }

    fn add_partition(&self, snapshot: &Snapshot, partition: u16, sums: &mut Sums) -> Result<()> {
        for (tenant, collection) in self.catalogue().owned() {
            let prefix = collection_prefix(partition, tenant, collection.id);
            for row in snapshot.prefix(self.keyspaces.entity, &prefix, Direction::Forward)? {
                self.check_open()?;
                let (key, bytes) = row?;
                let corrupt = |error| Error::corrupt("entity", &key, error);
                let entity = decode_entity(&mut Decoder::new(&key)).map_err(corrupt)?;
                let row = EntityRow::decode(&bytes).map_err(corrupt)?;
                sums.add_entity(place_of(&entity), &entity, &row);
            }
            for (kind, keyspace, name) in self.kinds() {
                // Rows of an entity are neighbours.
                let mut of: Option<(EntityKey, EntityRow)> = None;
                for row in snapshot.prefix(keyspace, &prefix, Direction::Forward)? {
                    self.check_open()?;
                    let row = row?;
                    let entity = decode_entity(&mut Decoder::new(&row.0))
                        .map_err(|error| Error::corrupt(name, &row.0, error))?;
                    let (entity, its_row) = match of.take().filter(|(of, _)| *of == entity) {
                        Some(of) => of,
                        None => {
                            let its_row = self.row_of(snapshot, &entity)?;
                            (entity, its_row)
                        }
                    };
                    add_row(sums, place_of(&entity), (kind, name), &its_row, &row)?;
                    of = Some((entity, its_row));
                }
            }
        }
        Ok(())
    }
}

/// How the trees of a ring hash: as all of its nodes do, and nobody else knows.
pub(super) fn seed_of(cursor_key: [u8; 32]) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = cursor_key;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

fn add_row(
    sums: &mut Sums,
    place: Place,
    (kind, name): (Kind, &'static str),
    of: &EntityRow,
    (key, bytes): &(Bytes, Bytes),
) -> Result<()> {
    let version = register_version(bytes).map_err(|error| Error::corrupt(name, key, error))?;
    if version > cleared(of, kind) {
        sums.add_row(place, kind, key, bytes);
    }
    Ok(())
}
