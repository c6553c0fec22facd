//! What operators ask for: flush, compact, scrub.

use std::time::{Duration, Instant};

use allidb_api::v1::{self, maintenance_client::MaintenanceClient};
use tonic::{Code, Streaming, transport::Channel};

use crate::running::{Running, entity, field, reason};

fn client(running: &Running) -> MaintenanceClient<Channel> {
    MaintenanceClient::new(running.channel.clone())
}

/// A scrub that would take days.
async fn slow_scrub(running: &Running) -> Streaming<v1::ScrubResponse> {
    let request = v1::ScrubRequest { bytes_per_second: 1 };
    let mut answers = client(running).scrub(request).await.expect("begun").into_inner();
    let first = answers.message().await.expect("a message").expect("progress");
    assert!(!first.finished);
    answers
}

/// The last message of a scrub and all damages on the way.
async fn whole_scrub(running: &Running) -> (v1::ScrubResponse, Vec<v1::Damage>) {
    let mut answers = client(running).scrub(v1::ScrubRequest::default()).await.expect("begun").into_inner();
    let mut damages = Vec::new();
    while let Some(told) = answers.message().await.expect("a message") {
        damages.extend(told.damages.clone());
        if told.finished {
            assert!(answers.message().await.expect("the end").is_none(), "the result is last");
            return (told, damages);
        }
    }
    panic!("it ended without a result");
}

#[tokio::test(flavor = "multi_thread")]
async fn flush_compact_and_scrub_tell_what_they_did() {
    let running = Running::start().await;
    for round in 0..3 {
        for at in 0..20 {
            running.put(entity(&format!("e{at}"), round)).await.expect("put");
        }
        client(&running).flush(v1::FlushRequest {}).await.expect("flushed");
    }
    let data = running.dir.path().join("data");
    let tables = || {
        let names =
            std::fs::read_dir(&data).expect("a directory").map(|entry| entry.expect("an entry").path());
        names.filter(|path| path.extension().is_some_and(|extension| extension == "table")).count()
    };
    let before = tables();
    let request = v1::CompactRequest { keyspace: "entity".into() };
    let mut answers = client(&running).compact(request).await.expect("begun").into_inner();
    let first = answers.message().await.expect("a message").expect("progress");
    assert_eq!((first.keyspace.as_str(), first.keyspaces_done, first.finished), ("entity", 0, false));
    let last = answers.message().await.expect("a message").expect("the result");
    assert_eq!((last.keyspace.as_str(), last.keyspaces_done, last.keyspaces_total), ("", 1, 1));
    assert!(last.finished && last.bytes_total > 0 && last.bytes_done == last.bytes_total);
    assert!(answers.message().await.expect("the end").is_none());
    assert_eq!(tables(), before - 2, "three tables of entities became one");

    let mut answers =
        client(&running).compact(v1::CompactRequest::default()).await.expect("begun").into_inner();
    let mut keyspaces = Vec::new();
    while let Some(told) = answers.message().await.expect("a message") {
        keyspaces.push(told.keyspace);
    }
    assert!(keyspaces.len() > 5 && keyspaces.contains(&"vector".to_owned()), "{keyspaces:?}");

    let (told, damages) = whole_scrub(&running).await;
    assert!(damages.is_empty(), "{damages:?}");
    assert!(told.files_done > 3 && told.files_done == told.files_total, "{told:?}");
    assert!(told.bytes_done > 0 && told.bytes_done == told.bytes_total, "{told:?}");

    let request = v1::CompactRequest { keyspace: "nonsense".into() };
    let refused = client(&running).compact(request).await.expect_err("no keyspace");
    assert_eq!((refused.code(), field(&refused).as_str()), (Code::InvalidArgument, "keyspace"));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_scrub_runs_at_a_time_and_ends_when_its_caller_goes() {
    let running = Running::start().await;
    let under_way = slow_scrub(&running).await;
    let refused = client(&running).scrub(v1::ScrubRequest::default()).await.expect_err("one is under way");
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::FailedPrecondition, "FAILED_PRECONDITION")
    );
    assert!(refused.message().contains("scrub"), "{refused:?}");
    // Reads and writes go on, and so does a compaction.
    running.put(entity("a", 1)).await.expect("put");
    running.get("a").await.expect("there");
    client(&running).compact(v1::CompactRequest::default()).await.expect("begun");
    drop(under_way);
    let begun = Instant::now();
    while let Err(refused) = client(&running).scrub(v1::ScrubRequest::default()).await {
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert!(begun.elapsed() < Duration::from_secs(30), "the scrub goes on without its caller");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrub_does_not_hold_up_the_end() {
    let running = Running::start().await;
    let mut under_way = slow_scrub(&running).await;
    let begun = Instant::now();
    let closing = tokio::spawn(running.daemon.shutdown());
    let ended = loop {
        match under_way.message().await {
            Ok(Some(told)) => assert!(!told.finished),
            Ok(None) => panic!("it ended as if everything had been read"),
            Err(status) => break status,
        }
    };
    assert_eq!((ended.code(), reason(&ended).as_str()), (Code::Unavailable, "SHUTTING_DOWN"));
    drop((under_way, running.channel));
    closing.await.expect("no panic").expect("closed");
    assert!(begun.elapsed() < Duration::from_secs(10), "it waited for its grace to end");
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_are_listed_paused_throttled_and_resumed() {
    let running = Running::start().await;
    let mut maintenance = client(&running);
    let listed = maintenance.list_workers(v1::ListWorkersRequest {}).await.expect("listed").into_inner();
    let names: Vec<&str> = listed.workers.iter().map(|worker| worker.name.as_str()).collect();
    assert_eq!(
        names,
        ["vector-seal", "vector-merge", "text-seal", "text-merge", "graph-seal", "graph-merge"]
    );
    assert!(listed.workers.iter().all(|worker| worker.share_percent == 100 && worker.last_error.is_empty()));
    let mut update = async |paused, share_percent| {
        let request = v1::UpdateWorkerRequest { name: "vector-merge".into(), paused, share_percent };
        maintenance.update_worker(request).await.map(tonic::Response::into_inner)
    };
    let paused = update(Some(true), None).await.expect("paused");
    assert_eq!(paused.activity(), v1::worker::Activity::Paused);
    let throttled = update(None, Some(30)).await.expect("throttled");
    assert_eq!((throttled.activity(), throttled.share_percent), (v1::worker::Activity::Paused, 30));
    for share in [0, 101, 256 + 50] {
        let refused = update(Some(false), Some(share)).await.expect_err("no share");
        assert_eq!((refused.code(), field(&refused).as_str()), (Code::InvalidArgument, "share_percent"));
    }
    let resumed = update(Some(false), Some(100)).await.expect("resumed");
    assert_eq!((resumed.activity(), resumed.share_percent), (v1::worker::Activity::Idle, 100));
    let request = v1::UpdateWorkerRequest { name: "nobody".into(), ..Default::default() };
    let refused = client(&running).update_worker(request).await.expect_err("no worker");
    assert_eq!((refused.code(), field(&refused).as_str()), (Code::InvalidArgument, "name"));
}
