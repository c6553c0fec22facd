//! Counts over the ring. Replicas of a partition compare digests of all that they hold there; where these differ, the entities are read, and so
//! repaired, until they are the same or are written faster than that.

use std::{collections::BTreeSet, sync::Arc};

use allidb_index::{
    Error, Facet, FacetCountsRequest, PARTITIONS, Replica, Result, RosterRequest, Tally, TallyRequest,
    disputed, filter::Filter,
};

use super::{
    Inner, Ring, Terms,
    ask::{Asked, Tellers},
    walk::ToldBy,
};
use crate::{
    coordinator::{Consistency, FacetsRequest},
    layout::NodeId,
};

/// How often replicas that differ are repaired. What still differs then is being written.
const ROUNDS: usize = 4;

/// Partitions of which all entities are told at once.
const ROSTERS: usize = 8;

impl Ring {
    /// How many entities of a collection there are, or match.
    ///
    /// # Errors
    /// If the request is wrong, or too few replicas answer.
    pub async fn count(&self, collection: &str, filter: Option<Filter>, terms: Terms) -> Result<u64> {
        let (inner, replica) = (&self.0, self.replica());
        replica.collection(terms.tenant, collection)?;
        replica.check_bulk(filter.as_ref(), None, 1)?;
        if terms.consistency == Consistency::One && inner.holds_everything() {
            let collection = collection.to_owned();
            let count = move |replica: &Replica| {
                replica.count(terms.tenant, &collection, filter.as_ref(), terms.deadline)
            };
            return inner.search(count).await;
        }
        let tallies = inner.agree(collection, filter, terms).await?;
        Ok(tallies.iter().map(|(tally, _)| tally.count).sum())
    }

    /// The commonest values of some fields among the entities that match.
    ///
    /// # Errors
    /// If the request is wrong, or too few replicas answer.
    pub async fn facets(&self, request: FacetsRequest, terms: Terms) -> Result<Vec<Facet>> {
        let (inner, Terms { tenant, deadline, .. }) = (&self.0, terms);
        let FacetsRequest { collection, fields, filter, limit } = request;
        self.replica().check_facets(&fields, filter.as_ref(), limit)?;
        self.replica().collection(tenant, &collection)?;
        if terms.consistency == Consistency::One && inner.holds_everything() {
            let facets = move |replica: &Replica| {
                replica.facets(tenant, &collection, &fields, filter.as_ref(), limit, deadline)
            };
            return inner.search(facets).await;
        }
        let mut tellers = Asked::partitions(inner, terms.consistency).tellers;
        if terms.consistency != Consistency::One {
            // Only those are asked who are known to hold what others do.
            let agreed = inner.agree(&collection, None, terms).await?;
            tellers = agreed.into_iter().map(|(_, node)| Tellers::only(node)).collect();
        }
        let asked = Asked { tellers, tells_all: false };
        let ask = |node, places: Vec<usize>| {
            let (collection, fields, filter) = (collection.clone(), fields.clone(), filter.clone());
            let request = FacetCountsRequest { collection, fields, filter, partitions: partitions(&places) };
            Arc::clone(inner).answer(node, request, terms)
        };
        let answers = asked.ask(inner, ask).await?.answers("partitions", terms)?;
        let mut counted = Vec::new();
        let mut seen = BTreeSet::new();
        for (node, places, counts) in answers {
            // Whoever was asked because another one let wait counts what that one has counted.
            let new: Vec<usize> = places.iter().copied().filter(|place| !seen.contains(place)).collect();
            seen.extend(new.iter().copied());
            match new.len() {
                0 => {}
                all if all == places.len() => counted.extend(counts),
                _ => counted.extend(ask(node, new).await?),
            }
        }
        inner.search(move |replica| replica.facets_of(&fields, counted, limit, deadline)).await
    }
}

/// Partitions by their places among all.
fn partitions(places: &[usize]) -> Vec<u16> {
    places.iter().filter_map(|place| u16::try_from(*place).ok()).collect()
}

impl Inner {
    /// Whether this node is a replica of every partition, and has a say about it.
    fn holds_everything(&self) -> bool {
        let node = self.served.node;
        let holds = |partition| self.readers(partition, Consistency::One).is_met(&[node]);
        self.served.check_all_sound().is_ok() && (0..PARTITIONS).all(holds)
    }

    /// How many entities there are in each partition, and who says so, once as many replicas as the consistency needs hold the same there.
    async fn agree(
        self: &Arc<Self>,
        collection: &str,
        filter: Option<Filter>,
        terms: Terms,
    ) -> Result<Vec<(Tally, Option<NodeId>)>> {
        let mut agreed = vec![(Tally::default(), None); usize::from(PARTITIONS)];
        let mut open: Vec<u16> = (0..PARTITIONS).collect();
        // What still differs after all rounds is being written, unless a replica cannot be repaired.
        let mut is_repaired = true;
        for round in 0..ROUNDS {
            let request = |partitions| TallyRequest {
                collection: collection.to_owned(),
                filter: filter.clone(),
                partitions,
                digests: terms.consistency != Consistency::One,
            };
            let asked = self.asked_of(&open, terms.consistency);
            let ask = |node, places: Vec<usize>| {
                let partitions = places.iter().filter_map(|place| open.get(*place).copied()).collect();
                Arc::clone(self).answer(node, request(partitions), terms)
            };
            let mut told: Vec<Option<(Tally, NodeId)>> = vec![None; open.len()];
            let mut differ = Vec::new();
            for (node, places, tallies) in asked.ask(self, ask).await?.answers("partitions", terms)? {
                if tallies.len() != places.len() {
                    return Err(Error::Unavailable(format!(
                        "node {node} counted in other partitions than it was asked"
                    )));
                }
                for (place, tally) in places.into_iter().zip(tallies) {
                    match told.get_mut(place) {
                        Some(Some((first, _))) if first.digest != tally.digest => differ.push(place),
                        Some(slot @ None) => *slot = Some((tally, node)),
                        _ => {}
                    }
                }
            }
            for (partition, told) in open.iter().zip(told) {
                if let (Some(agreed), Some((tally, node))) = (agreed.get_mut(usize::from(*partition)), told) {
                    *agreed = (tally, Some(node));
                }
            }
            differ.sort_unstable();
            differ.dedup();
            if differ.is_empty() {
                return Ok(agreed);
            }
            open = differ.into_iter().filter_map(|place| open.get(place).copied()).collect();
            if round + 1 < ROUNDS {
                is_repaired = self.repair_partitions(collection, &open, terms).await?;
            }
        }
        match is_repaired {
            true => Ok(agreed),
            false => Err(Error::Unavailable(format!(
                "replicas of {} partitions differ, and not all of them can be repaired",
                open.len()
            ))),
        }
    }

    fn asked_of(&self, partitions: &[u16], consistency: Consistency) -> Asked {
        let tellers = partitions.iter().map(|partition| self.tellers(*partition, consistency)).collect();
        Asked { tellers, tells_all: false }
    }

    /// Reads, and so repairs, the entities on which replicas of partitions differ. False if some replica cannot be repaired.
    async fn repair_partitions(
        self: &Arc<Self>,
        collection: &str,
        open: &[u16],
        terms: Terms,
    ) -> Result<bool> {
        let mut is_repaired = true;
        for open in open.chunks(ROSTERS) {
            let asked = self.asked_of(open, terms.consistency);
            let ask = |node, places: Vec<usize>| {
                let partitions = places.iter().filter_map(|place| open.get(*place).copied()).collect();
                let request = RosterRequest { collection: collection.to_owned(), partitions };
                Arc::clone(self).answer(node, request, terms)
            };
            let mut rosters = vec![Vec::new(); open.len()];
            let mut told_by = ToldBy::new();
            for (node, places, told) in asked.ask(self, ask).await?.answers("partitions", terms)? {
                for (place, roster) in places.into_iter().zip(told) {
                    for (entity, _) in &roster {
                        told_by.entry(entity.clone()).or_default().push(node);
                    }
                    if let Some(rosters) = rosters.get_mut(place) {
                        rosters.push(roster);
                    }
                }
            }
            let disputed = rosters.iter().flat_map(|rosters| disputed(rosters)).collect();
            is_repaired &= self.repair_tellers(disputed, false, &told_by, terms).await;
        }
        Ok(is_repaired)
    }
}
