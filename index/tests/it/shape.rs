//! What becomes of candidates: nested queries, order, groups, pages, diversity, ways to score.

use allidb_index::{
    filter::Field,
    model::{Chunk, Direction, Entity, Metric, Value},
    query::{Diversity, ExpandSpec, GroupBy, Nearest, Order, Query, ScoreMode, Seed, TextQuery, Weights},
};

use crate::fixture::{Fixture, at, entity, ids};

/// Twenty entities on a line, the n-th at n, of five kinds; the even ones are linked from `hub`.
fn fixture() -> Fixture {
    let fixture = Fixture::with_space(2, Metric::L2);
    fixture.put(entity("hub", &[]));
    for n in 0..20_i64 {
        let mut one: Entity = entity(&format!("e{n:02}"), &[n as f32, 0.0]);
        one.attributes.insert("kind".into(), Value::String(format!("k{}", n % 5)));
        if n != 7 {
            one.attributes.insert("year".into(), Value::Int(2_000 - n * n % 7));
        }
        one.importance = Some(n as f64 / 20.0);
        fixture.put(one);
        if n % 2 == 0 {
            fixture.link("hub", "has", &format!("e{n:02}"), 1.0);
        }
    }
    fixture
}

fn near(x: f32) -> Query {
    Query::new("c", vec![Seed::Nearest(Nearest::to_vector("v", vec![x, 0.0]))])
}

fn field(name: &str) -> Field {
    Field::parse(name).unwrap()
}

#[test]
fn a_nested_query_bounds_what_is_found() {
    let fixture = fixture();
    let spec = ExpandSpec { direction: Direction::Out, ..ExpandSpec::default() };
    let traversed =
        Query { expand: Some(spec), limit: 100, ..Query::new("c", vec![Seed::Ids(vec![at("hub")])]) };
    let query = Query { within: Some(Box::new(traversed.clone())), limit: 4, ..near(9.0) };
    for is_sealed in [false, true] {
        if is_sealed {
            fixture.replica.seal_vectors();
            fixture.replica.seal_graph().unwrap();
        }
        assert_eq!(ids(&fixture.query(&query)), ["e08", "e10", "e06", "e12"], "the nearest of the traversed");
    }
    let narrower = Query { within: Some(Box::new(traversed)), limit: 3, ..near(0.0) };
    let query = Query { within: Some(Box::new(narrower)), limit: 10, ..near(19.0) };
    assert_eq!(ids(&fixture.query(&query)), ["e04", "e02", "e00"]);
    let mut deep = near(0.0);
    for _ in 0..4 {
        deep = Query { within: Some(Box::new(deep)), ..near(0.0) };
    }
    let error = fixture.replica.query(crate::fixture::TENANT, &deep, crate::fixture::deadline());
    assert!(error.unwrap_err().to_string().starts_with("within is nested"));
    let wrong = Query { within: Some(Box::new(Query { limit: 0, ..near(0.0) })), ..near(0.0) };
    let error = fixture.replica.query(crate::fixture::TENANT, &wrong, crate::fixture::deadline());
    assert!(error.unwrap_err().to_string().starts_with("within.limit is 0"));
}

#[test]
fn pages_put_together_are_the_whole() {
    let fixture = fixture();
    let whole = ids(&fixture.query(&Query { limit: 20, ..near(3.2) }));
    let page = |offset| ids(&fixture.query(&Query { limit: 6, offset, ..near(3.2) }));
    let pages: Vec<String> = [0, 6, 12, 18, 24].into_iter().flat_map(page).collect();
    assert_eq!(pages, whole);
}

#[test]
fn pages_of_equals_are_the_whole_too() {
    let fixture = Fixture::new();
    for n in [5, 3, 9, 1, 7, 0, 8, 2, 6, 4] {
        let chunk = Chunk { text: "alike".into(), ..Chunk::default() };
        let chunks = std::collections::BTreeMap::from([("c".to_owned(), chunk)]);
        fixture.put(Entity { chunks, ..entity(&format!("e{n}"), &[1.0, 0.0]) });
    }
    let words = || Seed::Text { query: TextQuery { text: "alike".into(), ..TextQuery::default() }, k: 0 };
    for seed in [words(), Seed::Nearest(Nearest::to_vector("v", vec![0.0, 0.0]))] {
        let page =
            |offset| ids(&fixture.query(&Query { limit: 3, offset, ..Query::new("c", vec![seed.clone()]) }));
        let pages: Vec<String> = [0, 3, 6, 9].into_iter().flat_map(page).collect();
        assert_eq!(pages, (0..10).map(|n| format!("e{n}")).collect::<Vec<_>>());
    }
}

/// Whatever moves up or down between two pages, none of what came comes again, and what stays is not missed.
#[test]
fn pages_repeat_nothing_whatever_is_written_between() {
    let fixture = fixture();
    let shapes = [
        near(3.2),
        Query { group_by: Some(GroupBy { field: field("kind"), size: 1 }), ..near(3.2) },
        Query { order_by: vec![Order { field: field("year"), descending: true }], ..near(3.2) },
        Query { diversity: Some(Diversity { lambda: 0.7, candidates: 0 }), ..near(3.2) },
        Query { offset: 2, ..near(3.2) },
    ];
    for query in shapes {
        let limit = if query.group_by.is_some() { 2 } else { 6 };
        let whole = ids(&fixture.query(&Query { limit: 18, ..query.clone() }));
        let pages = |disturb: &dyn Fn(usize)| {
            let (mut all, mut seen) = (Vec::new(), Vec::new());
            for nth in 0.. {
                let answer = fixture.query(&Query { limit, seen, ..query.clone() });
                all.extend(ids(&answer));
                let Some(next) = answer.next else { return all };
                seen = next;
                disturb(nth);
            }
            all
        };
        let quiet = pages(&|_| {});
        assert_eq!(quiet[..whole.len()], whole);
        // Those that came move to the front, others behind them.
        let moved = |nth: usize| {
            for n in [3, 4, 5_usize] {
                let mut one: Entity = entity(&format!("e{n:02}"), &[3.2 + nth as f32 / 100.0, 0.0]);
                one.attributes.insert("kind".into(), Value::String(format!("other{n}")));
                fixture.put(one);
            }
        };
        let mut found = pages(&moved);
        found.sort();
        let count = found.len();
        found.dedup();
        assert_eq!(found.len(), count, "some come twice: {found:?}");
        if query.group_by.is_none() {
            assert_eq!(count, 20 - query.offset, "all are still there");
        }
        for n in 0..20_i64 {
            let mut one: Entity = entity(&format!("e{n:02}"), &[n as f32, 0.0]);
            one.attributes.insert("kind".into(), Value::String(format!("k{}", n % 5)));
            one.attributes.insert("year".into(), Value::Int(2_000 - n * n % 7));
            fixture.put(one);
        }
    }
}

#[test]
fn hits_come_in_the_order_of_fields() {
    let fixture = fixture();
    let by = |name: &str, descending| Order { field: field(name), descending };
    let seeds = || vec![Seed::Nearest(Nearest { k: 20, ..Nearest::to_vector("v", vec![0.0, 0.0]) })];
    let order_by = vec![by("year", true), by("id", true)];
    let query = Query { order_by, limit: 20, ..Query::new("c", seeds()) };
    let answer = fixture.query(&query);
    let mut wanted: Vec<(i64, i64)> = (0..20).filter(|n| *n != 7).map(|n| (2_000 - n * n % 7, n)).collect();
    wanted.sort_by(|a, b| b.cmp(a));
    let mut wanted: Vec<String> = wanted.into_iter().map(|(_, n)| format!("e{n:02}")).collect();
    wanted.push("e07".to_owned());
    assert_eq!(ids(&answer), wanted, "what has no year comes last");
}

#[test]
fn the_best_of_each_group_come_together() {
    let fixture = fixture();
    let group_by = Some(GroupBy { field: field("kind"), size: 2 });
    let answer = fixture.query(&Query { group_by: group_by.clone(), limit: 3, ..near(0.0) });
    assert_eq!(ids(&answer), ["e00", "e05", "e01", "e06", "e02", "e07"]);
    assert_eq!(answer.hits[1].group, Some(Value::String("k0".into())));
    let next = fixture.query(&Query { group_by, limit: 3, offset: 3, ..near(0.0) });
    assert_eq!(ids(&next), ["e03", "e08", "e04", "e09"]);
}

#[test]
fn diverse_hits_are_less_alike() {
    let fixture = Fixture::with_space(2, Metric::Cosine);
    for (id, angle) in [("a", 0.0_f32), ("b", 0.01), ("c", 0.02), ("d", 0.6)] {
        fixture.put(entity(id, &[angle.cos(), angle.sin()]));
    }
    let query = || Query {
        limit: 2,
        ..Query::new("c", vec![Seed::Nearest(Nearest::to_vector("v", vec![1.0, 0.0]))])
    };
    let found = |lambda| {
        let diversity = Some(Diversity { lambda, candidates: 0 });
        ids(&fixture.query(&Query { diversity, ..query() }))
    };
    assert_eq!(found(1.0), ["a", "b"]);
    assert_eq!(found(0.4), ["a", "d"]);
}

#[test]
fn every_way_to_score_sums_to_its_breakdown() {
    let fixture = fixture();
    let weights = Weights { vector: 0.5, graph: 0.5, ..Weights::default() };
    for mode in [ScoreMode::Weighted, ScoreMode::Boost { importance: 0.5, recency: 0.5 }, ScoreMode::AllidbV1]
    {
        let mut query = Query { explain: true, limit: 20, ..near(4.0) };
        query.seeds.push(Seed::Ids(vec![at("hub")]));
        query.expand = Some(ExpandSpec::default());
        (query.scoring.mode, query.scoring.weights) = (mode, Some(weights));
        let answer = fixture.query(&query);
        assert!(answer.hits.len() > 10);
        assert!(answer.hits.windows(2).all(|pair| pair[0].score >= pair[1].score));
        for hit in &answer.hits {
            let sum: f64 = hit.breakdown.iter().map(|part| part.contribution).sum();
            assert!((sum - hit.score).abs() < 1e-12, "{mode:?} {hit:?}");
        }
        assert_eq!(fixture.query(&query), answer, "the same question has the same answer");
    }
}
