//! How often each mechanism of the ring was at work.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// How often what happened, since the start.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct RingCounts {
            $($(#[$doc])* pub $name: u64,)*
        }

        /// The same, being counted.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: AtomicU64,)*
        }

        impl Counters {
            pub(crate) fn counts(&self) -> RingCounts {
                RingCounts { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counts! {
    /// Calls of other nodes that were answered.
    calls_answered,
    /// Calls that failed on the way, or were not answered in time.
    calls_failed,
    /// Calls that were not made, as the node did not answer lately, or too many were under way to it.
    calls_withheld,
    /// Calls that were made again, as they failed on the way.
    calls_retried,
    /// Calls of others that were refused, as they went by another layout, another catalogue, or a clock that is wrong.
    calls_refused,
    /// Catalogues that were taken over from others.
    catalogues_adopted,
    /// Replicas that were asked for entities beside others that let wait.
    reads_hedged,
    /// Entities on which replicas differed when they were read.
    reads_disputed,
    /// Entities that replicas were told to merge, as they lacked something.
    reads_repaired,
    /// Entities on which replicas differed when they compared what they hold.
    entities_repaired,
    /// Merkle trees that were not what their rows come to.
    trees_wrong,
    /// Writes about whose conditions replicas differed.
    writes_settled,
    /// Writes that were made at another version, as something newer was there.
    writes_renewed,
    /// Writes on conditions that were made.
    writes_decided,
    /// Ballots of such writes that were begun again, as there was a newer one, or something to be made before.
    ballots_lost,
    /// Writes that too few replicas acknowledged.
    writes_unacknowledged,
    /// Nodes that were asked about much of what they hold beside others that let wait.
    questions_hedged,
    /// Queries that were asked again, as something else was told of what was found than it was.
    queries_repeated,
    /// Answers that were about a part.
    queries_partial,
}

/// One more.
pub(crate) fn count(counter: &AtomicU64) {
    add(counter, 1);
}

/// So many more.
pub(crate) fn add(counter: &AtomicU64, more: usize) {
    counter.fetch_add(more as u64, Ordering::Relaxed);
}
