//! `allidb facets`: which values fields have, and how many entities have each.

use allidb_api::v1::{Facet, FacetsRequest};
use anyhow::Result;
use clap::Args;
use serde_json::{Value as Json, json};

use crate::{
    client::Client,
    entities::plain,
    failure::Failure,
    filter_syntax,
    output::{Output, shorten, table},
    value_json,
};

/// Shows the commonest values of fields, and how many different ones there are.
#[derive(Args, Debug)]
pub(crate) struct FacetsArgs {
    /// The collection.
    #[arg(short, long)]
    collection: String,
    /// The fields, as in filters: `lexname`, `type`, `source`.
    #[arg(required = true, value_name = "FIELD")]
    fields: Vec<String>,
    /// Only of entities that match.
    #[arg(long)]
    filter: Option<String>,
    /// How many values of each field at most.
    #[arg(long, default_value_t = 10)]
    limit: u32,
}

/// Runs `facets`.
pub(crate) async fn run(args: FacetsArgs, client: &Client, output: Output) -> Result<()> {
    let request = FacetsRequest {
        collection: args.collection,
        fields: args.fields,
        filter: args.filter.as_deref().map(filter_syntax::parse_argument).transpose()?,
        limit: args.limit,
        consistency: client.consistency(),
    };
    let facets = client.entities().facets(request).await.map_err(Failure::from_status)?.into_inner().facets;
    if output.is_json() {
        output.document(&facets.iter().map(to_json).collect())?;
        return Ok(());
    }
    for facet in &facets {
        let mut shown = table(&[&facet.field, "entities"]);
        for value in &facet.values {
            let text = value.value.as_ref().map(value_json::to_json).unwrap_or_default();
            shown.add_row([shorten(&plain(&text), 80), value.count.to_string()]);
        }
        output.table(&shown)?;
        output.line(format!("{} different values", facet.distinct))?;
    }
    Ok(())
}

fn to_json(facet: &Facet) -> Json {
    let value = |value: &allidb_api::v1::FacetValue| json!({ "value": value.value.as_ref().map(value_json::to_json), "count": value.count });
    json!({
        "field": facet.field,
        "distinct": facet.distinct,
        "values": facet.values.iter().map(value).collect::<Vec<_>>(),
    })
}
