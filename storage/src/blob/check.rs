//! Looks at every byte of a blob file.

use std::ops::ControlFlow;
use std::path::Path;

use super::file::{block_at, open};
use super::format::{BlobMeta, HEADER_BYTES, LENGTH_BYTES};
use crate::error::Error;
use crate::files;
use crate::quarantine::Damage;
use crate::sequential::{Pace, Sequential};
use crate::table::frame::TRAILER_BYTES;
use crate::table::reader::TableContext;

/// Reads the file as it is on disk now, past the cache, and compares it with the checksum of each block and of the
/// whole in the manifest. Returns what is wrong with it.
pub(crate) fn check(context: &TableContext, meta: BlobMeta, pace: Pace<'_>) -> ControlFlow<(), Vec<Damage>> {
    let path = files::blob(&context.dir, meta.number);
    let mut damages = Vec::new();
    match read(context, meta, &path, pace, &mut damages) {
        Ok(ControlFlow::Break(())) => return ControlFlow::Break(()),
        Ok(ControlFlow::Continue(())) => {}
        Err(error) => damages.push(Damage::found(&path, 0, &error)),
    }
    ControlFlow::Continue(damages)
}

fn read(
    context: &TableContext,
    meta: BlobMeta,
    path: &Path,
    pace: Pace<'_>,
    damages: &mut Vec<Damage>,
) -> Result<ControlFlow<()>, Error> {
    let file = open(context, path, meta)?.file;
    let mut sequential = Sequential::new(&*file, meta.bytes);
    let mut advance = |sequential: &mut Sequential<'_>, end| {
        sequential.advance(end, pace).map_err(|source| Error::io("read", path, source))
    };
    let mut at = HEADER_BYTES as u64;
    // Behind a damaged block nobody knows whether its length is right, and where the next one lies.
    let mut is_lost = false;
    while at < meta.bytes {
        let start = at + LENGTH_BYTES as u64;
        if advance(&mut sequential, start)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        let len = sequential.slice(at, start).and_then(|len| Some(u32::from_le_bytes(*len.first_chunk()?)));
        let end = len.map(|len| start + u64::from(len) + TRAILER_BYTES as u64);
        let Some(end) = end.filter(|&end| end <= meta.bytes) else {
            if !is_lost {
                let error = Error::corruption(path, at, "the length of a block goes beyond the end");
                damages.push(Damage::found(path, at, &error));
            }
            break;
        };
        if advance(&mut sequential, end)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        let block = sequential.slice(at, end).unwrap_or_default();
        match block_at(meta.number, at, &block) {
            Ok(_) => is_lost = false,
            Err(_) if is_lost => break,
            Err(what) => {
                let error = Error::corruption(path, at, what);
                damages.push(Damage::found(path, at, &error));
                is_lost = true;
            }
        }
        at = end;
    }
    if advance(&mut sequential, meta.bytes)?.is_break() {
        return Ok(ControlFlow::Break(()));
    }
    if damages.is_empty() && sequential.digest() != meta.checksum {
        let error = Error::corruption(path, 0, "its checksum is not the one in the manifest");
        damages.push(Damage::found(path, 0, &error));
    }
    Ok(ControlFlow::Continue(()))
}
