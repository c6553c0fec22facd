//! Looks at every byte of a table.

use std::ops::ControlFlow;
use std::path::Path;

use super::frame::unframe;
use super::meta::{Properties, TableMeta};
use super::parts::{Part, Parts, is_block};
use super::reader::TableContext;
use crate::error::Error;
use crate::files;
use crate::quarantine::Damage;
use crate::sequential::{Pace, Sequential};

/// What is wrong with a table's file.
#[derive(Debug, Default)]
pub(crate) struct Check {
    pub(crate) damages: Vec<Damage>,
    /// It may be whole in itself, and is not the file that the manifest means.
    pub(crate) is_foreign: bool,
}

/// Reads the file as it is on disk now, past the cache, and compares it with the checksum of each block, its properties
/// and the checksum of the whole in the manifest.
pub(crate) fn check(context: &TableContext, meta: &TableMeta, pace: Pace<'_>) -> ControlFlow<(), Check> {
    let path = files::table(&context.dir, meta.number);
    let mut check = Check::default();
    match check.read(context, meta, &path, pace) {
        Ok(ControlFlow::Break(())) => return ControlFlow::Break(()),
        Ok(ControlFlow::Continue(())) => {}
        Err(error) => check.damages.push(Damage::found(&path, 0, &error)),
    }
    ControlFlow::Continue(check)
}

impl Check {
    fn read(
        &mut self,
        context: &TableContext,
        meta: &TableMeta,
        path: &Path,
        pace: Pace<'_>,
    ) -> Result<ControlFlow<()>, Error> {
        let file = context.fs.open(path).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => {
                Error::corruption(path, 0, "the manifest names it and it is missing")
            }
            _ => Error::io("open", path, source),
        })?;
        let len = file.byte_len().map_err(|source| Error::io("stat", path, source))?;
        if len != meta.bytes {
            let what = format!("it has {len} bytes and the manifest says {}", meta.bytes);
            return Err(Error::corruption(path, len.min(meta.bytes), what));
        }
        let parts = Parts::read(&*file, path, meta.id, len)?;
        self.damages.extend(parts.damages);
        let mut sequential = Sequential::new(&*file, len);
        for (part, handle) in parts.blocks {
            let Some(end) = handle.end().filter(|&end| end <= len) else {
                let error = Error::corruption(path, handle.offset, "a block beyond the end");
                self.damages.push(Damage::found(path, handle.offset, &error));
                continue;
            };
            match sequential.advance(end, pace) {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(())) => return Ok(ControlFlow::Break(())),
                Err(source) => return Err(Error::io("read", path, source)),
            }
            let wrong = match sequential.slice(handle.offset, end) {
                None => Some("a block that overlaps another"),
                // The parts has reported other parts already.
                Some(_) if part != Part::Data => None,
                Some(framed) => match unframe(&framed, meta.id, handle.offset) {
                    Ok(block) => (!is_block(block)).then_some("a malformed block"),
                    Err(what) => Some(what),
                },
            };
            if let Some(what) = wrong {
                let error = Error::corruption(path, handle.offset, what);
                self.damages.push(Damage::found(path, handle.offset, &error));
            }
        }
        match sequential.advance(len, pace) {
            Ok(ControlFlow::Continue(())) => {}
            Ok(ControlFlow::Break(())) => return Ok(ControlFlow::Break(())),
            Err(source) => return Err(Error::io("read", path, source)),
        }
        let properties = parts.properties;
        if let Some(footer) = parts.footer
            && properties.is_some_and(|properties| {
                Properties { blobs: Vec::new(), ..properties } != meta.properties(&[])
            })
        {
            self.is_foreign = true;
            let at = footer.properties.offset;
            let error = Error::corruption(path, at, "its properties are not those in the manifest");
            self.damages.push(Damage::found(path, at, &error));
        }
        if self.damages.is_empty() && sequential.digest() != meta.checksum {
            self.is_foreign = true;
            let error = Error::corruption(path, 0, "its checksum is not the one in the manifest");
            self.damages.push(Damage::found(path, 0, &error));
        }
        Ok(ControlFlow::Continue(()))
    }
}
