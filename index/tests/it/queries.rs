//! The query tree: seeds, expansion, scores and their breakdown.

use allidb_index::{
    filter::{Field, Filter, Operator},
    model::{CollectionChange, Metric, Value},
    query::{
        Examples, ExpandSpec, Nearest, NearestTarget, Query, Scoring, Seed, Signal, TruncationReason, Weights,
    },
};

use crate::fixture::{Fixture, TENANT, at, deadline, entity, ids, with};

/// a and b near [1, 0]; c far from it but linked from a; d linked from c.
fn small_world() -> Fixture {
    let fixture = Fixture::with_space(2, Metric::Cosine);
    fixture.put(with(entity("a", &[1.0, 0.0]), "colour", "red"));
    fixture.put(with(entity("b", &[0.9, 0.1]), "colour", "blue"));
    fixture.put(with(entity("c", &[-1.0, 0.0]), "colour", "red"));
    fixture.put(with(entity("d", &[]), "colour", "blue"));
    fixture.link("a", "leads_to", "c", 0.8);
    fixture.link("c", "leads_to", "d", 0.5);
    fixture
}

fn near(k: usize) -> Seed {
    Seed::Nearest(Nearest { k, ..Nearest::to_vector("v", vec![1.0, 0.0]) })
}

#[test]
fn expansion_brings_in_what_vectors_alone_would_not() {
    let fixture = small_world();
    let mut query = Query::new("c", vec![near(1)]);
    query.explain = true;
    assert_eq!(ids(&fixture.query(&query)), ["a"]);
    query.expand = Some(ExpandSpec { hops: 2, ..ExpandSpec::default() });
    let answer = fixture.query(&query);
    assert_eq!(ids(&answer), ["a", "c", "d"]);
    for hit in &answer.hits {
        let sum: f64 = hit.breakdown.iter().map(|part| part.contribution).sum();
        assert!((sum - hit.score).abs() < 1e-12, "the breakdown sums to the score");
        assert_eq!(hit.path.len(), hit.hops);
    }
    let [a, c, d] = &answer.hits[..] else { panic!() };
    let value = |hit: &allidb_index::query::Hit, signal| {
        hit.breakdown.iter().find(|part| part.signal == signal).unwrap().value
    };
    assert!((value(a, Signal::Graph) - 1.0).abs() < 1e-9 && (a.score - 1.0).abs() < 1e-9);
    assert!((value(c, Signal::Graph) - 0.7 * 0.8).abs() < 1e-6);
    assert!(value(c, Signal::Vector) < 1e-9, "c points the other way");
    let g = 0.7 * 0.8 * 0.7 * 0.5;
    assert!((value(d, Signal::Graph) - g).abs() < 1e-6);
    assert!((value(d, Signal::Vector) - g).abs() < 1e-6, "without a vector its signal equals the graph's");
    assert_eq!(d.path.iter().map(|step| step.edge.to.id.as_str()).collect::<Vec<_>>(), ["c", "d"]);
}

#[test]
fn the_weights_decide_the_order() {
    let fixture = small_world();
    let mut query = Query::new("c", vec![near(2)]);
    query.expand = Some(ExpandSpec::default());
    query.scoring =
        Scoring { weights: Some(Weights { vector: 1.0, ..Weights::default() }), ..Scoring::default() };
    assert_eq!(ids(&fixture.query(&query)), ["a", "b", "c"], "all other weights zero: pure vector order");
    query.scoring.weights = Some(Weights { vector: 0.0, graph: 1.0, ..Weights::default() });
    query.seeds = vec![Seed::Ids(vec![at("c")])];
    assert_eq!(ids(&fixture.query(&query)), ["c", "d"]);
    query.threshold = Some(0.9);
    assert_eq!(ids(&fixture.query(&query)), ["c"]);
}

#[test]
fn filters_hold_for_seeds_and_hits_but_not_for_the_way() {
    let fixture = small_world();
    let mut query = Query::new("c", vec![near(2)]);
    query.expand = Some(ExpandSpec { hops: 2, ..ExpandSpec::default() });
    let colour = |colour: &str| {
        Some(Filter::Compare(Field::parse("colour").unwrap(), Operator::Equal, Value::String(colour.into())))
    };
    query.filter = colour("red");
    assert_eq!(ids(&fixture.query(&query)), ["a", "c"]);
    query.seeds = vec![Seed::Ids(vec![at("a")])];
    query.filter = colour("blue");
    assert_eq!(ids(&fixture.query(&query)), ["d"], "reached through what the filter leaves out");
    query.seeds = vec![Seed::Matching { filter: colour("red").unwrap(), limit: 1 }];
    query.filter = None;
    assert_eq!(ids(&fixture.query(&query)), ["a", "c", "d"]);
}

#[test]
fn the_same_query_gives_the_same_answer_and_ties_go_by_id() {
    let fixture = Fixture::new();
    for id in ["z", "m", "a", "q"] {
        fixture.put(entity(id, &[1.0, 1.0]));
    }
    let query = Query::new("c", vec![Seed::Nearest(Nearest::to_vector("v", vec![0.0, 0.0]))]);
    let first = fixture.query(&query);
    assert_eq!(ids(&first), ["a", "m", "q", "z"]);
    for _ in 0..5 {
        assert_eq!(fixture.query(&query), first);
    }
}

#[test]
fn a_better_edge_never_lowers_a_score() {
    let fixture = small_world();
    let mut query = Query::new("c", vec![Seed::Ids(vec![at("a")])]);
    query.expand = Some(ExpandSpec { hops: 3, ..ExpandSpec::default() });
    let score = |id: &str| {
        let answer = fixture.query(&query);
        answer.hits.iter().find(|hit| hit.entity.id == id).map(|hit| hit.score).unwrap()
    };
    let before = score("d");
    fixture.link("a", "leads_to", "d", 0.01);
    assert!(score("d") >= before, "a short and weak way does not hide a longer and better one");
    fixture.link("a", "leads_to", "d", 0.9);
    assert!(score("d") > before);
}

#[test]
fn bad_queries_are_refused_precisely() {
    let fixture = small_world();
    let base = || Query::new("c", vec![near(1)]);
    let wrong_vector = Seed::Nearest(Nearest::to_vector("v", vec![1.0]));
    let nan = Seed::Nearest(Nearest::to_vector("v", vec![1.0, f32::NAN]));
    let unknown = Seed::Nearest(Nearest::to_vector("w", vec![1.0, 0.0]));
    let cases = [
        (Query { collection: "x".into(), ..base() }, "no collection"),
        (Query { seeds: vec![], ..base() }, "seeds are 0"),
        (Query { seeds: vec![wrong_vector], ..base() }, "seeds[0].nearest.vector has 1 dimensions"),
        (Query { seeds: vec![nan], ..base() }, "NaN"),
        (Query { seeds: vec![unknown], ..base() }, "no vector space \"w\""),
        (Query { limit: 0, ..base() }, "limit is 0"),
        (Query { limit: 10_001, ..base() }, "limit is 10001"),
        (Query { threshold: Some(2.0), ..base() }, "threshold is 2"),
        (
            Query { expand: Some(ExpandSpec { hops: 99, ..ExpandSpec::default() }), ..base() },
            "expand.hops is 99",
        ),
    ];
    for (query, why) in cases {
        let error = fixture.replica.query(TENANT, &query, deadline()).unwrap_err().to_string();
        assert!(error.contains(why), "{error:?} does not say {why:?}");
    }
    let bounded = Query { expand: Some(ExpandSpec { fan_out: 1, ..ExpandSpec::default() }), ..base() };
    fixture.link("a", "leads_to", "b", 0.1);
    assert_eq!(fixture.query(&bounded).truncated[0].reason, TruncationReason::FanOut);
}

#[test]
fn examples_say_what_is_wanted_and_what_is_not() {
    for metric in [Metric::Cosine, Metric::L2] {
        let fixture = Fixture::with_space(2, metric);
        let points =
            [("a", [1.0, 0.1]), ("b", [1.0, 0.3]), ("c", [1.0, 0.2]), ("d", [0.2, 1.0]), ("e", [1.0, -0.2])];
        for (id, vector) in points {
            fixture.put(entity(id, &vector));
        }
        fixture.put(entity("bare", &[]));
        let like = |positive: &[&str], negative: &[&str]| {
            let refs = |ids: &[&str]| ids.iter().map(|id| at(id)).collect();
            let examples = Examples { positive: refs(positive), negative: refs(negative) };
            let nearest =
                Nearest { target: NearestTarget::Examples(examples), ..Nearest::to_vector("v", vec![]) };
            let query = Query { limit: 2, ..Query::new("c", vec![Seed::Nearest(nearest)]) };
            fixture.replica.query(TENANT, &query, deadline()).map(|answer| ids(&answer))
        };
        assert_eq!(like(&["a", "b"], &[]).unwrap(), ["c", "e"]);
        // Away from where the ordinates are great.
        assert_eq!(like(&["a", "c"], &["b"]).unwrap(), ["e", "d"]);
        // As one example is itself, which is no answer.
        assert_eq!(like(&["a"], &[]).unwrap(), ["c", "b"]);
        let refused =
            |positive: &[&str], negative: &[&str]| like(positive, negative).unwrap_err().to_string();
        assert_eq!(
            refused(&[], &["a"]),
            "seeds[0].nearest.examples holds 0 and 1; at least one positive, and at most 1000"
        );
        assert!(refused(&["a", "none"], &[]).contains("none"));
        assert_eq!(refused(&["bare"], &[]), r#"entity "bare" has no vector of its own in space "v""#);
    }
}

#[test]
fn a_profile_tells_what_was_planned_and_what_came_of_it() {
    let fixture = Fixture::with_space(2, Metric::Cosine);
    let change =
        CollectionChange { add_indexes: vec![Field::parse("n").unwrap()], ..CollectionChange::default() };
    fixture.change(change).unwrap();
    for n in 0..60 {
        fixture.put(with(entity(&format!("e{n:02}"), &[1.0, n as f32]), "n", n % 6));
        fixture.link(&format!("e{n:02}"), "next", &format!("e{:02}", (n + 1) % 60), 0.5);
    }
    let filter = |n| Filter::Compare(Field::parse("n").unwrap(), Operator::Less, Value::Int(n));
    let matching = Seed::Matching { filter: filter(2), limit: 20 };
    let within = Query { limit: 20, ..Query::new("c", vec![matching]) };
    let query = Query {
        within: Some(Box::new(within)),
        filter: Some(filter(1)),
        expand: Some(ExpandSpec::default()),
        profile: true,
        limit: 4,
        ..Query::new("c", vec![Seed::Nearest(Nearest::to_vector("v", vec![1.0, 0.0]))])
    };
    let answer = fixture.query(&query);
    let steps: Vec<(usize, &str, Option<u64>, u64)> =
        answer.steps.iter().map(|step| (step.depth, step.what, step.estimate, step.actual)).collect();
    let wanted = [
        (1, "matching", Some(20), 20),
        (1, "score", Some(20), 20),
        (1, "answer", Some(20), 20),
        (0, "within", Some(20), 20),
        (0, "filter", Some(10), 10),
        (0, "nearest", Some(4), 4),
        (0, "expand", Some(1000), 4),
        (0, "score", Some(8), 4),
        (0, "answer", Some(4), 4),
    ];
    assert_eq!(steps, wanted);
    let hows: Vec<&str> = answer.steps.iter().map(|step| step.how.as_str()).collect();
    assert_eq!((hows[0], hows[4]), ("index attributes.n", "index attributes.n"));
    assert!(hows[6].starts_with("from 4 seeds, 1 hops at most, 4 edges"), "{}", hows[6]);
    // Asked again, what matches is known; and without being asked for, nothing is told.
    let again = fixture.query(&query);
    assert_eq!(again.steps[4].how, "known, and 0 entities changed since");
    assert_eq!(again.hits, answer.hits);
    assert_eq!(fixture.query(&Query { profile: false, ..query }).steps, []);
}
