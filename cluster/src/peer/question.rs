//! Questions about all that a node holds, or about much of it.

use allidb_index::{
    AcceptorsRequest, CameFrom, CameFromRequest, Deadline, EntityKey, Error, FacetCounts, FacetCountsRequest,
    HoldingsRequest, IdsPage, IdsRequest, Present, Replica, Result, RosterRequest, Tally, TallyRequest,
    TreeAnswer, TreeRequest,
    graph::{LinksRequest, ToldLinks},
    model::TenantId,
    query::{Share, ShareRequest},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

#[cfg(test)]
mod form;

/// What nodes can be asked.
pub(crate) trait Ask: Into<Question> + Clone + Send + Sync + 'static {
    type Answer: Serialize + DeserializeOwned + Send + 'static;

    /// What is known here.
    fn answer(&self, replica: &Replica, tenant: TenantId, deadline: Deadline) -> Result<Self::Answer>;
}

/// The form of questions and answers. What is in them is told apart by its place alone, so that one of another form could be read as something else: to
/// be counted up whenever any of their types changes, which the tests of `form` notice of most. Nodes of releases with different forms do not answer
/// each other.
pub(crate) const FORM: u32 = 2;

/// As nodes send it to each other.
pub(crate) fn encode(of: &impl Serialize) -> Result<Vec<u8>> {
    postcard::to_stdvec(of).map_err(|error| Error::Internal(format!("cannot be encoded: {error}")))
}

macro_rules! questions {
    ($($name:ident($request:ty) -> $answer:ty = $method:ident;)*) => {
        /// What a node is asked.
        #[derive(Debug, Serialize, Deserialize)]
        #[expect(clippy::large_enum_variant, reason = "it lives as long as it takes to answer or encode it")]
        pub(crate) enum Question {
            $($name($request),)*
        }

        impl Question {
            /// The answer, encoded.
            pub(crate) fn answer(
                &self,
                replica: &Replica,
                tenant: TenantId,
                deadline: Deadline,
            ) -> Result<Vec<u8>> {
                match self {
                    $(Self::$name(request) => encode(&request.answer(replica, tenant, deadline)?),)*
                }
            }
        }

        $(
            impl From<$request> for Question {
                fn from(request: $request) -> Self {
                    Self::$name(request)
                }
            }

            impl Ask for $request {
                type Answer = $answer;

                fn answer(&self, replica: &Replica, tenant: TenantId, deadline: Deadline) -> Result<$answer> {
                    replica.$method(tenant, self, deadline)
                }
            }
        )*
    };
}

impl Question {
    /// As another node sent it.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if it is of another form, [`Error::Invalid`] if it cannot be read.
    pub(crate) fn decode(form: u32, encoded: &[u8]) -> Result<Self> {
        if form != FORM {
            let why = format!("it takes questions of form {FORM}, and not {form}: it is of another release");
            return Err(Error::Unavailable(why));
        }
        postcard::from_bytes(encoded)
            .map_err(|error| Error::invalid("a question", format!("cannot be read: {error}")))
    }

    /// What is asked about, of what nodes compare and take over; `None` if about everything.
    pub(crate) fn partitions(&self) -> Option<&[u16]> {
        match self {
            Self::Tree(TreeRequest::Swept) => Some(&[]),
            Self::Tree(TreeRequest::Roots(partitions))
            | Self::Acceptors(AcceptorsRequest { partitions, .. }) => Some(partitions),
            Self::Tree(
                TreeRequest::Branches(partition)
                | TreeRequest::Leaves { partition, .. }
                | TreeRequest::Entities { partition, .. },
            )
            | Self::Holdings(HoldingsRequest { partition, .. }) => Some(std::slice::from_ref(partition)),
            _ => None,
        }
    }
}

questions! {
    Share(ShareRequest) -> Share = share;
    Links(LinksRequest) -> Vec<ToldLinks> = links;
    Ids(IdsRequest) -> IdsPage = ids;
    Tallies(TallyRequest) -> Vec<Tally> = tallies;
    Rosters(RosterRequest) -> Vec<Vec<Present>> = rosters;
    CameFrom(CameFromRequest) -> CameFrom = came_from;
    FacetCounts(FacetCountsRequest) -> Vec<FacetCounts> = facet_counts;
    Tree(TreeRequest) -> TreeAnswer = tree;
    Holdings(HoldingsRequest) -> Vec<(EntityKey, Vec<u8>)> = holdings;
    Acceptors(AcceptorsRequest) -> Vec<(EntityKey, Vec<u8>)> = acceptors;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_of_another_form_are_not_read() {
        let encoded = encode(&Question::from(TreeRequest::Swept)).expect("encoded");
        assert!(matches!(Question::decode(FORM, &encoded), Ok(Question::Tree(TreeRequest::Swept))));
        let refused = Question::decode(FORM + 1, &encoded);
        assert!(matches!(refused, Err(Error::Unavailable(_))), "{refused:?}");
        let garbled = Question::decode(FORM, &[0xff; 3]);
        assert!(matches!(garbled, Err(Error::Invalid { .. })), "{garbled:?}");
    }
}
