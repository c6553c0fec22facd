//! `allidb collection …`, and what other commands need of collections.

use allidb_api::v1::{
    Codes, Collection, CreateCollectionRequest, DropCollectionRequest, GetCollectionRequest, Index,
    ListCollectionsRequest, Metric, Space, TextField, TextKind, TextSettings, UpdateCollectionRequest, index,
};
use anyhow::Result;
use clap::Subcommand;
use serde_json::{Value as Json, json};
use tonic::Code;

use crate::{
    client::Client,
    failure::Failure,
    output::{Output, table},
};

/// Works on collections and their vector spaces.
#[derive(Debug, Subcommand)]
pub(crate) enum CollectionCommand {
    /// Creates a collection.
    Create {
        /// Its name: 1 to 64 of a-z, A-Z, 0-9, `_`, `-`, `.`.
        name: String,
        /// A vector space: NAME:DIMENSION[:METRIC[:CODES]], metric cosine (the default), dot or l2. Codes are how the index holds
        /// vectors: `4+8` bits a number (the default), `8`, `1+8` or `f32`. May be repeated.
        #[arg(long = "space", value_name = "SPACE", value_parser = parse_space)]
        spaces: Vec<Space>,
        /// An attribute that is searched as text: ATTRIBUTE[:KIND[:WEIGHT[:LANGUAGE]]], kind names (short values, the default) or
        /// prose, weight 1 and language english unless given. May be repeated. Chunks always are searched.
        #[arg(long = "text", value_name = "FIELD", value_parser = parse_text_field)]
        texts: Vec<TextField>,
        /// The language of chunks; `none` leaves words as they are.
        #[arg(long, value_name = "LANGUAGE", default_value = "english")]
        chunk_language: String,
        /// A field with a secondary index, as in filters: `attributes.year`, `type`, `source`. May be repeated.
        #[arg(long = "index", value_name = "FIELD")]
        indexes: Vec<String>,
    },
    /// Shows a collection.
    Get {
        /// Its name.
        name: String,
    },
    /// Lists all collections.
    List,
    /// Adds or drops spaces and indexes, sets or removes aliases.
    Update {
        /// The collection.
        name: String,
        /// Add a space: NAME:DIMENSION[:METRIC[:CODES]]. May be repeated.
        #[arg(long, value_name = "SPACE", value_parser = parse_space)]
        add_space: Vec<Space>,
        /// Drop a space with all its vectors. May be repeated.
        #[arg(long, value_name = "NAME")]
        drop_space: Vec<String>,
        /// Let an alias stand for a space: ALIAS=SPACE. May be repeated.
        #[arg(long, value_name = "ALIAS=SPACE", value_parser = parse_alias)]
        alias: Vec<(String, String)>,
        /// Remove an alias. May be repeated.
        #[arg(long, value_name = "ALIAS")]
        remove_alias: Vec<String>,
        /// Give a field a secondary index; it is built in the background. May be repeated.
        #[arg(long, value_name = "FIELD")]
        add_index: Vec<String>,
        /// Drop the secondary index of a field. May be repeated.
        #[arg(long, value_name = "FIELD")]
        drop_index: Vec<String>,
    },
    /// Drops a collection with everything in it.
    Drop {
        /// Its name.
        name: String,
        /// Do it; without this the command only says what it would do.
        #[arg(long)]
        yes: bool,
    },
}

/// Runs the command.
pub(crate) async fn run(command: CollectionCommand, client: &Client, output: Output) -> Result<()> {
    let mut service = client.collections();
    match command {
        CollectionCommand::Create { name, spaces, texts, chunk_language, indexes } => {
            let text = Some(TextSettings { chunk_language, fields: texts });
            let indexes = indexes.into_iter().map(|field| Index { field, ..Index::default() }).collect();
            let collection = Collection { name, spaces, text, indexes, ..Collection::default() };
            let created = create(client, collection).await?;
            show(&[created], output, false)
        }
        CollectionCommand::Get { name } => {
            let request = GetCollectionRequest { name };
            let found = service.get_collection(request).await.map_err(Failure::from_status)?;
            show(&[found.into_inner()], output, false)
        }
        CollectionCommand::List => show(&list(client).await?, output, true),
        CollectionCommand::Update {
            name,
            add_space,
            drop_space,
            alias,
            remove_alias,
            add_index,
            drop_index,
        } => {
            let request = UpdateCollectionRequest {
                name,
                add_spaces: add_space,
                drop_spaces: drop_space,
                set_aliases: alias.into_iter().collect(),
                remove_aliases: remove_alias,
                add_indexes: add_index,
                drop_indexes: drop_index,
            };
            let updated = service.update_collection(request).await.map_err(Failure::from_status)?;
            show(&[updated.into_inner()], output, false)
        }
        CollectionCommand::Drop { name, yes } => {
            if !yes {
                return Err(Failure::usage(format!(
                    "this would drop `{name}` and everything in it; add --yes"
                )));
            }
            let request = DropCollectionRequest { name: name.clone() };
            service.drop_collection(request).await.map_err(Failure::from_status)?;
            output.either(format!("dropped {name}"), json!({ "dropped": name }))?;
            Ok(())
        }
    }
}

/// Creates a collection.
pub(crate) async fn create(client: &Client, collection: Collection) -> Result<Collection> {
    let request = CreateCollectionRequest { collection: Some(collection) };
    let created = client.collections().create_collection(request).await.map_err(Failure::from_status)?;
    Ok(created.into_inner())
}

/// Makes sure that the collection is there with these spaces; creates what is missing if `may_create`.
pub(crate) async fn ensure(
    client: &Client,
    name: &str,
    spaces: &[Space],
    text: TextSettings,
    may_create: bool,
) -> Result<()> {
    let mut service = client.collections();
    let found = match service.get_collection(GetCollectionRequest { name: name.to_owned() }).await {
        Ok(found) => found.into_inner(),
        Err(status) if status.code() == Code::NotFound && may_create => {
            let (name, spaces, text) = (name.to_owned(), spaces.to_vec(), Some(text));
            create(client, Collection { name, spaces, text, ..Collection::default() }).await?;
            return Ok(());
        }
        Err(status) => return Err(Failure::from_status(status)),
    };
    let mut missing = Vec::new();
    for space in spaces {
        let target = found.aliases.get(&space.name).unwrap_or(&space.name);
        match found.spaces.iter().find(|declared| &declared.name == target) {
            Some(declared) if declared.dimension == space.dimension => {}
            Some(declared) => {
                return Err(Failure::usage(format!(
                    "the vectors have {} numbers, the space `{}` of `{name}` takes {}",
                    space.dimension, space.name, declared.dimension
                )));
            }
            None if may_create => missing.push(space.clone()),
            None => {
                let message = format!("`{name}` has no space `{}`", space.name);
                return Err(anyhow::Error::new(Failure::NotFound(message)));
            }
        }
    }
    if !missing.is_empty() {
        let request = UpdateCollectionRequest {
            name: name.to_owned(),
            add_spaces: missing,
            ..UpdateCollectionRequest::default()
        };
        service.update_collection(request).await.map_err(Failure::from_status)?;
    }
    Ok(())
}

async fn list(client: &Client) -> Result<Vec<Collection>> {
    let mut service = client.collections();
    let mut request = ListCollectionsRequest { page_size: 1000, page_token: String::new() };
    let mut all = Vec::new();
    loop {
        let page =
            service.list_collections(request.clone()).await.map_err(Failure::from_status)?.into_inner();
        all.extend(page.collections);
        if page.next_page_token.is_empty() {
            return Ok(all);
        }
        request.page_token = page.next_page_token;
    }
}

/// A space from `NAME:DIMENSION[:METRIC[:CODES]]`.
pub(crate) fn parse_space(text: &str) -> Result<Space, String> {
    let mut parts = text.split(':');
    let (Some(name), Some(dimension), metric, codes, None) =
        (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(
            "a space is NAME:DIMENSION, NAME:DIMENSION:METRIC or NAME:DIMENSION:METRIC:CODES".to_owned()
        );
    };
    let dimension = dimension.parse().ok().filter(|dimension| (1..=65_535).contains(dimension));
    Ok(Space {
        name: name.to_owned(),
        dimension: dimension.ok_or("the dimension is a number from 1 to 65,535")?,
        metric: parse_metric(metric.unwrap_or("cosine"))? as i32,
        codes: codes.map_or(Ok(Codes::Unspecified), parse_codes)? as i32,
        ..Space::default()
    })
}

fn kind_name(kind: TextKind) -> &'static str {
    match kind {
        TextKind::Unspecified | TextKind::Names => "names",
        TextKind::Prose => "prose",
    }
}

/// ATTRIBUTE[:KIND[:WEIGHT[:LANGUAGE]]].
pub(crate) fn parse_text_field(text: &str) -> Result<TextField, String> {
    let mut parts = text.split(':');
    let attribute = parts.next().filter(|name| !name.is_empty()).ok_or("names no attribute")?.to_owned();
    let kind = match parts.next().unwrap_or("names") {
        "names" => TextKind::Names,
        "prose" => TextKind::Prose,
        other => return Err(format!("`{other}` is no kind of text: names or prose")),
    };
    let weight = parts
        .next()
        .map(|weight| weight.parse::<f64>().map_err(|_| format!("`{weight}`: a weight is a number above 0")));
    let weight = weight.transpose()?;
    let language = parts.next().unwrap_or_default().to_owned();
    match parts.next() {
        Some(more) => Err(format!("`{more}` is too much: a field is ATTRIBUTE[:KIND[:WEIGHT[:LANGUAGE]]]")),
        None => Ok(TextField { attribute, weight, language, kind: kind.into() }),
    }
}

pub(crate) fn parse_codes(text: &str) -> Result<Codes, String> {
    match text {
        "4+8" => Ok(Codes::Bits4And8),
        "8" => Ok(Codes::Bits8),
        "1+8" => Ok(Codes::Bits1And8),
        "f32" => Ok(Codes::Float),
        _ => Err(format!("`{text}` are no codes: 4+8, 8, 1+8 or f32")),
    }
}

fn codes_name(codes: Codes) -> &'static str {
    match codes {
        Codes::Bits4And8 | Codes::Unspecified => "4+8",
        Codes::Bits8 => "8",
        Codes::Bits1And8 => "1+8",
        Codes::Float => "f32",
    }
}

/// A metric by its name.
pub(crate) fn parse_metric(text: &str) -> Result<Metric, String> {
    match text {
        "cosine" => Ok(Metric::Cosine),
        "dot" => Ok(Metric::Dot),
        "l2" => Ok(Metric::L2),
        _ => Err(format!("`{text}` is not a metric: cosine, dot or l2")),
    }
}

fn parse_alias(text: &str) -> Result<(String, String), String> {
    let (alias, space) = text.split_once('=').ok_or("an alias is ALIAS=SPACE")?;
    Ok((alias.to_owned(), space.to_owned()))
}

fn metric_name(metric: Metric) -> &'static str {
    match metric {
        Metric::Cosine => "cosine",
        Metric::Dot => "dot",
        Metric::L2 => "l2",
        Metric::Unspecified => "unspecified",
    }
}

fn is_built(index: &Index) -> bool {
    index.state() == index::State::Built
}

/// What a collection declares, in the form that `--output json` shows.
pub(crate) fn to_json(collection: &Collection) -> Json {
    let space = |space: &Space| {
        json!({
            "name": space.name, "dimension": space.dimension,
            "metric": metric_name(space.metric()), "history": space.history,
            "codes": codes_name(space.codes()),
        })
    };
    let text_field = |field: &TextField| {
        json!({
            "attribute": field.attribute, "kind": kind_name(field.kind()), "weight": field.weight,
            "language": field.language,
        })
    };
    let index = |index: &Index| json!({ "field": index.field, "built": is_built(index) });
    let text = collection.text.clone().unwrap_or_default();
    json!({
        "name": collection.name,
        "text": {
            "chunk_language": text.chunk_language,
            "fields": text.fields.iter().map(text_field).collect::<Vec<_>>(),
        },
        "spaces": collection.spaces.iter().map(space).collect::<Vec<_>>(),
        "aliases": collection.aliases,
        "indexes": collection.indexes.iter().map(index).collect::<Vec<_>>(),
        "created_at": collection.created_at.map(|time| time.to_string()),
    })
}

/// Prints the collections; as JSON an array if `as_list`, else the only one.
fn show(collections: &[Collection], output: Output, as_list: bool) -> Result<()> {
    if output.is_json() {
        let mut documents: Vec<Json> = collections.iter().map(to_json).collect();
        let document = if as_list { Json::Array(documents) } else { documents.pop().unwrap_or_default() };
        output.document(&document)?;
        return Ok(());
    }
    let mut shown = table(&[
        "collection",
        "space",
        "dimension",
        "metric",
        "codes",
        "aliases",
        "text",
        "indexes",
        "created",
    ]);
    for collection in collections {
        let created = collection.created_at.map(|time| time.to_string()).unwrap_or_default();
        let texts = collection.text.iter().flat_map(|text| &text.fields);
        let texts = texts.map(|field| field.attribute.as_str()).collect::<Vec<_>>().join(", ");
        let name = |index: &Index| match is_built(index) {
            true => index.field.clone(),
            false => format!("{} (being built)", index.field),
        };
        let indexes = collection.indexes.iter().map(name).collect::<Vec<_>>().join(", ");
        if collection.spaces.is_empty() {
            shown.add_row([collection.name.as_str(), "", "", "", "", "", &texts, &indexes, &created]);
        }
        for (index, space) in collection.spaces.iter().enumerate() {
            let aliases = collection.aliases.iter().filter(|(_, target)| **target == space.name);
            let aliases = aliases.map(|(alias, _)| alias.as_str()).collect::<Vec<_>>().join(", ");
            shown.add_row([
                if index == 0 { &collection.name } else { "" },
                &space.name,
                &space.dimension.to_string(),
                metric_name(space.metric()),
                codes_name(space.codes()),
                &aliases,
                if index == 0 { &texts } else { "" },
                if index == 0 { &indexes } else { "" },
                if index == 0 { &created } else { "" },
            ]);
        }
    }
    output.table(&shown)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spaces_are_read_with_and_without_a_metric() {
        let space = parse_space("gloss:384").unwrap();
        assert_eq!((space.name.as_str(), space.dimension, space.metric()), ("gloss", 384, Metric::Cosine));
        assert_eq!(parse_space("a:2:l2").unwrap().metric(), Metric::L2);
        assert_eq!(parse_space("a:2:dot:1+8").unwrap().codes(), Codes::Bits1And8);
        for bad in ["a:1:l2:4+8:x", "gloss", "gloss:0", "gloss:65536", "gloss:x", "gloss:3:cos", "a:1:l2:x"] {
            assert!(parse_space(bad).is_err(), "{bad} was taken");
        }
    }
}
