//! The command line as a process.

mod bench_storage;
