//! Queries and their answers.

use std::time::Duration;

use allidb_index::{
    filter::Field,
    model::{CollectionSet, Limits, ReadMask},
    query::{
        Answer, Diversity, Examples, Fusion, GroupBy, Highlight, Highlighted, Hit, Nearest, NearestTarget,
        Order, Piece, PlanStep, Query, ScoreMode, Scoring, Seed, SignalValue, Weights,
    },
};
use tonic::Status;

use super::{
    Path,
    bounds::{at_most, finite, or_default},
    entity::{entity_ref_from_proto, entity_to_proto},
    filter::filter_from_proto,
    mask::read_mask_from_proto,
    text::text_query_from_proto,
    time::{duration_from_proto, duration_to_proto, optional_timestamp_from_proto},
    value::value_to_proto,
    vector::vector_from_proto,
    walk::{path_to_proto, spec_from_proto, truncations_to_proto},
};
use crate::{status, v1};

/// Hits unless the request says otherwise.
const DEFAULT_HITS: usize = 10;
/// Parts of a text, and bytes of each, unless the request says.
const DEFAULT_FRAGMENTS: usize = 3;
const DEFAULT_FRAGMENT_BYTES: usize = 160;
/// How little the first places differ, unless the request says.
const RANK_K: f64 = 60.0;
/// How much importance and recency change a score, and how much scores count beside diversity, unless the request says.
const DEFAULT_BOOST: f64 = 0.5;
const DEFAULT_LAMBDA: f64 = 0.5;

pub(crate) fn query_from_proto(
    request: v1::QueryRequest,
    limits: &Limits,
    collections: &CollectionSet,
) -> Result<Query, Status> {
    bounded_query_from_proto(request, limits, collections, DEFAULT_HITS)
}

/// A query of so many hits unless it says otherwise.
fn bounded_query_from_proto(
    request: v1::QueryRequest,
    limits: &Limits,
    collections: &CollectionSet,
    default_hits: usize,
) -> Result<Query, Status> {
    let seeds = Path::Root("seeds");
    if request.seeds.is_empty() {
        return Err(seeds.invalid("must hold at least one"));
    }
    at_most(&seeds, request.seeds.len(), limits.seeds)?;
    let given = request.seeds.into_iter().enumerate();
    let seeds =
        given.map(|(at, seed)| seed_from_proto(&seeds.index(at), seed, limits)).collect::<Result<_, _>>()?;
    let expand = request
        .expand
        .map(|options| spec_from_proto(&Path::Root("expand"), options, limits, collections))
        .transpose()?;
    let filter = request.filter.map(|filter| filter_from_proto(&Path::Root("filter"), filter)).transpose()?;
    Ok(Query {
        collection: request.collection,
        seeds,
        expand,
        scoring: scoring_from_proto(request.score.unwrap_or_default())?,
        filter,
        limit: or_default(&Path::Root("limit"), request.limit, default_hits, limits.k)?,
        threshold: optional_finite(&Path::Root("threshold"), request.threshold)?,
        read_mask: read_mask_from_proto(request.read_mask, ReadMask::fields())?,
        explain: request.explain,
        profile: false,
        highlight: request.highlight.map(|highlight| highlight_from_proto(&highlight)),
        within: match request.within {
            Some(within) if !within.page_token.is_empty() => {
                return Err(Path::Root("within").field("page_token").invalid("must be empty"));
            }
            // What bounds another query is wanted whole. Messages within each other are few: the decoder has a limit.
            Some(within) => Some(Box::new(bounded_query_from_proto(*within, limits, collections, limits.k)?)),
            None => None,
        },
        offset: request.offset as usize,
        seen: Vec::new(),
        order_by: (request.order_by.into_iter().enumerate())
            .map(|(at, order)| order_from_proto(&Path::Root("order_by").index(at), order))
            .collect::<Result<_, _>>()?,
        group_by: request.group_by.map(|group_by| group_by_from_proto(group_by, limits)).transpose()?,
        diversity: request.diversity.map(diversity_from_proto).transpose()?,
        allow_partial: request.allow_partial,
    })
}

fn highlight_from_proto(&v1::HighlightOptions { fragments, length }: &v1::HighlightOptions) -> Highlight {
    let or = |asked: u32, default: usize| if asked == 0 { default } else { asked as usize };
    Highlight { fragments: or(fragments, DEFAULT_FRAGMENTS), length: or(length, DEFAULT_FRAGMENT_BYTES) }
}

fn highlight_to_proto(Highlighted { field, chunk_id, pieces }: Highlighted) -> v1::Highlight {
    let piece = |piece: Piece| v1::HighlightPiece { text: piece.text, r#match: piece.is_match };
    v1::Highlight { field, chunk_id, pieces: pieces.into_iter().map(piece).collect() }
}

fn order_from_proto(path: &Path<'_>, order: v1::OrderBy) -> Result<Order, Status> {
    Ok(Order { field: field_from_proto(&path.field("field"), &order.field)?, descending: order.descending })
}

fn group_by_from_proto(group_by: v1::GroupBy, limits: &Limits) -> Result<GroupBy, Status> {
    let path = Path::Root("group_by");
    Ok(GroupBy {
        field: field_from_proto(&path.field("field"), &group_by.field)?,
        size: or_default(&path.field("size"), group_by.size, 1, limits.k)?,
    })
}

fn diversity_from_proto(diversity: v1::Diversity) -> Result<Diversity, Status> {
    let path = Path::Root("diversity");
    let lambda = finite(&path.field("lambda"), diversity.lambda.unwrap_or(DEFAULT_LAMBDA))?;
    Ok(Diversity { lambda, candidates: diversity.candidates as usize })
}

fn field_from_proto(path: &Path<'_>, name: &str) -> Result<Field, Status> {
    Field::parse(name).map_err(|_| path.invalid(format!("is {name:?}, which names no field")))
}

fn seed_from_proto(path: &Path<'_>, seed: v1::Seed, limits: &Limits) -> Result<Seed, Status> {
    use v1::seed::Kind;
    match seed.kind {
        Some(Kind::Nearest(nearest)) => {
            Ok(Seed::Nearest(nearest_from_proto(&path.field("nearest"), nearest, limits)?))
        }
        Some(Kind::Text(text)) => {
            let (query, k) = text_query_from_proto(&path.field("text"), text, limits)?;
            Ok(Seed::Text { query, k })
        }
        Some(Kind::Ids(ids)) => {
            let path = path.field("ids");
            at_most(&path.field("refs"), ids.refs.len(), limits.seed_ids)?;
            Ok(Seed::Ids(ids.refs.into_iter().map(entity_ref_from_proto).collect()))
        }
        Some(Kind::Filter(seed)) => {
            let path = path.field("filter");
            let filter = path.field("filter");
            Ok(Seed::Matching {
                filter: filter_from_proto(&filter, filter.required(seed.filter)?)?,
                limit: or_default(&path.field("limit"), seed.limit, 0, limits.k)?,
            })
        }
        None => Err(path.invalid("says nothing; set `nearest`, `text`, `ids` or `filter`")),
    }
}

fn nearest_from_proto(path: &Path<'_>, nearest: v1::Nearest, limits: &Limits) -> Result<Nearest, Status> {
    use v1::nearest::Target;
    let target = match nearest.target {
        Some(Target::Vector(vector)) => {
            NearestTarget::Vector(vector_from_proto(&path.field("vector"), vector)?)
        }
        Some(Target::Entity(entity)) => NearestTarget::Entity(entity_ref_from_proto(entity)),
        Some(Target::Examples(v1::Examples { positive, negative })) => {
            at_most(&path.field("examples"), positive.len() + negative.len(), limits.seed_ids)?;
            let refs = |refs: Vec<v1::EntityRef>| refs.into_iter().map(entity_ref_from_proto).collect();
            NearestTarget::Examples(Examples { positive: refs(positive), negative: refs(negative) })
        }
        // One that could be embedded is a vector by now.
        Some(Target::Text(_)) => {
            return Err(status::no_embedding_provider(&path.field("text").to_string(), &nearest.space));
        }
        None => return Err(path.invalid("has no target; set `vector`, `entity`, `text` or `examples`")),
    };
    Ok(Nearest {
        space: nearest.space,
        target,
        k: or_default(&path.field("k"), nearest.k, 0, limits.k)?,
        exact: nearest.exact,
        ef: or_default(&path.field("ef"), nearest.ef, 0, limits.ef)?,
        min_similarity: optional_finite(&path.field("min_similarity"), nearest.min_similarity)?,
        rescore: nearest.rescore,
        target_recall: optional_finite(&path.field("target_recall"), nearest.target_recall)?,
    })
}

fn scoring_from_proto(scoring: v1::Scoring) -> Result<Scoring, Status> {
    let path = Path::Root("score");
    let mode = match v1::ScoreMode::try_from(scoring.mode) {
        Ok(v1::ScoreMode::Unspecified | v1::ScoreMode::Weighted) => ScoreMode::Weighted,
        Ok(v1::ScoreMode::Boost) => {
            let default = v1::Boost { importance: DEFAULT_BOOST, recency: DEFAULT_BOOST };
            let v1::Boost { importance, recency } = scoring.boost.unwrap_or(default);
            ScoreMode::Boost { importance, recency }
        }
        Ok(v1::ScoreMode::AllidbV1) => ScoreMode::AllidbV1,
        Err(_) => {
            return Err(path.field("mode").invalid(format!("is {}, which is no mode", scoring.mode)));
        }
    };
    if scoring.boost.is_some() && !matches!(mode, ScoreMode::Boost { .. }) {
        return Err(path.field("boost").invalid("is given, but the mode is not BOOST"));
    }
    let weights =
        scoring.weights.map(|weights| weights_from_proto(&path.field("weights"), weights)).transpose()?;
    let half_life = path.field("half_life");
    Ok(Scoring {
        mode,
        weights,
        half_life: scoring.half_life.map(|duration| duration_from_proto(&half_life, duration)).transpose()?,
        as_of: optional_timestamp_from_proto(&path.field("as_of"), scoring.as_of)?,
        fusion: match scoring.reciprocal_rank {
            None => Fusion::Scores,
            Some(ranks) => {
                let k = path.field("reciprocal_rank");
                Fusion::ReciprocalRank { k: finite(&k.field("k"), ranks.k.unwrap_or(RANK_K))? }
            }
        },
    })
}

fn weights_from_proto(path: &Path<'_>, weights: v1::Weights) -> Result<Weights, Status> {
    let weight = |name, weight: f64| {
        if weight < 0.0 {
            return Err(path.field(name).invalid(format!("is {weight}; a weight is not negative")));
        }
        finite(&path.field(name), weight)
    };
    let weights = Weights {
        vector: weight("vector", weights.vector)?,
        text: weight("text", weights.text)?,
        graph: weight("graph", weights.graph)?,
        importance: weight("importance", weights.importance)?,
        recency: weight("recency", weights.recency)?,
    };
    let sum = weights.vector + weights.text + weights.graph + weights.importance + weights.recency;
    if sum == 0.0 {
        return Err(path.invalid("are all zero; at least one signal must count"));
    }
    finite(path, sum)?;
    Ok(weights)
}

fn optional_finite(path: &Path<'_>, number: Option<f64>) -> Result<Option<f64>, Status> {
    number.map(|number| finite(path, number)).transpose()
}

/// The answer, and how long it took.
pub(crate) fn answer_to_proto(answer: Answer, took: Duration) -> v1::QueryResponse {
    v1::QueryResponse {
        hits: answer.hits.into_iter().map(hit_to_proto).collect(),
        truncated: truncations_to_proto(answer.truncated),
        cost: Some(v1::QueryCost {
            vectors_compared: answer.cost.vectors_compared,
            nodes: answer.cost.nodes,
            edges: answer.cost.edges,
            duration: Some(duration_to_proto(took)),
        }),
        next_page_token: String::new(),
        coverage: answer.coverage.map(|coverage| v1::Coverage {
            answered: coverage.answered as u32,
            total: coverage.total as u32,
        }),
    }
}

/// What was done for an answer.
pub(crate) fn steps_to_proto(steps: Vec<PlanStep>) -> Vec<v1::PlanStep> {
    let step = |step: PlanStep| v1::PlanStep {
        depth: step.depth as u32,
        what: step.what.to_owned(),
        how: step.how,
        estimate: step.estimate,
        actual: step.actual,
        duration: Some(duration_to_proto(step.took)),
    };
    steps.into_iter().map(step).collect()
}

fn hit_to_proto(hit: Hit) -> v1::Hit {
    v1::Hit {
        entity: Some(entity_to_proto(hit.collection, hit.entity)),
        score: hit.score,
        chunk_id: hit.chunk_id,
        measure: hit.measure,
        hops: hit.hops as u32,
        breakdown: hit.breakdown.iter().map(signal_to_proto).collect(),
        path: path_to_proto(hit.path),
        group: hit.group.map(value_to_proto),
        highlights: hit.highlights.into_iter().map(highlight_to_proto).collect(),
    }
}

fn signal_to_proto(signal: &SignalValue) -> v1::SignalValue {
    v1::SignalValue {
        signal: signal.signal.name().to_owned(),
        value: signal.value,
        weight: signal.weight,
        contribution: signal.contribution,
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::StatusExt;
    use v1::{nearest::Target, seed::Kind};

    use super::*;

    fn near(target: Target) -> v1::Nearest {
        v1::Nearest { space: "gloss".into(), target: Some(target), ..Default::default() }
    }

    fn near_vector() -> v1::Nearest {
        near(Target::Vector(v1::Vector { values: vec![1.0, 2.0], ..Default::default() }))
    }

    fn request(nearest: v1::Nearest) -> v1::QueryRequest {
        let seeds = vec![v1::Seed { kind: Some(Kind::Nearest(nearest)) }];
        v1::QueryRequest { collection: "c".into(), seeds, ..Default::default() }
    }

    fn read(request: v1::QueryRequest) -> Result<Query, Status> {
        query_from_proto(request, &Limits::default(), &CollectionSet::ALL)
    }

    fn refused(request: v1::QueryRequest) -> String {
        read(request).expect_err("refused").message().to_owned()
    }

    #[test]
    fn a_bare_query_is_the_model_s_own_default() {
        let nearest = Nearest::to_vector("gloss", vec![1.0, 2.0]);
        assert_eq!(
            read(request(near_vector())).expect("whole"),
            Query::new("c", vec![Seed::Nearest(nearest)])
        );
    }

    #[test]
    fn text_needs_a_provider() {
        let status = read(request(near(Target::Text("dog".into())))).expect_err("no provider");
        assert_eq!(status.code(), tonic::Code::FailedPrecondition);
        assert_eq!(status.get_details_error_info().expect("info").reason, "NO_EMBEDDING_PROVIDER");
    }

    #[test]
    fn each_bound_is_named() {
        let query = || request(near_vector());
        assert_eq!(refused(v1::QueryRequest { seeds: vec![], ..query() }), "seeds must hold at least one");
        assert_eq!(
            refused(v1::QueryRequest { seeds: vec![v1::Seed::default(); 17], ..query() }),
            "seeds is 17; at most 16 is allowed"
        );
        assert!(refused(v1::QueryRequest { limit: 10_001, ..query() }).starts_with("limit is 10001"));
        let nearest = v1::Nearest { k: 10_001, ..near_vector() };
        assert!(refused(request(nearest)).starts_with("seeds[0].nearest.k is 10001"));
        let nearest = v1::Nearest { ef: 20_001, ..near_vector() };
        assert!(refused(request(nearest)).starts_with("seeds[0].nearest.ef is 20001"));
        let nearest = v1::Nearest { target: None, ..near_vector() };
        assert!(refused(request(nearest)).starts_with("seeds[0].nearest has no target"));
        let expand = Some(v1::ExpandOptions { hops: 9, ..Default::default() });
        assert!(refused(v1::QueryRequest { expand, ..query() }).starts_with("expand.hops is 9"));
        assert!(refused(v1::QueryRequest { threshold: Some(f64::NAN), ..query() }).starts_with("threshold"));
    }

    #[test]
    fn weights_must_weigh() {
        let weighted = |weights| {
            let score = Some(v1::Scoring { weights: Some(weights), ..Default::default() });
            v1::QueryRequest { score, ..request(near_vector()) }
        };
        assert!(refused(weighted(v1::Weights::default())).starts_with("score.weights are all zero"));
        let negative = v1::Weights { vector: 1.0, graph: -1.0, ..Default::default() };
        assert!(refused(weighted(negative)).starts_with("score.weights.graph is -1"));
        let infinite = v1::Weights { recency: f64::INFINITY, ..Default::default() };
        assert!(refused(weighted(infinite)).starts_with("score.weights.recency"));
    }
}
