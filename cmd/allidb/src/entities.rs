//! `allidb put|get|update|delete|scan|count`: entities one at a time, or in the order of their ids.

use std::{
    fs,
    io::{self, Read},
};

use allidb_api::v1::{
    CountRequest, DeleteRequest, Entity, GetRequest, PutRequest, RangeScanRequest, UpdateRequest,
};
use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::STANDARD};
use clap::Args;
use prost_types::FieldMask;
use serde_json::{Value as Json, json};

use crate::{
    client::Client,
    entity_json::{UnknownFields, entity_from_json, entity_ref, entity_to_json, id_of},
    failure::Failure,
    filter_syntax,
    import::WriteDurability,
    output::{Output, shorten, table},
    value_json, vector_numbers,
};

/// The most that the server returns in one page.
const MAX_PAGE: u64 = 1000;

/// Puts one entity, replacing the one with its id.
#[derive(Args, Debug)]
pub(crate) struct PutArgs {
    /// The collection.
    #[arg(short, long)]
    collection: String,
    /// The entity as JSON: {"id", "type", "attributes", "importance", "expire_at", "sources", "vectors",
    /// "chunks"}; `@FILE` reads a file, `-` or nothing reads standard input.
    entity: Option<String>,
    /// When the server acknowledges it.
    #[arg(long, value_enum, default_value_t = WriteDurability::Sync)]
    durability: WriteDurability,
}

/// Gets one entity. Exit code 3 if there is none.
#[derive(Args, Debug)]
pub(crate) struct GetArgs {
    /// The collection.
    #[arg(short, long)]
    collection: String,
    /// The entity's id.
    id: String,
    /// What to read, such as `type,attributes.gloss,vectors.SPACE,chunks`; `*` is everything.
    /// Everything but vectors unless given.
    #[arg(long, value_name = "PATHS", value_delimiter = ',')]
    fields: Vec<String>,
}

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
}

/// Deletes one entity and its edges. Exit code 3 if there was none.
#[derive(Args, Debug)]
pub(crate) struct DeleteArgs {
    /// The collection.
    #[arg(short, long)]
    collection: String,
    /// The entity's id.
    id: String,
}

/// Lists entities in the order of their ids; as JSON one a line.
#[derive(Args, Debug)]
pub(crate) struct ScanArgs {
    /// The collection.
    #[arg(short, long)]
    collection: String,
    /// First id, inclusive.
    #[arg(long, default_value = "", value_name = "ID")]
    start: String,
    /// Last id, exclusive.
    #[arg(long, default_value = "", value_name = "ID")]
    end: String,
    /// Only ids that begin with this.
    #[arg(long, default_value = "")]
    prefix: String,
    /// From the end to the start.
    #[arg(long)]
    reverse: bool,
    /// How many at most; 0 means all.
    #[arg(long, default_value_t = 0)]
    limit: u64,
    /// Only entities that match, such as 'type = "noun" and importance > 0.5'.
    #[arg(long)]
    filter: Option<String>,
    /// What to read, as in `get`.
    #[arg(long, value_name = "PATHS", value_delimiter = ',')]
    fields: Vec<String>,
}

/// Counts entities.
#[derive(Args, Debug)]
pub(crate) struct CountArgs {
    /// The collection.
    #[arg(short, long)]
    collection: String,
    /// Only entities that match.
    #[arg(long)]
    filter: Option<String>,
}

/// Runs `put`.
pub(crate) async fn put(args: PutArgs, client: &Client, output: Output) -> Result<()> {
    let text = match args.entity.as_deref() {
        None | Some("-") => {
            let mut text = String::new();
            io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
            text
        }
        Some(argument) => match argument.strip_prefix('@') {
            Some(path) => fs::read_to_string(path).with_context(|| path.to_owned())?,
            None => argument.to_owned(),
        },
    };
    let json = serde_json::from_str(&text).map_err(|error| Failure::usage(format!("not JSON: {error}")))?;
    let entity = entity_from_json(json, &args.collection, UnknownFields::Refuse)
        .map_err(|error| Failure::usage(format!("{error:#}")))?;
    let id = id_of(entity.r#ref.as_ref()).to_owned();
    let request = PutRequest {
        entity: Some(entity),
        durability: allidb_api::v1::Durability::from(args.durability) as i32,
        ..PutRequest::default()
    };
    let answer = client.entities().put(request).await.map_err(Failure::from_status)?.into_inner();
    let document = json!({"id": id, "version": STANDARD.encode(&answer.version)});
    output.either(format!("put {id}"), document)?;
    Ok(())
}

/// Runs `get`.
pub(crate) async fn get(args: GetArgs, client: &Client, output: Output) -> Result<()> {
    let request = GetRequest {
        r#ref: Some(entity_ref(&args.collection, &args.id)),
        read_mask: mask(args.fields),
        ..GetRequest::default()
    };
    let entity = client.entities().get(request).await.map_err(Failure::from_status)?.into_inner();
    let json = entity_to_json(&entity);
    if output.is_json() {
        output.document(&json)?;
        return Ok(());
    }
    let mut shown = table(&["field", "value"]);
    for (name, value) in json.as_object().into_iter().flatten() {
        match value {
            Json::Object(fields) if name == "attributes" || name == "vectors" => {
                for (field, value) in fields {
                    shown.add_row([format!("{name}.{field}"), shorten(&plain(value), 400)]);
                }
            }
            _ => {
                shown.add_row([name.clone(), shorten(&plain(value), 400)]);
            }
        }
    }
    output.table(&shown)?;
    Ok(())
}

/// Runs `update`.
pub(crate) async fn update(args: UpdateArgs, client: &Client, output: Output) -> Result<()> {
    let id = args.id.clone();
    let allow_missing = args.allow_missing;
    let (entity, paths) = changes(args)?;
    if paths.is_empty() {
        return Err(Failure::usage("nothing to change: see --set, --unset, --type, --importance, --vector"));
    }
    let request = UpdateRequest {
        entity: Some(entity),
        update_mask: Some(FieldMask { paths }),
        allow_missing,
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

/// Runs `delete`.
pub(crate) async fn delete(args: DeleteArgs, client: &Client, output: Output) -> Result<()> {
    let request =
        DeleteRequest { r#ref: Some(entity_ref(&args.collection, &args.id)), ..DeleteRequest::default() };
    let answer = client.entities().delete(request).await.map_err(Failure::from_status)?.into_inner();
    if !answer.existed {
        let message = format!("there was no entity `{}` in `{}`", args.id, args.collection);
        return Err(anyhow::Error::new(Failure::NotFound(message)));
    }
    output.either(format!("deleted {}", args.id), json!({ "deleted": args.id }))?;
    Ok(())
}

/// Runs `scan`, page by page.
pub(crate) async fn scan(args: ScanArgs, client: &Client, output: Output) -> Result<()> {
    let mut request = RangeScanRequest {
        collection: args.collection,
        start_id: args.start,
        end_id: args.end,
        id_prefix: args.prefix,
        reverse: args.reverse,
        filter: args.filter.as_deref().map(filter_syntax::parse_argument).transpose()?,
        read_mask: mask(args.fields),
        ..RangeScanRequest::default()
    };
    let mut service = client.entities();
    let mut left = if args.limit == 0 { u64::MAX } else { args.limit };
    let mut printed = 0_u64;
    while left > 0 {
        request.page_size = left.min(MAX_PAGE) as u32;
        let page = service.range_scan(request.clone()).await.map_err(Failure::from_status)?.into_inner();
        let count = (page.entities.len() as u64).min(left);
        print_page(page.entities.iter().take(count as usize), output)?;
        left -= count;
        printed += count;
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    if !output.is_json() {
        output.line(format!("{printed} entities"))?;
    }
    Ok(())
}

/// Every page is a table of its own, so that the first shows at once and none is kept in memory.
fn print_page<'a>(entities: impl Iterator<Item = &'a Entity>, output: Output) -> Result<()> {
    let mut entities = entities.peekable();
    if output.is_json() {
        for entity in entities {
            output.line(entity_to_json(entity).to_string())?;
        }
    } else if entities.peek().is_some() {
        let mut shown = table(&["id", "type", "attributes"]);
        for entity in entities {
            shown.add_row([id_of(entity.r#ref.as_ref()), &entity.r#type, &preview(entity)]);
        }
        output.table(&shown)?;
    }
    Ok(())
}

/// Runs `count`.
pub(crate) async fn count(args: CountArgs, client: &Client, output: Output) -> Result<()> {
    let request = CountRequest {
        collection: args.collection,
        filter: args.filter.as_deref().map(filter_syntax::parse_argument).transpose()?,
        ..CountRequest::default()
    };
    let count = client.entities().count(request).await.map_err(Failure::from_status)?.into_inner().count;
    output.either(count.to_string(), json!({ "count": count }))?;
    Ok(())
}

/// The attributes of an entity on one line.
pub(crate) fn preview(entity: &Entity) -> String {
    let show = |(name, value): (&String, &allidb_api::v1::Value)| {
        format!("{name}: {}", shorten(&plain(&value_json::to_json(value)), 90))
    };
    shorten(&entity.attributes.iter().map(show).collect::<Vec<_>>().join("; "), 200)
}

/// A value for people: strings without quotes, lists with commas.
pub(crate) fn plain(value: &Json) -> String {
    match value {
        Json::String(text) => text.clone(),
        Json::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

/// A read mask; none if nothing was asked for.
pub(crate) fn mask(paths: Vec<String>) -> Option<FieldMask> {
    (!paths.is_empty()).then_some(FieldMask { paths })
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
