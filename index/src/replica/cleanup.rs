//! Letting go of partitions that a node holds no more: their rows go, and what indexes know of them, as if they had never been here. Nobody hears
//! of it, and edges stay at their other ends.

use allidb_storage::{Direction, Durability, Keyspace, Snapshot, WriteBatch};

use super::{
    derive::{Changes, mirrored},
    placement::{LEFTOVERS, encode_partitions},
};
use crate::{
    error::{Error, Result},
    graph::{EdgeChange, GraphChange, Side},
    keyspaces::Keyspaces,
    merge::EntityState,
    merkle::place_of,
    placement::PARTITIONS,
    replica::{Extent, Replica},
    row::{
        EntityKey,
        key::{collection_prefix, decode_token_row},
    },
};

/// Entities that are let go of at a time.
const BATCH: usize = 128;

impl Replica {
    /// Partitions that only others hold by now, and of which something may lie here still.
    pub fn leftovers(&self) -> Vec<u16> {
        let is_left = |partition: &u16| self.placement.is_left(*partition);
        (0..PARTITIONS).filter(is_left).collect()
    }

    /// Removes what lies here of a partition that only others hold. Gives how many entities it was.
    ///
    /// # Errors
    /// If this node holds it, or rows cannot be read or removed; what was removed until then is gone.
    pub fn let_go_of(&self, partition: u16) -> Result<u64> {
        self.check_elsewhere(partition)?;
        let mut count = 0;
        let snapshot = self.engine.snapshot();
        for (tenant, collection) in self.catalogue().owned() {
            let prefix = collection_prefix(partition, tenant, collection.id);
            let mut some = Vec::with_capacity(BATCH);
            for row in snapshot.prefix(self.keyspaces.token, &prefix, Direction::Forward)? {
                self.check_open()?;
                let (key, _) = row?;
                some.push(decode_token_row(&key).map_err(|error| Error::corrupt("token", &key, error))?);
                if some.len() == BATCH {
                    count += self.let_go(&std::mem::take(&mut some))?;
                }
            }
            count += self.let_go(&some)?;
        }
        self.check_elsewhere(partition)?;
        // What has no name that replicas compare: rows beneath markers, and acceptors.
        let mut batch = WriteBatch::new();
        for keyspace in of_entities(&self.keyspaces) {
            batch.delete_prefix(keyspace, partition.to_be_bytes().to_vec());
        }
        batch.use_reserve();
        self.engine.write(batch, Durability::Sync)?;
        let left: Vec<bool> =
            (0..PARTITIONS).map(|of| of != partition && self.placement.is_left(of)).collect();
        let mut batch = WriteBatch::new();
        batch.put(self.keyspaces.local, LEFTOVERS, encode_partitions(&left));
        batch.use_reserve();
        self.engine.write(batch, Durability::Sync)?;
        self.placement.is_let_go(partition);
        Ok(count)
    }

    /// Another topology may have come meanwhile.
    fn check_elsewhere(&self, partition: u16) -> Result<()> {
        match self.holds(partition) {
            true => Err(Error::FailedPrecondition(format!("partition {partition} is held here"))),
            false => Ok(()),
        }
    }

    fn let_go(&self, entities: &[EntityKey]) -> Result<u64> {
        let Some(first) = entities.first() else { return Ok(0) };
        self.check_elsewhere(first.partition())?;
        let _gate = self.catalogue_gate.read();
        let catalogue = self.catalogue();
        let _latched = self.latches.acquire(entities.iter());
        let mut following = self.trees.enter();
        let (snapshot, mut batch) = (self.engine.snapshot(), WriteBatch::new());
        let mut changes = Changes::default();
        (changes.lets_go, changes.sums) = (true, following.sums.take());
        let states = self.held(entities, Extent::ALL)?;
        for (entity, before) in entities.iter().zip(&states) {
            if let Some(sums) = &mut changes.sums {
                sums.subtract_sum(place_of(entity), self.sum_of(&snapshot, entity)?);
            }
            self.write_indexed(
                &catalogue,
                entity,
                before,
                &EntityState::default(),
                &mut batch,
                &mut changes,
            )?;
            self.let_go_of_edges(entity, before, &mut changes)?;
            self.remove_rows(&snapshot, entity, &mut batch)?;
        }
        batch.use_reserve();
        self.commit_changes(batch, changes, entities.to_vec(), following, Durability::None)?;
        Ok(entities.len() as u64)
    }

    /// Has the graph know edges by their other ends alone.
    fn let_go_of_edges(&self, entity: &EntityKey, before: &EntityState, changes: &mut Changes) -> Result<()> {
        for side in [Side::Out, Side::In] {
            for (edge, _) in before.edges_at(side).iter().filter(|(_, register)| register.value.is_some()) {
                let (other, _) = mirrored(entity, edge);
                let numbers = (
                    self.entity_number(entity, changes)?,
                    self.entity_number(&other, changes)?,
                    self.graph.relations.get(&edge.relation),
                );
                let (Some(number), Some(other), Some(relation)) = numbers else { continue };
                let (from, to) = if side == Side::Out { (number, other) } else { (other, number) };
                let sides = if side == Side::Out { [Some(None), None] } else { [None, Some(None)] };
                let (writing, edge_id) = (self.graph.begin_write(), edge.edge_id.as_str().into());
                changes.graph.push(GraphChange::Edge(EdgeChange {
                    writing,
                    from,
                    to,
                    relation,
                    edge_id,
                    sides,
                }));
            }
        }
        Ok(())
    }

    fn remove_rows(&self, snapshot: &Snapshot, entity: &EntityKey, batch: &mut WriteBatch) -> Result<()> {
        let prefix = entity.prefix();
        for keyspace in of_entities(&self.keyspaces) {
            for row in snapshot.prefix(keyspace, &prefix, Direction::Forward)? {
                batch.delete(keyspace, row?.0.to_vec());
            }
        }
        batch.delete(self.keyspaces.token, entity.token_row());
        Ok(())
    }
}

/// Where rows lie under the names of their entities.
pub(super) fn of_entities(keyspaces: &Keyspaces) -> [Keyspace; 8] {
    [
        keyspaces.entity,
        keyspaces.chunk,
        keyspaces.vector,
        keyspaces.history,
        keyspaces.edge,
        keyspaces.edge_in,
        keyspaces.paxos,
        keyspaces.token,
    ]
}
