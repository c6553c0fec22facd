//! The file of acknowledged items: a line for each, by which a later run knows what it may skip.
//!
//! ```text
//! ID                                                     TAB HASH   of an entity
//! FROM TAB RELATION TAB TO TAB EDGE_ID [TAB COLLECTION]  TAB HASH   of an edge; the collection is the target's, if it is another
//! ```
//!
//! The hash is of the whole item: of two rows with one id each is noted for itself. Older files have lines without it,
//! which stand for whatever has that id.

use std::{collections::HashSet, fs::OpenOptions, io, os::unix::fs::FileExt, path::Path};

use allidb_api::v1::put_stream_request::Item;
use anyhow::{Context, Result};
use xxhash_rust::xxh3::xxh3_64;

use crate::{dataset::Lines, entity_json::id_of};

/// How much is read at a time to find the end of the last whole line.
const BLOCK: u64 = 4096;

/// What an item is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Label {
    /// Items with the same name replace each other.
    pub(crate) name: String,
    /// As older files have it; `None` where that would say too little.
    plain: Option<String>,
    hash: u64,
}

impl Label {
    /// That of an item.
    pub(crate) fn of(item: &Item) -> Self {
        let mut bytes = Vec::with_capacity(item.encoded_len());
        item.encode(&mut bytes);
        let hash = xxh3_64(&bytes);
        match item {
            Item::Entity(entity) => {
                let name = id_of(entity.r#ref.as_ref()).to_owned();
                Self { plain: Some(name.clone()), name, hash }
            }
            Item::Edge(edge) => {
                let (from, to) = (id_of(edge.from.as_ref()), id_of(edge.to.as_ref()));
                let ends = format!("{from}\t{}\t{to}", edge.relation);
                let name = format!("{ends}\t{}", edge.edge_id);
                let [here, there] =
                    [&edge.from, &edge.to].map(|end| end.as_ref().map_or("", |end| &end.collection));
                if here != there {
                    return Self { plain: None, name: format!("{name}\t{there}"), hash };
                }
                let plain = if edge.edge_id.is_empty() { ends } else { name.clone() };
                Self { plain: Some(plain), name, hash }
            }
        }
    }

    /// Its line.
    pub(crate) fn line(&self) -> String {
        format!("{}\t{:016x}", self.name, self.hash)
    }

    /// Whether an earlier run has noted it.
    pub(crate) fn is_in(&self, done: &HashSet<String>) -> bool {
        // Mostly nothing is to be resumed.
        !done.is_empty()
            && (done.contains(&self.line()) || self.plain.as_ref().is_some_and(|plain| done.contains(plain)))
    }
}

/// What earlier runs have noted: nothing, if the first one did not come so far.
///
/// # Errors
/// If the file cannot be read.
pub(crate) fn read(path: &Path) -> Result<HashSet<String>> {
    let mut done = HashSet::new();
    if !path.try_exists().with_context(|| path.display().to_string())? {
        return Ok(done);
    }
    let mut lines = Lines::open(path)?;
    while let Some(line) = lines.next_line() {
        let line = line?;
        // What an interrupted run left of a line says nothing.
        if line.is_ended && line.utf8().is_ok() {
            done.insert(line.text);
        }
    }
    Ok(done)
}

/// Cuts off what an interrupted run left of a line, so that the next one begins anew.
///
/// # Errors
/// If the file cannot be read or written.
pub(crate) fn cut_torn_line(path: &Path) -> io::Result<()> {
    // A pipe has no lines behind it.
    if !path.is_file() {
        return Ok(());
    }
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let length = file.metadata()?.len();
    let mut end = length;
    while end > 0 {
        let begin = end.saturating_sub(BLOCK);
        let mut block = vec![0; (end - begin) as usize];
        file.read_exact_at(&mut block, begin)?;
        if let Some(at) = block.iter().rposition(|byte| *byte == b'\n') {
            end = begin + at as u64 + 1;
            break;
        }
        end = begin;
    }
    if end < length { file.set_len(end) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use allidb_api::v1::{Edge, Entity};

    use super::*;
    use crate::entity_json::entity_ref;

    fn entity(id: &str, r#type: &str) -> Label {
        let r#ref = Some(entity_ref("c", id));
        Label::of(&Item::Entity(Entity { r#ref, r#type: r#type.to_owned(), ..Entity::default() }))
    }

    fn edge(collection: &str, edge_id: &str) -> Label {
        Label::of(&Item::Edge(Edge {
            from: Some(entity_ref("c", "a")),
            to: Some(entity_ref(collection, "b")),
            relation: "r".to_owned(),
            edge_id: edge_id.to_owned(),
            ..Edge::default()
        }))
    }

    fn done(lines: &[String]) -> HashSet<String> {
        lines.iter().cloned().collect()
    }

    #[test]
    fn of_two_rows_with_one_id_each_is_noted_for_itself() {
        let (first, second) = (entity("a", "x"), entity("a", "y"));
        assert_eq!(first.name, second.name);
        let done = done(&[first.line()]);
        assert!(first.is_in(&done) && entity("a", "x").is_in(&done) && !second.is_in(&done));
        assert!(!entity("b", "x").is_in(&done) && !first.is_in(&HashSet::new()));
    }

    #[test]
    fn edges_to_other_collections_are_told_apart() {
        let (here, there, third) = (edge("c", ""), edge("d", ""), edge("c", "d"));
        let names: HashSet<&String> = [&here, &there, &third].map(|label| &label.name).into();
        assert_eq!(names.len(), 3, "{names:?}");
        let done = done(&[here.line()]);
        assert!(here.is_in(&done) && !there.is_in(&done) && !third.is_in(&done));
    }

    #[test]
    fn lines_of_older_files_stand_for_whatever_has_the_id() {
        let done = done(&["a".to_owned(), "a\tr\tb".to_owned(), "a\tr\tb\te".to_owned()]);
        assert!(
            entity("a", "x").is_in(&done) && entity("a", "y").is_in(&done) && !entity("b", "x").is_in(&done)
        );
        assert!(edge("c", "").is_in(&done) && edge("c", "e").is_in(&done));
        // To which of the collections it went they do not tell: it is sent again.
        assert!(!edge("d", "").is_in(&done) && !edge("c", "f").is_in(&done));
    }

    #[test]
    fn a_line_that_is_not_whole_says_nothing_and_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("acknowledged");
        assert_eq!(read(&path).unwrap(), HashSet::new(), "nothing was noted yet");
        cut_torn_line(&path).unwrap();
        assert!(!path.exists());
        let long = "b".repeat(3 * BLOCK as usize);
        for (before, whole) in [
            ("a\nbc".to_owned(), "a\n".to_owned()),
            ("a\nb\n".to_owned(), "a\nb\n".to_owned()),
            ("a".to_owned(), String::new()),
            (String::new(), String::new()),
            (format!("a\n{long}"), "a\n".to_owned()),
        ] {
            fs::write(&path, &before).unwrap();
            assert_eq!(read(&path).unwrap(), whole.lines().map(str::to_owned).collect::<HashSet<_>>());
            cut_torn_line(&path).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), whole);
        }
    }
}
