//! How well names answer: short values, each of which is scored by itself, by the weight of the words that it shares with the
//! query and by the square of the share of its own words that these are. So "dog" answers to "my dog and I", and "dog sled" hardly.

use crate::{
    deadline::Deadline,
    error::Result,
    model::{Language, TextKind},
    text::{
        document::{EXACT, VALUE_WORDS, as_written},
        search::{Searched, TextSearch},
        source::{Postings, Source},
    },
};

/// What a word counts that is not written as in the query, but has the same stem.
const SAME_STEM: f32 = 0.7;

/// Documents that are scored together, so that their names stay in the cache.
const WINDOW: u32 = 1 << 12;

/// A word of the query in a name.
#[derive(Clone, Copy, Debug)]
pub(super) struct NamePlace {
    document: u32,
    value: u32,
    /// How many different stems the name has; 0 if this does not tell.
    length: u32,
    weight: f32,
}

/// Where a word of the query stands in a field of a source, by document and value.
pub(super) fn places(
    search: &TextSearch<'_, '_>,
    source: &Source<'_>,
    field: &Searched,
    variants: &[(String, f32)],
    written: &str,
) -> Result<Vec<NamePlace>> {
    let TextSearch { collection, sequence, deadline, .. } = *search;
    let moment = (sequence, deadline);
    let is_stemmed = field.language != Language::None;
    let mut found = Vec::new();
    for (variant, weight) in variants {
        // Where the stem is the word itself, its own places tell whether it is written so.
        let is_itself = variant == written;
        source.places(field.field, collection, variant, moment, &mut |document, places| {
            found.extend(places.iter().map(|place| {
                let within = place % VALUE_WORDS;
                let is_exact = !is_stemmed || is_itself && within >= EXACT;
                NamePlace {
                    document,
                    value: place / VALUE_WORDS,
                    length: within % EXACT,
                    weight: weight * if is_exact { 1.0 } else { SAME_STEM },
                }
            }));
        })?;
    }
    let is_told = !is_stemmed || variants.iter().any(|(variant, _)| variant == written);
    if !is_told {
        source.places(field.field, collection, &as_written(written), moment, &mut |document, places| {
            let place =
                |place: &u32| NamePlace { document, value: place / VALUE_WORDS, length: 0, weight: 1.0 };
            found.extend(places.iter().map(place));
        })?;
    }
    if variants.len() > 1 || !is_told {
        found.sort_unstable_by_key(|place| (place.document, place.value));
    }
    Ok(found)
}

/// The documents of some places.
pub(super) fn postings(places: &[NamePlace]) -> Postings {
    let mut documents: Vec<u32> = places.iter().map(|place| place.document).collect();
    documents.dedup();
    Postings { counts: vec![1.0; documents.len()], documents }
}

/// What is known of a name while its words are gone through.
#[derive(Clone, Copy, Default)]
struct Name {
    matched: f32,
    /// Different words of the query that it has.
    covered: u32,
    length: u32,
    /// One more than the last of these words, and what that weighs.
    last: u32,
    weight: f32,
}

impl Name {
    fn add(&mut self, place: &NamePlace, word: u32, rarity: f32) {
        self.length = self.length.max(place.length);
        if self.last != word + 1 {
            (self.last, self.weight) = (word + 1, 0.0);
            self.covered += 1;
        }
        if place.weight > self.weight {
            self.matched += (place.weight - self.weight) * rarity;
            self.weight = place.weight;
        }
    }

    fn score(&self, most: f32) -> f32 {
        let share = (self.covered as f32 / self.length.max(1) as f32).min(1.0);
        (self.matched * share * share / most).min(1.0)
    }
}

/// The scores of the documents of a source by their names: by document, ascending. `places` are those of each word in each
/// field, `rarity` is that of each word, `documents` how many there are in the collection.
///
/// # Errors
/// If the deadline passes.
pub(super) fn score(
    fields: &[Searched],
    places: &[Vec<&[NamePlace]>],
    rarity: &[f32],
    documents: f32,
    deadline: Deadline,
) -> Result<Vec<(u32, f32)>> {
    let heaviest = fields.iter().map(|field| field.weight).fold(0.0, f32::max);
    let most = (1.0 + documents).ln();
    let mut best: Vec<(u32, f32)> = Vec::new();
    for (at, field) in fields.iter().enumerate().filter(|(_, field)| field.kind == TextKind::Names) {
        let words: Vec<&[NamePlace]> = places.iter().map(|of_fields| of_fields[at]).collect();
        let weight = field.weight / heaviest;
        let mut note = |document, name: &Name| best.push((document, weight * name.score(most)));
        score_field(&words, rarity, deadline, &mut note)?;
    }
    best.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(b.1.total_cmp(&a.1)));
    best.dedup_by_key(|(document, _)| *document);
    Ok(best)
}

/// Calls `each` with every name that has a word, window by window, so that they stay in the cache. First names, which most documents
/// have alone, are told apart by the document; others are put in order.
fn score_field(
    words: &[&[NamePlace]],
    rarity: &[f32],
    deadline: Deadline,
    each: &mut dyn FnMut(u32, &Name),
) -> Result<()> {
    let mut names = vec![Name::default(); WINDOW as usize];
    let mut touched: Vec<u32> = Vec::new();
    let mut at = vec![0; words.len()];
    let mut others: Vec<(u32, u32, u32, NamePlace)> = Vec::new();
    loop {
        let heads = words.iter().zip(&at).filter_map(|(places, at)| places.get(*at));
        let Some(next) = heads.map(|place| place.document).min() else { return Ok(()) };
        deadline.check()?;
        let (start, end) = (next / WINDOW * WINDOW, (next / WINDOW).saturating_add(1).saturating_mul(WINDOW));
        for (word, (places, at)) in (0..).zip(words.iter().zip(&mut at)) {
            while let Some(place) = places.get(*at).filter(|place| place.document < end) {
                if place.value == 0 {
                    let name = &mut names[(place.document - start) as usize];
                    if name.covered == 0 {
                        touched.push(place.document);
                    }
                    name.add(place, word, rarity[word as usize]);
                } else {
                    others.push((place.document, place.value, word, *place));
                }
                *at += 1;
            }
        }
        for document in touched.drain(..) {
            each(document, &std::mem::take(&mut names[(document - start) as usize]));
        }
        others.sort_unstable_by_key(|(document, value, word, _)| (*document, *value, *word));
        for of_name in others.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)) {
            let mut name = Name::default();
            of_name.iter().for_each(|(_, _, word, place)| name.add(place, *word, rarity[*word as usize]));
            each(of_name[0].0, &name);
        }
        others.clear();
    }
}
