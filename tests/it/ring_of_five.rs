//! Five daemons of which none holds everything: whoever is asked answers about everything, also without one of them.

use std::collections::BTreeSet;

use allidb_api::v1::{self, put_stream_request};
use rustix::process::Signal;

use crate::{
    client::Client,
    make::{compare, edge, entity, id_of, int, name, near, query, vectors},
    process::eventually,
    ring::Ring,
};

const THINGS: usize = 120;
/// Of the first things and of those that they are linked to.
const FOUND: usize = 10;

fn id(at: usize) -> String {
    format!("t-{at:03}")
}

/// Thing n lies n degrees of half a circle around, leads to the one after it, and belongs to one of four parts.
async fn put_things(client: &Client) {
    let thing = |at: usize| {
        let turn = at as f32 * std::f32::consts::PI / THINGS as f32;
        let mut thing = entity("things", &id(at));
        thing.vectors = vectors("v", &[turn.cos(), turn.sin(), 0.0, 0.0]);
        thing.attributes.insert("part".into(), int(at as i64 % 4));
        put_stream_request::Item::Entity(thing)
    };
    assert_eq!(client.put_all((0..THINGS).map(thing)).await, THINGS);
    let edges = (1..THINGS).map(|at| edge(name("things", &id(at - 1)), "next", name("things", &id(at))));
    let request = v1::PutEdgesRequest { edges: edges.collect(), ..Default::default() };
    let answer = client.graph().put_edges(request).await.expect("answered").into_inner();
    assert!(answer.results.iter().all(|result| result.status.as_ref().is_none_or(|status| status.code == 0)));
}

/// Everything that one daemon would answer.
async fn check(client: &Client, gone: &BTreeSet<usize>) {
    let here = |at: &usize| !gone.contains(at);
    let count = v1::CountRequest { collection: "things".into(), ..Default::default() };
    let counted = client.entities().count(count).await.expect("counted").into_inner().count;
    assert_eq!(counted as usize, THINGS - gone.len());
    let filter = Some(compare("part", v1::comparison::Operator::Equal, int(1)));
    let count = v1::CountRequest { collection: "things".into(), filter, ..Default::default() };
    let counted = client.entities().count(count).await.expect("counted").into_inner().count;
    assert_eq!(counted as usize, (0..THINGS).filter(|at| at % 4 == 1).filter(here).count());

    let nearest =
        v1::QueryRequest { limit: FOUND as u32, ..query("things", near("v", &[1.0, 0.0, 0.0, 0.0])) };
    let answer = client.search().query(nearest).await.expect("answered").into_inner();
    let found: Vec<String> = answer
        .hits
        .iter()
        .filter_map(|hit| hit.entity.as_ref())
        .map(|thing| id_of(thing).to_owned())
        .collect();
    let wanted: Vec<String> = (0..THINGS).filter(here).take(FOUND).map(id).collect();
    assert_eq!(found, wanted);
    let coverage = answer.coverage.expect("it is told");
    assert_eq!((coverage.answered, coverage.total), (256, 256));

    let start = (0..THINGS).rfind(|at| gone.contains(at)).map_or(0, |at| at + 1);
    let options = v1::ExpandOptions { hops: 4, ..Default::default() };
    let seeds = vec![name("things", &id(start))];
    let request = v1::ExpandRequest { seeds, options: Some(options), ..Default::default() };
    let mut walk = client.graph().expand(request).await.expect("walked").into_inner();
    let mut reached = Vec::new();
    while let Some(message) = walk.message().await.expect("a message") {
        reached.extend(message.nodes.into_iter().filter_map(|node| node.r#ref).map(|name| name.id));
    }
    assert_eq!(reached, (start + 1..start + 5).map(id).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_asked_answers_about_everything() {
    let mut ring = Ring::start(5).await;
    ring.client(0).create("things", "v", 4).await;
    put_things(&ring.client(1)).await;
    let mut gone = BTreeSet::new();
    for node in 0..5 {
        check(&ring.client(node), &gone).await;
    }
    // One dies, and does not hear of what goes meanwhile.
    ring.nodes[4].kill();
    for at in 0..5 {
        let request = v1::DeleteRequest { r#ref: Some(name("things", &id(at))), ..Default::default() };
        ring.client(at % 4).entities().delete(request).await.expect("a quorum is there");
        gone.insert(at);
    }
    for node in 0..4 {
        check(&ring.client(node), &gone).await;
    }
    // It is asked as soon as it is back, and another one stands still.
    ring.nodes[4].restart().await;
    ring.nodes[2].signal(Signal::STOP);
    for node in [4, 0, 1, 3] {
        check(&ring.client(node), &gone).await;
    }
    ring.nodes[2].signal(Signal::CONT);

    // Without two of them some partitions have no quorum.
    ring.nodes[3].kill();
    ring.nodes[4].kill();
    let nearest = v1::QueryRequest { limit: 1_000, ..query("things", near("v", &[1.0, 0.0, 0.0, 0.0])) };
    let refused = ring.client(0).search().query(nearest.clone()).await.expect_err("too few are there");
    assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused}");
    let partial = v1::QueryRequest { allow_partial: true, ..nearest };
    let answer = ring.client(0).search().query(partial).await.expect("a part").into_inner();
    let coverage = answer.coverage.expect("it is told");
    assert!(coverage.answered > 0 && coverage.answered < coverage.total, "{coverage:?}");
    assert!(answer.hits.len() < THINGS - gone.len());

    ring.nodes[3].restart().await;
    ring.nodes[4].restart().await;
    eventually("all is answered again", async || {
        let count = v1::CountRequest { collection: "things".into(), ..Default::default() };
        let counted = ring.client(3).entities().count(count).await.ok()?.into_inner().count;
        (counted as usize == THINGS - gone.len()).then_some(())
    })
    .await;
    for node in 0..5 {
        check(&ring.client(node), &gone).await;
    }
}
