//! Texts in place of vectors: a stand-in for an embedding service, and a static model made here.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use allidb_api::v1::{self, nearest::Target, put_stream_request::Item, seed::Kind};
use allidbd::{Config, Daemon};
use axum::{Router, body::Bytes, extract::State, http::StatusCode, response::IntoResponse, routing::post};
use serde_json::{Value as Json, json};
use tempfile::TempDir;
use tonic::{Code, Status};

use crate::running::{COLLECTION, Running, SPACE, config, entity, reason, vector};

/// What the stand-in does, and what it was asked.
#[derive(Default)]
struct Service {
    /// How many texts each call had.
    calls: Vec<usize>,
    authorization: Vec<String>,
    /// Answers to give first, before it does as it is asked.
    first: Vec<Answer>,
}

#[derive(Clone, Copy)]
enum Answer {
    Status(u16),
    Slow,
    Garbage,
    TooFew,
    OtherDimension,
    SameIndex,
}

type Shared = Arc<Mutex<Service>>;

/// East is [1, 0], north is [0, 1]; everything else lies between them.
fn vector_of(text: &str) -> Vec<f32> {
    match text {
        "east" => vec![1.0, 0.0],
        "north" => vec![0.0, 1.0],
        _ => vec![0.7, 0.7],
    }
}

async fn answer(
    shared: Shared,
    headers: axum::http::HeaderMap,
    body: Bytes,
    shape: fn(Vec<Vec<f32>>) -> Json,
) -> axum::response::Response {
    let asked: Json = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(asked["model"], "compass");
    let texts: Vec<String> = serde_json::from_value(asked["input"].clone()).expect("texts");
    let first = {
        let mut service = shared.lock().expect("not poisoned");
        service.calls.push(texts.len());
        let key = headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
        service.authorization.push(key.to_owned());
        if service.first.is_empty() { None } else { Some(service.first.remove(0)) }
    };
    let mut vectors: Vec<Vec<f32>> = texts.iter().map(|text| vector_of(text)).collect();
    match first {
        Some(Answer::Status(status)) => {
            let status = StatusCode::from_u16(status).expect("a status");
            let headers = [("retry-after", "0"), ("location", "/elsewhere")];
            return (status, headers, "not in the mood").into_response();
        }
        Some(Answer::Slow) => tokio::time::sleep(Duration::from_secs(5)).await,
        Some(Answer::Garbage) => return "{".into_response(),
        Some(Answer::TooFew) => vectors.truncate(vectors.len() - 1),
        Some(Answer::OtherDimension) => vectors.iter_mut().for_each(|vector| vector.push(0.0)),
        Some(Answer::SameIndex) => {
            let data: Vec<Json> =
                vectors.iter().map(|vector| json!({ "index": 0, "embedding": vector })).collect();
            return json!({ "data": data }).to_string().into_response();
        }
        None => {}
    }
    shape(vectors).to_string().into_response()
}

/// In the order that is worst for who does not look at `index`.
fn as_openai(vectors: Vec<Vec<f32>>) -> Json {
    let data = vectors.into_iter().enumerate().rev();
    let data: Vec<Json> =
        data.map(|(index, embedding)| json!({ "index": index, "embedding": embedding })).collect();
    json!({ "object": "list", "data": data })
}

fn as_ollama(vectors: Vec<Vec<f32>>) -> Json {
    json!({ "model": "compass", "embeddings": vectors })
}

async fn service() -> (Shared, SocketAddr) {
    let shared = Shared::default();
    let openai = |State(shared): State<Shared>, headers, body| answer(shared, headers, body, as_openai);
    let ollama = |State(shared): State<Shared>, headers, body| answer(shared, headers, body, as_ollama);
    let routes = Router::new()
        .route("/v1/embeddings", post(openai))
        .route("/api/embed", post(ollama))
        .with_state(shared.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, routes).await.expect("it serves") });
    (shared, address)
}

async fn running(url: String) -> Running {
    Running::start_with(|config| {
        config.embedding.url = Some(url);
        config.embedding.model = Some("compass".into());
        config.embedding.batch = 3;
        config.embedding.timeout = "300ms".parse().expect("a length of time");
    })
    .await
}

fn text(text: &str) -> v1::Vector {
    v1::Vector { text: text.into(), ..Default::default() }
}

fn worded(id: &str, words: &str) -> v1::Entity {
    v1::Entity { vectors: BTreeMap::from([(SPACE.to_owned(), text(words))]), ..entity(id, 1) }
}

async fn nearest(running: &Running, words: &str) -> Result<Vec<String>, Status> {
    let nearest =
        v1::Nearest { space: SPACE.into(), target: Some(Target::Text(words.into())), ..Default::default() };
    let seeds = vec![v1::Seed { kind: Some(Kind::Nearest(nearest)) }];
    let request = v1::QueryRequest { collection: COLLECTION.into(), seeds, ..Default::default() };
    let answer = running.search().query(request).await?.into_inner();
    Ok(answer
        .hits
        .into_iter()
        .map(|hit| hit.entity.unwrap_or_default().r#ref.unwrap_or_default().id)
        .collect())
}

#[tokio::test]
async fn texts_become_vectors_in_writes_and_queries() {
    for (path, dialect) in [("v1/embeddings", "openai"), ("api/embed", "ollama")] {
        let (service, address) = service().await;
        let running = running(format!("http://{address}/{path}")).await;
        running.put(worded("e", "east")).await.expect("embedded");
        let chunk = v1::Chunk {
            id: "c".into(),
            vectors: BTreeMap::from([(SPACE.to_owned(), text("north"))]),
            ..Default::default()
        };
        running.put(v1::Entity { chunks: vec![chunk], ..worded("n", "north") }).await.expect("embedded");
        running
            .put(v1::Entity {
                vectors: BTreeMap::from([(SPACE.to_owned(), vector(&[0.6, 0.6]))]),
                ..entity("m", 1)
            })
            .await
            .expect("has numbers");
        assert_eq!(nearest(&running, "north").await.expect("found"), ["n", "m", "e"], "{dialect}");
        let stored = running.get("n").await.expect("there");
        assert_eq!(stored.vectors[SPACE].values, [0.0, 1.0]);
        assert_eq!(stored.chunks[0].vectors[SPACE].values, [0.0, 1.0]);
        // Only texts are sent, those of a request together, in batches.
        let batch = (0..7).map(|at| worded(&format!("b{at}"), "between")).collect();
        let request = v1::BatchPutRequest { entities: batch, ..Default::default() };
        running.entities().batch_put(request).await.expect("embedded");
        let calls = service.lock().expect("not poisoned").calls.clone();
        assert_eq!(calls, [1, 2, 1, 3, 3, 1], "{dialect}");
        running.daemon.shutdown().await.expect("down");
    }
}

#[tokio::test]
async fn what_fails_for_now_is_tried_again_and_the_rest_is_told() {
    let (service, address) = service().await;
    let running = running(format!("http://{address}/v1/embeddings")).await;
    let first = |answers: &[Answer]| {
        let mut service = service.lock().expect("not poisoned");
        service.first = answers.to_vec();
        service.calls.clear();
    };
    let calls = || service.lock().expect("not poisoned").calls.len();
    first(&[Answer::Status(503), Answer::Status(429), Answer::Slow]);
    running.put(worded("e", "east")).await.expect("the fourth try");
    assert_eq!(calls(), 4);
    first(&[Answer::Status(500); 9]);
    let refused = running.put(worded("x", "east")).await.expect_err("never");
    assert_eq!(
        (refused.code(), reason(&refused), calls()),
        (Code::Unavailable, "EMBEDDING_UNAVAILABLE".into(), 4)
    );
    assert!(refused.message().contains("500"), "{refused}");
    assert!(
        !refused.message().contains("not in the mood") && !refused.message().contains(&address.to_string()),
        "what it says may be about its owner: {refused}"
    );
    for (answer, why) in [
        (Answer::Status(401), "401"),
        (Answer::Status(302), "302"),
        (Answer::Garbage, "cannot be read"),
        (Answer::TooFew, "gave 0 vectors for 1 texts"),
    ] {
        first(&[answer]);
        let refused = running.put(worded("x", "east")).await.expect_err("refused");
        assert_eq!(
            (refused.code(), reason(&refused), calls()),
            (Code::FailedPrecondition, "EMBEDDING_REFUSED".into(), 1)
        );
        assert!(refused.message().contains(why), "{refused}");
    }
    // Both vectors are said to be of the first text.
    first(&[Answer::SameIndex]);
    let vectors = BTreeMap::from([(SPACE.to_owned(), text("north"))]);
    let chunk = v1::Chunk { id: "a".into(), vectors, ..Default::default() };
    let both = v1::Entity { chunks: vec![chunk], ..worded("x", "east") };
    let refused = running.put(both).await.expect_err("whose is which");
    assert_eq!(reason(&refused), "EMBEDDING_REFUSED", "{refused}");
    first(&[Answer::OtherDimension]);
    let refused = running.put(worded("x", "east")).await.expect_err("of three numbers");
    assert_eq!(reason(&refused), "WRONG_DIMENSION", "{refused}");
    assert!(running.get("x").await.is_err(), "nothing of it was written");
    // Whoever waits less than a try takes is told so in time.
    first(&[Answer::Slow; 9]);
    let mut request =
        tonic::Request::new(v1::PutRequest { entity: Some(worded("x", "east")), ..Default::default() });
    request.set_timeout(Duration::from_millis(150));
    let begun = std::time::Instant::now();
    let late = running.entities().put(request).await.expect_err("too late");
    assert_eq!(late.code(), Code::DeadlineExceeded, "{late}");
    assert!(begun.elapsed() < Duration::from_millis(400), "{:?}", begun.elapsed());
    running.daemon.shutdown().await.expect("down");
}

/// The same in another space.
fn elsewhere(entity: v1::Entity, space: &str) -> v1::Entity {
    let vectors = entity.vectors.into_values().map(|vector| (space.to_owned(), vector)).collect();
    v1::Entity { vectors, ..entity }
}

#[tokio::test]
async fn texts_that_come_together_are_embedded_together_and_a_wrong_item_fails_alone() {
    let (service, address) = service().await;
    let running = running(format!("http://{address}/v1/embeddings")).await;
    let item = |at: u64| {
        let entity = match at {
            30 => elsewhere(worded("w", "east"), "nowhere"),
            31 => entity("plain", 1),
            _ => worded(&format!("e{at}"), "east"),
        };
        v1::PutStreamRequest { sequence: at, item: Some(Item::Entity(entity)), ..Default::default() }
    };
    let stream = tokio_stream::iter((0..60).map(item));
    let mut answers = running.entities().put_stream(stream).await.expect("begun").into_inner();
    let mut refused = Vec::new();
    for _ in 0..60 {
        let answer = answers.message().await.expect("the stream goes on").expect("an answer");
        let status = answer.result.unwrap_or_default().status.unwrap_or_default();
        if status.code != 0 {
            refused.push((answer.sequence, status.message));
        }
    }
    let why = format!("collection {COLLECTION:?} declares no vector space \"nowhere\"");
    assert_eq!(refused, [(30, why)]);
    let calls = service.lock().expect("not poisoned").calls.clone();
    // Those that nobody refuses, and in fewer calls than there are of them.
    assert_eq!(calls.iter().sum::<usize>(), 58);
    assert!(calls.len() < 45, "{calls:?}");
    assert_eq!(running.get("e59").await.expect("there").vectors[SPACE].values, [1.0, 0.0]);
    // The same where they come as one request.
    service.lock().expect("not poisoned").calls.clear();
    let entities = vec![elsewhere(worded("w", "east"), "nowhere"), worded("x", "east")];
    let request = v1::BatchPutRequest { entities, ..Default::default() };
    let results = running.entities().batch_put(request).await.expect("answered").into_inner().results;
    let codes: Vec<i32> = results.into_iter().map(|result| result.status.unwrap_or_default().code).collect();
    assert_eq!(codes, [Code::NotFound as i32, 0]);
    assert_eq!(service.lock().expect("not poisoned").calls, [1]);
    running.daemon.shutdown().await.expect("down");
}

#[tokio::test]
async fn the_key_is_sent_and_without_a_service_texts_are_refused() {
    let (service, address) = service().await;
    let dir = TempDir::new().expect("a directory");
    let key_file = dir.path().join("key");
    std::fs::write(&key_file, "s3cret\n").expect("written");
    let running = Running::start_with(|config| {
        config.embedding.url = Some(format!("http://{address}/v1/embeddings"));
        config.embedding.model = Some("compass".into());
        config.embedding.key_file = Some(key_file.clone());
    })
    .await;
    running.put(worded("e", "east")).await.expect("embedded");
    assert_eq!(service.lock().expect("not poisoned").authorization, ["Bearer s3cret"]);
    // Another key is shown at once, and goes on being shown while there is none.
    std::fs::write(&key_file, "another\n").expect("written");
    running.put(worded("e", "north")).await.expect("embedded");
    std::fs::remove_file(&key_file).expect("removed");
    running.put(worded("e", "east")).await.expect("embedded");
    let shown = service.lock().expect("not poisoned").authorization.split_off(1);
    assert_eq!(shown, ["Bearer another", "Bearer another"]);
    running.daemon.shutdown().await.expect("down");
    let running = Running::start().await;
    let refused = running.put(worded("e", "east")).await.expect_err("nobody embeds it");
    assert_eq!(reason(&refused), "NO_EMBEDDING_PROVIDER");
    let both = v1::Vector { values: vec![1.0, 2.0], ..text("east") };
    let both = v1::Entity { vectors: BTreeMap::from([(SPACE.to_owned(), both)]), ..entity("e", 1) };
    let refused = running.put(both).await.expect_err("says it twice");
    assert!(refused.message().contains("both numbers and a text"), "{refused}");
    running.daemon.shutdown().await.expect("down");
}

/// A model of three words, with vectors of two numbers.
fn write_model(folder: &Path) {
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": { "type": "Lowercase" },
        "pre_tokenizer": { "type": "Whitespace" }, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": { "[UNK]": 0, "east": 1, "north": 2 }, "unk_token": "[UNK]" },
    });
    std::fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).expect("written");
    std::fs::write(folder.join("config.json"), json!({ "normalize": true }).to_string()).expect("written");
    let header =
        json!({ "embeddings": { "dtype": "F32", "shape": [3, 2], "data_offsets": [0, 24] } }).to_string();
    let mut tensors = (header.len() as u64).to_le_bytes().to_vec();
    tensors.extend_from_slice(header.as_bytes());
    for number in [0.0_f32, 0.0, 1.0, 0.0, 0.0, 1.0] {
        tensors.extend_from_slice(&number.to_le_bytes());
    }
    std::fs::write(folder.join("model.safetensors"), tensors).expect("written");
}

#[tokio::test]
async fn a_static_model_from_a_folder_embeds_without_a_service() {
    let folder = TempDir::new().expect("a directory");
    let refused = |folder: &Path| {
        let dir = TempDir::new().expect("a directory");
        let mut config: Config = config(dir.path());
        config.embedding.folder = Some(folder.to_owned());
        async move { Daemon::start(config).await.err().map(|error| format!("{error:#}")).unwrap_or_default() }
    };
    assert!(refused(&folder.path().join("none")).await.contains("there is no such folder"));
    assert!(refused(folder.path()).await.contains("cannot be read"));
    write_model(folder.path());
    let running =
        Running::start_with(|config| config.embedding.folder = Some(folder.path().to_owned())).await;
    running.put(worded("e", "east")).await.expect("embedded");
    running.put(worded("n", "North")).await.expect("embedded");
    running.put(worded("b", "north east")).await.expect("embedded");
    assert_eq!(nearest(&running, "north north east").await.expect("found"), ["b", "n", "e"]);
    running.daemon.shutdown().await.expect("down");
}
