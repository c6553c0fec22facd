//! Messages of a few bytes, each in an HTTP/2 frame of its own as clients in other languages send them, and more of them than the
//! daemon gets round to read.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use allidb_api::v1::{self, put_stream_request::Item};
use bytes::{Buf, Bytes};
use http_body_util::{BodyExt, StreamBody};
use prost::Message;
use rustix::process::Signal;
use tokio_stream::StreamExt;
use tonic::{client::GrpcService, codegen::http::Request};

use crate::{
    make::name,
    process::{Process, eventually},
};

const ITEMS: usize = 20_000;
/// Some fewer than a stream may hold unread.
const UNREAD: usize = 8_500;

/// The message as a frame holds it: not compressed, its length, itself.
fn framed(message: &impl Message) -> Bytes {
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(message.encoded_len()).expect("short").to_be_bytes());
    message.encode(&mut frame).expect("there is room");
    frame.into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_them_waits_for_a_daemon_that_is_slow() {
    let process = Process::start().await;
    process.client().create("c", "v", 2).await;
    let sent = Arc::new(AtomicUsize::new(0));
    let item = |at: usize| {
        let entity = v1::Entity { r#ref: Some(name("c", &format!("s{at}"))), ..Default::default() };
        framed(&v1::PutStreamRequest { item: Some(Item::Entity(entity)), ..Default::default() })
    };
    let count = Arc::clone(&sent);
    let frames = tokio_stream::iter((0..ITEMS).map(item)).map(move |bytes| {
        count.fetch_add(1, Ordering::Relaxed);
        Ok::<_, tonic::Status>(http_body::Frame::data(bytes))
    });
    let request = Request::post(format!("http://{}/allidb.v1.Entities/PutStream", process.grpc()))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(tonic::body::Body::new(StreamBody::new(frames)))
        .expect("a request");
    let mut channel = process.client().channel;
    process.signal(Signal::STOP);
    let answer = tokio::spawn(async move {
        std::future::poll_fn(|cx| GrpcService::poll_ready(&mut channel, cx)).await?;
        channel.call(request).await
    });
    eventually("a full stream", async || (sent.load(Ordering::Relaxed) >= UNREAD).then_some(())).await;
    process.signal(Signal::CONT);
    let body = answer.await.expect("no panic").expect("an answer").into_body();
    let body = body.collect().await.expect("the connection lasts");
    let status = body.trailers().and_then(|trailers| trailers.get("grpc-status")).cloned();
    assert_eq!(status.expect("a status"), "0");
    let mut answers = body.to_bytes();
    let mut done = 0;
    while !answers.is_empty() {
        assert_eq!(answers.get_u8(), 0, "not compressed");
        let length = answers.get_u32() as usize;
        let answer = v1::PutStreamResponse::decode(answers.split_to(length)).expect("an answer");
        assert_eq!(answer.result.expect("a result").status.unwrap_or_default().code, 0);
        done += 1;
    }
    assert_eq!(done, ITEMS);
}
