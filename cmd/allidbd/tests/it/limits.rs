//! Options that change how requests are answered.

use std::time::Duration;

use allidb_api::v1::{self, put_stream_request::Item};
use allidbd::{
    Daemon,
    config::{ByteSize, Span},
};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::running::{COLLECTION, Running, config, connect, entity, field, reason};

fn large_entity(bytes: usize) -> v1::Entity {
    v1::Entity { r#type: "x".repeat(bytes), ..entity("large", 1) }
}

fn refused_as_too_large(status: &Status, limit: &str) {
    assert_eq!((status.code(), reason(status).as_str()), (Code::ResourceExhausted, "MESSAGE_TOO_LARGE"));
    assert_eq!(status.get_details_error_info().expect("info").metadata["limit_bytes"], limit);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_over_the_limit_is_refused_as_the_contract_says() {
    let running = Running::start_with(|config| config.limits.message_bytes = ByteSize(100_000)).await;
    let refused = running.put(large_entity(200_000)).await.expect_err("too large");
    refused_as_too_large(&refused, "100000");

    let item = v1::PutStreamRequest { item: Some(Item::Entity(large_entity(200_000))), ..Default::default() };
    let stream = running.entities().put_stream(tokio_stream::iter([item])).await.expect("begun");
    let refused = stream.into_inner().message().await.expect_err("too large");
    refused_as_too_large(&refused, "100000");
    running.put(entity("small", 1)).await.expect("the connection still works");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_over_the_limit_is_refused_as_the_contract_says() {
    let running = Running::start_with(|config| config.limits.answer_bytes = ByteSize(10_000)).await;
    let mut large = entity("large", 1);
    for at in 0..100 {
        let text = v1::Value { kind: Some(v1::value::Kind::StringValue("x".repeat(200))) };
        large.attributes.insert(format!("a{at}"), text);
    }
    running.put(large).await.expect("put");
    refused_as_too_large(&running.get("large").await.expect_err("too large"), "10000");
}

/// It is not made as a whole to be refused then.
#[tokio::test(flavor = "multi_thread")]
async fn answers_of_a_batch_are_refused_once_they_are_too_large_together() {
    let running = Running::start_with(|config| config.limits.answer_bytes = ByteSize(10_000)).await;
    let mut large = entity("large", 1);
    let text = v1::Value { kind: Some(v1::value::Kind::StringValue("x".repeat(4_000))) };
    large.attributes.insert("text".to_owned(), text);
    running.put(large).await.expect("put");
    let ids = v1::Ids { refs: vec![v1::EntityRef { collection: COLLECTION.into(), id: "large".into() }] };
    let seeds = vec![v1::Seed { kind: Some(v1::seed::Kind::Ids(ids)) }];
    let query = v1::QueryRequest { collection: COLLECTION.into(), seeds, ..Default::default() };
    let batch = |count| v1::BatchQueryRequest { queries: vec![query.clone(); count] };
    let answered = running.search().batch_query(batch(2)).await.expect("there is room").into_inner();
    assert!(answered.results.iter().all(|result| result.response.is_some()), "{answered:?}");
    let refused = running.search().batch_query(batch(50)).await.expect_err("too large");
    refused_as_too_large(&refused, "10000");
    assert!(refused.message().contains("a part of the queries"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bounds_on_batches_are_options() {
    let running = Running::start_with(|config| config.limits.batch_items = 2).await;
    let entities = vec![entity("a", 1), entity("b", 1), entity("c", 1)];
    let request = v1::BatchPutRequest { entities, ..Default::default() };
    let refused = running.entities().batch_put(request).await.expect_err("three");
    assert_eq!((reason(&refused).as_str(), field(&refused).as_str()), ("LIMIT_EXCEEDED", "entities"));
    assert_eq!(running.get("a").await.expect_err("nothing was put").code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deadline_is_an_option() {
    let Running { daemon, dir, .. } = Running::start().await;
    daemon.shutdown().await.expect("down");
    let mut config = config(dir.path());
    config.limits.deadline = Span(Duration::from_nanos(1_000));
    let daemon = Daemon::start(config).await.expect("the daemon starts");
    let running = Running { channel: connect(daemon.grpc_addr()).await, daemon, dir };
    let request = v1::CountRequest { collection: COLLECTION.into(), ..Default::default() };
    let late = running.entities().count(request).await.expect_err("no time at all");
    assert_eq!((late.code(), reason(&late).as_str()), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_under_way_are_bounded() {
    let running = Running::start_with(|config| config.limits.concurrent_requests = 1).await;
    // A stream that stays open takes the only place.
    let (items, sent) = tokio::sync::mpsc::channel::<v1::PutStreamRequest>(1);
    let sent = tokio_stream::wrappers::ReceiverStream::new(sent);
    let stream = running.entities().put_stream(sent).await.expect("begun");
    let refused = running.put(entity("a", 1)).await.expect_err("no place");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::ResourceExhausted, "TOO_MANY_REQUESTS"));
    assert!(refused.get_details_retry_info().is_some());
    drop(items);
    assert!(stream.into_inner().message().await.expect("the end").is_none());
    running.put(entity("a", 1)).await.expect("a place is free");
}
