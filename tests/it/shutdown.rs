//! Beginnings and ends of the process, and what it tells about itself on the HTTP port.

use std::{fs, path::Path};

use allidb_api::v1;
use tempfile::TempDir;

use crate::{
    client::assert_done,
    make::{edge, entity, int, name, near, query, vectors},
    process::{Process, command, eventually, refused},
};

const COLLECTION: &str = "things";
const SPACE: &str = "plane";

async fn write_some(process: &Process, count: usize) {
    let client = process.client();
    let items = (0..count).map(|at| v1::Entity {
        attributes: [("at".to_owned(), int(at as i64))].into(),
        vectors: vectors(SPACE, &[1.0, at as f32]),
        ..entity(COLLECTION, &format!("thing-{at:05}"))
    });
    let request = v1::BatchPutRequest { entities: items.collect(), ..Default::default() };
    let results = client.entities().batch_put(request).await.expect("put").into_inner().results;
    results.iter().for_each(assert_done);
}

/// Bytes of the write-ahead log that hold something; room allocated ahead is zeros.
fn log_bytes(dir: &Path) -> usize {
    let mut bytes = 0;
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            bytes += log_bytes(&path);
        } else if path.extension().is_some_and(|extension| extension == "log") {
            let content = fs::read(&path).expect("readable");
            bytes += content.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        }
    }
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_flushes_so_that_the_next_start_has_nothing_to_replay() {
    let mut process = Process::start().await;
    process.client().create(COLLECTION, SPACE, 2).await;
    write_some(&process, 2_000).await;
    process.kill();
    let killed = log_bytes(&process.dir().join("data"));
    assert!(killed > 100_000, "a killed daemon leaves its writes in the log: {killed} bytes");
    process.restart().await;
    assert_eq!(process.client().count(COLLECTION).await, 2_000);
    write_some(&process, 2_000).await;
    process.terminate();
    let status = process.ended().await;
    assert_eq!(status.code(), Some(0), "{status}");
    let ended = log_bytes(&process.dir().join("data"));
    assert!(
        ended < killed / 20,
        "an ended daemon leaves nothing to replay: {ended} bytes, {killed} after a kill"
    );
    process.restart().await;
    assert_eq!(process.client().count(COLLECTION).await, 2_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_finishes_what_is_under_way_and_exits_0() {
    let mut process = Process::start().await;
    let client = process.client();
    client.create(COLLECTION, SPACE, 2).await;
    let (items, taken) = tokio::sync::mpsc::channel(16);
    let taken = tokio_stream::wrappers::ReceiverStream::new(taken);
    let mut answers = client.entities().put_stream(taken).await.expect("begun").into_inner();
    let sending = tokio::spawn(async move {
        for sequence in 0.. {
            let item = entity(COLLECTION, &format!("thing-{sequence}"));
            let item = Some(v1::put_stream_request::Item::Entity(item));
            if items.send(v1::PutStreamRequest { sequence, item, ..Default::default() }).await.is_err() {
                return;
            }
        }
    });
    let mut acknowledged = Vec::new();
    let ended = loop {
        match answers.message().await {
            Ok(Some(answer)) => {
                assert_done(&answer.result.expect("a result"));
                acknowledged.push(answer.sequence);
                if acknowledged.len() == 200 {
                    process.terminate();
                }
            }
            Ok(None) => panic!("the stream ended as if all had been sent"),
            Err(status) => break status,
        }
    };
    assert_eq!(ended.code(), tonic::Code::Unavailable, "{ended:?}");
    assert_eq!(crate::client::reason(&ended), "SHUTTING_DOWN");
    sending.await.expect("the stream is closed to the sender");
    drop((client, answers));
    let status = process.ended().await;
    assert_eq!(status.code(), Some(0), "{status}");
    process.restart().await;
    for sequence in acknowledged {
        let thing = name(COLLECTION, &format!("thing-{sequence}"));
        process.client().get(thing).await.expect("acknowledged before the end");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_on_the_directory_is_refused_and_the_first_goes_on() {
    let process = Process::start().await;
    let dir = process.dir();
    let before = fs::read_to_string(dir.join("ports.json")).expect("written");
    let (code, said) = refused::<&str>(command(dir), &[]).await;
    assert!(code.is_some_and(|code| code != 0), "exit code {code:?}");
    assert!(said.contains("data") && said.contains("held by another"), "{said}");
    assert_eq!(fs::read_to_string(dir.join("ports.json")).expect("still there"), before);
    process.client().create(COLLECTION, SPACE, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_configuration_is_refused_with_what_was_meant() {
    let dir = TempDir::new().expect("a directory");
    let file = dir.path().join("allidb.yaml");
    fs::write(&file, "storage:\n  memtable_byte: 1MiB\n").expect("written");
    let (code, said) = refused(command(dir.path()), &["--config".as_ref(), file.as_os_str()]).await;
    assert!(code.is_some_and(|code| code != 0), "exit code {code:?}");
    assert!(said.contains("`storage.memtable_byte`") && said.contains("`storage.memtable_bytes`"), "{said}");
    assert!(said.contains("allidb.yaml"), "{said}");

    let mut misspelt = command(dir.path());
    misspelt.env("ALLIDB__LIMITS__PAGE_SIZES", "10");
    let (code, said) = refused::<&str>(misspelt, &[]).await;
    assert!(code.is_some_and(|code| code != 0), "exit code {code:?}");
    assert!(said.contains("`limits.page_size`"), "{said}");
    assert!(!dir.path().join("data").exists(), "nothing was opened");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_loopback_is_served() {
    for option in ["GRPC", "HTTP"] {
        let dir = TempDir::new().expect("a directory");
        let mut open = std::process::Command::new(env!("CARGO_BIN_EXE_allidbd-under-test"));
        open.env("ALLIDB__LISTEN__GRPC", "127.0.0.1:0").env("ALLIDB__LISTEN__HTTP", "127.0.0.1:0");
        open.env(format!("ALLIDB__LISTEN__{option}"), "0.0.0.0:0");
        open.arg("--data-dir").arg(dir.path().join("data"));
        let (code, said) = refused::<&str>(open, &[]).await;
        assert!(code.is_some_and(|code| code != 0), "exit code {code:?}");
        assert!(said.contains("loopback") && said.contains(&option.to_lowercase()), "{said}");
        assert!(!dir.path().join("data").exists(), "nothing was opened");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_and_metrics_answer_and_tell_no_names() {
    const SECRET: &str = "n0body-may-know";
    let process = Process::start().await;
    let client = process.client();
    client.create(SECRET, SECRET, 2).await;
    client
        .put(v1::Entity { vectors: vectors(SECRET, &[1.0, 0.0]), ..entity(SECRET, SECRET) })
        .await
        .expect("put");
    client.put_edges(vec![edge(name(SECRET, SECRET), SECRET, name(SECRET, SECRET))]).await.expect("put");
    client.query(query(SECRET, near(SECRET, &[1.0, 0.0]))).await.expect("answered");
    client.get(name(SECRET, "n0body-at-all")).await.expect_err("not there");
    client.get(name("n0body-collection", SECRET)).await.expect_err("not there");
    // A path that is no method must not become a label either.
    let mut request = tonic::Request::new(v1::CountRequest::default());
    request.metadata_mut().insert("x-api-key", "n0body-tenant".parse().expect("a header"));
    client.entities().count(request).await.expect_err("no collection");

    for path in ["/livez", "/readyz", "/startupz"] {
        assert_eq!(process.get(path).await.expect("answered").0, 200, "{path}");
    }
    assert_eq!(process.get("/n0body").await.expect("answered").0, 404);
    let figures = eventually("all figures", async || {
        let (code, figures) = process.get("/metrics").await?;
        assert_eq!(code, 200);
        figures.contains("\nallidb_vectors 1\n").then_some(figures)
    })
    .await;
    assert!(!figures.contains("n0body"), "{figures}");
    let put = figures
        .lines()
        .find(|line| line.starts_with("allidb_grpc_requests_total") && line.contains("\"Put\""));
    assert!(put.is_some_and(|line| line.contains("code=\"OK\"") && line.ends_with(" 1")), "{figures}");
    // Everything that is a label is of the contract, of the engine or of the release.
    let known =
        ["service", "method", "code", "short_of", "kind", "keyspace", "le", "quantile", "version", "commit"];
    for line in figures.lines().filter(|line| !line.starts_with('#')) {
        let Some((_, labels)) = line.split_once('{') else { continue };
        let labels = labels.split_once('}').expect("closed").0;
        for label in labels.split(',').filter_map(|label| label.split_once('=')) {
            assert!(known.contains(&label.0), "{line}");
        }
    }
}
