//! Tests of the storage engine through its public interface.
//!
//! `ALLIDB_SIM_SEEDS=n` makes the crash tests and random histories try n times as many seeds; `ALLIDB_WRITE_GOLDEN=1` lets the
//! golden-file test write its files anew.

mod adversity;
mod around_damage;
mod basics;
mod checkpoints;
mod concurrency;
mod crash;
mod damage;
mod faults;
mod golden;
mod ingest;
mod inspect;
mod lessons;
mod log_segments;
mod memory;
mod model;
mod options;
mod range_delete;
mod replacing;
mod scrub;
mod state_machine;
mod variety;
