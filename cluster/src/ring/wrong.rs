//! Ways to be wrong on purpose. A simulation that does not notice them proves nothing; only builds with the feature `wrong` can be told to.

/// What is left out, or done wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "wrong"), expect(unreachable_pub, reason = "only simulations are wrong"))]
pub enum Wrong {
    /// Replicas that lack what a read found stay as they are.
    NoReadRepair,
    /// Hints are forgotten.
    NoHints,
    /// Hints are written as of when they are delivered, as where versions are given by whoever stores them.
    HintsLoseVersions,
    /// A write is answered when the first replica has acknowledged it.
    EarlyAcknowledgement,
    /// Calls under another layout are answered.
    NoFence,
    /// A write is answered though something newer hides it.
    NoRenewal,
    /// A write on a condition is made though acceptors have promised more to another one.
    OutbidIsAccepted,
    /// Whoever takes a partition over does not take over what its acceptors have promised and accepted.
    NoAcceptors,
    /// What a layout to come says is gone by before those who are to hold it do.
    UnsyncedLayout,
    /// Deletions are forgotten though what was planned before is taken still.
    PurgeWithoutClosing,
    /// Deletions are forgotten when they are old enough.
    PurgeByTime,
}

/// An encoded mutation as if it had been made at a later time: wherever its time stands there is that one.
pub(super) fn later(mutation: &[u8], now_ms: u64) -> Vec<u8> {
    let mut late = mutation.to_vec();
    let Some(time) = mutation.get(1..9).map(<[u8]>::to_vec) else { return late };
    let now = (now_ms << 16).to_be_bytes();
    let places: Vec<usize> =
        mutation.windows(8).enumerate().filter(|(_, bytes)| **bytes == time[..]).map(|(at, _)| at).collect();
    for at in places {
        if let Some(bytes) = late.get_mut(at..at + 8) {
            bytes.copy_from_slice(&now);
        }
    }
    late
}
