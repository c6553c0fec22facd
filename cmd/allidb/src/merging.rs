//! `allidb merge`: two entities that turn out to be the same.

use allidb_api::v1::MergeRequest;
use anyhow::Result;
use clap::Args;
use serde_json::json;

use crate::{client::Client, failure::Failure, output::Output};

/// Makes two entities one. What FROM has and INTO has not goes over, with its chunks and edges, and FROM is another name of INTO from then on.
#[derive(Args, Debug)]
pub(crate) struct MergeArgs {
    /// The collection.
    #[arg(short, long)]
    collection: String,
    /// The id of the entity that goes.
    from: String,
    /// The id of the entity that stays.
    into: String,
}

/// Runs `merge`.
pub(crate) async fn run(args: MergeArgs, client: &Client, output: Output) -> Result<()> {
    let MergeArgs { collection, from, into } = args;
    let (goes, consistency) = (from.clone(), client.consistency());
    let request = MergeRequest { collection, from: goes, into, consistency, ..MergeRequest::default() };
    let merged = client.entities().merge(request).await.map_err(Failure::from_status)?.into_inner();
    let rest = if merged.pending { "; the rest moves in the background" } else { "" };
    let text = format!("merged {from} into {}; edges that moved: {}{rest}", merged.into, merged.edges_moved);
    let document = json!({
        "from": from, "into": merged.into, "edges_moved": merged.edges_moved, "pending": merged.pending,
    });
    output.either(text, document)?;
    Ok(())
}
