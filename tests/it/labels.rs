//! Labels of metrics: each is one of a few values that nobody outside chooses, whatever is called.

use std::collections::{BTreeMap, BTreeSet};

use allidb_api::v1;
use prost::Message;
use tonic::{Code, Request, client::Grpc, codegen::http::uri::PathAndQuery};
use tonic_prost::ProstCodec;

use crate::{
    client::Client,
    make::{edge, entity, name, near, query, vectors},
    process::eventually,
    ring::Ring,
};

const COLLECTION: &str = "n0body-things";
const SPACE: &str = "n0body-plane";

/// Series of one metric. The largest are the histogram of times, with some 17 buckets for each method.
const MOST_SERIES: usize = 1_500;

const KEYSPACES: &[&str] = &[
    "entity",
    "vector",
    "history",
    "chunk",
    "edge",
    "edge_in",
    "token",
    "number",
    "posting",
    "cluster",
    "local",
    "vector_log",
    "vector_segment",
    "text_log",
    "text_segment",
    "graph_log",
    "graph_segment",
    "merkle",
    "paxos",
];

const CODES: &[&str] = &[
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// The values that labels may have.
fn allowed(nodes: BTreeSet<String>) -> BTreeMap<&'static str, BTreeSet<String>> {
    let of = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect::<BTreeSet<String>>();
    let set = prost_types::FileDescriptorSet::decode(allidb_api::FILE_DESCRIPTOR_SET).expect("our own");
    let mut services = of(&["grpc.health.v1.Health", "other"]);
    let mut methods = of(&["Check", "List", "Watch", "other"]);
    for file in &set.file {
        for service in &file.service {
            services.insert(format!("{}.{}", file.package(), service.name()));
            methods.extend(service.method.iter().map(|method| method.name().to_owned()));
        }
    }
    BTreeMap::from([
        ("service", services),
        ("method", methods),
        ("code", of(CODES)),
        ("short_of", of(&["places", "places_of_caller", "bytes", "bytes_of_caller"])),
        ("kind", of(&["read", "write"])),
        ("keyspace", of(KEYSPACES)),
        ("outcome", of(&["answered", "failed", "withheld", "sent", "lost", "received"])),
        ("node", nodes),
        ("port", of(&["grpc", "http", "ring"])),
    ])
}

/// A metric, and its labels.
fn series(line: &str) -> (&str, Vec<(&str, &str)>) {
    let Some((metric, rest)) = line.split_once('{') else {
        return (line.split_once(' ').expect("a value").0, Vec::new());
    };
    let mut labels = Vec::new();
    let mut rest = rest;
    while let Some((label, after)) = rest.split_once("=\"") {
        // Whatever is escaped is none of the values that are allowed.
        let (value, after) = after.split_once('"').expect("closed");
        labels.push((label.trim_start_matches(','), value));
        rest = after;
    }
    (metric, labels)
}

async fn call_what_is_not_there(client: &Client, path: &str) {
    let mut grpc = Grpc::new(client.channel.clone());
    grpc.ready().await.expect("connected");
    let path = PathAndQuery::try_from(path).expect("a path");
    let codec = ProstCodec::<v1::GetRequest, v1::Entity>::default();
    let refused = grpc.unary(Request::new(v1::GetRequest::default()), path, codec).await;
    assert_eq!(refused.expect_err("no such method").code(), Code::Unimplemented);
}

/// Calls of all sorts, by names that are nobody's.
async fn call(client: &Client, other: &Client) {
    client.create(COLLECTION, SPACE, 2).await;
    let count = || Request::new(v1::CountRequest { collection: COLLECTION.into(), ..Default::default() });
    let mut keys = v1::keys_client::KeysClient::new(client.channel.clone());
    let request = v1::CreateKeyRequest {
        name: "n0body".into(),
        role: v1::Role::Reader.into(),
        tenant: 77,
        ..Default::default()
    };
    let key = keys.create_key(request).await.expect("a key is made").into_inner().secret;
    for at in 0..20 {
        let id = format!("n0body-{at}");
        let thing = v1::Entity { vectors: vectors(SPACE, &[1.0, at as f32]), ..entity(COLLECTION, &id) };
        client.put(thing).await.expect("put");
        let relation = format!("n0body-relation-{at}");
        client
            .put_edges(vec![edge(name(COLLECTION, &id), &relation, name(COLLECTION, &id))])
            .await
            .expect("put");
        other.get(name(COLLECTION, &id)).await.expect("there");
        other.get(name(&format!("n0body-collection-{at}"), &id)).await.expect_err("no such collection");
        other
            .query(query(COLLECTION, near(&format!("n0body-space-{at}"), &[1.0, 0.0])))
            .await
            .expect_err("no such");
        other.query(query(COLLECTION, near(SPACE, &[1.0, 0.0]))).await.expect("answered");
        call_what_is_not_there(client, &format!("/allidb.v1.Entities/N0body{at}")).await;
        call_what_is_not_there(client, &format!("/n0body.v{at}.Anything/Goes")).await;
        call_what_is_not_there(client, &format!("/n0body/{at}/%22%7Bmethod=%22x%22%7D")).await;
        for (header, code) in
            [("traceparent", Code::Ok), ("tenant", Code::Ok), ("x-api-key", Code::Unauthenticated)]
        {
            let mut request = count();
            request.metadata_mut().insert(header, format!("n0body-{at}").parse().expect("a header"));
            let counted = client.entities().count(request).await;
            assert_eq!(counted.map_or_else(|status| status.code(), |_| Code::Ok), code, "{header}");
        }
        let mut request = count();
        request.metadata_mut().insert("x-api-key", key.parse().expect("a header"));
        client.entities().count(request).await.expect_err("another tenant has no such collection");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_have_few_values_whatever_is_called() {
    let ring = Ring::start_with(3, &[("ALLIDB__LOG__SLOW_QUERY", "1us")]).await;
    let (client, other) = (ring.client(0), ring.client(1));
    call(&client, &other).await;
    let mut cluster = v1::cluster_client::ClusterClient::new(client.channel.clone());
    let described = cluster.describe_cluster(v1::DescribeClusterRequest {}).await.expect("told").into_inner();
    let nodes: BTreeSet<String> = described.nodes.into_iter().map(|node| node.id).collect();
    assert_eq!(nodes.len(), 3);
    let allowed = allowed(nodes);
    for node in &ring.nodes {
        let figures = eventually("metrics", async || {
            let (code, figures) = node.get("/metrics").await?;
            (code == 200).then_some(figures)
        })
        .await;
        assert!(!figures.to_lowercase().contains("n0body"), "{figures}");
        let mut count: BTreeMap<&str, usize> = BTreeMap::new();
        for line in figures.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (metric, labels) = series(line);
            *count.entry(metric).or_default() += 1;
            for (label, value) in labels {
                let is_allowed = match label {
                    // Of which there is one, whose values were given when it was built.
                    "version" | "commit" => metric == "allidb_build_info" && count[metric] == 1,
                    "le" | "quantile" => value.parse::<f64>().is_ok() || value == "+Inf",
                    _ => allowed.get(label).is_some_and(|values| values.contains(value)),
                };
                assert!(is_allowed, "{label} may not be {value:?}: {line}");
            }
        }
        let most = count.into_iter().max_by_key(|(_, series)| *series).expect("metrics");
        assert!(most.1 <= MOST_SERIES, "{most:?}");
    }
    // All that was called is in them.
    let (_, figures) = ring.nodes[0].get("/metrics").await.expect("answered");
    for told in [
        "service=\"other\"",
        "method=\"Put\"",
        "node=\"",
        "keyspace=\"entity\"",
        "outcome=\"answered\"",
        "port=\"ring\"",
    ] {
        assert!(figures.contains(told), "{told}");
    }
}

#[test]
fn series_are_taken_apart() {
    assert_eq!(series("a_total 3"), ("a_total", Vec::new()));
    assert_eq!(series("a_total{b=\"c\",d=\"e f\"} 3"), ("a_total", vec![("b", "c"), ("d", "e f")]));
}
