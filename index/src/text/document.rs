//! The texts of an entity or a chunk, taken apart into words.

use std::collections::{BTreeMap, BTreeSet};

use tantivy::fieldnorm::FieldNormReader;

use crate::{
    model::{Language, TextKind, TextSpec, Value},
    text::words::words,
};

/// The field that holds the text of a chunk; attributes follow in the order in which they were declared.
pub(crate) const CHUNK_FIELD: u8 = 0;
/// Fields of one index: the chunks' and one for each attribute that a collection may declare.
pub(crate) const FIELDS: usize = 1 + TextSpec::MAX_FIELDS;
/// Between the last word of one string of a list and the first word of the next: a phrase does not go across.
const GAP: u32 = 100;
/// Places that each value of a list of names has. Words beyond them share the last one.
pub(crate) const VALUE_WORDS: u32 = 256;
/// Added to the place of a stem that the value also has as a word, just as it is. The rest of the place within the value is how
/// many different stems that has, or this less one if they are more.
pub(crate) const EXACT: u32 = 128;
/// Before a word as it is written. No word of a text begins so.
const WRITTEN: char = '=';
/// Values of one list of names that are indexed, and words of each; what follows is not found.
const MAX_VALUES: u32 = 1 << 12;
const MAX_VALUE_WORDS: usize = 1 << 10;
/// Words of one text that are indexed; what follows is not found.
const MAX_WORDS: u32 = 1 << 17;

/// An entity's or a chunk's words, by field.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Document {
    /// Those that have words, ascending.
    pub(crate) fields: Vec<FieldWords>,
}

/// The words of one text.
#[derive(Debug, PartialEq)]
pub(crate) struct FieldWords {
    pub(crate) field: u8,
    /// How many.
    pub(crate) len: u32,
    /// Where each stands, ascending.
    pub(crate) positions: BTreeMap<Box<str>, Vec<u32>>,
}

impl Document {
    /// Of a chunk's text.
    pub(crate) fn of_chunk(spec: &TextSpec, text: &str) -> Self {
        let mut document = Self::default();
        document.add(CHUNK_FIELD, spec.chunks, &[text]);
        document
    }

    /// Of an entity's attributes.
    pub(crate) fn of_attributes<'a>(spec: &TextSpec, attribute: impl Fn(&str) -> Option<&'a Value>) -> Self {
        let mut document = Self::default();
        for (field, declared) in (CHUNK_FIELD + 1..).zip(&spec.fields) {
            if let Some(value) = attribute(&declared.attribute) {
                match declared.kind {
                    TextKind::Prose => document.add(field, declared.language, &texts(value)),
                    TextKind::Names => document.add_names(field, declared.language, &texts(value)),
                }
            }
        }
        document
    }

    /// Each value has places of its own. Of its words, the places say which value it is and how many different words that has;
    /// of its words as they are written, which value and where in it.
    fn add_names(&mut self, field: u8, language: Language, texts: &[&str]) {
        let mut words_of = FieldWords { field, len: 0, positions: BTreeMap::new() };
        let mut values = 0;
        for text in texts {
            let mut different = BTreeSet::new();
            words(language, text, &mut |word, _| {
                if different.len() < MAX_VALUE_WORDS {
                    different.insert(word.to_owned());
                }
            });
            let len = different.len() as u32;
            if len == 0 {
                continue;
            }
            if values == MAX_VALUES {
                break;
            }
            let first = values * VALUE_WORDS;
            values += 1;
            let mut as_is = BTreeSet::new();
            words(Language::None, text, &mut |word, _| {
                as_is.insert(word.to_owned());
            });
            for word in &different {
                let exact = if as_is.contains(word) { EXACT } else { 0 };
                words_of.put(word, first + exact + len.min(EXACT - 1));
            }
            words(Language::None, text, &mut |word, position| {
                if position < MAX_VALUE_WORDS as u32 {
                    words_of.put(&as_written(word), first + position.min(VALUE_WORDS - 1));
                }
            });
            words_of.len += len;
        }
        if words_of.len > 0 {
            self.fields.push(words_of);
        }
    }

    fn add(&mut self, field: u8, language: Language, texts: &[&str]) {
        let mut words_of = FieldWords { field, len: 0, positions: BTreeMap::new() };
        let mut first = 0;
        for text in texts {
            let mut next = first;
            words(language, text, &mut |word, position| {
                if words_of.len < MAX_WORDS {
                    words_of.len += 1;
                    next = first + position;
                    words_of.put(word, next);
                }
            });
            first = next + GAP;
        }
        if words_of.len > 0 {
            self.fields.push(words_of);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }
}

impl FieldWords {
    fn put(&mut self, word: &str, position: u32) {
        match self.positions.get_mut(word) {
            Some(positions) if positions.last() == Some(&position) => {}
            Some(positions) => positions.push(position),
            None => drop(self.positions.insert(word.into(), vec![position])),
        }
    }

    /// The length as the index keeps it: in one byte, exact up to 40 words and within a tenth beyond (as in Lucene).
    pub(crate) fn len_code(&self) -> u8 {
        FieldNormReader::fieldnorm_to_id(self.len)
    }
}

/// A field of which not all may be indexed is so long that its code is this one or greater: there are that many words in a value that was
/// cut, and more in texts and lists that were.
pub(crate) fn least_cut_len_code() -> u8 {
    FieldNormReader::fieldnorm_to_id(MAX_VALUE_WORDS as u32)
}

/// How a word of a name is indexed beside its stem.
pub(crate) fn as_written(word: &str) -> String {
    format!("{WRITTEN}{word}")
}

/// How many words a code stands for.
pub(crate) fn len_of(code: u8) -> u32 {
    FieldNormReader::id_to_fieldnorm(code)
}

/// The strings that an attribute's value holds, also in lists within lists.
pub(crate) fn texts(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::List(items) => items.iter().flat_map(texts).collect(),
        _ => Vec::new(),
    }
}
