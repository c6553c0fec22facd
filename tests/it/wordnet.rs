//! Twenty thousand synsets of WordNet: enough for a graph. Needs the large data set, which the repository
//! does not carry.

use std::{collections::HashSet, path::PathBuf};

use allidb_api::v1::put_stream_request::Item;

use crate::{
    client::Client,
    dataset::{lines, rows, synset},
    make::{id_of, near, query},
    process::{Process, eventually},
};

const COLLECTION: &str = "wordnet";
const SPACE: &str = "gloss";
const SYNSETS: usize = 20_000;
const QUERIES: usize = 100;
const RECALL: f64 = 0.95;

/// `wordnet/` under the directory that `ALLIDB_DATASETS` names, if there.
fn directory() -> Option<PathBuf> {
    let Some(datasets) = std::env::var_os("ALLIDB_DATASETS") else {
        println!("skipped: ALLIDB_DATASETS does not name a directory with the data set wordnet/");
        return None;
    };
    let dir = PathBuf::from(datasets).join("wordnet");
    if dir.join("vectors.f16.npy").exists() {
        return Some(dir);
    }
    println!("skipped: {} holds no vectors.f16.npy", dir.display());
    None
}

/// Waits until the graph holds nearly everything; the rest is compared exactly.
async fn graph_is_built(process: &Process) -> f64 {
    eventually("the graph is built", async || {
        let built = process.metric("allidb_vectors_in_graphs").await?;
        (built > 0.75 * SYNSETS as f64).then_some(built)
    })
    .await
}

async fn recall(client: &Client, queries: &[Vec<f32>]) -> f64 {
    let mut found = 0;
    for values in queries {
        let mut answers = Vec::new();
        for exact in [true, false] {
            let mut nearest = near(SPACE, values);
            nearest.exact = exact;
            let hits = client.query(query(COLLECTION, nearest)).await.expect("answered");
            assert_eq!(hits.len(), 10);
            let ids = hits.iter().map(|hit| id_of(hit.entity.as_ref().expect("an entity")).to_owned());
            answers.push(ids.collect::<HashSet<String>>());
        }
        found += answers[0].intersection(&answers[1]).count();
    }
    found as f64 / (10 * queries.len()) as f64
}

#[tokio::test(flavor = "multi_thread")]
async fn recall_holds_in_the_graph_and_after_a_restart() {
    let Some(dir) = directory() else { return };
    let mut process = Process::start().await;
    let client = process.client();
    let entities = lines(&dir.join("entities.jsonl.zst"), SYNSETS);
    let vectors = rows(&dir.join("vectors.f16.npy"), SYNSETS);
    let queries = rows(&dir.join("queries.f32.npy"), QUERIES);
    client.create(COLLECTION, SPACE, vectors[0].len() as u32).await;
    let items = entities.into_iter().zip(vectors);
    let items = items.map(|(line, row)| Item::Entity(synset(COLLECTION, SPACE, &line, &row)));
    assert_eq!(client.put_all(items).await, SYNSETS);
    for when in ["after the import", "after a restart"] {
        let client = process.client();
        assert_eq!(client.count(COLLECTION).await, SYNSETS as u64, "{when}");
        let built = graph_is_built(&process).await;
        let recall = recall(&client, &queries).await;
        println!("{when}: recall@10 {recall:.4} over {QUERIES} queries, {built} vectors in graphs");
        assert!(recall >= RECALL, "{when}: recall@10 is {recall}");
        drop(client);
        if when == "after the import" {
            process.end_and_restart().await;
        }
    }
}
