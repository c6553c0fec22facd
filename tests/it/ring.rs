//! Rings of daemons on loopback, which show each other certificates: they are killed, stopped and started again.

use std::{
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use allidb_api::v1;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustix::process::Signal;
use tempfile::TempDir;
use tonic::Code;

use crate::{
    client::Client,
    links::Links,
    make::{entity, int, name},
    process::{Process, eventually},
};

/// The authority of a ring, and certificates that it has signed or another has.
struct Certificates {
    dir: TempDir,
    /// The authority of the nodes.
    authority: Issuer<'static, KeyPair>,
}

impl Certificates {
    fn new() -> Self {
        let dir = TempDir::new().expect("a directory");
        let [(authority, pem), (others, _)] = [new_authority(), new_authority()];
        let certificates = Self { dir, authority };
        certificates.write("nodes.authority", &pem);
        certificates.sign("nodes", "allidb", &certificates.authority);
        certificates.sign("guests", "guest", &certificates.authority);
        certificates.sign("strangers", "allidb", &others);
        certificates
    }

    fn sign(&self, which: &str, name: &str, authority: &Issuer<'static, KeyPair>) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
        let certificate = params.signed_by(&key, authority).expect("a certificate");
        self.write(&format!("{which}.key"), &key.serialize_pem());
        self.write(&format!("{which}.certificate"), &certificate.pem());
    }

    fn write(&self, name: &str, pem: &str) {
        std::fs::write(self.path(name), pem).expect("written");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn settings(&self) -> [(String, String); 3] {
        ["certificate", "key", "authority"].map(|what| {
            let path = self.path(&format!("nodes.{what}"));
            (format!("ALLIDB__RING__{}_FILE", what.to_uppercase()), path.display().to_string())
        })
    }
}

/// An authority, and its certificate.
fn new_authority() -> (Issuer<'static, KeyPair>, String) {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = params.self_signed(&key).expect("a certificate").pem();
    (Issuer::new(params, key), pem)
}

/// Some daemons that found a ring.
pub(crate) struct Ring {
    pub(crate) nodes: Vec<Process>,
    addresses: Vec<String>,
    certificates: Certificates,
    links: Option<Links>,
}

/// Different ones each time, and none that the kernel gives to whoever connects to somewhere: daemons come to listen there later, and again once they
/// were killed.
fn free_addresses(count: usize) -> Vec<SocketAddr> {
    const PORTS: std::ops::Range<u32> = 10_000..30_000;
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    // Of processes beside each other each begins elsewhere.
    let first = std::process::id().wrapping_mul(331);
    let next = std::iter::repeat_with(|| {
        let at = first.wrapping_add(TAKEN.fetch_add(1, Ordering::Relaxed)) % PORTS.len() as u32;
        let port = u16::try_from(PORTS.start + at).expect("a port");
        TcpListener::bind(("127.0.0.1", port)).ok()?.local_addr().ok()
    });
    next.flatten().take(count).collect()
}

impl Ring {
    pub(crate) async fn start(count: usize) -> Self {
        Self::start_with(count, &[]).await
    }

    /// The same, with settings of their own.
    pub(crate) async fn start_with(count: usize, settings: &[(&str, &str)]) -> Self {
        let free = free_addresses(count);
        Self::found(free.iter().map(|at| (at.to_string(), at.to_string())).collect(), None, settings).await
    }

    /// The same, with links between them that can be cut.
    pub(crate) async fn with_links(count: usize) -> Self {
        let free = free_addresses(count);
        let (links, proxies) = Links::before(&free).await;
        let addresses =
            free.iter().zip(proxies).map(|(listen, reached)| (listen.to_string(), reached.to_string()));
        Self::found(addresses.collect(), Some(links), &[]).await
    }

    /// Daemons that listen at the first of two addresses each, and are reached at the second.
    async fn found(
        addresses: Vec<(String, String)>,
        links: Option<Links>,
        settings: &[(&str, &str)],
    ) -> Self {
        let certificates = Certificates::new();
        let founders: Vec<String> = addresses.iter().map(|(_, reached)| format!("{reached:?}")).collect();
        let founders = format!("[{}]", founders.join(","));
        let own = || settings.iter().map(|(name, value)| (String::from(*name), String::from(*value)));
        let node = |(listen, reached): &(String, String)| {
            let settings = [
                ("ALLIDB__RING__FOUNDERS".to_owned(), founders.clone()),
                ("ALLIDB__RING__LISTEN".to_owned(), listen.clone()),
                ("ALLIDB__RING__ADDRESS".to_owned(), reached.clone()),
            ];
            Process::of(settings.into_iter().chain(certificates.settings()).chain(own()))
        };
        let nodes: Vec<Process> = addresses.iter().map(node).collect();
        let addresses = addresses.into_iter().map(|(listen, _)| listen).collect();
        let mut ring = Self { nodes, addresses, certificates, links };
        ring.launch_all().await;
        ring
    }

    pub(crate) fn links(&self) -> &Links {
        self.links.as_ref().expect("it has links")
    }

    /// Starts a daemon that does not run.
    pub(crate) async fn restart(&mut self, at: usize) {
        self.launch(at);
        self.nodes[at].ready().await;
    }

    fn launch(&mut self, at: usize) {
        self.nodes[at].launch();
        if let Some(links) = &self.links {
            links.runs_as(at, self.nodes[at].id());
        }
    }

    /// Starts all that do not run; each may wait for the others.
    async fn launch_all(&mut self) {
        (0..self.nodes.len()).for_each(|at| self.launch(at));
        for node in &mut self.nodes {
            node.ready().await;
        }
    }

    pub(crate) fn client(&self, at: usize) -> Client {
        self.nodes[at].client()
    }
}

/// What is put at a step.
fn thing(step: usize) -> v1::Entity {
    let mut thing = entity("things", &format!("e-{:03}", step % 50));
    thing.attributes.insert("step".into(), crate::make::int(step as i64));
    thing
}

async fn step_of(client: &Client, key: usize, consistency: v1::Consistency) -> Option<i64> {
    let entity = Some(name("things", &format!("e-{key:03}")));
    let request = v1::GetRequest { r#ref: entity, consistency: consistency.into(), ..Default::default() };
    match client.entities().get(request).await {
        Ok(found) => Some(int_of(&found.into_inner(), "step")),
        Err(status) if status.code() == Code::NotFound => None,
        Err(status) => panic!("{status}"),
    }
}

async fn describe(client: &Client) -> v1::DescribeClusterResponse {
    let mut cluster = v1::cluster_client::ClusterClient::new(client.channel.clone());
    cluster.describe_cluster(v1::DescribeClusterRequest {}).await.expect("it is told").into_inner()
}

/// Of each node, whether it is alive and a member.
fn states(described: &v1::DescribeClusterResponse) -> Vec<(bool, bool)> {
    described.nodes.iter().map(|node| (node.is_alive, node.is_member)).collect()
}

/// The last acknowledged step of each key.
type Acknowledged = Vec<Option<i64>>;

/// Puts at nodes in turn: all are acknowledged.
async fn put(ring: &Ring, at: &[usize], steps: std::ops::Range<usize>, acknowledged: &mut Acknowledged) {
    for step in steps {
        let client = ring.client(at[step % at.len()]);
        client.put(thing(step)).await.expect("a quorum is there");
        acknowledged[step % 50] = Some(step as i64);
    }
}

async fn check(ring: &Ring, at: &[usize], acknowledged: &Acknowledged, consistency: v1::Consistency) {
    for node in at {
        for (key, step) in acknowledged.iter().enumerate() {
            assert_eq!(step_of(&ring.client(*node), key, consistency).await, *step, "node {node}, key {key}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ring_of_three_goes_on_without_one() {
    let mut ring = Ring::start(3).await;
    let mut acknowledged: Acknowledged = vec![None; 50];
    ring.client(0).create("things", "v", 4).await;
    put(&ring, &[0, 1, 2], 0..100, &mut acknowledged).await;
    check(&ring, &[0, 1, 2], &acknowledged, v1::Consistency::Quorum).await;

    let described = describe(&ring.client(0)).await;
    assert_eq!(
        described.layout.as_ref().map(|layout| (layout.replication, layout.partitions.len())),
        Some((3, 256))
    );
    assert_eq!(states(&described), [(true, true); 3]);

    // One dies.
    ring.nodes[2].kill();
    let killed = Instant::now();
    eventually("the node is seen dead", async || {
        (states(&describe(&ring.client(0)).await).iter().filter(|(is_alive, _)| *is_alive).count() == 2)
            .then_some(())
    })
    .await;
    assert!(killed.elapsed() < Duration::from_secs(10), "{:?}", killed.elapsed());
    put(&ring, &[0, 1], 100..180, &mut acknowledged).await;
    check(&ring, &[0, 1], &acknowledged, v1::Consistency::Quorum).await;
    let strict = v1::GetRequest {
        r#ref: Some(name("things", "e-000")),
        consistency: v1::Consistency::All.into(),
        ..Default::default()
    };
    let refused = ring.client(0).entities().get(strict).await.expect_err("one is missing");
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");

    let kept: u64 = describe(&ring.client(0))
        .await
        .nodes
        .iter()
        .filter_map(|node| node.hints)
        .map(|hints| hints.bytes)
        .sum();
    assert!(kept > 0, "writes are kept for it");

    // It comes back, and gets what it missed, though nobody reads.
    ring.nodes[2].restart().await;
    for (key, step) in acknowledged.iter().enumerate() {
        eventually("hints are delivered", async || {
            (step_of(&ring.client(2), key, v1::Consistency::One).await == *step).then_some(())
        })
        .await;
    }
    check(&ring, &[0, 1, 2], &acknowledged, v1::Consistency::All).await;

    // Another one stands still: requests go on, soon as fast as before.
    ring.nodes[1].signal(Signal::STOP);
    put(&ring, &[0, 2], 180..230, &mut acknowledged).await;
    let begun = Instant::now();
    check(&ring, &[0, 2], &acknowledged, v1::Consistency::Quorum).await;
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    ring.nodes[1].signal(Signal::CONT);
    put(&ring, &[0, 1, 2], 230..260, &mut acknowledged).await;

    // All at once, and the disk is all that is left.
    for node in &mut ring.nodes {
        node.kill();
    }
    ring.launch_all().await;
    check(&ring, &[0, 1, 2], &acknowledged, v1::Consistency::Quorum).await;
}

/// Has all nodes forget what was deleted.
async fn purge(client: &Client) -> Result<v1::PurgeResponse, tonic::Status> {
    let mut cluster = v1::cluster_client::ClusterClient::new(client.channel.clone());
    let mut told = cluster.purge(v1::PurgeRequest {}).await?.into_inner();
    let mut last = None;
    while let Some(message) = told.message().await? {
        last = Some(message);
    }
    Ok(last.filter(|message| message.finished).expect("a result"))
}

/// One is away, and with it what it would have been told: it forgets as the others do once it is back.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_deleted_while_a_node_was_away_stays_so_when_that_is_forgotten() {
    let settings = [("ALLIDB__RING__PURGE_BEHIND", "1s"), ("ALLIDB__RING__HINT_BYTES", "1B")];
    let mut ring = Ring::start_with(3, &settings).await;
    ring.client(0).create("things", "v", 4).await;
    let mut acknowledged: Acknowledged = vec![None; 50];
    put(&ring, &[0, 1, 2], 0..50, &mut acknowledged).await;
    ring.nodes[2].kill();
    for (key, step) in acknowledged.iter_mut().enumerate().filter(|(key, _)| key % 2 == 0) {
        let delete =
            v1::DeleteRequest { r#ref: Some(name("things", &format!("e-{key:03}"))), ..Default::default() };
        ring.client(key % 2).entities().delete(delete).await.expect("a quorum is there");
        *step = None;
    }
    let alone = purge(&ring.client(0)).await.expect_err("one is away");
    assert_eq!(alone.code(), Code::Unavailable, "{alone}");
    ring.nodes[2].restart().await;
    assert_eq!(step_of(&ring.client(2), 0, v1::Consistency::One).await, Some(0), "it has not heard of it");
    tokio::time::sleep(Duration::from_secs(2)).await;
    eventually("it is forgotten", async || {
        purge(&ring.client(1)).await.ok().filter(|purged| purged.upto.is_some())
    })
    .await;
    for consistency in [v1::Consistency::One, v1::Consistency::Quorum, v1::Consistency::All] {
        check(&ring, &[0, 1, 2], &acknowledged, consistency).await;
    }
    // They say no more of it, and are alike.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut cluster = v1::cluster_client::ClusterClient::new(ring.client(0).channel.clone());
    let mut told = cluster.repair(v1::RepairRequest::default()).await.expect("it compares").into_inner();
    while let Some(message) = told.message().await.expect("it goes on") {
        assert!(message.differing == 0 && message.failure.is_empty(), "{message:?}");
    }
}

/// Clients at all nodes count up by what they have read; one node dies meanwhile. No count is lost, and none is made twice.
#[tokio::test(flavor = "multi_thread")]
async fn writes_on_conditions_come_one_after_the_other() {
    const CLIENTS: usize = 6;
    let mut ring = Ring::start(3).await;
    ring.client(0).create("things", "v", 4).await;
    let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let counting = (0..CLIENTS).map(|at| {
        let (client, done) = (ring.client(at % 2), std::sync::Arc::clone(&done));
        tokio::spawn(async move {
            let (mut counted, mut unknown) = (0, 0);
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let get = v1::GetRequest { r#ref: Some(name("things", "counter")), ..Default::default() };
                let (count, kind) = match client.entities().get(get).await {
                    Ok(answer) => {
                        let read = answer.into_inner();
                        (int_of(&read, "count"), v1::precondition::Kind::IfVersion(read.version))
                    }
                    Err(status) if status.code() == Code::NotFound => {
                        (0, v1::precondition::Kind::IfAbsent(true))
                    }
                    Err(status) => {
                        assert_eq!(status.code(), Code::Unavailable, "{status}");
                        continue;
                    }
                };
                let mut next = entity("things", "counter");
                next.attributes.insert("count".into(), int(count + 1));
                let precondition = Some(v1::Precondition { kind: Some(kind) });
                let put = v1::PutRequest { entity: Some(next), precondition, ..Default::default() };
                match client.entities().put(put).await.map_err(|status| status.code()) {
                    Ok(_) => counted += 1,
                    Err(Code::Aborted | Code::AlreadyExists) => {}
                    Err(Code::Unavailable) => unknown += 1,
                    Err(code) => panic!("{code}"),
                }
            }
            (counted, unknown)
        })
    });
    let counting: Vec<_> = counting.collect();
    tokio::time::sleep(Duration::from_secs(3)).await;
    ring.nodes[2].kill();
    tokio::time::sleep(Duration::from_secs(3)).await;
    ring.nodes[2].restart().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    let (mut counted, mut unknown) = (0, 0);
    for client in counting {
        let (sure, unsure) = client.await.expect("it counts to the end");
        counted += sure;
        unknown += unsure;
    }
    for node in 0..3 {
        let get = v1::GetRequest {
            r#ref: Some(name("things", "counter")),
            consistency: v1::Consistency::Quorum.into(),
            ..Default::default()
        };
        let read = ring.client(node).entities().get(get).await.expect("it is there").into_inner();
        let count = int_of(&read, "count");
        assert!(
            (counted..=counted + unknown).contains(&count),
            "{count} where {counted} were counted, and perhaps {unknown} more"
        );
    }
    assert!(counted > 50, "{counted}, and perhaps {unknown} more");
}

/// Collections are made, changed and dropped at any node, and a node that was away learns of it.
#[tokio::test(flavor = "multi_thread")]
async fn collections_are_the_same_at_all_nodes() {
    let mut ring = Ring::start(3).await;
    ring.client(1).create("first", "v", 4).await;
    ring.client(2).put(entity("first", "a")).await.expect("it is known there");
    let again = v1::CreateCollectionRequest {
        collection: Some(v1::Collection { name: "first".into(), ..Default::default() }),
    };
    let refused = ring.client(0).collections().create_collection(again).await.expect_err("it is there");
    assert_eq!(refused.code(), Code::AlreadyExists);
    // Only if it is not the one that decides can the others go on.
    for away in 0..3 {
        ring.nodes[away].kill();
        let other = (away + 1) % 3;
        let name = format!("without-{away}");
        let collection = v1::Collection { name: name.clone(), ..Default::default() };
        let request = v1::CreateCollectionRequest { collection: Some(collection) };
        let created = ring.client(other).collections().create_collection(request).await;
        if let Err(status) = &created {
            assert_eq!(status.code(), Code::Unavailable, "{status}");
            assert!(status.message().contains("decides about collections"), "{status}");
        }
        ring.nodes[away].restart().await;
        if created.is_ok() {
            let there = v1::GetCollectionRequest { name };
            let told = ring.client(away).collections().get_collection(there).await;
            told.expect("it learns of it as it is asked");
        }
    }
    let dropped = v1::DropCollectionRequest { name: "first".into() };
    eventually("it is dropped", async || {
        ring.client(0).collections().drop_collection(dropped.clone()).await.ok()
    })
    .await;
    for node in 0..3 {
        let get = v1::GetRequest { r#ref: Some(name("first", "a")), ..Default::default() };
        let gone = ring.client(node).entities().get(get).await.expect_err("it was dropped");
        assert_eq!(gone.code(), Code::NotFound, "{gone}");
    }
}

/// Nodes go over to certificates of another authority, one file after the other, and none is restarted for it.
#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_changed_while_nodes_talk() {
    // The files are looked at each second.
    const SEEN: Duration = Duration::from_secs(3);
    let mut ring = Ring::start(3).await;
    ring.client(0).create("things", "v", 2).await;
    let mut acknowledged: Acknowledged = vec![None; 50];
    put(&ring, &[0, 1, 2], 0..50, &mut acknowledged).await;

    let (next, pem) = new_authority();
    let before = std::fs::read_to_string(ring.certificates.path("nodes.authority")).expect("a file");
    ring.certificates.write("nodes.authority", &format!("{before}{pem}"));
    tokio::time::sleep(SEEN).await;
    ring.certificates.sign("nodes", "allidb", &next);
    tokio::time::sleep(SEEN).await;
    ring.certificates.write("nodes.authority", &pem);
    tokio::time::sleep(SEEN).await;
    // What they told each other over connections from before goes on.
    put(&ring, &[0, 1, 2], 50..100, &mut acknowledged).await;
    // Connections are made anew, both ways, with a node that knows of the next authority alone.
    ring.nodes[0].kill();
    ring.restart(0).await;
    put(&ring, &[0, 1, 2], 100..150, &mut acknowledged).await;
    check(&ring, &[0, 1, 2], &acknowledged, v1::Consistency::All).await;

    // What cannot be used is not.
    ring.certificates.write("nodes.certificate", "nonsense");
    tokio::time::sleep(SEEN).await;
    ring.nodes[1].signal(Signal::STOP);
    tokio::time::sleep(SEEN).await;
    ring.nodes[1].signal(Signal::CONT);
    eventually("all nodes talk again", async || {
        states(&describe(&ring.client(0)).await).iter().all(|state| *state == (true, true)).then_some(())
    })
    .await;
    check(&ring, &[0, 1, 2], &acknowledged, v1::Consistency::All).await;
}

/// Whoever shows no certificate of the ring's authority is not talked to.
#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_no_nodes() {
    use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};

    let ring = Ring::start(3).await;
    let read = |name: &str| std::fs::read(ring.certificates.path(name)).expect("a file");
    let authority = || Certificate::from_pem(read("nodes.authority"));
    let identity = |which: &str| {
        Identity::from_pem(read(&format!("{which}.certificate")), read(&format!("{which}.key")))
    };
    let tls = || ClientTlsConfig::new().ca_certificate(authority()).domain_name("allidb");
    let attempts = [
        ("without a certificate", Some(tls())),
        ("with that of another authority", Some(tls().identity(identity("strangers")))),
        ("with one of the same authority for another name", Some(tls().identity(identity("guests")))),
        ("without TLS", None),
        ("as a node", Some(tls().identity(identity("nodes")))),
    ];
    for (how, tls) in attempts {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let mut endpoint = Channel::from_shared(format!("{scheme}://{}", ring.addresses[0])).expect("a URL");
        if let Some(tls) = tls {
            endpoint = endpoint.tls_config(tls).expect("a configuration");
        }
        let mut client = tonic::client::Grpc::new(endpoint.connect_lazy());
        let asked = async {
            client.ready().await.map_err(|error| tonic::Status::unavailable(error.to_string()))?;
            let path =
                tonic::codegen::http::uri::PathAndQuery::from_static("/allidb.peer.v1.Peer/ReadCatalogue");
            let codec = tonic_prost::ProstCodec::<(), ()>::default();
            client.unary(tonic::Request::new(()), path, codec).await
        };
        let status = asked.await.expect_err("nothing is answered without a layout");
        // A node is told what is wrong with what it asks; others are not heard at all.
        let is_heard = status.code() == Code::InvalidArgument;
        assert_eq!(is_heard, how == "as a node", "{how}: {status:?}");
    }
}

pub(crate) fn int_of(entity: &v1::Entity, name: &str) -> i64 {
    match entity.attributes[name].kind {
        Some(v1::value::Kind::IntValue(number)) => number,
        ref other => panic!("{name} is {other:?}"),
    }
}
