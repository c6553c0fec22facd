//! Keys that are no option: refused, with the one that was probably meant.

use std::fmt::Write;

use figment::{
    Figment, Profile, Provider,
    value::{Dict, Tag, Value},
};
use serde_json::Value as Json;

use super::{Config, load};

/// Refuses every key that is no option, all at once.
pub(super) fn refuse_unknown(figment: &Figment) -> anyhow::Result<()> {
    let known = serde_json::to_value(Config::default())?;
    let layers = figment.data()?;
    let mut wrong = Vec::new();
    if let Some(dict) = layers.get(&Profile::Default) {
        collect(dict, &known, &mut Vec::new(), &mut wrong);
    }
    if wrong.is_empty() {
        return Ok(());
    }
    let options = paths(&known);
    let mut message = String::new();
    for (path, tag) in wrong {
        let origin = load::origin(figment, tag, &path);
        write!(
            message,
            "{}{origin} sets `{path}`, which is no option",
            if message.is_empty() { "" } else { "\n" }
        )?;
        if let Some(nearest) = nearest(&path, &options) {
            write!(message, "; did you mean `{nearest}`?")?;
        }
    }
    anyhow::bail!(message)
}

fn collect(dict: &Dict, known: &Json, path: &mut Vec<String>, wrong: &mut Vec<(String, Tag)>) {
    for (key, value) in dict {
        path.push(key.clone());
        match (known.get(key), value) {
            (None, _) => wrong.push((path.join("."), leaf_tag(value))),
            (Some(section @ Json::Object(_)), Value::Dict(_, inner)) => collect(inner, section, path, wrong),
            // A scalar for a section or a section for a scalar: the types are checked later.
            _ => {}
        }
        path.pop();
    }
}

/// Tags of dictionaries may be those of the layer that was merged last; a leaf's is its own.
fn leaf_tag(value: &Value) -> Tag {
    match value {
        Value::Dict(tag, inner) => inner.values().next().map_or(*tag, leaf_tag),
        other => other.tag(),
    }
}

/// Every option's path, sections included.
pub(super) fn paths(known: &Json) -> Vec<String> {
    let Json::Object(top) = known else { return Vec::new() };
    let mut paths = Vec::new();
    for (name, value) in top {
        paths.push(name.clone());
        if let Json::Object(section) = value {
            paths.extend(section.keys().map(|option| format!("{name}.{option}")));
        }
    }
    paths
}

/// The option that differs least, if it differs by less than half of what was written. An option of that
/// name in another section counts as near.
fn nearest<'a>(path: &str, options: &'a [String]) -> Option<&'a str> {
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
    let distance = |option: &str| {
        let same_name = if last(option) == last(path) { 1 } else { usize::MAX };
        edits(path, option).min(same_name)
    };
    let best = options.iter().min_by_key(|option| distance(option))?;
    (distance(best) * 2 < path.chars().count().max(3)).then_some(best)
}

/// The least number of insertions, deletions and replacements of characters (Levenshtein 1966).
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (at, a) in from.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], at + 1);
        for (column, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_option_is_found() {
        let options = paths(&serde_json::to_value(Config::default()).expect("plain data"));
        let near = |path| nearest(path, &options);
        assert_eq!(near("listen.gprc"), Some("listen.grpc"));
        assert_eq!(near("data-dir"), Some("data_dir"));
        assert_eq!(near("storage.memory_byte"), Some("storage.memory_bytes"));
        assert_eq!(near("memtable_bytes"), Some("storage.memtable_bytes"));
        assert_eq!(near("unheard.of"), None);
    }

    #[test]
    fn edits_are_counted() {
        assert_eq!(edits("kitten", "sitting"), 3);
        assert_eq!(edits("", "abc"), 3);
        assert_eq!(edits("grpc", "grpc"), 0);
    }
}
