//! Every option of the daemon.
//!
//! Name, type, default and description of an option are written once, in `sections.rs`; the reference in
//! `configs/allidb.yaml`, the check for unknown keys and `show` are made from there.

mod compression;
mod human;
mod known;
mod load;
mod reference;
mod sections;

pub use compression::Compression;
pub use human::{ByteSize, Span};
pub use load::{EffectiveOption, effective, load, show};
pub use reference::reference;
pub use sections::{
    Access, Config, EmbeddingOptions, JwtOptions, LimitOptions, Listen, Log, LogFormat, RingOptions,
    Shutdown, SnapshotOptions, StorageOptions, Threads, Tracing, VectorOptions,
};
