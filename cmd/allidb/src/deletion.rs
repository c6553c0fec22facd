//! `allidb delete`: one entity, those that match, or what came from a source.

use allidb_api::v1::{CountRequest, DeleteBySourceRequest, DeleteRequest, DeleteWhereRequest};
use anyhow::Result;
use clap::{ArgGroup, Args};
use serde_json::json;

use crate::{
    client::Client,
    entity_json::entity_ref,
    failure::Failure,
    filter_syntax,
    output::{Output, counted},
    precondition::PreconditionArgs,
};

/// Deletes one entity and its edges (exit code 3 if there was none), those that match, or what came from a source.
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("what").required(true))]
pub(crate) struct DeleteArgs {
    /// The collection.
    #[arg(short, long)]
    collection: String,
    /// The entity's id.
    #[arg(group = "what")]
    id: Option<String>,
    /// All entities that match, such as 'type = "noun" and importance > 0.5'.
    #[arg(long, group = "what")]
    filter: Option<String>,
    /// Take this source away from entities, chunks and edges, and delete those that have no other.
    #[arg(long, group = "what")]
    source: Option<String>,
    /// Do it; with `--filter` or `--source` the command otherwise only says what it would do.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    precondition: PreconditionArgs,
}

/// Runs `delete`.
pub(crate) async fn run(args: DeleteArgs, client: &Client, output: Output) -> Result<()> {
    if args.id.is_none() && !args.precondition.is_none() {
        return Err(Failure::usage("--if-absent and --if-version are about one entity: name its id"));
    }
    match (&args.id, &args.filter, &args.source) {
        (_, Some(filter), _) => matching(&args, filter, client, output).await,
        (_, _, Some(source)) => by_source(&args, source, client, output).await,
        (id, ..) => one(&args, id.as_deref().unwrap_or_default(), client, output).await,
    }
}

async fn one(args: &DeleteArgs, id: &str, client: &Client, output: Output) -> Result<()> {
    let collection = &args.collection;
    let (entity, consistency) = (Some(entity_ref(collection, id)), client.consistency());
    let precondition = args.precondition.to_proto()?;
    let request = DeleteRequest { r#ref: entity, consistency, precondition, ..DeleteRequest::default() };
    let answer = client.entities().delete(request).await.map_err(Failure::from_status)?.into_inner();
    if !answer.existed {
        let message = format!("there was no entity `{id}` in `{collection}`");
        return Err(anyhow::Error::new(Failure::NotFound(message)));
    }
    output.either(format!("deleted {id}"), json!({ "deleted": id }))?;
    Ok(())
}

async fn matching(args: &DeleteArgs, filter: &str, client: &Client, output: Output) -> Result<()> {
    let collection = args.collection.clone();
    let filter = Some(filter_syntax::parse_argument(filter)?);
    let mut service = client.entities();
    if !args.yes {
        let request = CountRequest { collection, filter, ..CountRequest::default() };
        let count = service.count(request).await.map_err(Failure::from_status)?.into_inner().count;
        let entities = counted(count, "entity", "entities");
        let message = format!(
            "this would delete {entities} of `{}` and the edges they have; add --yes",
            args.collection
        );
        return Err(Failure::usage(message));
    }
    let consistency = client.consistency();
    let mut request = DeleteWhereRequest { collection, filter, consistency, ..DeleteWhereRequest::default() };
    let mut deleted = 0;
    loop {
        let page = service.delete_where(request.clone()).await.map_err(Failure::from_status)?.into_inner();
        deleted += page.deleted;
        if page.next_page_token.is_empty() {
            output.either(
                format!("deleted {}", counted(deleted, "entity", "entities")),
                json!({ "deleted": deleted }),
            )?;
            return Ok(());
        }
        request.page_token = page.next_page_token;
    }
}

async fn by_source(args: &DeleteArgs, source: &str, client: &Client, output: Output) -> Result<()> {
    if !args.yes {
        let message = format!(
            "this would delete what came from `{source}` alone in `{}`, and take it away from all else; add --yes",
            args.collection
        );
        return Err(Failure::usage(message));
    }
    let (collection, source) = (args.collection.clone(), source.to_owned());
    let consistency = client.consistency();
    let mut request =
        DeleteBySourceRequest { collection, source, consistency, ..DeleteBySourceRequest::default() };
    let (mut entities, mut chunks, mut edges, mut kept) = (0, 0, 0, 0);
    let mut service = client.entities();
    loop {
        let page =
            service.delete_by_source(request.clone()).await.map_err(Failure::from_status)?.into_inner();
        entities += page.entities_deleted;
        chunks += page.chunks_deleted;
        edges += page.edges_deleted;
        kept += page.kept;
        if page.next_page_token.is_empty() {
            let text = format!(
                "deleted {}, {} and {}; {kept} have other sources and stay",
                counted(entities, "entity", "entities"),
                counted(chunks, "chunk", "chunks"),
                counted(edges, "edge", "edges"),
            );
            let document = json!({ "entities": entities, "chunks": chunks, "edges": edges, "kept": kept });
            output.either(text, document)?;
            return Ok(());
        }
        request.page_token = page.next_page_token;
    }
}
