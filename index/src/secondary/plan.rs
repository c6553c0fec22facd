//! Which postings a filter is answered from, by how many there are.
//!
//! Of conditions that all must hold, the one that fewest meet is looked up, and others as long as that takes less than testing the rows
//! that they would rule out. Of conditions of which one must hold, all are looked up, or none. What is not looked up is left to whoever
//! has the rows.

use std::ops::Bound;

use allidb_storage::Direction;
use roaring::RoaringTreemap;

use super::{
    lookup::{Lookup, lookup},
    posting::{number_of, postings_of_index},
};
use crate::{
    deadline::Deadline,
    error::Result,
    filter::{Field, Filter, Operator, Sought},
    model::{Collection, CollectionId, IndexId, Value},
    placement::PARTITIONS,
    query::TextMatch,
    replica::Reader,
    row::{EntityKey, key::collection_prefix},
    text::{CHUNK_FIELD, Having},
};

/// What it takes to test the row of an entity whose number is known, and to test one in the course of a scan, in postings read.
const TEST: u64 = 30;
const SCAN: u64 = 5;
/// What it takes to begin to read the rows of a partition, in postings read.
const BEGIN: u64 = 10;
/// So many postings of texts take what one of another index does: they are read by blocks.
const TEXT_POSTINGS: u64 = 16;
/// So many postings of a condition are counted one by one.
const PROBED: usize = 200;
/// Partitions from which the size of a collection is told.
const SAMPLED: u16 = 8;
/// How often a long loop looks at the clock.
const DEADLINE_EVERY: usize = 1_024;

/// How a filter is answered from postings, at least in part.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    pub(crate) access: Access,
    /// About how many entities it names.
    pub(crate) estimate: u64,
}

/// Where the entities come from that may meet a filter.
#[derive(Clone, Debug)]
pub(crate) enum Access {
    /// Those with these ids.
    Ids(Vec<String>),
    /// Those with terms of an index.
    Postings {
        /// Which.
        index: IndexId,
        /// Its field.
        field: String,
        /// Which terms.
        lookup: Terms,
    },
    /// Those whose texts have words.
    Texts {
        /// The attribute.
        field: String,
        /// Which words.
        having: Having,
        /// How many postings there are of the words.
        postings: u64,
        /// Whether whoever has the words meets the condition.
        is_exact: bool,
    },
    /// Those that all of these name, fewest first; what is left out is tested by rows.
    All {
        /// What is looked up.
        of: Vec<Planned>,
        /// Whether these are all conditions that there are.
        is_exact: bool,
    },
    /// Those that any of these names.
    Any(Vec<Planned>),
}

/// Ranges of terms: how postings are looked up, which nobody else needs to know.
#[derive(Clone, Debug)]
pub(crate) struct Terms(Lookup);

impl Planned {
    /// Whether all that are named meet the filter.
    pub(crate) fn is_exact(&self) -> bool {
        match &self.access {
            Access::Ids(_) => true,
            Access::Postings { lookup, .. } => lookup.0.is_exact,
            Access::Texts { is_exact, .. } => *is_exact,
            Access::All { of, is_exact } => *is_exact && of.iter().all(Self::is_exact),
            Access::Any(of) => of.iter().all(Self::is_exact),
        }
    }

    /// What it takes to test `rows` rows one after the other, in postings read. They lie in all partitions.
    pub(crate) fn cost_of_scan(rows: u64) -> u64 {
        u64::from(PARTITIONS) * BEGIN + SCAN * rows
    }

    /// What reading the postings takes.
    pub(crate) fn cost_of_postings(&self) -> u64 {
        match &self.access {
            Access::Ids(ids) => ids.len() as u64,
            Access::Postings { .. } => self.estimate,
            Access::Texts { postings, .. } => postings / TEXT_POSTINGS,
            Access::All { of, .. } | Access::Any(of) => of.iter().map(Self::cost_of_postings).sum(),
        }
    }

    /// What it takes to read the postings and then the row of each entity; in postings read.
    pub(crate) fn cost(&self) -> u64 {
        self.cost_of_postings() + TEST * self.estimate
    }

    /// What it takes without the rows, if none needs to be read.
    pub(crate) fn cost_of_numbers(&self) -> u64 {
        if self.is_exact() { self.cost_of_postings() } else { self.cost() }
    }
}

impl Reader<'_> {
    /// As [`plan`](Self::plan), if finding out by it what matches takes less than reading all rows, and less than `most` postings.
    pub(crate) fn plan_below_scan(
        &self,
        collection: &Collection,
        filter: &Filter,
        most: u64,
    ) -> Result<Option<Planned>> {
        let Some(planned) = self.plan(collection, filter)? else { return Ok(None) };
        let cost = match planned.is_exact() && !self.may_have_chunks(collection.id)? {
            true => planned.cost_of_postings(),
            false => planned.cost(),
        };
        let by_rows = Planned::cost_of_scan(self.about_how_many(collection.id)?);
        Ok((cost < by_rows.min(most)).then_some(planned))
    }

    /// How the entities of a collection that meet a filter are best named from postings; `None` if they cannot be.
    pub(crate) fn plan(&self, collection: &Collection, filter: &Filter) -> Result<Option<Planned>> {
        match filter {
            Filter::And(filters) => self.plan_all(collection, filters),
            Filter::Or(filters) => {
                let mut of = Vec::with_capacity(filters.len());
                for filter in filters {
                    let Some(planned) = self.plan(collection, filter)? else { return Ok(None) };
                    of.push(planned);
                }
                let estimate = of.iter().map(|planned| planned.estimate).sum();
                Ok(Some(Planned { access: Access::Any(of), estimate }))
            }
            Filter::Not(_) => Ok(None),
            condition => self.plan_condition(collection, condition),
        }
    }

    fn plan_all(&self, collection: &Collection, filters: &[Filter]) -> Result<Option<Planned>> {
        let mut known = Vec::with_capacity(filters.len());
        for filter in filters {
            known.extend(self.plan(collection, filter)?);
        }
        known.sort_by_key(|planned| planned.estimate);
        let total = self.about_how_many(collection.id)?.max(1);
        let mut of: Vec<Planned> = Vec::new();
        let mut estimate = total;
        for planned in known {
            // Taken for independent of each other.
            let left =
                (u128::from(estimate) * u128::from(planned.estimate.min(total)) / u128::from(total)) as u64;
            if of.is_empty() || planned.cost_of_postings() < TEST * (estimate - left) {
                estimate = left.max(1).min(planned.estimate);
                of.push(planned);
            }
        }
        let is_exact = of.len() == filters.len();
        Ok((!of.is_empty()).then_some(Planned { access: Access::All { of, is_exact }, estimate }))
    }

    fn plan_condition(&self, collection: &Collection, condition: &Filter) -> Result<Option<Planned>> {
        if let Some(ids) = ids_of(condition) {
            let estimate = ids.len() as u64;
            return Ok(Some(Planned { access: Access::Ids(ids), estimate }));
        }
        if let Filter::Words(Field::Attribute(path), operator, text) = condition {
            return self.plan_words(collection, path, *operator, text);
        }
        let Some((field, lookup)) = lookup(condition) else { return Ok(None) };
        let usable = |index: &&crate::model::Index| index.field == *field && index.state.is_built();
        let Some(index) = collection.indexes.iter().find(usable) else { return Ok(None) };
        let mut estimate = 0;
        for range in &lookup.ranges {
            estimate += self.estimate_postings(collection.id, index.id, range)?;
        }
        let (index, field) = (index.id, index.field.to_string());
        let access = Access::Postings { index, field, lookup: Terms(lookup) };
        Ok(Some(Planned { access, estimate }))
    }

    /// Words are looked up in the index of texts, if the attribute is declared as text.
    fn plan_words(
        &self,
        collection: &Collection,
        path: &[String],
        operator: TextMatch,
        sought: &Sought,
    ) -> Result<Option<Planned>> {
        let declared = (CHUNK_FIELD + 1..).zip(&collection.text.fields);
        let mut declared = declared.filter(|(_, field)| *path == [field.attribute.as_str()]);
        let Some((field, declared)) = declared.next() else { return Ok(None) };
        let words = sought.words(declared.language).into_owned();
        let (view, sequence) = (self.replica.texts.view(), self.snapshot.sequence());
        // Rows tell just as well while segments change.
        if words.is_empty() || !view.fits(sequence) {
            return Ok(None);
        }
        // Of a list, one value must have all of them; the index tells whether all values together do.
        let is_exact = operator == TextMatch::Any || words.len() == 1;
        let all = operator != TextMatch::Any;
        let having = Having { view, sequence, collection: collection.id, field, words, all };
        let counts = having.counts()?;
        let postings = counts.iter().sum();
        let estimate = if all { counts.into_iter().min().unwrap_or(0) } else { postings };
        let field = declared.attribute.clone();
        Ok(Some(Planned { access: Access::Texts { field, having, postings, is_exact }, estimate }))
    }

    /// How many postings a range has: few are counted, of many the tables tell.
    fn estimate_postings(
        &self,
        collection: CollectionId,
        index: IndexId,
        (from, to): &(Vec<u8>, Vec<u8>),
    ) -> Result<u64> {
        let keyspace = self.replica.keyspaces.posting;
        let prefix = postings_of_index(collection, index);
        let (from, to) = ([&prefix, &from[..]].concat(), [&prefix, &to[..]].concat());
        let bounds = (Bound::Included(&from[..]), Bound::Excluded(&to[..]));
        let mut counted = 0;
        for posting in self.snapshot.scan(keyspace, bounds.0, bounds.1, Direction::Forward)?.take(PROBED) {
            posting?;
            counted += 1;
        }
        if counted < PROBED {
            return Ok(counted as u64);
        }
        Ok(self.snapshot.estimate(keyspace, &from, Some(&to))?.max(counted as u64))
    }

    /// About how many entities a collection has. Ids are spread evenly over the partitions: some tell of all.
    pub(crate) fn about_how_many(&self, collection: CollectionId) -> Result<u64> {
        let mut sampled = 0;
        for partition in 0..SAMPLED {
            let from = collection_prefix(partition * (PARTITIONS / SAMPLED), self.tenant, collection);
            let behind = CollectionId(collection.0 + 1);
            let to = collection_prefix(partition * (PARTITIONS / SAMPLED), self.tenant, behind);
            sampled += self.snapshot.estimate(self.replica.keyspaces.entity, &from, Some(&to))?;
        }
        Ok(sampled * u64::from(PARTITIONS / SAMPLED))
    }

    /// The numbers of the entities that a plan names, and whether all of them meet the filter.
    pub(crate) fn named(
        &self,
        collection: CollectionId,
        planned: &Planned,
        deadline: Deadline,
    ) -> Result<(RoaringTreemap, bool)> {
        deadline.check()?;
        let mut numbers = RoaringTreemap::new();
        match &planned.access {
            Access::Ids(ids) => {
                for id in ids {
                    numbers.extend(self.number(&EntityKey::new(self.tenant, collection, id))?);
                }
                Ok((numbers, true))
            }
            Access::Postings { index, lookup: Terms(lookup), .. } => {
                for range in &lookup.ranges {
                    self.read_postings(collection, *index, range, deadline, &mut numbers)?;
                }
                Ok((numbers, lookup.is_exact))
            }
            Access::Texts { having, is_exact, .. } => {
                let (numbers, have_all) = having.numbers(deadline)?;
                Ok((numbers, *is_exact && have_all))
            }
            Access::All { of, is_exact } => {
                let mut are_exact = *is_exact;
                for (at, planned) in of.iter().enumerate() {
                    // What was estimated may have been wrong.
                    if at > 0 && planned.cost_of_postings() > TEST * numbers.len() {
                        are_exact = false;
                        break;
                    }
                    let (named, is_exact) = self.named(collection, planned, deadline)?;
                    are_exact &= is_exact;
                    if at == 0 { numbers = named } else { numbers &= named }
                }
                Ok((numbers, are_exact))
            }
            Access::Any(of) => {
                let mut are_exact = true;
                for planned in of {
                    let (named, is_exact) = self.named(collection, planned, deadline)?;
                    are_exact &= is_exact;
                    numbers |= named;
                }
                Ok((numbers, are_exact))
            }
        }
    }

    fn read_postings(
        &self,
        collection: CollectionId,
        index: IndexId,
        (from, to): &(Vec<u8>, Vec<u8>),
        deadline: Deadline,
        numbers: &mut RoaringTreemap,
    ) -> Result<()> {
        let prefix = postings_of_index(collection, index);
        let (from, to) = ([&prefix, &from[..]].concat(), [&prefix, &to[..]].concat());
        let bounds = (Bound::Included(&from[..]), Bound::Excluded(&to[..]));
        let postings =
            self.snapshot.scan(self.replica.keyspaces.posting, bounds.0, bounds.1, Direction::Forward)?;
        for (at, posting) in postings.enumerate() {
            if at % DEADLINE_EVERY == 0 {
                deadline.check()?;
            }
            numbers.insert(number_of(&posting?.0)?);
        }
        Ok(())
    }
}

/// The ids that a condition asks for by name.
fn ids_of(condition: &Filter) -> Option<Vec<String>> {
    let id = |value: &Value| match value {
        Value::String(id) => Some(id.clone()),
        _ => None,
    };
    let mut ids: Vec<String> = match condition {
        Filter::Compare(Field::Id, Operator::Equal, value) => vec![id(value)?],
        Filter::In(Field::Id, values) => values.iter().map(id).collect::<Option<_>>()?,
        _ => return None,
    };
    ids.sort();
    ids.dedup();
    Some(ids)
}

/// How a plan is told to people.
impl std::fmt::Display for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let list = |f: &mut std::fmt::Formatter<'_>, of: &[Planned], between: &str| {
            f.write_str("(")?;
            for (at, planned) in of.iter().enumerate() {
                if at > 0 {
                    f.write_str(between)?;
                }
                write!(f, "{} ~{}", planned.access, planned.estimate)?;
            }
            f.write_str(")")
        };
        match self {
            Self::Ids(ids) => write!(f, "{} ids", ids.len()),
            Self::Postings { field, .. } => write!(f, "index {field}"),
            Self::Texts { field, .. } => write!(f, "words in {field}"),
            Self::All { of, .. } => list(f, of, " and "),
            Self::Any(of) => list(f, of, " or "),
        }
    }
}
