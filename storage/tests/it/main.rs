//! Tests of the storage engine through its public interface.
//!
//! `ALLIDB_SIM_SEEDS=n` makes the crash tests try n times as many seeds and histories; `ALLIDB_WRITE_GOLDEN=1` lets the
//! golden-file test write its files anew.

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
mod memory;
mod model;
mod options;
mod range_delete;
mod scrub;
mod state_machine;
