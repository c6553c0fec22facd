//! Writes that met another topology: they are made again under the new one.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use allidb_index::{Error, Mutation, Result, model::Written};

use super::{
    Ring,
    write::{How, Writing, is_unavailable, make_in_waves, set},
};
use crate::coordinator::WriteOptions;

impl Ring {
    /// Those that went by what the ring goes by no more are made again, as what they were made as.
    pub(super) async fn make_as_of_now(
        self,
        mutations: Vec<Mutation>,
        options: WriteOptions,
        how: How,
    ) -> Vec<Result<Written>> {
        let writing = Writing::begin(&self.0);
        let (mut results, mut made_as): (Vec<_>, Vec<_>) =
            make_in_waves(writing, mutations, options, how).await.into_iter().unzip();
        let mut last = self;
        while last.is_outdated() && results.iter().any(is_unavailable) && !options.deadline.has_passed() {
            last = last.now();
            let places = to_be_made_again(&made_as, &results);
            if places.is_empty() {
                break;
            }
            let again = places.iter().filter_map(|place| made_as.get(*place));
            let again = again.map(|mutation| Mutation::clone(mutation)).collect();
            let made = make_in_waves(Writing::begin(&last.0), again, options, how).await;
            for (place, (result, mutation)) in places.into_iter().zip(made) {
                // It may have been made before what hides it now.
                if !matches!(result, Err(Error::NotFound { .. } | Error::Merged { .. })) {
                    set(&mut results, place, result);
                }
                if let Some(slot) = made_as.get_mut(place) {
                    *slot = mutation;
                }
            }
        }
        results
    }
}

/// Writes that could not be made, with those that come after them since they are about the same; unless one of these was made: what is made again
/// would come after it.
fn to_be_made_again(mutations: &[Arc<Mutation>], made: &[Result<Written>]) -> Vec<usize> {
    let (mut seen, mut places) = (BTreeSet::new(), BTreeSet::new());
    for (first, _) in made.iter().enumerate().filter(|(_, made)| is_unavailable(made)) {
        if seen.contains(&first) {
            continue;
        }
        let (mut about, mut together, mut may_be) = (HashSet::new(), Vec::new(), true);
        for (place, (mutation, made)) in mutations.iter().zip(made).enumerate().skip(first) {
            if place == first || mutation.entities().any(|entity| about.contains(entity)) {
                about.extend(mutation.entities());
                together.push(place);
                may_be &= made.is_err();
            }
        }
        seen.extend(together.iter().copied());
        if may_be {
            places.extend(together);
        }
    }
    places.into_iter().collect()
}
