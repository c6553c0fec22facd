//! The parts of a text that answer to the words of a query.

use std::ops::Range;

use foldhash::{HashSet, HashSetExt};
use levenshtein_automata::{DFA, Distance, LevenshteinAutomatonBuilder};

use crate::{
    model::Language,
    query::{Piece, TextQuery},
    text::words::{normalized, spans},
};

/// The words of a query, as they are looked for in texts of one language.
pub(crate) struct Highlighter {
    language: Language,
    stems: HashSet<String>,
    /// The beginning that the last word stands for.
    prefix: Option<String>,
    /// Words that may be misspelt: first letters and what is like them.
    similar: Vec<(char, DFA)>,
    most_errors: u8,
}

/// A word of the text that answers to one of the query.
struct Found {
    at: Range<usize>,
    stem: String,
}

impl Highlighter {
    pub(crate) fn new(query: &TextQuery, language: Language) -> Self {
        let text = normalized(&query.text);
        let mut stems = HashSet::new();
        spans(language, &text, &mut |stem, _, _| {
            stems.insert(stem.to_owned());
        });
        let mut written = Vec::new();
        spans(Language::None, &text, &mut |word, _, _| written.push(word.to_owned()));
        let prefix = written.last().filter(|_| query.prefix).cloned();
        let mut similar = Vec::new();
        let most_errors = query.most_errors();
        if most_errors > 0 {
            let builder = LevenshteinAutomatonBuilder::new(most_errors, true);
            let like = |word: &String| Some((word.chars().next()?, builder.build_dfa(word)));
            similar = written.iter().filter_map(like).collect();
        }
        Self { language, stems, prefix, similar, most_errors }
    }

    /// The parts of a text with most different words of the query, best first: so many at most, of about so many bytes each.
    pub(crate) fn fragments(&self, text: &str, count: usize, length: usize) -> Vec<Vec<Piece>> {
        let text = normalized(text);
        let found = self.found(&text);
        let mut fragments = Vec::new();
        let mut first = 0;
        while first < found.len() {
            let begin = found[first].at.start;
            let within = found[first..].iter().take_while(|word| word.at.end <= begin + length);
            let behind = first + within.count().max(1);
            let words = &found[first..behind];
            let different: HashSet<&str> = words.iter().map(|word| word.stem.as_str()).collect();
            fragments.push((different.len(), first..behind));
            first = behind;
        }
        // Ties stay in the order of the text.
        fragments.sort_by_key(|(different, _)| std::cmp::Reverse(*different));
        fragments.truncate(count);
        fragments.into_iter().map(|(_, words)| pieces(&text, &found[words], length)).collect()
    }

    fn found(&self, text: &str) -> Vec<Found> {
        let mut as_written = Vec::new();
        if self.prefix.is_some() || !self.similar.is_empty() {
            spans(Language::None, text, &mut |word, _, at| as_written.push((at.start, word.to_owned())));
        }
        let mut found: Vec<Found> = Vec::new();
        spans(self.language, text, &mut |stem, _, at| {
            let written = as_written.binary_search_by_key(&at.start, |(start, _)| *start);
            let written = written.ok().map(|place| as_written[place].1.as_str());
            let is_match = self.stems.contains(stem) || written.is_some_and(|word| self.is_like(word));
            if is_match {
                found.push(Found { at, stem: stem.to_owned() });
            }
        });
        found
    }

    fn is_like(&self, word: &str) -> bool {
        let begins = self.prefix.as_ref().is_some_and(|prefix| word.starts_with(prefix));
        begins
            || self.similar.iter().any(|(first, similar)| {
                let is_near =
                    matches!(similar.eval(word), Distance::Exact(errors) if errors <= self.most_errors);
                is_near && word.starts_with(*first)
            })
    }
}

/// The text around some words, cut where words end.
fn pieces(text: &str, words: &[Found], length: usize) -> Vec<Piece> {
    let (Some(first), Some(last)) = (words.first(), words.last()) else { return Vec::new() };
    let around = length.saturating_sub(last.at.end - first.at.start) / 2;
    let mut begin = text.floor_char_boundary(first.at.start.saturating_sub(around));
    if begin > 0 {
        begin =
            text[begin..first.at.start].find(char::is_whitespace).map_or(first.at.start, |at| begin + at + 1);
        begin = text.ceil_char_boundary(begin);
    }
    let mut end = text.ceil_char_boundary((begin + length).max(last.at.end).min(text.len()));
    if end < text.len() {
        end = text[last.at.end..end].rfind(char::is_whitespace).map_or(last.at.end, |at| last.at.end + at);
    }
    let mut pieces: Vec<Piece> = Vec::new();
    let mut add = |range: Range<usize>, is_match| {
        if !range.is_empty() {
            pieces.push(Piece { text: text[range].to_owned(), is_match });
        }
    };
    let mut at = begin;
    for word in words {
        // Scripts without spaces have words that overlap.
        let start = word.at.start.max(at);
        add(at..start, false);
        add(start..word.at.end.max(start), true);
        at = word.at.end.max(start);
    }
    add(at..end.max(at), false);
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(query: &TextQuery, text: &str, count: usize, length: usize) -> Vec<String> {
        let fragments = Highlighter::new(query, Language::English).fragments(text, count, length);
        let show =
            |piece: &Piece| if piece.is_match { format!("[{}]", piece.text) } else { piece.text.clone() };
        fragments.iter().map(|pieces| pieces.iter().map(show).collect()).collect()
    }

    fn query(text: &str) -> TextQuery {
        TextQuery { text: text.into(), ..TextQuery::default() }
    }

    #[test]
    fn words_are_marked_whatever_their_form() {
        assert_eq!(
            shown(&query("run dogs"), "The DOG ran; dogs running.", 3, 100),
            ["The [DOG] ran; [dogs] [running]."]
        );
        assert_eq!(shown(&query("creme"), "a crème brûlée", 3, 100), ["a [crème] brûlée"]);
        assert_eq!(shown(&query("cat"), "no such word", 3, 100), [""; 0]);
        let prefix = TextQuery { prefix: true, ..query("the bri") };
        assert_eq!(shown(&prefix, "over the bridges", 3, 100), ["over [the] [bridges]"]);
        let fuzzy = TextQuery { fuzziness: 1, ..query("bridgr") };
        assert_eq!(shown(&fuzzy, "a bridge, a fridge", 3, 100), ["a [bridge], a fridge"]);
        assert_eq!(shown(&query("東京都"), "私は東京都に", 3, 100), ["私は[東京][都]に"]);
    }

    #[test]
    fn the_best_parts_of_long_texts_come_first() {
        let filler = "lorem ipsum dolor sit amet ".repeat(8);
        let text = format!("{filler}one hill {filler}a river by a hill {filler}river river {filler}");
        let found = shown(&query("river hill"), &text, 2, 40);
        assert_eq!(found.len(), 2);
        assert!(found[0].contains("a [river] by a [hill]"), "{found:?}");
        assert!(found[1].contains("one [hill]"), "{found:?}");
        assert!(found.iter().all(|part| part.len() <= 40 + 4), "{found:?}");
        // Nothing is cut in two.
        for part in &found {
            let words = part.split_whitespace().map(|word| word.trim_matches(['[', ']']));
            assert!(words.into_iter().all(|word| text.split(' ').any(|of| of == word)), "{part}");
        }
        for length in 1..60 {
            for text in ["äöü river ß hill 東京river", &text] {
                assert!(!shown(&query("river 東京"), text, 3, length).is_empty());
            }
        }
    }
}
