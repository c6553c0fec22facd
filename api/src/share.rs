//! Whose the calls under way are, and how many of the places may be one caller's: so many that others find some still.
//!
//! A caller may take four times as many places as it leaves free (the dynamic threshold of A. K. Choudhury and E. L. Hahne, "Dynamic queue length
//! thresholds for shared-memory packet switches", 1998): one that floods has four fifths of them, two have four ninths each, and whoever asks
//! little always finds one. So it is with the bytes of requests and answers ([`weight`](crate::weight)).

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use allidb_index::model::TenantId;
use parking_lot::Mutex;
use tonic::Status;

use crate::status;

/// How many times as much as is free one caller may take.
const TIMES_FREE: usize = 4;

/// Whom a call counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Owner {
    /// Who reads and writes a tenant's data.
    Data(TenantId),
    /// Who looks after a tenant's collections and keys: whoever is flooded by a key can revoke it.
    Definitions(TenantId),
    /// Who looks after nodes.
    Operators,
    /// Somebody without a key, by where it comes from.
    Address(IpAddr),
}

/// Whether who has so much already may have more while so much is free.
pub(crate) fn is_taken(has: usize, free: usize) -> bool {
    has > free.saturating_mul(TIMES_FREE)
}

/// How many places callers have; none has 0. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shares(Arc<Mutex<HashMap<Owner, usize>>>);

/// A place that is a caller's until this is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    shares: Shares,
    owner: Owner,
}

impl Shares {
    /// Counts a place as a caller's, while so many are free.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED if it has its share.
    pub(crate) fn take(&self, owner: Owner, free: usize) -> Result<Share, Status> {
        let mut of = self.0.lock();
        let count = of.get(&owner).copied().unwrap_or_default();
        if is_taken(count, free) {
            return Err(status::share_is_taken(count));
        }
        of.insert(owner, count + 1);
        Ok(Share { shares: self.clone(), owner })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut of = self.shares.0.lock();
        if let Some(count) = of.get_mut(&self.owner) {
            *count -= 1;
            if *count == 0 {
                of.remove(&self.owner);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many as tenants get of 1,000 places who all take what they can, one after the other.
    fn taken(tenants: u64) -> Vec<usize> {
        let shares = Shares::default();
        let mut held: Vec<(u64, Share)> = Vec::new();
        loop {
            let before = held.len();
            for tenant in 0..tenants {
                if held.len() < 1_000 {
                    let share = shares.take(Owner::Data(TenantId(tenant)), 999 - held.len());
                    held.extend(share.ok().map(|share| (tenant, share)));
                }
            }
            if held.len() == before {
                break;
            }
        }
        (0..tenants).map(|tenant| held.iter().filter(|(of, _)| *of == tenant).count()).collect()
    }

    #[test]
    fn whoever_takes_all_leaves_some() {
        assert_eq!(taken(1), [800]);
        assert_eq!(taken(2), [445, 444]);
        let many = taken(20);
        assert!(many.iter().all(|count| (45..=50).contains(count)), "{many:?}");
    }

    #[test]
    fn the_only_place_is_anybody_s() {
        let shares = Shares::default();
        let [first, second] = [1, 2].map(|tenant| Owner::Data(TenantId(tenant)));
        let share = shares.take(first, 0).expect("it has none");
        assert!(shares.take(first, 0).is_err());
        assert!(shares.take(second, 0).is_ok());
        drop(share);
        assert!(shares.take(first, 0).is_ok());
        assert!(shares.0.lock().is_empty());
    }
}
