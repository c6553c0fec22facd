//! The whole system: the daemon as a process on loopback, asked over its public ports.
//!
//! | module | what it is |
//! |---|---|
//! | `process` | starts, kills, ends and restarts a daemon on a directory of its own |
//! | `client`, `make` | what tests ask of it, and what they send |
//! | `links` | connections between daemons that can be cut |
//! | `dataset`, `random` | data files, and random numbers from a seed that is printed |
//! | the others | one subject each |

mod access;
mod client;
mod dataset;
mod errors;
mod freshness;
mod fuzz;
mod garbage;
mod kill_nine;
mod labels;
mod links;
mod make;
mod merges;
mod paging;
mod process;
mod python;
mod quotas;
mod random;
mod ring;
mod ring_of_five;
mod ring_under_fire;
mod sample;
mod shutdown;
mod slow;
mod small_messages;
mod soak;
mod tokens;
mod traces;
mod wordnet;
