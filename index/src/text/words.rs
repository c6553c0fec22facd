//! Taking texts apart: words, in small letters, reduced to stems, without accents.
//!
//! A word is a run of letters and digits, with apostrophes inside. Scripts that put no spaces between words are cut into
//! overlapping pairs of characters, so that any two that follow each other are found.

use std::{borrow::Cow, ops::Range, sync::OnceLock};

use tantivy::tokenizer::{
    AsciiFoldingFilter, LowerCaser, RemoveLongFilter, Stemmer, TextAnalyzer, Token, TokenStream, Tokenizer,
};

use unicode_normalization::UnicodeNormalization as _;

use crate::model::Language;

/// Bytes of a word at most, before it is reduced; longer ones are no words, and are not found.
const MAX_WORD_BYTES: usize = 128;

/// Gives each word of a text with its position. Words that are too long to be words have one, too, and are not given.
pub(crate) fn words(language: Language, text: &str, each: &mut dyn FnMut(&str, u32)) {
    spans(language, &normalized(text), &mut |word, position, _| each(word, position));
}

/// A text in the form that words are taken from: letters and their accents may be written in one or apart, and in several widths.
pub(crate) fn normalized(text: &str) -> Cow<'_, str> {
    if text.is_ascii() { Cow::Borrowed(text) } else { Cow::Owned(text.nfkc().collect()) }
}

/// Gives each word of a normalized text with its position, and where in the text it stands.
pub(crate) fn spans(language: Language, text: &str, each: &mut dyn FnMut(&str, u32, Range<usize>)) {
    let mut analyzer = analyzer(language).clone();
    let mut stream = analyzer.token_stream(text);
    while stream.advance() {
        let token = stream.token();
        if token.text.is_empty() {
            // Nothing but an ending, so that no stem is left.
            let at = token.offset_from..token.offset_to;
            each(&text[at.clone()].to_lowercase(), token.position as u32, at);
        } else {
            each(&token.text, token.position as u32, token.offset_from..token.offset_to);
        }
    }
}

fn analyzer(language: Language) -> &'static TextAnalyzer {
    static ANALYZERS: [OnceLock<TextAnalyzer>; Language::ALL.len()] =
        [const { OnceLock::new() }; Language::ALL.len()];
    ANALYZERS[language as usize].get_or_init(|| {
        let words =
            TextAnalyzer::builder(Words).filter(RemoveLongFilter::limit(MAX_WORD_BYTES)).filter(LowerCaser);
        match stemming(language) {
            // Stemmers know the accents of their languages, and so come before these are taken away.
            Some(language) => words.filter(Stemmer::new(language)).filter(AsciiFoldingFilter).build(),
            None => words.filter(AsciiFoldingFilter).build(),
        }
    })
}

fn stemming(language: Language) -> Option<tantivy::tokenizer::Language> {
    use tantivy::tokenizer::Language as Stems;
    Some(match language {
        Language::None => return None,
        Language::Arabic => Stems::Arabic,
        Language::Danish => Stems::Danish,
        Language::Dutch => Stems::Dutch,
        Language::English => Stems::English,
        Language::Finnish => Stems::Finnish,
        Language::French => Stems::French,
        Language::German => Stems::German,
        Language::Greek => Stems::Greek,
        Language::Hungarian => Stems::Hungarian,
        Language::Italian => Stems::Italian,
        Language::Norwegian => Stems::Norwegian,
        Language::Portuguese => Stems::Portuguese,
        Language::Romanian => Stems::Romanian,
        Language::Russian => Stems::Russian,
        Language::Spanish => Stems::Spanish,
        Language::Swedish => Stems::Swedish,
        Language::Tamil => Stems::Tamil,
        Language::Turkish => Stems::Turkish,
    })
}

/// Cuts a text into words.
#[derive(Clone, Default)]
struct Words;

struct WordStream<'a> {
    text: &'a str,
    /// Where the rest begins.
    at: usize,
    token: Token,
}

impl Tokenizer for Words {
    type TokenStream<'a> = WordStream<'a>;

    fn token_stream<'a>(&'a mut self, text: &'a str) -> WordStream<'a> {
        WordStream { text, at: 0, token: Token::default() }
    }
}

impl TokenStream for WordStream<'_> {
    fn advance(&mut self) -> bool {
        let rest = &self.text[self.at..];
        let Some((skipped, first)) = rest.char_indices().find(|(_, c)| c.is_alphanumeric()) else {
            return false;
        };
        let from = self.at + skipped;
        let (to, next) = if is_unspaced(first) { self.pair(from, first) } else { self.word(from) };
        self.at = next;
        self.token.text.clear();
        self.token.text.push_str(&self.text[from..to]);
        (self.token.offset_from, self.token.offset_to) = (from, to);
        // It begins at the greatest number, so that the first one is zero.
        self.token.position = self.token.position.wrapping_add(1);
        true
    }

    fn token(&self) -> &Token {
        &self.token
    }

    fn token_mut(&mut self) -> &mut Token {
        &mut self.token
    }
}

impl WordStream<'_> {
    /// Where the word that begins at `from` ends, and where the search for the next begins.
    fn word(&self, from: usize) -> (usize, usize) {
        let mut end = from;
        let mut rest = self.text[from..].chars().peekable();
        let mut at = from;
        while let Some(c) = rest.next() {
            let is_inside = matches!(c, '\'' | '’')
                && rest.peek().is_some_and(|next| next.is_alphanumeric() && !is_unspaced(*next));
            if !is_inside && (!c.is_alphanumeric() || is_unspaced(c)) {
                break;
            }
            at += c.len_utf8();
            end = at;
        }
        (end, end)
    }

    /// Where the pair of characters that begins at `from` ends, and where the next one begins.
    fn pair(&self, from: usize, first: char) -> (usize, usize) {
        let second = from + first.len_utf8();
        let mut rest = self.text[second..].chars();
        match rest.next() {
            Some(c) if is_unspaced(c) => {
                let end = second + c.len_utf8();
                let goes_on = rest.next().is_some_and(is_unspaced);
                (end, if goes_on { second } else { end })
            }
            _ => (second, second),
        }
    }
}

/// Whether the script of a letter puts no spaces between words.
fn is_unspaced(c: char) -> bool {
    c.is_alphanumeric()
        && matches!(u32::from(c),
            0x0e00..=0x0eff // Thai, Lao
            | 0x1000..=0x109f // Myanmar
            | 0x1780..=0x17ff // Khmer
            | 0x3040..=0x30ff // Hiragana, Katakana
            | 0x3400..=0x4dbf | 0x4e00..=0x9fff | 0xf900..=0xfaff | 0x20000..=0x3ffff // Han
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(language: Language, text: &str) -> Vec<String> {
        let mut found = Vec::new();
        words(language, text, &mut |word, position| {
            assert_eq!(position as usize, found.len());
            found.push(word.to_owned());
        });
        found
    }

    #[test]
    fn words_are_small_stemmed_and_without_accents() {
        assert_eq!(
            of(Language::None, "The DOGS' bone—crème brûlée!"),
            ["the", "dogs", "bone", "creme", "brulee"]
        );
        assert_eq!(of(Language::English, "running dogs, ran"), ["run", "dog", "ran"]);
        assert_eq!(of(Language::English, "the dog's bones"), ["the", "dog", "bone"]);
        assert_eq!(of(Language::German, "Häuser"), ["haus"]);
        assert_eq!(of(Language::None, "C3PO 12.5"), ["c3po", "12", "5"]);
        assert_eq!(of(Language::None, "re\u{301}sume\u{301} ｶﾅ"), ["resume", "カナ"]);
        assert_eq!(of(Language::Greek, "ους λόγος"), ["ους", "λογ"]);
        assert!(of(Language::English, " ,.— ").is_empty());
        assert!(of(Language::English, &"x".repeat(500)).is_empty());
    }

    #[test]
    fn scripts_without_spaces_are_cut_into_pairs() {
        assert_eq!(of(Language::None, "東京都 a"), ["東京", "京都", "a"]);
        assert_eq!(of(Language::None, "東"), ["東"]);
        assert_eq!(of(Language::None, "x東京y"), ["x", "東京", "y"]);
        assert_eq!(of(Language::None, "東・京"), ["東", "京"]);
    }
}
