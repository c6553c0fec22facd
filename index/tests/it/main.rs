//! A replica as its callers see it: entities, vectors, edges and queries over a real store.

mod bulk;
mod cleanup;
mod conditional;
mod copying;
mod edges;
mod entities;
mod filter_rules;
mod filters;
mod fixture;
mod freshness;
mod graph;
mod healing;
mod hidden;
mod key_uses;
mod merging;
mod paths;
mod purge;
mod queries;
mod replicas;
mod secondary;
mod shape;
mod steady;
mod texts;
mod usage;
mod vectors;
