//! How much of a ring a tenant may use.

use super::TenantId;
use crate::error::{Error, Result};

/// What a tenant may use. `None`: as much as there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// Requests a second, at each node.
    pub requests_per_second: Option<u64>,
    /// Bytes of requests and answers a second, at each node.
    pub bytes_per_second: Option<u64>,
    /// Entities, of all collections together.
    pub entities: Option<u64>,
    /// Vectors, those of chunks too.
    pub vectors: Option<u64>,
    /// Bytes of what is stored, as they are before compression, and once however many replicas there are.
    pub bytes: Option<u64>,
}

impl Quota {
    /// Whether it bounds nothing.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it bounds what is stored.
    pub fn bounds_amounts(&self) -> bool {
        self.entities.is_some() || self.vectors.is_some() || self.bytes.is_some()
    }

    /// # Errors
    /// If nobody could ever ask for anything.
    pub(crate) fn validate(&self, tenant: TenantId) -> Result<()> {
        if tenant == TenantId(0) {
            return Err(Error::invalid("tenant", "must be 1 or more"));
        }
        let rates = [
            ("quota.requests_per_second", self.requests_per_second),
            ("quota.bytes_per_second", self.bytes_per_second),
        ];
        match rates.into_iter().find(|(_, rate)| *rate == Some(0)) {
            Some((field, _)) => Err(Error::invalid(field, "must be 1 or more; revoke keys to let nobody in")),
            None => Ok(()),
        }
    }

    /// What of it is used up: its name, how much there is, and how much there may be.
    pub fn exceeded(&self, usage: &Usage) -> Option<(&'static str, u64, u64)> {
        let bounds = [
            ("entities", usage.entities, self.entities),
            ("vectors", usage.vectors, self.vectors),
            ("bytes", usage.bytes, self.bytes),
        ];
        let found = bounds.into_iter().find(|(_, used, most)| most.is_some_and(|most| *used >= most));
        found.map(|(name, used, most)| (name, used, most.unwrap_or_default()))
    }
}

/// What a tenant uses, about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Entities.
    pub entities: u64,
    /// Vectors, those of chunks too.
    pub vectors: u64,
    /// Bytes of what is stored.
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_up_is_named() {
        let quota = Quota { entities: Some(10), bytes: Some(0), ..Quota::default() };
        let usage = Usage { entities: 9, ..Usage::default() };
        assert_eq!(quota.exceeded(&usage), Some(("bytes", 0, 0)));
        let quota = Quota { bytes: None, ..quota };
        assert_eq!(quota.exceeded(&usage), None);
        assert_eq!(quota.exceeded(&Usage { entities: 10, ..usage }), Some(("entities", 10, 10)));
        assert!(quota.bounds_amounts() && !quota.is_nothing());
    }

    #[test]
    fn a_quota_lets_somebody_ask() {
        let quota = Quota { requests_per_second: Some(0), ..Quota::default() };
        assert!(quota.validate(TenantId(1)).is_err());
        assert!(Quota::default().validate(TenantId(0)).is_err());
        assert!(Quota { entities: Some(0), ..Quota::default() }.validate(TenantId(1)).is_ok());
    }
}
