//! Files as memory: the content of an immutable one as one slice, mapped or read; and nameless ones to work in.
#![allow(unsafe_code, reason = "a mapping is sound only while nobody else changes the file")]

use std::fmt;
use std::io;
use std::sync::atomic::AtomicU32;

/// Memory for a while, zeroed, in pages of a file without a name: the operating system may write them out where memory is short.
#[derive(Debug)]
pub struct ScratchFile(memmap2::MmapMut);

impl ScratchFile {
    /// Maps a whole file that nobody else can come by, whose space is allocated.
    pub(super) fn map(file: &std::fs::File) -> io::Result<Self> {
        // SAFETY: the file has no name any more, so that nobody else changes it or cuts it off.
        Ok(Self(unsafe { memmap2::MmapMut::map_mut(file)? }))
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bytes, to be changed.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }

    /// The same as words that several threads may change.
    pub fn into_words(self) -> ScratchWords {
        ScratchWords(self.0)
    }
}

/// A [`ScratchFile`] of words that several threads may change.
#[derive(Debug)]
pub struct ScratchWords(memmap2::MmapMut);

impl std::ops::Deref for ScratchWords {
    type Target = [AtomicU32];

    fn deref(&self) -> &[AtomicU32] {
        let (start, words) = (self.0.as_ptr().cast::<AtomicU32>(), self.0.len() / 4);
        // SAFETY: a mapping begins at a page and lives as long as `self`; it may be written to; every value of these words is
        // one; and as nothing else gives out references to the bytes, they are only ever touched as atomics.
        unsafe { std::slice::from_raw_parts(start, words) }
    }
}

/// The content of a file that is never changed again, aligned to 8 bytes at least.
pub struct Mapped(Content);

enum Content {
    /// Pages of the page cache: read when touched, and given back by the operating system when memory is short.
    Mapped(memmap2::Mmap),
    /// Anonymous memory. Words, so that numbers in it are aligned.
    Read { words: Vec<u64>, len: usize },
}

impl Mapped {
    /// Maps the whole file. Whoever calls promises that the file is not written to or cut off while the
    /// result lives; files that engine and indexes map are only ever created, renamed and removed.
    ///
    /// # Errors
    /// If the operating system refuses.
    pub(super) fn map(file: &std::fs::File) -> io::Result<Mapped> {
        if file.metadata()?.len() == 0 {
            return Mapped::read(0, |_| Ok(()));
        }
        // SAFETY: by the promise above the content does not change. Should another process cut the file off
        // all the same, the kernel ends this one with a signal; no wrong memory is read.
        Ok(Mapped(Content::Mapped(unsafe { memmap2::Mmap::map(file)? })))
    }

    /// Takes memory for `len` bytes and has it filled.
    ///
    /// # Errors
    /// What `fill` returns.
    pub(super) fn read(len: usize, fill: impl FnOnce(&mut [u8]) -> io::Result<()>) -> io::Result<Mapped> {
        let mut words = vec![0_u64; len.div_ceil(8)];
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
        fill(bytes.get_mut(..len).unwrap_or_default())?;
        Ok(Mapped(Content::Read { words, len }))
    }

    /// The content.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        match &self.0 {
            Content::Mapped(map) => map,
            Content::Read { words, len } => bytemuck::cast_slice(words).get(..*len).unwrap_or_default(),
        }
    }

    /// Whether the bytes are pages of the file, and no memory of this process alone.
    pub fn is_mapped(&self) -> bool {
        matches!(self.0, Content::Mapped(_))
    }

    /// Asks the operating system to read the pages of a range, if they are not in memory, without waiting for them.
    pub fn will_need(&self, range: std::ops::Range<usize>) {
        #[cfg(unix)]
        if let Content::Mapped(map) = &self.0
            && let Err(error) = map.advise_range(memmap2::Advice::WillNeed, range.start, range.len())
        {
            tracing::debug!(%error, "cannot advise the kernel about a mapping");
        }
    }

    /// Tells the operating system that pages will be touched in no order, so that it reads no others ahead.
    pub fn expect_random_reads(&self) {
        #[cfg(unix)]
        if let Content::Mapped(map) = &self.0
            && let Err(error) = map.advise(memmap2::Advice::Random)
        {
            tracing::debug!(%error, "cannot advise the kernel about a mapping");
        }
    }
}

impl fmt::Debug for Mapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapped").field("len", &self.bytes().len()).field("mapped", &self.is_mapped()).finish()
    }
}
