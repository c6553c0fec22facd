//! Mapped files as tantivy reads them: it keeps parts of them for as long as it likes.
#![allow(unsafe_code, reason = "tantivy is promised that the bytes stay where they are")]

use std::{
    fmt, io,
    ops::{Deref, Range},
    sync::Arc,
};

use allidb_storage::fs::Mapped;
use tantivy::directory::{FileHandle, OwnedBytes};

/// A mapped file that several may read.
#[derive(Clone)]
pub(super) struct Shared(Arc<Mapped>);

impl Shared {
    pub(super) fn new(mapped: Mapped) -> Self {
        Self(Arc::new(mapped))
    }
}

impl Deref for Shared {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.bytes()
    }
}

// SAFETY: the bytes lie in a mapping or a buffer that neither moves nor changes while the `Arc` lives that all clones share.
unsafe impl stable_deref_trait::StableDeref for Shared {}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} mapped bytes", self.0.bytes().len())
    }
}

impl FileHandle for Shared {
    fn read_bytes(&self, range: Range<usize>) -> io::Result<OwnedBytes> {
        if range.start > range.end || range.end > self.0.bytes().len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(OwnedBytes::new(self.clone()).slice(range))
    }
}
