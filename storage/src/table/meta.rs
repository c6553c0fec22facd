//! What is known of a table beside its content.

use bytes::Bytes;
use prost::Message;

use crate::Sequence;
use crate::blob::BlobUse;
use crate::key::Position;
use crate::options::Keyspace;

/// The sequence of every entry in a table that gets its sequence as a whole.
pub(crate) const STORED_SEQUENCE: Sequence = 1;

/// The keyspace of a table that was built apart from any store.
pub(crate) const EXTERNAL_KEYSPACE: Keyspace = Keyspace(u16::MAX);

/// What a table says about itself, in its properties block.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Properties {
    #[prost(uint32, tag = "1")]
    pub(crate) keyspace: u32,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) smallest: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) largest: Vec<u8>,
    #[prost(uint64, tag = "4")]
    pub(crate) smallest_sequence: u64,
    #[prost(uint64, tag = "5")]
    pub(crate) largest_sequence: u64,
    #[prost(uint64, tag = "6")]
    pub(crate) entries: u64,
    #[prost(uint64, tag = "7")]
    pub(crate) tombstones: u64,
    /// By file.
    #[prost(message, repeated, tag = "8")]
    pub(crate) blobs: Vec<BlobUse>,
}

/// What the manifest says about a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TableMeta {
    pub(crate) number: u64,
    /// What its checksums are salted with: the number, unless it was built elsewhere.
    pub(crate) id: u64,
    pub(crate) keyspace: Keyspace,
    pub(crate) bytes: u64,
    /// xxh3 of the whole file.
    pub(crate) checksum: u64,
    pub(crate) smallest: Bytes,
    pub(crate) largest: Bytes,
    pub(crate) smallest_sequence: Sequence,
    pub(crate) largest_sequence: Sequence,
    pub(crate) entries: u64,
    pub(crate) tombstones: u64,
    /// The sequence of all entries, which then are stored with [`STORED_SEQUENCE`]; without it each has its own.
    pub(crate) global_sequence: Option<Sequence>,
    /// All range tombstones up to this sequence have been applied: no version that one of them deletes is left.
    pub(crate) cleaned: Sequence,
}

impl TableMeta {
    /// What the table's properties have to be, if its entries refer to so much of blob files.
    pub(crate) fn properties(&self, blobs: &[BlobUse]) -> Properties {
        let stored = |sequence| self.global_sequence.map_or(sequence, |_| STORED_SEQUENCE);
        Properties {
            keyspace: u32::from(self.global_sequence.map_or(self.keyspace, |_| EXTERNAL_KEYSPACE).0),
            smallest: self.smallest.to_vec(),
            largest: self.largest.to_vec(),
            smallest_sequence: stored(self.smallest_sequence),
            largest_sequence: stored(self.largest_sequence),
            entries: self.entries,
            tombstones: self.tombstones,
            blobs: blobs.to_vec(),
        }
    }

    /// The place among the stored entries that a place among the versions is.
    pub(crate) fn stored_position(&self, position: &Position) -> Position {
        let sequence = match self.global_sequence {
            None => position.sequence,
            Some(global) if position.sequence >= global => Sequence::MAX,
            Some(_) => 0,
        };
        Position { key: position.key.clone(), sequence }
    }
}
