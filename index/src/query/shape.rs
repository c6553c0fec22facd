//! Which of the candidates are hits, and in which order: fields, diversity, groups, pages.

use std::cmp::Ordering;

use foldhash::{HashMap, HashMapExt};

use crate::{
    deadline::Deadline,
    error::{Error, Result},
    model::Value,
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
        let last = self.offset.saturating_add(self.limit);
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

    /// How many candidates a clause of seeds should bring at least, if hits are chosen from them.
    pub(super) fn pool(&self) -> usize {
        let last = self.offset + self.limit;
        match self.diversity {
            Some(Diversity { candidates: 0, .. }) => (POOL * last).clamp(MIN_POOL, MAX_POOL),
            Some(Diversity { candidates, .. }) => candidates.max(last),
            None if self.group_by.is_some() || !self.order_by.is_empty() => last.max(MIN_POOL),
            None => last,
        }
    }
}

impl Reader<'_> {
    /// The hits among candidates that are in the order of their scores.
    pub(super) fn shape(
        &self,
        query: &Query,
        targets: &[Target],
        mut scored: Vec<Scored>,
        rows: &mut Rows,
        deadline: Deadline,
    ) -> Result<Vec<Scored>> {
        if !query.order_by.is_empty() {
            scored = self.ordered(&query.order_by, scored, rows, deadline)?;
        }
        if let (Some(diversity), Some(target)) = (&query.diversity, targets.first()) {
            scored.truncate(query.pool());
            scored = self.diverse(diversity.lambda, query.offset + query.limit, target, scored, deadline)?;
        }
        if let Some(group_by) = &query.group_by {
            return self.grouped(group_by, query, scored, rows, deadline);
        }
        scored.truncate(query.offset + query.limit);
        scored.drain(..query.offset.min(scored.len()));
        Ok(scored)
    }

    fn value(
        &self,
        entity: &EntityKey,
        field: &crate::filter::Field,
        rows: &mut Rows,
    ) -> Result<Option<Value>> {
        let Some(row) = rows.get(self, entity)? else { return Ok(None) };
        Ok(field.value(&self.fields(entity, row, &field.read_mask())?))
    }

    fn ordered(
        &self,
        orders: &[Order],
        scored: Vec<Scored>,
        rows: &mut Rows,
        deadline: Deadline,
    ) -> Result<Vec<Scored>> {
        let mut keyed = Vec::with_capacity(scored.len());
        for (at, scored) in scored.into_iter().enumerate() {
            if at % DEADLINE_EVERY == 0 {
                deadline.check()?;
            }
            let values = orders.iter().map(|order| self.value(&scored.entity, &order.field, rows));
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
        &self,
        lambda: f64,
        wanted: usize,
        target: &Target,
        pool: Vec<Scored>,
        deadline: Deadline,
    ) -> Result<Vec<Scored>> {
        let mut waiting = Vec::with_capacity(pool.len());
        for scored in pool {
            let vectors = self.vectors(&scored.entity.prefix())?;
            let vector = vectors.into_iter().find(|stored| stored.space == target.space);
            // How much it is like the one that is most like it of those that were chosen.
            waiting.push((scored, vector.map(|stored| stored.numbers), 0.0_f64));
        }
        let mut chosen = Vec::new();
        while !waiting.is_empty() && chosen.len() < wanted {
            deadline.check()?;
            let worth =
                |(scored, _, alike): &(Scored, _, f64)| lambda * scored.score - (1.0 - lambda) * alike;
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
                        *alike = alike.max(measure_and_similarity(target.metric, &vector, other).1);
                    }
                }
            }
            chosen.push(scored);
        }
        Ok(chosen)
    }

    fn grouped(
        &self,
        GroupBy { field, size }: &GroupBy,
        query: &Query,
        scored: Vec<Scored>,
        rows: &mut Rows,
        deadline: Deadline,
    ) -> Result<Vec<Scored>> {
        let mut places: HashMap<Vec<u8>, usize> = HashMap::new();
        let mut groups: Vec<Vec<Scored>> = Vec::new();
        for (at, mut scored) in scored.into_iter().enumerate() {
            if at % DEADLINE_EVERY == 0 {
                deadline.check()?;
            }
            let Some(value) = self.value(&scored.entity, field, rows)? else { continue };
            let mut key = Vec::new();
            crate::row::put_value(&mut key, &value);
            let place = *places.entry(key).or_insert_with(|| {
                groups.push(Vec::new());
                groups.len() - 1
            });
            if groups[place].len() < *size {
                scored.group = Some(value);
                groups[place].push(scored);
            }
        }
        Ok(groups.into_iter().skip(query.offset).take(query.limit).flatten().collect())
    }
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
