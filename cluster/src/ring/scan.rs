//! Scans over the ring: nodes that together hold everything tell the next ids, and the entities are read.

use std::{cmp::Reverse, collections::BTreeSet, sync::Arc};

use allidb_index::{EntityKey, Extent, IdsPage, IdsRequest, Result, ScanPage, ScanRequest, model::EntityRef};

use super::{Inner, Ring, Terms, ask::Asked, read::Pace, walk::Lost};

/// Ids that are asked for beyond a page: some turn out to be gone, or not to match.
const SPARE: usize = 32;
/// How often ids are asked for until a page is told that is not full.
const ROUNDS: usize = 8;

impl Ring {
    /// A page of a collection in the order of ids.
    ///
    /// # Errors
    /// If the request is wrong, or too few replicas answer.
    pub async fn scan(&self, request: ScanRequest, terms: Terms) -> Result<ScanPage> {
        let replica = self.replica();
        replica.check_scan(terms.tenant, &request)?;
        let limits = replica.limits();
        let mut page = ScanPage::default();
        let mut after = request.after.clone();
        let mut bytes = 0;
        for _ in 0..ROUNDS {
            let (ids, until) = self.0.ids(&request, after.clone(), terms).await?;
            let key = |id| replica.entity_key(terms.tenant, &EntityRef::new(&request.collection, id));
            let mut keys: Vec<EntityKey> = ids.into_iter().map(key).collect::<Result<_>>()?;
            let (mut pace, extent) = (Pace::default(), Extent::of(&request.read_mask));
            while !keys.is_empty() {
                let some = pace.take(&mut keys);
                let found = self.0.known_states(some, extent, terms, &mut Lost::new()).await?;
                pace.note(found.iter().map(|(_, state)| state));
                for (key, state) in found {
                    let is_full = bytes > 0 && bytes + limits.entity_bytes > limits.answer_bytes;
                    if page.entities.len() == request.limit || is_full {
                        page.next = after;
                        return Ok(page);
                    }
                    if replica.state_passes(&key, &state, request.filter.as_ref())? {
                        let entity = replica.entity_of(&key, &state, &request.read_mask)?;
                        bytes += entity.bytes();
                        page.entities.push(entity);
                    }
                    after = Some(key.id().to_owned());
                }
            }
            page.next = until.clone();
            if until.is_none() || page.entities.len() == request.limit {
                break;
            }
            after = until;
        }
        Ok(page)
    }
}

impl Inner {
    /// The next ids that any of enough nodes tells, in order, and the last up to which all of these have told theirs; `None`: all.
    async fn ids(
        self: &Arc<Self>,
        request: &ScanRequest,
        after: Option<String>,
        terms: Terms,
    ) -> Result<(Vec<String>, Option<String>)> {
        let filter = request.filter.as_ref().map(allidb_index::filter::Filter::weakened);
        let limit = request.limit + SPARE;
        let asked_for = IdsRequest(ScanRequest { filter, limit, after, ..request.clone() });
        let asked = Asked::partitions(self, terms.consistency);
        let told = asked.ask(self, |node, _| Arc::clone(self).answer(node, asked_for.clone(), terms)).await?;
        let pages: Vec<IdsPage> =
            told.answers("partitions", terms)?.into_iter().map(|(_, _, page)| page).collect();
        let bounds = pages.iter().filter_map(|page| page.until.clone());
        let until = match request.reverse {
            true => bounds.max(),
            false => bounds.min(),
        };
        let is_within = |id: &String| match (&until, request.reverse) {
            (None, _) => true,
            (Some(until), true) => id >= until,
            (Some(until), false) => id <= until,
        };
        let ids: BTreeSet<String> = pages.into_iter().flat_map(|page| page.ids).filter(is_within).collect();
        let mut ids: Vec<String> = ids.into_iter().collect();
        if request.reverse {
            ids.sort_unstable_by_key(|id| Reverse(id.clone()));
        }
        Ok((ids, until))
    }
}
