//! Who calls. The one place that decides the tenant of a request: nothing in a message ever names it.

use allidb_index::model::TenantId;
use tonic::{Status, metadata::MetadataMap};

/// The tenant that the caller's credential belongs to. There are no credentials yet, so every caller is of
/// the default tenant; the daemon listens on loopback only for as long as that is so.
#[expect(clippy::unnecessary_wraps, reason = "credentials will be refused here")]
pub(crate) fn tenant(_metadata: &MetadataMap) -> Result<TenantId, Status> {
    Ok(TenantId::DEFAULT)
}
