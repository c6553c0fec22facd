//! The query: seeds → expand → score → limit.

mod admission;
mod aside;
mod confirm;
mod evidence;
mod execute;
mod gathering;
mod highlights;
mod inside;
mod matches;
mod nearest;
mod numbers;
mod score;
mod seeds;
mod shape;
mod share;
mod steps;
mod target;
mod texts;
mod tree;

pub(crate) use aside::SearchPool;
pub use gathering::Gathering;
pub(crate) use matches::MatchCache;
pub use share::{Share, ShareRequest};
pub use steps::PlanStep;
pub(crate) use steps::Steps;
pub use tree::{
    Answer, Cost, Coverage, Diversity, Examples, ExpandSpec, Fusion, GroupBy, Highlight, Highlighted, Hit,
    Nearest, NearestTarget, Order, Piece, Query, ScoreMode, Scoring, Seed, Signal, SignalValue, Step,
    TextMatch, TextQuery, Truncation, TruncationReason, Weights,
};
