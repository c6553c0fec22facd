//! What every clause says of every candidate, also of those that another clause or a walk brought: looked up for many of them together, in
//! the indexes.

use std::sync::Arc;

use foldhash::{HashMap, HashMapExt};
use roaring::RoaringTreemap;

use crate::{
    deadline::Deadline,
    error::{Error, Result},
    model::CollectionId,
    query::{
        Nearest, Query, Seed,
        aside::beside,
        seeds::Found,
        target::{Pinned, Target},
        texts::TextFound,
    },
    replica::Reader,
    row::EntityKey,
    text::Ranking,
    vector::Search,
};

/// How often a long loop looks at the clock.
const DEADLINE_EVERY: usize = 256;

/// Fewer numbers are looked up in less time than it takes to ask another thread.
const WORTH_HELP: usize = 64;

impl Reader<'_> {
    /// Finds out of these entities what is not known of them yet: their numbers, what their texts score, and how near their vectors are as far as
    /// the index tells.
    pub(super) fn look_up<'e>(
        &self,
        query: &Query,
        targets: &[Target],
        pinned: &Pinned<'_>,
        entities: impl Iterator<Item = &'e EntityKey>,
        found: &mut Found<'_>,
        deadline: Deadline,
    ) -> Result<()> {
        let mut chunked: HashMap<CollectionId, bool> = HashMap::new();
        let mut asked: Vec<(u64, &EntityKey)> = Vec::new();
        let mut looked_up: Vec<(EntityKey, Vec<u64>)> = Vec::new();
        let is_unknown = |entity: &&EntityKey| {
            let is_compared = found.matches.iter().all(|matches| matches.contains_key(*entity));
            let is_read = match &found.texts[..] {
                [] => true,
                [only] => only.brought(entity),
                _ => false,
            };
            !(found.numbers.contains_key(*entity) || is_compared && is_read)
        };
        for (at, entity) in entities.filter(is_unknown).enumerate() {
            if at % DEADLINE_EVERY == 0 {
                deadline.check()?;
            }
            let may_have_chunks = match chunked.get(&entity.collection) {
                Some(known) => *known,
                None => *chunked.entry(entity.collection).or_insert(self.may_have_chunks(entity.collection)?),
            };
            let numbers = match found.own_numbers.get(entity) {
                Some(own) if !may_have_chunks => vec![*own],
                _ if may_have_chunks => self.numbers_of(entity)?,
                _ => self.number(entity)?.into_iter().collect(),
            };
            asked.extend(numbers.iter().map(|number| (*number, entity)));
            looked_up.push((entity.clone(), numbers));
        }
        asked.sort_unstable_by_key(|(number, _)| *number);
        let numbers: Vec<u64> = asked.iter().map(|(number, _)| *number).collect();
        let rankings: Vec<Arc<Ranking<'_>>> = found.texts.iter().map(TextFound::ranking).collect();
        let score = || -> Vec<Result<Vec<(u64, f32)>>> {
            rankings.iter().map(|ranking| ranking.scores_of(&numbers)).collect()
        };
        let is_work = numbers.len() >= WORTH_HELP && !rankings.is_empty() && !targets.is_empty();
        let pool = self.replica.search_pool.as_ref().filter(|_| is_work);
        let scores = beside(pool, &score, |scores| {
            self.compare_all(query, targets, pinned, &asked, found, deadline)?;
            Ok::<_, Error>(scores())
        })?;
        for (texts, scores) in found.texts.iter_mut().zip(&*scores) {
            texts.note_scores(scores.as_ref().map_err(Error::clone)?);
        }
        found.numbers.extend(looked_up);
        Ok(())
    }

    /// Compares with every target what the index knows of these numbers, which ascend.
    fn compare_all(
        &self,
        query: &Query,
        targets: &[Target],
        pinned: &Pinned<'_>,
        asked: &[(u64, &EntityKey)],
        found: &mut Found<'_>,
        deadline: Deadline,
    ) -> Result<()> {
        let nearest = query.seeds.iter().filter_map(|seed| match seed {
            Seed::Nearest(nearest) => Some(nearest),
            _ => None,
        });
        for (nth, (nearest, target)) in nearest.zip(targets).enumerate() {
            self.compare_by_index(nearest, (nth, target), pinned, asked, found, deadline)?;
        }
        Ok(())
    }

    /// Compares with a target what the index knows of these numbers, if it tells how near they are.
    fn compare_by_index(
        &self,
        nearest: &Nearest,
        (nth, target): (usize, &Target),
        pinned: &Pinned<'_>,
        asked: &[(u64, &EntityKey)],
        found: &mut Found<'_>,
        deadline: Deadline,
    ) -> Result<()> {
        let Some(view) = pinned.views.get(&(target.collection, target.space)) else { return Ok(()) };
        let is_told = !nearest.exact && !nearest.rescore && target.index.shape.codes.tell_distances();
        if !is_told || !view.is_complete() {
            return Ok(());
        }
        let known = &found.matches[nth];
        let is_asked =
            |entity: &EntityKey| entity.collection == target.collection && !known.contains_key(entity);
        let accept: RoaringTreemap =
            asked.iter().filter(|(_, entity)| is_asked(entity)).map(|(number, _)| *number).collect();
        let k = accept.len() as usize;
        let prepared = target.index.measure().prepare(&target.vector);
        let search = Search {
            k,
            // So that they are all looked at, rather than searched for.
            breadth: k,
            exact: false,
            sequence: self.snapshot.sequence(),
            accept: Some(&accept),
            deadline: Some(deadline),
        };
        let near = match view.search(&prepared, &search) {
            Ok(near) => near,
            // The rows tell.
            Err(error) if self.replica.spaces.heal(&target.index, &error) => return Ok(()),
            Err(error) => return Err(error),
        };
        found.compared += near.compared;
        let matches = &mut found.matches[nth];
        for (_, entity) in asked {
            // Unless it turns out otherwise.
            matches.entry((*entity).clone()).or_insert(None);
        }
        for (at, near) in near.nearest.into_iter().enumerate() {
            if at % DEADLINE_EVERY == 0 {
                deadline.check()?;
            }
            let Ok(at) = asked.binary_search_by_key(&near.number, |(number, _)| *number) else { continue };
            let entity = asked[at].1;
            let chunk = match view.owner(&near) {
                Ok(owner) => owner.chunk,
                Err(error) if self.replica.spaces.heal(&target.index, &error) => {
                    // The rows tell.
                    matches.retain(|_, compared| compared.is_some());
                    return Ok(());
                }
                Err(error) => return Err(error),
            };
            let compared = if target.index.measure().is_rough(near.distance, &prepared) {
                self.compare(entity, chunk, target)?
            } else {
                Some(target.trust(chunk, near.distance))
            };
            let Some(best) = matches.get_mut(entity) else { continue };
            if compared
                .as_ref()
                .is_some_and(|other| best.as_ref().is_none_or(|best| other.is_better_than(best)))
            {
                *best = compared;
            }
        }
        Ok(())
    }
}
