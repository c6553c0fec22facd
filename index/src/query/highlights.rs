//! Showing why a hit answers to words.

use crate::{
    deadline::Deadline,
    error::{Error, Result},
    model::{Collection, ReadMask},
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
        Highlight { fragments, length }: Highlight,
        collection: &Collection,
        key: &EntityKey,
        chunk: &str,
        rows: &mut Rows,
        deadline: Deadline,
    ) -> Result<Vec<Highlighted>> {
        let mut found = Vec::new();
        for words in query.seeds.iter().filter_map(|seed| match seed {
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
            if !chunk.is_empty() && named(TextQuery::CHUNKS) {
                let row_key = key.chunk(chunk);
                if let Some(bytes) = self.snapshot.get(self.replica.keyspaces.chunk, &row_key)?
                    && let Some(content) = register::<ChunkContent>("chunk", &row_key, &bytes)?.value
                {
                    let highlighter = Highlighter::new(words, collection.text.chunks);
                    add(TextQuery::CHUNKS, chunk, &highlighter, &content.text);
                }
            }
            for field in collection.text.fields.iter().filter(|field| named(&field.attribute)) {
                let mask =
                    ReadMask { attribute_names: [field.attribute.clone()].into(), ..ReadMask::nothing() };
                let Some(row) = rows.get(self, key)? else { continue };
                let entity = self.fields(key, row, &mask)?;
                let Some(value) = entity.attributes.get(&field.attribute) else { continue };
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
