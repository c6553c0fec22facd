//! The catalogue of the ring: one node decides, all hold it.
//!
//! The member with the lowest id decides, so that two changes at once do not overwrite each other; a change that was not made to what it has
//! is made anew. A node that missed a change takes the catalogue over from one that has it, and until then refuses calls that were made
//! under the newer one.

use std::{sync::Arc, time::Duration};

use allidb_index::{Deadline, Error, Replica, Result};
use bytes::Bytes;
use tokio::{task::JoinSet, time::Instant};

use super::{Ring, count, quorum::Quorum};
use crate::{
    coordinator::Consistency,
    layout::NodeId,
    peer::{
        Client, Served,
        proto::{AdoptCatalogueRequest, ChangeCatalogueRequest, ReadCatalogueRequest},
    },
};

/// How long a change may take to reach a quorum.
pub(crate) const DECISION: Duration = Duration::from_secs(10);
/// How often a change is made anew that others came before.
const TRIES: usize = 16;

impl Ring {
    /// Changes the catalogue on a quorum of the members, and on the others as soon as they can be reached. `change` gives what it is to be
    /// from what it is.
    ///
    /// # Errors
    /// What `change` says; and [`Error::Unavailable`] if too few can be reached: it may be made then, or may be later.
    pub async fn change_catalogue(
        &self,
        deadline: Deadline,
        change: impl Fn(&Replica) -> Result<Vec<u8>> + Clone + Send + 'static,
    ) -> Result<()> {
        let served = &self.0.served;
        for _ in 0..TRIES {
            deadline.check()?;
            let change = change.clone();
            let next = self.0.here(move |served| change(&served.replica)).await?;
            let instead = match served.decides() {
                Some(node) if node == served.node => served.decide(next.clone(), deadline).await?,
                Some(node) => {
                    let catalogue: Bytes = next.clone().into();
                    let ask = |mut peer: Client, fence| {
                        let request = ChangeCatalogueRequest { fence, catalogue: catalogue.clone() };
                        async move { peer.change_catalogue(request).await }
                    };
                    let reply = served.call_within(DECISION, node, deadline, ask).await.map_err(|error| {
                        Error::Unavailable(format!("node {node} decides about collections; {error}"))
                    })?;
                    (!reply.instead.is_empty()).then(|| reply.instead.to_vec())
                }
                None => return Err(Error::Internal("the ring has no members".to_owned())),
            };
            let is_made = instead.is_none();
            let adopt = instead.unwrap_or(next);
            self.0.here(move |served| served.replica.adopt_catalogue(&adopt)).await?;
            if is_made {
                return Ok(());
            }
        }
        Err(Error::Unavailable("the catalogue is changed by too many at once".to_owned()))
    }

    /// Takes over the catalogue of another node, if it is newer.
    ///
    /// # Errors
    /// If the node does not answer, or what it has cannot be kept.
    pub async fn pull_catalogue(&self, node: NodeId, deadline: Deadline) -> Result<bool> {
        self.0.served.pull_catalogue(node, deadline).await
    }
}

impl Ring {
    /// Finds out whether others go by a newer catalogue, and takes that over. False if not, or if too few can be reached.
    pub(crate) async fn refresh_catalogue(&self, deadline: Deadline) -> bool {
        let served = &self.0.served;
        let (came, before) = (Instant::now(), served.replica.catalogue_version());
        let mut refreshed = served.refreshed.lock().await;
        let has_changed = || served.replica.catalogue_version() > before;
        // Another one has looked since.
        if has_changed() || refreshed.is_some_and(|at| at >= came) {
            return has_changed();
        }
        *refreshed = Some(Instant::now());
        served.learn_catalogue(deadline).await;
        has_changed()
    }
}

impl Served {
    /// Takes over the newest catalogue of a quorum of the members of each active layout. False if too few answer.
    pub(crate) async fn learn_catalogue(self: &Arc<Self>, deadline: Deadline) -> bool {
        let quorum = self.catalogue_quorum();
        let mut asked = JoinSet::new();
        for node in quorum.nodes().into_iter().filter(|node| *node != self.node) {
            let served = Arc::clone(self);
            asked.spawn(async move { (node, served.pull_catalogue(node, deadline).await) });
        }
        // This node is one of those that know.
        let mut known = vec![self.node];
        while !quorum.is_met(&known) {
            match asked.join_next().await {
                Some(Ok((node, Ok(_)))) => known.push(node),
                Some(_) => {}
                None => return false,
            }
        }
        true
    }
}

impl Served {
    /// See [`Ring::pull_catalogue`].
    async fn pull_catalogue(self: &Arc<Self>, node: NodeId, deadline: Deadline) -> Result<bool> {
        let ask = |mut peer: Client, fence| async move {
            peer.read_catalogue(ReadCatalogueRequest { fence }).await
        };
        let catalogue = self.call(node, deadline, ask).await?.catalogue;
        let served = Arc::clone(self);
        let adopted = self.work.run(move || served.replica.adopt_catalogue(&catalogue)).await.flatten()?;
        if adopted {
            count(&self.counters.catalogues_adopted);
        }
        Ok(adopted)
    }

    /// How many of which members must have a catalogue.
    fn catalogue_quorum(&self) -> Quorum {
        let members: Vec<Vec<NodeId>> = self
            .topology
            .layouts()
            .map(|layout| layout.members().iter().map(|member| member.node).collect())
            .collect();
        Quorum::of(members.iter().map(Vec::as_slice), Consistency::Quorum)
    }

    /// Which node decides about the catalogue.
    pub(crate) fn decides(&self) -> Option<NodeId> {
        self.topology.layout().members().iter().map(|member| member.node).min()
    }

    /// Has the catalogue be so, here and then on a quorum of the members, if this is the next version after the one that is here. Gives the
    /// one that is here otherwise.
    ///
    /// # Errors
    /// If this node does not decide, or too few members can be reached.
    pub(crate) async fn decide(
        self: &Arc<Self>,
        next: Vec<u8>,
        deadline: Deadline,
    ) -> Result<Option<Vec<u8>>> {
        if self.decides() != Some(self.node) {
            return Err(Error::FailedPrecondition("another node decides about the catalogue".to_owned()));
        }
        let _deciding = self.deciding.lock().await;
        deadline.check()?;
        // Another node may have decided before.
        let epoch = self.topology.epoch();
        if *self.decides_in.lock() != epoch {
            if !self.learn_catalogue(deadline).await {
                let why = "too few members tell their catalogue";
                return Err(Error::Unavailable(why.to_owned()));
            }
            *self.decides_in.lock() = epoch;
        }
        let catalogue = next.clone();
        let instead = move |served: &Self| {
            let replica = &served.replica;
            // It was made, and whoever asked for it was not told.
            if replica.encoded_catalogue() == catalogue {
                return Ok(None);
            }
            if Replica::version_of_catalogue(&catalogue)? != replica.catalogue_version() + 1 {
                return Ok(Some(replica.encoded_catalogue()));
            }
            replica.adopt_catalogue(&catalogue).map(|_| None)
        };
        let served = Arc::clone(self);
        if let Some(instead) = self.work.run(move || served.as_of(instead)).await.flatten()? {
            return Ok(Some(instead));
        }
        let quorum = self.catalogue_quorum();
        let mut told = JoinSet::new();
        for node in quorum.nodes().into_iter().filter(|node| *node != self.node) {
            let (served, catalogue) = (Arc::clone(self), Bytes::from(next.clone()));
            told.spawn(async move {
                let ask = |mut peer: Client, fence| {
                    let request = AdoptCatalogueRequest { fence, catalogue: catalogue.clone() };
                    async move { peer.adopt_catalogue(request).await }
                };
                (node, served.call_within(DECISION, node, deadline, ask).await)
            });
        }
        let (mut have, mut why) = (vec![self.node], String::new());
        while !quorum.is_met(&have) {
            match told.join_next().await {
                Some(Ok((node, Ok(_)))) => have.push(node),
                Some(Ok((_, Err(error)))) => why = format!("; {error}"),
                Some(Err(error)) => why = format!("; {error}"),
                None => {
                    let (have, needed) = (have.len(), quorum.needed());
                    return Err(Error::Unavailable(format!("{have} of {needed} nodes have the change{why}")));
                }
            }
        }
        told.detach_all();
        Ok(None)
    }
}
