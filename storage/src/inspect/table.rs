//! Describes a table.

use std::path::Path;

use bytes::Bytes;

use super::{Entry, InspectOptions};
use crate::error::Error;
use crate::fs::File;
use crate::quarantine::Damage;
use crate::snapshot::Direction;
use crate::table::block::Block;
use crate::table::block_cursor::BlockCursor;
use crate::table::footer::{FOOTER_BYTES, claims};
use crate::table::meta::Properties;
use crate::table::parts::{Part, Parts};
use crate::table::reader::read_block;
use crate::{Keyspace, Sequence};

/// A table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TableFile {
    /// The number of the file, from its name.
    pub number: u64,
    /// What the checksums in it are salted with: the number, unless it was built elsewhere.
    pub id: u64,
    /// The length of the file, in bytes.
    pub bytes: u64,
    /// The version of its format; `None` if the footer is damaged.
    pub format: Option<u32>,
    /// What it says about itself; `None` if that is damaged.
    pub properties: Option<TableProperties>,
    /// Its blocks, in the order in which they lie in the file. Without a readable index no data blocks are known.
    pub blocks: Vec<TableBlock>,
    /// What is wrong with it.
    pub damages: Vec<Damage>,
}

/// What a table says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TableProperties {
    /// The id of its keyspace.
    pub keyspace: u32,
    /// Its smallest key.
    pub smallest: Bytes,
    /// Its largest key.
    pub largest: Bytes,
    /// Its smallest sequence.
    pub smallest_sequence: Sequence,
    /// Its largest sequence.
    pub largest_sequence: Sequence,
    /// Its entries, tombstones among them.
    pub entries: u64,
    /// Its tombstones.
    pub tombstones: u64,
}

impl From<Properties> for TableProperties {
    fn from(properties: Properties) -> TableProperties {
        TableProperties {
            keyspace: properties.keyspace,
            smallest: properties.smallest.into(),
            largest: properties.largest.into(),
            smallest_sequence: properties.smallest_sequence,
            largest_sequence: properties.largest_sequence,
            entries: properties.entries,
            tombstones: properties.tombstones,
        }
    }
}

/// What a block of a table holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TablePart {
    /// Entries.
    Data,
    /// The filter.
    Filter,
    /// Where the data blocks lie.
    Index,
    /// What the table says about itself.
    Properties,
}

/// A block of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TableBlock {
    /// What it holds.
    pub part: TablePart,
    /// Where it lies.
    pub offset: u64,
    /// Its length in the file without its trailer, in bytes.
    pub stored_bytes: u64,
    /// Its length in memory, in bytes; 0 if it is damaged.
    pub bytes: u64,
    /// How many entries a data block holds.
    pub entry_count: u64,
    /// The entries of a data block, if they were asked for.
    pub entries: Vec<Entry>,
}

pub(super) fn inspect(
    file: &dyn File,
    path: &Path,
    number: u64,
    options: InspectOptions,
) -> Result<TableFile, Error> {
    let len = file.byte_len().map_err(|source| Error::io("stat", path, source))?;
    // A table that was built elsewhere says itself what its checksums are salted with.
    let mut footer = [0; FOOTER_BYTES];
    let claimed = match len.checked_sub(FOOTER_BYTES as u64) {
        Some(start) => {
            file.read_exact_at(start, &mut footer).map_err(|source| Error::io("read", path, source))?;
            claims(&footer)
        }
        None => None,
    };
    let id = claimed.and_then(|(_, id)| id).unwrap_or(number);
    let parts = Parts::read(file, path, id, len)?;
    let mut found = TableFile {
        number,
        id,
        bytes: len,
        format: parts.footer.and(claimed).map(|(format, _)| format),
        properties: parts.properties.map(TableProperties::from),
        blocks: Vec::with_capacity(parts.blocks.len()),
        damages: parts.damages,
    };
    let keyspace = found.properties.as_ref().and_then(|properties| u16::try_from(properties.keyspace).ok());
    let keyspace = Keyspace(keyspace.unwrap_or_default());
    for (part, handle) in parts.blocks {
        let part = match part {
            Part::Data => TablePart::Data,
            Part::Filter => TablePart::Filter,
            Part::Index => TablePart::Index,
            Part::Properties => TablePart::Properties,
        };
        let mut block = TableBlock {
            part,
            offset: handle.offset,
            stored_bytes: handle.len,
            bytes: 0,
            entry_count: 0,
            entries: Vec::new(),
        };
        match read_block(file, path, id, len, handle) {
            Ok(bytes) => {
                block.bytes = bytes.len() as u64;
                if part == TablePart::Data
                    && let Err(error) = block.read(path, bytes, keyspace, options)
                {
                    found.damages.push(Damage::found(path, handle.offset, &error));
                }
            }
            // The parts has reported other parts already.
            Err(error) if part == TablePart::Data => {
                found.damages.push(Damage::found(path, handle.offset, &error));
            }
            Err(_) => {}
        }
        found.blocks.push(block);
    }
    Ok(found)
}

impl TableBlock {
    fn read(
        &mut self,
        path: &Path,
        bytes: Bytes,
        keyspace: Keyspace,
        options: InspectOptions,
    ) -> Result<(), Error> {
        let malformed = |_| Error::corruption(path, self.offset, "a malformed block");
        let block = Block::new(bytes).map_err(malformed)?;
        let mut cursor = BlockCursor::first(block, Direction::Forward).map_err(malformed)?;
        while let Some((key, sequence)) = cursor.key() {
            self.entry_count += 1;
            if options.entries {
                let (kind, held) = (cursor.kind(), cursor.value_bytes());
                self.entries.push(Entry::new(options, keyspace, sequence, key, kind, held));
            }
            cursor.advance().map_err(malformed)?;
        }
        Ok(())
    }
}
