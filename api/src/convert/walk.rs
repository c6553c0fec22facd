//! Walks along edges: neighbours and expansions.

use std::iter;

use allidb_index::{
    graph::{
        ExpandRequest, Expansion, FoundPath, HopCounts, HopsRequest, NeighborPages, NeighborPlace,
        Neighborhood, NeighborsRequest, PathCost, Paths, PathsRequest, Reached,
    },
    model::{CollectionSet, Limits},
    query::{ExpandSpec, Step, Truncation, TruncationReason},
};
use tonic::Status;

use super::{
    Path,
    bounds::{at_most, finite, or_default},
    edge::{direction_from_proto, direction_to_proto, edge_to_proto},
    entity::{entity_ref_from_proto, entity_ref_to_proto},
    filter::filter_from_proto,
    time::optional_timestamp_from_proto,
};
use crate::v1;

/// Edges of a `Neighbors` answer unless the request says otherwise.
const DEFAULT_NEIGHBORS: usize = 100;
/// Edges of a path, and paths if all are asked for that are as short as the shortest.
const DEFAULT_PATH_HOPS: usize = 8;
const DEFAULT_SHORTEST: usize = 100;
/// Most nodes of a message.
const NODES_IN_MESSAGE: usize = 512;

/// The request for the page behind `after`, if it is one for pages.
pub(crate) fn neighbors_from_proto(
    request: v1::NeighborsRequest,
    after: Option<NeighborPlace>,
    limits: &Limits,
    collections: &CollectionSet,
) -> Result<NeighborsRequest, Status> {
    if request.any_time && request.as_of.is_some() {
        return Err(Path::Root("any_time").invalid("cannot be asked for together with `as_of`"));
    }
    Ok(NeighborsRequest {
        entity: entity_ref_from_proto(Path::Root("ref").required(request.r#ref)?),
        relations: request.relations,
        direction: direction_from_proto(&Path::Root("direction"), request.direction)?,
        min_weight: finite(&Path::Root("min_weight"), request.min_weight)?,
        as_of: optional_timestamp_from_proto(&Path::Root("as_of"), request.as_of)?,
        any_time: request.any_time,
        pages: if request.all { NeighborPages::After(after) } else { NeighborPages::Heaviest },
        limit: or_default(&Path::Root("limit"), request.limit, DEFAULT_NEIGHBORS, limits.fan_out)?,
        collections: collections.clone(),
    })
}

pub(crate) fn neighborhood_to_proto(
    neighborhood: Neighborhood,
    next_page_token: String,
) -> v1::NeighborsResponse {
    let neighbors = neighborhood.neighbors.into_iter().map(|neighbor| v1::Neighbor {
        edge: Some(edge_to_proto(neighbor.edge)),
        direction: direction_to_proto(neighbor.direction),
    });
    v1::NeighborsResponse {
        neighbors: neighbors.collect(),
        truncated: truncations_to_proto(neighborhood.truncated),
        next_page_token,
    }
}

pub(super) fn spec_from_proto(
    path: &Path<'_>,
    options: v1::ExpandOptions,
    limits: &Limits,
    collections: &CollectionSet,
) -> Result<ExpandSpec, Status> {
    let default = ExpandSpec::default();
    let decay = path.field("decay");
    let factor = options.decay.unwrap_or(default.decay);
    if !(factor > 0.0 && factor <= 1.0) {
        return Err(decay.invalid(format!("is {factor}; it must be above 0 and at most 1")));
    }
    let pattern = Some(options.pattern).filter(|pattern| !pattern.is_empty());
    // How far a pattern goes it says itself.
    let default_hops = if pattern.is_some() { limits.hops } else { default.hops };
    Ok(ExpandSpec {
        relations: options.relations,
        direction: direction_from_proto(&path.field("direction"), options.direction)?,
        hops: or_default(&path.field("hops"), options.hops, default_hops, limits.hops)?,
        fan_out: or_default(&path.field("fan_out"), options.fan_out, default.fan_out, limits.fan_out)?,
        min_weight: finite(&path.field("min_weight"), options.min_weight)?,
        as_of: optional_timestamp_from_proto(&path.field("as_of"), options.as_of)?,
        max_nodes: or_default(&path.field("max_nodes"), options.max_nodes, default.max_nodes, limits.nodes)?,
        decay: factor,
        pattern,
        edge_filter: options
            .edge_filter
            .map(|filter| filter_from_proto(&path.field("edge_filter"), filter))
            .transpose()?,
        page_rank: options.page_rank,
        seeds: options.seeds as usize,
        collections: collections.clone(),
    })
}

pub(crate) fn expand_from_proto(
    request: v1::ExpandRequest,
    limits: &Limits,
    collections: &CollectionSet,
) -> Result<ExpandRequest, Status> {
    at_most(&Path::Root("seeds"), request.seeds.len(), limits.seed_ids)?;
    Ok(ExpandRequest {
        seeds: request.seeds.into_iter().map(entity_ref_from_proto).collect(),
        spec: spec_from_proto(
            &Path::Root("options"),
            request.options.unwrap_or_default(),
            limits,
            collections,
        )?,
        paths: request.paths,
    })
}

/// Messages of nodes, the last one with the summary.
pub(crate) fn expansion_to_proto(expansion: Expansion) -> impl Iterator<Item = v1::ExpandResponse> + Send {
    let summary = v1::ExpandSummary {
        nodes: expansion.nodes.len() as u64,
        edges: expansion.edges,
        truncated: truncations_to_proto(expansion.truncated),
    };
    let mut summary = Some(summary);
    let mut nodes = expansion.nodes.into_iter();
    iter::from_fn(move || {
        let nodes: Vec<_> = nodes.by_ref().take(NODES_IN_MESSAGE).map(reached_to_proto).collect();
        // A message that is not full is the last one.
        let summary = if nodes.len() < NODES_IN_MESSAGE { Some(summary.take()?) } else { None };
        Some(v1::ExpandResponse { nodes, summary })
    })
}

pub(crate) fn hops_from_proto(
    request: v1::CountHopsRequest,
    limits: &Limits,
    collections: &CollectionSet,
) -> Result<HopsRequest, Status> {
    at_most(&Path::Root("seeds"), request.seeds.len(), limits.seed_ids)?;
    Ok(HopsRequest {
        seeds: request.seeds.into_iter().map(entity_ref_from_proto).collect(),
        relations: request.relations,
        direction: direction_from_proto(&Path::Root("direction"), request.direction)?,
        hops: or_default(&Path::Root("hops"), request.hops, 1, limits.hops)?,
        min_weight: finite(&Path::Root("min_weight"), request.min_weight)?,
        as_of: optional_timestamp_from_proto(&Path::Root("as_of"), request.as_of)?,
        collections: collections.clone(),
    })
}

pub(crate) fn paths_from_proto(
    request: v1::ShortestPathRequest,
    limits: &Limits,
    collections: &CollectionSet,
) -> Result<PathsRequest, Status> {
    use v1::shortest_path_request::Cost;
    let cost = match Cost::try_from(request.cost) {
        Ok(Cost::Unspecified | Cost::Hops) => PathCost::Hops,
        Ok(Cost::Weights) => PathCost::Weights,
        Err(_) => return Err(Path::Root("cost").invalid(format!("is {}, which is no cost", request.cost))),
    };
    let default_k = if request.only_shortest { DEFAULT_SHORTEST } else { 1 };
    Ok(PathsRequest {
        from: entity_ref_from_proto(Path::Root("from").required(request.from)?),
        to: entity_ref_from_proto(Path::Root("to").required(request.to)?),
        relations: request.relations,
        direction: direction_from_proto(&Path::Root("direction"), request.direction)?,
        max_hops: or_default(&Path::Root("max_hops"), request.max_hops, DEFAULT_PATH_HOPS, limits.path_hops)?,
        min_weight: finite(&Path::Root("min_weight"), request.min_weight)?,
        as_of: optional_timestamp_from_proto(&Path::Root("as_of"), request.as_of)?,
        cost,
        k: or_default(&Path::Root("k"), request.k, default_k, limits.paths)?,
        only_shortest: request.only_shortest,
        collections: collections.clone(),
    })
}

pub(crate) fn paths_to_proto(paths: Paths) -> v1::ShortestPathResponse {
    let path = |path: FoundPath| v1::FoundPath { steps: path_to_proto(path.steps), weight: path.weight };
    v1::ShortestPathResponse {
        paths: paths.paths.into_iter().map(path).collect(),
        edges: paths.edges,
        truncated: truncations_to_proto(paths.truncated),
    }
}

pub(crate) fn hop_counts_to_proto(counts: HopCounts) -> v1::CountHopsResponse {
    let truncated = truncations_to_proto(counts.truncated);
    v1::CountHopsResponse { counts: counts.counts, edges: counts.edges, truncated }
}

fn reached_to_proto(node: Reached) -> v1::ReachedNode {
    v1::ReachedNode {
        r#ref: Some(entity_ref_to_proto(node.entity)),
        hops: node.hops as u32,
        score: node.score,
        path: path_to_proto(node.path),
    }
}

pub(super) fn path_to_proto(path: Vec<Step>) -> Vec<v1::Step> {
    let step = |step: Step| v1::Step {
        edge: Some(edge_to_proto(step.edge)),
        direction: direction_to_proto(step.direction),
    };
    path.into_iter().map(step).collect()
}

pub(super) fn truncations_to_proto(truncated: Vec<Truncation>) -> Vec<v1::Truncation> {
    use v1::truncation::Reason;
    let reason = |reason| match reason {
        TruncationReason::FanOut => Reason::FanOut,
        TruncationReason::MaxNodes => Reason::MaxNodes,
        TruncationReason::MaxEdges => Reason::MaxEdges,
        TruncationReason::Deadline => Reason::Deadline,
        TruncationReason::MaxCandidates => Reason::MaxCandidates,
    };
    truncated
        .into_iter()
        .map(|cut| v1::Truncation { reason: reason(cut.reason).into(), count: cut.count })
        .collect()
}

#[cfg(test)]
mod tests {
    use allidb_index::model::{Direction, Edge, EntityRef};

    use super::*;

    #[test]
    fn zero_stands_for_the_documented_defaults() {
        let spec = expand_from_proto(v1::ExpandRequest::default(), &Limits::default(), &CollectionSet::ALL)
            .expect("defaults")
            .spec;
        assert_eq!(spec, ExpandSpec::default());
        assert_eq!((spec.hops, spec.fan_out, spec.max_nodes, spec.decay), (1, 32, 1_000, 0.7));
        let request = v1::NeighborsRequest { r#ref: Some(v1::EntityRef::default()), ..Default::default() };
        let request =
            neighbors_from_proto(request, None, &Limits::default(), &CollectionSet::ALL).expect("defaults");
        assert_eq!((request.limit, request.direction), (100, Direction::Out));
    }

    #[test]
    fn bounds_are_refused_not_clamped() {
        let refused = |options| {
            let request = v1::ExpandRequest { options: Some(options), ..Default::default() };
            expand_from_proto(request, &Limits::default(), &CollectionSet::ALL)
                .expect_err("refused")
                .message()
                .to_owned()
        };
        let options = v1::ExpandOptions::default;
        assert_eq!(
            refused(v1::ExpandOptions { hops: 9, ..options() }),
            "options.hops is 9; at most 8 is allowed"
        );
        assert!(refused(v1::ExpandOptions { fan_out: 10_001, ..options() }).starts_with("options.fan_out"));
        assert!(
            refused(v1::ExpandOptions { max_nodes: 100_001, ..options() }).starts_with("options.max_nodes")
        );
        for decay in [0.0, 1.5, f64::NAN] {
            assert!(
                refused(v1::ExpandOptions { decay: Some(decay), ..options() }).starts_with("options.decay")
            );
        }
        let seeds = vec![v1::EntityRef::default(); 1_001];
        let request = v1::ExpandRequest { seeds, ..Default::default() };
        assert!(
            expand_from_proto(request, &Limits::default(), &CollectionSet::ALL)
                .expect_err("refused")
                .message()
                .starts_with("seeds")
        );
    }

    #[test]
    fn the_summary_comes_last() {
        let to = EntityRef::new("c", "b");
        let step =
            Step { edge: Edge::new(EntityRef::new("c", "a"), "r", to.clone()), direction: Direction::In };
        let node = Reached { entity: to, hops: 1, score: 0.7, path: vec![step] };
        let cut = Truncation { reason: TruncationReason::MaxNodes, count: 5 };
        let nodes = vec![node; 600];
        let expansion = Expansion { nodes, edges: 3, truncated: vec![cut] };
        let messages: Vec<_> = expansion_to_proto(expansion).collect();
        assert_eq!(messages.iter().map(|message| message.nodes.len()).collect::<Vec<_>>(), [512, 88]);
        assert_eq!(messages[0].summary, None);
        let (node, summary) = (&messages[1].nodes[0], messages[1].summary.as_ref().expect("a summary"));
        assert_eq!(node.path[0].direction, i32::from(v1::Direction::In));
        assert_eq!((summary.nodes, summary.edges, summary.truncated[0].count), (600, 3, 5));
    }
}
