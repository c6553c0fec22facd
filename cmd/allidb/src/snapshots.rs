//! `allidb snapshot …`: all that a ring holds, kept elsewhere.

use std::time::Instant;

use allidb_api::v1::{
    CreateSnapshotRequest, DeleteSnapshotsRequest, ListSnapshotsRequest, RestoreSnapshotRequest, Snapshot,
    SnapshotProgress, VerifySnapshotRequest,
};
use anyhow::{Result, bail};
use clap::Subcommand;
use serde_json::{Value as Json, json};
use tonic::{Response, Status, Streaming};

use crate::{
    client::Client,
    failure::Failure,
    maintenance::size,
    output::{Output, table},
    progress::Progress,
};

/// Makes, lists, verifies, restores and deletes snapshots, at the place that the daemon is configured with (`snapshots.location`).
#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotCommand {
    /// Makes one of all that the ring holds. What the newest one holds already is not written again.
    Create,
    /// Shows those that there are.
    List,
    /// Reads all of one, and compares it with its checksums. Damaged objects are deleted: the next snapshot does not build on them.
    Verify {
        /// Which one.
        id: String,
    },
    /// Takes one over, with its collections and keys, into a ring of any shape that never had collections.
    Restore {
        /// Which one.
        id: String,
    },
    /// Deletes some, and what no other one needs.
    #[command(group = clap::ArgGroup::new("which").required(true))]
    Delete {
        /// Which ones.
        #[arg(group = "which")]
        ids: Vec<String>,
        /// All but so many of the newest of each ring; rings of one name are one.
        #[arg(long, group = "which", value_name = "NUMBER")]
        keep: Option<usize>,
    },
}

/// Runs `snapshot`.
pub(crate) async fn run(command: SnapshotCommand, client: &Client, output: Output) -> Result<()> {
    match command {
        SnapshotCommand::Create => {
            let told = client.snapshots().create_snapshot(CreateSnapshotRequest {}).await;
            follow("snapshot", "made", told, output).await
        }
        SnapshotCommand::List => {
            let listed = list(client).await?;
            show(&listed, output)
        }
        SnapshotCommand::Verify { id } => {
            let told = client.snapshots().verify_snapshot(VerifySnapshotRequest { id }).await;
            follow("verify", "verified", told, output).await
        }
        SnapshotCommand::Restore { id } => {
            let told = client.snapshots().restore_snapshot(RestoreSnapshotRequest { id }).await;
            follow("restore", "restored", told, output).await
        }
        SnapshotCommand::Delete { ids, keep } => {
            let ids = match keep {
                Some(keep) => but_the_newest(list(client).await?, keep),
                None => ids,
            };
            if !ids.is_empty() {
                let request = DeleteSnapshotsRequest { ids: ids.clone() };
                client.snapshots().delete_snapshots(request).await.map_err(Failure::from_status)?;
            }
            output.either(format!("deleted {} snapshots", ids.len()), json!({ "deleted": ids }))?;
            Ok(())
        }
    }
}

async fn list(client: &Client) -> Result<Vec<Snapshot>> {
    let listed = client.snapshots().list_snapshots(ListSnapshotsRequest {}).await;
    Ok(listed.map_err(Failure::from_status)?.into_inner().snapshots)
}

/// Those that are not among so many of the newest of their ring.
fn but_the_newest(snapshots: Vec<Snapshot>, keep: usize) -> Vec<String> {
    let mut kept = std::collections::BTreeMap::<String, usize>::new();
    let mut is_kept = |snapshot: &Snapshot| {
        // Nobody knows whose a damaged one is.
        if !snapshot.damage.is_empty() {
            return true;
        }
        let kept = kept.entry(snapshot.ring.clone()).or_default();
        *kept += 1;
        *kept <= keep
    };
    snapshots.into_iter().rev().filter(|snapshot| !is_kept(snapshot)).map(|snapshot| snapshot.id).collect()
}

/// Shows how far it is, and what came of it. Damage is a failure of the command.
async fn follow(
    what: &'static str,
    done: &str,
    told: Result<Response<Streaming<SnapshotProgress>>, Status>,
    output: Output,
) -> Result<()> {
    let begun = Instant::now();
    let mut told = told.map_err(Failure::from_status)?.into_inner();
    let mut progress: Option<Progress> = None;
    while let Some(message) = told.message().await.map_err(Failure::from_status)? {
        let bar =
            progress.get_or_insert_with(|| Progress::start(what, Some(message.partitions_total.into())));
        bar.at(message.partitions_done.into());
        if !message.finished {
            continue;
        }
        bar.finish();
        // Who leaves before the end of the call cuts it off, as far as the server knows. There is a result, however it ends.
        told.trailers().await.ok();
        let seconds = begun.elapsed().as_secs_f64();
        let snapshot = message.snapshot.unwrap_or_default();
        if output.is_json() {
            let mut document = snapshot_to_json(&snapshot);
            document["entities"] = message.entities.into();
            document["handled_bytes"] = message.bytes.into();
            document["damages"] = message.damages.clone().into();
            document["seconds"] = seconds.into();
            output.document(&document)?;
        } else {
            message.damages.iter().try_for_each(|damage| output.line(damage.clone()))?;
            output.line(format!(
                "{done} {}: {} entities, {} of {} in {seconds:.1} s",
                snapshot.id,
                message.entities,
                size(message.bytes),
                size(snapshot.bytes)
            ))?;
        }
        return match message.damages.len() {
            0 => Ok(()),
            1 => bail!("1 damage was found"),
            count => bail!("{count} damages were found"),
        };
    }
    bail!("the server ended the call without a result")
}

fn show(snapshots: &[Snapshot], output: Output) -> Result<()> {
    if output.is_json() {
        output.document(&snapshots.iter().map(snapshot_to_json).collect())?;
        return Ok(());
    }
    let mut rows = table(&["ID", "RING", "COLLECTIONS", "SIZE", "NEW"]);
    for snapshot in snapshots {
        let collections = match snapshot.damage.is_empty() {
            true => snapshot.collections.join(", "),
            false => snapshot.damage.clone(),
        };
        let (bytes, new) = (size(snapshot.bytes), size(snapshot.new_bytes));
        rows.add_row([snapshot.id.clone(), snapshot.ring.clone(), collections, bytes, new]);
    }
    output.table(&rows)?;
    Ok(())
}

fn snapshot_to_json(snapshot: &Snapshot) -> Json {
    json!({
        "id": snapshot.id,
        "created_at": snapshot.created_at.as_ref().map(ToString::to_string),
        "ring": snapshot.ring,
        "bytes": snapshot.bytes,
        "new_bytes": snapshot.new_bytes,
        "collections": snapshot.collections,
        "digest": snapshot.digest,
        "damage": (!snapshot.damage.is_empty()).then_some(&snapshot.damage),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_of_each_ring_are_kept() {
        let of = |id: &str, ring: &str| Snapshot { id: id.into(), ring: ring.into(), ..Snapshot::default() };
        let all = vec![of("1", "a"), of("2", "b"), of("3", "a"), of("4", "a")];
        assert_eq!(but_the_newest(all.clone(), 1), ["3", "1"]);
        assert_eq!(but_the_newest(all, 2), ["1"]);
        let damaged = Snapshot { id: "5".into(), damage: "why".into(), ..Snapshot::default() };
        assert!(but_the_newest(vec![damaged], 0).is_empty());
    }
}
