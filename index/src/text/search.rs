//! How well documents answer to some words.
//!
//! Prose is scored by BM25 (Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009) over the
//! statistics of all living documents of the collection, divided by the most that the words could bring. Names — short
//! values, of which one may have several — are scored each by itself: by the weight of the words that it shares with the
//! query, and by the share of its own words that these are. So scores lie in [0, 1], and neither filters nor merges change them.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap, binary_heap::PeekMut},
    sync::Arc,
};

use allidb_storage::Sequence;
use foldhash::{HashMap, HashMapExt};
use levenshtein_automata::{Distance, LevenshteinAutomatonBuilder};

use crate::{
    deadline::Deadline,
    error::{Error, Result},
    model::{CollectionId, Language, TextKind, TextSpec},
    query::{TextMatch, TextQuery},
    text::{
        document::{CHUNK_FIELD, len_of},
        index::{Statistics, TextIndex, TextView},
        names::{self, NamePlace},
        phrase,
        ranking::{Lists, Part, Ranking},
        source::{Postings, Source},
        words::words,
    },
};

/// How soon more of the same word counts no more (k₁), and how much longer texts need (b).
const SATURATION: f32 = 1.2;
const LENGTH: f32 = 0.75;
/// What a word counts that is spelled a little differently.
const MISSPELT: f32 = 0.7;
/// Words that one word of a query stands for, where its beginning or something like it is asked for.
const MAX_EXPANSIONS: usize = 128;
/// Words of one dictionary that are looked at for that.
const MAX_LOOKED_AT: usize = 8_192;
/// How often a long loop looks at the clock.
const DEADLINE_EVERY: usize = 1_024;
/// Different words of a query at most.
const MAX_WORDS: usize = 1_024;
/// Places that one search reads at most, which bounds its memory: they take 8 or 16 bytes each.
const MAX_READ: usize = 32 << 20;

/// A search of one collection.
pub(crate) struct TextSearch<'a, 'v> {
    pub(crate) index: &'a TextIndex,
    pub(crate) view: &'v TextView,
    pub(crate) collection: CollectionId,
    pub(crate) spec: &'a TextSpec,
    /// Of the query in its request.
    pub(crate) place: &'a str,
    pub(crate) query: &'a TextQuery,
    pub(crate) sequence: Sequence,
    pub(crate) deadline: Deadline,
}

/// A field that is searched.
pub(super) struct Searched {
    pub(super) field: u8,
    pub(super) weight: f32,
    pub(super) language: Language,
    pub(super) kind: TextKind,
    statistics: Statistics,
}

/// A word of the query: in each field the words that it stands for, and what they count.
pub(super) struct Asked {
    /// How often it is in the query.
    times: f32,
    /// As the query writes it.
    pub(super) written: String,
    pub(super) of_field: Vec<Vec<(String, f32)>>,
}

/// Where one word of the query stands in one field of a source.
struct Word {
    postings: Postings,
    /// In names.
    places: Vec<NamePlace>,
}

/// Of each word of the query, and each field.
type Words = Vec<Vec<Word>>;

impl<'v> TextSearch<'_, 'v> {
    /// Reads where the words stand, and what each weighs.
    ///
    /// # Errors
    /// If the query is wrong, takes too long, or a segment cannot be read.
    pub(crate) fn run(&self) -> Result<Ranking<'v>> {
        let fields = self.fields()?;
        let sources: Vec<Source<'v>> = Source::of(self.view);
        let asked = self.asked(&fields, &sources)?;
        let mut read = 0;
        let of_source = |source| self.read(source, &fields, &asked, &mut read);
        let mut found = sources.iter().map(of_source).collect::<Result<Vec<Words>>>()?;
        let documents = fields.iter().map(|field| field.statistics.documents).max().unwrap_or(0) as f32;
        let rarity = |count: usize, of: f32| {
            let count = (count as f32).min(of);
            (1.0 + (of - count + 0.5).max(0.0) / (count + 0.5)).ln()
        };
        let count_in = |word: usize, field: usize| -> usize {
            found.iter().map(|words| words[word][field].postings.len()).sum()
        };
        // In prose a word is as rare as it is in the field; among names, as in the field where it is commonest.
        let in_field: Vec<Vec<f32>> = (0..asked.len())
            .map(|word| {
                let rarity =
                    |field: usize| rarity(count_in(word, field), fields[field].statistics.documents as f32);
                (0..fields.len()).map(rarity).collect()
            })
            .collect();
        let commonest = |word: usize| (0..fields.len()).map(|field| count_in(word, field)).max().unwrap_or(0);
        let anywhere: Vec<f32> = (0..asked.len()).map(|word| rarity(commonest(word), documents)).collect();
        let weights = weights(&fields, &asked, &in_field);
        let norms: Vec<Arc<[f32; 256]>> = fields.iter().map(norms).collect();
        let mut lists = Vec::with_capacity(sources.len());
        for (source, words) in sources.into_iter().zip(&mut found) {
            let places: Vec<Vec<&[NamePlace]>> =
                words.iter().map(|fields| fields.iter().map(|word| &word.places[..]).collect()).collect();
            let names = names::score(&fields, &places, &anywhere, documents, self.deadline)?;
            let only = match self.query.operator {
                TextMatch::Any => None,
                TextMatch::All => Some(having_all(words, self.deadline)?),
                TextMatch::Phrase => {
                    Some(phrase::find(self, &source, &fields, &asked)?.into_iter().collect())
                }
            };
            let mut parts = Vec::new();
            for (of_fields, weights) in words.iter_mut().zip(&weights) {
                for (at, (word, weight)) in of_fields.iter_mut().zip(weights).enumerate() {
                    if *weight > 0.0 {
                        let (field, norms) = (fields[at].field, Arc::clone(&norms[at]));
                        parts.push(Part {
                            field,
                            postings: std::mem::take(&mut word.postings),
                            weight: *weight,
                            norms,
                        });
                    }
                }
            }
            lists.push(Lists { source, parts, names, only });
        }
        Ok(Ranking::new(lists, self.sequence, self.deadline))
    }

    /// Where the words stand in a source. `read` counts places, of which a search reads so many at most.
    fn read(
        &self,
        source: &Source<'_>,
        fields: &[Searched],
        asked: &[Asked],
        read: &mut usize,
    ) -> Result<Words> {
        let mut words = Words::new();
        for word in asked {
            let mut of_fields = Vec::new();
            for (at, field) in fields.iter().enumerate() {
                let variants = &word.of_field[at];
                let (postings, places) = match field.kind {
                    TextKind::Prose => (self.postings(source, field, variants)?, Vec::new()),
                    TextKind::Names => {
                        let places = names::places(self, source, field, variants, &word.written)?;
                        (names::postings(&places), places)
                    }
                };
                *read += postings.len() + places.len();
                if *read > MAX_READ {
                    let why = format!(
                        "{}: its words stand in too many texts; ask for fewer or rarer ones",
                        self.place
                    );
                    return Err(Error::Exhausted(why));
                }
                of_fields.push(Word { postings, places });
            }
            words.push(of_fields);
        }
        Ok(words)
    }

    /// The fields that are searched.
    fn fields(&self) -> Result<Vec<Searched>> {
        let searched = |field: u8, weight: f64, language, kind| {
            let statistics = self.index.statistics(self.collection, field);
            Searched { field, weight: weight as f32, language, kind, statistics }
        };
        let chunks = |weight| searched(CHUNK_FIELD, weight, self.spec.chunks, TextKind::Prose);
        let declared = (CHUNK_FIELD + 1..).zip(&self.spec.fields);
        if self.query.fields.is_empty() {
            let all = declared.map(|(field, of)| searched(field, of.weight, of.language, of.kind));
            return Ok(std::iter::once(chunks(1.0)).chain(all).collect());
        }
        let mut fields = Vec::new();
        for (at, (name, weight)) in self.query.fields.iter().enumerate() {
            if name == TextQuery::CHUNKS {
                fields.push(chunks(weight.unwrap_or(1.0)));
                continue;
            }
            let attribute = name.strip_prefix("attributes.").unwrap_or(name);
            let found = declared.clone().find(|(_, of)| of.attribute == attribute);
            let Some((field, of)) = found else {
                let why = format!("is {name:?}, which the collection does not declare as text");
                return Err(Error::invalid(format!("{}.fields[{at}].name", self.place), why));
            };
            fields.push(searched(field, weight.unwrap_or(of.weight), of.language, of.kind));
        }
        Ok(fields)
    }

    /// The different words of the query; of a phrase, all in their order.
    fn asked(&self, fields: &[Searched], sources: &[Source<'_>]) -> Result<Vec<Asked>> {
        let mut written: Vec<(u32, String)> = Vec::new();
        words(Language::None, &self.query.text, &mut |word, at| written.push((at, word.to_owned())));
        let mut reduced: HashMap<Language, HashMap<u32, String>> = HashMap::new();
        for field in fields {
            self.deadline.check()?;
            reduced.entry(field.language).or_insert_with(|| {
                let mut of_language = HashMap::new();
                words(field.language, &self.query.text, &mut |word, at| {
                    of_language.insert(at, word.to_owned());
                });
                of_language
            });
        }
        let is_phrase = self.query.operator == TextMatch::Phrase;
        let different = if is_phrase {
            written.len()
        } else {
            written.iter().map(|(_, word)| word).collect::<BTreeSet<_>>().len()
        };
        if different > MAX_WORDS {
            let why = format!("has more than {MAX_WORDS} different words");
            return Err(Error::invalid(format!("{}.text", self.place), why));
        }
        let last = written.last().map(|(at, _)| *at);
        let mut asked: Vec<Asked> = Vec::new();
        let mut known: HashMap<String, usize> = HashMap::new();
        for (nth, (at, word)) in written.into_iter().enumerate() {
            if nth % DEADLINE_EVERY == 0 {
                self.deadline.check()?;
            }
            let begins = self.query.prefix && Some(at) == last;
            let is_apart = begins || is_phrase;
            if let Some(same) = known.get(&word).filter(|_| !is_apart) {
                asked[*same].times += 1.0;
                continue;
            }
            let mut of_field = Vec::new();
            for field in fields {
                let Some(stem) = reduced[&field.language].get(&at) else {
                    of_field.push(Vec::new());
                    continue;
                };
                of_field.push(self.variants(sources, field.field, &word, stem, begins)?);
            }
            if !is_apart {
                known.insert(word.clone(), asked.len());
            }
            asked.push(Asked { times: 1.0, written: word, of_field });
        }
        Ok(asked)
    }

    /// The words of a field that a word stands for.
    fn variants(
        &self,
        sources: &[Source<'_>],
        field: u8,
        written: &str,
        stem: &str,
        begins: bool,
    ) -> Result<Vec<(String, f32)>> {
        let fuzziness = self.query.most_errors();
        if !begins && fuzziness == 0 {
            return Ok(vec![(stem.to_owned(), 1.0)]);
        }
        self.deadline.check()?;
        let mut found: BTreeSet<String> = BTreeSet::new();
        let mut near: BTreeSet<(u8, String)> = BTreeSet::new();
        let first: String = stem.chars().take(1).collect();
        let automaton =
            (fuzziness > 0).then(|| LevenshteinAutomatonBuilder::new(fuzziness, true).build_dfa(stem));
        for source in sources {
            // Words that only dead documents have are in the dictionaries still.
            let is_alive = |word: &str| source.has_visible(field, self.collection, word, self.sequence);
            if begins {
                // A stem may be shorter than what it was made of, or end in another letter.
                for start in BTreeSet::from([written, stem]) {
                    let mut of_source: Vec<String> = Vec::new();
                    source.words(field, self.collection, start, &mut |word| {
                        of_source.push(word.to_owned());
                        of_source.len() < MAX_LOOKED_AT
                    })?;
                    let mut left = MAX_EXPANSIONS;
                    for word in of_source {
                        if left > 0 && is_alive(&word)? {
                            found.insert(word);
                            left -= 1;
                        }
                    }
                }
            }
            if let Some(automaton) = &automaton {
                let mut of_source: Vec<(u8, String)> = Vec::new();
                source.words(field, self.collection, &first, &mut |word| {
                    if let Distance::Exact(distance) = automaton.eval(word) {
                        of_source.push((distance, word.to_owned()));
                    }
                    of_source.len() < MAX_LOOKED_AT
                })?;
                of_source.sort_unstable();
                let mut left = MAX_EXPANSIONS;
                for (distance, word) in of_source {
                    if left > 0 && is_alive(&word)? {
                        near.insert((distance, word));
                        left -= 1;
                    }
                }
            }
        }
        let mut variants: Vec<(String, f32)> = vec![(stem.to_owned(), 1.0)];
        variants.extend(
            found.into_iter().take(MAX_EXPANSIONS).filter(|word| word != stem).map(|word| (word, 1.0)),
        );
        for (_, word) in near.into_iter().take(MAX_EXPANSIONS) {
            if !variants.iter().any(|(known, _)| *known == word) {
                variants.push((word, MISSPELT));
            }
        }
        Ok(variants)
    }

    /// Where any of some words stands.
    fn postings(
        &self,
        source: &Source<'_>,
        field: &Searched,
        variants: &[(String, f32)],
    ) -> Result<Postings> {
        let moment = (self.sequence, self.deadline);
        let of_variant = |(word, weight): &(String, f32)| {
            let mut postings = Postings::default();
            source.postings(field.field, self.collection, word, moment, *weight, &mut postings)?;
            Ok(postings)
        };
        let mut of_variants = variants.iter().map(of_variant).collect::<Result<Vec<Postings>>>()?;
        of_variants.retain(|postings| postings.len() > 0);
        match of_variants.len() {
            0 | 1 => Ok(of_variants.pop().unwrap_or_default()),
            _ => together(&of_variants, self.deadline),
        }
    }
}

/// How often a document of each length (by its code) must have a word of a field for half of what it can bring.
fn norms(field: &Searched) -> Arc<[f32; 256]> {
    let Statistics { documents, words } = field.statistics;
    let mean = words as f32 / documents.max(1) as f32;
    let norm = |code: usize| {
        let length = len_of(code as u8) as f32;
        SATURATION * (1.0 - LENGTH + LENGTH * length / mean.max(1.0))
    };
    Arc::new(std::array::from_fn(norm))
}

/// What each word brings at most in each field, of what all could bring; zero among names.
fn weights(fields: &[Searched], asked: &[Asked], rarities: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let most_in = |field: usize| -> f32 {
        let words = asked.iter().zip(rarities);
        words.map(|(word, rarity)| word.times * rarity[field] * (SATURATION + 1.0)).sum()
    };
    // A chunk has one field, an entity all others.
    let is_prose = |field: &Searched| field.kind == TextKind::Prose;
    let most_with = |of_chunks: bool| -> f32 {
        let beside = fields.iter().enumerate();
        let beside = beside.filter(|(_, field)| is_prose(field) && (field.field == CHUNK_FIELD) == of_chunks);
        beside.map(|(at, field)| field.weight * most_in(at)).sum()
    };
    let most = [most_with(false), most_with(true)];
    // Beside names, prose counts as its heaviest field does.
    let heaviest_of = |chosen: &dyn Fn(&Searched) -> bool| {
        fields.iter().filter(|field| chosen(field)).map(|field| field.weight).fold(0.0, f32::max)
    };
    let heaviest = heaviest_of(&|_| true);
    let shares = [false, true].map(|of_chunks| {
        heaviest_of(&|field| is_prose(field) && (field.field == CHUNK_FIELD) == of_chunks) / heaviest
    });
    let weight = |word: usize, at: usize| {
        let field = &fields[at];
        let brings = field.weight * asked[word].times * rarities[word][at] * (SATURATION + 1.0);
        let kind = usize::from(field.field == CHUNK_FIELD);
        let is_counted = is_prose(field) && most[kind] > 0.0;
        if is_counted { shares[kind] * brings / most[kind] } else { 0.0 }
    };
    (0..asked.len()).map(|word| (0..fields.len()).map(|at| weight(word, at)).collect()).collect()
}

/// Where any of some words stands: by document, with the sum of what each brings, whatever their order.
fn together(of_words: &[Postings], deadline: Deadline) -> Result<Postings> {
    let mut all = Postings::default();
    let mut at = vec![0; of_words.len()];
    let heads = of_words.iter().enumerate();
    let mut next: BinaryHeap<Reverse<(u32, usize)>> = heads
        .filter_map(|(word, of)| of.documents.first().map(|document| Reverse((*document, word))))
        .collect();
    let mut counts: Vec<f32> = Vec::new();
    while let Some(&Reverse((document, _))) = next.peek() {
        if all.len() % DEADLINE_EVERY == 0 {
            deadline.check()?;
        }
        counts.clear();
        while let Some(mut head) = next.peek_mut().filter(|head| head.0.0 == document) {
            let word = head.0.1;
            counts.push(of_words[word].counts[at[word]]);
            at[word] += 1;
            match of_words[word].documents.get(at[word]) {
                Some(document) => head.0.0 = *document,
                None => drop(PeekMut::pop(head)),
            }
        }
        counts.sort_unstable_by(f32::total_cmp);
        all.documents.push(document);
        all.counts.push(counts.iter().sum());
    }
    Ok(all)
}

/// The documents that have every word in some field, ascending.
fn having_all(words: &Words, deadline: Deadline) -> Result<Vec<u32>> {
    let count = |of_fields: &&Vec<Word>| of_fields.iter().map(|word| word.postings.len()).sum::<usize>();
    let Some(rarest) = words.iter().min_by_key(count) else { return Ok(Vec::new()) };
    let documents = rarest.iter().flat_map(|word| &word.postings.documents);
    let mut left: Vec<u32> = documents.copied().collect();
    left.sort_unstable();
    left.dedup();
    for of_fields in words {
        deadline.check()?;
        left.retain(|document| {
            of_fields.iter().any(|word| word.postings.documents.binary_search(document).is_ok())
        });
    }
    Ok(left)
}
