//! Entities and edges as JSON, the form that `put`, `get`, `scan` and `import` share.
//!
//! ```json
//! {"id": "n-1", "type": "noun", "attributes": {"gloss": "…"}, "importance": 0.5,
//!  "expire_at": "2030-01-01T00:00:00Z", "sources": ["wordnet"], "vectors": {"gloss": [0.1, …]},
//!  "chunks": [{"id": "c1", "text": "…", "metadata": {}, "vectors": {}}]}
//! ```

use std::collections::BTreeMap;

use allidb_api::v1::{Chunk, Edge, Entity, EntityRef, Vector};
use anyhow::{Context, Result, bail};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value as Json, json};

use crate::{value_json, vector_numbers};

/// What becomes of a field that is no field of an entity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UnknownFields {
    /// An error: in a hand-written entity it is a slip.
    Refuse,
    /// An attribute: in a file to import it is data.
    AsAttributes,
}

/// What the server adds to an entity; accepted and ignored, so that the output of `get` can be put back.
pub(crate) const OUTPUT_ONLY: [&str; 3] = ["created_at", "updated_at", "version"];

/// Reads an entity of `collection`.
pub(crate) fn entity_from_json(json: Json, collection: &str, unknown: UnknownFields) -> Result<Entity> {
    let Json::Object(object) = json else { bail!("an entity is a JSON object") };
    // A file written by `scan` has `attributes`; in any other file even these names are data.
    let own_form = unknown == UnknownFields::Refuse || object.get("attributes").is_some_and(Json::is_object);
    let mut entity = Entity::default();
    for (name, json) in object {
        let field = name.clone();
        set_field(&mut entity, name, json, collection, unknown, own_form)
            .with_context(|| format!("`{field}`"))?;
    }
    if entity.r#ref.is_none() {
        bail!("an entity needs an `id`");
    }
    Ok(entity)
}

fn set_field(
    entity: &mut Entity,
    name: String,
    json: Json,
    collection: &str,
    unknown: UnknownFields,
    own_form: bool,
) -> Result<()> {
    match name.as_str() {
        "id" => entity.r#ref = Some(entity_ref(collection, &string(json)?)),
        "type" => entity.r#type = string(json)?,
        "importance" => entity.importance = number(&json)?,
        "expire_at" => entity.expire_at = time(json)?,
        "sources" => entity.sources = strings(json)?,
        "vectors" => entity.vectors = vectors_from_json(json)?,
        "chunks" => entity.chunks = array(json)?.into_iter().map(chunk_from_json).collect::<Result<_>>()?,
        "attributes" if own_form => entity.attributes.extend(value_json::map_from_json(object(json)?)?),
        known if own_form && OUTPUT_ONLY.contains(&known) => {}
        _ if unknown == UnknownFields::AsAttributes => {
            entity.attributes.insert(name, value_json::from_json(json)?);
        }
        _ => bail!("no such field of an entity; attributes belong into `attributes`"),
    }
    Ok(())
}

/// Reads a chunk.
pub(crate) fn chunk_from_json(json: Json) -> Result<Chunk> {
    let mut chunk = Chunk::default();
    for (name, json) in object(json)? {
        match name.as_str() {
            "id" => chunk.id = string(json)?,
            "text" => chunk.text = string(json)?,
            "metadata" => chunk.metadata = value_json::map_from_json(object(json)?)?,
            "sources" => chunk.sources = strings(json)?,
            "vectors" => chunk.vectors = vectors_from_json(json)?,
            _ => bail!("`{name}` is no field of a chunk"),
        }
    }
    Ok(chunk)
}

/// Reads `{"from", "relation", "to"}` and the optional `edge_id`, `weight`, `attributes`, `valid_from`,
/// `valid_to` and `sources`, both ends in `collection` unless `to_collection` names another one for the target.
pub(crate) fn edge_from_json(json: Json, collection: &str) -> Result<Edge> {
    let mut edge = Edge::default();
    let mut to_collection = None;
    for (name, json) in object(json)? {
        match name.as_str() {
            "from" => edge.from = Some(entity_ref(collection, &string(json)?)),
            "to" => edge.to = Some(entity_ref(collection, &string(json)?)),
            "relation" => edge.relation = string(json)?,
            "to_collection" => to_collection = Some(string(json)?),
            "edge_id" => edge.edge_id = string(json)?,
            "weight" => edge.weight = number(&json)?,
            "attributes" => edge.attributes = value_json::map_from_json(object(json)?)?,
            "valid_from" => edge.valid_from = time(json)?,
            "valid_to" => edge.valid_to = time(json)?,
            "sources" => edge.sources = strings(json)?,
            "version" => {}
            _ => bail!("`{name}` is no field of an edge"),
        }
    }
    if let (Some(to), Some(collection)) = (&mut edge.to, to_collection) {
        to.collection = collection;
    }
    if edge.from.is_none() || edge.to.is_none() || edge.relation.is_empty() {
        bail!("an edge needs `from`, `relation` and `to`");
    }
    Ok(edge)
}

/// Reads `{"space": [numbers]}`.
pub(crate) fn vectors_from_json(json: Json) -> Result<BTreeMap<String, Vector>> {
    let read_one = |(space, json)| {
        let vector = vector_numbers::from_json(&json).with_context(|| format!("`{space}`"))?;
        Ok((space, vector))
    };
    object(json)?.into_iter().map(read_one).collect()
}

/// Names an entity.
pub(crate) fn entity_ref(collection: &str, id: &str) -> EntityRef {
    EntityRef { collection: collection.to_owned(), id: id.to_owned() }
}

/// The id of an optional reference; an answer without one is shown as empty.
pub(crate) fn id_of(reference: Option<&EntityRef>) -> &str {
    reference.map_or("", |reference| &reference.id)
}

/// Writes an entity; fields that are unset are left out.
pub(crate) fn entity_to_json(entity: &Entity) -> Json {
    let mut object = Map::new();
    object.insert("id".into(), json!(id_of(entity.r#ref.as_ref())));
    object.insert("type".into(), json!(entity.r#type));
    object.insert("attributes".into(), Json::Object(value_json::map_to_json(&entity.attributes)));
    if let Some(importance) = entity.importance {
        object.insert("importance".into(), json!(importance));
    }
    let times = [
        ("expire_at", &entity.expire_at),
        ("created_at", &entity.created_at),
        ("updated_at", &entity.updated_at),
    ];
    for (name, time) in times {
        if let Some(time) = time {
            object.insert(name.into(), json!(time.to_string()));
        }
    }
    if !entity.sources.is_empty() {
        object.insert("sources".into(), json!(entity.sources));
    }
    if !entity.vectors.is_empty() {
        object.insert("vectors".into(), vectors_to_json(&entity.vectors));
    }
    if !entity.chunks.is_empty() {
        object.insert("chunks".into(), entity.chunks.iter().map(chunk_to_json).collect());
    }
    if !entity.version.is_empty() {
        object.insert("version".into(), json!(STANDARD.encode(&entity.version)));
    }
    Json::Object(object)
}

/// Writes a chunk.
pub(crate) fn chunk_to_json(chunk: &Chunk) -> Json {
    let mut object = Map::new();
    object.insert("id".into(), json!(chunk.id));
    object.insert("text".into(), json!(chunk.text));
    if !chunk.metadata.is_empty() {
        object.insert("metadata".into(), Json::Object(value_json::map_to_json(&chunk.metadata)));
    }
    if !chunk.sources.is_empty() {
        object.insert("sources".into(), json!(chunk.sources));
    }
    if !chunk.vectors.is_empty() {
        object.insert("vectors".into(), vectors_to_json(&chunk.vectors));
    }
    Json::Object(object)
}

fn vectors_to_json(vectors: &BTreeMap<String, Vector>) -> Json {
    let write_one = |(space, vector): (&String, &Vector)| (space.clone(), vector_numbers::to_json(vector));
    Json::Object(vectors.iter().map(write_one).collect())
}

/// The collection that an edge leads to, if it is not that of its source.
pub(crate) fn other_collection(edge: &Edge) -> Option<&str> {
    let (from, to) = (edge.from.as_ref()?, edge.to.as_ref()?);
    (from.collection != to.collection).then_some(to.collection.as_str())
}

/// Writes an edge; fields that are unset are left out.
pub(crate) fn edge_to_json(edge: &Edge) -> Json {
    let mut object = Map::new();
    object.insert("from".into(), json!(id_of(edge.from.as_ref())));
    object.insert("relation".into(), json!(edge.relation));
    object.insert("to".into(), json!(id_of(edge.to.as_ref())));
    if let Some(collection) = other_collection(edge) {
        object.insert("to_collection".into(), json!(collection));
    }
    if !edge.edge_id.is_empty() {
        object.insert("edge_id".into(), json!(edge.edge_id));
    }
    object.insert("weight".into(), json!(edge.weight.unwrap_or(1.0)));
    if !edge.attributes.is_empty() {
        object.insert("attributes".into(), Json::Object(value_json::map_to_json(&edge.attributes)));
    }
    for (name, time) in [("valid_from", &edge.valid_from), ("valid_to", &edge.valid_to)] {
        if let Some(time) = time {
            object.insert(name.into(), json!(time.to_string()));
        }
    }
    if !edge.sources.is_empty() {
        object.insert("sources".into(), json!(edge.sources));
    }
    Json::Object(object)
}

fn object(json: Json) -> Result<Map<String, Json>> {
    match json {
        Json::Object(object) => Ok(object),
        other => bail!("must be an object, not {other}"),
    }
}

fn array(json: Json) -> Result<Vec<Json>> {
    match json {
        Json::Array(items) => Ok(items),
        other => bail!("must be an array, not {other}"),
    }
}

fn string(json: Json) -> Result<String> {
    match json {
        Json::String(text) => Ok(text),
        other => bail!("must be a string, not {other}"),
    }
}

fn strings(json: Json) -> Result<Vec<String>> {
    array(json)?.into_iter().map(string).collect()
}

fn number(json: &Json) -> Result<Option<f64>> {
    match json {
        Json::Null => Ok(None),
        _ => json.as_f64().map(Some).with_context(|| format!("must be a number, not {json}")),
    }
}

fn time(json: Json) -> Result<Option<prost_types::Timestamp>> {
    if json.is_null() { Ok(None) } else { value_json::timestamp(&string(json)?).map(Some) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entity_survives_the_round_trip() {
        let json = json!({
            "id": "n-1", "type": "noun", "attributes": {"lemmas": ["dog"], "rank": 3},
            "importance": 0.5, "expire_at": "2030-01-01T00:00:00Z", "sources": ["wordnet"],
            "vectors": {"gloss": [0.1, -2.0]},
            "chunks": [{"id": "c", "text": "t", "metadata": {"page": 1}, "vectors": {"gloss": [1.0, 0.0]}}],
        });
        let entity = entity_from_json(json.clone(), "words", UnknownFields::Refuse).unwrap();
        assert_eq!(entity.r#ref, Some(entity_ref("words", "n-1")));
        assert_eq!(entity_to_json(&entity), json);
    }

    #[test]
    fn unknown_fields_are_attributes_only_in_imports() {
        let json = json!({"id": "a", "type": "t", "gloss": "g", "version": 2});
        assert!(entity_from_json(json.clone(), "c", UnknownFields::Refuse).is_err());
        let entity = entity_from_json(json, "c", UnknownFields::AsAttributes).unwrap();
        assert_eq!(entity.attributes.keys().collect::<Vec<_>>(), ["gloss", "version"]);
    }

    #[test]
    fn what_get_prints_can_be_put_and_imported() {
        let json = json!({"id": "a", "attributes": {"x": 1}, "updated_at": "2024-01-01T00:00:00Z", "version": "AA=="});
        for unknown in [UnknownFields::Refuse, UnknownFields::AsAttributes] {
            let entity = entity_from_json(json.clone(), "c", unknown).unwrap();
            assert_eq!(entity.attributes.len(), 1);
        }
    }

    #[test]
    fn errors_name_the_field() {
        for (json, part) in [
            (json!({"type": "t"}), "`id`"),
            (json!({"id": 5}), "`id`"),
            (json!({"id": "a", "importance": "high"}), "`importance`"),
            (json!({"id": "a", "attributes": {"big": u64::MAX}}), "`big`"),
            (json!([]), "object"),
        ] {
            let error = entity_from_json(json, "c", UnknownFields::Refuse).unwrap_err();
            assert!(format!("{error:#}").contains(part), "{error:#}");
        }
        assert!(edge_from_json(json!({"from": "a", "to": "b"}), "c").is_err());
    }

    #[test]
    fn an_edge_survives_the_round_trip() {
        let json = json!({"from": "a", "relation": "r", "to": "b", "edge_id": "e", "weight": 0.25, "attributes": {"x": 1}});
        assert_eq!(edge_to_json(&edge_from_json(json.clone(), "c").unwrap()), json);
        let json = json!({"from": "a", "relation": "r", "to": "b", "to_collection": "d", "weight": 1.0});
        let edge = edge_from_json(json.clone(), "c").unwrap();
        assert_eq!(edge.to.as_ref().map(|to| to.collection.as_str()), Some("d"));
        assert_eq!(edge_to_json(&edge), json);
    }
}
