//! `PutStream`: order, answers, and clients that go away.

use std::collections::HashMap;

use allidb_api::v1::{self, entities_client::EntitiesClient, put_stream_request::Item};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::running::{Running, connect, edge, entity, int, name, reason};

fn message(sequence: u64, item: Item) -> v1::PutStreamRequest {
    v1::PutStreamRequest { sequence, item: Some(item), ..Default::default() }
}

async fn begin(running: &Running) -> (mpsc::Sender<v1::PutStreamRequest>, Streaming<v1::PutStreamResponse>) {
    let (items, sent) = mpsc::channel(64);
    let answers = running.entities().put_stream(ReceiverStream::new(sent)).await.expect("begun");
    (items, answers.into_inner())
}

/// Every status by its sequence.
async fn drain(
    mut answers: Streaming<v1::PutStreamResponse>,
) -> Result<HashMap<u64, v1::ItemResult>, Status> {
    let mut results = HashMap::new();
    while let Some(answer) = answers.message().await? {
        let before = results.insert(answer.sequence, answer.result.expect("a result"));
        assert!(before.is_none(), "item {} was answered twice", answer.sequence);
    }
    Ok(results)
}

fn code(result: &v1::ItemResult) -> i32 {
    result.status.as_ref().expect("a status").code
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_of_one_entity_keep_their_order() {
    const ITEMS: u64 = 4_000;
    const ENTITIES: u64 = 7;
    let running = Running::start().await;
    let (items, answers) = begin(&running).await;
    let sending = tokio::spawn(async move {
        for sequence in 0..ITEMS {
            let id = format!("e-{}", sequence % ENTITIES);
            let item = Item::Entity(entity(&id, sequence as i64));
            items.send(message(sequence, item)).await.expect("taken");
        }
    });
    let results = drain(answers).await.expect("to the end");
    sending.await.expect("all sent");
    assert_eq!(results.len() as u64, ITEMS);
    assert!(results.values().all(|result| code(result) == 0 && result.version.len() == 16));
    for sequence in ITEMS - ENTITIES..ITEMS {
        let found = running.get(&format!("e-{}", sequence % ENTITIES)).await.expect("there");
        assert_eq!(found.attributes["number"], int(sequence as i64));
        assert_eq!(found.version, results[&sequence].version);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_item_has_its_own_status() {
    let running = Running::start().await;
    let (items, answers) = begin(&running).await;
    let nameless = Item::Entity(v1::Entity::default());
    let heavy = Item::Edge(edge("a", "b", 2.0));
    for (sequence, item) in [Item::Entity(entity("a", 1)), nameless, Item::Edge(edge("a", "b", 0.5)), heavy]
        .into_iter()
        .enumerate()
    {
        items.send(message(sequence as u64, item)).await.expect("taken");
    }
    items.send(v1::PutStreamRequest { sequence: 4, ..Default::default() }).await.expect("taken");
    drop(items);
    let results = drain(answers).await.expect("to the end");
    let codes: Vec<_> = (0..5).map(|sequence| code(&results[&sequence])).collect();
    let wrong = Code::InvalidArgument as i32;
    assert_eq!(codes, [0, wrong, 0, wrong, wrong]);
    assert_eq!(results[&1].status.as_ref().expect("a status").message, "entity.ref must be set");
    let request = v1::NeighborsRequest { r#ref: Some(name("a")), ..Default::default() };
    let found = running.graph().neighbors(request).await.expect("answered").into_inner().neighbors;
    assert_eq!(found.len(), 1);
}

/// Puts entities without end and vanishes, as a killed process does, once `enough` were acknowledged.
fn put_and_vanish(address: std::net::SocketAddr, enough: usize) -> Vec<u64> {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let acknowledged = runtime.block_on(async {
        let items = tokio_stream::iter(
            (0..).map(|sequence| message(sequence, Item::Entity(entity(&format!("e-{sequence}"), 1)))),
        );
        let mut client = EntitiesClient::new(connect(address).await);
        let mut answers = client.put_stream(items).await.expect("begun").into_inner();
        let mut acknowledged = Vec::new();
        while acknowledged.len() < enough {
            let answer = answers.message().await.expect("a message").expect("not the end");
            assert_eq!(code(answer.result.as_ref().expect("a result")), 0);
            acknowledged.push(answer.sequence);
        }
        acknowledged
    });
    // Takes the connection with it, in the middle of whatever it is sending.
    runtime.shutdown_background();
    acknowledged
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_stays_when_the_client_goes_away() {
    let running = Running::start().await;
    let address = running.daemon.grpc_addr();
    let vanished = tokio::task::spawn_blocking(move || put_and_vanish(address, 300));
    for sequence in vanished.await.expect("acknowledged") {
        running.get(&format!("e-{sequence}")).await.expect("acknowledged");
    }
    running.daemon.shutdown().await.expect("nothing hangs");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_option_ends_the_stream() {
    let running = Running::start().await;
    let (items, answers) = begin(&running).await;
    let first = v1::PutStreamRequest { durability: 9, ..message(0, Item::Entity(entity("a", 1))) };
    items.send(first).await.expect("taken");
    let refused = drain(answers).await.expect_err("no such durability");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::InvalidArgument, "INVALID_FIELD"));
    assert_eq!(running.get("a").await.expect_err("never put").code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn shutting_down_answers_what_was_taken_and_ends_the_stream() {
    let running = Running::start().await;
    let (items, mut answers) = begin(&running).await;
    items.send(message(0, Item::Entity(entity("a", 1)))).await.expect("taken");
    let answer = answers.message().await.expect("a message").expect("an answer");
    assert_eq!(code(answer.result.as_ref().expect("a result")), 0);
    let Running { daemon, dir, channel } = running;
    let closing = tokio::spawn(daemon.shutdown());
    let ended = drain(answers).await.expect_err("the server goes");
    assert_eq!((ended.code(), reason(&ended).as_str()), (Code::Unavailable, "SHUTTING_DOWN"));
    drop((items, channel));
    closing.await.expect("no panic").expect("closed");

    let daemon = allidbd::Daemon::start(crate::running::config(dir.path())).await.expect("opened again");
    let channel = connect(daemon.grpc_addr()).await;
    let again = Running { daemon, dir, channel };
    assert_eq!(again.get("a").await.expect("acknowledged").attributes["number"], int(1));
}
