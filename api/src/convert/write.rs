//! How a request wants to be written or read, and the versions that come back.

use allidb_cluster::Consistency;
use allidb_index::{
    Version,
    model::{Precondition, Write},
};
use allidb_storage::Durability;
use bytes::Bytes;
use tonic::Status;

use super::Path;
use crate::v1;

pub(crate) fn durability_from_proto(durability: i32) -> Result<Durability, Status> {
    match v1::Durability::try_from(durability) {
        Ok(v1::Durability::Unspecified | v1::Durability::Sync) => Ok(Durability::Sync),
        Ok(v1::Durability::Flush) => Ok(Durability::Flush),
        Err(_) => Err(Path::Root("durability").invalid(format!("is {durability}, which is no durability"))),
    }
}

pub(crate) fn consistency_from_proto(consistency: i32) -> Result<Consistency, Status> {
    match v1::Consistency::try_from(consistency) {
        Ok(v1::Consistency::Unspecified) => Ok(Consistency::default()),
        Ok(v1::Consistency::One) => Ok(Consistency::One),
        Ok(v1::Consistency::Quorum) => Ok(Consistency::Quorum),
        Ok(v1::Consistency::All) => Ok(Consistency::All),
        Err(_) => {
            Err(Path::Root("consistency").invalid(format!("is {consistency}, which is no consistency")))
        }
    }
}

pub(crate) fn version_to_proto(version: Version) -> Bytes {
    Bytes::copy_from_slice(&version.to_bytes())
}

/// `None` if none is given.
pub(crate) fn min_version_from_proto(version: &[u8]) -> Result<Option<Version>, Status> {
    let invalid =
        || Path::Root("min_version").invalid(format!("has {} bytes; versions have 16", version.len()));
    match version {
        [] => Ok(None),
        version => Version::from_bytes(version).ok_or_else(invalid).map(Some),
    }
}

/// A write that is made if the precondition is met, if there is one.
pub(crate) fn given(write: Write, precondition: Option<v1::Precondition>) -> Result<Write, Status> {
    let Some(precondition) = precondition else { return Ok(write) };
    let place = || Path::Root("precondition");
    let precondition = match precondition.kind {
        Some(v1::precondition::Kind::IfAbsent(true)) => Precondition::Absent,
        Some(v1::precondition::Kind::IfVersion(version)) => {
            let invalid = || {
                let why = format!("has {} bytes; versions have 16", version.len());
                Path::Root("precondition.if_version").invalid(why)
            };
            Precondition::Version(Version::from_bytes(&version).ok_or_else(invalid)?)
        }
        Some(v1::precondition::Kind::IfAbsent(false)) | None => {
            return Err(place().invalid("says nothing: set if_absent to true, or if_version"));
        }
    };
    Ok(Write::If { precondition, write: Box::new(write) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unset_is_the_default_and_unknown_is_refused() {
        assert_eq!(durability_from_proto(0).expect("default"), Durability::Sync);
        assert_eq!(durability_from_proto(2).expect("flush"), Durability::Flush);
        assert_eq!(
            durability_from_proto(7).expect_err("unknown").message(),
            "durability is 7, which is no durability"
        );
        assert_eq!(consistency_from_proto(0).expect("default"), Consistency::Quorum);
        assert!(consistency_from_proto(-1).is_err());
    }
}
