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
    let services = ["Entities", "Graph", "Search", "Collections", "Maintenance"];
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
