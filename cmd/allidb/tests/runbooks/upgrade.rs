//! Nodes go over to another build, one after the other, while clients write, read and search: `docs/operations.md`, "Upgrade".
//!
//! `ALLIDB_OLD_BINARY` names the build of the release before; without, both are this one, and all else is the same.

use std::{
    env,
    error::Error,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use allidb_api::v1::{self, entities_client::EntitiesClient, search_client::SearchClient};
use tonic::{Code, Status, transport::Channel};

use super::{KEYS, Ring, put, step_of};
use crate::daemon::{Daemon, eventually};

const NODES: usize = 3;
/// How long whoever asks waits for an answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Clients that know all nodes, and ask another one where one does not take what they ask.
struct Clients {
    channels: Mutex<Vec<Channel>>,
    /// Rounds of a write, a read and a search that were answered.
    rounds: AtomicUsize,
    /// Requests that another node had to be asked.
    elsewhere: AtomicUsize,
    is_over: AtomicBool,
}

impl Clients {
    fn channel(&self, node: usize) -> Channel {
        self.channels.lock().expect("nobody fails with it")[node % NODES].clone()
    }

    /// Asks a node and, where it is about to go or is gone, the next one. One of the others answers at once: only one is away at a time.
    async fn ask<T, F: Future<Output = Result<T, Status>>>(
        &self,
        first: usize,
        ask: impl Fn(Channel) -> F,
    ) -> T {
        let mut refusals = Vec::new();
        for node in first..first + NODES {
            match tokio::time::timeout(PATIENCE, ask(self.channel(node))).await.expect("an answer in time") {
                Ok(answer) => return answer,
                Err(status) => {
                    // What is documented, or a connection that broke, of which nothing is known.
                    let is_documented = status.code() == Code::Unavailable || status.source().is_some();
                    assert!(is_documented, "{status:?}");
                    self.elsewhere.fetch_add(1, Ordering::Relaxed);
                    refusals.push(status);
                }
            }
        }
        panic!("no node answers: {refusals:?}");
    }

    /// Counts keys up, and reads and searches each at another node. Gives what was acknowledged of each.
    async fn count_up(self: Arc<Self>) -> Vec<i64> {
        let mut acknowledged = vec![-1; KEYS];
        for step in 0_i64.. {
            if self.is_over.load(Ordering::Relaxed) {
                break;
            }
            let (turn, key) = (step as usize, step as usize % KEYS);
            let request = with_vector(key, step);
            let write = |channel| {
                let request = request.clone();
                async move { EntitiesClient::new(channel).put(request).await }
            };
            self.ask(turn, write).await;
            acknowledged[key] = step;
            let read = |channel| async move { step_of(&mut EntitiesClient::new(channel), key).await };
            assert_eq!(self.ask(turn + 1, read).await, step, "key {key}");
            let search = |channel| async move { SearchClient::new(channel).query(nearest(key)).await };
            let found = self.ask(turn + 2, search).await.into_inner();
            let hit = found.hits.first().and_then(|hit| hit.entity.as_ref()?.r#ref.as_ref());
            assert_eq!(hit.map(|hit| &*hit.id), Some(&*format!("e-{key}")), "step {step}");
            self.rounds.fetch_add(1, Ordering::Relaxed);
        }
        acknowledged
    }

    /// Waits until clients had some more answers.
    fn go_on(&self) {
        let before = self.rounds.load(Ordering::Relaxed);
        eventually("clients go on", || (self.rounds.load(Ordering::Relaxed) > before + KEYS).then_some(()));
    }
}

/// Keys lie on a circle.
fn vector(key: usize) -> v1::Vector {
    let angle = key as f32 / KEYS as f32 * std::f32::consts::TAU;
    v1::Vector { values: vec![angle.cos(), angle.sin()], ..v1::Vector::default() }
}

fn with_vector(key: usize, step: i64) -> v1::PutRequest {
    let mut request = put(format!("e-{key}"), step);
    let entity = request.entity.as_mut().expect("it was made with one");
    entity.vectors.insert("place".to_owned(), vector(key));
    request
}

fn nearest(key: usize) -> v1::QueryRequest {
    let near = v1::Nearest {
        space: "place".to_owned(),
        target: Some(v1::nearest::Target::Vector(vector(key))),
        k: 1,
        ..v1::Nearest::default()
    };
    v1::QueryRequest {
        collection: "things".to_owned(),
        seeds: vec![v1::Seed { kind: Some(v1::seed::Kind::Nearest(near)) }],
        limit: 1,
        ..v1::QueryRequest::default()
    }
}

/// Drains, stops and starts a node, as it stands in the runbook.
fn exchange(ring: &mut Ring, at: usize, clients: &Clients) {
    assert_eq!(ring.cluster(at, &["drain", "--within", "60s"])["drained"], true);
    ring.nodes.remove(at).stop();
    let child = ring.launch_at(at);
    ring.nodes.insert(at, Daemon::ready(ring.dirs[at].path(), child));
    let channel = channel(&ring.nodes[at]);
    clients.channels.lock().expect("nobody fails with it")[at] = channel;
    for at in 0..NODES {
        eventually("all are up", || {
            let status = ring.cluster(at, &["status"]);
            let mut nodes = status["nodes"].as_array().expect("nodes").iter();
            nodes.all(|node| node["state"] == "up").then_some(())
        });
    }
}

fn channel(daemon: &Daemon) -> Channel {
    Channel::from_shared(format!("http://{}", daemon.grpc)).expect("an address").connect_lazy()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nodes_go_over_to_another_build_while_clients_count() {
    let new = Path::new(env!("CARGO_BIN_EXE_allidb"));
    let old = env::var_os("ALLIDB_OLD_BINARY").map_or_else(|| new.to_owned(), PathBuf::from);
    let mut ring = Ring::found_by(&old, NODES);
    eventually("all are there", || {
        let made = ring.nodes[0].run(&["collection", "create", "things", "--space", "place:2"]);
        made.status.success().then_some(())
    });
    let clients = Arc::new(Clients {
        channels: Mutex::new(ring.nodes.iter().map(channel).collect()),
        rounds: AtomicUsize::new(0),
        elsewhere: AtomicUsize::new(0),
        is_over: AtomicBool::new(false),
    });
    let load = tokio::spawn(Arc::clone(&clients).count_up());
    clients.go_on();

    ring.program = new.to_owned();
    for at in 0..NODES {
        exchange(&mut ring, at, &clients);
        // Nodes of both builds answer together.
        clients.go_on();
        assert!(!load.is_finished(), "clients found something wrong");
    }
    clients.is_over.store(true, Ordering::Relaxed);
    let acknowledged = load.await.expect("clients found nothing wrong");

    let (rounds, elsewhere) = (clients.rounds.load(Ordering::Relaxed), &clients.elsewhere);
    println!("{rounds} rounds, {} requests asked elsewhere", elsewhere.load(Ordering::Relaxed));
    for at in 0..NODES {
        for (key, step) in acknowledged.iter().enumerate() {
            let found = step_of(&mut ring.client(at), key).await.expect("it is there");
            assert_eq!(found, *step, "node {at}, key {key}");
        }
        assert_eq!(ring.count(at).await, KEYS as u64);
    }
    for at in 0..NODES {
        // What the last one missed while it was away may still be on its way.
        eventually("all are alike", || {
            let told = ring.eventually(at, &["repair"]);
            let mut others = told.as_array().expect("a list").iter();
            others.all(|with| with["differing"] == 0 && with["failed"] == 0).then_some(())
        });
    }
}
