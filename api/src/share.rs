//! How many of the calls under way are one tenant's: so many that others find places still.
//!
//! A tenant may take four times as many places as it leaves free (the dynamic threshold of A. K. Choudhury and E. L. Hahne, "Dynamic queue length
//! thresholds for shared-memory packet switches", 1998): one that floods has four fifths of them, two have four ninths each, and whoever asks
//! little always finds one.

use std::{collections::HashMap, sync::Arc};

use allidb_index::model::TenantId;
use parking_lot::Mutex;
use tonic::Status;

use crate::status;

/// How many times as many as are free one tenant may take.
const TIMES_FREE: usize = 4;

/// How many places tenants have; none has 0. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shares(Arc<Mutex<HashMap<TenantId, usize>>>);

/// A place that is a tenant's until this is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    shares: Shares,
    tenant: TenantId,
}

impl Shares {
    /// Counts a place as a tenant's, while so many are free.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED if it has its share.
    pub(crate) fn take(&self, tenant: TenantId, free: usize) -> Result<Share, Status> {
        let mut of = self.0.lock();
        let count = of.get(&tenant).copied().unwrap_or_default();
        if count > free.saturating_mul(TIMES_FREE) {
            return Err(status::share_is_taken(count));
        }
        of.insert(tenant, count + 1);
        Ok(Share { shares: self.clone(), tenant })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut of = self.shares.0.lock();
        if let Some(count) = of.get_mut(&self.tenant) {
            *count -= 1;
            if *count == 0 {
                of.remove(&self.tenant);
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
                    held.extend(
                        shares.take(TenantId(tenant), 999 - held.len()).ok().map(|share| (tenant, share)),
                    );
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
        let first = shares.take(TenantId(1), 0).expect("it has none");
        assert!(shares.take(TenantId(1), 0).is_err());
        assert!(shares.take(TenantId(2), 0).is_ok());
        drop(first);
        assert!(shares.take(TenantId(1), 0).is_ok());
        assert!(shares.0.lock().is_empty());
    }
}
