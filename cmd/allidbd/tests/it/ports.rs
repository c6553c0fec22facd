//! What the ports offer besides the services: health, reflection, probes and metrics.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use crate::running::{Running, entity};

async fn http_get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("the HTTP port listens");
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answered");
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn each_service_tells_its_health() {
    let running = Running::start().await;
    let mut health = HealthClient::new(running.channel.clone());
    let services = [
        "Cluster",
        "Entities",
        "Graph",
        "Search",
        "Collections",
        "Keys",
        "Maintenance",
        "Quotas",
        "Snapshots",
    ];
    for service in std::iter::once(String::new()).chain(services.map(|name| format!("allidb.v1.{name}"))) {
        let answer = health.check(HealthCheckRequest { service: service.clone() }).await.expect("known");
        assert_eq!(answer.into_inner().status, 1, "{service} is not serving");
    }
    assert!(health.check(HealthCheckRequest { service: "nonsense".into() }).await.is_err());

    // Someone who watches is told, and does not keep the daemon from going.
    let mut watching = health.watch(HealthCheckRequest::default()).await.expect("watched").into_inner();
    assert_eq!(watching.message().await.expect("a message").expect("a status").status, 1);
    let closing = tokio::spawn(running.daemon.shutdown());
    assert_eq!(watching.message().await.expect("a message").expect("a status").status, 2);
    closing.await.expect("no panic").expect("closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_is_reflected() {
    let running = Running::start().await;
    let mut reflection = ServerReflectionClient::new(running.channel.clone());
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let answers = reflection.server_reflection_info(tokio_stream::iter([request])).await.expect("answered");
    let answer = answers.into_inner().message().await.expect("a message").expect("an answer");
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("{answer:?} is no list");
    };
    let names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    for name in ["allidb.v1.Entities", "allidb.v1.Search", "grpc.health.v1.Health"] {
        assert!(names.iter().any(|listed| listed == name), "{name} is not among {names:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_and_metrics_are_served() {
    let running = Running::start().await;
    let http = running.daemon.http_addr();
    for probe in ["/livez", "/readyz", "/startupz"] {
        let answer = http_get(http, probe).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{probe}: {answer}");
    }
    running.put(entity("secret-id", 1)).await.expect("put");
    let text = http_get(http, "/metrics").await;
    let put = "service=\"allidb.v1.Entities\",method=\"Put\",code=\"OK\"";
    assert!(
        text.lines().any(|line| line.starts_with("allidb_grpc_requests_total{") && line.contains(put)),
        "{text}"
    );
    assert!(text.contains("allidb_storage_batches_total"), "{text}");
    assert!(!text.contains("secret-id"), "an id became a label");
}

/// The figures of the storage engine with their types, as a scraper sees them.
#[tokio::test(flavor = "multi_thread")]
async fn the_storage_engine_tells_its_figures() {
    let running = Running::start().await;
    running.put(entity("a", 1)).await.expect("put");
    let figures = http_get(running.daemon.http_addr(), "/metrics").await;
    for (kind, names) in [
        (
            "gauge",
            &[
                "memory_bytes",
                "memory_budget_bytes",
                "cache_bytes",
                "cache_capacity_bytes",
                "write_amplification_ratio",
                "compaction_debt_bytes",
                "running_compactions",
                "blob_bytes",
                "blob_garbage_bytes",
                "range_tombstones",
                "poisoned",
            ][..],
        ),
        (
            "counter",
            &[
                "slowdowns_total",
                "slowdown_seconds_total",
                "stalls_total",
                "stall_seconds_total",
                "cache_hits_total",
                "cache_misses_total",
                "filter_checks_total",
                "filter_useful_total",
                "ingested_bytes_total",
                "background_errors_total",
            ],
        ),
        ("histogram", &["wal_fsync_seconds"]),
    ] {
        for name in names {
            let kind = format!("# TYPE allidb_storage_{name} {kind}\n");
            assert_eq!(figures.matches(&kind).count(), 1, "{kind}{figures}");
            assert!(figures.contains(&format!("# HELP allidb_storage_{name} ")), "{name} has no help");
            let value = |line: &&str| line.starts_with(&format!("allidb_storage_{name}"));
            assert!(figures.lines().any(|line| value(&line)), "{name} has no value");
        }
    }
    let buckets: Vec<(f64, u64)> = figures
        .lines()
        .filter_map(|line| {
            line.strip_prefix("allidb_storage_wal_fsync_seconds_bucket{le=\"")?.split_once("\"} ")
        })
        .map(|(bound, count)| (bound.parse().expect("a bound"), count.parse().expect("a count")))
        .collect();
    assert_eq!((buckets.len(), buckets[0].0), (20, 0.000_032));
    assert!(buckets.is_sorted() && buckets[19].0.is_infinite(), "{buckets:?}");
    let value = |name: &str| -> f64 {
        let line = figures.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.trim().parse().ok()).unwrap_or_else(|| panic!("{name} in {figures}"))
    };
    // The put was synced.
    let count = value("allidb_storage_wal_fsync_seconds_count");
    assert!(count >= 1.0 && count == buckets[19].1 as f64, "{buckets:?}");
    assert!(value("allidb_storage_wal_fsync_seconds_sum") > 0.0);
    assert_eq!(value("allidb_storage_memory_budget_bytes"), f64::from(512 << 20));
    running.daemon.shutdown().await.expect("closed");
}
