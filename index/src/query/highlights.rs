//! Showing why a hit answers to words.

use crate::{
    deadline::Deadline,
    error::{Error, Result},
    model::{Chunk, Collection, Entity, ReadMask},
    query::{Highlight, Highlighted, Query, Seed, TextQuery},
    replica::{Reader, Rows, register},
    row::{ChunkContent, EntityKey},
    text::{Highlighter, texts},
};

/// Most parts of one text, and the least and most bytes of a part.
const MAX_FRAGMENTS: usize = 20;
const LENGTH: std::ops::RangeInclusive<usize> = 20..=2_000;

impl Query {
    pub(super) fn check_highlight(&self) -> Result<()> {
        let Some(Highlight { fragments, length }) = self.highlight else { return Ok(()) };
        if !(1..=MAX_FRAGMENTS).contains(&fragments) {
            let why = format!("is {fragments}; it must be 1 to {MAX_FRAGMENTS}");
            return Err(Error::invalid("highlight.fragments", why));
        }
        if !LENGTH.contains(&length) {
            let why = format!("is {length}; it must be {} to {}", LENGTH.start(), LENGTH.end());
            return Err(Error::invalid("highlight.length", why));
        }
        Ok(())
    }
}

impl Reader<'_> {
    /// The parts of an entity's texts, and of the text of its chunk that answers best, that answer to the words of the query.
    #[expect(clippy::too_many_arguments, reason = "one hit and all that it is shown by")]
    pub(super) fn highlights(
        &self,
        query: &Query,
        highlight: Highlight,
        collection: &Collection,
        key: &EntityKey,
        chunk: &str,
        rows: &mut Rows,
        deadline: Deadline,
    ) -> Result<Vec<Highlighted>> {
        let Some(row) = rows.get(self, key)? else { return Ok(Vec::new()) };
        let names = collection.text.fields.iter().map(|field| field.attribute.clone());
        let mut texts =
            self.fields(key, row, &ReadMask { attribute_names: names.collect(), ..ReadMask::nothing() })?;
        if !chunk.is_empty() {
            let row_key = key.chunk(chunk);
            let bytes = self.snapshot.get(self.replica.keyspaces.chunk, &row_key)?;
            let content =
                bytes.map(|bytes| register::<ChunkContent>("chunk", &row_key, &bytes)).transpose()?;
            if let Some(ChunkContent { text, .. }) = content.and_then(|register| register.value) {
                texts.chunks.insert(chunk.to_owned(), Chunk { text, ..Chunk::default() });
            }
        }
        query.highlighted(highlight, collection, chunk, &texts, deadline)
    }
}

impl Query {
    /// The parts of an entity's texts, and of the text of one of its chunks if one is named, that answer to the words of the query.
    pub(super) fn highlighted(
        &self,
        Highlight { fragments, length }: Highlight,
        collection: &Collection,
        chunk: &str,
        texts_of: &Entity,
        deadline: Deadline,
    ) -> Result<Vec<Highlighted>> {
        let mut found = Vec::new();
        for words in self.seeds.iter().filter_map(|seed| match seed {
            Seed::Text { query, .. } => Some(query),
            _ => None,
        }) {
            let named = |name: &str| {
                let is_it =
                    |(field, _): &(String, _)| field.strip_prefix("attributes.").unwrap_or(field) == name;
                words.fields.is_empty() || words.fields.iter().any(is_it)
            };
            let mut add = |field: &str, chunk_id: &str, highlighter: &Highlighter, text: &str| {
                let parts = highlighter.fragments(text, fragments, length).into_iter();
                found.extend(parts.map(|pieces| Highlighted {
                    field: field.to_owned(),
                    chunk_id: chunk_id.to_owned(),
                    pieces,
                }));
            };
            if let Some(content) = texts_of.chunks.get(chunk).filter(|_| named(TextQuery::CHUNKS)) {
                let highlighter = Highlighter::new(words, collection.text.chunks);
                add(TextQuery::CHUNKS, chunk, &highlighter, &content.text);
            }
            for field in collection.text.fields.iter().filter(|field| named(&field.attribute)) {
                let Some(value) = texts_of.attributes.get(&field.attribute) else { continue };
                let highlighter = Highlighter::new(words, field.language);
                for text in texts(value) {
                    deadline.check()?;
                    add(&field.attribute, "", &highlighter, text);
                }
            }
        }
        Ok(found)
    }
}
