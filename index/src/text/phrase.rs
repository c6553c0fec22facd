//! Words that stand one after the other.

use std::collections::BTreeSet;

use foldhash::{HashMap, HashMapExt};

use crate::{
    error::Result,
    model::TextKind,
    text::{
        document::as_written,
        search::{Asked, Searched, TextSearch},
        source::Source,
    },
};

/// Documents between two looks at the clock.
const DEADLINE_EVERY: usize = 1_024;

/// The documents of a source in which the words stand one after the other.
pub(super) fn find(
    search: &TextSearch<'_, '_>,
    source: &Source<'_>,
    fields: &[Searched],
    asked: &[Asked],
) -> Result<BTreeSet<u32>> {
    let mut found = BTreeSet::new();
    for (at, field) in fields.iter().enumerate() {
        // Where the phrase may begin, by document.
        let mut begins: Option<HashMap<u32, BTreeSet<i64>>> = None;
        for (nth, word) in asked.iter().enumerate() {
            let mut of_word: HashMap<u32, BTreeSet<i64>> = HashMap::new();
            // The places of stems in names do not tell where these stand.
            let written = (field.kind == TextKind::Names).then(|| as_written(&word.written));
            let stems = word.of_field[at].iter().filter(|_| written.is_none()).map(|(stem, _)| stem);
            for variant in stems.chain(&written) {
                source.places(
                    field.field,
                    search.collection,
                    variant,
                    (search.sequence, search.deadline),
                    &mut |document, places| {
                        if begins.as_ref().is_none_or(|begins| begins.contains_key(&document)) {
                            let starts = places.iter().map(|place| i64::from(*place) - nth as i64);
                            of_word.entry(document).or_default().extend(starts);
                        }
                    },
                )?;
            }
            let slop = i64::from(search.query.slop);
            begins = Some(match begins {
                None => of_word,
                Some(begins) => {
                    let mut left: HashMap<u32, BTreeSet<i64>> = HashMap::new();
                    for (at, (document, starts)) in begins.into_iter().enumerate() {
                        if at % DEADLINE_EVERY == 0 {
                            search.deadline.check()?;
                        }
                        let Some(of_word) = of_word.get(&document) else { continue };
                        let fits = |start: &i64| of_word.range(start - slop..=start + slop).next().is_some();
                        let starts: BTreeSet<i64> = starts.into_iter().filter(fits).collect();
                        if !starts.is_empty() {
                            left.insert(document, starts);
                        }
                    }
                    left
                }
            });
        }
        found.extend(begins.into_iter().flat_map(HashMap::into_keys));
    }
    Ok(found)
}
