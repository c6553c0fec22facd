//! How well documents answer to some words.
//!
//! Prose is scored by BM25 (Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009) over the
//! statistics of all living documents of the collection, divided by the most that the words could bring. Names — short
//! values, of which one may have several — are scored each by itself: by the weight of the words that it shares with the
//! query, and by the share of its own words that these are. So scores lie in [0, 1], and neither filters nor merges change them.

use std::collections::BTreeSet;

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
        source::Source,
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
/// Different words of a query at most.
const MAX_WORDS: usize = 1_024;
/// Places that one search reads at most, which bounds its memory: they take 8 or 16 bytes each.
const MAX_READ: usize = 32 << 20;
/// Documents that are scored together, so that their scores stay in the cache.
pub(super) const WINDOW: u32 = 1 << 15;

/// A search of one collection.
pub(crate) struct TextSearch<'a> {
    pub(crate) index: &'a TextIndex,
    pub(crate) view: &'a TextView,
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

/// Where one word of the query stands in one field of one source: documents, ascending, and how often.
type Postings = Vec<(u32, f32)>;

/// A document's score in the making.
#[derive(Clone, Copy, Default)]
struct Score {
    prose: f32,
    names: f32,
    /// Different words of the query that it has.
    words: u32,
    /// One more than the last of these.
    last: u32,
}

impl TextSearch<'_> {
    /// The numbers of the documents that match, ascending, and their scores in (0, 1].
    ///
    /// # Errors
    /// If the query is wrong, takes too long, or a segment cannot be read.
    pub(crate) fn run(&self) -> Result<Vec<(u64, f32)>> {
        let fields = self.fields()?;
        let sources: Vec<Source<'_>> = Source::of(self.view);
        let asked = self.asked(&fields, &sources)?;
        let mut scored = Vec::new();
        if asked.is_empty() {
            return Ok(scored);
        }
        // Of each source, word and field.
        let mut postings: Vec<Vec<Vec<Postings>>> = Vec::new();
        let mut places: Vec<Vec<Vec<Vec<NamePlace>>>> = Vec::new();
        let mut read = 0;
        for source in &sources {
            let (mut of_words, mut places_of_words) = (Vec::new(), Vec::new());
            for word in &asked {
                let (mut of_fields, mut places_of_fields) = (Vec::new(), Vec::new());
                for (at, field) in fields.iter().enumerate() {
                    let places = match field.kind {
                        TextKind::Prose => Vec::new(),
                        TextKind::Names => {
                            names::places(self, source, field, &word.of_field[at], &word.written)?
                        }
                    };
                    of_fields.push(match field.kind {
                        TextKind::Prose => self.postings(source, field, &word.of_field[at])?,
                        TextKind::Names => names::postings(&places),
                    });
                    read += of_fields.last().map_or(0, Vec::len) + places.len();
                    if read > MAX_READ {
                        let why = format!(
                            "{}: its words stand in too many texts; ask for fewer or rarer ones",
                            self.place
                        );
                        return Err(Error::Exhausted(why));
                    }
                    places_of_fields.push(places);
                }
                of_words.push(of_fields);
                places_of_words.push(places_of_fields);
            }
            postings.push(of_words);
            places.push(places_of_words);
        }
        let documents = fields.iter().map(|field| field.statistics.documents).max().unwrap_or(0) as f32;
        let rarity = |count: usize, of: f32| {
            let count = (count as f32).min(of);
            (1.0 + (of - count + 0.5).max(0.0) / (count + 0.5)).ln()
        };
        // In prose a word is as rare as it is in the field; among names, as it is anywhere.
        let rarity_in = |word: usize, field: usize| {
            let count: usize = postings.iter().map(|of_source| of_source[word][field].len()).sum();
            rarity(count, fields[field].statistics.documents as f32)
        };
        let rarity_anywhere: Vec<f32> = (0..asked.len())
            .map(|word| {
                let count: usize = postings.iter().map(|of_source| union_len(&of_source[word])).sum();
                rarity(count, documents)
            })
            .collect();
        let rarities: Vec<Vec<f32>> = (0..asked.len())
            .map(|word| (0..fields.len()).map(|field| rarity_in(word, field)).collect())
            .collect();
        let most_of = |field: usize| -> f32 {
            let words = asked.iter().zip(&rarities);
            words.map(|(word, rarity)| word.times * rarity[field] * (SATURATION + 1.0)).sum()
        };
        for ((source, postings), places) in sources.iter().zip(&postings).zip(&places) {
            let names = names::score(&fields, places, &rarity_anywhere, documents);
            let phrases = match self.query.operator {
                TextMatch::Phrase => Some(phrase::find(self, source, &fields, &asked)?),
                TextMatch::Any | TextMatch::All => None,
            };
            let prose = Prose { fields: &fields, asked: &asked, rarities: &rarities, most_of: &most_of };
            self.score(source, postings, &prose, &names, phrases.as_ref(), &mut scored)?;
        }
        // Numbers ascend in most sources, which this sort makes use of.
        scored.sort_by_key(|(number, _)| *number);
        Ok(scored)
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
            reduced.entry(field.language).or_insert_with(|| {
                let mut of_language = HashMap::new();
                words(field.language, &self.query.text, &mut |word, at| {
                    of_language.insert(at, word.to_owned());
                });
                of_language
            });
        }
        let last = written.last().map(|(at, _)| *at);
        let mut asked: Vec<Asked> = Vec::new();
        for (at, word) in written {
            let begins = self.query.prefix && Some(at) == last;
            let is_apart = begins || self.query.operator == TextMatch::Phrase;
            if let Some(same) = asked.iter_mut().find(|asked| !is_apart && asked.written == word) {
                same.times += 1.0;
                continue;
            }
            if asked.len() == MAX_WORDS {
                let why = format!("has more than {MAX_WORDS} different words");
                return Err(Error::invalid(format!("{}.text", self.place), why));
            }
            let mut of_field = Vec::new();
            for field in fields {
                let Some(stem) = reduced[&field.language].get(&at) else {
                    of_field.push(Vec::new());
                    continue;
                };
                of_field.push(self.variants(sources, field.field, &word, stem, begins)?);
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
        let fuzziness = self.query.fuzziness.min(2);
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
        let mut postings = Postings::new();
        for (word, weight) in variants {
            self.deadline.check()?;
            source.postings(field.field, self.collection, word, self.sequence, &mut |document, count| {
                postings.push((document, weight * count as f32));
            })?;
        }
        if variants.len() > 1 {
            postings.sort_unstable_by_key(|(document, _)| *document);
            postings.dedup_by(|next, kept| {
                let is_same = next.0 == kept.0;
                kept.1 += if is_same { next.1 } else { 0.0 };
                is_same
            });
        }
        Ok(postings)
    }

    /// Scores the documents of a source, window by window, and adds those that match.
    fn score(
        &self,
        source: &Source<'_>,
        postings: &[Vec<Postings>],
        prose: &Prose<'_>,
        names: &[(u32, f32)],
        phrases: Option<&BTreeSet<u32>>,
        scored: &mut Vec<(u64, f32)>,
    ) -> Result<()> {
        let parts = prose.parts(postings);
        let mut at = vec![0; parts.len()];
        let mut names_at = 0;
        let mut scores = vec![Score::default(); WINDOW as usize];
        let mut touched: Vec<u32> = Vec::new();
        loop {
            self.deadline.check()?;
            let next =
                parts.iter().zip(&at).filter_map(|(part, at)| part.postings.get(*at)).map(|(d, _)| *d).min();
            let Some(next) = next else { return Ok(()) };
            let (start, end) = (next / WINDOW * WINDOW, (next / WINDOW + 1) * WINDOW);
            for (part, at) in parts.iter().zip(&mut at) {
                while let Some((document, count)) =
                    part.postings.get(*at).filter(|(document, _)| *document < end)
                {
                    let score = &mut scores[(document - start) as usize];
                    if score.words == 0 {
                        touched.push(*document);
                    }
                    if score.last != part.word + 1 {
                        score.last = part.word + 1;
                        score.words += 1;
                    }
                    if part.weight > 0.0 {
                        let norm = part.norms[usize::from(source.len_code(part.field, *document))];
                        score.prose += part.weight * count / (count + norm);
                    }
                    *at += 1;
                }
            }
            while let Some((document, score)) = names.get(names_at).filter(|(document, _)| *document < end) {
                let of_document = document.checked_sub(start).and_then(|at| scores.get_mut(at as usize));
                if let Some(of_document) = of_document.filter(|of_document| of_document.words > 0) {
                    of_document.names = *score;
                }
                names_at += 1;
            }
            for document in touched.drain(..) {
                let Score { prose, names, words, .. } =
                    std::mem::take(&mut scores[(document - start) as usize]);
                let matches = match self.query.operator {
                    TextMatch::Any => true,
                    TextMatch::All => words as usize == postings.len(),
                    TextMatch::Phrase => phrases.is_some_and(|phrases| phrases.contains(&document)),
                };
                let score = prose.max(names).min(1.0);
                if matches && score > 0.0 {
                    scored.push((source.number(document), score));
                }
            }
        }
    }
}

/// What scores of prose are made of.
struct Prose<'a> {
    fields: &'a [Searched],
    asked: &'a [Asked],
    rarities: &'a [Vec<f32>],
    /// The most that the words could bring in a field.
    most_of: &'a dyn Fn(usize) -> f32,
}

/// One word in one field.
struct Part<'a> {
    word: u32,
    field: u8,
    postings: &'a Postings,
    /// What it brings at most, of what all could bring; zero among names.
    weight: f32,
    /// For each code of a length.
    norms: Box<[f32; 256]>,
}

impl Prose<'_> {
    fn parts<'p>(&self, postings: &'p [Vec<Postings>]) -> Vec<Part<'p>> {
        // A chunk has one field, an entity all others.
        let is_prose = |field: &Searched| field.kind == TextKind::Prose;
        let most_with = |of_chunks: bool| -> f32 {
            let fields = self.fields.iter().enumerate();
            let beside =
                fields.filter(|(_, field)| is_prose(field) && (field.field == CHUNK_FIELD) == of_chunks);
            beside.map(|(at, field)| field.weight * (self.most_of)(at)).sum()
        };
        let most = [most_with(false), most_with(true)];
        // Beside names, prose counts as its heaviest field does.
        let heaviest_of = |chosen: &dyn Fn(&Searched) -> bool| {
            self.fields.iter().filter(|field| chosen(field)).map(|field| field.weight).fold(0.0, f32::max)
        };
        let heaviest = heaviest_of(&|_| true);
        let shares = [false, true].map(|of_chunks| {
            heaviest_of(&|field| is_prose(field) && (field.field == CHUNK_FIELD) == of_chunks) / heaviest
        });
        let mut parts = Vec::new();
        for (word, of_fields) in postings.iter().enumerate() {
            for (at, (field, postings)) in self.fields.iter().zip(of_fields).enumerate() {
                let brings =
                    field.weight * self.asked[word].times * self.rarities[word][at] * (SATURATION + 1.0);
                let kind = usize::from(field.field == CHUNK_FIELD);
                let is_counted = is_prose(field) && most[kind] > 0.0;
                let weight = if is_counted { shares[kind] * brings / most[kind] } else { 0.0 };
                let Statistics { documents, words } = field.statistics;
                let mean = words as f32 / documents.max(1) as f32;
                let norm = |code: usize| {
                    let length = len_of(code as u8) as f32;
                    SATURATION * (1.0 - LENGTH + LENGTH * length / mean.max(1.0))
                };
                let norms = Box::new(std::array::from_fn(norm));
                parts.push(Part { word: word as u32, field: field.field, postings, weight, norms });
            }
        }
        parts
    }
}

/// In how many documents any of some lists has a word.
fn union_len(lists: &[Postings]) -> usize {
    match lists.iter().filter(|list| !list.is_empty()).collect::<Vec<_>>()[..] {
        [] => 0,
        [one] => one.len(),
        ref several => {
            let mut at = vec![0; several.len()];
            let mut count = 0;
            loop {
                let heads = several.iter().zip(&at).filter_map(|(list, at)| list.get(*at));
                let Some(next) = heads.map(|(document, _)| *document).min() else { return count };
                count += 1;
                for (list, at) in several.iter().zip(&mut at) {
                    *at += usize::from(list.get(*at).is_some_and(|(document, _)| *document == next));
                }
            }
        }
    }
}
