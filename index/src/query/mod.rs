//! The query: seeds → expand → score → limit.

mod execute;
mod matches;
mod numbers;
mod score;
mod seeds;
mod shape;
mod target;
mod texts;
mod tree;

pub(crate) use matches::MatchCache;
pub use tree::{
    Answer, Cost, Diversity, Examples, ExpandSpec, Fusion, GroupBy, Hit, Nearest, NearestTarget, Order,
    Query, ScoreMode, Scoring, Seed, Signal, SignalValue, Step, TextMatch, TextQuery, Truncation,
    TruncationReason, Weights,
};
