//! Conditions on words: what is looked for is taken apart once for all entities, and each text of an entity once for all conditions.

use std::{borrow::Cow, cell::OnceCell, collections::BTreeMap, sync::OnceLock};

use serde::{Deserialize, Serialize};

use super::Field;
use crate::{
    model::{Entity, Language, Value},
    query::TextMatch,
    text::words,
};

/// Words that a condition looks for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sought {
    text: String,
    /// As they are reduced in the language that was asked for first.
    #[serde(skip)]
    reduced: OnceLock<(Language, Vec<String>)>,
}

impl Sought {
    /// As they were written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The words, in their order, as texts of this language have them.
    pub(crate) fn words(&self, language: Language) -> Cow<'_, [String]> {
        let (first, reduced) = self.reduced.get_or_init(|| (language, words_of(language, &self.text)));
        if *first == language {
            return Cow::Borrowed(reduced);
        }
        Cow::Owned(words_of(language, &self.text))
    }
}

impl<T: Into<String>> From<T> for Sought {
    fn from(text: T) -> Self {
        Self { text: text.into(), reduced: OnceLock::new() }
    }
}

impl PartialEq for Sought {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

/// The texts of an entity's fields, as far as conditions asked for their words.
#[derive(Default)]
pub(super) struct Texts<'a>(BTreeMap<(&'a Field, u8), Vec<Text>>);

impl<'a> Texts<'a> {
    /// Whether any text of a field has the words.
    pub(super) fn have(
        &mut self,
        entity: &Entity,
        field: &'a Field,
        language: Language,
        operator: TextMatch,
        sought: &Sought,
    ) -> bool {
        let texts = self.0.entry((field, language as u8)).or_insert_with(|| {
            let mut texts = Vec::new();
            field.any(entity, &mut |value| {
                add_texts(value, language, &mut texts);
                false
            });
            texts
        });
        let wanted = sought.words(language);
        texts.iter().any(|text| text.has(operator, &wanted))
    }
}

fn add_texts(value: &Value, language: Language, texts: &mut Vec<Text>) {
    match value {
        Value::List(items) => items.iter().for_each(|item| add_texts(item, language, texts)),
        Value::String(text) => texts.push(Text { words: words_of(language, text), sorted: OnceCell::new() }),
        _ => {}
    }
}

/// The words of a text.
struct Text {
    words: Vec<String>,
    /// Their places, by the words' order.
    sorted: OnceCell<Vec<u32>>,
}

impl Text {
    fn has(&self, operator: TextMatch, wanted: &[String]) -> bool {
        match operator {
            TextMatch::Any => wanted.iter().any(|word| self.has_word(word)),
            TextMatch::All => wanted.iter().all(|word| self.has_word(word)),
            TextMatch::Phrase => self.words.windows(wanted.len().max(1)).any(|run| run == wanted),
        }
    }

    fn has_word(&self, word: &String) -> bool {
        let sorted = self.sorted.get_or_init(|| {
            let mut places: Vec<u32> = (0..self.words.len() as u32).collect();
            places.sort_unstable_by_key(|at| &self.words[*at as usize]);
            places
        });
        sorted.binary_search_by_key(&word, |at| &self.words[*at as usize]).is_ok()
    }
}

/// The words of a text, in their order.
fn words_of(language: Language, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    words(language, text, &mut |word, _| found.push(word.to_owned()));
    found
}
