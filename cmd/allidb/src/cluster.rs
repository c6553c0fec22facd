//! `allidb cluster …`: what a node knows of its ring.

use std::{collections::BTreeMap, time::Duration};

use allidb_api::v1::{
    ClockOffset, DescribeClusterRequest, DescribeClusterResponse, Healing, Hints, Layout, Node, Outbox,
    PurgeRequest, RepairRequest, RepairResponse, Worker,
};
use anyhow::{Result, bail};
use clap::Subcommand;
use serde_json::{Value as Json, json};

use crate::{
    client::Client,
    duration_text,
    failure::Failure,
    layout::{self, LayoutCommand, WaitArgs},
    maintenance::size,
    output::{Output, table},
    worker,
};

/// Shows the ring as the node that is asked knows it.
#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Shows the nodes: which are alive, what they bear, and whether they and their clocks agree; * is the one that was asked.
    Status,
    /// Shows which nodes hold which partitions.
    Ring,
    /// Shows the writes that the node keeps for others.
    Hints,
    /// Shows the node's background work, with deliveries to the others.
    Workers,
    /// Compares what the node holds with what others hold of the same, and repairs what differs. Fails if a node could not be compared with.
    Repair {
        /// The id of the node to compare with, as `status` shows it; each other member, unless given.
        #[arg(long, value_name = "NODE")]
        with: Option<String>,
    },
    /// Changes which nodes hold what: join, leave, zones, capacities, replicas.
    #[command(subcommand)]
    Layout(LayoutCommand),
    /// Has another node hold what a node holds, as that is dead or is to go, and waits until that is done. The other one runs, and holds nothing yet.
    Replace {
        /// The id of the node that goes.
        #[arg(value_name = "NODE")]
        node: String,
        /// The id of the node that comes.
        #[arg(long, value_name = "NODE")]
        with: String,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Has the others hold what a node holds, and waits until that is done; then it can be stopped.
    Decommission {
        /// The id of the node that goes.
        #[arg(value_name = "NODE")]
        node: String,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Has the node take no more requests of clients, deliver what it keeps for others, and write everything to tables: then it can be stopped, and
    /// nobody notices.
    Drain {
        /// Has it take requests again.
        #[arg(long)]
        undo: bool,
        /// How long at most to wait for deliveries, such as 60s: others may be away for longer. The node keeps what is left, and delivers it once
        /// it is back.
        #[arg(long, value_name = "DURATION", value_parser = duration_text::parse, conflicts_with = "undo")]
        within: Option<prost_types::Duration>,
    },
    /// Waits until the node has removed what only others hold by now, which it does by itself.
    Cleanup,
    /// Has all nodes forget what was deleted until a while ago, as they do once a day by themselves. All must answer.
    Purge,
}

/// Runs the command.
pub(crate) async fn run(command: ClusterCommand, client: &Client, output: Output) -> Result<()> {
    let described = async || {
        let described = client.cluster().describe_cluster(DescribeClusterRequest {}).await;
        described.map(tonic::Response::into_inner).map_err(Failure::from_status)
    };
    match command {
        ClusterCommand::Status => status(&described().await?, output),
        ClusterCommand::Ring => ring(&described().await?, output),
        ClusterCommand::Hints => hints(&described().await?, output),
        ClusterCommand::Workers => workers(&worker::list(client).await?, &described().await?, output),
        ClusterCommand::Repair { with } => repair(with.unwrap_or_default(), client, output).await,
        ClusterCommand::Purge => purge(client, output).await,
        ClusterCommand::Layout(command) => layout::run(command, client, output).await,
        ClusterCommand::Replace { node, with, wait } => {
            layout::exchange((node, Some(with)), wait, client, output).await
        }
        ClusterCommand::Decommission { node, wait } => {
            layout::exchange((node, None), wait, client, output).await
        }
        ClusterCommand::Drain { undo, within } => {
            let within = within.map(Duration::try_from).transpose()?;
            layout::drain(undo, within, client, output).await
        }
        ClusterCommand::Cleanup => layout::cleanup(client, output).await,
    }
}

async fn purge(client: &Client, output: Output) -> Result<()> {
    let answers = client.cluster().purge(PurgeRequest {}).await.map_err(Failure::from_status)?;
    let mut answers = answers.into_inner();
    let mut last = None;
    while let Some(told) = answers.message().await.map_err(Failure::from_status)? {
        if !told.finished && !output.is_json() {
            output.line(format!("{} …", told.stage))?;
        }
        last = Some(told);
    }
    let Some(result) = last.filter(|told| told.finished) else {
        bail!("the server ended the call without a result");
    };
    let upto = result.upto.map(|upto| upto.to_string());
    if output.is_json() {
        output.document(&json!({ "upto": upto, "repaired": result.repaired }))?;
        return Ok(());
    }
    output.line(match upto {
        Some(upto) => format!(
            "what was deleted until {upto} is forgotten; {} entities were not the same everywhere before",
            result.repaired
        ),
        None => {
            "nothing more could be forgotten: writes are kept for a node that has not taken them".to_owned()
        }
    })?;
    Ok(())
}

async fn repair(node: String, client: &Client, output: Output) -> Result<()> {
    let answers = client.cluster().repair(RepairRequest { node }).await.map_err(Failure::from_status)?;
    let (mut answers, mut results, mut finished) = (answers.into_inner(), Vec::new(), false);
    while let Some(told) = answers.message().await.map_err(Failure::from_status)? {
        finished |= told.finished;
        if told.done && !told.node.is_empty() {
            results.push(told);
        }
    }
    if !finished {
        bail!("the server ended the call without a result");
    }
    if output.is_json() {
        let result = |told: &RepairResponse| {
            json!({
                "node": told.node, "partitions": told.partitions, "differing": told.differing,
                "compared": told.compared, "repaired": told.repaired, "failed": told.failed, "failure": told.failure,
            })
        };
        output.document(&Json::Array(results.iter().map(result).collect()))?;
    } else {
        let mut shown = table(&[
            "with node",
            "partitions",
            "differed",
            "entities compared",
            "repaired",
            "failed",
            "failure",
        ]);
        for told in &results {
            shown.add_row([
                told.node.clone(),
                told.partitions.to_string(),
                told.differing.to_string(),
                told.compared.to_string(),
                told.repaired.to_string(),
                told.failed.to_string(),
                told.failure.clone(),
            ]);
        }
        output.table(&shown)?;
    }
    let away = results.iter().filter(|told| !told.failure.is_empty()).count();
    let failed: u64 = results.iter().map(|told| told.failed).sum();
    match (away, failed) {
        (0, 0) => Ok(()),
        (0, _) => bail!("{failed} entities could not be made the same"),
        _ => bail!("{away} of {} nodes could not be compared with", results.len()),
    }
}

/// What is delivered to a node, and whether that goes on.
fn delivery(node: &Node) -> (String, &'static str, u64) {
    let kept = node.hints.unwrap_or_default();
    let activity = match (kept.bytes, node.is_alive) {
        (0, _) => "idle",
        (_, true) => "working",
        (_, false) => "waiting",
    };
    (format!("hints-{}", node.id), activity, kept.delivered)
}

fn workers(workers: &[Worker], described: &DescribeClusterResponse, output: Output) -> Result<()> {
    let own = workers.iter().map(|of| (of.name.clone(), worker::activity(of), of.done));
    let Outbox { bytes, delivered } = described.outbox.unwrap_or_default();
    let activity = if bytes > 0 { "working" } else { "idle" };
    let outbox = std::iter::once(("outbox".to_owned(), activity, delivered));
    let deliveries = described.nodes.iter().filter(|node| node.is_member).map(delivery);
    let rows = own.chain(outbox).chain(deliveries);
    if output.is_json() {
        let row = |(name, activity, done)| json!({ "name": name, "activity": activity, "done": done });
        output
            .document(&json!({ "node": described.node, "workers": rows.map(row).collect::<Vec<Json>>() }))?;
        return Ok(());
    }
    let mut shown = table(&["worker", "activity", "done"]);
    for (name, activity, done) in rows {
        shown.add_row([name, activity.to_owned(), done.to_string()]);
    }
    output.table(&shown)?;
    Ok(())
}

/// As the node that was asked, which goes by this catalogue, knows it.
pub(crate) fn state(node: &Node, catalogue_version: u64) -> &'static str {
    match (node.is_member, node.is_alive, node.agrees) {
        (false, true, _) => "no member",
        // What it said of itself is remembered for a while.
        (false, false, _) => "gone",
        (true, false, _) => "down",
        (true, true, false) => "disagrees",
        (true, true, true) if node.catalogue_version < catalogue_version => "behind",
        (true, true, true) => "up",
    }
}

fn status(described: &DescribeClusterResponse, output: Output) -> Result<()> {
    let layout = described.layout.clone().unwrap_or_default();
    if output.is_json() {
        let node = |node: &Node| {
            json!({
                "id": node.id, "address": node.address, "zone": node.zone, "capacity": node.capacity,
                "state": state(node, described.catalogue_version), "is_member": node.is_member, "is_alive": node.is_alive,
                "agrees": node.agrees, "catalogue_version": node.catalogue_version,
                "release": node.release, "partitions": node.partitions,
                "load": node.load.map(|load| json!({ "bytes": load.bytes, "waiting": load.waiting })),
                "clock": node.clock.map(|clock| {
                    json!({ "ahead_ms": clock.ahead_ms, "within_ms": clock.within_ms })
                }),
            })
        };
        output.document(&json!({
            "node": described.node,
            "layout": { "version": layout.version, "digest": layout.digest, "replication": layout.replication },
            "catalogue_version": described.catalogue_version,
            "purged": described.purged.map(|purged| purged.to_string()),
            "healing": described.healing.as_ref().map(|healing| {
                json!({ "partitions": healing.partitions, "failure": healing.failure })
            }),
            "nodes": described.nodes.iter().map(node).collect::<Vec<Json>>(),
        }))?;
        return Ok(());
    }
    // Whatever else is told is in the JSON.
    let mut shown =
        table(&["node", "address", "zone", "capacity", "partitions", "state", "disk", "clock", "release"]);
    for node in &described.nodes {
        let asked = if node.id == described.node { "*" } else { "" };
        shown.add_row([
            format!("{}{asked}", node.id),
            node.address.clone(),
            node.zone.clone(),
            node.capacity.to_string(),
            node.partitions.to_string(),
            state(node, described.catalogue_version).to_owned(),
            node.load.map(|load| size(load.bytes)).unwrap_or_default(),
            node.clock.map(|clock| offset(&clock)).unwrap_or_default(),
            node.release.clone(),
        ]);
    }
    output.table(&shown)?;
    if let Some(Healing { partitions, failure }) = &described.healing {
        let why = if failure.is_empty() { String::new() } else { format!(": {failure}") };
        output
            .line(format!("* rows were damaged: {partitions} partitions are taken over from others{why}"))?;
    }
    Ok(())
}

/// As in `+3 ± 1 ms`.
pub(crate) fn offset(clock: &ClockOffset) -> String {
    format!("{:+} ± {} ms", clock.ahead_ms, clock.within_ms)
}

fn ring(described: &DescribeClusterResponse, output: Output) -> Result<()> {
    let Layout { version, digest, replication, partitions } = described.layout.clone().unwrap_or_default();
    if output.is_json() {
        let partitions: Vec<Json> = partitions.into_iter().map(|partition| json!(partition.nodes)).collect();
        output.document(&json!({
            "version": version, "digest": digest, "replication": replication, "partitions": partitions,
        }))?;
        return Ok(());
    }
    // Those that the same nodes hold are shown together.
    let mut held: BTreeMap<Vec<String>, Vec<usize>> = BTreeMap::new();
    for (at, partition) in partitions.into_iter().enumerate() {
        held.entry(partition.nodes).or_default().push(at);
    }
    let mut shown = table(&["nodes", "partitions", "which"]);
    for (nodes, partitions) in held {
        shown.add_row([nodes.join(" "), partitions.len().to_string(), ranges(&partitions)]);
    }
    output.table(&shown)?;
    Ok(())
}

/// Ascending numbers, those that follow each other together: `0-3 7`.
fn ranges(numbers: &[usize]) -> String {
    let follows = |a: &usize, b: &usize| *b == a + 1;
    let range = |range: &[usize]| match range {
        [one] => one.to_string(),
        [first, .., last] => format!("{first}-{last}"),
        [] => String::new(),
    };
    numbers.chunk_by(follows).map(range).collect::<Vec<_>>().join(" ")
}

fn hints(described: &DescribeClusterResponse, output: Output) -> Result<()> {
    let of = |node: &Node| node.hints.unwrap_or_default();
    let members = || described.nodes.iter().filter(|node| node.is_member);
    if output.is_json() {
        let hints = |node: &Node| {
            let Hints { bytes, delivered, dropped } = of(node);
            json!({ "node": node.id, "bytes": bytes, "delivered": delivered, "dropped": dropped })
        };
        output.document(&Json::Array(members().map(hints).collect()))?;
        return Ok(());
    }
    let mut shown = table(&["for node", "bytes kept", "delivered", "dropped"]);
    for node in members() {
        let Hints { bytes, delivered, dropped } = of(node);
        shown.add_row([node.id.clone(), bytes.to_string(), delivered.to_string(), dropped.to_string()]);
    }
    output.table(&shown)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_follow_each_other_are_shown_together() {
        assert_eq!(ranges(&[0, 1, 2, 3, 7, 9, 10]), "0-3 7 9-10");
        assert_eq!(ranges(&[]), "");
    }
}
