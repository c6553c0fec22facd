//! What tenants may use.

use std::time::{Duration, Instant};

use allidb_api::v1::{self, quotas_client::QuotasClient};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::{
    client::Client,
    make::{edge, entity, name, vectors},
    process::{Process, eventually},
    ring::Ring,
};

const TENANT: u64 = 1;

async fn set(client: &Client, quota: v1::Quota) -> Result<(), Status> {
    let request = v1::SetQuotaRequest { tenant: TENANT, quota: Some(quota) };
    QuotasClient::new(client.channel.clone()).set_quota(request).await.map(drop)
}

/// Waits until so many entities of the tenant are counted: at first what it uses is told from a part of
/// the partitions.
async fn counted(client: &Client, entities: u64) -> v1::Usage {
    eventually("all are counted", async || {
        let mut quotas = QuotasClient::new(client.channel.clone());
        let listed = quotas.list_quotas(v1::ListQuotasRequest {}).await.expect("listed").into_inner();
        listed.quotas.first()?.usage.filter(|usage| usage.entities == entities)
    })
    .await
}

async fn put(client: &Client, id: usize) -> Result<(), Status> {
    client.put(entity("things", &format!("e-{id}"))).await.map(drop)
}

/// Why it was refused, and when to come back.
fn reason(status: &Status) -> (Code, String, Duration) {
    let reason = status.get_details_error_info().expect("a reason").reason;
    let wait = status.get_details_retry_info().and_then(|info| info.retry_delay).expect("a time");
    assert!(status.get_details_quota_failure().is_some_and(|quota| quota.violations.len() == 1), "{status}");
    (status.code(), reason, wait)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_added_beyond_a_quota_and_things_can_be_deleted() {
    let mut process = Process::start().await;
    let client = process.client();
    client.create("things", "v", 2).await;
    for id in 0..3 {
        put(&client, id).await.expect("there is no quota");
    }
    set(&client, v1::Quota { entities: Some(10), ..Default::default() }).await.expect("set");
    counted(&client, 3).await;
    for id in 3..10 {
        put(&client, id).await.expect("there is room");
    }
    let refused = put(&client, 10).await.expect_err("there are ten");
    let (code, why, wait) = reason(&refused);
    assert_eq!((code, why.as_str()), (Code::ResourceExhausted, "QUOTA_EXCEEDED"));
    assert!(!wait.is_zero() && refused.message().contains("10 entities"), "{refused}");
    let link = v1::PutEdgesRequest {
        edges: vec![edge(name("things", "e-1"), "next", name("things", "e-2"))],
        ..Default::default()
    };
    let results = client.graph().put_edges(link).await.expect("answered").into_inner().results;
    let status = results[0].status.as_ref().expect("a status");
    assert_eq!(Code::from_i32(status.code), Code::ResourceExhausted, "{status:?}");

    // Each item of a stream is refused by itself, and deletions among them go through.
    let batch = (20..23).map(|id| entity("things", &format!("e-{id}"))).collect();
    let request = v1::BatchPutRequest { entities: batch, ..Default::default() };
    let results = client.entities().batch_put(request).await.expect("answered").into_inner().results;
    assert!(results.iter().all(|result| result.status.as_ref().is_some_and(|status| status.code == 8)));
    client.delete(name("things", "e-0")).await.expect("deletions are not refused");
    put(&client, 10).await.expect("there is room again");
    put(&client, 11).await.expect_err("and now there is none");

    // It is known after a restart, and as much is there.
    process.kill_and_restart().await;
    let client = process.client();
    counted(&client, 10).await;
    put(&client, 11).await.expect_err("there is none still");
    set(&client, v1::Quota { vectors: Some(1), ..Default::default() }).await.expect("set");
    let with_vector = |id: &str| v1::Entity { vectors: vectors("v", &[1.0, 0.5]), ..entity("things", id) };
    counted(&client, 10).await;
    client.put(with_vector("first")).await.expect("it may have one");
    let refused = client.put(with_vector("second")).await.expect_err("and no other");
    assert!(refused.message().contains("1 vectors"), "{refused}");
    set(&client, v1::Quota { bytes: Some(100), ..Default::default() }).await.expect("set");
    counted(&client, 11).await;
    let refused = put(&client, 12).await.expect_err("there are more already");
    assert!(refused.message().contains("100 bytes"), "{refused}");
    set(&client, v1::Quota::default()).await.expect("unset");
    put(&client, 12).await.expect("there is no quota any more");

    let none = set(&client, v1::Quota { requests_per_second: Some(0), ..Default::default() }).await;
    assert_eq!(none.expect_err("nobody could ask").code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_asks_too_fast_is_told_when_to_come_back() {
    let process = Process::start().await;
    let client = process.client();
    client.create("things", "v", 2).await;
    set(&client, v1::Quota { requests_per_second: Some(20), ..Default::default() }).await.expect("set");
    let (begun, mut admitted, mut refused) = (Instant::now(), 0, 0);
    while begun.elapsed() < Duration::from_secs(3) {
        match put(&client, admitted).await {
            Ok(()) => admitted += 1,
            Err(status) => {
                refused += 1;
                let (code, why, wait) = reason(&status);
                assert_eq!((code, why.as_str()), (Code::ResourceExhausted, "RATE_LIMITED"));
                assert!(wait <= Duration::from_millis(50), "{wait:?}");
                // Whoever comes back then is admitted.
                tokio::time::sleep(wait + Duration::from_millis(2)).await;
                put(&client, admitted).await.expect("it is time");
                admitted += 1;
            }
        }
    }
    // A second's worth at once, and as many each second.
    assert!((60..=85).contains(&admitted) && refused > 30, "{admitted} {refused}");
    // Whoever looks after nodes is not held up.
    for _ in 0..50 {
        used_or_nothing(&client).await;
    }

    // Streams are slowed down.
    let quota = v1::Quota { bytes_per_second: Some(8 << 20), ..Default::default() };
    set(&client, quota).await.expect("set");
    let big = |id: usize| {
        let text = "x".repeat(1 << 20);
        let chunk = v1::Chunk { id: "c".into(), text, ..Default::default() };
        let entity = v1::Entity { chunks: vec![chunk], ..entity("things", &format!("b-{id}")) };
        v1::PutStreamRequest {
            item: Some(v1::put_stream_request::Item::Entity(entity)),
            ..Default::default()
        }
    };
    let begun = Instant::now();
    let stream = tokio_stream::iter((0..48).map(big));
    let mut answers = client.entities().put_stream(stream).await.expect("taken").into_inner();
    let mut written = 0;
    while let Some(answer) = answers.message().await.expect("it goes on") {
        let status = answer.result.and_then(|result| result.status).expect("a status");
        assert_eq!(status.code, 0, "{status:?}");
        written += 1;
    }
    assert_eq!(written, 48);
    // What a message may hold is taken at once, and the rest as fast as the quota says.
    assert!(begun.elapsed() > Duration::from_millis(1_500), "{:?}", begun.elapsed());
}

async fn used_or_nothing(client: &Client) {
    let mut quotas = QuotasClient::new(client.channel.clone());
    quotas.list_quotas(v1::ListQuotasRequest {}).await.expect("listed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_is_known_to_all_nodes() {
    let ring = Ring::start(3).await;
    let [first, second, third] = [0, 1, 2].map(|at| ring.client(at));
    first.create("things", "v", 2).await;
    set(&first, v1::Quota { entities: Some(30), ..Default::default() }).await.expect("set");
    for client in [&first, &second, &third] {
        counted(client, 0).await;
    }
    let (mut admitted, mut refused) = (0, 0);
    for id in 0..60 {
        match put([&first, &second, &third][id % 3], id).await {
            Ok(()) => admitted += 1,
            Err(status) => {
                assert_eq!(reason(&status).1, "QUOTA_EXCEEDED");
                refused += 1;
            }
        }
    }
    // What a quorum holds the third node may hear of only then.
    assert!((30..=33).contains(&admitted) && refused > 0, "{admitted} {refused}");
    let set_at = Instant::now();
    set(&third, v1::Quota { entities: Some(1), ..Default::default() }).await.expect("set");
    first.delete(name("things", "e-0")).await.expect("deleted");
    for client in [&first, &second, &third] {
        eventually("it is known", async || {
            let refused = put(client, 100).await.err()?;
            refused.message().contains("quota of 1 entities").then_some(())
        })
        .await;
    }
    assert!(set_at.elapsed() < Duration::from_secs(5), "{:?}", set_at.elapsed());
}
