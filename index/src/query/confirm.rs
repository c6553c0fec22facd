//! Whether what nodes told of an entity is what it is, now that it was read.

use std::sync::Arc;

use crate::{
    merge::EntityState,
    model::{Metric, SpaceId},
    query::{Gathering, share::row_hash},
    row::{EntityKey, VectorContent, VectorKey},
    vector::measure_and_similarity,
};

/// So much what an index says of how near a vector is may be wrong, and more than that.
const MOST_ERROR: f64 = 0.005;

impl Gathering {
    /// Whether an entity that was read is what was told of it, and what all who were asked hold; if not, whether that is because it was
    /// written since, which is forgiven from `forgives` on, in milliseconds.
    pub fn is_settled(
        &self,
        entity: &EntityKey,
        state: &EntityState,
        was_disputed: bool,
        forgives: Option<u64>,
    ) -> bool {
        let is_as_told =
            || self.known.get(entity).is_some_and(|known| known.row_hash == row_hash(&state.row));
        let is_new = || forgives.is_some_and(|from| state.highest_version().millis() >= from);
        !was_disputed && is_as_told() || is_new()
    }

    /// The same of a hit, of which its chunks and vectors were read, too: what was told of how near it is and how well it answers may have
    /// been of others.
    pub fn is_confirmed(
        &self,
        entity: &EntityKey,
        state: &EntityState,
        was_disputed: bool,
        forgives: Option<u64>,
    ) -> bool {
        if !self.is_settled(entity, state, was_disputed, forgives) {
            return false;
        }
        let Some(known) = self.known.get(entity) else { return true };
        // Of the vector that was told of: an index may miss a nearer one, and errs. Those who told were repaired in the first round.
        let similarity = |chunk: &str, (space, metric, target): &(SpaceId, Metric, Arc<[f32]>)| {
            let key = VectorKey { chunk: chunk.to_owned(), space: *space };
            let VectorContent(vector) = state.vectors.get(&key)?.value.as_ref()?;
            (vector.len() == target.len()).then(|| measure_and_similarity(*metric, target, vector).1)
        };
        let is_near = forgives.is_some()
            || known.best.as_ref().is_none_or(|told| {
                let now = self.targets.iter().filter_map(|target| similarity(&told.chunk, target));
                now.reduce(f64::max).is_some_and(|now| (now - told.similarity).abs() <= MOST_ERROR)
            });
        let answers = known.text.as_ref().is_none_or(|text| {
            let chunk = state.chunks.get(&text.chunk);
            text.chunk.is_empty() || chunk.is_some_and(|chunk| chunk.value.is_some())
        });
        let is_new = || forgives.is_some_and(|from| state.highest_version().millis() >= from);
        is_near && answers || is_new()
    }
}
