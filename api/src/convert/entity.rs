//! Entities, their chunks and what names them.

use std::collections::{BTreeMap, BTreeSet};

use allidb_index::model::{Chunk, Entity, EntityRef};
use tonic::Status;

use super::{
    Path,
    time::{optional_timestamp_from_proto, timestamp_to_proto},
    value::{values_from_proto, values_to_proto},
    vector::{vectors_from_proto, vectors_to_proto},
    write::version_to_proto,
};
use crate::v1;

pub(crate) fn entity_ref_from_proto(entity_ref: v1::EntityRef) -> EntityRef {
    EntityRef { collection: entity_ref.collection, id: entity_ref.id }
}

pub(super) fn entity_ref_to_proto(entity_ref: EntityRef) -> v1::EntityRef {
    v1::EntityRef { collection: entity_ref.collection, id: entity_ref.id }
}

/// The collection's name and the entity. Fields that only the server sets are left unread.
pub(crate) fn entity_from_proto(path: &Path<'_>, entity: v1::Entity) -> Result<(String, Entity), Status> {
    let name = path.field("ref").required(entity.r#ref)?;
    let entity = Entity {
        id: name.id,
        entity_type: entity.r#type,
        attributes: values_from_proto(&path.field("attributes"), entity.attributes)?,
        importance: entity.importance,
        expire_at: optional_timestamp_from_proto(&path.field("expire_at"), entity.expire_at)?,
        sources: sources_from_proto(entity.sources),
        vectors: vectors_from_proto(&path.field("vectors"), entity.vectors)?,
        chunks: chunks_from_proto(&path.field("chunks"), entity.chunks)?,
        ..Entity::default()
    };
    Ok((name.collection, entity))
}

pub(crate) fn entity_to_proto(collection: String, entity: Entity) -> v1::Entity {
    v1::Entity {
        r#ref: Some(v1::EntityRef { collection, id: entity.id }),
        r#type: entity.entity_type,
        attributes: values_to_proto(entity.attributes),
        importance: entity.importance,
        created_at: entity.created_at.map(timestamp_to_proto),
        updated_at: entity.updated_at.map(timestamp_to_proto),
        expire_at: entity.expire_at.map(timestamp_to_proto),
        sources: entity.sources.into_iter().collect(),
        vectors: vectors_to_proto(entity.vectors),
        chunks: entity.chunks.into_iter().map(|(id, chunk)| chunk_to_proto(id, chunk)).collect(),
        version: version_to_proto(entity.version),
    }
}

/// Chunks by their ids, each of which may occur once.
pub(crate) fn chunks_from_proto(
    path: &Path<'_>,
    chunks: Vec<v1::Chunk>,
) -> Result<BTreeMap<String, Chunk>, Status> {
    let mut by_id = BTreeMap::new();
    for (at, chunk) in chunks.into_iter().enumerate() {
        let path = path.index(at);
        let content = Chunk {
            text: chunk.text,
            metadata: values_from_proto(&path.field("metadata"), chunk.metadata)?,
            sources: sources_from_proto(chunk.sources),
            vectors: vectors_from_proto(&path.field("vectors"), chunk.vectors)?,
        };
        if by_id.contains_key(&chunk.id) {
            return Err(path.field("id").invalid(format!("is {:?}, which an earlier chunk has", chunk.id)));
        }
        by_id.insert(chunk.id, content);
    }
    Ok(by_id)
}

fn chunk_to_proto(id: String, chunk: Chunk) -> v1::Chunk {
    v1::Chunk {
        id,
        text: chunk.text,
        metadata: values_to_proto(chunk.metadata),
        sources: chunk.sources.into_iter().collect(),
        vectors: vectors_to_proto(chunk.vectors),
    }
}

pub(super) fn sources_from_proto(sources: Vec<String>) -> BTreeSet<String> {
    sources.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use allidb_index::{Version, model::Timestamp};
    use proptest::{
        collection::{btree_map, btree_set, vec},
        option,
        prelude::*,
    };

    use super::*;
    use crate::convert::value::tests::any_value;

    fn any_vectors() -> impl Strategy<Value = BTreeMap<String, Vec<f32>>> {
        btree_map("[a-z]{1,6}", vec(-10.0f32..10.0, 0..6), 0..3)
    }

    fn any_chunk() -> impl Strategy<Value = Chunk> {
        (".{0,30}", btree_map(".{1,8}", any_value(), 0..3), btree_set(".{1,8}", 0..3), any_vectors())
            .prop_map(|(text, metadata, sources, vectors)| Chunk { text, metadata, sources, vectors })
    }

    fn any_entity() -> impl Strategy<Value = Entity> {
        (
            (".{1,20}", ".{0,10}", option::of(0.0..=1.0f64), option::of(0..4_000_000_000_000_000i64)),
            btree_map(".{1,8}", any_value(), 0..4),
            btree_set(".{1,8}", 0..3),
            any_vectors(),
            btree_map(".{1,8}", any_chunk(), 0..3),
        )
            .prop_map(
                |((id, entity_type, importance, expire_at), attributes, sources, vectors, chunks)| Entity {
                    id,
                    entity_type,
                    attributes,
                    importance,
                    expire_at: expire_at.map(Timestamp),
                    sources,
                    vectors,
                    chunks,
                    ..Entity::default()
                },
            )
    }

    proptest! {
        #[test]
        fn entities_round_trip(entity in any_entity()) {
            let proto = entity_to_proto("c".to_owned(), entity.clone());
            let (collection, back) = entity_from_proto(&Path::Root("entity"), proto).expect("our own");
            prop_assert_eq!(collection, "c");
            prop_assert_eq!(back, entity);
        }
    }

    #[test]
    fn what_the_server_sets_goes_out_and_is_not_taken_in() {
        let version = Version::new(5, 6, 7);
        let entity = Entity {
            id: "x".into(),
            created_at: Some(Timestamp(1_000_001)),
            updated_at: Some(Timestamp(-1)),
            version,
            ..Entity::default()
        };
        let proto = entity_to_proto("c".to_owned(), entity);
        assert_eq!(Version::from_bytes(&proto.version), Some(version));
        assert_eq!(proto.created_at, Some(prost_types::Timestamp { seconds: 1, nanos: 1_000 }));
        assert_eq!(proto.updated_at, Some(prost_types::Timestamp { seconds: -1, nanos: 999_999_000 }));
        let (_, back) = entity_from_proto(&Path::Root("entity"), proto).expect("our own");
        assert_eq!(back, Entity { id: "x".into(), ..Entity::default() });
    }

    #[test]
    fn a_nameless_entity_and_a_chunk_given_twice_are_refused() {
        let refused = |entity| {
            entity_from_proto(&Path::Root("entity"), entity).expect_err("refused").message().to_owned()
        };
        assert_eq!(refused(v1::Entity::default()), "entity.ref must be set");
        let chunk = v1::Chunk { id: "c1".into(), ..v1::Chunk::default() };
        let entity = v1::Entity {
            r#ref: Some(v1::EntityRef::default()),
            chunks: vec![chunk.clone(), chunk],
            ..v1::Entity::default()
        };
        assert_eq!(refused(entity), "entity.chunks[1].id is \"c1\", which an earlier chunk has");
    }
}
