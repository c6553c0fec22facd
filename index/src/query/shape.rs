//! Which of the candidates are hits, and in which order: fields, diversity, groups, pages.

use std::{cmp::Ordering, sync::Arc};

use foldhash::{HashMap, HashMapExt, HashSet};
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    deadline::Deadline,
    error::{Error, Result},
    filter::Field,
    model::{Limits, Metric, Value},
    query::{Diversity, GroupBy, Order, Query, SignalValue, execute::Candidate, target::Target},
    replica::{Reader, Rows},
    row::EntityKey,
    vector::measure_and_similarity,
};

/// Candidates that are compared with each other at most, and at least if the query does not say.
const MAX_POOL: usize = 1_000;
const MIN_POOL: usize = 100;
/// How many times as many candidates as hits, if the query does not say.
const POOL: usize = 5;
/// Candidates between two looks at the clock.
const DEADLINE_EVERY: usize = 64;

/// A candidate and what it is worth.
pub(super) struct Scored {
    pub(super) score: f64,
    pub(super) entity: EntityKey,
    pub(super) candidate: Candidate,
    pub(super) breakdown: Vec<SignalValue>,
    /// The value that its group has in common.
    pub(super) group: Option<Value>,
}

impl Query {
    /// Checks all that has to do with the shape of the answer.
    pub(super) fn check_shape(&self, limits: &crate::model::Limits) -> Result<()> {
        let last = self.last();
        if last > limits.k {
            let why = format!("and limit are {last} together; at most {} are allowed", limits.k);
            return Err(Error::invalid("offset", why));
        }
        if self.order_by.len() > limits.filter_depth {
            let why = format!("are {}; at most {} are allowed", self.order_by.len(), limits.filter_depth);
            return Err(Error::invalid("order_by", why));
        }
        if let Some(GroupBy { size, .. }) = &self.group_by
            && !(1..=limits.k).contains(size)
        {
            return Err(Error::invalid("group_by.size", format!("is {size}; it must be 1 to {}", limits.k)));
        }
        if let Some(Diversity { lambda, candidates }) = self.diversity {
            if !(0.0..=1.0).contains(&lambda) {
                return Err(Error::invalid("diversity.lambda", format!("is {lambda}; it must be in [0, 1]")));
            }
            if candidates > MAX_POOL || last > MAX_POOL {
                let why = format!("chooses from at most {MAX_POOL} candidates; ask for fewer hits");
                return Err(Error::invalid("diversity", why));
            }
            if !self.order_by.is_empty() {
                return Err(Error::invalid("diversity", "and order_by both say in which order hits come"));
            }
            let is_near = |seed: &crate::query::Seed| matches!(seed, crate::query::Seed::Nearest(_));
            if !self.seeds.iter().any(is_near) {
                return Err(Error::invalid(
                    "diversity",
                    "needs a nearest clause, whose space tells what is alike",
                ));
            }
        }
        Ok(())
    }

    /// How many hits can be paged through; groups count as well as their hits.
    pub fn most(&self, limits: &crate::model::Limits) -> usize {
        if self.diversity.is_some() { MAX_POOL.min(limits.k) } else { limits.k }
    }

    /// How many hits, or groups, there are up to the end of this page.
    pub(super) fn last(&self) -> usize {
        let before = if self.seen.is_empty() { self.offset } else { self.seen.len() };
        before.saturating_add(self.limit)
    }

    /// How many candidates a clause of seeds should bring at least, if hits are chosen from them.
    pub(super) fn pool(&self) -> usize {
        let last = self.last();
        match self.diversity {
            Some(Diversity { candidates: 0, .. }) => (POOL * last).clamp(MIN_POOL, MAX_POOL),
            Some(Diversity { candidates, .. }) => candidates.max(last),
            None if self.group_by.is_some() || !self.order_by.is_empty() => last.max(MIN_POOL),
            None => last,
        }
    }
}

/// The hits of a page, and what the next one is to leave out, if there may be one.
pub(super) struct Page {
    pub(super) hits: Vec<Scored>,
    pub(super) next: Option<Vec<u64>>,
}

/// What stands for an entity in page tokens.
fn name_of(EntityKey { collection, id, .. }: &EntityKey) -> u64 {
    xxh3_64(&[&collection.0.to_be_bytes(), id.as_bytes()].concat())
}

/// What is known of candidates beyond their scores.
pub(super) trait Traits {
    /// The value of the field that hits are ordered or grouped by.
    fn value(&mut self, entity: &EntityKey, of: FieldOf<'_>) -> Result<Option<Value>>;

    /// The vector that tells what is alike, if it has one.
    fn vector(&mut self, entity: &EntityKey) -> Result<Option<Arc<[f32]>>>;
}

/// What a field is wanted for.
#[derive(Clone, Copy)]
pub(super) enum FieldOf<'a> {
    /// The order, of which it is the n-th.
    Order(usize, &'a Field),
    Group(&'a Field),
}

/// What lies here.
struct Stored<'a, 'r> {
    reader: &'a Reader<'r>,
    rows: &'a mut Rows,
    target: Option<&'a Target>,
}

impl Traits for Stored<'_, '_> {
    fn value(&mut self, entity: &EntityKey, of: FieldOf<'_>) -> Result<Option<Value>> {
        let (FieldOf::Order(_, field) | FieldOf::Group(field)) = of;
        let Some(row) = self.rows.get(self.reader, entity)? else { return Ok(None) };
        Ok(field.value(&self.reader.fields(entity, row, &field.read_mask())?))
    }

    fn vector(&mut self, entity: &EntityKey) -> Result<Option<Arc<[f32]>>> {
        let Some(target) = self.target else { return Ok(None) };
        self.reader.vector_in(entity, target.space)
    }
}

impl Reader<'_> {
    /// The hits among candidates that are in the order of their scores.
    pub(super) fn shape(
        &self,
        query: &Query,
        targets: &[Target],
        scored: Vec<Scored>,
        rows: &mut Rows,
        deadline: Deadline,
    ) -> Result<Page> {
        let mut stored = Stored { reader: self, rows, target: targets.first() };
        let metric = targets.first().map(|target| target.metric);
        query.shape(metric, scored, &mut stored, &self.replica.limits, deadline)
    }
}

impl Query {
    /// The hits among candidates that are in the order of their scores.
    pub(super) fn shape(
        &self,
        metric: Option<Metric>,
        mut scored: Vec<Scored>,
        traits: &mut dyn Traits,
        limits: &Limits,
        deadline: Deadline,
    ) -> Result<Page> {
        if !self.order_by.is_empty() {
            scored = ordered(&self.order_by, scored, traits, deadline)?;
        }
        if let (Some(diversity), Some(metric)) = (&self.diversity, metric) {
            scored.truncate(self.pool());
            scored = diverse(diversity.lambda, self.last(), metric, scored, traits, deadline)?;
        }
        if let Some(group_by) = &self.group_by {
            // What came in a group that it has left does not come again.
            let before: HashSet<u64> = self.seen.iter().copied().collect();
            scored.retain(|scored| !before.contains(&name_of(&scored.entity)));
            let groups = grouped(group_by, scored, traits, deadline)?;
            return Ok(self.page_of(groups, limits));
        }
        let hits = scored.into_iter().map(|scored| (name_of(&scored.entity), vec![scored]));
        Ok(self.page_of(hits, limits))
    }

    /// Cuts a page out of hits or groups, each with a hash of its name.
    fn page_of(&self, all: impl IntoIterator<Item = (u64, Vec<Scored>)>, limits: &Limits) -> Page {
        let query = self;
        let before: HashSet<u64> = query.seen.iter().copied().collect();
        let mut seen = query.seen.clone();
        let mut hits = Vec::new();
        let (mut left_out, mut taken) = (if before.is_empty() { query.offset } else { 0 }, 0);
        for (name, of_name) in all.into_iter().filter(|(name, _)| !before.contains(name)) {
            if taken == query.limit {
                break;
            }
            seen.push(name);
            if query.group_by.is_some() {
                seen.extend(of_name.iter().map(|scored| name_of(&scored.entity)));
            }
            if left_out > 0 {
                left_out -= 1;
                continue;
            }
            taken += 1;
            hits.extend(of_name);
        }
        // Clauses of seeds bring no more than was asked for: whether there is more, only the next page tells.
        let may_go_on = taken == query.limit && seen.len() < query.most(limits);
        Page { hits, next: may_go_on.then_some(seen) }
    }
}

fn ordered(
    orders: &[Order],
    scored: Vec<Scored>,
    traits: &mut dyn Traits,
    deadline: Deadline,
) -> Result<Vec<Scored>> {
    let mut keyed = Vec::with_capacity(scored.len());
    for (at, scored) in scored.into_iter().enumerate() {
        if at % DEADLINE_EVERY == 0 {
            deadline.check()?;
        }
        let of =
            |(nth, order): (usize, &Order)| traits.value(&scored.entity, FieldOf::Order(nth, &order.field));
        let values = orders.iter().enumerate().map(of);
        keyed.push((values.collect::<Result<Vec<_>>>()?, scored));
    }
    keyed.sort_by(|(a, _), (b, _)| {
        let fields = a.iter().zip(b).zip(orders);
        let order = |((a, b), order): ((&Option<Value>, &Option<Value>), &Order)| match (a, b) {
            (Some(a), Some(b)) => {
                let ascending = order_of(a).cmp(&order_of(b)).then_with(|| compared(a, b));
                if order.descending { ascending.reverse() } else { ascending }
            }
            (a, b) => b.is_some().cmp(&a.is_some()),
        };
        fields.map(order).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
    });
    Ok(keyed.into_iter().map(|(_, scored)| scored).collect())
}

fn diverse(
    lambda: f64,
    wanted: usize,
    metric: Metric,
    pool: Vec<Scored>,
    traits: &mut dyn Traits,
    deadline: Deadline,
) -> Result<Vec<Scored>> {
    let mut waiting = Vec::with_capacity(pool.len());
    for scored in pool {
        deadline.check()?;
        let vector = traits.vector(&scored.entity)?;
        // How much it is like the one that is most like it of those that were chosen.
        waiting.push((scored, vector, 0.0_f64));
    }
    let mut chosen = Vec::new();
    while !waiting.is_empty() && chosen.len() < wanted {
        deadline.check()?;
        let worth = |(scored, _, alike): &(Scored, _, f64)| lambda * scored.score - (1.0 - lambda) * alike;
        let mut best = 0;
        for at in 1..waiting.len() {
            if worth(&waiting[at]) > worth(&waiting[best]) {
                best = at;
            }
        }
        let (scored, vector, _) = waiting.remove(best);
        if let Some(vector) = vector {
            for (_, other, alike) in &mut waiting {
                if let Some(other) = other.as_ref().filter(|other| other.len() == vector.len()) {
                    *alike = alike.max(measure_and_similarity(metric, &vector, other).1);
                }
            }
        }
        chosen.push(scored);
    }
    Ok(chosen)
}

fn grouped(
    GroupBy { field, size }: &GroupBy,
    scored: Vec<Scored>,
    traits: &mut dyn Traits,
    deadline: Deadline,
) -> Result<Vec<(u64, Vec<Scored>)>> {
    let mut places: HashMap<Vec<u8>, usize> = HashMap::new();
    let mut groups: Vec<(u64, Vec<Scored>)> = Vec::new();
    for (at, mut scored) in scored.into_iter().enumerate() {
        if at % DEADLINE_EVERY == 0 {
            deadline.check()?;
        }
        let Some(value) = traits.value(&scored.entity, FieldOf::Group(field))? else { continue };
        let mut key = Vec::new();
        crate::row::put_value(&mut key, &value);
        let hash = xxh3_64(&key);
        let place = *places.entry(key).or_insert_with(|| {
            groups.push((hash, Vec::new()));
            groups.len() - 1
        });
        let group = &mut groups[place].1;
        if group.len() < *size {
            scored.group = Some(value);
            group.push(scored);
        }
    }
    Ok(groups)
}

/// Values of different types come in this order.
fn order_of(value: &Value) -> u8 {
    match value {
        Value::Bool(_) => 0,
        Value::Int(_) | Value::Double(_) => 1,
        Value::Timestamp(_) => 2,
        Value::String(_) => 3,
        Value::Bytes(_) => 4,
        Value::Null | Value::List(_) | Value::Map(_) => 5,
    }
}

fn compared(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Bytes(a), Value::Bytes(b)) => a.cmp(b),
        _ => a.compare(b).unwrap_or(Ordering::Equal),
    }
}
