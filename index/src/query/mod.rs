//! The query: seeds → expand → score → limit.

mod admission;
mod aside;
mod evidence;
mod execute;
mod highlights;
mod inside;
mod matches;
mod nearest;
mod numbers;
mod score;
mod seeds;
mod shape;
mod steps;
mod target;
mod texts;
mod tree;

pub(crate) use aside::SearchPool;
pub(crate) use matches::MatchCache;
pub use steps::PlanStep;
pub(crate) use steps::Steps;
pub use tree::{
    Answer, Cost, Diversity, Examples, ExpandSpec, Fusion, GroupBy, Highlight, Highlighted, Hit, Nearest,
    NearestTarget, Order, Piece, Query, ScoreMode, Scoring, Seed, Signal, SignalValue, Step, TextMatch,
    TextQuery, Truncation, TruncationReason, Weights,
};
