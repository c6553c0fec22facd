//! The query: seeds → expand → score → limit.

mod execute;
mod numbers;
mod score;
mod seeds;
mod tree;

pub use tree::{
    Answer, Cost, ExpandSpec, Hit, Nearest, NearestTarget, Query, Scoring, Seed, Signal, SignalValue, Step,
    Truncation, TruncationReason, Weights,
};
