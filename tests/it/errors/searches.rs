//! Edges, walks and queries.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn edges_and_walks() {
    let (_process, client, before) = prepared().await;
    let mut verdict = Verdict::default();
    let (here, a) = (|| name(COLLECTION, THERE), || name(COLLECTION, "a"));
    let loves = || edge(here(), "loves", a());
    let weighing = |weight| v1::Edge { weight: Some(weight), ..loves() };
    let from_to = |from, to| v1::Edge {
        valid_from: Some(prost_types::Timestamp { seconds: from, nanos: 0 }),
        valid_to: Some(prost_types::Timestamp { seconds: to, nanos: 0 }),
        ..loves()
    };
    let cases = [
        ("a weight above 1", weighing(1.01), wrong("edge.weight")),
        ("a weight below 0", weighing(-0.5), wrong("edge.weight")),
        ("a weight of NaN", weighing(f64::NAN), wrong("edge.weight")),
        ("a weight without bounds", weighing(f64::INFINITY), wrong("edge.weight")),
        ("no source", v1::Edge { from: None, ..loves() }, wrong("edge.from")),
        ("no target", v1::Edge { to: None, ..loves() }, wrong("edge.to")),
        ("a source of no name", edge(name(COLLECTION, ""), "loves", a()), wrong("edge.from.id")),
        ("no relation", edge(here(), "", a()), wrong("edge.relation")),
        ("a relation too long", edge(here(), &"r".repeat(256), a()), wrong("edge.relation")),
        ("a control character", edge(here(), "lo\tves", a()), wrong("edge.relation")),
        ("a source nowhere", edge(name("nowhere", "x"), "loves", a()), unknown("UNKNOWN_COLLECTION")),
        ("a target nowhere", edge(here(), "loves", name("nowhere", "x")), unknown("UNKNOWN_COLLECTION")),
        ("an end before the beginning", from_to(2, 1), wrong("edge.valid_to")),
    ];
    for (what, edge, Expected { code, reason, field }) in cases {
        let expected = || Expected { code, reason, field };
        verdict.of_item(what, client.put_edges(vec![edge.clone()]).await, expected());
        let item = Some(v1::put_stream_request::Item::Edge(edge));
        let message = v1::PutStreamRequest { item, ..Default::default() };
        verdict.of_item(&format!("{what} in a stream"), stream_one(&client, message).await, expected());
    }
    verdict.of("too many edges", client.put_edges(vec![loves(); 10_001]).await, too_much("edges"));
    let request =
        v1::DeleteEdgesRequest { edges: vec![v1::EdgeRef::default(); 10_001], ..Default::default() };
    verdict.of("too many deletes", client.graph().delete_edges(request).await, too_much("edges"));

    let ask = |change: &dyn Fn(&mut v1::NeighborsRequest)| {
        let mut request = v1::NeighborsRequest { r#ref: Some(here()), ..Default::default() };
        change(&mut request);
        let mut graph = client.graph();
        async move { graph.neighbors(request).await }
    };
    verdict.of("neighbours of nothing", ask(&|request| request.r#ref = None).await, wrong("ref"));
    verdict.of("too many neighbours", ask(&|request| request.limit = 10_001).await, too_much("limit"));
    verdict.of("no direction", ask(&|request| request.direction = 9).await, wrong("direction"));
    let two_times = |request: &mut v1::NeighborsRequest| {
        request.any_time = true;
        request.as_of = Some(prost_types::Timestamp::default());
    };
    verdict.of("edges of one time and of all", ask(&two_times).await, wrong("any_time"));
    verdict.of("a weight asked above 1", ask(&|request| request.min_weight = 1.5).await, wrong("min_weight"));
    verdict.of(
        "a weight asked of NaN",
        ask(&|request| request.min_weight = f64::NAN).await,
        wrong("min_weight"),
    );

    let walk = |seeds: Vec<v1::EntityRef>, options| client.expand(seeds, options);
    let bare = v1::ExpandOptions::default;
    let seed = || vec![here()];
    let cases = [
        ("too many hops", v1::ExpandOptions { hops: 9, ..bare() }, too_much("options.hops")),
        ("too broad", v1::ExpandOptions { fan_out: 10_001, ..bare() }, too_much("options.fan_out")),
        ("too many nodes", v1::ExpandOptions { max_nodes: 100_001, ..bare() }, too_much("options.max_nodes")),
        ("no decay", v1::ExpandOptions { decay: Some(0.0), ..bare() }, wrong("options.decay")),
        ("growth", v1::ExpandOptions { decay: Some(1.1), ..bare() }, wrong("options.decay")),
        ("decay of NaN", v1::ExpandOptions { decay: Some(f64::NAN), ..bare() }, wrong("options.decay")),
        ("no direction", v1::ExpandOptions { direction: 7, ..bare() }, wrong("options.direction")),
        (
            "a weight of NaN",
            v1::ExpandOptions { min_weight: f64::NAN, ..bare() },
            wrong("options.min_weight"),
        ),
        ("a weight above 1", v1::ExpandOptions { min_weight: 1.5, ..bare() }, wrong("options.min_weight")),
    ];
    for (what, options, expected) in cases {
        verdict.of(what, walk(seed(), options).await, expected);
    }
    verdict.of("too many seeds", walk(vec![here(); 1_001], bare()).await, too_much("seeds"));
    verdict.of("no seeds", walk(Vec::new(), bare()).await, wrong("seeds"));
    verdict.of(
        "a seed nowhere",
        walk(vec![name("nowhere", "x")], bare()).await,
        unknown("UNKNOWN_COLLECTION"),
    );
    verdict.assert();
    assert_eq!(everything(&client).await, before, "nothing changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn queries() {
    let (_process, client, before) = prepared().await;
    let mut verdict = Verdict::default();
    let good = || query(COLLECTION, near(SPACE, &[1.0, 0.0]));
    let nearest = |nearest| query(COLLECTION, nearest);
    let target = |target| v1::Nearest { target, ..near(SPACE, &[]) };
    let weights = |weights| v1::QueryRequest {
        score: Some(v1::Scoring { weights: Some(weights), ..Default::default() }),
        ..good()
    };
    let ids = |count| v1::Seed {
        kind: Some(seed::Kind::Ids(v1::Ids { refs: vec![name(COLLECTION, THERE); count] })),
    };
    let text = || Some(Target::Text("a dog".into()));
    let no_provider =
        Expected { code: Code::FailedPrecondition, reason: "NO_EMBEDDING_PROVIDER", field: None };
    let no_vector = Expected { code: Code::FailedPrecondition, reason: "FAILED_PRECONDITION", field: None };
    let bare = v1::Weights::default;
    let cases = [
        ("a vector too short", nearest(near(SPACE, &[1.0])), no_dimension("seeds[0].nearest.vector")),
        ("a vector of NaN", nearest(near(SPACE, &[1.0, f32::NAN])), wrong("seeds[0].nearest.vector")),
        ("an unknown space", nearest(near("nothing", &[1.0, 0.0])), unknown("UNKNOWN_SPACE")),
        ("an unknown collection", query("nowhere", near(SPACE, &[1.0, 0.0])), unknown("UNKNOWN_COLLECTION")),
        ("text for a vector", nearest(target(text())), no_provider),
        ("no target", nearest(target(None)), wrong("seeds[0].nearest")),
        (
            "an entity that is not there",
            nearest(target(Some(Target::Entity(name(COLLECTION, "missing"))))),
            unknown("ENTITY_NOT_FOUND"),
        ),
        (
            "an entity without a vector",
            nearest(target(Some(Target::Entity(name(COLLECTION, "a"))))),
            no_vector,
        ),
        ("no seeds", v1::QueryRequest { seeds: Vec::new(), ..good() }, wrong("seeds")),
        (
            "a seed of nothing",
            v1::QueryRequest { seeds: vec![v1::Seed { kind: None }], ..good() },
            wrong("seeds[0]"),
        ),
        ("too many seeds", v1::QueryRequest { seeds: vec![ids(1); 17], ..good() }, too_much("seeds")),
        (
            "too many ids",
            v1::QueryRequest { seeds: vec![ids(1_001)], ..good() },
            too_much("seeds[0].ids.refs"),
        ),
        (
            "a filter seed without a filter",
            v1::QueryRequest {
                seeds: vec![v1::Seed { kind: Some(seed::Kind::Filter(v1::FilterSeed::default())) }],
                ..good()
            },
            wrong("seeds[0].filter.filter"),
        ),
        (
            "k too large",
            nearest(v1::Nearest { k: 10_001, ..near(SPACE, &[1.0, 0.0]) }),
            too_much("seeds[0].nearest.k"),
        ),
        (
            "ef too large",
            nearest(v1::Nearest { ef: 20_001, ..near(SPACE, &[1.0, 0.0]) }),
            too_much("seeds[0].nearest.ef"),
        ),
        ("a limit too large", v1::QueryRequest { limit: 10_001, ..good() }, too_much("limit")),
        (
            "too many hops",
            v1::QueryRequest { expand: Some(v1::ExpandOptions { hops: 9, ..Default::default() }), ..good() },
            too_much("expand.hops"),
        ),
        (
            "a weight of edges above 1",
            v1::QueryRequest {
                expand: Some(v1::ExpandOptions { min_weight: 1.5, ..Default::default() }),
                ..good()
            },
            wrong("expand.min_weight"),
        ),
        ("a threshold of NaN", v1::QueryRequest { threshold: Some(f64::NAN), ..good() }, wrong("threshold")),
        ("a threshold above 1", v1::QueryRequest { threshold: Some(1.5), ..good() }, wrong("threshold")),
        (
            "an unknown field",
            v1::QueryRequest { read_mask: mask(&["nonsense"]), ..good() },
            wrong("read_mask"),
        ),
        ("weights of zero", weights(bare()), wrong("score.weights")),
        ("a weight below 0", weights(v1::Weights { graph: -1.0, ..bare() }), wrong("score.weights.graph")),
        (
            "a weight of NaN",
            weights(v1::Weights { vector: f64::NAN, ..bare() }),
            wrong("score.weights.vector"),
        ),
        (
            "a weight without bounds",
            weights(v1::Weights { recency: f64::INFINITY, ..bare() }),
            wrong("score.weights.recency"),
        ),
        (
            "a half-life of nothing",
            v1::QueryRequest {
                score: Some(v1::Scoring {
                    half_life: Some(prost_types::Duration::default()),
                    ..Default::default()
                }),
                ..good()
            },
            wrong("score.half_life"),
        ),
    ];
    client.query(good()).await.expect("the query itself is in order");
    for (what, request, Expected { code, reason, field }) in cases {
        let expected = || Expected { code, reason, field };
        verdict.of(what, client.query(request.clone()).await, expected());
        let request = v1::BatchQueryRequest { queries: vec![request] };
        let results = client.search().batch_query(request).await.map(|answer| {
            let results = answer.into_inner().results.into_iter();
            results.map(|result| v1::ItemResult { status: result.status, ..Default::default() }).collect()
        });
        verdict.of_item(&format!("{what} in a batch"), results, expected());
    }
    let request = v1::BatchQueryRequest { queries: vec![good(); 101] };
    verdict.of("too many queries", client.search().batch_query(request).await, too_much("queries"));
    verdict.assert();
    assert_eq!(everything(&client).await, before, "nothing changed");
}
