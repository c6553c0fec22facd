//! The ways in which each question is asked.

use allidb_api::v1::{
    Direction, ExpandOptions, Nearest, QueryRequest, ReciprocalRank, Scoring, Seed, TextSeed, Vector,
    Weights, nearest::Target, seed::Kind,
};
use anyhow::Result;
use prost_types::FieldMask;

use crate::filter_syntax;

pub(super) const COLLECTION: &str = "questions";
pub(super) const SPACE: &str = "texts";

/// A sentence, its vector, and the id of the entity that it was written for.
pub(super) struct Question {
    pub(super) text: String,
    pub(super) entity: String,
    pub(super) vector: Vector,
}

/// A way to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Vectors,
    Words,
    /// Both, as they are weighted unless a query says.
    Both,
    BothRanks,
    BothAndOneHop,
    BothAndTwoHops,
    BothTwoHopsFiltered,
}

impl Way {
    pub(super) const ALL: [Way; 7] = [
        Way::Vectors,
        Way::Words,
        Way::Both,
        Way::BothRanks,
        Way::BothAndOneHop,
        Way::BothAndTwoHops,
        Way::BothTwoHopsFiltered,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Vectors => "vectors",
            Self::Words => "words",
            Self::Both => "vectors and words",
            Self::BothRanks => "vectors and words, by ranks",
            Self::BothAndOneHop => "vectors, words and one hop",
            Self::BothAndTwoHops => "vectors, words and two hops",
            Self::BothTwoHopsFiltered => "vectors, words, two hops, filter",
        }
    }

    fn hops(self) -> u32 {
        match self {
            Self::Vectors | Self::Words | Self::Both | Self::BothRanks => 0,
            Self::BothAndOneHop => 1,
            Self::BothAndTwoHops | Self::BothTwoHopsFiltered => 2,
        }
    }

    pub(super) fn request(
        self,
        question: &Question,
        k: u32,
        relations: &[String],
        filter: &str,
    ) -> Result<QueryRequest> {
        let near = || {
            let target = Some(Target::Vector(question.vector.clone()));
            Kind::Nearest(Nearest { space: SPACE.to_owned(), target, ..Nearest::default() })
        };
        let words = || Kind::Text(TextSeed { text: question.text.clone(), ..TextSeed::default() });
        let kinds = match self {
            Self::Vectors => vec![near()],
            Self::Words => vec![words()],
            _ => vec![near(), words()],
        };
        let expand = (self.hops() > 0).then(|| ExpandOptions {
            relations: relations.to_vec(),
            direction: Direction::Out.into(),
            hops: self.hops(),
            ..ExpandOptions::default()
        });
        let score = match self {
            Self::BothRanks => {
                Some(Scoring { reciprocal_rank: Some(ReciprocalRank::default()), ..Scoring::default() })
            }
            // The graph brings candidates; what is far from the question should not come first for it.
            _ if self.hops() > 0 => Some(Scoring {
                weights: Some(Weights { vector: 1.0, text: 0.75, graph: 0.05, ..Weights::default() }),
                ..Scoring::default()
            }),
            _ => None,
        };
        let filter = (self == Self::BothTwoHopsFiltered).then(|| filter_syntax::parse_argument(filter));
        Ok(QueryRequest {
            collection: COLLECTION.to_owned(),
            seeds: kinds.into_iter().map(|kind| Seed { kind: Some(kind) }).collect(),
            expand,
            score,
            filter: filter.transpose()?,
            limit: k,
            // Only ids are compared.
            read_mask: Some(FieldMask { paths: vec!["type".to_owned()] }),
            ..QueryRequest::default()
        })
    }
}
