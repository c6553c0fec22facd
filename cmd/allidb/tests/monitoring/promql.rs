//! What an expression of PromQL names: as much of its grammar as that takes.

use std::collections::BTreeSet;

/// Words that stand where a name could, and name nothing.
const WORDS: [&str; 13] = [
    "and", "or", "unless", "bool", "offset", "sum", "min", "max", "avg", "count", "topk", "bottomk", "group",
];
/// Words that labels follow, in brackets.
const GROUPING: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];

/// What is named.
#[derive(Debug, Default)]
pub(crate) struct Named {
    /// Figures, each with the labels by which it is chosen.
    pub(crate) selectors: Vec<(String, Vec<String>)>,
    /// Labels by which figures are grouped or matched.
    pub(crate) grouped: BTreeSet<String>,
}

pub(crate) fn read(expression: &str) -> Named {
    let mut named = Named::default();
    let mut rest = expression;
    while let Some(first) = rest.chars().next() {
        let (word, after) = split_word(rest);
        rest = match first {
            '"' => after_text(rest),
            '[' => rest.split_once(']').expect("a closed range").1,
            '{' => {
                let (labels, after) = labels(&rest[1..], '}');
                named.selectors.last_mut().expect("a figure before its labels").1.extend(labels);
                after
            }
            '$' => split_word(&rest[1..]).1,
            // A number, or a length of time.
            first if first.is_ascii_digit() => after,
            _ if word.is_empty() => &rest[first.len_utf8()..],
            _ if GROUPING.contains(&word) => {
                let (labels, after) = labels(after.trim_start().strip_prefix('(').expect("labels"), ')');
                named.grouped.extend(labels);
                after
            }
            _ if WORDS.contains(&word) || after.trim_start().starts_with('(') => after,
            _ => {
                named.selectors.push((word.to_owned(), Vec::new()));
                after
            }
        };
    }
    named
}

fn split_word(text: &str) -> (&str, &str) {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '.');
    text.split_at(text.find(|c| !is_part(c)).unwrap_or(text.len()))
}

/// What comes after a text in quotation marks.
fn after_text(text: &str) -> &str {
    text[1..].split_once('"').expect("a closed text").1
}

/// The names up to a bracket, and what comes after that.
fn labels(mut rest: &str, end: char) -> (Vec<String>, &str) {
    let mut labels = Vec::new();
    loop {
        let first = rest.chars().next().expect("a closed list");
        let (word, after) = split_word(rest);
        rest = match first {
            '"' => after_text(rest),
            _ if first == end => return (labels, &rest[1..]),
            _ if word.is_empty() => &rest[first.len_utf8()..],
            _ => {
                labels.push(word.to_owned());
                after
            }
        };
    }
}

#[test]
fn names_are_found() {
    let named = read(
        r#"histogram_quantile(0.9, sum by (le, at) (rate(a_bucket{x="$y, z", w=~"{1}"}[$__rate_interval]))) > 1e9 and on (at) b offset 5m"#,
    );
    let labels = vec!["x".to_owned(), "w".to_owned()];
    assert_eq!(named.selectors, [("a_bucket".to_owned(), labels), ("b".to_owned(), Vec::new())]);
    assert_eq!(named.grouped.into_iter().collect::<Vec<_>>(), ["at", "le"]);
}
