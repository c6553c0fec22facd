//! The sender against a server of the test's own: answers late, out of order, refused or not at all.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use allidb_api::v1::{
    self, ItemResult,
    entities_server::{Entities, EntitiesServer},
    put_stream_request::Item,
};
use tokio::{net::TcpListener, time::timeout};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, transport::Server};

use crate::client::Client;

use super::*;
use crate::{entity_json::entity_ref, failure::exit_code, ledger::Counts};

type Answer = Result<PutStreamResponse, Status>;

/// Reads `together` messages, then answers them with what `answers` makes of them.
#[derive(Clone)]
struct Fake {
    together: usize,
    answers: fn(Vec<PutStreamRequest>) -> Vec<Answer>,
}

#[tonic::async_trait]
impl Entities for Fake {
    type PutStreamStream = ReceiverStream<Answer>;

    async fn put_stream(
        &self,
        request: Request<Streaming<PutStreamRequest>>,
    ) -> Result<Response<Self::PutStreamStream>, Status> {
        let Self { together, answers } = self.clone();
        let mut messages = request.into_inner();
        // The answer begins only after the first item, as the contract allows.
        let first = messages.message().await?;
        let (sender, receiver) = mpsc::channel(16);
        tokio::spawn(async move {
            let mut taken: Vec<_> = first.into_iter().collect();
            loop {
                while taken.len() < together
                    && let Ok(Some(message)) = messages.message().await
                {
                    taken.push(message);
                }
                if taken.is_empty() {
                    return;
                }
                for answer in answers(std::mem::take(&mut taken)) {
                    if sender.send(answer).await.is_err() {
                        return;
                    }
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn put(&self, _: Request<v1::PutRequest>) -> Result<Response<v1::PutResponse>, Status> {
        Err(Status::unimplemented("only put_stream"))
    }

    async fn batch_put(
        &self,
        _: Request<v1::BatchPutRequest>,
    ) -> Result<Response<v1::BatchPutResponse>, Status> {
        Err(Status::unimplemented("only put_stream"))
    }

    async fn update(&self, _: Request<v1::UpdateRequest>) -> Result<Response<v1::PutResponse>, Status> {
        Err(Status::unimplemented("only put_stream"))
    }

    async fn get(&self, _: Request<v1::GetRequest>) -> Result<Response<v1::Entity>, Status> {
        Err(Status::unimplemented("only put_stream"))
    }

    async fn batch_get(
        &self,
        _: Request<v1::BatchGetRequest>,
    ) -> Result<Response<v1::BatchGetResponse>, Status> {
        Err(Status::unimplemented("only put_stream"))
    }

    async fn delete(&self, _: Request<v1::DeleteRequest>) -> Result<Response<v1::DeleteResponse>, Status> {
        Err(Status::unimplemented("only put_stream"))
    }

    async fn batch_delete(
        &self,
        _: Request<v1::BatchDeleteRequest>,
    ) -> Result<Response<v1::BatchDeleteResponse>, Status> {
        Err(Status::unimplemented("only put_stream"))
    }

    async fn facets(&self, _: Request<v1::FacetsRequest>) -> Result<Response<v1::FacetsResponse>, Status> {
        Err(Status::unimplemented("only put_stream"))
    }

    async fn merge(&self, _: Request<v1::MergeRequest>) -> Result<Response<v1::MergeResponse>, Status> {
        Err(Status::unimplemented("only put_stream"))
    }

    async fn delete_where(
        &self,
        _: Request<v1::DeleteWhereRequest>,
    ) -> Result<Response<v1::DeleteWhereResponse>, Status> {
        Err(Status::unimplemented("only put_stream"))
    }

    async fn delete_by_source(
        &self,
        _: Request<v1::DeleteBySourceRequest>,
    ) -> Result<Response<v1::DeleteBySourceResponse>, Status> {
        Err(Status::unimplemented("only put_stream"))
    }

    async fn put_chunks(
        &self,
        _: Request<v1::PutChunksRequest>,
    ) -> Result<Response<v1::PutResponse>, Status> {
        Err(Status::unimplemented("only put_stream"))
    }

    async fn delete_chunks(
        &self,
        _: Request<v1::DeleteChunksRequest>,
    ) -> Result<Response<v1::PutResponse>, Status> {
        Err(Status::unimplemented("only put_stream"))
    }

    async fn range_scan(
        &self,
        _: Request<v1::RangeScanRequest>,
    ) -> Result<Response<v1::RangeScanResponse>, Status> {
        Err(Status::unimplemented("only put_stream"))
    }

    async fn count(&self, _: Request<v1::CountRequest>) -> Result<Response<v1::CountResponse>, Status> {
        Err(Status::unimplemented("only put_stream"))
    }
}

fn answer(sequence: u64, code: i32) -> Answer {
    let status = tonic_types::Status { code, message: "because".to_owned(), details: Vec::new() };
    let result = ItemResult { status: Some(status), ..ItemResult::default() };
    Ok(PutStreamResponse { sequence, result: Some(result) })
}

fn entity(number: u64) -> Prepared {
    let id = number.to_string();
    let item = Item::Entity(v1::Entity { r#ref: Some(entity_ref("c", &id)), ..v1::Entity::default() });
    Prepared::Ready {
        origin: Origin { number, original: Original::Line(format!("{{\"id\":\"{id}\"}}")) },
        label: Label::of(&item),
        item,
    }
}

/// Sends `batches` through a window of 8; gives the result, the counts and the names of what was acknowledged.
async fn sent(fake: Fake, batches: Vec<Batch>, dir: &Path) -> (Result<()>, Counts, Vec<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let server = Server::builder().add_service(EntitiesServer::new(fake));
    let serving = tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    let client = Client::connect(&address).await.unwrap();
    let (sender, receiver) = mpsc::channel(batches.len().max(1));
    for batch in batches {
        sender.send(batch).await.unwrap();
    }
    drop(sender);
    let (acknowledged, rejects) = (dir.join("acknowledged"), dir.join("rejects"));
    let mut ledger = Ledger::open(Some(&acknowledged), Some(&rejects)).unwrap();
    ledger.begin("entities", None);
    let sending = send(client.entities(), receiver, 8, (Durability::Sync, 0), &mut ledger);
    let result = timeout(Duration::from_secs(60), sending).await.expect("the sender hangs");
    let counts = ledger.end().unwrap();
    serving.abort();
    let labels = fs::read_to_string(acknowledged).unwrap();
    let name = |line: &str| line.split('\t').next().unwrap_or_default().to_owned();
    (result, counts, labels.lines().map(name).collect())
}

#[tokio::test]
async fn answers_may_come_late_and_in_any_order() {
    let dir = tempfile::tempdir().unwrap();
    let backwards =
        |taken: Vec<PutStreamRequest>| taken.iter().rev().map(|item| answer(item.sequence, 0)).collect();
    let fake = Fake { together: 8, answers: backwards };
    let batches = (0..10).map(|batch| Ok((batch * 10..batch * 10 + 10).map(entity).collect())).collect();
    let (result, counts, mut labels) = sent(fake, batches, dir.path()).await;
    result.unwrap();
    assert_eq!(counts.acknowledged, 100);
    labels.sort_by_key(|label| label.parse::<u64>().unwrap());
    assert_eq!(labels, (0..100).map(|number| number.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn refused_items_go_to_the_rejects_with_their_reason() {
    let dir = tempfile::tempdir().unwrap();
    let odd_ones = |taken: Vec<PutStreamRequest>| {
        taken.iter().map(|item| answer(item.sequence, if item.sequence % 2 == 0 { 3 } else { 0 })).collect()
    };
    let mut batch: Vec<_> = (1..=6).map(entity).collect();
    batch.push(Prepared::Bad {
        origin: Origin { number: 7, original: Original::Line("{".to_owned()) },
        reason: "not JSON".to_owned(),
    });
    batch.push(Prepared::Skipped);
    let (result, counts, labels) =
        sent(Fake { together: 1, answers: odd_ones }, vec![Ok(batch)], dir.path()).await;
    result.unwrap();
    assert_eq!((counts.acknowledged, counts.rejected, counts.skipped), (3, 4, 1));
    assert_eq!(labels, ["1", "3", "5"]);
    let rejects = fs::read_to_string(dir.path().join("rejects")).unwrap();
    let second =
        r#"{"file":"entities","line":2,"code":"INVALID_ARGUMENT","reason":"because","item":{"id":"2"}}"#;
    assert!(rejects.lines().any(|line| line == second), "{rejects}");
    assert!(rejects.contains(r#""reason":"not JSON","item":"{""#), "{rejects}");
}

#[tokio::test]
async fn a_broken_call_keeps_what_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let then_gone = |taken: Vec<PutStreamRequest>| {
        let done = taken.iter().take(3).map(|item| answer(item.sequence, 0));
        done.chain([Err(Status::unavailable("going down"))]).collect()
    };
    let batches = vec![Ok((0..50).map(entity).collect())];
    let (result, counts, labels) = sent(Fake { together: 5, answers: then_gone }, batches, dir.path()).await;
    let error = result.unwrap_err();
    assert!(format!("{error:#}").contains("8 items sent and unanswered"), "{error:#}");
    assert_eq!(exit_code(&error), Some(4));
    assert_eq!((counts.acknowledged, labels.len()), (3, 3));
}

#[tokio::test]
async fn a_stream_that_ends_early_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let forgets = |taken: Vec<PutStreamRequest>| {
        taken.iter().filter(|item| item.sequence != 2).map(|item| answer(item.sequence, 0)).collect()
    };
    let batches = vec![Ok((0..5).map(entity).collect())];
    let (result, counts, _) = sent(Fake { together: 1, answers: forgets }, batches, dir.path()).await;
    assert!(result.unwrap_err().to_string().contains("1 items unanswered"));
    assert_eq!(counts.acknowledged, 4);
}

#[tokio::test]
async fn a_reader_that_fails_stops_the_import() {
    let dir = tempfile::tempdir().unwrap();
    let batches = vec![Ok(vec![entity(1)]), Err(anyhow!("line 2: not UTF-8"))];
    let accepts = |taken: Vec<PutStreamRequest>| taken.iter().map(|item| answer(item.sequence, 0)).collect();
    let (result, _, _) = sent(Fake { together: 1, answers: accepts }, batches, dir.path()).await;
    assert!(result.unwrap_err().to_string().contains("not UTF-8"));
}

#[tokio::test]
async fn what_cannot_be_taken_just_then_is_sent_again_but_not_for_ever() {
    static ROUNDS: AtomicU64 = AtomicU64::new(0);
    let dir = tempfile::tempdir().unwrap();
    // Each other item of the first messages, and one for ever.
    let unavailable = |taken: Vec<PutStreamRequest>| {
        let is_early = ROUNDS.fetch_add(1, Ordering::Relaxed) < 3;
        let is_refused = |item: &PutStreamRequest| {
            let Some(Item::Entity(entity)) = &item.item else { return false };
            let id = &entity.r#ref.as_ref().unwrap().id;
            id == "7" || (is_early && item.sequence.is_multiple_of(2))
        };
        taken.iter().map(|item| answer(item.sequence, if is_refused(item) { 14 } else { 0 })).collect()
    };
    let batches = vec![Ok((0..10).map(entity).collect())];
    let (result, counts, mut labels) =
        sent(Fake { together: 1, answers: unavailable }, batches, dir.path()).await;
    result.unwrap();
    labels.sort_by_key(|label| label.parse::<u64>().unwrap());
    assert_eq!(labels, ["0", "1", "2", "3", "4", "5", "6", "8", "9"]);
    assert_eq!((counts.acknowledged, counts.rejected), (9, 1));
}
