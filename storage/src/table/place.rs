//! Data blocks in order, across the partitions of an index.

use std::sync::Arc;

use super::cursor::Access;
use super::frame::Handle;
use super::index::Index;
use super::reader::Table;
use crate::error::Error;

/// A data block's place in its table. Holds the partition of the index that knows it, so that most steps to the next
/// need no look into the cache.
#[derive(Debug)]
pub(crate) struct Place {
    partition: usize,
    index: Arc<Index>,
    at: usize,
}

impl Table {
    /// The first block; `None` if there is none.
    pub(crate) fn first_place(&self, access: Access) -> Result<Option<Place>, Error> {
        self.place_from(0, access, |_| Ok(0))
    }

    /// The last block; `None` if there is none.
    pub(crate) fn last_place(&self, access: Access) -> Result<Option<Place>, Error> {
        self.last_of(self.layout()?.partitions(), access)
    }

    /// The first block that may hold keys from `key` on; `None` if there is none.
    pub(crate) fn place_at_least(&self, key: &[u8], access: Access) -> Result<Option<Place>, Error> {
        let partition = self.layout()?.at_least(key).map_err(|_| self.malformed_index())?;
        self.place_from(partition, access, |index| index.at_least(key).map_err(|_| self.malformed_index()))
    }

    /// The first block in which keys greater than `key` may start, or else the last one; `None` if there is no block.
    pub(crate) fn place_above(&self, key: &[u8], access: Access) -> Result<Option<Place>, Error> {
        let partition = self.layout()?.above(key).map_err(|_| self.malformed_index())?;
        let search = |index: &Index| index.above(key).map_err(|_| self.malformed_index());
        match self.place_from(partition, access, search)? {
            Some(place) => Ok(Some(place)),
            None => self.last_place(access),
        }
    }

    /// The block behind; `None` at the end.
    pub(crate) fn place_behind(&self, place: Place, access: Access) -> Result<Option<Place>, Error> {
        let at = place.at + 1;
        if at < place.index.entries() {
            return Ok(Some(Place { at, ..place }));
        }
        self.place_from(place.partition + 1, access, |_| Ok(0))
    }

    /// The block before; `None` at the start.
    pub(crate) fn place_before(&self, place: Place, access: Access) -> Result<Option<Place>, Error> {
        match place.at.checked_sub(1) {
            Some(at) => Ok(Some(Place { at, ..place })),
            None => self.last_of(place.partition, access),
        }
    }

    /// Where the block lies.
    pub(crate) fn handle_at(&self, place: &Place) -> Result<Handle, Error> {
        place.index.handle(place.at).map_err(|_| self.malformed_index())
    }

    /// The block that `search` finds in a partition, or the first one behind it.
    fn place_from(
        &self,
        mut partition: usize,
        access: Access,
        search: impl Fn(&Index) -> Result<usize, Error>,
    ) -> Result<Option<Place>, Error> {
        while partition < self.layout()?.partitions() {
            let index = self.index_partition(partition, access)?;
            let at = search(&index)?;
            if at < index.entries() {
                return Ok(Some(Place { partition, index, at }));
            }
            partition += 1;
        }
        Ok(None)
    }

    /// The last block before a partition.
    fn last_of(&self, mut partition: usize, access: Access) -> Result<Option<Place>, Error> {
        while let Some(before) = partition.checked_sub(1) {
            let index = self.index_partition(before, access)?;
            if let Some(at) = index.entries().checked_sub(1) {
                return Ok(Some(Place { partition: before, index, at }));
            }
            partition = before;
        }
        Ok(None)
    }
}
