//! Questions about all that a node holds, or about much of it.

use allidb_index::{
    Deadline, Error, Replica, Result,
    graph::{LinksRequest, ToldLinks},
    model::TenantId,
    query::{Share, ShareRequest},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// What a node is asked.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Question {
    Share(ShareRequest),
    Links(LinksRequest),
}

/// What nodes can be asked.
pub(crate) trait Ask: Into<Question> + Clone + Send + Sync + 'static {
    type Answer: Serialize + DeserializeOwned + Send + 'static;

    /// What is known here.
    fn answer(&self, replica: &Replica, tenant: TenantId, deadline: Deadline) -> Result<Self::Answer>;
}

impl Question {
    /// The answer, encoded.
    pub(crate) fn answer(&self, replica: &Replica, tenant: TenantId, deadline: Deadline) -> Result<Vec<u8>> {
        match self {
            Self::Share(request) => encode(&request.answer(replica, tenant, deadline)?),
            Self::Links(request) => encode(&request.answer(replica, tenant, deadline)?),
        }
    }
}

/// As nodes send it to each other.
pub(crate) fn encode(of: &impl Serialize) -> Result<Vec<u8>> {
    postcard::to_stdvec(of).map_err(|error| Error::Internal(format!("cannot be encoded: {error}")))
}

impl From<ShareRequest> for Question {
    fn from(request: ShareRequest) -> Self {
        Self::Share(request)
    }
}

impl Ask for ShareRequest {
    type Answer = Share;

    fn answer(&self, replica: &Replica, tenant: TenantId, deadline: Deadline) -> Result<Share> {
        replica.share(tenant, self, deadline)
    }
}

impl From<LinksRequest> for Question {
    fn from(request: LinksRequest) -> Self {
        Self::Links(request)
    }
}

impl Ask for LinksRequest {
    type Answer = Vec<ToldLinks>;

    fn answer(&self, replica: &Replica, tenant: TenantId, deadline: Deadline) -> Result<Vec<ToldLinks>> {
        replica.links(tenant, self, deadline)
    }
}
