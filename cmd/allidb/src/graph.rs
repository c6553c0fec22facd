//! `allidb neighbors` and `allidb path`: the edges of one entity, and the ways from one to another.

use allidb_api::v1::{
    Direction, FoundPath, NeighborsRequest, ShortestPathRequest, Truncation, shortest_path_request::Cost,
    truncation::Reason,
};
use anyhow::Result;
use clap::{Args, ValueEnum};
use serde_json::{Value as Json, json};

use crate::{
    client::Client,
    entity_json::{edge_to_json, entity_ref, id_of},
    failure::Failure,
    output::{Output, table},
    value_json,
};

/// Which way edges are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Way {
    /// From source to target.
    Out,
    /// From target to source.
    In,
    /// Both ways.
    Both,
}

impl From<Way> for Direction {
    fn from(way: Way) -> Self {
        match way {
            Way::Out => Self::Out,
            Way::In => Self::In,
            Way::Both => Self::Both,
        }
    }
}

/// Lists the edges of an entity, heaviest first.
#[derive(Args, Debug)]
pub(crate) struct NeighborsArgs {
    /// The collection.
    #[arg(short, long)]
    collection: String,
    /// The entity's id.
    id: String,
    /// Only these relations, with commas between.
    #[arg(long, value_delimiter = ',')]
    relation: Vec<String>,
    /// Edges from it, to it, or both.
    #[arg(long, value_enum, default_value_t = Way::Out)]
    direction: Way,
    /// Only edges of at least this weight.
    #[arg(long, default_value_t = 0.0, value_name = "WEIGHT")]
    min_weight: f64,
    /// Edges valid at this RFC 3339 time rather than now.
    #[arg(long, value_name = "TIME")]
    as_of: Option<String>,
    /// Edges whenever they are valid.
    #[arg(long, conflicts_with = "as_of")]
    any_time: bool,
    /// How many at most.
    #[arg(long, default_value_t = 100)]
    limit: u32,
}

/// Runs the command.
pub(crate) async fn neighbors(args: NeighborsArgs, client: &Client, output: Output) -> Result<()> {
    let as_of = args.as_of.as_deref().map(value_json::timestamp).transpose();
    let request = NeighborsRequest {
        r#ref: Some(entity_ref(&args.collection, &args.id)),
        relations: args.relation,
        direction: Direction::from(args.direction) as i32,
        min_weight: args.min_weight,
        as_of: as_of.map_err(|error| Failure::usage(error.to_string()))?,
        limit: args.limit,
        consistency: client.consistency(),
        any_time: args.any_time,
        ..NeighborsRequest::default()
    };
    let answer = client.graph().neighbors(request).await.map_err(Failure::from_status)?.into_inner();
    if output.is_json() {
        let one = |neighbor: &allidb_api::v1::Neighbor| {
            let way = if neighbor.direction() == Direction::In { "in" } else { "out" };
            json!({"direction": way, "edge": neighbor.edge.as_ref().map(edge_to_json)})
        };
        output.document(&json!({
            "neighbors": answer.neighbors.iter().map(one).collect::<Vec<_>>(),
            "truncated": truncated_to_json(&answer.truncated),
        }))?;
        return Ok(());
    }
    let mut shown = table(&["", "relation", "entity", "weight"]);
    for neighbor in &answer.neighbors {
        let Some(edge) = &neighbor.edge else { continue };
        let incoming = neighbor.direction() == Direction::In;
        let other = if incoming { &edge.from } else { &edge.to };
        shown.add_row([
            if incoming { "←" } else { "→" },
            &edge.relation,
            id_of(other.as_ref()),
            &edge.weight.unwrap_or(1.0).to_string(),
        ]);
    }
    output.table(&shown)?;
    for sentence in truncated_sentences(&answer.truncated) {
        output.line(sentence)?;
    }
    Ok(())
}

/// Finds the shortest paths from one entity to another.
#[derive(Args, Debug)]
pub(crate) struct PathArgs {
    /// The collection.
    #[arg(short, long)]
    collection: String,
    /// The id of the entity where paths begin.
    from: String,
    /// The id of the entity where they end.
    to: String,
    /// Only these relations, with commas between.
    #[arg(long, value_delimiter = ',')]
    relation: Vec<String>,
    /// Which way edges are followed.
    #[arg(long, value_enum, default_value_t = Way::Out)]
    direction: Way,
    /// Most edges of a path.
    #[arg(long, default_value_t = 8, value_name = "N")]
    max_hops: u32,
    /// The greatest product of weights rather than the fewest edges.
    #[arg(long)]
    by_weight: bool,
    /// How many paths, the shortest first.
    #[arg(short, default_value_t = 1)]
    k: u32,
    /// Only those that are as short as the shortest.
    #[arg(long)]
    only_shortest: bool,
}

/// Runs the command.
pub(crate) async fn path(args: PathArgs, client: &Client, output: Output) -> Result<()> {
    let cost = if args.by_weight { Cost::Weights } else { Cost::Hops };
    let request = ShortestPathRequest {
        from: Some(entity_ref(&args.collection, &args.from)),
        to: Some(entity_ref(&args.collection, &args.to)),
        relations: args.relation,
        direction: Direction::from(args.direction) as i32,
        max_hops: args.max_hops,
        cost: cost.into(),
        k: args.k,
        only_shortest: args.only_shortest,
        consistency: client.consistency(),
        ..ShortestPathRequest::default()
    };
    let answer = client.graph().shortest_path(request).await.map_err(Failure::from_status)?.into_inner();
    if output.is_json() {
        let one = |path: &FoundPath| {
            let step = |step: &allidb_api::v1::Step| {
                let way = if step.direction() == Direction::In { "in" } else { "out" };
                json!({"direction": way, "edge": step.edge.as_ref().map(edge_to_json)})
            };
            json!({"weight": path.weight, "steps": path.steps.iter().map(step).collect::<Vec<_>>()})
        };
        output.document(&json!({
            "paths": answer.paths.iter().map(one).collect::<Vec<_>>(),
            "truncated": truncated_to_json(&answer.truncated),
        }))?;
        return Ok(());
    }
    let mut shown = table(&["edges", "weight", "path"]);
    for path in &answer.paths {
        let (edges, weight) = (path.steps.len().to_string(), format!("{:.3}", path.weight));
        shown.add_row([edges, weight, shown_path(&args.from, path)]);
    }
    output.table(&shown)?;
    for sentence in truncated_sentences(&answer.truncated) {
        output.line(sentence)?;
    }
    Ok(())
}

/// A path as people draw it.
fn shown_path(from: &str, path: &FoundPath) -> String {
    let mut text = from.to_owned();
    for step in &path.steps {
        let Some(edge) = &step.edge else { continue };
        let relation = &edge.relation;
        text += &match step.direction() {
            Direction::In => format!(" ←{relation}— {}", id_of(edge.from.as_ref())),
            _ => format!(" —{relation}→ {}", id_of(edge.to.as_ref())),
        };
    }
    text
}

/// What bounds cut off, for people.
pub(crate) fn truncated_sentences(truncated: &[Truncation]) -> Vec<String> {
    let sentence = |cut: &Truncation| match cut.reason() {
        Reason::FanOut => {
            format!("{} nodes have more edges than were followed (--fan-out, --limit)", cut.count)
        }
        Reason::MaxNodes => format!("the walk ended at its bound of {} nodes (--max-nodes)", cut.count),
        Reason::MaxEdges => format!("the walk ended at the server's bound of {} edges", cut.count),
        Reason::Deadline => "time ran out".to_owned(),
        Reason::MaxCandidates => format!("only {} candidates were compared with the filter", cut.count),
        Reason::Unspecified => format!("something was cut off ({})", cut.count),
    };
    truncated.iter().map(sentence).collect()
}

/// What bounds cut off, for programs.
pub(crate) fn truncated_to_json(truncated: &[Truncation]) -> Json {
    let one = |cut: &Truncation| json!({"reason": cut.reason().as_str_name(), "count": cut.count});
    truncated.iter().map(one).collect()
}
