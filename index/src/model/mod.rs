//! The data model: what callers store and get back.

mod collection;
mod collection_set;
mod edge;
mod entity;
mod key;
mod limits;
mod name;
mod quota;
mod text;
mod value;
mod write;

pub use collection::{
    Codes, Collection, CollectionChange, CollectionId, CollectionSpec, Index, IndexId, IndexState, Metric,
    Space, SpaceId, SpaceSpec, TenantId,
};
pub use collection_set::{CollectionSet, MAX_COLLECTION_PATTERNS};
pub use edge::{Direction, Edge, EdgeRef};
pub use entity::{Chunk, Entity, EntityRef, ReadMask};
pub use key::{ApiKey, KEY_ID_LENGTH, Role};
pub use limits::Limits;
pub(crate) use name::validate_optional_name;
pub use name::{
    MAX_ATTRIBUTE_NAME_BYTES, MAX_COLLECTION_NAME_BYTES, MAX_ID_BYTES, MAX_RELATION_BYTES,
    validate_attribute_name, validate_collection_name, validate_id, validate_relation,
};
pub use quota::{Quota, Usage};
pub use text::{Language, TextField, TextKind, TextSpec};
pub use value::{Timestamp, Value};
pub use write::{EntityPatch, Precondition, SourceOwner, Write, Written};
