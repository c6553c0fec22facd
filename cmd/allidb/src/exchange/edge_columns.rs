//! Which column of a table is which field of an edge.

use allidb_api::v1::Edge;
use anyhow::{Context, Result, bail};

use super::{
    cells::{self, Cell, Want},
    entity_columns::no_column,
};
use crate::{entity_json::entity_ref, value_json::Values};

/// The columns of a file of edges, by their names.
#[derive(Clone, Debug)]
pub(crate) struct EdgeColumns {
    names: Vec<String>,
    omit: Vec<String>,
    collection: String,
}

impl EdgeColumns {
    /// # Errors
    /// If one of `from`, `relation` and `to` is not there.
    pub(crate) fn new(names: &[String], omit: &[String], collection: &str) -> Result<Self> {
        for name in ["from", "relation", "to"] {
            if !names.iter().any(|of| of == name) {
                return Err(no_column(name, names));
            }
        }
        Ok(Self { names: names.to_vec(), omit: omit.to_vec(), collection: collection.to_owned() })
    }

    /// What a column is to be read as.
    pub(crate) fn want(&self, column: usize) -> Want {
        match self.names.get(column) {
            Some(name) if !self.omit.contains(name) => Want::Value,
            _ => Want::Nothing,
        }
    }

    /// An edge out of the cells that are not empty, each with its column.
    pub(crate) fn edge(&self, cells: Vec<(usize, Cell)>) -> Result<Edge> {
        let mut edge = Edge::default();
        let mut attributes = Values::new();
        let mut to_collection = self.collection.clone();
        for (column, cell) in cells {
            let Some(name) = self.names.get(column) else { bail!("there are more cells than columns") };
            let Cell::Value(value) = cell else { bail!("`{name}` holds vectors") };
            let set = || -> Result<()> {
                match name.as_str() {
                    "from" => edge.from = Some(entity_ref(&self.collection, &cells::string(value)?)),
                    "to" => edge.to = Some(entity_ref("", &cells::string(value)?)),
                    "to_collection" => to_collection = cells::string(value)?,
                    "relation" => edge.relation = cells::string(value)?,
                    "edge_id" => edge.edge_id = cells::string(value)?,
                    "weight" => edge.weight = Some(cells::number(&value)?),
                    "valid_from" => edge.valid_from = Some(cells::time(&value)?),
                    "valid_to" => edge.valid_to = Some(cells::time(&value)?),
                    "sources" => edge.sources = cells::strings(value)?,
                    "attributes" => attributes.extend(cells::values(value)?),
                    other => {
                        attributes.insert(other.to_owned(), value);
                    }
                }
                Ok(())
            };
            set().with_context(|| format!("`{name}`"))?;
        }
        edge.attributes = attributes;
        let Some(to) = &mut edge.to else { bail!("there is no `to`") };
        to.collection = to_collection;
        if edge.from.is_none() || edge.relation.is_empty() {
            bail!("an edge needs `from`, `relation` and `to`");
        }
        Ok(edge)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::*;
    use crate::{entity_json::edge_to_json, value_json};

    #[test]
    fn cells_become_an_edge() {
        let names = ["from", "to", "relation", "weight", "to_collection", "note", "extra"];
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let columns = EdgeColumns::new(&names, &["extra".to_owned()], "c").unwrap();
        assert_eq!((columns.want(5), columns.want(6)), (Want::Value, Want::Nothing));
        let cell = |(at, json): (usize, Json)| (at, Cell::Value(value_json::from_json(json).expect("one")));
        let read = |cells: [Json; 6]| columns.edge(cells.into_iter().enumerate().map(cell).collect());
        let edge = read([json!("a"), json!(7), json!("r"), json!(0.5), json!("d"), json!("n")]).unwrap();
        let expected = json!({
            "from": "a", "relation": "r", "to": "7", "to_collection": "d", "weight": 0.5,
            "attributes": {"note": "n"},
        });
        assert_eq!(edge_to_json(&edge), expected);
        let error = read([json!("a"), json!("b"), json!("r"), json!([]), json!("d"), json!("n")]);
        assert!(format!("{:#}", error.unwrap_err()).starts_with("`weight`: must be a number"));
        assert!(EdgeColumns::new(&names[1..], &[], "c").is_err());
    }
}
