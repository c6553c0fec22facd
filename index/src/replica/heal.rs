//! Healing from damage: what lies among damaged rows goes, with all that was derived from rows, and is taken over from other nodes that hold it.
//!
//! Nothing can be said of an entity some of whose rows cannot be read, nor of one that is beneath a tombstone that cannot: so whole partitions go.
//! It is noted durably which, in the batch with which they do: from then on this node has no say about them, until it holds again what enough
//! others hold. Indexes are made anew from rows when the replica opens after that.

use std::collections::BTreeMap;

use allidb_storage::{DamagedKeys, Direction, Durability, Engine, Keyspace, WriteBatch};

use super::{
    Extent, Replica,
    cleanup::of_entities,
    derive::mirrored,
    placement::{HEALING, SHARED, decode_partitions, encode_partitions},
};
use crate::{
    error::{Error, Result},
    graph::Side,
    keyspaces::Keyspaces,
    merge::EntityState,
    placement::PARTITIONS,
    row::{
        EntityKey,
        key::{collection_prefix, decode_token_row},
    },
    secondary::BUILT,
};

/// Which keys damage was found among since the start: the next one need not find it again.
pub(super) const DAMAGED: &[u8] = b"damaged";

/// Ends of edges that are restored at a time.
const ENDS_AT_A_TIME: usize = 128;

/// A keyspace's name, and the smallest and largest of its keys among which damage was found.
type Noted = (String, Vec<u8>, Vec<u8>);

/// What is derived from rows.
fn derived(keyspaces: &Keyspaces) -> [Keyspace; 8] {
    [
        keyspaces.posting,
        keyspaces.vector_log,
        keyspaces.vector_segment,
        keyspaces.text_log,
        keyspaces.text_segment,
        keyspaces.graph_log,
        keyspaces.graph_segment,
        keyspaces.merkle,
    ]
}

/// What is to go.
struct Loss {
    partitions: Vec<bool>,
    /// Whether it is not known any more which entity has which number.
    numbers: bool,
    tables: usize,
}

impl Loss {
    /// `None` if what is damaged is of this node alone.
    fn of(keyspaces: &Keyspaces, damaged: &[DamagedKeys]) -> Option<Self> {
        let partitions = vec![false; usize::from(PARTITIONS)];
        let mut loss = Self { partitions, numbers: false, tables: damaged.len() };
        for DamagedKeys { keyspace, smallest, largest } in damaged {
            if of_entities(keyspaces).contains(keyspace) {
                let [first, last] = [smallest, largest].map(|key| partition_of(key));
                loss.partitions.iter_mut().take(last + 1).skip(first).for_each(|is_lost| *is_lost = true);
            } else if *keyspace == keyspaces.number {
                // What indexes hold by numbers is of entities that nobody can name.
                loss.partitions.fill(true);
                loss.numbers = true;
            } else if !derived(keyspaces).contains(keyspace) {
                return None;
            }
        }
        Some(loss)
    }
}

/// The partition that a key begins with.
fn partition_of(key: &[u8]) -> usize {
    let partition = key.first_chunk().map_or(0, |partition| u16::from_be_bytes(*partition));
    usize::from(partition)
}

/// Lets go of whatever damage was found in, if other nodes hold it, too, or it is made from rows. Says whether there was anything.
///
/// # Errors
/// If it cannot be written.
///
/// At first only what was noted: whether others hold it, too, was asked then. What is found while it is opened goes as well if it cannot be opened
/// otherwise.
pub(super) fn begin(engine: &Engine, keyspaces: &Keyspaces, is_first: bool) -> Result<bool> {
    let mut damaged = noted(engine, keyspaces)?;
    if !is_first {
        damaged.extend(engine.damaged());
    }
    if damaged.is_empty() {
        return Ok(false);
    }
    let Some(loss) = Loss::of(keyspaces, &damaged) else {
        tracing::error!("rows of this node alone are damaged: only another node can take its place");
        return Ok(false);
    };
    let shared = decode_partitions(&engine.get(keyspaces.local, SHARED)?.unwrap_or_default());
    if loss.partitions.iter().zip(&shared).any(|(is_lost, is_shared)| *is_lost && !is_shared) {
        tracing::error!("rows are damaged that no other node holds: what needs them fails");
        return Ok(false);
    }
    let Loss { partitions, numbers, tables } = loss;
    let mut batch = WriteBatch::new();
    for partition in
        (0..PARTITIONS).filter(|partition| partitions.get(usize::from(*partition)) == Some(&true))
    {
        for keyspace in of_entities(keyspaces) {
            batch.delete_prefix(keyspace, partition.to_be_bytes().to_vec());
        }
    }
    if numbers {
        batch.delete_range(keyspaces.number, Vec::new(), None);
    }
    for keyspace in derived(keyspaces) {
        batch.delete_range(keyspace, Vec::new(), None);
    }
    batch.delete_prefix(keyspaces.local, BUILT.to_vec());
    batch.delete(keyspaces.local, DAMAGED);
    let before = decode_partitions(&engine.get(keyspaces.local, HEALING)?.unwrap_or_default());
    let healing: Vec<bool> = partitions.iter().zip(&before).map(|(now, before)| *now || *before).collect();
    batch.put(keyspaces.local, HEALING, encode_partitions(&healing));
    batch.use_reserve();
    engine.write(batch, Durability::Sync)?;
    // Nobody reads meanwhile: tables of which nothing is left go at once.
    engine.flush()?;
    engine.wait_idle()?;
    let count = |partitions: &[bool]| partitions.iter().filter(|is| **is).count();
    tracing::error!(
        tables,
        partitions = count(&partitions),
        "damaged rows are let go of: they are taken over from other nodes, and indexes are made anew"
    );
    match engine.damaged().iter().any(|stays| damaged.contains(stays)) {
        false => Ok(true),
        true => Err(Error::Internal("damaged tables stay though nothing of them is left".to_owned())),
    }
}

/// The keys among which damage was found before the start.
fn noted(engine: &Engine, keyspaces: &Keyspaces) -> Result<Vec<DamagedKeys>> {
    let Some(noted) = engine.get(keyspaces.local, DAMAGED)? else { return Ok(Vec::new()) };
    let noted: Vec<Noted> =
        postcard::from_bytes(&noted).map_err(|error| Error::corrupt("local", DAMAGED, error))?;
    let known = keyspaces.all();
    let damaged = noted.into_iter().filter_map(|(name, smallest, largest)| {
        let (keyspace, _) = known.iter().find(|(_, known)| *known == name)?;
        Some(DamagedKeys { keyspace: *keyspace, smallest: smallest.into(), largest: largest.into() })
    });
    Ok(damaged.collect())
}

impl Replica {
    /// The partitions that would go if this node healed from the damage that was found; `None` if none was, or it cannot heal.
    pub fn damaged_partitions(&self) -> Option<Vec<u16>> {
        let damaged = self.engine.damaged();
        let lost = Loss::of(&self.keyspaces, &damaged).filter(|_| !damaged.is_empty())?.partitions;
        let lost: Vec<u16> =
            (0..PARTITIONS).zip(lost).filter(|(_, is_lost)| *is_lost).map(|(of, _)| of).collect();
        lost.iter().all(|partition| self.placement.is_shared(*partition)).then_some(lost)
    }

    /// Notes the damage that was found: this node heals from it when it is opened again.
    ///
    /// # Errors
    /// If it cannot be noted.
    pub fn note_damage(&self) -> Result<()> {
        let damaged = self.engine.damaged();
        let name = |keyspace: Keyspace| {
            let known = self.keyspaces.all();
            known.iter().find(|(known, _)| *known == keyspace).map_or("", |(_, name)| *name).to_owned()
        };
        let noted: Vec<Noted> = damaged
            .into_iter()
            .map(|keys| (name(keys.keyspace), keys.smallest.to_vec(), keys.largest.to_vec()))
            .collect();
        let noted = postcard::to_allocvec(&noted)
            .map_err(|error| Error::Internal(format!("keys cannot be encoded: {error}")))?;
        let mut batch = WriteBatch::new();
        batch.put(self.keyspaces.local, DAMAGED, noted);
        batch.use_reserve();
        self.engine.write(batch, Durability::Sync)?;
        Ok(())
    }

    /// Partitions about which this node has no say, since what lay here of them was damaged.
    pub fn healing(&self) -> Vec<u16> {
        (0..PARTITIONS).filter(|partition| self.placement.is_healing(*partition)).collect()
    }

    /// Whether this node has no say about a partition.
    pub fn is_healing(&self, partition: u16) -> bool {
        self.placement.is_healing(partition)
    }

    /// Has entities of some partitions know of their edges what other entities here do, at the other ends: it may be that nobody else has heard of
    /// these edges.
    ///
    /// # Errors
    /// If rows cannot be read, or not be written.
    pub fn restore_ends(&self, partitions: &[u16]) -> Result<()> {
        let snapshot = self.engine.snapshot();
        let intact = (0..PARTITIONS).filter(|of| self.holds(*of) && !partitions.contains(of));
        let catalogue = self.catalogue();
        let catalogue = &catalogue;
        for (partition, (tenant, collection)) in
            intact.flat_map(|of| catalogue.owned().map(move |owned| (of, owned)))
        {
            let prefix = collection_prefix(partition, tenant, collection.id);
            let mut ends: BTreeMap<EntityKey, EntityState> = BTreeMap::new();
            for row in snapshot.prefix(self.keyspaces.token, &prefix, Direction::Forward)? {
                self.check_open()?;
                let (key, _) = row?;
                let entity = decode_token_row(&key).map_err(|error| Error::corrupt("token", &key, error))?;
                let edges = Extent { contents: false, edges: true };
                let Some(state) = self.held(std::slice::from_ref(&entity), edges)?.pop() else { continue };
                for side in [Side::Out, Side::In] {
                    for (edge, register) in state.edges_at(side) {
                        let (other, seen_from_there) = mirrored(&entity, edge);
                        if partitions.contains(&other.partition()) {
                            let end = ends.entry(other).or_default();
                            let edges = if side == Side::Out { &mut end.edges_in } else { &mut end.edges };
                            edges.insert(seen_from_there, register.clone());
                        }
                        if ends.len() >= ENDS_AT_A_TIME {
                            let some = std::mem::take(&mut ends).into_iter().collect();
                            self.absorb(some, self.purged(), Durability::None)?;
                        }
                    }
                }
                if ends.len() >= ENDS_AT_A_TIME {
                    self.absorb(
                        std::mem::take(&mut ends).into_iter().collect(),
                        self.purged(),
                        Durability::None,
                    )?;
                }
            }
            self.absorb(ends.into_iter().collect(), self.purged(), Durability::None)?;
        }
        Ok(())
    }

    /// Has this node have a say again about partitions, since it holds what enough others do.
    ///
    /// # Errors
    /// If that cannot be written.
    pub fn is_healed(&self, partitions: &[u16]) -> Result<()> {
        let still = |of: u16| self.placement.is_healing(of) && !partitions.contains(&of);
        let healing: Vec<bool> = (0..PARTITIONS).map(still).collect();
        let mut batch = WriteBatch::new();
        batch.put(self.keyspaces.local, HEALING, encode_partitions(&healing));
        batch.use_reserve();
        // With all that was taken over before.
        self.engine.write(batch, Durability::Sync)?;
        self.placement.is_healed(partitions);
        Ok(())
    }
}
