//! What a query looks for in texts, and what it finds there.

use foldhash::HashMap;

use crate::{
    deadline::Deadline,
    error::{Error, Result},
    model::{Collection, Limits, TextSpec},
    query::{Query, TextQuery, seeds::Found},
    replica::{Reader, Rows},
    row::{
        EntityKey,
        key::{by_number, decode_numbered},
    },
    text::{TextSearch, TextView},
};

/// Most places that a word of a phrase may be away from where it should be.
const MAX_SLOP: u32 = 100;
/// Most letters that may differ.
const MAX_FUZZINESS: u8 = 2;
/// Documents that are put in order at once.
const MIN_ORDERED: usize = 512;
/// How often a long loop looks at the clock.
const DEADLINE_EVERY: usize = 256;

/// What a clause of words found.
#[derive(Debug, Default)]
pub(crate) struct TextFound {
    /// The numbers of the documents that match, ascending, and their scores.
    scores: Vec<(u64, f32)>,
    /// The entities that it brought as seeds, and what of them is best.
    best: HashMap<EntityKey, TextHit>,
    /// Their places, from 0; those that answer as well have the same.
    pub(super) ranks: HashMap<EntityKey, usize>,
}

/// How well an entity answers to the words of a query.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TextHit {
    /// In [0, 1].
    pub(crate) score: f64,
    /// Whose text it is; empty: the entity's own.
    pub(crate) chunk: String,
}

impl TextFound {
    /// How many documents match.
    pub(super) fn len(&self) -> usize {
        self.scores.len()
    }

    fn score(&self, number: u64) -> Option<&f32> {
        let at = self.scores.binary_search_by_key(&number, |(number, _)| *number).ok()?;
        Some(&self.scores[at].1)
    }
}

/// The best so many documents, best first; ties are in the order of their numbers.
fn best_of(scored: &[(u64, f32)], count: usize) -> Vec<(u64, f32)> {
    let order = |a: &(u64, f32), b: &(u64, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    let mut best = scored.to_vec();
    if count < best.len() {
        best.select_nth_unstable_by(count, order);
        best.truncate(count);
    }
    best.sort_unstable_by(order);
    best
}

impl TextQuery {
    /// Checks all that does not need the collection.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the place below `place`.
    pub(crate) fn validate(&self, place: &str, limits: &Limits) -> Result<()> {
        if self.text.trim().is_empty() {
            return Err(Error::invalid(format!("{place}.text"), "must not be empty"));
        }
        if self.text.len() > limits.query_text_bytes {
            let why =
                format!("is {} bytes long; at most {} are allowed", self.text.len(), limits.query_text_bytes);
            return Err(Error::invalid(format!("{place}.text"), why));
        }
        if self.fuzziness > MAX_FUZZINESS {
            let why = format!("is {}; at most {MAX_FUZZINESS}", self.fuzziness);
            return Err(Error::invalid(format!("{place}.fuzziness"), why));
        }
        if self.slop > MAX_SLOP {
            return Err(Error::invalid(
                format!("{place}.slop"),
                format!("is {}; at most {MAX_SLOP}", self.slop),
            ));
        }
        for (at, (_, weight)) in self.fields.iter().enumerate() {
            if let Some(weight) = weight
                && !(*weight > 0.0 && *weight <= TextSpec::MAX_WEIGHT)
            {
                let why = format!("is {weight}; it must be above 0 and at most {}", TextSpec::MAX_WEIGHT);
                return Err(Error::invalid(format!("{place}.fields[{at}].weight"), why));
            }
        }
        Ok(())
    }
}

impl Reader<'_> {
    /// The entities that answer best to some words.
    #[expect(clippy::too_many_arguments, reason = "one clause of a query and all it reads from")]
    pub(super) fn worded(
        &self,
        query: &Query,
        place: &str,
        words: &TextQuery,
        k: usize,
        collection: &Collection,
        view: &TextView,
        rows: &mut Rows,
        deadline: Deadline,
        found: &mut Found,
    ) -> Result<()> {
        let search = TextSearch {
            index: &self.replica.texts,
            view,
            collection: collection.id,
            spec: &collection.text,
            place,
            query: words,
            sequence: self.snapshot.sequence(),
            deadline,
        };
        let scored = search.run()?;
        let matches = match &query.filter {
            Some(filter) => self.matches(collection.id, filter, false, deadline)?,
            None => None,
        };
        let matches = match &found.inside {
            Some(inside) => Some(inside.and(matches)),
            None => matches,
        };
        let now = self.now;
        let mut brought = TextFound::default();
        let mut last: Option<(f32, usize)> = None;
        let mut best = Vec::new();
        // As many as are needed in most cases; more where filters leave few.
        let mut looked_at = 0;
        for at in 0..scored.len() {
            if at == best.len() {
                looked_at = (8 * looked_at).max(8 * k).max(MIN_ORDERED);
                best = best_of(&scored, looked_at);
            }
            let (number, score) = &best[at];
            if at % DEADLINE_EVERY == 0 {
                deadline.check()?;
            }
            if brought.best.len() == k {
                break;
            }
            if matches.as_ref().is_some_and(|matches| !matches.numbers.contains(*number)) {
                continue;
            }
            let Some((entity, chunk)) = self.owner_of(*number)? else { continue };
            if brought.best.contains_key(&entity) {
                continue;
            }
            let passes = match rows.get(self, &entity)? {
                Some(row) if row.is_live(now) => self.passes(&entity, row, query.filter.as_ref())?,
                _ => false,
            };
            if passes {
                let place = match last {
                    Some((as_well, place)) if as_well == *score => place,
                    _ => brought.best.len(),
                };
                last = Some((*score, place));
                let score = f64::from(*score);
                brought.ranks.insert(entity.clone(), place);
                brought.best.insert(entity.clone(), TextHit { score, chunk });
                found.seeds.push((entity, score));
            }
        }
        brought.scores = scored;
        found.texts.push(brought);
        Ok(())
    }

    /// Whose vector or text a number stands for.
    pub(crate) fn owner_of(&self, number: u64) -> Result<Option<(EntityKey, String)>> {
        let key = by_number(number);
        let Some(bytes) = self.snapshot.get(self.replica.keyspaces.number, &key)? else { return Ok(None) };
        decode_numbered(&bytes).map(Some).map_err(|error| Error::corrupt("number", &key, error))
    }

    /// The best that any clause of words found of an entity: in its own text or that of a chunk.
    pub(super) fn text_hit(&self, entity: &EntityKey, texts: &[TextFound]) -> Result<Option<TextHit>> {
        if let [only] = texts
            && let Some(hit) = only.best.get(entity)
        {
            return Ok(Some(hit.clone()));
        }
        if texts.iter().all(|found| found.scores.is_empty()) {
            return Ok(None);
        }
        let mut best: Option<(f32, u64)> = None;
        for number in self.numbers_of(entity)? {
            for score in texts.iter().filter_map(|found| found.score(number)) {
                if best.is_none_or(|(best, _)| *score > best) {
                    best = Some((*score, number));
                }
            }
        }
        let Some((score, number)) = best else { return Ok(None) };
        let chunk = self.owner_of(number)?.map(|(_, chunk)| chunk).unwrap_or_default();
        Ok(Some(TextHit { score: f64::from(score), chunk }))
    }
}
