//! Field masks: what a read returns, and what an update changes.

use allidb_index::model::{Entity, EntityPatch, EntityRef, ReadMask};
use tonic::Status;

use super::{Path, entity::entity_from_proto};
use crate::{status, v1};

/// `default` where the mask is unset or empty.
pub(crate) fn read_mask_from_proto(
    mask: Option<prost_types::FieldMask>,
    default: ReadMask,
) -> Result<ReadMask, Status> {
    let paths = mask.unwrap_or_default().paths;
    if paths.is_empty() {
        return Ok(default);
    }
    ReadMask::from_paths(paths.iter().map(String::as_str)).map_err(status::from_error)
}

/// The change that an update asks for: each path of its mask, or each field that its entity sets.
pub(crate) fn patch_from_proto(
    entity: v1::Entity,
    mask: Option<prost_types::FieldMask>,
    allow_missing: bool,
) -> Result<EntityPatch, Status> {
    let root = Path::Root("entity");
    let has_chunks = !entity.chunks.is_empty();
    let (collection, entity) = entity_from_proto(&root, v1::Entity { chunks: Vec::new(), ..entity })?;
    let mut patch = EntityPatch::new(EntityRef { collection, id: entity.id.clone() });
    patch.allow_missing = allow_missing;
    let paths = mask.unwrap_or_default().paths;
    if !paths.is_empty() {
        for (at, path) in paths.iter().enumerate() {
            name_field(&mut patch, &entity, path, at)?;
        }
        return Ok(patch);
    }
    if has_chunks {
        return Err(root.field("chunks").invalid("cannot be written by an update; use PutChunks"));
    }
    set_fields(&mut patch, entity);
    Ok(patch)
}

/// Takes over the field at `path`: what the entity leaves unset is removed.
fn name_field(patch: &mut EntityPatch, entity: &Entity, path: &str, at: usize) -> Result<(), Status> {
    match path {
        "type" => patch.entity_type = Some(entity.entity_type.clone()),
        "importance" => patch.importance = Some(entity.importance),
        "expire_at" => patch.expire_at = Some(entity.expire_at),
        "sources" => patch.sources = Some(entity.sources.clone()),
        "attributes" => {
            patch.replace_attributes = true;
            patch
                .attributes
                .extend(entity.attributes.iter().map(|(name, value)| (name.clone(), Some(value.clone()))));
        }
        "vectors" => {
            patch.replace_vectors = true;
            patch
                .vectors
                .extend(entity.vectors.iter().map(|(space, vector)| (space.clone(), Some(vector.clone()))));
        }
        _ => match path.split_once('.') {
            Some(("attributes", name)) if !name.is_empty() => {
                patch.attributes.insert(name.to_owned(), entity.attributes.get(name).cloned());
            }
            Some(("vectors", space)) if !space.is_empty() => {
                patch.vectors.insert(space.to_owned(), entity.vectors.get(space).cloned());
            }
            _ => return Err(unknown_path(path, at)),
        },
    }
    Ok(())
}

fn unknown_path(path: &str, at: usize) -> Status {
    let mask = Path::Root("update_mask");
    let paths = mask.field("paths");
    let why = match path.split('.').next() {
        Some("chunks") => format!("is {path:?}: chunks are written by PutChunks and DeleteChunks"),
        Some("ref" | "id" | "created_at" | "updated_at" | "version") => {
            format!("is {path:?}, which cannot be changed")
        }
        _ => format!("is {path:?}, which is no field of an entity"),
    };
    paths.index(at).invalid(why)
}

/// Takes over every field that the entity sets and leaves the others as they are.
fn set_fields(patch: &mut EntityPatch, entity: Entity) {
    patch.entity_type = Some(entity.entity_type).filter(|name| !name.is_empty());
    patch.importance = entity.importance.map(Some);
    patch.expire_at = entity.expire_at.map(Some);
    patch.sources = Some(entity.sources).filter(|sources| !sources.is_empty());
    patch.attributes = entity.attributes.into_iter().map(|(name, value)| (name, Some(value))).collect();
    patch.vectors = entity.vectors.into_iter().map(|(space, vector)| (space, Some(vector))).collect();
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use allidb_index::model::Value;

    use super::*;

    fn mask(paths: &[&str]) -> Option<prost_types::FieldMask> {
        Some(prost_types::FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() })
    }

    fn entity() -> v1::Entity {
        let year = v1::Value { kind: Some(v1::value::Kind::IntValue(1999)) };
        v1::Entity {
            r#ref: Some(v1::EntityRef { collection: "c".into(), id: "x".into() }),
            importance: Some(0.5),
            attributes: BTreeMap::from([("year".to_owned(), year)]),
            vectors: BTreeMap::from([(
                "gloss".to_owned(),
                v1::Vector { values: vec![1.0], ..Default::default() },
            )]),
            ..v1::Entity::default()
        }
    }

    #[test]
    fn a_named_path_sets_or_removes_and_nothing_else_changes() {
        let paths =
            ["attributes.year", "attributes.gone", "importance", "expire_at", "vectors.other", "type"];
        let patch = patch_from_proto(entity(), mask(&paths), false).expect("known paths");
        let attributes =
            BTreeMap::from([("year".to_owned(), Some(Value::Int(1999))), ("gone".to_owned(), None)]);
        assert_eq!(patch.attributes, attributes);
        assert_eq!(patch.importance, Some(Some(0.5)));
        assert_eq!(patch.expire_at, Some(None));
        assert_eq!(patch.entity_type, Some(String::new()));
        assert_eq!(patch.vectors, BTreeMap::from([("other".to_owned(), None)]));
        assert_eq!(patch.sources, None);
        assert!(!patch.replace_attributes && !patch.replace_vectors && !patch.allow_missing);
    }

    #[test]
    fn whole_maps_replace() {
        let patch = patch_from_proto(entity(), mask(&["attributes", "vectors"]), true).expect("known paths");
        assert!(patch.replace_attributes && patch.replace_vectors && patch.allow_missing);
        assert_eq!(patch.attributes.len(), 1);
        assert_eq!(patch.vectors["gloss"], Some(vec![1.0]));
    }

    #[test]
    fn an_empty_mask_is_every_field_that_is_set() {
        for empty in [None, mask(&[])] {
            let patch = patch_from_proto(entity(), empty, false).expect("no mask");
            assert_eq!(patch.importance, Some(Some(0.5)));
            assert_eq!(patch.attributes["year"], Some(Value::Int(1999)));
            assert_eq!((patch.expire_at, patch.entity_type, patch.sources), (None, None, None));
            assert!(!patch.replace_attributes);
        }
    }

    #[test]
    fn unknown_paths_are_named() {
        let refused = |path: &str| {
            patch_from_proto(entity(), mask(&["type", path]), false)
                .expect_err("refused")
                .message()
                .to_owned()
        };
        assert_eq!(refused("typ"), "update_mask.paths[1] is \"typ\", which is no field of an entity");
        assert_eq!(refused("version"), "update_mask.paths[1] is \"version\", which cannot be changed");
        assert!(refused("chunks").contains("PutChunks"));
        for bad in ["", ".", "attributes.", "vectors.", "*", "Type"] {
            assert!(refused(bad).contains("no field"), "{bad:?}");
        }
        let chunk = v1::Chunk { id: "c1".into(), ..Default::default() };
        let with_chunk = v1::Entity { chunks: vec![chunk], ..entity() };
        assert!(patch_from_proto(with_chunk, None, false).is_err());
    }

    #[test]
    fn read_masks_default_where_empty_and_name_the_unknown() {
        let read = |paths: &[&str]| read_mask_from_proto(mask(paths), ReadMask::fields());
        assert_eq!(read(&[]).expect("default"), ReadMask::fields());
        assert_eq!(read_mask_from_proto(None, ReadMask::nothing()).expect("default"), ReadMask::nothing());
        assert!(read(&["vectors.gloss"]).expect("known").wants_vector("gloss"));
        assert!(read(&["nonsense"]).expect_err("unknown").message().contains("nonsense"));
    }
}
