//! Where an entity belongs on the hash ring.

use xxhash_rust::xxh3::Xxh3;

use crate::model::{CollectionId, TenantId};

/// Partitions of the ring: a power of two, fixed when a ring is founded.
pub const PARTITIONS: u16 = 256;

/// An entity's place on the ring.
pub fn token(tenant: TenantId, collection: CollectionId, id: &str) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(&tenant.0.to_be_bytes());
    hash.update(&collection.0.to_be_bytes());
    hash.update(id.as_bytes());
    hash.digest()
}

/// The partition of a token: its highest bits, so that a partition is a range of tokens.
pub fn partition_of(token: u64) -> u16 {
    (token >> (u64::BITS - PARTITIONS.ilog2())) as u16
}
