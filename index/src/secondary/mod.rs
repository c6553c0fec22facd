//! Secondary indexes: which entities have which values in a declared field.
//!
//! A posting is a row of the store: collection, index, the value in a form whose bytes sort as the values do, and the number of an
//! entity. Postings are written in the batch that writes the entity, so that they are as fresh, as durable and as consistent under a
//! snapshot as the entity's own row, and there is nothing to rebuild after a crash. An index that is declared later is built in the
//! background from the rows, beside writes, and used once it is whole.
//!
//! # Map
//!
//! | module | concept |
//! |---|---|
//! | `term` | values as bytes that sort as they do, and the terms of an entity's field |
//! | `posting` | rows of postings, and which of them a write changes |
//! | `lookup` | the ranges of terms that a condition asks for |
//! | `plan` | which postings a filter is answered from, by how many there are, and which entities they name |
//! | `read` | those entities in the order of their ids, and how many they are |
//! | `facets` | which values a field has, and how many have each |
//! | `build` | filling an index that was declared when entities were there already |

mod build;
mod facets;
mod lookup;
mod plan;
mod posting;
mod read;
mod term;

pub(crate) use build::{BUILT, built_row};
pub use facets::{Facet, FacetCounts};
pub(crate) use plan::Planned;
pub(crate) use posting::{ChangedPostings, changed_postings, postings_of_collection, postings_of_index};
