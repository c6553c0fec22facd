//! What a collection declares, as a file beside its exported entities: an import into a ring that does not have the
//! collection makes it the same.

use std::{fs, path::Path};

use allidb_api::v1::{Collection, Index, Space, TextField, TextKind, TextSettings};
use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value as Json;
use std::collections::BTreeMap;

use crate::collections;

/// The name of the file.
pub(crate) const FILE: &str = "collection.json";

#[derive(Deserialize)]
struct Described {
    name: String,
    #[serde(default)]
    spaces: Vec<DescribedSpace>,
    #[serde(default)]
    aliases: BTreeMap<String, String>,
    #[serde(default)]
    text: DescribedText,
    #[serde(default)]
    indexes: Vec<DescribedIndex>,
}

#[derive(Deserialize)]
struct DescribedSpace {
    name: String,
    dimension: u32,
    metric: String,
    #[serde(default)]
    history: u32,
    codes: String,
}

#[derive(Default, Deserialize)]
struct DescribedText {
    #[serde(default)]
    chunk_language: String,
    #[serde(default)]
    fields: Vec<DescribedField>,
}

#[derive(Deserialize)]
struct DescribedField {
    attribute: String,
    kind: String,
    weight: Option<f64>,
    #[serde(default)]
    language: String,
}

#[derive(Deserialize)]
struct DescribedIndex {
    field: String,
}

/// The text of the file.
pub(crate) fn write(collection: &Collection) -> String {
    format!("{:#}\n", collections::to_json(collection))
}

/// Reads the file of a directory, if there is one.
pub(crate) fn read(dir: &Path) -> Result<Option<Collection>> {
    let path = dir.join(FILE);
    if !path.is_file() {
        return Ok(None);
    }
    let read = || -> Result<Collection> { from_json(serde_json::from_str(&fs::read_to_string(&path)?)?) };
    read().map(Some).with_context(|| path.display().to_string())
}

fn from_json(json: Json) -> Result<Collection> {
    let described: Described = serde_json::from_value(json)?;
    let space = |space: DescribedSpace| {
        let metric = collections::parse_metric(&space.metric).map_err(anyhow::Error::msg)?;
        let codes = collections::parse_codes(&space.codes).map_err(anyhow::Error::msg)?;
        let (name, dimension, history) = (space.name, space.dimension, space.history);
        Ok(Space { name, dimension, history, metric: metric as i32, codes: codes as i32 })
    };
    let field = |field: DescribedField| {
        let kind = match field.kind.as_str() {
            "names" => TextKind::Names,
            "prose" => TextKind::Prose,
            other => anyhow::bail!("`{other}` is no kind of text: names or prose"),
        };
        let DescribedField { attribute, weight, language, .. } = field;
        Ok(TextField { attribute, weight, language, kind: kind as i32 })
    };
    let text = TextSettings {
        chunk_language: described.text.chunk_language,
        fields: described.text.fields.into_iter().map(field).collect::<Result<_>>()?,
    };
    let index = |index: DescribedIndex| Index { field: index.field, ..Index::default() };
    Ok(Collection {
        name: described.name,
        spaces: described.spaces.into_iter().map(space).collect::<Result<_>>()?,
        aliases: described.aliases,
        text: Some(text),
        indexes: described.indexes.into_iter().map(index).collect(),
        ..Collection::default()
    })
}

#[cfg(test)]
mod tests {
    use allidb_api::v1::{Codes, Metric};

    use super::*;

    #[test]
    fn a_definition_survives_its_file() {
        let collection = Collection {
            name: "c".to_owned(),
            spaces: vec![Space {
                name: "s".to_owned(),
                dimension: 3,
                metric: Metric::Dot as i32,
                history: 2,
                codes: Codes::Bits8 as i32,
            }],
            aliases: BTreeMap::from([("a".to_owned(), "s".to_owned())]),
            text: Some(TextSettings {
                chunk_language: "german".to_owned(),
                fields: vec![TextField {
                    attribute: "gloss".to_owned(),
                    weight: Some(0.5),
                    language: "none".to_owned(),
                    kind: TextKind::Prose as i32,
                }],
            }),
            indexes: vec![Index { field: "type".to_owned(), ..Index::default() }],
            ..Collection::default()
        };
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), None);
        fs::write(dir.path().join(FILE), write(&collection)).unwrap();
        assert_eq!(read(dir.path()).unwrap(), Some(collection));
        fs::write(dir.path().join(FILE), "{}").unwrap();
        assert!(format!("{:#}", read(dir.path()).unwrap_err()).contains("collection.json"));
    }
}
