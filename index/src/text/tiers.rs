//! Which segments of texts become one: segments of about the same size, so that each document is written again few times
//! (size-tiered, as in Bigtable and Lucene).

use std::sync::Arc;

use crate::text::index::Sealed;

/// Segments of one tier that are merged.
const WIDTH: usize = 4;
/// Documents of the smallest tier.
const SMALLEST: usize = 16_000;

/// The segments to be merged now; none if all is well.
pub(super) fn choose(sealed: &[Arc<Sealed>]) -> Vec<Arc<Sealed>> {
    let wasteful: Vec<_> = sealed.iter().filter(|sealed| is_wasteful(sealed)).cloned().collect();
    if !wasteful.is_empty() {
        return wasteful;
    }
    let tier = |living: usize| (living.max(SMALLEST) / SMALLEST).ilog(WIDTH);
    let mut tiers: Vec<Vec<Arc<Sealed>>> = Vec::new();
    for sealed in sealed {
        let tier = tier(sealed.living()) as usize;
        tiers.resize(tiers.len().max(tier + 1), Vec::new());
        tiers[tier].push(Arc::clone(sealed));
    }
    tiers.into_iter().find(|tier| tier.len() >= WIDTH).unwrap_or_default()
}

/// Whether so much of it is dead that searches pay for it.
fn is_wasteful(sealed: &Sealed) -> bool {
    let dead = sealed.deaths.count();
    dead > 1_000 && dead * 5 > sealed.segment.len() as usize || dead > 0 && sealed.living() == 0
}
