//! The query: seeds → expand → score → limit.

mod execute;
mod matches;
mod numbers;
mod score;
mod seeds;
mod target;
mod texts;
mod tree;

pub(crate) use matches::MatchCache;
pub use tree::{
    Answer, Cost, ExpandSpec, Fusion, Hit, Nearest, NearestTarget, Query, Scoring, Seed, Signal, SignalValue,
    Step, TextMatch, TextQuery, Truncation, TruncationReason, Weights,
};
