//! Leveled compaction: tables move down, level by level, and lose what nobody sees any more.
//!
//! Level 0 goes to the uppermost level in use when it has too many tables; each further level to the next when it is
//! larger than its target, one table at a time, round robin over the keys. Tables of which range tombstones delete much, or
//! that refer to blob files full of garbage, are rewritten where they are.

mod clean;
mod levels;
mod output;
mod pick;
mod quarantine;
mod run;
mod running;
mod throttle;

pub(crate) use output::Output;
pub(crate) use pick::{debt, level0_due};
pub(crate) use running::Compacting;
pub use throttle::Throttle;
