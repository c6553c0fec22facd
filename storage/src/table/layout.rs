//! Where index and filter of an open table are: in memory, or in partitions that are read through the cache.

use std::sync::Arc;

use bytes::Bytes;

use super::block::{Block, Malformed};
use super::data_block::DataBlock;
use super::filter::Filter;
use super::frame::Handle;
use super::index::Index;
use super::pins::Pins;
use super::top_index::TopIndex;
use crate::cache::Cached;

/// What an open table keeps in memory.
#[derive(Debug)]
pub(crate) enum Layout {
    /// All of index and filter; a small table, or one of format 1.
    Whole {
        /// Where the index came from.
        handle: Handle,
        index: Arc<Index>,
        filter: Option<Filter>,
    },
    /// The top level of the index.
    Partitioned {
        /// Where it came from.
        handle: Handle,
        top: TopIndex,
        /// What stays in memory of the rest.
        pins: Option<Pins>,
    },
}

impl Layout {
    /// The number of partitions; a whole index is one.
    pub(crate) fn partitions(&self) -> usize {
        match self {
            Layout::Whole { .. } => 1,
            Layout::Partitioned { top, .. } => top.partitions().len(),
        }
    }

    /// Memory it takes, in bytes.
    pub(crate) fn byte_len(&self) -> usize {
        match self {
            Layout::Whole { index, filter, .. } => {
                index.byte_len() + filter.as_ref().map_or(0, Filter::byte_len)
            }
            Layout::Partitioned { top, pins, .. } => top.byte_len() + pins.as_ref().map_or(0, Pins::byte_len),
        }
    }

    /// Where the index, or its top level, lies.
    pub(crate) fn handle(&self) -> Handle {
        match self {
            Layout::Whole { handle, .. } | Layout::Partitioned { handle, .. } => *handle,
        }
    }

    /// What is known without reading: data blocks, or partitions of a large table.
    pub(crate) fn parts(&self) -> usize {
        match self {
            Layout::Whole { index, .. } => index.entries(),
            Layout::Partitioned { top, .. } => top.partitions().len(),
        }
    }

    /// The first of these parts that may hold keys from `key` on; their number if there is none.
    pub(crate) fn part_at_least(&self, key: &[u8]) -> Result<usize, Malformed> {
        match self {
            Layout::Whole { index, .. } => index.at_least(key),
            Layout::Partitioned { top, .. } => top.at_least(key),
        }
    }

    /// The first partition that may know keys from `key` on; their number if there is none.
    pub(crate) fn at_least(&self, key: &[u8]) -> Result<usize, Malformed> {
        match self {
            Layout::Whole { .. } => Ok(0),
            Layout::Partitioned { top, .. } => top.at_least(key),
        }
    }

    /// The first partition that may know keys greater than `key`; their number if there is none.
    pub(crate) fn above(&self, key: &[u8]) -> Result<usize, Malformed> {
        match self {
            Layout::Whole { .. } => Ok(0),
            Layout::Partitioned { top, .. } => top.above(key),
        }
    }
}

/// A part of a table that the cache may hold.
pub(crate) trait Part: Clone + Into<Cached> {
    /// What a part that makes no sense is called.
    const MALFORMED: &'static str;

    fn parse(bytes: Bytes) -> Result<Self, Malformed>;

    /// `None` if it is a part of another kind.
    fn of(cached: Cached) -> Option<Self>;
}

impl Part for Arc<DataBlock> {
    const MALFORMED: &'static str = "a malformed block";

    fn parse(bytes: Bytes) -> Result<Arc<DataBlock>, Malformed> {
        DataBlock::new(Block::new(bytes)?).map(Arc::new)
    }

    fn of(cached: Cached) -> Option<Arc<DataBlock>> {
        if let Cached::Block(block) = cached { Some(block) } else { None }
    }
}

impl From<Arc<DataBlock>> for Cached {
    fn from(block: Arc<DataBlock>) -> Cached {
        Cached::Block(block)
    }
}

impl Part for Arc<Index> {
    const MALFORMED: &'static str = "a malformed index";

    fn parse(bytes: Bytes) -> Result<Arc<Index>, Malformed> {
        Index::new(Block::new(bytes)?).map(Arc::new)
    }

    fn of(cached: Cached) -> Option<Arc<Index>> {
        if let Cached::Index(index) = cached { Some(index) } else { None }
    }
}

impl From<Arc<Index>> for Cached {
    fn from(index: Arc<Index>) -> Cached {
        Cached::Index(index)
    }
}

impl Part for Filter {
    const MALFORMED: &'static str = "a malformed filter";

    fn parse(bytes: Bytes) -> Result<Filter, Malformed> {
        Filter::new(bytes).ok_or(Malformed)
    }

    fn of(cached: Cached) -> Option<Filter> {
        if let Cached::Filter(filter) = cached { Some(filter) } else { None }
    }
}

impl From<Filter> for Cached {
    fn from(filter: Filter) -> Cached {
        Cached::Filter(filter)
    }
}
