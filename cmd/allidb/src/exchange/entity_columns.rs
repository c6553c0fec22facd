//! Which column of a table is which field of an entity.

use allidb_api::v1::{Entity, Value, value::Kind};
use anyhow::{Context, Result, bail};
use serde_json::Value as Json;

use super::cells::{self, Cell, Want};
use crate::{
    entity_json::{chunk_from_json, entity_ref},
    failure::Failure,
    value_json,
};

/// What begins the name of a column that holds vectors.
pub(crate) const VECTORS: &str = "vectors.";

/// What the user says of columns.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mapping {
    /// Which one holds ids; unset: `id`.
    pub(crate) id: Option<String>,
    /// Which one holds types; unset: `type`, if there is one.
    pub(crate) type_column: Option<String>,
    /// The type of all of them.
    pub(crate) type_name: Option<String>,
    /// Spaces, and the columns that hold their vectors.
    pub(crate) vectors: Vec<(String, String)>,
    /// Columns that are not read.
    pub(crate) omit: Vec<String>,
}

/// A field of an entity.
#[derive(Clone, Debug, PartialEq)]
enum Field {
    Omitted,
    Id,
    Type,
    Importance,
    ExpireAt,
    Sources,
    Chunks,
    Attributes,
    Vector(String),
    Attribute(String),
}

/// The fields of the columns, in order.
#[derive(Clone, Debug)]
pub(crate) struct EntityColumns {
    fields: Vec<Field>,
    names: Vec<String>,
    type_name: Option<String>,
    collection: String,
}

impl EntityColumns {
    /// # Errors
    /// If a column is named that is not there, or none holds ids.
    pub(crate) fn new(names: &[String], mapping: &Mapping, collection: &str) -> Result<Self> {
        let named = [&mapping.id, &mapping.type_column].into_iter().flatten();
        let named = named.chain(mapping.vectors.iter().map(|(_, column)| column)).chain(&mapping.omit);
        for name in named {
            if !names.contains(name) {
                return Err(no_column(name, names));
            }
        }
        let fields: Vec<Field> = names.iter().map(|name| field(name, mapping)).collect();
        if !fields.contains(&Field::Id) {
            let missing = no_column("id", names);
            return Err(missing.context("--id names the column of ids; a file of edges takes --edges"));
        }
        let type_name = mapping.type_name.clone();
        Ok(Self { fields, names: names.to_vec(), type_name, collection: collection.to_owned() })
    }

    /// What a column is to be read as.
    pub(crate) fn want(&self, column: usize) -> Want {
        match self.fields.get(column) {
            None | Some(Field::Omitted) => Want::Nothing,
            Some(Field::Vector(_)) => Want::Vector,
            Some(_) => Want::Value,
        }
    }

    /// An entity out of the cells that are not empty, each with its column.
    pub(crate) fn entity(&self, cells: Vec<(usize, Cell)>) -> Result<Entity> {
        let mut entity = Entity { r#type: self.type_name.clone().unwrap_or_default(), ..Entity::default() };
        for (column, cell) in cells {
            let (Some(field), Some(name)) = (self.fields.get(column), self.names.get(column)) else {
                bail!("there are more cells than columns");
            };
            self.set(&mut entity, field, cell).with_context(|| format!("`{name}`"))?;
        }
        if entity.r#ref.is_none() {
            bail!("there is no id");
        }
        Ok(entity)
    }

    fn set(&self, entity: &mut Entity, field: &Field, cell: Cell) -> Result<()> {
        let value = match (field, cell) {
            (Field::Vector(space), Cell::Vector(vector)) => {
                entity.vectors.insert(space.clone(), vector);
                return Ok(());
            }
            (_, Cell::Value(value)) => value,
            (_, Cell::Vector(_)) => bail!("holds vectors"),
        };
        match field {
            Field::Id => entity.r#ref = Some(entity_ref(&self.collection, &cells::string(value)?)),
            Field::Type => entity.r#type = cells::string(value)?,
            Field::Importance => entity.importance = Some(cells::number(&value)?),
            Field::ExpireAt => entity.expire_at = Some(cells::time(&value)?),
            Field::Sources => entity.sources = cells::strings(value)?,
            Field::Chunks => {
                let Json::Array(chunks) = chunks_of(value)? else { bail!("must be an array of chunks") };
                entity.chunks = chunks.into_iter().map(chunk_from_json).collect::<Result<_>>()?;
            }
            Field::Attributes => entity.attributes.extend(cells::values(value)?),
            Field::Attribute(name) => {
                entity.attributes.insert(name.clone(), value);
            }
            Field::Vector(_) => bail!("holds no vector"),
            Field::Omitted => {}
        }
        Ok(())
    }
}

fn chunks_of(value: Value) -> Result<Json> {
    match value.kind {
        Some(Kind::StringValue(text)) => cells::json(&text),
        kind => Ok(value_json::to_json(&Value { kind })),
    }
}

fn field(name: &str, mapping: &Mapping) -> Field {
    let is = |column: &Option<String>, default: &str| match column {
        Some(column) => column == name,
        None => name == default,
    };
    if mapping.omit.iter().any(|omitted| omitted == name) {
        return Field::Omitted;
    }
    if let Some((space, _)) = mapping.vectors.iter().find(|(_, column)| column == name) {
        return Field::Vector(space.clone());
    }
    if is(&mapping.id, "id") {
        return Field::Id;
    }
    if mapping.type_name.is_none() && is(&mapping.type_column, "type") {
        return Field::Type;
    }
    match name {
        "importance" => Field::Importance,
        "expire_at" => Field::ExpireAt,
        "sources" => Field::Sources,
        "chunks" => Field::Chunks,
        "attributes" => Field::Attributes,
        _ => match name.strip_prefix(VECTORS) {
            Some(space) => Field::Vector(space.to_owned()),
            None => Field::Attribute(name.to_owned()),
        },
    }
}

/// Whether a column of this name is an attribute unless the user says otherwise.
pub(crate) fn is_attribute(name: &str) -> bool {
    matches!(field(name, &Mapping::default()), Field::Attribute(_))
}

/// A column is named that is not there.
pub(super) fn no_column(name: &str, names: &[String]) -> anyhow::Error {
    let there = names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    Failure::usage(format!("there is no column `{name}` among {there}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::entity_json::entity_to_json;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn read(columns: &EntityColumns, cells: Json) -> Result<Json> {
        let Json::Object(cells) = cells else { bail!("an object of cells") };
        let cell = |(name, json): (String, Json)| {
            let column = columns.names.iter().position(|of| *of == name).expect("a column");
            (column, Cell::Value(value_json::from_json(json).expect("a value")))
        };
        columns.entity(cells.into_iter().map(cell).collect()).map(|entity| entity_to_json(&entity))
    }

    #[test]
    fn columns_are_fields_by_their_names_or_by_what_is_said() {
        let all = names(&["id", "type", "sources", "importance", "attributes", "chunks", "gloss"]);
        let columns = EntityColumns::new(&all, &Mapping::default(), "c").unwrap();
        let cells = json!({
            "id": 7, "type": "noun", "sources": "[\"w\"]", "importance": "0.5", "gloss": "g",
            "attributes": "{\"id\": 1}", "chunks": "[{\"id\": \"c\", \"text\": \"t\"}]",
        });
        let expected = json!({
            "id": "7", "type": "noun", "attributes": {"gloss": "g", "id": 1}, "importance": 0.5,
            "sources": ["w"], "chunks": [{"id": "c", "text": "t"}],
        });
        assert_eq!(read(&columns, cells).unwrap(), expected);

        let mapping = Mapping {
            id: Some("key".to_owned()),
            type_name: Some("word".to_owned()),
            vectors: vec![("gloss".to_owned(), "embedding".to_owned())],
            omit: names(&["image"]),
            ..Mapping::default()
        };
        let all = names(&["key", "id", "type", "embedding", "image"]);
        let columns = EntityColumns::new(&all, &mapping, "c").unwrap();
        assert_eq!((columns.want(3), columns.want(4)), (Want::Vector, Want::Nothing));
        let expected = json!({"id": "k", "type": "word", "attributes": {"id": 1, "type": "t"}});
        assert_eq!(read(&columns, json!({"key": "k", "id": 1, "type": "t"})).unwrap(), expected);
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_column() {
        let refused = |mapping: Mapping| {
            let error = EntityColumns::new(&names(&["a", "b"]), &mapping, "c").unwrap_err();
            format!("{error:#}")
        };
        assert!(refused(Mapping::default()).contains("no column `id` among `a`, `b`"));
        let vectors = vec![("s".to_owned(), "x".to_owned())];
        assert!(refused(Mapping { vectors, ..Mapping::default() }).contains("no column `x`"));
        let columns = EntityColumns::new(&names(&["id", "importance"]), &Mapping::default(), "c").unwrap();
        assert!(read(&columns, json!({"importance": 1})).unwrap_err().to_string().contains("no id"));
        let error = read(&columns, json!({"id": "a", "importance": "high"})).unwrap_err();
        assert!(format!("{error:#}").starts_with("`importance`: must be a number"), "{error:#}");
    }
}
