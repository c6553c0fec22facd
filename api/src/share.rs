//! Whose the calls under way are, and how many of the places may be one caller's: so many that others find some still.
//!
//! A caller may take four times as many places as it leaves free (the dynamic threshold of A. K. Choudhury and E. L. Hahne, "Dynamic queue length
//! thresholds for shared-memory packet switches", 1998): one that floods has four fifths of them, two have four ninths each, and whoever asks
//! little always finds one. So it is with the bytes of requests and answers ([`weight`](crate::weight)). Those of one owner, such as the keys of a
//! tenant, share what it may have among themselves by the same rule.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::{DefaultHasher, Hash, Hasher},
    net::IpAddr,
    sync::Arc,
};

use allidb_cluster::Asker;
use allidb_index::model::TenantId;
use parking_lot::Mutex;
use tonic::Status;

use crate::{metrics::Short, status};

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
    /// Somebody who asks what needs none, by where it comes from.
    Door(IpAddr),
}

impl Owner {
    /// For whom pools of threads do what it asks for. Of a tenant it is the same at all nodes.
    pub(crate) fn asker(self) -> Asker {
        match self {
            Self::Data(tenant) => Asker(tenant.0),
            other => {
                let mut hasher = DefaultHasher::new();
                other.hash(&mut hasher);
                // Tenants are numbered from below.
                Asker(hasher.finish() | 1 << 63)
            }
        }
    }
}

/// One of those who count together: a key of a tenant, a connection of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Party {
    pub(crate) owner: Owner,
    /// Tells it from the others of its owner.
    pub(crate) part: u64,
}

/// Whose share was taken: who has so much already may not have more while so little is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken(pub(crate) usize);

/// How much callers have; none has 0.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    of: HashMap<Owner, usize>,
    parts: HashMap<Party, usize>,
}

impl Counts {
    pub(crate) fn add(&mut self, caller: Party, more: usize) {
        if more > 0 {
            *self.of.entry(caller.owner).or_default() += more;
            *self.parts.entry(caller).or_default() += more;
        }
    }

    pub(crate) fn subtract(&mut self, caller: Party, less: usize) {
        subtract(&mut self.of, caller.owner, less);
        subtract(&mut self.parts, caller, less);
    }

    /// Whether a caller may have more than this of what it has while so much is free. Of what its owner may have beyond what that has, each of those
    /// who count together leaves some to the others in the same way.
    pub(crate) fn check(&self, caller: Party, besides: usize, free: usize) -> Result<(), Taken> {
        let has = |count: Option<&usize>| count.map_or(0, |count| count - besides);
        let (of_owner, of_part) = (has(self.of.get(&caller.owner)), has(self.parts.get(&caller)));
        let may_have = free.saturating_mul(TIMES_FREE);
        let of_others = may_have.checked_sub(of_owner).ok_or(Taken(of_owner))?;
        if of_part > of_others.saturating_mul(TIMES_FREE) {
            return Err(Taken(of_part));
        }
        Ok(())
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.of.is_empty() && self.parts.is_empty()
    }
}

fn subtract<K: Eq + Hash>(counts: &mut HashMap<K, usize>, of: K, less: usize) {
    if let Entry::Occupied(mut count) = counts.entry(of) {
        *count.get_mut() -= less;
        if *count.get() == 0 {
            count.remove();
        }
    }
}

/// How many places callers have. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shares(Arc<Mutex<Counts>>);

/// A place that is a caller's until this is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    shares: Shares,
    caller: Party,
}

impl Shares {
    /// Counts a place as a caller's, while so many are free.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED if it has its share.
    pub(crate) fn take(&self, caller: Party, free: usize) -> Result<Share, Status> {
        let mut counts = self.0.lock();
        counts.check(caller, 0, free).map_err(|Taken(count)| {
            Short::PlacesOfCaller.count();
            status::share_is_taken(count)
        })?;
        counts.add(caller, 1);
        Ok(Share { shares: self.clone(), caller })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.shares.0.lock().subtract(self.caller, 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(tenant: u64, part: u64) -> Party {
        Party { owner: Owner::Data(TenantId(tenant)), part }
    }

    /// So many as these get of 1,000 places who all take what they can, one after the other.
    fn taken(callers: &[Party]) -> Vec<usize> {
        let shares = Shares::default();
        let mut held: Vec<Share> = Vec::new();
        loop {
            let before = held.len();
            for caller in callers {
                if held.len() < 1_000 {
                    held.extend(shares.take(*caller, 999 - held.len()).ok());
                }
            }
            if held.len() == before {
                break;
            }
        }
        callers.iter().map(|caller| held.iter().filter(|share| share.caller == *caller).count()).collect()
    }

    #[test]
    fn whoever_takes_all_leaves_some() {
        assert_eq!(taken(&[of(1, 0)]), [762]);
        let two = taken(&[of(1, 0), of(2, 0)]);
        assert!(two.iter().all(|count| (430..=445).contains(count)), "{two:?}");
        let many: Vec<Party> = (0..20).map(|tenant| of(tenant, 0)).collect();
        let many = taken(&many);
        assert!(many.iter().all(|count| (45..=50).contains(count)), "{many:?}");
    }

    #[test]
    fn keys_of_a_tenant_leave_each_other_some_and_have_no_more_together() {
        let many: Vec<Party> = (0..20).map(|key| of(1, key)).collect();
        let of_one_tenant = taken(&many);
        assert!((780..=800).contains(&of_one_tenant.iter().sum::<usize>()), "{of_one_tenant:?}");
        assert!(of_one_tenant.iter().all(|count| (35..=40).contains(count)), "{of_one_tenant:?}");
        // Who comes when another one has taken all that it can finds some.
        let shares = Shares::default();
        let mut held = Vec::new();
        for key in [1, 2] {
            while let Ok(share) = shares.take(of(1, key), 999 - held.len()) {
                held.push(share);
            }
        }
        let second = held.iter().filter(|share| share.caller.part == 2).count();
        assert!((25..=40).contains(&second), "{second}");
    }

    #[test]
    fn the_only_place_is_anybody_s() {
        let shares = Shares::default();
        let [first, second] = [1, 2].map(|tenant| of(tenant, 0));
        let share = shares.take(first, 0).expect("it has none");
        assert!(shares.take(first, 0).is_err());
        assert!(shares.take(second, 0).is_ok());
        drop(share);
        assert!(shares.take(first, 0).is_ok());
        assert!(shares.0.lock().is_empty(), "{shares:?}");
    }
}
