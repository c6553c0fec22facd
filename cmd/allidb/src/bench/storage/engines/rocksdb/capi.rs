//! The few functions of `rocksdb/c.h` that are needed, and a safe wrapper around them.

#![expect(unsafe_code, reason = "calls into a C library; nothing else in this crate does")]

use std::{
    ffi::{CStr, CString, c_char, c_double, c_int, c_uchar, c_void},
    marker::PhantomData,
    os::unix::ffi::OsStrExt,
    path::Path,
    ptr::{self, NonNull},
    slice,
};

use anyhow::{Context, Result, bail, ensure};

/// `rocksdb_lz4_compression` of the header.
const LZ4: c_int = 4;

/// What pointers of the library point to.
macro_rules! opaque {
    ($($name:ident),*) => {$(
        #[repr(C)]
        struct $name {
            _private: [u8; 0],
        }
    )*};
}

opaque!(
    RawDatabase,
    RawOptions,
    RawTableOptions,
    RawFilterPolicy,
    RawCache,
    RawReadOptions,
    RawWriteOptions,
    RawFlushOptions,
    RawIterator,
    RawPinned
);

#[link(name = "rocksdb")]
unsafe extern "C" {
    fn rocksdb_options_create() -> *mut RawOptions;
    fn rocksdb_options_destroy(options: *mut RawOptions);
    fn rocksdb_options_set_create_if_missing(options: *mut RawOptions, on: c_uchar);
    fn rocksdb_options_set_compression(options: *mut RawOptions, compression: c_int);
    fn rocksdb_options_set_write_buffer_size(options: *mut RawOptions, bytes: usize);
    fn rocksdb_options_set_max_write_buffer_number(options: *mut RawOptions, count: c_int);
    fn rocksdb_options_set_max_background_jobs(options: *mut RawOptions, count: c_int);
    fn rocksdb_options_set_level_compaction_dynamic_level_bytes(options: *mut RawOptions, on: c_uchar);
    fn rocksdb_options_set_enable_blob_files(options: *mut RawOptions, on: c_uchar);
    fn rocksdb_options_set_min_blob_size(options: *mut RawOptions, bytes: u64);
    fn rocksdb_options_set_blob_compression_type(options: *mut RawOptions, compression: c_int);
    fn rocksdb_options_set_enable_blob_gc(options: *mut RawOptions, on: c_uchar);
    fn rocksdb_options_set_blob_cache(options: *mut RawOptions, cache: *mut RawCache);
    fn rocksdb_options_set_block_based_table_factory(options: *mut RawOptions, table: *mut RawTableOptions);

    fn rocksdb_block_based_options_create() -> *mut RawTableOptions;
    fn rocksdb_block_based_options_destroy(table: *mut RawTableOptions);
    fn rocksdb_block_based_options_set_block_cache(table: *mut RawTableOptions, cache: *mut RawCache);
    fn rocksdb_block_based_options_set_filter_policy(
        table: *mut RawTableOptions,
        policy: *mut RawFilterPolicy,
    );
    fn rocksdb_filterpolicy_create_bloom_full(bits_per_key: c_double) -> *mut RawFilterPolicy;
    fn rocksdb_cache_create_lru(bytes: usize) -> *mut RawCache;
    fn rocksdb_cache_destroy(cache: *mut RawCache);

    fn rocksdb_open(
        options: *const RawOptions,
        name: *const c_char,
        error: *mut *mut c_char,
    ) -> *mut RawDatabase;
    fn rocksdb_close(database: *mut RawDatabase);
    fn rocksdb_property_int(database: *mut RawDatabase, name: *const c_char, value: *mut u64) -> c_int;
    fn rocksdb_free(memory: *mut c_void);

    fn rocksdb_writeoptions_create() -> *mut RawWriteOptions;
    fn rocksdb_writeoptions_destroy(options: *mut RawWriteOptions);
    fn rocksdb_writeoptions_set_sync(options: *mut RawWriteOptions, on: c_uchar);
    fn rocksdb_put(
        database: *mut RawDatabase,
        options: *const RawWriteOptions,
        key: *const c_char,
        key_len: usize,
        value: *const c_char,
        value_len: usize,
        error: *mut *mut c_char,
    );
    fn rocksdb_flushoptions_create() -> *mut RawFlushOptions;
    fn rocksdb_flushoptions_destroy(options: *mut RawFlushOptions);
    fn rocksdb_flush(database: *mut RawDatabase, options: *const RawFlushOptions, error: *mut *mut c_char);

    fn rocksdb_readoptions_create() -> *mut RawReadOptions;
    fn rocksdb_readoptions_destroy(options: *mut RawReadOptions);
    fn rocksdb_get_pinned(
        database: *mut RawDatabase,
        options: *const RawReadOptions,
        key: *const c_char,
        key_len: usize,
        error: *mut *mut c_char,
    ) -> *mut RawPinned;
    fn rocksdb_pinnableslice_value(pinned: *const RawPinned, len: *mut usize) -> *const c_char;
    fn rocksdb_pinnableslice_destroy(pinned: *mut RawPinned);

    fn rocksdb_create_iterator(
        database: *mut RawDatabase,
        options: *const RawReadOptions,
    ) -> *mut RawIterator;
    fn rocksdb_iter_destroy(iterator: *mut RawIterator);
    fn rocksdb_iter_seek(iterator: *mut RawIterator, key: *const c_char, key_len: usize);
    fn rocksdb_iter_next(iterator: *mut RawIterator);
    fn rocksdb_iter_valid(iterator: *const RawIterator) -> c_uchar;
    fn rocksdb_iter_key(iterator: *const RawIterator, len: *mut usize) -> *const c_char;
    fn rocksdb_iter_value(iterator: *const RawIterator, len: *mut usize) -> *const c_char;
    fn rocksdb_iter_get_error(iterator: *const RawIterator, error: *mut *mut c_char);
}

/// How a database is set up; everything else is the library's default.
pub(super) struct Settings {
    pub(super) cache_bytes: usize,
    pub(super) write_buffer_bytes: usize,
    /// Write buffers altogether, those that wait for the flush among them.
    pub(super) write_buffers: usize,
    pub(super) filter_bits: u8,
    /// The shortest value that goes to a blob file; `None` for no such files.
    pub(super) blobs_from_bytes: Option<usize>,
    pub(super) background_jobs: usize,
}

/// A database that is open. The options live as long as it does, because the library does not copy them.
pub(super) struct Database {
    raw: NonNull<RawDatabase>,
    buffered: *mut RawWriteOptions,
    synced: *mut RawWriteOptions,
    read: *mut RawReadOptions,
}

// SAFETY: the library allows calls on one database, and reads of options, from any thread at the same time
// (rocksdb/db.h); options are written only before the database is opened.
unsafe impl Send for Database {}
// SAFETY: as above.
unsafe impl Sync for Database {}

impl Database {
    pub(super) fn open(dir: &Path, settings: &Settings) -> Result<Self> {
        let name = CString::new(dir.as_os_str().as_bytes())?;
        let write_buffers = c_int::try_from(settings.write_buffers)?;
        let background_jobs = c_int::try_from(settings.background_jobs)?;
        let mut error = ptr::null_mut();
        // SAFETY: every object is made here, used only while it exists, and destroyed once. The table options
        // take the filter policy over; cache, table options and options are counted references or are copied
        // by `rocksdb_open`, so ours may go after it.
        let raw = unsafe {
            let cache = rocksdb_cache_create_lru(settings.cache_bytes);
            let table = rocksdb_block_based_options_create();
            rocksdb_block_based_options_set_block_cache(table, cache);
            let filter = rocksdb_filterpolicy_create_bloom_full(c_double::from(settings.filter_bits));
            rocksdb_block_based_options_set_filter_policy(table, filter);
            let options = rocksdb_options_create();
            rocksdb_options_set_create_if_missing(options, 1);
            rocksdb_options_set_compression(options, LZ4);
            rocksdb_options_set_write_buffer_size(options, settings.write_buffer_bytes);
            rocksdb_options_set_max_write_buffer_number(options, write_buffers);
            rocksdb_options_set_max_background_jobs(options, background_jobs);
            rocksdb_options_set_level_compaction_dynamic_level_bytes(options, 1);
            rocksdb_options_set_block_based_table_factory(options, table);
            if let Some(bytes) = settings.blobs_from_bytes {
                rocksdb_options_set_enable_blob_files(options, 1);
                rocksdb_options_set_min_blob_size(options, bytes as u64);
                rocksdb_options_set_blob_compression_type(options, LZ4);
                rocksdb_options_set_enable_blob_gc(options, 1);
                rocksdb_options_set_blob_cache(options, cache);
            }
            let raw = rocksdb_open(options, name.as_ptr(), &mut error);
            rocksdb_options_destroy(options);
            rocksdb_block_based_options_destroy(table);
            rocksdb_cache_destroy(cache);
            raw
        };
        check(error).with_context(|| dir.display().to_string())?;
        let raw = NonNull::new(raw).context("librocksdb opened nothing, and said nothing")?;
        // SAFETY: made here, destroyed in `drop`; set before anybody else sees them.
        unsafe {
            let synced = rocksdb_writeoptions_create();
            rocksdb_writeoptions_set_sync(synced, 1);
            let (buffered, read) = (rocksdb_writeoptions_create(), rocksdb_readoptions_create());
            Ok(Self { raw, buffered, synced, read })
        }
    }

    pub(super) fn put(&self, key: &[u8], value: &[u8], sync: bool) -> Result<()> {
        let options = if sync { self.synced } else { self.buffered };
        let mut error = ptr::null_mut();
        // SAFETY: the database and its options exist; the library copies key and value before it returns.
        unsafe {
            rocksdb_put(
                self.raw.as_ptr(),
                options,
                key.as_ptr().cast(),
                key.len(),
                value.as_ptr().cast(),
                value.len(),
                &mut error,
            );
        }
        check(error)
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Pinned<'_>>> {
        let mut error = ptr::null_mut();
        // SAFETY: the database and its options exist; the key is read before the call returns.
        let raw = unsafe {
            rocksdb_get_pinned(self.raw.as_ptr(), self.read, key.as_ptr().cast(), key.len(), &mut error)
        };
        check(error)?;
        Ok(NonNull::new(raw).map(|raw| Pinned { raw, database: PhantomData }))
    }

    /// A cursor at the first key that is not before `key`.
    pub(super) fn seek(&self, key: &[u8]) -> Cursor<'_> {
        // SAFETY: the database and its options exist, and outlive the cursor; the key is read before the
        // call returns.
        let raw = unsafe {
            let raw = rocksdb_create_iterator(self.raw.as_ptr(), self.read);
            rocksdb_iter_seek(raw, key.as_ptr().cast(), key.len());
            raw
        };
        Cursor { raw, database: PhantomData }
    }

    /// Flushes, and waits for that.
    pub(super) fn flush(&self) -> Result<()> {
        let mut error = ptr::null_mut();
        // SAFETY: the options live around the call; they wait by default.
        unsafe {
            let options = rocksdb_flushoptions_create();
            rocksdb_flush(self.raw.as_ptr(), options, &mut error);
            rocksdb_flushoptions_destroy(options);
        }
        check(error)
    }

    /// A property that is a number.
    pub(super) fn property(&self, name: &CStr) -> Result<u64> {
        let mut value = 0;
        // SAFETY: the name ends in a zero, and the value outlives the call.
        let status = unsafe { rocksdb_property_int(self.raw.as_ptr(), name.as_ptr(), &mut value) };
        ensure!(status == 0, "librocksdb has no property {name:?}");
        Ok(value)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // SAFETY: nothing that borrows the database exists any more, and each object is destroyed once.
        unsafe {
            rocksdb_close(self.raw.as_ptr());
            rocksdb_writeoptions_destroy(self.buffered);
            rocksdb_writeoptions_destroy(self.synced);
            rocksdb_readoptions_destroy(self.read);
        }
    }
}

/// A value, where the library keeps it.
pub(super) struct Pinned<'a> {
    raw: NonNull<RawPinned>,
    database: PhantomData<&'a Database>,
}

impl Pinned<'_> {
    pub(super) fn bytes(&self) -> &[u8] {
        let mut len = 0;
        // SAFETY: what the library points to lives as long as `raw`, and is not written to.
        unsafe { bytes(rocksdb_pinnableslice_value(self.raw.as_ptr(), &mut len), len) }
    }
}

impl Drop for Pinned<'_> {
    fn drop(&mut self) {
        // SAFETY: destroyed once; what borrowed from it is gone.
        unsafe { rocksdb_pinnableslice_destroy(self.raw.as_ptr()) }
    }
}

/// A place among the keys, as of when it was made.
pub(super) struct Cursor<'a> {
    raw: *mut RawIterator,
    database: PhantomData<&'a Database>,
}

impl Cursor<'_> {
    /// The key and value here; `None` behind the last.
    pub(super) fn current(&self) -> Result<Option<(&[u8], &[u8])>> {
        // SAFETY: the iterator exists.
        if unsafe { rocksdb_iter_valid(self.raw) } == 0 {
            let mut error = ptr::null_mut();
            // SAFETY: the iterator exists, and `error` outlives the call.
            unsafe { rocksdb_iter_get_error(self.raw, &mut error) };
            check(error)?;
            return Ok(None);
        }
        let (mut key_len, mut value_len) = (0, 0);
        // SAFETY: the iterator is valid; key and value stay until it moves, for which `advance` needs it
        // unborrowed.
        unsafe {
            let key = rocksdb_iter_key(self.raw, &mut key_len);
            let value = rocksdb_iter_value(self.raw, &mut value_len);
            Ok(Some((bytes(key, key_len), bytes(value, value_len))))
        }
    }

    /// Goes on to the next key; does nothing behind the last.
    pub(super) fn advance(&mut self) {
        // SAFETY: the iterator exists, and may move only while it is valid.
        unsafe {
            if rocksdb_iter_valid(self.raw) != 0 {
                rocksdb_iter_next(self.raw);
            }
        }
    }
}

impl Drop for Cursor<'_> {
    fn drop(&mut self) {
        // SAFETY: destroyed once; what borrowed from it is gone.
        unsafe { rocksdb_iter_destroy(self.raw) }
    }
}

/// What the library points to. It may give a null pointer for nothing.
///
/// # Safety
/// `len` bytes from `start` on must be readable, and not written to, for as long as the caller says.
unsafe fn bytes<'a>(start: *const c_char, len: usize) -> &'a [u8] {
    if start.is_null() || len == 0 {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { slice::from_raw_parts(start.cast(), len) }
}

/// Turns the message that a call left, if any, into an error.
fn check(error: *mut c_char) -> Result<()> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: not null, so the library allocated it, ended it with a zero, and left it to us.
    let message = unsafe {
        let message = CStr::from_ptr(error).to_string_lossy().into_owned();
        rocksdb_free(error.cast());
        message
    };
    bail!("librocksdb: {message}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: Settings = Settings {
        cache_bytes: 8 << 20,
        write_buffer_bytes: 1 << 20,
        write_buffers: 2,
        filter_bits: 10,
        blobs_from_bytes: Some(100),
        background_jobs: 2,
    };

    #[test]
    fn what_was_put_is_found_by_get_and_cursor_and_after_opening_again() {
        let dir = tempfile::tempdir().unwrap();
        let database = Database::open(dir.path(), &SETTINGS).unwrap();
        let error = Database::open(dir.path(), &SETTINGS).err().unwrap();
        assert!(format!("{error:#}").contains("lock"), "{error:#}");
        database.put(b"a", b"short", false).unwrap();
        database.put(b"b", b"", true).unwrap();
        database.put(b"c", &[7; 1000], true).unwrap();
        database.flush().unwrap();
        drop(database);
        let database = Database::open(dir.path(), &SETTINGS).unwrap();
        assert_eq!(database.get(b"a").unwrap().unwrap().bytes(), b"short");
        assert_eq!(database.get(b"c").unwrap().unwrap().bytes(), [7; 1000]);
        assert!(database.get(b"d").unwrap().is_none());
        let mut cursor = database.seek(b"aa");
        assert_eq!(cursor.current().unwrap().unwrap(), (&b"b"[..], &b""[..]));
        cursor.advance();
        assert_eq!(cursor.current().unwrap().unwrap().1, [7; 1000]);
        cursor.advance();
        assert!(cursor.current().unwrap().is_none());
        cursor.advance();
        assert_eq!(database.property(c"rocksdb.num-running-flushes").unwrap(), 0);
        assert!(database.property(c"rocksdb.no-such-thing").is_err());
    }
}
