//! What a query looks for in texts, and what it finds there.

use std::sync::Arc;

use foldhash::{HashMap, HashMapExt};
use serde::{Deserialize, Serialize};

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
    text::Ranking,
};

/// Most places that a word of a phrase may be away from where it should be.
const MAX_SLOP: u32 = 100;
/// Most letters that may differ.
const MAX_FUZZINESS: u32 = 2;
/// Texts beyond those asked for that answer as well as the last one.
const MAX_TIES: usize = 512;
/// Texts beyond those asked for that are ranked, too, as some turn out to be gone or to be ties.
const SPARE: usize = 8;
/// How often a long loop looks at the clock.
const DEADLINE_EVERY: usize = 256;

/// What a clause of words found.
pub(crate) struct TextFound<'a> {
    ranking: Arc<Ranking<'a>>,
    /// What documents score that were asked for, by their numbers; those that do not match are not among them.
    scores: HashMap<u64, f32>,
    /// The entities that it brought as seeds, and what of them is best.
    best: HashMap<EntityKey, TextHit>,
    /// Their places, from 0; those that answer as well have the same.
    pub(super) ranks: HashMap<EntityKey, usize>,
}

/// How well an entity answers to the words of a query.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct TextHit {
    /// In [0, 1].
    pub(crate) score: f64,
    /// Whose text it is; empty: the entity's own.
    pub(crate) chunk: String,
}

impl<'a> TextFound<'a> {
    /// Of a clause that brings nothing.
    pub(super) fn unread(ranking: Arc<Ranking<'a>>) -> Self {
        Self { ranking, scores: HashMap::new(), best: HashMap::new(), ranks: HashMap::new() }
    }

    /// Whether the entity is one of the seeds that it brought, whose score is known.
    pub(super) fn brought(&self, entity: &EntityKey) -> bool {
        self.best.contains_key(entity)
    }

    /// What tells how well documents answer.
    pub(super) fn ranking(&self) -> Arc<Ranking<'a>> {
        Arc::clone(&self.ranking)
    }

    /// Notes what documents score that were asked for.
    pub(super) fn note_scores(&mut self, scores: &[(u64, f32)]) {
        self.scores.extend(scores.iter().copied());
    }
}

impl TextQuery {
    /// In how many letters words may differ.
    pub(crate) fn most_errors(&self) -> u8 {
        self.fuzziness.min(MAX_FUZZINESS) as u8
    }

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
    /// The entities that answer best to some words, as `ranking` tells.
    #[expect(clippy::too_many_arguments, reason = "one clause of a query and all it reads from")]
    pub(super) fn worded<'a>(
        &self,
        query: &Query,
        ranking: Arc<Ranking<'a>>,
        k: usize,
        collection: &Collection,
        rows: &mut Rows,
        deadline: Deadline,
        found: &mut Found<'a>,
    ) -> Result<()> {
        let matches = match &query.filter {
            Some(filter) => self.matches(collection.id, filter, false, deadline)?,
            None => None,
        };
        let accepted = found.accept(collection.id, matches);
        let accept = |number: u64| accepted.as_ref().is_none_or(|accepted| accepted.contains(number));
        let mut brought = TextFound::unread(ranking);
        let mut last: Option<(f32, usize)> = None;
        let mut seeds: Vec<(EntityKey, f64)> = Vec::new();
        // As many as are needed in most cases; more where an entity has several texts, or it turns out only now that many do not match.
        let are_several =
            self.may_have_chunks(collection.id)? || query.filter.is_some() && accepted.is_none();
        let mut asked = if are_several { 2 * k } else { k + k / 8 + SPARE };
        let mut best = brought.ranking.best(asked, &accept)?;
        let mut at = 0;
        loop {
            if at == best.len() {
                if at < asked {
                    break;
                }
                asked *= 8;
                best = brought.ranking.best(asked, &accept)?;
                continue;
            }
            let (number, score) = &best[at];
            // Those that answer as well as the last one are all looked at, so that their names decide, as they do among hits.
            let is_tie = last.is_some_and(|(as_well, _)| as_well == *score);
            if brought.best.len() >= k && !(is_tie && brought.best.len() < k + MAX_TIES) {
                break;
            }
            at += 1;
            if at % DEADLINE_EVERY == 0 {
                deadline.check()?;
            }
            let (entity, chunk) = match found.entity(*number) {
                Some(entity) => (entity, String::new()),
                None => match self.owner_of(*number)? {
                    Some(owner) => owner,
                    None => continue,
                },
            };
            if brought.best.contains_key(&entity) {
                continue;
            }
            if chunk.is_empty() {
                found.own_numbers.insert(entity.clone(), *number);
            }
            if self.is_admitted(query, &entity, found, rows, deadline)? {
                let place = match last {
                    Some((as_well, place)) if as_well == *score => place,
                    _ => brought.best.len(),
                };
                last = Some((*score, place));
                let score = f64::from(*score);
                brought.ranks.insert(entity.clone(), place);
                brought.best.insert(entity.clone(), TextHit { score, chunk });
                seeds.push((entity, score));
            }
        }
        seeds.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        for (entity, _) in seeds.drain(k.min(seeds.len())..) {
            brought.best.remove(&entity);
            brought.ranks.remove(&entity);
        }
        found.seeds.extend(seeds);
        found.texts.push(brought);
        Ok(())
    }

    /// Whose vector or text a number stands for.
    pub(crate) fn owner_of(&self, number: u64) -> Result<Option<(EntityKey, String)>> {
        let key = by_number(number);
        let Some(bytes) = self.snapshot.get(self.replica.keyspaces.number, &key)? else { return Ok(None) };
        decode_numbered(&bytes).map(Some).map_err(|error| Error::corrupt("number", &key, error))
    }

    /// The best that any clause of words found of an entity that was looked up: in its own text or that of a chunk.
    pub(super) fn text_hit(&self, entity: &EntityKey, found: &Found<'_>) -> Result<Option<TextHit>> {
        if let [only] = &found.texts[..]
            && let Some(hit) = only.best.get(entity)
        {
            return Ok(Some(hit.clone()));
        }
        let numbers = found.numbers.get(entity).map_or(&[][..], Vec::as_slice);
        let mut best: Option<(f32, u64)> = None;
        for number in numbers {
            for score in found.texts.iter().filter_map(|texts| texts.scores.get(number)) {
                if best.is_none_or(|(best, _)| *score > best) {
                    best = Some((*score, *number));
                }
            }
        }
        let Some((score, number)) = best else { return Ok(None) };
        let chunk = match numbers {
            [own] if found.own_numbers.get(entity) == Some(own) => String::new(),
            _ => self.owner_of(number)?.map(|(_, chunk)| chunk).unwrap_or_default(),
        };
        Ok(Some(TextHit { score: f64::from(score), chunk }))
    }
}
