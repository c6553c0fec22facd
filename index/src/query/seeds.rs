//! Finding where a query begins.

use std::{sync::Arc, time::Instant};

use allidb_storage::Sequence;
use foldhash::{HashMap, HashMapExt, HashSet};
use roaring::RoaringTreemap;

use crate::{
    error::{Error, Result},
    graph::GraphReader,
    model::{Collection, CollectionId, validate_id},
    query::{
        Query, Seed, TextQuery, Truncation, TruncationReason,
        aside::beside,
        inside::Inside,
        target::{Match, Pinned, Target, Views},
        texts::TextFound,
    },
    replica::{Reader, Replica, Rows, ScanRequest},
    row::{EntityKey, key::decode_number_key},
    text::{Ranking, TextSearch, TextView},
};

/// Seeds that a clause brings beside others, unless it says: what is best together need not be first in each.
pub(super) const VECTOR_CANDIDATES: usize = 100;
pub(super) const TEXT_CANDIDATES: usize = 100;

/// Seeds with their scores, and what was cut off on the way.
#[derive(Default)]
pub(crate) struct Found<'a> {
    pub(crate) seeds: Vec<(EntityKey, f64)>,
    /// How many of them there were after each clause.
    pub(crate) after_clauses: Vec<usize>,
    /// What was compared with the n-th target: the best vector of each entity; `None`: it has none there.
    pub(crate) matches: Vec<HashMap<EntityKey, Option<Match>>>,
    /// The places of the entities that each nearest clause brought, from 0.
    pub(crate) vector_ranks: Vec<HashMap<EntityKey, usize>>,
    /// What each clause of words found.
    pub(crate) texts: Vec<TextFound<'a>>,
    /// The numbers of entities themselves, their chunks left aside, as far as they have been come upon.
    pub(crate) own_numbers: HashMap<EntityKey, u64>,
    /// All numbers of the entities that were looked up.
    pub(crate) numbers: HashMap<EntityKey, Vec<u64>>,
    /// Those that were given, by ids or by a filter.
    pub(crate) given: HashSet<EntityKey>,
    pub(crate) truncated: Vec<Truncation>,
    pub(crate) compared: u64,
    /// What a nested query found, if there is one: nothing else may be a hit.
    pub(crate) inside: Option<Inside>,
    /// It knows who is there, unless it is damaged.
    pub(crate) graph: Option<&'a GraphReader<'a>>,
    /// The numbers of those in a collection that match the query's filter, if they are known.
    pub(crate) matching: Option<(CollectionId, Arc<RoaringTreemap>)>,
}

/// How many seeds a clause brings that does not say.
pub(super) fn default_k(query: &Query, beside_others: usize) -> usize {
    if query.seeds.len() > 1 { query.pool().max(beside_others) } else { query.pool() }
}

impl Reader<'_> {
    /// All seeds of the query.
    #[expect(clippy::too_many_arguments, reason = "a query and all it reads from")]
    pub(crate) fn seeds<'v>(
        &self,
        query: &Query,
        collection: &Collection,
        targets: &[Target],
        pinned: &'v Pinned<'_>,
        graph: Option<&'v GraphReader<'v>>,
        inside: Option<Inside>,
        rows: &mut Rows,
        deadline: crate::Deadline,
    ) -> Result<Found<'v>> {
        let (replica, sequence) = (self.replica, self.snapshot.sequence());
        let text_view = pinned.text_view.as_ref();
        // What the words are found in does not depend on the other clauses.
        let read_words = || rankings(replica, text_view, sequence, query, collection, deadline);
        let are_words_alone = !query.seeds.iter().any(|seed| matches!(seed, Seed::Nearest(_)));
        let has_words = query.text_clauses().next().is_some();
        let pool = replica.search_pool.as_ref().filter(|_| has_words && !are_words_alone);
        beside(pool, &read_words, |rankings| {
            self.run_clauses(
                query,
                collection,
                targets,
                &pinned.views,
                rankings,
                graph,
                inside,
                rows,
                deadline,
            )
        })
    }

    /// Finds what each clause brings, one after the other.
    #[expect(clippy::too_many_arguments, reason = "a query and all it reads from")]
    fn run_clauses<'v>(
        &self,
        query: &Query,
        collection: &Collection,
        targets: &[Target],
        views: &Views,
        rankings: &dyn Fn() -> Arc<Vec<Result<Arc<Ranking<'v>>>>>,
        graph: Option<&'v GraphReader<'v>>,
        inside: Option<Inside>,
        rows: &mut Rows,
        deadline: crate::Deadline,
    ) -> Result<Found<'v>> {
        let matches = vec![HashMap::new(); targets.len()];
        let mut found = Found { matches, inside, graph, ..Found::default() };
        let mut targets = targets.iter().enumerate();
        for (at, seed) in query.seeds.iter().enumerate() {
            deadline.check()?;
            let (begun, before) = (Instant::now(), found.seeds.len());
            match seed {
                Seed::Nearest(nearest) => {
                    let Some(target) = targets.next() else { continue };
                    let compared = found.compared;
                    self.nearest(query, (at, nearest), target, views, rows, deadline, &mut found)?;
                    self.steps.note(begun, "nearest", found.seeds.len() - before, || {
                        let how = if nearest.exact { "compared with all" } else { "index" };
                        let compared = found.compared - compared;
                        let how = format!("space {:?}, {how}, {compared} vectors compared", nearest.space);
                        (
                            how,
                            Some(
                                if nearest.k == 0 { default_k(query, VECTOR_CANDIDATES) } else { nearest.k }
                                    as u64,
                            ),
                        )
                    });
                }
                Seed::Text { query: words, k } => {
                    let place = format!("seeds[{at}].text");
                    words.validate(&place, &self.replica.limits)?;
                    let k = if *k == 0 { default_k(query, TEXT_CANDIDATES) } else { *k };
                    check_k(&format!("{place}.k"), k, self.replica.limits.k)?;
                    let ranking = rankings().get(found.texts.len()).cloned().ok_or_else(no_view)??;
                    self.worded(query, ranking, k, collection, rows, deadline, &mut found)?;
                    self.steps.note(begun, "text", found.seeds.len() - before, || {
                        ("words in texts".to_owned(), Some(k as u64))
                    });
                }
                Seed::Ids(ids) => {
                    let limit = self.replica.limits.seed_ids;
                    if ids.len() > limit {
                        let why = format!("are {}; at most {limit} are allowed", ids.len());
                        return Err(Error::invalid(format!("seeds[{at}].ids"), why));
                    }
                    for entity in ids {
                        validate_id(&format!("seeds[{at}].ids.id"), &entity.id)?;
                        let owner = self.catalogue.get(self.tenant, &entity.collection)?.id;
                        let key = self.meant(EntityKey::new(self.tenant, owner, &entity.id))?;
                        let is_live = rows.get(self, &key)?.is_some_and(|row| row.is_live(self.now));
                        if is_live && found.given.insert(key.clone()) {
                            found.seeds.push((key, 1.0));
                        }
                    }
                    self.steps.note(begun, "ids", found.seeds.len() - before, || {
                        ("looked up".to_owned(), Some(ids.len() as u64))
                    });
                }
                Seed::Matching { filter, limit } => {
                    let limit = if *limit == 0 { query.pool() } else { *limit };
                    check_k(&format!("seeds[{at}].filter.limit"), limit, self.replica.limits.k)?;
                    filter.validate(&format!("seeds[{at}].filter"), &self.replica.limits)?;
                    self.matching(filter, limit, collection, deadline, &mut found)?;
                }
            }
            found.after_clauses.push(found.seeds.len());
        }
        Ok(found)
    }

    /// What is needed to tell what the clauses say of entities that none of them is asked to bring.
    pub(crate) fn no_seeds<'v>(
        &self,
        query: &Query,
        collection: &Collection,
        targets: &[Target],
        pinned: &'v Pinned<'_>,
        graph: Option<&'v GraphReader<'v>>,
        deadline: crate::Deadline,
    ) -> Result<Found<'v>> {
        let (view, sequence) = (pinned.text_view.as_ref(), self.snapshot.sequence());
        let rankings = rankings(self.replica, view, sequence, query, collection, deadline).into_iter();
        let texts = rankings.map(|ranking| ranking.map(TextFound::unread)).collect::<Result<_>>()?;
        Ok(Found { matches: vec![HashMap::new(); targets.len()], texts, graph, ..Found::default() })
    }

    /// The number of an entity's own vectors, if it has any.
    pub(crate) fn number(&self, entity: &EntityKey) -> Result<Option<u64>> {
        let key = entity.number("");
        let Some(bytes) = self.snapshot.get(self.replica.keyspaces.number, &key)? else { return Ok(None) };
        decode_number_key(&key, &bytes).map(Some)
    }

    fn matching(
        &self,
        filter: &crate::filter::Filter,
        limit: usize,
        collection: &Collection,
        deadline: crate::Deadline,
        found: &mut Found<'_>,
    ) -> Result<()> {
        let everything = ScanRequest::first(collection.name.clone(), limit);
        let begun = Instant::now();
        let planned = self.plan_in_order(collection, filter, limit)?;
        let mut matched = 0;
        for (looked_at, row) in
            self.first_rows(collection, &everything, planned.as_ref(), deadline)?.enumerate()
        {
            if matched == limit {
                break;
            }
            if looked_at == self.replica.limits.candidates {
                let count = looked_at as u64;
                found.truncated.push(Truncation { reason: TruncationReason::MaxCandidates, count });
                break;
            }
            if looked_at % 256 == 0 {
                deadline.check()?;
            }
            let (id, bytes) = row?;
            let key = EntityKey { tenant: self.tenant, collection: collection.id, id };
            let row = crate::replica::decode_row(&key, bytes)?;
            if row.is_live(self.now) && self.passes(&key, &row, Some(filter), deadline)? {
                matched += 1;
                found.given.insert(key.clone());
                found.seeds.push((key, 1.0));
            }
        }
        self.steps.note(begun, "matching", matched, || match &planned {
            Some(planned) => (planned.access.to_string(), Some(planned.estimate)),
            None => ("rows in the order of ids".to_owned(), None),
        });
        Ok(())
    }
}

/// What each clause of words finds them in. After one that fails there are no more: the query fails of it.
fn rankings<'v>(
    replica: &Replica,
    view: Option<&'v TextView>,
    sequence: Sequence,
    query: &Query,
    collection: &Collection,
    deadline: crate::Deadline,
) -> Vec<Result<Arc<Ranking<'v>>>> {
    let of_clause = |(at, words): (usize, &TextQuery)| {
        let place = format!("seeds[{at}].text");
        words.validate(&place, &replica.limits)?;
        let search = TextSearch {
            index: &replica.texts,
            view: view.ok_or_else(no_view)?,
            collection: collection.id,
            spec: &collection.text,
            place: &place,
            query: words,
            sequence,
            deadline,
        };
        search.run().map(Arc::new)
    };
    let mut rankings = Vec::new();
    for clause in query.text_clauses() {
        rankings.push(of_clause(clause));
        if rankings.last().is_some_and(Result::is_err) {
            break;
        }
    }
    rankings
}

fn no_view() -> Error {
    Error::Internal("a clause of words has nothing to look for them in".to_owned())
}

pub(crate) fn check_k(place: &str, k: usize, limit: usize) -> Result<()> {
    if k == 0 || k > limit {
        return Err(Error::invalid(place, format!("is {k}; it must be 1 to {limit}")));
    }
    Ok(())
}
