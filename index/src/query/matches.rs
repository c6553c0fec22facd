//! Which vectors' entities match a filter, remembered from query to query.
//!
//! The first query with a filter reads every entity row of the collection to find out; those that follow re-read only what was
//! written since. Numbers that are gone may be among them: whether an entity is there is told by others.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use allidb_storage::{Direction, Sequence};
use parking_lot::Mutex;
use roaring::RoaringTreemap;

use crate::{
    codec::Decoder,
    deadline::Deadline,
    error::{Error, Result},
    filter::Filter,
    model::{Collection, CollectionId},
    placement::PARTITIONS,
    replica::{Reader, decode_row},
    row::{
        EntityKey,
        key::{collection_prefix, decode_entity, decode_number_key, numbers_prefix},
    },
    secondary::Planned,
};

/// Filters that are remembered at most.
const MAX_FILTERS: usize = 256;
/// Bytes of filters and bitmaps that are remembered at most.
const MAX_BYTES: usize = 64 << 20;
/// Changed entities that are remembered at most; what is older has to be found out anew.
const MAX_CHANGES: usize = 1 << 16;
/// Changes that are worth following; beyond them reading every row is no more work.
const MAX_FOLLOWED: usize = 20_000;
/// What it may take, in postings read, to find out what a filter matches that nobody asked for before.
const CHEAP: u64 = 40_000;
/// How often a long loop looks at the clock.
const DEADLINE_EVERY: usize = 256;
/// And who waits for another.
const DEADLINE_WITHIN: Duration = Duration::from_millis(5);

/// The numbers of the vectors whose entities match, as of one sequence.
#[derive(Clone, Debug, Default)]
pub(crate) struct Matches {
    pub(crate) numbers: Arc<RoaringTreemap>,
    /// Whether of those that are there they are all and no others; otherwise some may not match.
    pub(crate) is_exact: bool,
}

/// What is remembered of filters.
#[derive(Debug)]
pub(crate) struct MatchCache {
    filters: Mutex<Filters>,
    changes: Mutex<Changes>,
}

#[derive(Debug, Default)]
struct Filters {
    known: Vec<Known>,
    uses: u64,
}

#[derive(Debug)]
struct Known {
    collection: CollectionId,
    filter: Filter,
    last_use: u64,
    /// Bytes that the filter takes, and that the numbers do.
    of_filter: usize,
    of_numbers: usize,
    /// Locked while it is found out or brought up to date: others that ask wait for the answer.
    state: Arc<Mutex<Option<State>>>,
}

#[derive(Debug)]
struct State {
    at: Sequence,
    numbers: Arc<RoaringTreemap>,
}

/// Entities that were written, oldest first.
#[derive(Debug)]
struct Changes {
    /// Everything after this sequence is in the log.
    complete_after: Sequence,
    log: VecDeque<(Sequence, EntityKey)>,
}

impl MatchCache {
    /// Remembers nothing yet; changes after `now` will be noted.
    pub(crate) fn new(now: Sequence) -> Self {
        let changes = Changes { complete_after: now, log: VecDeque::new() };
        Self { filters: Mutex::default(), changes: Mutex::new(changes) }
    }

    /// Notes what a batch wrote, before anybody can see it.
    pub(crate) fn note(&self, sequence: Sequence, entities: &[EntityKey]) {
        let mut changes = self.changes.lock();
        for entity in entities {
            if changes.log.len() == MAX_CHANGES
                && let Some((oldest, _)) = changes.log.pop_front()
            {
                changes.complete_after = changes.complete_after.max(oldest);
            }
            changes.log.push_back((sequence, entity.clone()));
        }
    }

    /// Entities of a collection written after `after` and up to `upto`; `None` if that is not known any more, or are too many.
    fn changed(
        &self,
        collection: CollectionId,
        after: Sequence,
        upto: Sequence,
    ) -> Option<BTreeSet<EntityKey>> {
        let changes = self.changes.lock();
        if after < changes.complete_after {
            return None;
        }
        let mut changed = BTreeSet::new();
        let newest_first = changes.log.iter().rev();
        let within = newest_first.take_while(|(sequence, _)| *sequence > after);
        for (_, entity) in within.filter(|(at, entity)| *at <= upto && entity.collection == collection) {
            changed.insert(entity.clone());
            if changed.len() > MAX_FOLLOWED {
                return None;
            }
        }
        Some(changed)
    }

    /// The place where a filter is remembered, made if need be; and whether it was there.
    fn place(&self, collection: CollectionId, filter: &Filter) -> (Arc<Mutex<Option<State>>>, bool) {
        let mut filters = self.filters.lock();
        filters.uses += 1;
        let now = filters.uses;
        let of_filter = filter.bytes();
        let same = |known: &&mut Known| {
            known.collection == collection && known.of_filter == of_filter && known.filter == *filter
        };
        if let Some(known) = filters.known.iter_mut().find(same) {
            known.last_use = now;
            return (Arc::clone(&known.state), true);
        }
        let state = Arc::new(Mutex::new(None));
        filters.known.push(Known {
            collection,
            filter: filter.clone(),
            last_use: now,
            of_filter,
            of_numbers: 0,
            state: Arc::clone(&state),
        });
        filters.forget();
        (state, false)
    }

    fn note_size(&self, state: &Arc<Mutex<Option<State>>>, bytes: usize) {
        let mut filters = self.filters.lock();
        if let Some(known) = filters.known.iter_mut().find(|known| Arc::ptr_eq(&known.state, state)) {
            known.of_numbers = bytes;
        }
        filters.forget();
    }
}

impl Known {
    fn bytes(&self) -> usize {
        self.of_filter + self.of_numbers
    }
}

impl Filters {
    /// Forgets what was not used for longest, until the rest is within bounds.
    fn forget(&mut self) {
        let mut bytes: usize = self.known.iter().map(Known::bytes).sum();
        while self.known.len() > MAX_FILTERS || bytes > MAX_BYTES {
            let oldest = (0..self.known.len()).min_by_key(|at| self.known[*at].last_use);
            let Some(oldest) = oldest else { return };
            bytes -= self.known.swap_remove(oldest).bytes();
        }
    }
}

impl Reader<'_> {
    /// The numbers of all vectors whose entities match, as far as the rows of this snapshot tell. `None` if this filter was not
    /// asked for before and finding out is not worth it yet.
    pub(crate) fn matches(
        &self,
        collection: CollectionId,
        filter: &Filter,
        is_worth_it: bool,
        deadline: Deadline,
    ) -> Result<Option<Matches>> {
        let begun = Instant::now();
        let cache = &self.replica.matches;
        let Some(collection) = self.catalogue.by_id(collection) else { return Ok(None) };
        let (place, is_known) = cache.place(collection.id, filter);
        let mut planned = None;
        if !is_known && !is_worth_it {
            planned = self.plan_below_scan(collection, filter, CHEAP)?;
            if planned.is_none() {
                return Ok(None);
            }
        }
        // Whoever has it may be about to read every row for somebody who waits longer.
        let mut state = loop {
            match place.try_lock_for(DEADLINE_WITHIN) {
                Some(state) => break state,
                None => deadline.check()?,
            }
        };
        let sequence = self.snapshot.sequence();
        if let Some(known) = &mut *state {
            if known.at <= sequence {
                if let Some(changed) = cache.changed(collection.id, known.at, sequence) {
                    // Applied together: half of them would be of no moment, if the deadline passes in between.
                    let mut found = Vec::new();
                    for (at, entity) in changed.iter().enumerate() {
                        check(at, deadline)?;
                        let row = self.row(entity)?;
                        let matches = match &row {
                            Some(row) => self.passes(entity, row, Some(filter), deadline)?,
                            None => false,
                        };
                        found.extend(self.numbers_of(entity)?.into_iter().map(|number| (number, matches)));
                    }
                    let numbers = Arc::make_mut(&mut known.numbers);
                    for (number, matches) in found {
                        if matches {
                            numbers.insert(number)
                        } else {
                            numbers.remove(number)
                        };
                    }
                    known.at = sequence;
                    self.steps.note(begun, "filter", known.numbers.len() as usize, || {
                        (format!("known, and {} entities changed since", changed.len()), None)
                    });
                    return Ok(Some(Matches { numbers: Arc::clone(&known.numbers), is_exact: true }));
                }
            } else if let Some(changed) = cache.changed(collection.id, sequence, known.at) {
                // Somebody with a newer snapshot was here: whatever changed in between may have matched.
                let mut numbers = (*known.numbers).clone();
                for (at, entity) in changed.iter().enumerate() {
                    check(at, deadline)?;
                    numbers.extend(self.numbers_of(entity)?);
                }
                return Ok(Some(Matches { numbers: Arc::new(numbers), is_exact: false }));
            }
        }
        let planned = match planned {
            Some(planned) => Some(planned),
            None => self.plan_below_scan(collection, filter, u64::MAX)?,
        };
        let numbers = Arc::new(match &planned {
            Some(planned) => self.find_out_by_index(collection, filter, planned, deadline)?,
            None => self.find_out(collection.id, filter, deadline)?,
        });
        self.steps.note(begun, "filter", numbers.len() as usize, || match &planned {
            Some(planned) => (planned.access.to_string(), Some(planned.estimate)),
            None => ("all rows".to_owned(), self.about_how_many(collection.id).ok()),
        });
        cache.note_size(&place, numbers.serialized_size());
        if state.as_ref().is_none_or(|known| known.at <= sequence) {
            *state = Some(State { at: sequence, numbers: Arc::clone(&numbers) });
        }
        Ok(Some(Matches { numbers, is_exact: true }))
    }

    /// Reads the postings that a plan names and, where they do not tell all, the rows of the entities.
    fn find_out_by_index(
        &self,
        collection: &Collection,
        filter: &Filter,
        planned: &Planned,
        deadline: Deadline,
    ) -> Result<RoaringTreemap> {
        let mut found = RoaringTreemap::new();
        let (named, are_exact) = self.named(collection.id, planned, deadline)?;
        let has_chunks = self.may_have_chunks(collection.id)?;
        if are_exact && !has_chunks {
            return Ok(named);
        }
        for (at, number) in named.iter().enumerate() {
            check(at, deadline)?;
            let Some((entity, _)) = self.owner_of(number)? else { continue };
            let matches = are_exact
                || match self.row(&entity)? {
                    Some(row) => self.passes(&entity, &row, Some(filter), deadline)?,
                    None => false,
                };
            match (matches, has_chunks) {
                (false, _) => {}
                (true, true) => found.extend(self.numbers_of(&entity)?),
                (true, false) => {
                    found.insert(number);
                }
            }
        }
        Ok(found)
    }

    /// Reads every row of the collection, and beside them the numbers, which lie in the same order.
    fn find_out(
        &self,
        collection: CollectionId,
        filter: &Filter,
        deadline: Deadline,
    ) -> Result<RoaringTreemap> {
        let keyspaces = &self.replica.keyspaces;
        let mut found = RoaringTreemap::new();
        for partition in 0..PARTITIONS {
            let of_partition = collection_prefix(partition, self.tenant, collection);
            let rows = self.snapshot.prefix(keyspaces.entity, &of_partition, Direction::Forward)?;
            let of_numbers = numbers_prefix(partition, self.tenant, collection);
            let mut numbers = None;
            for (at, row) in rows.enumerate() {
                check(at, deadline)?;
                let (row_key, bytes) = row?;
                let decoded = decode_entity(&mut Decoder::new(&row_key));
                let key = decoded.map_err(|error| Error::corrupt("entity", &row_key, error))?;
                if !self.passes(&key, &decode_row(&key, bytes)?, Some(filter), deadline)? {
                    continue;
                }
                let mut ahead = match numbers.take() {
                    Some(ahead) => ahead,
                    None => {
                        let scan = self.snapshot.prefix(keyspaces.number, &of_numbers, Direction::Forward)?;
                        scan.peekable()
                    }
                };
                let prefix = key.numbers();
                while let Some(Ok((number_key, _))) = ahead.peek()
                    && number_key[..] < prefix[..]
                {
                    ahead.next();
                }
                while let Some(next) = ahead.peek() {
                    let is_its = next.as_ref().is_ok_and(|(number_key, _)| number_key.starts_with(&prefix));
                    if !is_its && next.is_ok() {
                        break;
                    }
                    if let Some(row) = ahead.next() {
                        let (number_key, bytes) = row?;
                        found.insert(decode_number_key(&number_key, &bytes)?);
                    }
                }
                numbers = Some(ahead);
            }
        }
        Ok(found)
    }

    /// The numbers of an entity's own vectors and of its chunks'.
    pub(super) fn numbers_of(&self, entity: &EntityKey) -> Result<Vec<u64>> {
        let rows =
            self.snapshot.prefix(self.replica.keyspaces.number, &entity.numbers(), Direction::Forward)?;
        rows.map(|row| {
            let (key, bytes) = row?;
            decode_number_key(&key, &bytes)
        })
        .collect()
    }
}

fn check(at: usize, deadline: Deadline) -> Result<()> {
    if at.is_multiple_of(DEADLINE_EVERY) { deadline.check() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{filter::Field, model::Value};

    #[test]
    fn large_filters_are_forgotten_like_large_answers() {
        let cache = MatchCache::new(0);
        let filter =
            |n: u8| Filter::In(Field::Id, vec![Value::String(char::from(n).to_string().repeat(1 << 20))]);
        for n in 0..120 {
            cache.place(CollectionId(1), &filter(n));
        }
        let bytes: usize = cache.filters.lock().known.iter().map(Known::bytes).sum();
        assert!((MAX_BYTES - (4 << 20)..=MAX_BYTES).contains(&bytes), "{bytes}");
        assert!(cache.place(CollectionId(1), &filter(119)).1 && !cache.place(CollectionId(1), &filter(0)).1);
    }
}
