//! The keys of rows.

use serde::{Deserialize, Serialize};

use crate::{
    codec::{DecodeError, Decoder, put_escaped},
    error::{Error, Result},
    model::{CollectionId, SpaceId, TenantId},
    placement::{partition_of, token},
    version::Version,
};

/// What names an entity on every node: its tenant, its collection and its id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EntityKey {
    pub(crate) tenant: TenantId,
    pub(crate) collection: CollectionId,
    pub(crate) id: String,
}

/// Names a vector among an entity's: whose (empty: its own), and in which space.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct VectorKey {
    pub(crate) chunk: String,
    pub(crate) space: SpaceId,
}

/// Names a chunk among an entity's.
pub(crate) type ChunkKey = String;

/// Names an edge among those of one of its ends, seen from there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct EdgeKey {
    pub(crate) relation: String,
    /// The collection of the other end.
    pub(crate) collection: CollectionId,
    /// The other end's id.
    pub(crate) other: String,
    pub(crate) edge_id: String,
}

impl EntityKey {
    pub(crate) fn new(tenant: TenantId, collection: CollectionId, id: &str) -> Self {
        Self { tenant, collection, id: id.to_owned() }
    }

    /// Where on the hash ring it lies.
    pub fn token(&self) -> u64 {
        token(self.tenant, self.collection, &self.id)
    }

    /// Its id, within its collection.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whose it is.
    pub fn tenant(&self) -> TenantId {
        self.tenant
    }

    /// The partition that it belongs to.
    pub fn partition(&self) -> u16 {
        partition_of(self.token())
    }

    /// The leaf of its partition's Merkle tree in which its rows are added up.
    pub fn leaf(&self) -> u16 {
        crate::merkle::leaf_of(self.token())
    }

    /// As nodes name it to each other: tenant and collection (each u64 big-endian), id.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16 + self.id.len());
        out.extend_from_slice(&self.tenant.0.to_be_bytes());
        out.extend_from_slice(&self.collection.0.to_be_bytes());
        out.extend_from_slice(self.id.as_bytes());
        out
    }

    /// The inverse of [`encode`](Self::encode).
    ///
    /// # Errors
    /// If these bytes name no entity.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut from = Decoder::new(bytes);
        let (tenant, collection) = (TenantId(from.u64_be()?), CollectionId(from.u64_be()?));
        let id = std::str::from_utf8(from.rest()).map_err(|_| DecodeError::Utf8)?;
        Ok(Self { tenant, collection, id: id.to_owned() })
    }

    /// What all rows of the entity begin with: partition, tenant, collection, id.
    pub(crate) fn prefix(&self) -> Vec<u8> {
        let partition = partition_of(self.token());
        let mut key = collection_prefix(partition, self.tenant, self.collection);
        put_escaped(&mut key, &self.id);
        key
    }

    pub(crate) fn vector(&self, vector: &VectorKey) -> Vec<u8> {
        let mut key = self.prefix();
        put_vector(&mut key, vector);
        key
    }

    /// What the older vectors of a space begin with.
    pub(crate) fn history_prefix(&self, vector: &VectorKey) -> Vec<u8> {
        self.vector(vector)
    }

    /// Newest first: the version's bytes are inverted.
    pub(crate) fn history(&self, vector: &VectorKey, version: Version) -> Vec<u8> {
        let mut key = self.history_prefix(vector);
        key.extend(version.to_bytes().map(|byte| !byte));
        key
    }

    pub(crate) fn chunk(&self, chunk: &str) -> Vec<u8> {
        let mut key = self.prefix();
        put_escaped(&mut key, chunk);
        key
    }

    pub(crate) fn edge(&self, edge: &EdgeKey) -> Vec<u8> {
        let mut key = self.prefix();
        put_edge(&mut key, edge);
        key
    }

    pub(crate) fn token_row(&self) -> Vec<u8> {
        let token = self.token();
        let mut key = collection_prefix(partition_of(token), self.tenant, self.collection);
        key.extend_from_slice(&token.to_be_bytes());
        put_escaped(&mut key, &self.id);
        key
    }

    /// What the rows of keyspace `number` begin with that give the numbers of the entity and of its chunks.
    pub(crate) fn numbers(&self) -> Vec<u8> {
        let mut key = vec![BY_NAME];
        key.extend_from_slice(&self.prefix());
        key
    }

    /// The row of keyspace `number` that gives the number of the entity or of one of its chunks.
    pub(crate) fn number(&self, chunk: &str) -> Vec<u8> {
        let mut key = vec![BY_NAME];
        key.extend_from_slice(&self.prefix());
        put_escaped(&mut key, chunk);
        key
    }
}

/// What follows the entity in the key of a vector.
pub(super) fn put_vector(key: &mut Vec<u8>, vector: &VectorKey) {
    put_escaped(key, &vector.chunk);
    key.extend_from_slice(&vector.space.0.to_be_bytes());
}

/// What follows the entity in the key of an edge.
pub(super) fn put_edge(key: &mut Vec<u8>, edge: &EdgeKey) {
    put_escaped(key, &edge.relation);
    key.extend_from_slice(&edge.collection.0.to_be_bytes());
    put_escaped(key, &edge.other);
    put_escaped(key, &edge.edge_id);
}

/// The number in a row that gives it by name.
pub(crate) fn decode_number_key(key: &[u8], value: &[u8]) -> Result<u64> {
    let number = value.try_into().map(u64::from_be_bytes);
    number.map_err(|_| Error::corrupt("number", key, "it is not eight bytes long"))
}

const BY_NAME: u8 = 0;
const BY_NUMBER: u8 = 1;

/// What all rows of a collection's part in a partition begin with.
pub(crate) fn collection_prefix(partition: u16, tenant: TenantId, collection: CollectionId) -> Vec<u8> {
    let mut key = Vec::with_capacity(64);
    key.extend_from_slice(&partition.to_be_bytes());
    key.extend_from_slice(&tenant.0.to_be_bytes());
    key.extend_from_slice(&collection.0.to_be_bytes());
    key
}

/// The same for rows of keyspace `number` by name.
pub(crate) fn numbers_prefix(partition: u16, tenant: TenantId, collection: CollectionId) -> Vec<u8> {
    let mut key = vec![BY_NAME];
    key.extend_from_slice(&collection_prefix(partition, tenant, collection));
    key
}

/// The row of keyspace `number` that tells whose a number is.
pub(crate) fn by_number(number: u64) -> Vec<u8> {
    let mut key = vec![BY_NUMBER];
    key.extend_from_slice(&number.to_be_bytes());
    key
}

/// The value of a [`by_number`] row: tenant, collection, id, chunk.
pub(crate) fn encode_numbered(entity: &EntityKey, chunk: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(48);
    out.extend_from_slice(&entity.tenant.0.to_be_bytes());
    out.extend_from_slice(&entity.collection.0.to_be_bytes());
    put_escaped(&mut out, &entity.id);
    put_escaped(&mut out, chunk);
    out
}

pub(crate) fn decode_numbered(bytes: &[u8]) -> Result<(EntityKey, String), DecodeError> {
    let mut from = Decoder::new(bytes);
    let tenant = TenantId(from.u64_be()?);
    let collection = CollectionId(from.u64_be()?);
    let id = from.escaped()?;
    let chunk = from.escaped()?;
    from.finish()?;
    Ok((EntityKey { tenant, collection, id }, chunk))
}

/// Takes the entity off the front of a row's key.
pub(crate) fn decode_entity(from: &mut Decoder<'_>) -> Result<EntityKey, DecodeError> {
    let _partition = from.u16_be()?;
    let tenant = TenantId(from.u64_be()?);
    let collection = CollectionId(from.u64_be()?);
    Ok(EntityKey { tenant, collection, id: from.escaped()? })
}

/// Whose a row of keyspace `token` is.
pub(crate) fn decode_token_row(key: &[u8]) -> Result<EntityKey, DecodeError> {
    let mut from = Decoder::new(key);
    let _partition = from.u16_be()?;
    let tenant = TenantId(from.u64_be()?);
    let collection = CollectionId(from.u64_be()?);
    let _token = from.u64_be()?;
    let id = from.escaped()?;
    from.finish()?;
    Ok(EntityKey { tenant, collection, id })
}

pub(crate) fn decode_vector_key(key: &[u8]) -> Result<(EntityKey, VectorKey), DecodeError> {
    let mut from = Decoder::new(key);
    let entity = decode_entity(&mut from)?;
    let vector = take_vector(&mut from)?;
    from.finish()?;
    Ok((entity, vector))
}

/// Takes a vector's name off what follows the entity in its key.
pub(super) fn take_vector(from: &mut Decoder<'_>) -> Result<VectorKey, DecodeError> {
    Ok(VectorKey { chunk: from.escaped()?, space: SpaceId(from.u64_be()?) })
}

pub(crate) fn decode_chunk_key(key: &[u8]) -> Result<(EntityKey, ChunkKey), DecodeError> {
    let mut from = Decoder::new(key);
    let entity = decode_entity(&mut from)?;
    let chunk = from.escaped()?;
    from.finish()?;
    Ok((entity, chunk))
}

pub(crate) fn decode_edge_key(key: &[u8]) -> Result<(EntityKey, EdgeKey), DecodeError> {
    let mut from = Decoder::new(key);
    let entity = decode_entity(&mut from)?;
    let edge = take_edge(&mut from)?;
    from.finish()?;
    Ok((entity, edge))
}

/// Takes an edge's name off what follows the entity in its key.
pub(super) fn take_edge(from: &mut Decoder<'_>) -> Result<EdgeKey, DecodeError> {
    Ok(EdgeKey {
        relation: from.escaped()?,
        collection: CollectionId(from.u64_be()?),
        other: from.escaped()?,
        edge_id: from.escaped()?,
    })
}
