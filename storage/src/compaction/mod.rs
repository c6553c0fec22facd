//! Leveled compaction: tables move down, level by level, and lose what nobody sees any more.
//!
//! Level 0 goes to level 1 when it has too many tables; each further level to the next when it is too large,
//! one table at a time, round robin over the keys.

mod pick;
mod run;

pub(crate) use pick::Pointers;
