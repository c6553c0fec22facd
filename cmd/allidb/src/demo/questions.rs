//! What the demo asks. The sentences are WordNet's own usage examples, embedded by the model that
//! embedded the synsets; none of them is in the text of a synset.

use allidb_api::v1::{Direction, ExpandOptions, Nearest, QueryRequest, Seed, Vector, nearest::Target, seed};
use anyhow::Result;

use crate::filter_syntax;

/// The demo's collection.
pub(super) const COLLECTION: &str = "wordnet";
/// The demo's vector space.
pub(super) const SPACE: &str = "gloss";
/// Numbers in each vector of the sample.
pub(super) const DIMENSION: u32 = 384;

/// For nearest, filtered, and all that changes.
pub(super) const APPLES: &str = "The apple tree bore delicious apples this year";
/// For the walk along edges.
pub(super) const HUMMINGBIRD: &str = "The hummingbird flitted among the branches";

/// The apple that gets eaten.
pub(super) const DELICIOUS: &str = "n-07740220";
/// The apple that is deleted.
pub(super) const BRAMLEY: &str = "n-07742224";
/// What the walk finds.
pub(super) const HUMMINGBIRD_ID: &str = "n-01833805";

/// Only what one can eat.
pub(super) const FOOD: &str = r#"lexname = "noun.food""#;
/// … and what has not been eaten yet.
pub(super) const FOOD_LEFT: &str = r#"lexname = "noun.food" and not eaten = true"#;

/// Hits shown of each answer.
pub(super) const HITS: u32 = 5;
/// Where the walk begins.
pub(super) const SEEDS: u32 = 4;
/// Hits shown of the walk.
pub(super) const WALK_HITS: u32 = 6;

/// The nearest, perhaps under a filter.
pub(super) fn nearest(vector: Vector, filter: Option<&str>) -> Result<QueryRequest> {
    Ok(QueryRequest {
        collection: COLLECTION.to_owned(),
        seeds: vec![seed(vector, HITS)],
        filter: filter.map(filter_syntax::parse_argument).transpose()?,
        limit: HITS,
        ..QueryRequest::default()
    })
}

/// The nearest, and what they are kinds of.
pub(super) fn walk(vector: Vector) -> QueryRequest {
    QueryRequest {
        collection: COLLECTION.to_owned(),
        seeds: vec![seed(vector, SEEDS)],
        expand: Some(ExpandOptions {
            relations: vec!["hypernym".to_owned()],
            direction: Direction::Out as i32,
            hops: 2,
            ..ExpandOptions::default()
        }),
        limit: WALK_HITS,
        explain: true,
        ..QueryRequest::default()
    }
}

fn seed(vector: Vector, k: u32) -> Seed {
    let nearest =
        Nearest { space: SPACE.to_owned(), k, target: Some(Target::Vector(vector)), ..Nearest::default() };
    Seed { kind: Some(seed::Kind::Nearest(nearest)) }
}
