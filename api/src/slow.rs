//! The log of slow queries: what they asked for, and what answering them came to. Nothing of it is a value that somebody stored or sent.

use std::{
    fmt::Write,
    sync::Arc,
    time::{Duration, Instant},
};

use allidb_cluster::TraceId;
use allidb_index::{
    model::{MAX_COLLECTION_NAME_BYTES, TenantId},
    query::PlanStep,
};
use metrics::counter;
use parking_lot::Mutex;
use tonic::Status;

use crate::{
    metrics::SLOW_QUERIES,
    v1::{self, filter::Kind, seed},
};

/// Where slow queries are logged.
pub(crate) const SLOW: &str = "allidb::slow";

/// Lines in a second. Of more only the number is told.
const LINES: u32 = 10;

/// Takes note of queries that take long. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct SlowLog(Option<Arc<Terms>>);

#[derive(Debug)]
struct Terms {
    /// What is slow.
    after: Duration,
    room: Mutex<Room>,
}

/// How many lines this second has had.
#[derive(Debug)]
struct Room {
    since: Instant,
    lines: u32,
    withheld: u64,
}

impl Room {
    /// Takes a line; gives how many were withheld since the last one. `None` if there is no room.
    fn take(&mut self, now: Instant) -> Option<u64> {
        if now.duration_since(self.since) >= Duration::from_secs(1) {
            (self.since, self.lines) = (now, 0);
        }
        if self.lines == LINES {
            self.withheld += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.withheld))
    }
}

/// Whose query it is, and which trace it belongs to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker {
    pub(crate) tenant: TenantId,
    pub(crate) trace: Option<TraceId>,
}

/// How much is asked for, by names of the contract. What is 0 is not told.
pub(crate) type Shape = Vec<(&'static str, u64)>;

impl SlowLog {
    /// Of queries that take so long or longer; of none if that is 0.
    pub(crate) fn new(after: Duration) -> Self {
        let room = || Mutex::new(Room { since: Instant::now(), lines: 0, withheld: 0 });
        Self((!after.is_zero()).then(|| Arc::new(Terms { after, room: room() })))
    }

    pub(crate) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Watches a query until this is dropped: with its answer, or as its caller goes away.
    pub(crate) fn watch(
        &self,
        method: &'static str,
        asker: Asker,
        collection: &str,
        shape: impl FnOnce() -> Shape,
    ) -> Watch {
        Watch(self.0.as_ref().map(|terms| Watched {
            terms: Arc::clone(terms),
            begun: Instant::now(),
            method,
            asker,
            // As far as one can be named so: it is what the caller sent, whatever that is.
            collection: collection[..collection.floor_char_boundary(MAX_COLLECTION_NAME_BYTES)].to_owned(),
            shape: shape(),
            plan: String::new(),
            outcome: "given up",
        }))
    }
}

/// A query under way, if queries are watched.
pub(crate) struct Watch(Option<Watched>);

struct Watched {
    terms: Arc<Terms>,
    begun: Instant,
    method: &'static str,
    asker: Asker,
    collection: String,
    shape: Shape,
    plan: String,
    outcome: &'static str,
}

impl Watch {
    /// What the query comes to, of which note is taken. If its caller goes away, this does not return.
    pub(crate) async fn over<T>(
        &mut self,
        query: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        let result = query.await;
        if let Some(watched) = &mut self.0 {
            watched.outcome = if result.is_ok() { "answered" } else { "failed" };
        }
        result
    }

    /// Takes note of what was done, if it took long.
    pub(crate) fn did(&mut self, steps: &[PlanStep]) {
        if let Some(watched) = &mut self.0
            && watched.is_slow()
        {
            watched.plan = plan(steps);
        }
    }
}

impl Watched {
    fn is_slow(&self) -> bool {
        self.begun.elapsed() >= self.terms.after
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if !self.is_slow() {
            return;
        }
        let Self { begun, method, outcome, asker, .. } = *self;
        counter!(SLOW_QUERIES, "method" => method).increment(1);
        let Some(withheld) = self.terms.room.lock().take(Instant::now()) else { return };
        tracing::warn!(
            target: SLOW,
            method,
            took = ?begun.elapsed(),
            tenant = asker.tenant.0,
            collection = self.collection,
            trace_id = asker.trace.map(tracing::field::display),
            asked = asked(&self.shape),
            plan = (!self.plan.is_empty()).then_some(&*self.plan),
            outcome,
            withheld = (withheld > 0).then_some(withheld),
            "slow query"
        );
    }
}

fn asked(shape: &Shape) -> String {
    let mut text = String::new();
    for (name, count) in shape.iter().filter(|(_, count)| *count > 0) {
        let between = if text.is_empty() { "" } else { ", " };
        // Writing to a string cannot fail.
        write!(text, "{between}{name} {count}").ok();
    }
    text
}

/// The steps in their order, those of queries within others behind as many `>`.
fn plan(steps: &[PlanStep]) -> String {
    let mut text = String::new();
    for PlanStep { depth, what, how, estimate, actual, took } in steps {
        let (between, within) = (if text.is_empty() { "" } else { "; " }, ">".repeat(*depth));
        write!(text, "{between}{within}{what} ({how}): {actual}").ok();
        if let Some(estimate) = estimate {
            write!(text, " of about {estimate}").ok();
        }
        write!(text, " in {took:?}").ok();
    }
    text
}

/// How much a query asks for.
pub(crate) fn of_query(query: &v1::QueryRequest) -> Shape {
    let clauses = |is: fn(&seed::Kind) -> bool| {
        query.seeds.iter().filter(|seed| seed.kind.as_ref().is_some_and(is)).count() as u64
    };
    let nearest = query.seeds.iter().map(|seed| match &seed.kind {
        Some(seed::Kind::Nearest(nearest)) => nearest.k,
        Some(seed::Kind::Text(text)) => text.k,
        _ => 0,
    });
    vec![
        ("nearest", clauses(|kind| matches!(kind, seed::Kind::Nearest(_)))),
        ("text", clauses(|kind| matches!(kind, seed::Kind::Text(_)))),
        ("ids", clauses(|kind| matches!(kind, seed::Kind::Ids(_)))),
        ("filter seeds", clauses(|kind| matches!(kind, seed::Kind::Filter(_)))),
        ("k", nearest.max().unwrap_or(0).into()),
        ("hops", query.expand.as_ref().map_or(0, |expand| expand.hops).into()),
        ("limit", query.limit.into()),
        ("offset", query.offset.into()),
        ("conditions", conditions(query.filter.as_ref())),
        ("order by", query.order_by.len() as u64),
        ("within", query.within.is_some().into()),
    ]
}

/// How many conditions a filter has.
pub(crate) fn conditions(filter: Option<&v1::Filter>) -> u64 {
    let (mut left, mut count) = (Vec::from_iter(filter), 0);
    while let Some(filter) = left.pop() {
        match &filter.kind {
            Some(Kind::And(list) | Kind::Or(list)) => left.extend(&list.filters),
            Some(Kind::Not(filter)) => left.push(filter),
            Some(_) => count += 1,
            None => {}
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_has_room_for_so_many_lines_and_the_next_tells_of_the_rest() {
        let begun = Instant::now();
        let mut room = Room { since: begun, lines: 0, withheld: 0 };
        assert!((0..LINES).all(|_| room.take(begun) == Some(0)));
        assert_eq!([room.take(begun), room.take(begun)], [None, None]);
        let later = begun + Duration::from_secs(1);
        assert_eq!([room.take(later), room.take(later)], [Some(2), Some(0)]);
    }

    #[test]
    fn shapes_and_plans_are_told_in_words() {
        let condition = |field: &str| v1::Filter { kind: Some(Kind::Exists(field.to_owned())) };
        let list = v1::FilterList { filters: vec![condition("a"), condition("b")] };
        let not = v1::Filter { kind: Some(Kind::Not(Box::new(v1::Filter { kind: Some(Kind::Or(list)) }))) };
        let nearest = v1::Nearest { k: 7, ..Default::default() };
        let query = v1::QueryRequest {
            seeds: vec![v1::Seed { kind: Some(seed::Kind::Nearest(nearest)) }],
            filter: Some(not),
            limit: 5,
            ..Default::default()
        };
        assert_eq!(asked(&of_query(&query)), "nearest 1, k 7, limit 5, conditions 2");
        let step = |depth, what, estimate| PlanStep {
            depth,
            what,
            how: "index".to_owned(),
            estimate,
            actual: 3,
            took: Duration::from_millis(2),
        };
        let steps = [step(1, "ids", None), step(0, "nearest", Some(10))];
        assert_eq!(plan(&steps), ">ids (index): 3 in 2ms; nearest (index): 3 of about 10 in 2ms");
    }

    #[tokio::test]
    async fn only_a_caller_that_goes_away_gives_up() {
        let log = SlowLog::new(Duration::from_secs(3_600));
        let asker = Asker { tenant: TenantId(1), trace: None };
        let mut watch = log.watch("Query", asker, "things", Shape::new);
        let outcome = |watch: &Watch| watch.0.as_ref().expect("it is on").outcome;
        assert_eq!(outcome(&watch), "given up");
        let failed = watch.over(std::future::ready(Err::<(), _>(Status::internal("no")))).await;
        assert!(failed.is_err());
        assert_eq!(outcome(&watch), "failed");
        watch.over(std::future::ready(Ok(()))).await.expect("it is answered");
        assert_eq!(outcome(&watch), "answered");
    }

    #[test]
    fn only_what_is_slow_is_told_and_nothing_if_that_is_not_asked_for() {
        let asker = Asker { tenant: TenantId(1), trace: None };
        let off = SlowLog::new(Duration::ZERO);
        assert!(!off.is_on());
        assert!(off.watch("Query", asker, "things", Shape::new).0.is_none());
        let long =
            SlowLog::new(Duration::from_secs(3_600)).watch("Query", asker, &"é".repeat(100), Shape::new);
        assert_eq!(long.0.as_ref().expect("it is on").collection, "é".repeat(MAX_COLLECTION_NAME_BYTES / 2));
        let lines = |after: Duration| {
            let log = SlowLog::new(after);
            drop(log.watch("Query", asker, "things", Shape::new));
            log.0.map(|terms| terms.room.lock().lines)
        };
        assert_eq!(lines(Duration::from_nanos(1)), Some(1));
        assert_eq!(lines(Duration::from_secs(3_600)), Some(0));
    }
}
