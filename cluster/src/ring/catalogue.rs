//! The catalogue of the ring: its members choose each version of it, all hold it.
//!
//! Of two changes at once one is made anew, to what the other one made. A node that missed a change takes the catalogue over from one that has
//! it, and until then refuses calls that were made under the newer one.

use std::{sync::Arc, time::Duration};

use allidb_index::{Deadline, Error, Replica, Result};
use bytes::Bytes;
use tokio::{task::JoinSet, time::Instant};

use super::{Inner, Ring, choose::Choice, count, quorum::Quorum, read::too_few};
use crate::{
    asker::OnBehalf,
    coordinator::Consistency,
    layout::NodeId,
    peer::{
        Client, Served,
        proto::{AdoptCatalogueRequest, ReadCatalogueRequest, Subject},
    },
};

/// How long a node may take to keep a change.
const KEEPING: Duration = Duration::from_secs(10);
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
        for _ in 0..TRIES {
            deadline.check()?;
            let ring = self.now();
            let change = change.clone();
            let next: Bytes = ring.0.here(move |served| change(&served.replica)).await?.into();
            let (version, mut was_proposed) = (Replica::version_of_catalogue(&next)?, false);
            match ring.0.choose_catalogue((version, &next), &mut was_proposed, deadline).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                // Made anew, it might be made twice.
                Err(error) if was_proposed => return Err(error),
                // It follows from a topology that the ring goes by no more, or a catalogue that is not the newest.
                Err(Error::Unavailable(_)) if ring.is_outdated() => {}
                Err(error @ Error::Unavailable(_)) => {
                    let before = ring.replica().catalogue_version();
                    ring.0.served.learn_catalogue(deadline).await;
                    if ring.replica().catalogue_version() == before {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Err(Error::Unavailable("the catalogue is changed by too many at once".to_owned()))
    }

    /// Has the members of all active layouts know what those of the present one may have chosen before: after this, those of the layout to come
    /// may choose by themselves.
    ///
    /// # Errors
    /// If too few of them answer.
    pub(super) async fn settle_catalogue(&self, deadline: Deadline) -> Result<()> {
        let served = &self.0.served;
        if !served.learn_catalogue(deadline).await {
            return Err(Error::Unavailable("too few members tell their catalogue".to_owned()));
        }
        let after = served.replica.catalogue_version();
        if let Some(chosen) = self.0.choose(&served.choice(after), (None, &mut false), deadline).await? {
            served.keep_catalogue(&chosen).await?;
        }
        served.tell_catalogue(served.replica.encoded_catalogue().into(), deadline).await
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
            let pull = async move { (node, served.pull_catalogue(node, deadline).await) };
            asked.spawn(pull.in_current_call());
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

    /// Who chooses what comes after a version.
    fn choice(&self, after: u64) -> Choice {
        let (subject, quorum) = (Subject::Catalogue, self.catalogue_quorum());
        Choice { subject, after, quorum, patience: KEEPING }
    }

    /// Keeps what was chosen, if it is newer. Says whether it is.
    async fn keep_catalogue(self: &Arc<Self>, chosen: &Bytes) -> Result<bool> {
        let (served, chosen) = (Arc::clone(self), chosen.clone());
        self.work.run(move || served.replica.adopt_catalogue(&chosen)).await.flatten()
    }

    /// Has a quorum of the members of each active layout keep what was chosen.
    ///
    /// # Errors
    /// If too few can be reached.
    async fn tell_catalogue(self: &Arc<Self>, chosen: Bytes, deadline: Deadline) -> Result<()> {
        let quorum = self.catalogue_quorum();
        let mut told = JoinSet::new();
        for node in quorum.nodes().into_iter().filter(|node| *node != self.node) {
            let (served, catalogue) = (Arc::clone(self), chosen.clone());
            let tell = async move {
                let ask = |mut peer: Client, fence| {
                    let request = AdoptCatalogueRequest { fence, catalogue: catalogue.clone() };
                    async move { peer.adopt_catalogue(request).await }
                };
                (node, served.call_within(KEEPING, node, deadline, ask).await)
            };
            told.spawn(tell.in_current_call());
        }
        let (mut have, mut why) = (vec![self.node], None);
        while !quorum.is_met(&have) {
            match told.join_next().await {
                Some(Ok((node, Ok(_)))) => have.push(node),
                Some(Ok((_, Err(error)))) => why = Some(error),
                Some(Err(error)) => why = Some(Error::Internal(format!("telling broke off: {error}"))),
                None => return Err(too_few(have.len(), quorum.needed(), why)),
            }
        }
        told.detach_all();
        Ok(())
    }
}

impl Inner {
    /// Has the catalogue of a version be this one, unless another one is chosen: then that is kept here. Says whether it was this one.
    async fn choose_catalogue(
        self: &Arc<Self>,
        (version, next): (u64, &Bytes),
        was_proposed: &mut bool,
        deadline: Deadline,
    ) -> Result<bool> {
        let served = &self.served;
        let choice = served.choice(version.saturating_sub(1));
        let proposed = (Some(next.clone()), &mut *was_proposed);
        let Some(chosen) = self.choose(&choice, proposed, deadline).await? else {
            return Err(Error::Internal("nothing was chosen".to_owned()));
        };
        served.keep_catalogue(&chosen).await?;
        if chosen != *next {
            // Nobody tells then whether it was chosen before what is there now.
            if *was_proposed && Replica::version_of_catalogue(&chosen)? > version {
                let why = "nobody knows whether the change was made: others have come after it";
                return Err(Error::Unavailable(why.to_owned()));
            }
            return Ok(false);
        }
        served.tell_catalogue(chosen, deadline).await.map(|()| true)
    }
}
