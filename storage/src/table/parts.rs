//! Where the parts of a table lie, as far as the file makes sense: for those who look for damage.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use super::block::Block;
use super::filter::Filter;
use super::footer::{Footer, IndexLayout};
use super::frame::Handle;
use super::index::Index;
use super::layout;
use super::meta::Properties;
use super::reader::{parse, read_block, read_footer};
use super::top_index::TopIndex;
use crate::error::Error;
use crate::fs::File;
use crate::quarantine::Damage;

/// What a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Data,
    Filter,
    /// The index, a partition of it, or its top level.
    Index,
    Properties,
}

/// The parts of a table.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    /// `None` if it is damaged; nothing else is known then.
    pub(crate) footer: Option<Footer>,
    pub(crate) properties: Option<Properties>,
    /// In the order in which they lie in the file. Those that no readable index names are missing.
    pub(crate) blocks: Vec<(Part, Handle)>,
    /// Damage in other parts than data blocks.
    pub(crate) damages: Vec<Damage>,
}

/// The file that parts are read from.
struct Source<'a> {
    file: &'a dyn File,
    path: &'a Path,
    id: u64,
    len: u64,
}

impl Source<'_> {
    fn read(&self, handle: Handle) -> Result<Bytes, Error> {
        read_block(self.file, self.path, self.id, self.len, handle)
    }

    fn parse<P: layout::Part>(&self, handle: Handle) -> Result<P, Error> {
        parse(self.path, handle, self.read(handle)?)
    }

    fn damage(&self, offset: u64, what: &str) -> Error {
        Error::corruption(self.path, offset, what)
    }
}

impl Parts {
    /// Reads everything but the data blocks of the table `id`, whose file has `len` bytes.
    ///
    /// # Errors
    /// [`Error::NewerFormat`]; damage and failed reads are among the parts.
    pub(crate) fn read(file: &dyn File, path: &Path, id: u64, len: u64) -> Result<Parts, Error> {
        let mut parts = Parts::default();
        let footer = match read_footer(file, path, id, len) {
            Ok(footer) => footer,
            Err(error @ Error::NewerFormat { .. }) => return Err(error),
            Err(error) => {
                parts.damages.push(Damage::found(path, 0, &error));
                return Ok(parts);
            }
        };
        parts.footer = Some(footer);
        let source = Source { file, path, id, len };
        let at = footer.properties;
        parts.properties = parts.take(&source, Part::Properties, at, |source| {
            let malformed = |_| source.damage(at.offset, "malformed properties");
            Properties::decode(source.read(at)?).map_err(malformed)
        });
        if footer.filter.len > 0 {
            parts.filter(&source, footer.filter);
        }
        match footer.layout {
            IndexLayout::Whole => parts.index(&source, footer.index),
            IndexLayout::Partitioned => {
                let at = footer.index;
                let top = parts.take(&source, Part::Index, at, |source| {
                    let malformed = |_| source.damage(at.offset, "a malformed top-level index");
                    Block::new(source.read(at)?).and_then(TopIndex::new).map_err(malformed)
                });
                for partition in top.iter().flat_map(TopIndex::partitions) {
                    parts.index(&source, partition.index);
                    if let Some(filter) = partition.filter {
                        parts.filter(&source, filter);
                    }
                }
            }
        }
        parts.blocks.sort_by_key(|(_, handle)| handle.offset);
        Ok(parts)
    }

    /// Reads a whole index or a partition, which names data blocks.
    fn index(&mut self, source: &Source<'_>, handle: Handle) {
        let index: Option<Arc<Index>> = self.take(source, Part::Index, handle, |source| source.parse(handle));
        let Some(index) = index else { return };
        let blocks = (0..index.entries()).map(|at| index.handle(at));
        match blocks.collect::<Result<Vec<Handle>, _>>() {
            Ok(blocks) => self.blocks.extend(blocks.into_iter().map(|block| (Part::Data, block))),
            Err(_) => {
                let error = source.damage(handle.offset, "a malformed index");
                self.damages.push(Damage::found(source.path, handle.offset, &error));
            }
        }
    }

    fn filter(&mut self, source: &Source<'_>, handle: Handle) {
        self.take::<Filter>(source, Part::Filter, handle, |source| source.parse(handle));
    }

    fn take<T>(
        &mut self,
        source: &Source<'_>,
        part: Part,
        handle: Handle,
        read: impl FnOnce(&Source<'_>) -> Result<T, Error>,
    ) -> Option<T> {
        self.blocks.push((part, handle));
        let failed = |error| self.damages.push(Damage::found(source.path, handle.offset, &error));
        read(source).map_err(failed).ok()
    }
}

/// Whether the bytes of a data block are one.
pub(crate) fn is_block(bytes: Bytes) -> bool {
    Block::new(bytes).is_ok()
}
