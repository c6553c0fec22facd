//! How well names answer: short values, each of which is scored by itself, by the weight of the words that it shares with the
//! query and by the square of the share of its own words that these are. So "dog" answers to "my dog and I", and "dog sled" hardly.

use foldhash::{HashMap, HashMapExt};

use crate::{
    error::Result,
    model::{Language, TextKind},
    text::{
        document::{VALUE_WORDS, as_written},
        search::{Asked, Searched, TextSearch},
        source::Source,
    },
};

/// What a word counts that is not written as in the query, but has the same stem.
const SAME_STEM: f32 = 0.7;

/// A word of the query in one name.
struct Hit {
    /// Document, value and word of the query, so that what belongs together is sorted together.
    order: u64,
    /// How many different words the name has; 0 if this does not tell.
    length: u32,
    weight: f32,
}

/// The scores of the documents of a source by their names: by document, ascending. `rarity` is that of each word, `documents`
/// how many there are in the collection.
pub(super) fn score(
    search: &TextSearch<'_>,
    source: &Source<'_>,
    fields: &[Searched],
    asked: &[Asked],
    rarity: &[f32],
    documents: f32,
) -> Result<Vec<(u32, f32)>> {
    let heaviest = fields.iter().map(|field| field.weight).fold(0.0, f32::max);
    let most = (1.0 + documents).ln();
    let mut best: HashMap<u32, f32> = HashMap::new();
    for (at, field) in fields.iter().enumerate().filter(|(_, field)| field.kind == TextKind::Names) {
        let mut hits = hits(search, source, (at, field), asked)?;
        hits.sort_unstable_by_key(|hit| hit.order);
        for of_value in hits.chunk_by(|a, b| a.order >> 16 == b.order >> 16) {
            let (mut covered, mut matched, mut length) = (0, 0.0, 0);
            for of_word in of_value.chunk_by(|a, b| a.order == b.order) {
                length = of_word.iter().map(|hit| hit.length).fold(length, u32::max);
                let weight = of_word.iter().map(|hit| hit.weight).fold(0.0, f32::max);
                matched += weight * rarity[(of_word[0].order & 0xffff) as usize];
                covered += 1;
            }
            let share = (covered as f32 / length.max(1) as f32).min(1.0);
            let score = (matched * share * share / most).min(1.0) * field.weight / heaviest;
            let best = best.entry((of_value[0].order >> 32) as u32).or_insert(0.0);
            *best = best.max(score);
        }
    }
    let mut best: Vec<(u32, f32)> = best.into_iter().collect();
    best.sort_unstable_by_key(|(document, _)| *document);
    Ok(best)
}

/// Every word of the query in every name of one field.
fn hits(
    search: &TextSearch<'_>,
    source: &Source<'_>,
    (at, field): (usize, &Searched),
    asked: &[Asked],
) -> Result<Vec<Hit>> {
    let mut hits = Vec::new();
    for (nth, word) in (0_u64..).zip(asked) {
        search.deadline.check()?;
        let mut read = |variant: &str, weight: f32, has_length: bool| {
            let TextSearch { collection, sequence, .. } = *search;
            source.places(field.field, collection, variant, sequence, &mut |document, places| {
                hits.extend(places.iter().map(|place| {
                    let value = u64::from(place / VALUE_WORDS);
                    let order = u64::from(document) << 32 | value << 16 | nth;
                    Hit { order, length: if has_length { place % VALUE_WORDS } else { 0 }, weight }
                }));
            })
        };
        let is_stemmed = field.language != Language::None;
        for (variant, weight) in &word.of_field[at] {
            read(variant, weight * if is_stemmed { SAME_STEM } else { 1.0 }, true)?;
        }
        if is_stemmed {
            read(&as_written(&word.written), 1.0, false)?;
        }
    }
    Ok(hits)
}
