//! `allidb flush`, `allidb compact` and `allidb scrub`: what operators do to the store of a running daemon.

use std::time::Instant;

use allidb_api::v1::{CompactRequest, Damage, FlushRequest, RebuildIndexRequest, ScrubRequest};
use allidbd::config::ByteSize;
use anyhow::{Result, bail};
use clap::Args;
use serde_json::{Value as Json, json};

use crate::{
    client::Client,
    failure::Failure,
    output::{Output, table},
    progress::Progress,
};

/// What to compact.
#[derive(Args, Debug)]
pub(crate) struct CompactArgs {
    /// Only this keyspace of the storage engine, such as `entity` or `vector`.
    #[arg(long, value_name = "NAME")]
    keyspace: Option<String>,
}

/// How to scrub.
#[derive(Args, Debug)]
pub(crate) struct ScrubArgs {
    /// How much to read in a second at most, such as 100MiB; as fast as it comes unless given.
    #[arg(long, value_name = "SIZE")]
    rate: Option<ByteSize>,
}

/// Build graphs of vectors anew from the vectors that are stored, as the options say now, while the daemon serves: after `vectors.connections` or
/// `vectors.build_breadth` has changed, say. `allidb worker throttle vector-merge PERCENT` slows it down; ^C has what is not begun stay as it is.
#[derive(Args, Debug)]
pub(crate) struct RebuildArgs {
    /// Only this collection; all of them unless given.
    #[arg(long, short)]
    collection: Option<String>,
    /// Only this space of it, by name or alias.
    #[arg(long, short, requires = "collection")]
    space: Option<String>,
    /// Only this tenant's.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    tenant: Option<u64>,
}

/// Runs `flush`.
pub(crate) async fn flush(client: &Client, output: Output) -> Result<()> {
    let begun = Instant::now();
    client.maintenance().flush(FlushRequest {}).await.map_err(Failure::from_status)?;
    let seconds = begun.elapsed().as_secs_f64();
    output.either(format!("flushed in {seconds:.1} s"), json!({ "seconds": seconds }))?;
    Ok(())
}

/// Runs `compact`.
pub(crate) async fn compact(args: CompactArgs, client: &Client, output: Output) -> Result<()> {
    let begun = Instant::now();
    let request = CompactRequest { keyspace: args.keyspace.unwrap_or_default() };
    let answers = client.maintenance().compact(request).await.map_err(Failure::from_status)?;
    let mut answers = answers.into_inner();
    let mut progress: Option<Progress> = None;
    while let Some(told) = answers.message().await.map_err(Failure::from_status)? {
        let bar = progress.get_or_insert_with(|| Progress::of_bytes("compact", told.bytes_total));
        bar.at(told.bytes_done);
        if told.finished {
            bar.finish();
            // Who leaves before the end of the call cuts it off, as far as the server knows.
            answers.trailers().await.ok();
            let seconds = begun.elapsed().as_secs_f64();
            let mut sentence = format!(
                "compacted {} of tables in {} keyspaces in {seconds:.1} s",
                size(told.bytes_total),
                told.keyspaces_done
            );
            if told.quarantined_tables > 0 {
                sentence.push_str(&format!(
                    "; left {} damaged tables alone, and what lies over and under them",
                    told.quarantined_tables
                ));
            }
            output.either(
                sentence,
                json!({
                    "keyspaces": told.keyspaces_done, "bytes": told.bytes_total,
                    "quarantined_tables": told.quarantined_tables, "seconds": seconds,
                }),
            )?;
            return Ok(());
        }
    }
    bail!("the server ended the call without a result")
}

/// Runs `scrub`. Damage is a failure of the command, although the call went well.
pub(crate) async fn scrub(args: ScrubArgs, client: &Client, output: Output) -> Result<()> {
    let begun = Instant::now();
    let request = ScrubRequest { bytes_per_second: args.rate.map_or(0, |rate| rate.0) };
    let answers = client.maintenance().scrub(request).await.map_err(Failure::from_status)?;
    let mut answers = answers.into_inner();
    let mut damages: Vec<Damage> = Vec::new();
    let mut progress: Option<Progress> = None;
    while let Some(told) = answers.message().await.map_err(Failure::from_status)? {
        let bar = progress.get_or_insert_with(|| Progress::of_bytes("scrub", told.bytes_total));
        bar.at(told.bytes_done);
        damages.extend(told.damages);
        if told.finished {
            bar.finish();
            // Who leaves before the end of the call cuts it off, as far as the server knows.
            answers.trailers().await.ok();
            let seconds = begun.elapsed().as_secs_f64();
            if output.is_json() {
                output.document(&json!({
                    "files": told.files_done, "bytes": told.bytes_done, "seconds": seconds,
                    "damages": damages.iter().map(damage_to_json).collect::<Vec<_>>(),
                }))?;
            } else {
                if !damages.is_empty() {
                    show(&damages, output)?;
                }
                let read = size(told.bytes_done);
                output.line(format!("{} files, {read} read in {seconds:.1} s", told.files_done))?;
            }
            return match damages.len() {
                0 => Ok(()),
                1 => bail!("1 damage was found"),
                count => bail!("{count} damages were found"),
            };
        }
    }
    bail!("the server ended the call without a result")
}

/// Runs `rebuild-index`.
pub(crate) async fn rebuild_index(args: RebuildArgs, client: &Client, output: Output) -> Result<()> {
    let begun = Instant::now();
    let request = RebuildIndexRequest {
        tenant: args.tenant.unwrap_or_default(),
        collection: args.collection.unwrap_or_default(),
        space: args.space.unwrap_or_default(),
    };
    let answers = client.maintenance().rebuild_index(request).await.map_err(Failure::from_status)?;
    let mut answers = answers.into_inner();
    let mut progress: Option<Progress> = None;
    let mut waited = String::new();
    while let Some(told) = answers.message().await.map_err(Failure::from_status)? {
        let bar = progress.get_or_insert_with(|| Progress::start("rebuild", Some(told.vectors_total)));
        bar.at(told.vectors_done);
        if told.waits != waited {
            if !told.waits.is_empty() {
                eprintln!("it waits: {}", told.waits);
            }
            waited = told.waits;
        }
        if told.finished {
            bar.finish();
            // Who leaves before the end of the call cuts it off, as far as the server knows.
            answers.trailers().await.ok();
            let seconds = begun.elapsed().as_secs_f64();
            output.either(
                format!("rebuilt the index of {} vectors in {seconds:.1} s", told.vectors_total),
                json!({ "vectors": told.vectors_total, "seconds": seconds }),
            )?;
            return Ok(());
        }
    }
    bail!("the server ended the call without a result")
}

fn damage_to_json(damage: &Damage) -> Json {
    json!({ "file": damage.file, "offset": damage.offset, "what": damage.what })
}

fn show(damages: &[Damage], output: Output) -> Result<()> {
    let mut shown = table(&["file", "offset", "damage"]);
    for damage in damages {
        shown.add_row([damage.file.as_str(), &damage.offset.to_string(), &damage.what]);
    }
    output.table(&shown)?;
    Ok(())
}

/// Bytes for people.
pub(crate) fn size(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}
