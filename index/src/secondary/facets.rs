//! Facets: which values a field has among the entities that match, and how many have each.
//!
//! With an index of the field the postings are read, which lie in the order of the values; otherwise rows are. Values that compare as
//! equal (3 and 3.0) are one; texts that have their first 256 bytes in common, too. Each element of a list counts for its entity, once.

use std::{cmp::Reverse, collections::BTreeSet};

use allidb_storage::Direction;
use foldhash::{HashMap, HashMapExt};
use roaring::RoaringTreemap;
use serde::{Deserialize, Serialize};

use super::{
    posting::{number_of, postings_of_index},
    term::{tag, term},
};
use crate::{
    codec::Decoder,
    deadline::Deadline,
    error::{Error, Result},
    filter::{Field, Filter},
    model::{Collection, Entity, Index, TenantId, Value},
    placement::PARTITIONS,
    replica::{Reader, Replica, check_answer, decode_row},
    row::key::{collection_prefix, decode_entity},
};

/// Different values of a field that are counted from rows at most: they are all in memory then.
const MAX_DISTINCT: usize = 1 << 20;
/// Bytes of these at most.
const MAX_BYTES: usize = 256 << 20;
/// How often a long loop looks at the clock.
const DEADLINE_EVERY: usize = 1_024;

/// The values of one field.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facet {
    /// How many different ones there are.
    pub distinct: u64,
    /// The commonest, with how many entities have each; ties in the order of the values.
    pub values: Vec<(Value, u64)>,
}

/// The commonest of values that are counted: their terms, how many have each, and what else is known of them.
struct Commonest<T> {
    limit: usize,
    kept: Vec<(Vec<u8>, u64, T)>,
}

impl<T> Commonest<T> {
    fn new(limit: usize) -> Self {
        Self { limit, kept: Vec::new() }
    }

    fn offer(&mut self, term: Vec<u8>, count: u64, of: T) {
        self.kept.push((term, count, of));
        if self.kept.len() >= 2 * self.limit.max(512) {
            self.drop_rarest();
        }
    }

    fn drop_rarest(&mut self) {
        self.kept.sort_unstable_by(|a, b| (Reverse(a.1), &a.0).cmp(&(Reverse(b.1), &b.0)));
        self.kept.truncate(self.limit);
    }

    /// The commonest first, ties in the order of terms.
    fn into_sorted(mut self) -> Vec<(Vec<u8>, u64, T)> {
        self.drop_rarest();
        self.kept
    }
}

impl Replica {
    /// The commonest values of each field among the entities that match, `limit` of each at most.
    ///
    /// # Errors
    /// If the request is wrong, a field without an index has more than a million different values, or the answer is too large.
    pub fn facets(
        &self,
        tenant: TenantId,
        collection: &str,
        fields: &[Field],
        filter: Option<&Filter>,
        limit: usize,
        deadline: Deadline,
    ) -> Result<Vec<Facet>> {
        self.check_facets(fields, filter, limit)?;
        let reader = self.reader(tenant);
        let of = reader.catalogue.get(tenant, collection)?;
        let index_of =
            |field: &Field| of.indexes.iter().find(|index| index.field == *field && index.state.is_built());
        let matching = match filter {
            Some(filter) => reader.numbers_by_index(of, filter, deadline)?,
            None => None,
        };
        let by_postings = (filter.is_none() || matching.is_some()) && self.graph.check_damage().is_ok();
        let mut facets = vec![Facet::default(); fields.len()];
        let mut by_rows = Vec::new();
        for (at, field) in fields.iter().enumerate() {
            match index_of(field).filter(|_| by_postings) {
                Some(index) => {
                    facets[at] = reader.facet_by_index(of, index, matching.as_ref(), limit, deadline)?
                }
                None => by_rows.push(at),
            }
        }
        if !by_rows.is_empty() {
            let wanted: Vec<&Field> = by_rows.iter().map(|at| &fields[*at]).collect();
            let counted = reader.facets_by_rows(of, &wanted, filter, limit, deadline)?;
            for (at, facet) in by_rows.into_iter().zip(counted) {
                facets[at] = facet;
            }
        }
        self.check_size(&facets)?;
        Ok(facets)
    }

    /// # Errors
    /// If something in a request for facets is wrong.
    pub fn check_facets(&self, fields: &[Field], filter: Option<&Filter>, limit: usize) -> Result<()> {
        if let Some(filter) = filter {
            filter.validate("filter", self.limits())?;
        }
        let most = self.limits().page_size;
        if limit > most {
            return Err(Error::invalid("limit", format!("is {limit}; at most {most} are allowed")));
        }
        if fields.is_empty() || fields.len() > self.limits().seeds {
            let why = format!("are {}; 1 to {} are allowed", fields.len(), self.limits().seeds);
            return Err(Error::invalid("fields", why));
        }
        Ok(())
    }

    fn check_size(&self, facets: &[Facet]) -> Result<()> {
        let values = facets.iter().flat_map(|facet| &facet.values);
        check_answer(values.map(|(value, _)| 16 + value.bytes()).sum(), self.limits().answer_bytes)
    }

    /// The facets of one field each, of values that were counted in several places.
    ///
    /// # Errors
    /// If there are too many different ones, or the answer is too large.
    pub fn facets_of(
        &self,
        fields: &[Field],
        counted: Vec<FacetCounts>,
        limit: usize,
        deadline: Deadline,
    ) -> Result<Vec<Facet>> {
        let mut sums: Vec<Counted> = vec![HashMap::new(); fields.len()];
        for (at, FacetCounts(values)) in counted.into_iter().enumerate() {
            deadline.check()?;
            let (Some(sums), Some(field)) = (sums.get_mut(at % fields.len()), fields.get(at % fields.len()))
            else {
                continue;
            };
            for (term, value, count) in values {
                sums.entry(term).or_insert((0, value)).0 += count;
            }
            check_distinct(field, sums.len(), 0)?;
        }
        let facets = sums.into_iter().map(|counted| facet(counted, limit, deadline));
        let facets = facets.collect::<Result<Vec<_>>>()?;
        self.check_size(&facets)?;
        Ok(facets)
    }
}

/// The values of a field and how many entities have each: their terms, one value for each, and the number.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FacetCounts(Vec<(Vec<u8>, Value, u64)>);

/// By their terms.
type Counted = HashMap<Vec<u8>, (u64, Value)>;

/// The commonest of values that were counted.
fn facet(counted: Counted, limit: usize, deadline: Deadline) -> Result<Facet> {
    let distinct = counted.len() as u64;
    let mut best = Commonest::new(limit);
    for (at, (term, (count, value))) in counted.into_iter().enumerate() {
        if at % DEADLINE_EVERY == 0 {
            deadline.check()?;
        }
        best.offer(term, count, value);
    }
    let values = best.into_sorted().into_iter().map(|(_, count, value)| (value, count));
    Ok(Facet { distinct, values: values.collect() })
}

fn check_distinct(field: &Field, distinct: usize, bytes: usize) -> Result<()> {
    if distinct > MAX_DISTINCT || bytes > MAX_BYTES {
        let why = format!(
            "`{field}` has more than {MAX_DISTINCT} different values, or they take too much memory; an index of it counts them"
        );
        return Err(Error::Exhausted(why));
    }
    Ok(())
}

/// The values of an entity's field, elements of lists among them, each once, with their terms.
fn values_of(field: &Field, entity: &Entity) -> Vec<(Vec<u8>, Value)> {
    fn add(value: &Value, seen: &mut BTreeSet<Vec<u8>>, found: &mut Vec<(Vec<u8>, Value)>) {
        match value {
            Value::List(items) => {
                items.iter().filter(|item| **item != Value::Null).for_each(|item| add(item, seen, found))
            }
            Value::Map(_) => {}
            value => {
                let term = term(value);
                if seen.insert(term.clone()) {
                    found.push((term, value.clone()));
                }
            }
        }
    }
    let (mut seen, mut found) = (BTreeSet::new(), Vec::new());
    field.any(entity, &mut |value| {
        add(value, &mut seen, &mut found);
        false
    });
    found
}

impl Reader<'_> {
    /// Reads the postings of an index, which come value by value.
    fn facet_by_index(
        &self,
        of: &Collection,
        index: &Index,
        matching: Option<&RoaringTreemap>,
        limit: usize,
        deadline: Deadline,
    ) -> Result<Facet> {
        let prefix = postings_of_index(of.id, index.id);
        let nodes = self.replica.graph.nodes.view(self.snapshot.sequence());
        let mut distinct = 0;
        // Beside each the number of one that has it.
        let mut best = Commonest::new(limit);
        let mut current: (Vec<u8>, u64, u64) = (Vec::new(), 0, 0);
        let mut close = |current: &mut (Vec<u8>, u64, u64), best: &mut Commonest<u64>| {
            let (term, count, number) = std::mem::take(current);
            let is_value = term.first().is_some_and(|kind| !matches!(*kind, tag::COMPOUND | tag::NULL_ITEM));
            if count > 0 && is_value {
                distinct += 1;
                best.offer(term, count, number);
            }
        };
        let postings = self.snapshot.prefix(self.replica.keyspaces.posting, &prefix, Direction::Forward)?;
        for (at, posting) in postings.enumerate() {
            if at % DEADLINE_EVERY == 0 {
                deadline.check()?;
            }
            let (key, _) = posting?;
            let number = number_of(&key)?;
            let term = key.get(prefix.len()..key.len() - 8).unwrap_or_default();
            if term != current.0 {
                close(&mut current, &mut best);
                current.0 = term.to_vec();
            }
            let is_live =
                nodes.is_plainly_live(number).unwrap_or_else(|| nodes.get(number).is_live(self.now));
            if is_live && matching.is_none_or(|matching| matching.contains(number)) {
                current.1 += 1;
                current.2 = number;
            }
        }
        close(&mut current, &mut best);
        let best = best.into_sorted();
        let mut values = Vec::with_capacity(best.len());
        for (at, (term, count, number)) in best.into_iter().enumerate() {
            if at % 64 == 0 {
                deadline.check()?;
            }
            values.extend(self.value_of(&index.field, &term, number)?.map(|value| (value, count)));
        }
        Ok(Facet { distinct, values })
    }

    /// The value that has this term in the field of the entity with this number.
    fn value_of(&self, field: &Field, term: &[u8], number: u64) -> Result<Option<Value>> {
        let Some((key, _)) = self.owner_of(number)? else { return Ok(None) };
        let Some(row) = self.row(&key)? else { return Ok(None) };
        let entity = self.fields(&key, &row, &field.read_mask())?;
        Ok(values_of(field, &entity).into_iter().find(|(other, _)| other == term).map(|(_, value)| value))
    }

    fn facets_by_rows(
        &self,
        of: &Collection,
        fields: &[&Field],
        filter: Option<&Filter>,
        limit: usize,
        deadline: Deadline,
    ) -> Result<Vec<Facet>> {
        let counted = self.counted(of, fields, filter, 0..PARTITIONS, deadline)?;
        counted.into_iter().map(|counted| facet(counted, limit, deadline)).collect()
    }

    /// How often the values of fields occur in some partitions.
    pub(crate) fn count_values(
        &self,
        of: &Collection,
        fields: &[&Field],
        filter: Option<&Filter>,
        partitions: impl Iterator<Item = u16>,
        deadline: Deadline,
    ) -> Result<Vec<FacetCounts>> {
        let counted = self.counted(of, fields, filter, partitions, deadline)?.into_iter();
        let values =
            |counted: Counted| counted.into_iter().map(|(term, (count, value))| (term, value, count));
        Ok(counted.map(|counted| FacetCounts(values(counted).collect())).collect())
    }

    fn counted(
        &self,
        of: &Collection,
        fields: &[&Field],
        filter: Option<&Filter>,
        partitions: impl Iterator<Item = u16>,
        deadline: Deadline,
    ) -> Result<Vec<Counted>> {
        let mut mask = filter.map_or_else(crate::model::ReadMask::nothing, Filter::read_mask);
        for field in fields {
            let of_field = field.read_mask();
            mask.attribute_names.extend(of_field.attribute_names);
            mask.entity_type |= of_field.entity_type;
            mask.metadata |= of_field.metadata;
        }
        let mut counted: Vec<Counted> = vec![HashMap::new(); fields.len()];
        let mut held = 0;
        for partition in partitions {
            let prefix = collection_prefix(partition, self.tenant, of.id);
            let rows = self.snapshot.prefix(self.replica.keyspaces.entity, &prefix, Direction::Forward)?;
            for row in rows {
                // Conditions on texts may take long for one row.
                deadline.check()?;
                let (key, bytes) = row?;
                let decoded = decode_entity(&mut Decoder::new(&key));
                let key = decoded.map_err(|error| Error::corrupt("entity", &key, error))?;
                let row = decode_row(&key, bytes)?;
                if !row.is_live(self.now) {
                    continue;
                }
                let entity = self.fields(&key, &row, &mask)?;
                if filter.is_some_and(|filter| !filter.matches(&entity, &of.text)) {
                    continue;
                }
                for (field, counted) in fields.iter().zip(&mut counted) {
                    for (term, value) in values_of(field, &entity) {
                        let entry = counted.entry(term).or_insert_with_key(|term| {
                            held += term.len() + value.bytes();
                            (0, value)
                        });
                        entry.0 += 1;
                    }
                    check_distinct(field, counted.len(), held)?;
                }
            }
        }
        Ok(counted)
    }
}
