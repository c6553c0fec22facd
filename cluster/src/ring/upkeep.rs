//! What a node of a ring does of its own accord: it follows who is where, takes over newer catalogues, and delivers what it keeps for others.

use std::{cmp::Reverse, sync::Arc, time::Duration};

use allidb_index::Deadline;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use super::Ring;
use crate::{
    layout::Member,
    membership::{Membership, NodeView},
};

/// How often each is looked after.
const EVERY: Duration = Duration::from_millis(500);
/// How often a node that starts looks for the others.
const FIND_EVERY: Duration = Duration::from_millis(50);
/// How long one delivery may go on.
const DELIVERY: Duration = Duration::from_secs(30);

impl Ring {
    /// Looks after the ring until it is aborted.
    pub(crate) fn keep_up(&self, membership: Arc<Membership>) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        let (ring, gossip) = (self.clone(), Arc::clone(&membership));
        tasks.spawn(async move {
            loop {
                ring.follow(&gossip).await;
                sleep(EVERY).await;
            }
        });
        let ring = self.clone();
        tasks.spawn(async move {
            loop {
                if let Err(error) = ring.deliver_outbox(Deadline::after(DELIVERY)).await {
                    tracing::warn!(%error, "what follows from writes here is not yet known where it belongs");
                }
                sleep(EVERY).await;
            }
        });
        for member in self.layout().members() {
            let (ring, node) = (self.clone(), member.node);
            tasks.spawn(async move {
                loop {
                    if ring.has_hints(node)
                        && !ring.0.served.peers.is_paused(node)
                        && let Err(error) = ring.deliver_hints(node, Deadline::after(DELIVERY)).await
                    {
                        tracing::debug!(%node, %error, "writes that are kept for a node wait on");
                    }
                    sleep(EVERY).await;
                }
            });
        }
        tasks
    }

    /// Waits until it is known where all members are, not longer than `within`; from those that are there the newest catalogue is taken over.
    pub(crate) async fn find_members(&self, membership: &Membership, within: Duration) {
        let begun = Instant::now();
        let is_known =
            |member: &Member| member.node == self.node() || self.0.served.peers.get(member.node).is_ok();
        loop {
            self.follow(membership).await;
            if self.layout().members().iter().all(is_known) || begun.elapsed() >= within {
                return;
            }
            sleep(FIND_EVERY).await;
        }
    }

    /// Follows where members are, and what the catalogue is.
    async fn follow(&self, membership: &Membership) {
        let served = &self.0.served;
        membership.goes_by(served.layout.digest(), served.replica.catalogue_version()).await;
        let nodes = membership.nodes().await;
        let is_other = |view: &&NodeView| {
            view.node != served.node && served.layout.members().iter().any(|member| member.node == view.node)
        };
        for view in nodes.iter().filter(is_other) {
            if let Err(error) = served.peers.is_at(view.node, &view.address) {
                tracing::warn!(node = %view.node, address = view.address, %error, "a node says it is where nothing can be");
            }
        }
        let mut newer: Vec<&NodeView> = nodes.iter().filter(|view| is_other(view) && view.is_alive).collect();
        newer.sort_by_key(|view| Reverse(view.catalogue));
        for view in newer {
            if view.catalogue <= served.replica.catalogue_version() {
                return;
            }
            match self.pull_catalogue(view.node, Deadline::after(DELIVERY)).await {
                Ok(true) => {
                    tracing::info!(from = %view.node, version = view.catalogue, "took over the catalogue")
                }
                Ok(false) => {}
                Err(error) => tracing::warn!(from = %view.node, %error, "cannot take over the catalogue"),
            }
        }
    }
}
