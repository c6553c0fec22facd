//! Those who write until the daemon is gone: each has ids of its own, so that what an id may be is known.

use std::sync::Arc;

use allidb_api::v1::{self, Durability, put_stream_request::Item};
use bytes::Bytes;
use tokio::{sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::{
    COLLECTION,
    content::{self, State},
    ledger::{Ends, Ledger},
};
use crate::{
    client::{Client, assert_done},
    make::name,
    random::Random,
};

/// Ids of each writer.
const STREAMED: usize = 250;
const UNARY: usize = 40;
const BATCHED: usize = 120;
const BATCH: usize = 15;
/// Ends of edges that are no entities.
pub(super) const HUBS: usize = 16;

/// Starts all of them.
pub(super) fn start(client: &Client, ledger: &Arc<Ledger>, random: &mut Random) -> JoinSet<()> {
    let mut writers = JoinSet::new();
    for (prefix, durability) in [("stream-sync", Durability::Sync), ("stream-flush", Durability::Flush)] {
        let random = Random::new(random.next());
        writers.spawn(stream(client.clone(), ledger.clone(), random, prefix, durability));
    }
    for at in 0..3 {
        let random = Random::new(random.next());
        writers.spawn(unary(client.clone(), ledger.clone(), random, format!("unary-{at}")));
    }
    writers.spawn(batches(client.clone(), ledger.clone(), Random::new(random.next())));
    writers.spawn(edges(client.clone(), ledger.clone(), Random::new(random.next())));
    writers.spawn(deletes_with_edges(client.clone(), ledger.clone(), Random::new(random.next())));
    writers
}

/// The answer, or `None` once the daemon is gone.
fn unless_gone<T>(ledger: &Ledger, answer: Result<T, Status>) -> Option<T> {
    match answer {
        Ok(answer) => Some(answer),
        Err(status) => {
            assert!(ledger.is_ending(), "a write failed before the daemon was killed: {status:?}");
            None
        }
    }
}

/// Sent over a stream and not answered.
enum Sent {
    Entity(String, State),
    Edge(Ends, u64),
}

/// Puts of entities and of edges between them, many under way at once.
async fn stream(
    client: Client,
    ledger: Arc<Ledger>,
    mut random: Random,
    prefix: &'static str,
    durability: Durability,
) {
    let (items, taken) = mpsc::channel(64);
    let begun = client.entities().put_stream(ReceiverStream::new(taken)).await;
    let Some(answers) = unless_gone(&ledger, begun) else { return };
    let mut answers = answers.into_inner();
    let (sent, mut in_order) = mpsc::unbounded_channel();
    let sending = tokio::spawn({
        let ledger = ledger.clone();
        async move {
            for sequence in 0.. {
                let write = ledger.next_write();
                let id = |random: &mut Random| format!("{prefix}-{}", random.below(STREAMED));
                let (note, item) = if random.below(4) == 0 {
                    let ends = (id(&mut random), id(&mut random));
                    ledger.send_edge(&ends, Some(write));
                    let edge = content::edge(&ends.0, &ends.1, write);
                    (Sent::Edge(ends, write), Item::Edge(edge))
                } else {
                    let id = id(&mut random);
                    let state = State::There { put: write, update: None };
                    ledger.send(&id, state);
                    let entity = content::entity(&id, write, None);
                    (Sent::Entity(id, state), Item::Entity(entity))
                };
                // The receiver ends when the answers do.
                sent.send((sequence, note)).ok();
                let message = v1::PutStreamRequest {
                    sequence,
                    item: Some(item),
                    durability: durability.into(),
                    ..Default::default()
                };
                if items.send(message).await.is_err() {
                    return;
                }
            }
        }
    });
    let mut waiting = std::collections::HashMap::new();
    while let Some(answer) = unless_gone(&ledger, answers.message().await) {
        let answer = answer.expect("the stream does not end by itself");
        while let Ok((sequence, note)) = in_order.try_recv() {
            waiting.insert(sequence, note);
        }
        let result = answer.result.expect("a result");
        assert_done(&result);
        match waiting.remove(&answer.sequence).expect("sent, and answered once") {
            Sent::Entity(id, state) => ledger.land(&id, state, result.version),
            Sent::Edge(ends, put) => ledger.land_edge(&ends, Some(put), result.version),
        }
    }
    drop(answers);
    sending.await.expect("the sender ends with the stream");
}

/// Puts, updates and deletes, one after the other.
async fn unary(client: Client, ledger: Arc<Ledger>, mut random: Random, prefix: String) {
    loop {
        let id = format!("{prefix}-{}", random.below(UNARY));
        let write = ledger.next_write();
        let before = ledger.state(&id);
        let (state, version) = match (random.below(10), before) {
            (0..=1, _) => {
                ledger.send(&id, State::Absent);
                let Some(answer) = unless_gone(&ledger, client.delete(name(COLLECTION, &id)).await) else {
                    return;
                };
                assert_eq!(answer.existed, before != State::Absent, "{id}");
                (State::Absent, answer.version)
            }
            (2..=5, State::There { put, .. }) => {
                let state = State::There { put, update: Some(write) };
                ledger.send(&id, state);
                let answer = client.entities().update(content::update(&id, write)).await;
                let Some(answer) = unless_gone(&ledger, answer) else { return };
                (state, answer.into_inner().version)
            }
            (2..=5, State::Absent) => {
                let state = State::There { put: 0, update: Some(write) };
                ledger.send(&id, state);
                match client.entities().update(content::update(&id, write)).await {
                    Err(status) if status.code() == Code::NotFound => ledger.refused(&id, state),
                    Err(status) => {
                        unless_gone::<()>(&ledger, Err(status));
                        return;
                    }
                    Ok(_) => panic!("{id} was deleted and could be updated"),
                }
                continue;
            }
            _ => {
                let state = State::There { put: write, update: None };
                ledger.send(&id, state);
                let answer = client.put(content::entity(&id, write, None)).await;
                let Some(version) = unless_gone(&ledger, answer) else { return };
                (state, version)
            }
        };
        ledger.land(&id, state, version);
    }
}

/// Several different ids.
fn some_ids(random: &mut Random, count: usize) -> Vec<String> {
    let mut ids: Vec<String> = (0..count).map(|_| format!("batch-{}", random.below(BATCHED))).collect();
    ids.sort();
    ids.dedup();
    ids
}

/// Batches of puts, and now and then of deletes.
async fn batches(client: Client, ledger: Arc<Ledger>, mut random: Random) {
    loop {
        let ids = some_ids(&mut random, BATCH);
        let is_delete = random.below(4) == 0;
        let write = ledger.next_write();
        let state = if is_delete { State::Absent } else { State::There { put: write, update: None } };
        for id in &ids {
            ledger.send(id, state);
        }
        let results = if is_delete {
            let refs = ids.iter().map(|id| name(COLLECTION, id)).collect();
            let request = v1::BatchDeleteRequest { refs, ..Default::default() };
            client.entities().batch_delete(request).await.map(|answer| answer.into_inner().results)
        } else {
            let entities = ids.iter().map(|id| content::entity(id, write, None)).collect();
            let request = v1::BatchPutRequest { entities, ..Default::default() };
            client.entities().batch_put(request).await.map(|answer| answer.into_inner().results)
        };
        let Some(results) = unless_gone(&ledger, results) else { return };
        assert_eq!(results.len(), ids.len());
        for (id, result) in ids.iter().zip(results) {
            if result.status.as_ref().is_some_and(|status| status.code != 0) && ledger.is_ending() {
                return;
            }
            assert_done(&result);
            ledger.land(id, state, result.version);
        }
    }
}

fn hub(random: &mut Random) -> String {
    format!("hub-{}", random.below(HUBS))
}

fn edge_ref(ends: &Ends) -> v1::EdgeRef {
    v1::EdgeRef {
        from: Some(name(COLLECTION, &ends.0)),
        relation: content::RELATION.into(),
        to: Some(name(COLLECTION, &ends.1)),
        edge_id: String::new(),
    }
}

/// Edges between hubs, put and deleted.
async fn edges(client: Client, ledger: Arc<Ledger>, mut random: Random) {
    loop {
        let ends = (hub(&mut random), hub(&mut random));
        let put = (random.below(3) > 0).then(|| ledger.next_write());
        ledger.send_edge(&ends, put);
        let results = match put {
            Some(put) => client.put_edges(vec![content::edge(&ends.0, &ends.1, put)]).await,
            None => {
                let request = v1::DeleteEdgesRequest { edges: vec![edge_ref(&ends)], ..Default::default() };
                client.graph().delete_edges(request).await.map(|answer| answer.into_inner().results)
            }
        };
        let Some(results) = unless_gone(&ledger, results) else { return };
        let Some(version) = only_version(&ledger, &results) else { return };
        ledger.land_edge(&ends, put, version);
    }
}

fn only_version(ledger: &Ledger, results: &[v1::ItemResult]) -> Option<Bytes> {
    let [result] = results else { panic!("one item, {} results", results.len()) };
    if result.status.as_ref().is_some_and(|status| status.code != 0) && ledger.is_ending() {
        return None;
    }
    assert_done(result);
    Some(result.version.clone())
}

/// Entities with an edge out and an edge in, then deleted: all three go together.
async fn deletes_with_edges(client: Client, ledger: Arc<Ledger>, mut random: Random) {
    loop {
        let write = ledger.next_write();
        let id = format!("doomed-{write}");
        let state = State::There { put: write, update: None };
        ledger.send(&id, state);
        let answer = client.put(content::entity(&id, write, None)).await;
        let Some(version) = unless_gone(&ledger, answer) else { return };
        ledger.land(&id, state, version);

        let both = [(id.clone(), hub(&mut random)), (hub(&mut random), id.clone())];
        for ends in &both {
            ledger.send_edge(ends, Some(write));
        }
        let edges = both.iter().map(|ends| content::edge(&ends.0, &ends.1, write)).collect();
        let Some(results) = unless_gone(&ledger, client.put_edges(edges).await) else { return };
        assert_eq!(results.len(), both.len());
        for (ends, result) in both.iter().zip(results) {
            let Some(version) = only_version(&ledger, &[result]) else { return };
            ledger.land_edge(ends, Some(write), version);
        }
        if random.below(4) == 0 {
            continue;
        }
        ledger.send_doom(&id, &both);
        let Some(answer) = unless_gone(&ledger, client.delete(name(COLLECTION, &id)).await) else { return };
        assert!(answer.existed, "{id}");
        ledger.land_doom(&id, &answer.version);
    }
}
