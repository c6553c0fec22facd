//! `allidb cluster layout …`, and what is made of it: which nodes hold what, and how that changes.

use std::time::{Duration, Instant};

use allidb_api::v1::{
    ApplyLayout, ChangeLayoutRequest, DescribeClusterRequest, DescribeClusterResponse, DrainRequest,
    FlushRequest, ForceLayout, Layout, NodeChange, NodeMove, Partition, RevertLayout, Shape, StageLayout,
    Takeover, change_layout_request::Change, shape::Phase,
};
use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use serde_json::{Value as Json, json};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::{
    client::Client,
    failure::Failure,
    maintenance::size,
    output::{Output, table},
};

/// How often it is looked how far a move is.
const LOOKS_EVERY: Duration = Duration::from_millis(500);

/// Changes which nodes hold what: stage a shape, show what it comes to, and apply it.
#[derive(Debug, Subcommand)]
pub(crate) enum LayoutCommand {
    /// Shows what is staged and what it comes to, or how far a move is.
    Show,
    /// Stages another shape beside what is staged already; nothing moves before `apply`.
    Stage(StageArgs),
    /// Moves to the shape that is staged, and waits until that is done; or goes on without nodes that are lost.
    Apply(ApplyArgs),
    /// Lets go of what is staged, or goes back from a move that is under way.
    Revert,
}

/// What is staged.
#[derive(Debug, Args)]
pub(crate) struct StageArgs {
    /// A node that is to hold data: one that runs and has been told where the ring is.
    #[arg(long, value_name = "NODE")]
    add: Vec<String>,
    /// A node that is to hold nothing any more, be it dead or alive.
    #[arg(long, value_name = "NODE")]
    remove: Vec<String>,
    /// What may fail together with a node: replicas are spread over zones.
    #[arg(long, value_name = "NODE=ZONE", value_parser = pair)]
    zone: Vec<(String, String)>,
    /// How much a node is to hold, compared with others.
    #[arg(long, value_name = "NODE=NUMBER", value_parser = capacity)]
    capacity: Vec<(String, u32)>,
    /// How many nodes are to hold each partition.
    #[arg(long, value_name = "NUMBER", default_value_t = 0, hide_default_value = true)]
    replication: u32,
}

/// Whether what is staged is moved to, or nodes are given up.
#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// Goes on without the nodes that are lost, though without them there is no quorum: what they alone held, or had acknowledged, is lost.
    #[arg(long, requires = "lost")]
    force_quorum_loss: bool,
    /// A node that is lost for good. All others must answer.
    #[arg(long, value_name = "NODE", requires = "force_quorum_loss")]
    lost: Vec<String>,
    #[command(flatten)]
    wait: WaitArgs,
}

/// Whether a move is waited for.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct WaitArgs {
    /// Returns once the move has begun; `layout show` tells how far it is.
    #[arg(long)]
    no_wait: bool,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (node, value) = text.split_once('=').ok_or("is not of the form NODE=VALUE")?;
    Ok((node.to_owned(), value.to_owned()))
}

fn capacity(text: &str) -> Result<(String, u32), String> {
    let (node, value) = pair(text)?;
    let value = value.parse().map_err(|error| format!("{value:?} is no capacity: {error}"))?;
    Ok((node, value))
}

/// Runs the command.
pub(crate) async fn run(command: LayoutCommand, client: &Client, output: Output) -> Result<()> {
    match command {
        LayoutCommand::Show => show(&describe(client).await?, output),
        LayoutCommand::Stage(args) => {
            change(client, 0, Change::Stage(staged(args))).await?;
            show(&describe(client).await?, output)
        }
        LayoutCommand::Apply(ApplyArgs { force_quorum_loss: true, lost, .. }) => {
            force(lost, client, output).await
        }
        LayoutCommand::Apply(ApplyArgs { wait, .. }) => {
            // If a move is under way, that is waited for.
            let shape = shape(client).await?;
            if shape.phase() == Phase::Settled {
                apply(client, shape.epoch, wait, output).await?;
            }
            finish(client, wait, output).await
        }
        LayoutCommand::Revert => {
            change(client, 0, Change::Revert(RevertLayout {})).await?;
            show(&describe(client).await?, output)
        }
    }
}

/// Has the ring go on without nodes that are lost, and tells what is lost with them.
async fn force(lost: Vec<String>, client: &Client, output: Output) -> Result<()> {
    let before = describe(client).await?;
    let shape = before.shape.unwrap_or_default();
    let epoch = change(client, shape.epoch, Change::Force(ForceLayout { lost: lost.clone() })).await?;
    let partitions = before.layout.map(|layout| layout.partitions).unwrap_or_default();
    // Those that a partition was moving to may have it, too.
    let next = shape.next.clone().filter(|_| shape.phase() != Phase::Settled).unwrap_or_default().partitions;
    let is_gone = |of: &Partition| of.nodes.iter().all(|node| lost.contains(node));
    let gone =
        partitions.iter().enumerate().filter(|(at, of)| is_gone(of) && next.get(*at).is_none_or(is_gone));
    let gone = gone.count();
    let after = describe(client).await?.layout.unwrap_or_default();
    let thin = thin(&after);
    if output.is_json() {
        let told = json!({ "epoch": epoch, "lost_partitions": gone, "thin_partitions": thin });
        return Ok(output.document(&told)?);
    }
    output.line(format!("the ring goes on without {}", lost.join(", ")))?;
    output.line(format!(
        "of {} partitions {gone} had no replica elsewhere, and are empty now; {thin} have fewer replicas than {}",
        partitions.len(),
        after.replication
    ))?;
    Ok(output.line("add nodes, or ask for fewer replicas: allidb cluster layout stage")?)
}

/// Partitions that have fewer replicas than they are to have.
pub(crate) fn thin(layout: &Layout) -> usize {
    let is_thin = |of: &&Partition| of.nodes.len() < layout.replication as usize;
    layout.partitions.iter().filter(is_thin).count()
}

/// Takes a node out of the ring, and puts others in, as one move.
pub(crate) async fn exchange(
    (out, into): (String, Option<String>),
    wait: WaitArgs,
    client: &Client,
    output: Output,
) -> Result<()> {
    let described = describe(client).await?;
    let shape = described.shape.clone().unwrap_or_default();
    if !described.nodes.iter().any(|node| node.id == out) {
        bail!("nothing is known of node {out:?}: `allidb cluster status` shows the nodes");
    }
    let is_member = |id: &String| described.nodes.iter().any(|node| node.id == *id && node.is_member);
    let leaves = |id: &String| shape.moves.iter().any(|of| of.node == *id && of.after == 0);
    match shape.phase() {
        // It was begun before.
        Phase::Filling | Phase::HandingOver if leaves(&out) => {}
        Phase::Settled if !is_member(&out) && into.iter().all(is_member) => {}
        // It was staged before, and nothing else.
        Phase::Settled if is_staged(&described, &shape, &out, into.as_ref()) => {
            apply(client, shape.epoch, wait, output).await?;
        }
        Phase::Settled if shape.next.is_some() => {
            bail!("another shape is staged: apply it or revert it first (allidb cluster layout show)")
        }
        _ => {
            let change_of =
                |(id, remove): (String, bool)| NodeChange { id, remove, zone: None, capacity: None };
            let nodes = std::iter::once((out, true)).chain(into.map(|node| (node, false)));
            let stage = StageLayout { nodes: nodes.map(change_of).collect(), replication: 0 };
            let epoch = change(client, shape.epoch, Change::Stage(stage)).await?;
            if let Err(error) = apply(client, epoch, wait, output).await {
                // Nothing is left that another one would apply unawares.
                change(client, epoch, Change::Revert(RevertLayout {})).await?;
                return Err(error);
            }
        }
    }
    finish(client, wait, output).await
}

/// Whether what is staged is that a node goes, and another one comes if there is to be one, and nothing else.
fn is_staged(described: &DescribeClusterResponse, shape: &Shape, out: &str, into: Option<&String>) -> bool {
    let Some(next) = &shape.next else { return false };
    let replication = described.layout.as_ref().map(|layout| layout.replication);
    let as_it_is = |of: &NodeMove| {
        let known = described.nodes.iter().find(|node| node.id == of.node);
        known.is_some_and(|known| known.zone == of.zone && known.capacity == of.capacity)
    };
    Some(next.replication) == replication
        && shape.moves.iter().any(|of| of.node == *out && of.after == 0)
        && into.is_none_or(|into| {
            shape.moves.iter().any(|of| of.node == *into && of.before == 0 && of.after > 0)
        })
        && shape.moves.iter().filter(|of| of.node != *out).all(|of| {
            as_it_is(of) && of.after > 0 && (of.before > 0 || into.is_some_and(|into| of.node == *into))
        })
}

/// Has a node take no more requests, waits, no longer than it may, until it keeps nothing for others, and has it write everything to tables.
pub(crate) async fn drain(
    undo: bool,
    within: Option<Duration>,
    client: &Client,
    output: Output,
) -> Result<()> {
    let (begun, node) = (Instant::now(), describe(client).await?.node);
    let kept = loop {
        let request = DrainRequest { node: node.clone(), undo };
        let answer = client.cluster().drain(request).await.map_err(Failure::from_status)?;
        let bytes = answer.into_inner().bytes;
        if undo || bytes == 0 || within.is_some_and(|within| begun.elapsed() >= within) {
            break if undo { 0 } else { bytes };
        }
        if !output.is_json() {
            output.line(format!("{bytes} bytes are kept for other nodes …"))?;
        }
        tokio::time::sleep(LOOKS_EVERY).await;
    };
    if !undo {
        client.maintenance().flush(FlushRequest {}).await.map_err(Failure::from_status)?;
    }
    match output.is_json() {
        true if kept > 0 => output.document(&json!({ "drained": true, "kept_bytes": kept })),
        true => output.document(&json!({ "drained": !undo })),
        false if undo => output.line("it takes requests again"),
        false if kept > 0 => output.line(format!(
            "it is drained, and can be stopped; it still keeps {kept} bytes for other nodes, and delivers them once it is back"
        )),
        false => output.line("it is drained, and can be stopped"),
    }?;
    Ok(())
}

/// Waits until nothing lies at the node that was asked which only others hold by now.
pub(crate) async fn cleanup(client: &Client, output: Output) -> Result<()> {
    loop {
        let leftovers = shape(client).await?.leftovers;
        if leftovers == 0 {
            break;
        }
        if !output.is_json() {
            output.line(format!("{leftovers} partitions that others hold now are still here …"))?;
        }
        tokio::time::sleep(LOOKS_EVERY).await;
    }
    match output.is_json() {
        true => output.document(&json!({ "leftovers": 0 })),
        false => output.line("nothing lies here that others alone hold"),
    }?;
    Ok(())
}

fn staged(args: StageArgs) -> StageLayout {
    let StageArgs { add, remove, zone, capacity, replication } = args;
    let mut nodes: Vec<NodeChange> = Vec::new();
    let mut change_of = |id: &str, set: &dyn Fn(&mut NodeChange)| {
        let at = nodes.iter().position(|change| change.id == id).unwrap_or_else(|| {
            nodes.push(NodeChange { id: id.to_owned(), ..NodeChange::default() });
            nodes.len() - 1
        });
        nodes.get_mut(at).into_iter().for_each(set);
    };
    add.iter().for_each(|node| change_of(node, &|_| {}));
    zone.iter().for_each(|(node, zone)| change_of(node, &|change| change.zone = Some(zone.clone())));
    capacity.iter().for_each(|(node, capacity)| change_of(node, &|change| change.capacity = Some(*capacity)));
    remove.iter().for_each(|node| change_of(node, &|change| change.remove = true));
    StageLayout { nodes, replication }
}

async fn change(client: &Client, epoch: u64, change: Change) -> Result<u64> {
    try_to_change(client, epoch, change).await.map_err(Failure::from_status)
}

async fn try_to_change(client: &Client, epoch: u64, change: Change) -> Result<u64, Status> {
    let request = ChangeLayoutRequest { epoch, change: Some(change) };
    Ok(client.cluster().change_layout(request).await?.into_inner().epoch)
}

/// Begins to move to what is staged, once no node removes what it held before of what it is to hold then; it says which does, meanwhile.
async fn apply(client: &Client, epoch: u64, wait: WaitArgs, output: Output) -> Result<()> {
    let mut last = String::new();
    loop {
        let refused = match try_to_change(client, epoch, Change::Apply(ApplyLayout {})).await {
            Ok(_) => return Ok(()),
            Err(refused) => refused,
        };
        let is_busy = refused.code() == Code::ResourceExhausted && !wait.no_wait;
        let pause = refused.get_details_retry_info().and_then(|retry| retry.retry_delay);
        let Some(pause) = pause.filter(|_| is_busy) else { return Err(Failure::from_status(refused)) };
        if refused.message() != last && !output.is_json() {
            output.line(format!("{} …", refused.message()))?;
        }
        last = refused.message().to_owned();
        tokio::time::sleep(pause).await;
    }
}

async fn describe(client: &Client) -> Result<DescribeClusterResponse> {
    let described = client.cluster().describe_cluster(DescribeClusterRequest {}).await;
    Ok(described.map_err(Failure::from_status)?.into_inner())
}

async fn shape(client: &Client) -> Result<Shape> {
    Ok(describe(client).await?.shape.unwrap_or_default())
}

/// Waits for a move, and tells how far it is.
async fn finish(client: &Client, wait: WaitArgs, output: Output) -> Result<()> {
    let mut last = String::new();
    loop {
        let shape = shape(client).await?;
        if wait.no_wait || shape.phase() == Phase::Settled {
            break;
        }
        let told = progress(&shape);
        if told != last && !output.is_json() {
            output.line(told.clone())?;
        }
        last = told;
        tokio::time::sleep(LOOKS_EVERY).await;
    }
    show(&describe(client).await?, output)
}

/// As in `filling: 120 of 256 partitions, 5,000 entities`.
fn progress(shape: &Shape) -> String {
    let sum = |of: fn(&Takeover) -> u64| shape.takeovers.iter().map(of).sum::<u64>();
    let (done, partitions) = (sum(|of| of.done.into()), sum(|of| of.partitions.into()));
    let entities = sum(|of| of.entities);
    let failures: Vec<String> = shape
        .takeovers
        .iter()
        .filter(|of| !of.failure.is_empty())
        .map(|of| format!("; node {}: {}", of.node, of.failure))
        .collect();
    let phase = phase(shape);
    let (copied, copy) = (sum(|of| of.copied_bytes), sum(|of| of.copy_bytes));
    let copied = match copy {
        0 => String::new(),
        copy => format!(", {} of {} MiB copied", copied >> 20, copy >> 20),
    };
    format!("{phase}: {done} of {partitions} partitions, {entities} entities{copied}{}", failures.concat())
}

fn phase(shape: &Shape) -> &'static str {
    match shape.phase() {
        Phase::Unspecified => "unknown",
        Phase::Settled if shape.next.is_some() => "staged",
        Phase::Settled => "settled",
        Phase::Filling => "filling",
        Phase::HandingOver => "handing over",
    }
}

fn show(described: &DescribeClusterResponse, output: Output) -> Result<()> {
    let shape = described.shape.clone().unwrap_or_default();
    if output.is_json() {
        let moved = |of: &NodeMove| {
            json!({
                "node": of.node, "zone": of.zone, "capacity": of.capacity, "before": of.before, "after": of.after,
                "gains": of.gains, "bytes": of.bytes,
            })
        };
        let takeover = |of: &Takeover| {
            json!({
                "node": of.node, "is_done": of.is_done, "partitions": of.partitions, "done": of.done,
                "entities": of.entities, "copied_bytes": of.copied_bytes, "copy_bytes": of.copy_bytes,
                "failure": of.failure,
            })
        };
        output.document(&json!({
            "epoch": shape.epoch, "phase": phase(&shape),
            "layout": described.layout.as_ref().map(|layout| layout.version),
            "replication": described.layout.as_ref().map(|layout| layout.replication),
            "thin_partitions": described.layout.as_ref().map(thin),
            "next": shape.next.as_ref().map(|next| json!({
                "version": next.version, "replication": next.replication,
            })),
            "moves": shape.moves.iter().map(moved).collect::<Vec<Json>>(),
            "takeovers": shape.takeovers.iter().map(takeover).collect::<Vec<Json>>(),
            "leftovers": shape.leftovers,
        }))?;
        return Ok(());
    }
    let layout = described.layout.clone().unwrap_or_default();
    let (version, replication) = (layout.version, layout.replication);
    output.line(format!("layout {version}, {replication} replicas of each partition; {}", phase(&shape)))?;
    if let thin @ 1.. = thin(&layout) {
        output.line(format!("{thin} partitions have fewer: add nodes, or ask for fewer replicas"))?;
    }
    let Some(next) = &shape.next else { return Ok(()) };
    output.line(format!("then layout {}, {} replicas of each partition:", next.version, next.replication))?;
    let mut shown = table(&["node", "zone", "capacity", "partitions", "then", "takes over", "about"]);
    for of in &shape.moves {
        shown.add_row([
            of.node.clone(),
            of.zone.clone(),
            of.capacity.to_string(),
            of.before.to_string(),
            of.after.to_string(),
            of.gains.to_string(),
            size(of.bytes),
        ]);
    }
    output.table(&shown)?;
    if shape.phase() != Phase::Settled {
        output.line(progress(&shape))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_a_node_comes_together() {
        let args = StageArgs {
            add: vec!["a".to_owned()],
            remove: vec!["b".to_owned()],
            zone: vec![("a".to_owned(), "east".to_owned()), ("c".to_owned(), "west".to_owned())],
            capacity: vec![("a".to_owned(), 3)],
            replication: 2,
        };
        let StageLayout { nodes, replication } = staged(args);
        let change = |id: &str, zone: Option<&str>, capacity, remove| NodeChange {
            id: id.to_owned(),
            zone: zone.map(str::to_owned),
            capacity,
            remove,
        };
        assert_eq!(replication, 2);
        assert_eq!(
            nodes,
            [
                change("a", Some("east"), Some(3), false),
                change("c", Some("west"), None, false),
                change("b", None, None, true)
            ]
        );
    }

    #[test]
    fn what_has_no_value_is_refused() {
        assert!(pair("a").is_err() && capacity("a=much").is_err());
        assert_eq!(capacity("a=7"), Ok(("a".to_owned(), 7)));
    }
}
