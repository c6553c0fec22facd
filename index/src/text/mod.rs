//! Text: which words stand where, and how well a text answers to some words.
//!
//! | module | concept |
//! |---|---|
//! | `words` | taking texts apart, by language |
//! | `document` | the words of an entity or a chunk |
//! | `growing` | fresh documents, in memory |
//! | `segment`, `directory`, `shared` | sealed documents, in tantivy's files |
//! | `search`, `source` | where the words of a query stand, and what they weigh |
//! | `ranking` | how well documents answer to them, and which do best |
//! | `having` | which documents have words |
//! | `names` | how well short values do |
//! | `highlight` | the parts of a text that answer |
//! | `phrase` | words one after the other |
//! | `index` | what is fresh and what is sealed; statistics |
//! | `open` | opening, replaying the journal, reading texts again |
//! | `upkeep`, `tiers` | sealing and merging in the background |

mod directory;
mod document;
mod growing;
mod having;
mod highlight;
mod index;
mod names;
mod open;
mod phrase;
mod ranking;
mod search;
mod segment;
mod shared;
mod source;
mod tiers;
mod upkeep;
mod words;

pub(crate) use document::{CHUNK_FIELD, Document, texts};
pub(crate) use having::Having;
pub(crate) use highlight::Highlighter;
pub use index::TextCounts;
pub(crate) use index::{TextChange, TextIndex, TextView};
pub(crate) use open::{DIRECTORY, TextContext, document_of_entity};
pub(crate) use ranking::Ranking;
pub(crate) use search::TextSearch;
pub(crate) use upkeep::place;
pub(crate) use words::words;
