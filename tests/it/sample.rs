//! The sample that the repository carries, through the API: each question has its exact answer, and a walk
//! goes where a breadth-first search over the file goes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::Path,
};

use allidb_api::v1::{self, put_stream_request::Item};

use crate::{
    client::Client,
    dataset::{edge_item, lines, row_numbers, rows, synset, triple},
    make::{id_of, name},
    process::Process,
};

const COLLECTION: &str = "sample";
const SPACE: &str = "gloss";
const HOPS: u32 = 3;

struct Sample {
    ids: Vec<String>,
    edges: Vec<(String, String, String)>,
    queries: Vec<Vec<f32>>,
    truth: Vec<Vec<usize>>,
}

async fn load(client: &Client) -> Sample {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../cmd/allidb/sample");
    let entities = lines(&dir.join("entities.jsonl.zst"), usize::MAX);
    let vectors = rows(&dir.join("vectors.f16.npy"), usize::MAX);
    assert_eq!(entities.len(), vectors.len());
    client.create(COLLECTION, SPACE, vectors[0].len() as u32).await;
    let edges: Vec<_> = lines(&dir.join("edges.jsonl.zst"), usize::MAX).iter().map(triple).collect();
    let synsets = entities.iter().zip(&vectors).map(|(line, row)| synset(COLLECTION, SPACE, line, row));
    let ids = entities.iter().map(|line| line["id"].as_str().expect("an id").to_owned()).collect();
    let items: Vec<Item> =
        synsets.map(Item::Entity).chain(edges.iter().map(|edge| edge_item(COLLECTION, edge))).collect();
    client.put_all(items.into_iter()).await;
    let queries = rows(&dir.join("queries.f32.npy"), usize::MAX);
    Sample { ids, edges, queries, truth: row_numbers(&dir.join("truth.top10.ivecs")) }
}

/// Every question's ten nearest are the ten of the file; their order may differ where they are as near.
async fn ask_everything(client: &Client, sample: &Sample) {
    assert_eq!(client.count(COLLECTION).await, sample.ids.len() as u64);
    assert_eq!(sample.queries.len(), sample.truth.len());
    for (at, (query, truth)) in sample.queries.iter().zip(&sample.truth).enumerate() {
        let hits = client.nearest(COLLECTION, SPACE, query, 10).await;
        let found: BTreeSet<&str> =
            hits.iter().map(|hit| id_of(hit.entity.as_ref().expect("an entity"))).collect();
        let want: BTreeSet<&str> = truth.iter().map(|row| sample.ids[*row].as_str()).collect();
        assert_eq!(found, want, "question {at}");
        assert!(hits.is_sorted_by(|a, b| a.measure >= b.measure), "best first: {hits:?}");
    }
}

/// The hops to everything within reach.
fn breadth_first(edges: &[(String, String, String)], seed: &str) -> BTreeMap<String, u32> {
    let mut out: HashMap<&str, Vec<&str>> = HashMap::new();
    for (from, _, to) in edges {
        out.entry(from).or_default().push(to);
    }
    let mut hops = BTreeMap::from([(seed.to_owned(), 0)]);
    let mut level = vec![seed];
    for hop in 1..=HOPS {
        let mut next = Vec::new();
        for node in level {
            for to in out.get(node).into_iter().flatten() {
                if !hops.contains_key(*to) {
                    hops.insert((*to).to_owned(), hop);
                    next.push(*to);
                }
            }
        }
        level = next;
    }
    hops
}

async fn walk_everywhere(client: &Client, sample: &Sample) {
    // A few of very different reach.
    for seed in sample.ids.iter().step_by(sample.ids.len() / 12) {
        let options =
            v1::ExpandOptions { hops: HOPS, fan_out: 10_000, max_nodes: 100_000, ..Default::default() };
        let (nodes, summary) = client.expand(vec![name(COLLECTION, seed)], options).await.expect("expanded");
        assert!(summary.truncated.is_empty(), "{summary:?}");
        assert_eq!(summary.nodes, nodes.len() as u64);
        assert!(nodes.is_sorted_by_key(|node| node.hops), "level by level");
        let mut found: BTreeMap<String, u32> =
            nodes.iter().map(|node| (node.r#ref.clone().expect("a name").id, node.hops)).collect();
        assert_eq!(found.len(), nodes.len(), "no node twice");
        for node in &nodes {
            assert_path(sample, seed, node);
        }
        // Whether the seed itself is told is no matter of reach.
        found.insert(seed.clone(), 0);
        assert_eq!(found, breadth_first(&sample.edges, seed), "from {seed}");
    }
}

/// The path leads from the seed to the node along edges of the file.
fn assert_path(sample: &Sample, seed: &str, node: &v1::ReachedNode) {
    assert_eq!(node.path.len(), node.hops as usize);
    let mut at = seed.to_owned();
    for step in &node.path {
        let edge = step.edge.as_ref().expect("an edge");
        let id = |name: &Option<v1::EntityRef>| name.as_ref().expect("a name").id.clone();
        let (from, to) = (id(&edge.from), id(&edge.to));
        assert_eq!(from, at);
        let triple = (from, edge.relation.clone(), to.clone());
        assert!(sample.edges.contains(&triple), "{triple:?} is no edge of the file");
        at = to;
    }
    assert_eq!(at, node.r#ref.as_ref().expect("a name").id);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sample_is_answered_exactly_before_and_after_a_restart() {
    let mut process = Process::start().await;
    let client = process.client();
    let sample = load(&client).await;
    ask_everything(&client, &sample).await;
    walk_everywhere(&client, &sample).await;
    drop(client);
    process.end_and_restart().await;
    ask_everything(&process.client(), &sample).await;
    walk_everywhere(&process.client(), &sample).await;
}
