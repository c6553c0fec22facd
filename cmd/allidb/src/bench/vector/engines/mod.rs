//! Vector indexes behind one face.

pub(super) mod allidb;
#[cfg(feature = "peers")]
mod hnsw_rs;
#[cfg(feature = "peers")]
mod usearch;

use anyhow::Result;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::{data::VectorData, plan::Plan};
#[cfg(feature = "peers")]
pub(in crate::bench) use usearch::Usearch;

/// An engine that this program was built with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub(crate) enum EngineName {
    /// Ours.
    Allidb,
    /// The Rust crate of that name.
    #[cfg(feature = "peers")]
    HnswRs,
    /// The Rust crate of that name.
    #[cfg(feature = "peers")]
    Usearch,
}

impl EngineName {
    /// As it is called in reports.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Allidb => "allidb",
            #[cfg(feature = "peers")]
            Self::HnswRs => "hnsw_rs",
            #[cfg(feature = "peers")]
            Self::Usearch => "usearch",
        }
    }

    /// Makes an index with every vector in it.
    pub(super) fn build(self, data: &VectorData, plan: &Plan) -> Result<Box<dyn Index>> {
        Ok(match self {
            Self::Allidb => Box::new(allidb::Allidb::build(data, plan)?),
            #[cfg(feature = "peers")]
            Self::HnswRs => Box::new(hnsw_rs::HnswRs::build(data, plan)),
            #[cfg(feature = "peers")]
            Self::Usearch => Box::new(Usearch::of(&data.base, plan.build_threads)?),
        })
    }
}

/// An index that is searched from several threads.
pub(super) trait Index: Sync {
    /// The breadth of the searches that follow.
    fn set_breadth(&mut self, breadth: usize);

    /// The nearest rows.
    fn search(&self, query: &[f32], k: usize) -> Result<Vec<u32>>;

    /// Seconds until the last vector could be found; the rest of building came after.
    fn insert_seconds(&self) -> Option<f64> {
        None
    }

    /// Bytes of files that are mapped into memory.
    fn mapped_bytes(&self) -> u64 {
        0
    }

    /// Ours, for what only we can do.
    fn as_allidb(&mut self) -> Option<&mut allidb::Allidb> {
        None
    }
}
