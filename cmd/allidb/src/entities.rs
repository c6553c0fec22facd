//! `allidb put|get|scan|count`: entities one at a time, or in the order of their ids.

use std::{
    fs,
    io::{self, Read},
};

use allidb_api::v1::{CountRequest, Entity, GetRequest, PutRequest, RangeScanRequest};
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
    output::{Output, counted, shorten, table},
    precondition::PreconditionArgs,
    value_json,
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
    #[command(flatten)]
    precondition: PreconditionArgs,
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
        consistency: client.consistency(),
        precondition: args.precondition.to_proto()?,
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
        consistency: client.consistency(),
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
        consistency: client.consistency(),
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
        output.line(counted(printed, "entity", "entities"))?;
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
        consistency: client.consistency(),
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
