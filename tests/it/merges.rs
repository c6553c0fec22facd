//! Killing the daemon while it builds a graph: nothing is lost, and nothing that was built before is built again.

use std::time::Duration;

use allidb_api::v1::put_stream_request::Item;
use tokio::time::sleep;

use crate::{
    client::Client,
    make::{entity, id_of, near, query, vectors},
    process::{Process, eventually},
    random::Random,
};

const COLLECTION: &str = "points";
const SPACE: &str = "place";
const DIMENSION: usize = 48;
/// More than one growing segment holds.
const FIRST: usize = 17_000;
const THEN: usize = 17_000;
const KILLS: usize = 4;

fn id(row: usize) -> String {
    format!("p{row:06}")
}

async fn put(client: &Client, rows: &[Vec<f32>], from: usize) {
    let put = |(at, row): (usize, &Vec<f32>)| {
        let vectors = vectors(SPACE, row);
        Item::Entity(allidb_api::v1::Entity { vectors, ..entity(COLLECTION, &id(from + at)) })
    };
    let items: Vec<Item> = rows.iter().enumerate().map(put).collect();
    assert_eq!(client.put_all(items.into_iter()).await, rows.len());
}

/// Every 500th vector is found by itself.
async fn all_are_found(client: &Client, rows: &[Vec<f32>]) {
    let mut missed = 0;
    for (row, vector) in rows.iter().enumerate().step_by(500) {
        let hits = client.query(query(COLLECTION, near(SPACE, vector))).await.expect("answered");
        let first = hits.first().and_then(|hit| hit.entity.as_ref()).map(id_of);
        missed += usize::from(first != Some(&id(row)));
    }
    // A walk may miss one; what is not there at all would be one in every segment.
    assert!(missed <= 1, "{missed} of {} were not found", rows.len() / 500);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_during_a_merge_loses_nothing_and_rebuilds_nothing() {
    let mut process = Process::start().await;
    let mut random = Random::seeded("merges");
    let rows: Vec<Vec<f32>> = (0..FIRST + THEN).map(|_| random.vector(DIMENSION)).collect();
    process.client().create(COLLECTION, SPACE, DIMENSION as u32).await;
    put(&process.client(), &rows[..FIRST], 0).await;
    let built = eventually("the first graph", async || {
        process.metric("allidb_vectors_in_graphs").await.filter(|built| *built > 0.0)
    })
    .await;
    put(&process.client(), &rows[FIRST..], FIRST).await;
    for kill in 0..KILLS {
        eventually("a merge", async || {
            let inserting = process.metric("allidb_vectors_inserting").await;
            let in_graphs = process.metric("allidb_vectors_in_graphs").await;
            (inserting > Some(0.0) || in_graphs > Some(built)).then_some(())
        })
        .await;
        sleep(Duration::from_millis(60 * kill as u64)).await;
        process.kill_and_restart().await;
        // At once: the segments are opened, not made again.
        let in_graphs = process.metric("allidb_vectors_in_graphs").await.expect("a metric");
        assert!(in_graphs >= built, "kill {kill}: {in_graphs} in graphs, {built} before");
        assert_eq!(process.metric("allidb_vectors").await, Some((FIRST + THEN) as f64), "kill {kill}");
        all_are_found(&process.client(), &rows).await;
    }
    // So few as are left over stay without a graph.
    eventually("the rest in graphs", async || {
        process
            .metric("allidb_vectors_in_graphs")
            .await
            .filter(|built| *built as usize + 2_500 > FIRST + THEN)
    })
    .await;
    all_are_found(&process.client(), &rows).await;
}
