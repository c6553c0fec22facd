//! `allidb update`: some fields of one entity.

use allidb_api::v1::{Entity, UpdateRequest};
use anyhow::Result;
use base64::{Engine, engine::general_purpose::STANDARD};
use clap::Args;
use prost_types::FieldMask;
use serde_json::{Value as Json, json};

use crate::{
    client::Client, entity_json::entity_ref, failure::Failure, output::Output,
    precondition::PreconditionArgs, value_json, vector_numbers,
};

/// Changes some fields of one entity and nothing else. Exit code 3 if there is none.
#[derive(Args, Debug)]
pub(crate) struct UpdateArgs {
    /// The collection.
    #[arg(short, long)]
    collection: String,
    /// The entity's id.
    id: String,
    /// Set an attribute to a JSON value (what is not JSON is taken as a string). May be repeated.
    #[arg(long, value_name = "NAME=JSON", value_parser = parse_assignment)]
    set: Vec<(String, Json)>,
    /// Remove an attribute. May be repeated.
    #[arg(long, value_name = "NAME")]
    unset: Vec<String>,
    /// Set the type.
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// Set the importance, from 0 to 1; `none` removes it.
    #[arg(long, value_name = "NUMBER", value_parser = parse_importance)]
    importance: Option<Importance>,
    /// Let it vanish at this RFC 3339 time; `never` removes the time.
    #[arg(long, value_name = "TIME")]
    expire_at: Option<String>,
    /// Set a vector: SPACE=[numbers]. May be repeated.
    #[arg(long, value_name = "SPACE=JSON", value_parser = parse_assignment)]
    vector: Vec<(String, Json)>,
    /// Remove the vector of a space. May be repeated.
    #[arg(long, value_name = "SPACE")]
    unset_vector: Vec<String>,
    /// Create the entity if it is missing.
    #[arg(long)]
    allow_missing: bool,
    #[command(flatten)]
    precondition: PreconditionArgs,
}

/// Runs `update`.
pub(crate) async fn run(args: UpdateArgs, client: &Client, output: Output) -> Result<()> {
    let id = args.id.clone();
    let allow_missing = args.allow_missing;
    let precondition = args.precondition.to_proto()?;
    let (entity, paths) = changes(args)?;
    if paths.is_empty() {
        return Err(Failure::usage("nothing to change: see --set, --unset, --type, --importance, --vector"));
    }
    let request = UpdateRequest {
        entity: Some(entity),
        update_mask: Some(FieldMask { paths }),
        allow_missing,
        precondition,
        consistency: client.consistency(),
        ..UpdateRequest::default()
    };
    let answer = client.entities().update(request).await.map_err(Failure::from_status)?.into_inner();
    let document = json!({"id": id, "version": STANDARD.encode(&answer.version)});
    output.either(format!("updated {id}"), document)?;
    Ok(())
}

/// The fields to set, and the mask; a path in the mask without a field in the entity removes it.
fn changes(args: UpdateArgs) -> Result<(Entity, Vec<String>)> {
    let mut entity = Entity { r#ref: Some(entity_ref(&args.collection, &args.id)), ..Entity::default() };
    let mut paths = Vec::new();
    for (name, json) in args.set {
        let value =
            value_json::from_json(json).map_err(|error| Failure::usage(format!("{name}: {error:#}")))?;
        paths.push(format!("attributes.{name}"));
        entity.attributes.insert(name, value);
    }
    paths.extend(args.unset.into_iter().map(|name| format!("attributes.{name}")));
    for (space, json) in args.vector {
        let vector = vector_numbers::from_json(&json)
            .map_err(|error| Failure::usage(format!("{space}: {error:#}")))?;
        paths.push(format!("vectors.{space}"));
        entity.vectors.insert(space, vector);
    }
    paths.extend(args.unset_vector.into_iter().map(|space| format!("vectors.{space}")));
    if let Some(kind) = args.kind {
        entity.r#type = kind;
        paths.push("type".to_owned());
    }
    if let Some(Importance(importance)) = args.importance {
        entity.importance = importance;
        paths.push("importance".to_owned());
    }
    if let Some(time) = args.expire_at {
        if time != "never" {
            let time = value_json::timestamp(&time).map_err(|error| Failure::usage(error.to_string()))?;
            entity.expire_at = Some(time);
        }
        paths.push("expire_at".to_owned());
    }
    Ok((entity, paths))
}

/// An importance to set, or to remove.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Importance(Option<f64>);

fn parse_importance(text: &str) -> Result<Importance, String> {
    if text == "none" {
        return Ok(Importance(None));
    }
    let number = text.parse().ok().filter(|number| (0.0..=1.0).contains(number));
    number.map(|number| Importance(Some(number))).ok_or_else(|| "a number from 0 to 1, or none".to_owned())
}

fn parse_assignment(text: &str) -> Result<(String, Json), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    if name.is_empty() {
        return Err("the name is empty".to_owned());
    }
    let value = serde_json::from_str(value).unwrap_or_else(|_| Json::String(value.to_owned()));
    Ok((name.to_owned(), value))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: UpdateArgs,
    }

    fn changed(arguments: &str) -> (Entity, Vec<String>) {
        let line = format!("update -c words dog {arguments}");
        changes(Line::try_parse_from(line.split_whitespace()).unwrap_or_else(|e| panic!("{e}")).args).unwrap()
    }

    #[test]
    fn the_mask_names_what_is_set_and_what_is_removed() {
        let (entity, paths) =
            changed("--set rank=3 --set name=Rex --unset old --importance none --expire-at never");
        assert_eq!(
            paths,
            ["attributes.rank", "attributes.name", "attributes.old", "importance", "expire_at"]
        );
        assert_eq!(entity.attributes.len(), 2);
        assert_eq!(value_json::to_json(&entity.attributes["rank"]), json!(3));
        assert_eq!(value_json::to_json(&entity.attributes["name"]), json!("Rex"));
        assert_eq!((entity.importance, entity.expire_at), (None, None));
    }

    #[test]
    fn importance_and_vectors_are_checked_before_sending() {
        assert_eq!(changed("--importance 0.5 --type t").0.importance, Some(0.5));
        assert!(parse_importance("1.5").is_err());
        let line = ["update", "-c", "words", "dog", "--vector", "gloss=[1,\"a\"]"];
        assert!(changes(Line::try_parse_from(line).unwrap_or_else(|e| panic!("{e}")).args).is_err());
    }
}
