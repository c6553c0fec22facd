//! Sealed texts: one immutable segment in tantivy's format, with one field for chunks and one for each declared attribute.
//!
//! Words begin with the number of their collection, so that what is counted and walked through is of one collection alone.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
};

use allidb_storage::fs::Fs;
use tantivy::{
    BitSet, DocSet, Index, IndexSettings, SegmentReader, TERMINATED, TantivyDocument, TantivyError, Term,
    columnar::Column,
    directory::error::{OpenReadError, OpenWriteError},
    fastfield::AliveBitSet,
    fieldnorm::FieldNormReader,
    index::InvertedIndexReader,
    indexer::merge_filtered_segments,
    postings::{BlockSegmentPostings, Postings, SegmentPostings},
    schema::{Field, IndexRecordOption, NumericOptions, Schema, TextFieldIndexing, TextOptions},
    store::Compressor,
    tokenizer::{PreTokenizedString, Token},
};

use crate::{
    error::{Error, Result},
    interpolation::first_not_below,
    model::CollectionId,
    text::{directory::SegmentFiles, document::FIELDS, growing::Visible},
};

/// Memory that tantivy takes at first for the words of a segment that is being written. It takes more as it needs.
const WRITER_BYTES: usize = 64 << 20;
const NUMBER: &str = "number";
const COLLECTION: &str = "collection";

/// An open segment.
pub(crate) struct TextSegment {
    pub(crate) id: u64,
    files: SegmentFiles,
    index: Index,
    reader: SegmentReader,
    numbers: Column<u64>,
    collections: Column<u64>,
    /// Documents in the order of their numbers.
    by_number: Vec<u32>,
    words: Vec<Arc<InvertedIndexReader>>,
    lengths: Vec<Option<FieldNormReader>>,
}

impl std::fmt::Debug for TextSegment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.files)
    }
}

fn schema() -> Schema {
    let mut schema = Schema::builder();
    schema.add_u64_field(NUMBER, NumericOptions::default().set_fast());
    schema.add_u64_field(COLLECTION, NumericOptions::default().set_fast());
    let words = TextFieldIndexing::default()
        .set_tokenizer("raw")
        .set_index_option(IndexRecordOption::WithFreqsAndPositions);
    let words = TextOptions::default().set_indexing_options(words);
    for field in 0..FIELDS {
        schema.add_text_field(&format!("text{field}"), words.clone());
    }
    schema.build()
}

/// The handle of a text field: numbers and collections come first.
fn field_of(field: u8) -> Field {
    Field::from_field_id(2 + u32::from(field))
}

fn settings() -> IndexSettings {
    IndexSettings {
        docstore_compression: Compressor::None,
        docstore_compress_dedicated_thread: false,
        ..IndexSettings::default()
    }
}

/// A word as it stands in the index.
fn indexed(collection: CollectionId, word: &str) -> String {
    format!("{:x} {word}", collection.0)
}

impl TextSegment {
    /// Writes documents to a new segment, durably.
    pub(crate) fn write(fs: &Arc<dyn Fs>, dir: &Path, id: u64, documents: Vec<Visible>) -> Result<Self> {
        let files = SegmentFiles::new(fs, dir, id);
        let failed = failed(&files, "write");
        let builder = Index::builder().schema(schema()).settings(settings());
        let mut writer = builder
            .single_segment_index_writer::<TantivyDocument>(files.clone(), WRITER_BYTES)
            .map_err(&failed)?;
        for (fresh, words) in documents {
            let mut document = TantivyDocument::new();
            document.add_u64(Field::from_field_id(0), fresh.number);
            document.add_u64(Field::from_field_id(1), fresh.collection.0);
            for field in 0..FIELDS as u8 {
                let mut tokens: Vec<Token> = Vec::new();
                for (_, word, positions) in words.iter().filter(|(of, ..)| *of == field) {
                    let text = indexed(fresh.collection, word);
                    tokens.extend(positions.iter().map(|position| Token {
                        position: *position as usize,
                        text: text.clone(),
                        ..Token::default()
                    }));
                }
                if !tokens.is_empty() {
                    tokens.sort_by_key(|token| token.position);
                    let text = PreTokenizedString { text: String::new(), tokens };
                    document.add_pre_tokenized_text(field_of(field), text);
                }
            }
            writer.add_document(document).map_err(&failed)?;
        }
        writer.finalize().map_err(&failed)?;
        Self::open(fs, dir, id)
    }

    /// Makes one segment of several, of the documents that `lives` says, and writes it durably.
    pub(crate) fn merge(
        fs: &Arc<dyn Fs>,
        dir: &Path,
        id: u64,
        inputs: &[&TextSegment],
        lives: impl Fn(usize, u32) -> bool,
    ) -> Result<Self> {
        let files = SegmentFiles::new(fs, dir, id);
        let failed = failed(&files, "write");
        let mut segments = Vec::new();
        let mut filters = Vec::new();
        for (at, input) in inputs.iter().enumerate() {
            segments.extend(input.index.searchable_segments().map_err(&failed)?);
            let mut alive = BitSet::with_max_value(input.len());
            (0..input.len()).filter(|document| lives(at, *document)).for_each(|document| {
                alive.insert(document);
            });
            let mut bytes = Vec::new();
            alive.serialize(&mut bytes).map_err(|error| failed(error.into()))?;
            filters.push(Some(AliveBitSet::open(tantivy::directory::OwnedBytes::new(bytes))));
        }
        merge_filtered_segments(&segments, settings(), filters, files.clone()).map_err(&failed)?;
        Self::open(fs, dir, id)
    }

    /// Opens a segment, all of which is compared with its checksums.
    ///
    /// # Errors
    /// If it is not there, or not as it was written.
    pub(crate) fn open(fs: &Arc<dyn Fs>, dir: &Path, id: u64) -> Result<Self> {
        // What the checksums do not cover may lead tantivy astray.
        let opened = catch_unwind(AssertUnwindSafe(|| Self::open_unguarded(fs, dir, id)));
        let panicked = |_| Err(damage(&SegmentFiles::new(fs, dir, id), "it makes no sense".to_owned()));
        opened.unwrap_or_else(panicked)
    }

    fn open_unguarded(fs: &Arc<dyn Fs>, dir: &Path, id: u64) -> Result<Self> {
        let files = SegmentFiles::new(fs, dir, id);
        let named = files.clone();
        let failed = failed(&named, "read");
        let index = Index::open(files.clone()).map_err(&failed)?;
        if let Some(damaged) = index.validate_checksum().map_err(&failed)?.into_iter().next() {
            return Err(damage(&files, format!("{} is not as it was written", damaged.display())));
        }
        let [segment] = &index.searchable_segments().map_err(&failed)?[..] else {
            return Err(damage(&files, "it has not one part".to_owned()));
        };
        if index.schema() != schema() {
            return Err(damage(&files, "it has other fields".to_owned()));
        }
        let reader = SegmentReader::open(segment).map_err(&failed)?;
        let numbers = reader.fast_fields().u64(NUMBER).map_err(&failed)?;
        let collections = reader.fast_fields().u64(COLLECTION).map_err(&failed)?;
        if numbers.num_docs() != reader.max_doc() || collections.num_docs() != reader.max_doc() {
            return Err(damage(&named, "it has another number of documents than it says".to_owned()));
        }
        let mut by_number: Vec<(u64, u32)> =
            (0..reader.max_doc()).map(|document| (numbers.first(document).unwrap_or(0), document)).collect();
        by_number.sort_unstable();
        let by_number = by_number.into_iter().map(|(_, document)| document).collect();
        let fields = || (0..FIELDS as u8).map(field_of);
        let words = fields().map(|field| reader.inverted_index(field)).collect::<Result<_, _>>();
        let lengths = fields().map(|field| reader.fieldnorms_readers().get_field(field));
        let lengths = lengths.collect::<Result<_, _>>().map_err(&failed)?;
        let words = words.map_err(&failed)?;
        Ok(Self { id, files, index, reader, numbers, collections, by_number, words, lengths })
    }

    /// Documents, dead or alive.
    pub(crate) fn len(&self) -> u32 {
        self.reader.max_doc()
    }

    pub(crate) fn number(&self, document: u32) -> u64 {
        self.numbers.first(document).unwrap_or(0)
    }

    pub(crate) fn collection(&self, document: u32) -> CollectionId {
        CollectionId(self.collections.first(document).unwrap_or(0))
    }

    /// The document of a number.
    pub(crate) fn document_of(&self, number: u64) -> Option<u32> {
        let at = first_not_below(0..self.by_number.len(), number, |at| self.number(self.by_number[at]));
        self.by_number.get(at).copied().filter(|document| self.number(*document) == number)
    }

    /// The code of the length of a document's field: zero if it has none.
    pub(crate) fn len_code(&self, field: u8, document: u32) -> u8 {
        self.lengths[usize::from(field)].as_ref().map_or(0, |lengths| lengths.fieldnorm_id(document))
    }

    /// Where a word stands, if it does, and how often.
    pub(crate) fn blocks(
        &self,
        field: u8,
        collection: CollectionId,
        word: &str,
    ) -> Result<Option<BlockSegmentPostings>> {
        let term = Term::from_field_text(field_of(field), &indexed(collection, word));
        let words = &self.words[usize::from(field)];
        let blocks = words.read_block_postings(&term, IndexRecordOption::WithFreqs);
        blocks.map_err(|error| failed(&self.files, "read")(error.into()))
    }

    /// Where a word stands, if it does.
    pub(crate) fn postings(
        &self,
        field: u8,
        collection: CollectionId,
        word: &str,
        with_positions: bool,
    ) -> Result<Option<SegmentPostings>> {
        let option = if with_positions {
            IndexRecordOption::WithFreqsAndPositions
        } else {
            IndexRecordOption::WithFreqs
        };
        let term = Term::from_field_text(field_of(field), &indexed(collection, word));
        let postings = self.words[usize::from(field)].read_postings(&term, option);
        postings.map_err(|error| failed(&self.files, "read")(error.into()))
    }

    /// Calls `each` with every word of a field and collection that begins so, in order, until it says no.
    pub(crate) fn words(
        &self,
        field: u8,
        collection: CollectionId,
        prefix: &str,
        each: &mut dyn FnMut(&str) -> bool,
    ) -> Result<()> {
        let start = indexed(collection, prefix);
        let head = start.len() - prefix.len();
        let words = self.words[usize::from(field)].terms().range().ge(&start).into_stream();
        let mut words = words.map_err(|error| failed(&self.files, "read")(error.into()))?;
        while let Some((word, _)) = words.next() {
            if !word.starts_with(start.as_bytes()) {
                break;
            }
            if let Ok(word) = std::str::from_utf8(&word[head..])
                && !each(word)
            {
                break;
            }
        }
        Ok(())
    }
}

/// The rest of a posting list: document and how often the word stands there.
pub(crate) fn next_posting(postings: &mut SegmentPostings) -> Option<(u32, u32)> {
    let document = postings.doc();
    if document == TERMINATED {
        return None;
    }
    let count = postings.term_freq();
    postings.advance();
    Some((document, count))
}

/// The same with positions.
pub(crate) fn next_places(postings: &mut SegmentPostings, positions: &mut Vec<u32>) -> Option<u32> {
    let document = postings.doc();
    if document == TERMINATED {
        return None;
    }
    postings.positions(positions);
    postings.advance();
    Some(document)
}

fn damage(files: &SegmentFiles, what: String) -> Error {
    let path = files.place(Path::new("meta.json"));
    allidb_storage::Error::Corruption { path, offset: 0, what }.into()
}

/// What went wrong, as the operator should read it.
fn failed<'a>(files: &'a SegmentFiles, op: &'static str) -> impl Fn(TantivyError) -> Error + 'a {
    move |error| {
        let io = |source: &std::io::Error| {
            let source = std::io::Error::new(source.kind(), source.to_string());
            Error::io(op, &files.place(Path::new("")), source)
        };
        match &error {
            TantivyError::IoError(error) => io(error),
            TantivyError::OpenReadError(OpenReadError::IoError { io_error, .. })
            | TantivyError::OpenWriteError(OpenWriteError::IoError { io_error, .. }) => io(io_error),
            TantivyError::OpenReadError(OpenReadError::FileDoesNotExist(_)) => {
                io(&std::io::ErrorKind::NotFound.into())
            }
            other => damage(files, other.to_string()),
        }
    }
}
