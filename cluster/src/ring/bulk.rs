//! Changes of much at a time over the ring: what they are about is found by nodes that together hold everything, and decided again by what a
//! quorum holds of it.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use allidb_index::{
    BulkDeleted, BySource, CameFromRequest, EntityKey, EntityState, Error, Extent, Mutation, Replica, Result,
    ScanRequest, SourceDeletion, SourcePlace,
    filter::Filter,
    model::{EntityRef, SourceOwner, TenantId, Write, Written},
};

use super::{Inner, Ring, Terms, ask::Asked};
use crate::coordinator::{Consistency, WriteOptions};

/// Changes that are made together.
const BATCH: usize = 500;

impl Ring {
    /// Deletes a page of those entities of a collection that match, each if it still does.
    ///
    /// # Errors
    /// If the filter is wrong, or too few replicas answer; what was deleted before stays deleted.
    pub async fn delete_where(
        &self,
        collection: &str,
        filter: Filter,
        (limit, after): (usize, Option<String>),
        (terms, options): (Terms, WriteOptions),
    ) -> Result<BulkDeleted> {
        let replica = self.replica();
        replica.check_bulk(Some(&filter), None, limit)?;
        let filter = Arc::new(filter);
        let (mut deleted, mut found) = (BulkDeleted { next: after, ..BulkDeleted::default() }, 0);
        loop {
            let most = (limit - found).min(BATCH).min(replica.limits().page_size);
            let request = ScanRequest {
                filter: Some(Filter::clone(&filter)),
                after: deleted.next.take(),
                ..ScanRequest::first(collection, most)
            };
            let page = self.scan(request, terms).await?;
            found += page.entities.len();
            let write = |id: String| {
                let entity = EntityRef::new(collection, id);
                Write::DeleteIf { entity, filter: Arc::clone(&filter) }
            };
            let writes = page.entities.into_iter().map(|entity| write(entity.id)).collect();
            deleted.add(self.0.decide_each(writes, terms, options).await)?;
            deleted.next = page.next;
            if deleted.next.is_none() || found >= limit {
                return Ok(deleted);
            }
        }
    }

    /// Takes a source away from a page of what came from it, and deletes what has no other.
    ///
    /// # Errors
    /// If the request is wrong, or too few replicas answer; what was changed before stays so.
    pub async fn delete_by_source(
        &self,
        SourceDeletion { collection, source, limit, after, collections }: SourceDeletion,
        (terms, options): (Terms, WriteOptions),
    ) -> Result<BySource> {
        self.replica().check_bulk(None, Some(&source), limit)?;
        self.replica().collection(terms.tenant, &collection)?;
        let mut place = SourcePlace::new(after.as_deref())?;
        let mut done = BySource::default();
        while place.is_within() {
            let most = (limit as u64).saturating_sub(done.all()) as usize;
            let request = CameFromRequest {
                collection: collection.clone(),
                source: source.clone(),
                place,
                most,
                collections: collections.clone(),
            };
            let (owners, last) = self.0.came_from(&request, terms).await?;
            for owners in owners.chunks(BATCH) {
                let write = |of: &SourceOwner| Write::DropSource { of: of.clone(), source: source.clone() };
                let writes = owners.iter().map(write).collect();
                done.add(&request.place, self.0.decide_each(writes, terms, options).await)?;
            }
            place = request.place;
            place.go_on(last);
            if done.all() >= limit as u64 {
                done.next = place.is_within().then(|| place.to_string());
                break;
            }
        }
        Ok(done)
    }
}

impl Inner {
    /// What of a partition came from a source, as any of enough replicas tells, and the last entity up to which all of them have told.
    async fn came_from(
        self: &Arc<Self>,
        request: &CameFromRequest,
        terms: Terms,
    ) -> Result<(Vec<SourceOwner>, Option<String>)> {
        let tellers = vec![self.tellers(request.place.partition(), terms.consistency)];
        let asked = Asked { tellers, tells_all: false };
        let told = asked.ask(self, |node, _| Arc::clone(self).answer(node, request.clone(), terms)).await?;
        let answers = told.answers("partitions", terms)?;
        let last = answers.iter().filter_map(|(_, _, told)| told.last.clone()).min();
        let mut owners: Vec<SourceOwner> = Vec::new();
        let mut seen: HashSet<SourceOwner> = HashSet::new();
        for owner in answers.into_iter().flat_map(|(_, _, told)| told.owners) {
            let entity = match &owner {
                SourceOwner::Entity(entity) | SourceOwner::Chunk(entity, _) => &entity.id,
                SourceOwner::Edge(edge) => &edge.from.id,
            };
            let is_within = last.as_ref().is_none_or(|last| entity <= last);
            if is_within && seen.insert(owner.clone()) {
                owners.push(owner);
            }
        }
        Ok((owners, last))
    }

    /// Makes changes that depend on what there is, each as a quorum of replicas, or all of them, hold that. Versions are taken before it is
    /// read: whatever comes after stays.
    async fn decide_each(
        self: &Arc<Self>,
        writes: Vec<Write>,
        terms: Terms,
        options: WriteOptions,
    ) -> Vec<Result<Written>> {
        let count = writes.len();
        if let Err(error) = self.check_clock() {
            return vec![Err(error); count];
        }
        let planned = match self.search(move |replica| Ok(plan_each(replica, terms.tenant, writes))).await {
            Ok(planned) => planned,
            Err(error) => return vec![Err(error); count],
        };
        let extents = planned.iter().filter_map(|(_, mutation)| mutation.as_ref().ok()?.is_decided_by());
        let extent = extents.fold(Extent::NOTHING, |a, b| Extent {
            contents: a.contents || b.contents,
            edges: a.edges || b.edges,
        });
        let mutations = planned.iter().filter_map(|(_, mutation)| mutation.as_ref().ok());
        let entities: BTreeSet<EntityKey> = mutations.flat_map(Mutation::entities).cloned().collect();
        let entities: Vec<EntityKey> = entities.into_iter().collect();
        let consistency = options.consistency.max(Consistency::Quorum);
        let states = self.states(entities.clone(), extent, consistency, options.deadline).await;
        let states: BTreeMap<EntityKey, Result<EntityState>> = entities.into_iter().zip(states).collect();
        let decide = move |replica: &Replica| {
            let decide = |(write, mutation): (Write, Result<Mutation>)| {
                decided(replica, terms.tenant, write, mutation?, &states)
            };
            Ok(planned.into_iter().map(decide).collect::<Vec<_>>())
        };
        let decisions = match self.search(decide).await {
            Ok(decisions) => decisions,
            Err(error) => return vec![Err(error); count],
        };
        let (mut results, mut decided) = (Vec::with_capacity(count), Vec::new());
        for decision in decisions {
            results.push(decision.map(|(mutation, deletes)| {
                decided.push(mutation);
                deletes
            }));
        }
        let mut made = Ring(Arc::clone(self)).write_as_planned(decided, options).await.into_iter();
        let mut answer = |deletes: bool| {
            let missing = || Error::Internal("there are fewer answers than writes".to_owned());
            let written = made.next().ok_or_else(missing).flatten()?;
            Ok(Written { existed: deletes, ..written })
        };
        results.into_iter().map(|result| result.and_then(&mut answer)).collect()
    }
}

fn plan_each(replica: &Replica, tenant: TenantId, writes: Vec<Write>) -> Vec<(Write, Result<Mutation>)> {
    let plan = |write: Write| {
        let mutation = replica.plan(tenant, write.clone());
        (write, mutation)
    };
    writes.into_iter().map(plan).collect()
}

/// What is to be made of a write by what a quorum holds of its entities, and whether that deletes what it is about.
fn decided(
    replica: &Replica,
    tenant: TenantId,
    write: Write,
    mutation: Mutation,
    states: &BTreeMap<EntityKey, Result<EntityState>>,
) -> Result<(Mutation, bool)> {
    let missing = || Error::Internal("fewer entities were read than were asked for".to_owned());
    let held = |entity: &EntityKey| states.get(entity).cloned().ok_or_else(missing).flatten();
    let held = mutation.entities().map(held).collect::<Result<Vec<EntityState>>>()?;
    let newest = held.iter().map(EntityState::highest_version).max().unwrap_or_default();
    // What was read is from a clock that is ahead; by now this one is past it, too.
    let mutation = if newest >= mutation.version() { replica.plan(tenant, write)? } else { mutation };
    replica.decided(&mutation, &held)
}
