//! The log of slow queries.

use allidb_api::v1::{self, comparison::Operator};
use tonic::Request;

use crate::{
    make::{compare, edge, entity, name, near, query, text, vectors},
    process::Process,
};

const COLLECTION: &str = "things";
const SPACE: &str = "plane";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
/// What nobody may read in a log.
const SECRET: &str = "n0body-may-know";

/// Everything that may be slow, each once.
async fn ask(process: &Process) {
    let client = process.client();
    client.create(COLLECTION, SPACE, 2).await;
    let attributes = [("word".to_owned(), text(SECRET))].into();
    let thing = v1::Entity { attributes, vectors: vectors(SPACE, &[1.0, 0.0]), ..entity(COLLECTION, SECRET) };
    client.put(thing).await.expect("put");
    client.put(entity(COLLECTION, "other")).await.expect("put");
    let other = || name(COLLECTION, "other");
    client.put_edges(vec![edge(name(COLLECTION, SECRET), "knows", other())]).await.expect("put");
    let filter = Some(compare("word", Operator::Equal, text(SECRET)));
    let asked = v1::QueryRequest { filter: filter.clone(), ..query(COLLECTION, near(SPACE, &[1.0, 0.0])) };
    let mut request = Request::new(asked.clone());
    let parent = format!("00-{TRACE}-00f067aa0ba902b7-00");
    request.metadata_mut().insert("traceparent", parent.parse().expect("a header"));
    client.search().query(request).await.expect("answered");
    let explain = v1::ExplainRequest { query: Some(asked.clone()) };
    client.search().explain(explain).await.expect("answered");
    let batch = v1::BatchQueryRequest { queries: vec![asked.clone(), asked] };
    client.search().batch_query(batch).await.expect("answered");
    let thing = || Some(name(COLLECTION, SECRET));
    let neighbors = v1::NeighborsRequest { r#ref: thing(), ..Default::default() };
    client.graph().neighbors(neighbors).await.expect("answered");
    client.expand(vec![name(COLLECTION, SECRET)], v1::ExpandOptions::default()).await.expect("answered");
    let hops = v1::CountHopsRequest { seeds: vec![name(COLLECTION, SECRET)], hops: 1, ..Default::default() };
    client.graph().count_hops(hops).await.expect("answered");
    let path = v1::ShortestPathRequest { from: thing(), to: Some(other()), ..Default::default() };
    client.graph().shortest_path(path).await.expect("answered");
    let scan = v1::RangeScanRequest {
        collection: COLLECTION.into(),
        filter: filter.clone(),
        id_prefix: SECRET.into(),
        ..Default::default()
    };
    client.entities().range_scan(scan).await.expect("answered");
    let count = v1::CountRequest { collection: COLLECTION.into(), filter, ..Default::default() };
    client.entities().count(count).await.expect("answered");
    let facets = v1::FacetsRequest {
        collection: COLLECTION.into(),
        fields: vec!["word".into()],
        ..Default::default()
    };
    client.entities().facets(facets).await.expect("answered");
}

/// Lines of the log of slow queries.
fn lines(process: &Process) -> Vec<serde_json::Value> {
    let log = process.log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    lines.filter(|line| line["target"] == "allidb::slow").collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_queries_are_logged_with_what_was_done_and_without_values() {
    let process = Process::start_with(&[("ALLIDB__LOG__SLOW_QUERY", "1us")]).await;
    ask(&process).await;
    let lines = lines(&process);
    let of = |method: &str| {
        lines.iter().find(|line| line["method"] == method).unwrap_or_else(|| panic!("{method}"))
    };
    for method in [
        "Query",
        "Explain",
        "BatchQuery",
        "Neighbors",
        "Expand",
        "CountHops",
        "ShortestPath",
        "RangeScan",
        "Count",
        "Facets",
    ] {
        let line = of(method);
        assert_eq!((&line["level"], &line["collection"]), (&"WARN".into(), &COLLECTION.into()), "{line}");
        assert_eq!((&line["tenant"], &line["outcome"]), (&1.into(), &"answered".into()), "{line}");
        assert!(line["took"].is_string(), "{line}");
    }
    let line = of("Query");
    assert_eq!((&line["trace_id"], &line["asked"]), (&TRACE.into(), &"nearest 1, conditions 1".into()));
    let plan = line["plan"].as_str().expect("a plan");
    assert!(plan.contains("nearest (space") && plan.contains("answer ("), "{plan}");
    assert_eq!(of("BatchQuery")["asked"], "queries 2");
    assert!(!process.log().contains(SECRET), "a value is in the log");
    let (_, figures) = process.get("/metrics").await.expect("answered");
    assert!(figures.contains("allidb_slow_queries_total{method=\"Query\"} 1\n"), "{figures}");
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_that_are_not_slow_are_not_logged() {
    for threshold in ["0", "1h"] {
        let process = Process::start_with(&[("ALLIDB__LOG__SLOW_QUERY", threshold)]).await;
        ask(&process).await;
        assert!(lines(&process).is_empty(), "{threshold}");
        let (_, figures) = process.get("/metrics").await.expect("answered");
        assert!(!figures.contains("allidb_slow_queries_total{"), "{figures}");
    }
}
