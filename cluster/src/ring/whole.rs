//! All that is held, for snapshots: reading it from enough replicas, and having all replicas hold it.

use std::{sync::Arc, time::Duration};

use allidb_index::{
    BRANCH, Deadline, EntityKey, EntityState, Error, HoldingsRequest, LEAVES, Replica, Result, Sum,
    TreeAnswer, TreeRequest, model::TenantId,
};

use super::{
    Ring, Terms,
    anti_entropy::{Compared, PATIENCE},
};
use crate::{coordinator::Consistency, layout::NodeId};

/// How long a replica may take to take some over.
pub(super) const TAKING: Duration = Duration::from_secs(30);

fn terms(deadline: Deadline) -> Terms {
    Terms { tenant: TenantId::DEFAULT, consistency: Consistency::One, deadline, may_be_partial: false }
}

impl Ring {
    /// So many replicas of a partition that one of them has heard of whatever was acknowledged by a quorum: those that are soon to answer, this node
    /// before others.
    pub(crate) fn enough(&self, partition: u16) -> Vec<NodeId> {
        let replicas = self.topology().layout().replicas(partition).to_vec();
        let needed = Consistency::Quorum.needed(replicas.len());
        self.0.order(&replicas).into_iter().rev().take(needed).collect()
    }

    /// All replicas of a partition.
    ///
    /// # Errors
    /// While they change.
    pub(crate) fn replicas(&self, partition: u16) -> Result<Vec<NodeId>> {
        match self.topology().next() {
            None => Ok(self.topology().layout().replicas(partition).to_vec()),
            Some(_) => {
                Err(Error::FailedPrecondition("the ring changes its shape; wait for its end".to_owned()))
            }
        }
    }

    /// Has two nodes hold what they hold together of partitions that both hold.
    ///
    /// # Errors
    /// If either does not answer, or some of it cannot be made the same.
    pub(crate) async fn make_alike(
        &self,
        nodes: [NodeId; 2],
        partitions: Vec<u16>,
        deadline: Deadline,
    ) -> Result<()> {
        let compared = match self.0.have_both_swept(nodes, deadline).await? {
            true => Compared::Everything,
            false => Compared::WhatIsThere,
        };
        let done = self.0.make_alike(nodes, (partitions, compared), deadline, |_| ()).await?;
        match done.failed {
            0 => Ok(()),
            failed => {
                Err(Error::Unavailable(format!("{failed} entities of {nodes:?} cannot be made the same")))
            }
        }
    }

    /// What the leaves of a partition's tree at a node come to.
    ///
    /// # Errors
    /// If it does not answer, or makes its trees.
    pub(crate) async fn leaf_sums(
        &self,
        node: NodeId,
        partition: u16,
        deadline: Deadline,
    ) -> Result<Vec<Sum>> {
        let request = TreeRequest::Leaves { partition, branches: (0..LEAVES / BRANCH).collect() };
        match Arc::clone(&self.0).answer_within(PATIENCE, node, request, terms(deadline)).await? {
            TreeAnswer::Sums(sums) if sums.len() == usize::from(LEAVES) => Ok(sums),
            _ => Err(Error::Unavailable(format!("node {node} answered something else than it was asked"))),
        }
    }

    /// A page of what a node holds.
    ///
    /// # Errors
    /// If it does not answer.
    pub(crate) async fn holdings(
        &self,
        node: NodeId,
        request: HoldingsRequest,
        deadline: Deadline,
    ) -> Result<Vec<(EntityKey, Vec<u8>)>> {
        Arc::clone(&self.0).answer_within(PATIENCE, node, request, terms(deadline)).await
    }

    /// Has all these nodes merge states, durably.
    ///
    /// # Errors
    /// If one does not.
    pub(crate) async fn have_hold(
        &self,
        nodes: &[NodeId],
        states: &[(EntityKey, EntityState)],
        deadline: Deadline,
    ) -> Result<()> {
        let read_at = self.replica().purged();
        for node in nodes {
            self.0.have_absorbed(*node, states.to_vec(), (read_at, TAKING, deadline)).await?;
        }
        Ok(())
    }

    /// Makes this node's trees, if they are not whole: of a node that is alone nobody asked for them before.
    ///
    /// # Errors
    /// If that cannot be done.
    pub(crate) async fn have_trees(&self) -> Result<()> {
        let tend = |replica: &Replica| {
            // Edges that a deletion left beneath a marker are at their other ends still.
            replica.sweep_beneath_markers()?;
            replica.build_trees()
        };
        self.tend(tend).await
    }
}
