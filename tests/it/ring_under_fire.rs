//! Rings of daemons that are asked by several clients at once while links are cut, processes killed and stopped: a checker judges every
//! answer by what was acknowledged.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use allidb_api::v1;
use rustix::process::Signal;
use tokio::{task::JoinSet, time::sleep};
use tonic::Code;

use crate::{
    client::Client,
    make::{entity, int, name},
    process::eventually,
    random::Random,
    ring::{Ring, int_of},
};

/// Clients that write, each to keys of its own.
const WRITERS: usize = 4;
const KEYS: usize = 5;
const READERS: usize = 2;
/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is known of a key, which one client writes: steps, each higher than the one before.
#[derive(Debug, Default)]
struct Key {
    acknowledged: i64,
    /// Attempts of which nobody knows what became: each may be seen from then on, or never.
    unknown: BTreeSet<i64>,
}

/// What was asked of a ring, and how it may be reached.
#[derive(Default)]
struct Fire {
    clients: Mutex<Vec<Option<Client>>>,
    keys: Vec<Mutex<Key>>,
    is_over: AtomicBool,
    written: AtomicUsize,
    refused: AtomicUsize,
    read: AtomicUsize,
}

fn id(key: usize) -> String {
    format!("k-{key:02}")
}

impl Fire {
    fn new() -> Arc<Self> {
        Arc::new(Self { keys: (0..WRITERS * KEYS).map(|_| Mutex::default()).collect(), ..Self::default() })
    }

    fn key(&self, key: usize) -> std::sync::MutexGuard<'_, Key> {
        self.keys[key].lock().expect("no client fails with it")
    }

    fn reaches(&self, ring: &Ring) {
        let clients = ring.nodes.iter().map(|node| node.is_running().then(|| node.client())).collect();
        *self.clients.lock().expect("no client fails with it") = clients;
    }

    /// Any of those that run.
    fn client(&self, random: &mut Random) -> Client {
        let clients = self.clients.lock().expect("no client fails with it");
        let there: Vec<&Client> = clients.iter().flatten().collect();
        there[random.below(there.len())].clone()
    }

    async fn write(self: Arc<Self>, writer: usize, seed: u64) {
        let mut random = Random::new(seed);
        for step in 1.. {
            if self.is_over.load(Ordering::SeqCst) {
                return;
            }
            let key = writer * KEYS + random.below(KEYS);
            let mut thing = entity("things", &id(key));
            thing.attributes.insert("step".into(), int(step));
            // Before it is sent: who reads meanwhile may see it.
            self.key(key).unknown.insert(step);
            let put = self.client(&mut random);
            match tokio::time::timeout(PATIENCE, put.put(thing)).await {
                Ok(Ok(_)) => {
                    let mut known = self.key(key);
                    known.unknown.remove(&step);
                    known.acknowledged = step;
                    self.written.fetch_add(1, Ordering::SeqCst);
                }
                Ok(Err(status)) => {
                    let may_be = [
                        Code::Unavailable,
                        Code::DeadlineExceeded,
                        Code::ResourceExhausted,
                        Code::Unknown,
                        Code::Cancelled,
                    ];
                    assert!(may_be.contains(&status.code()), "{status}");
                    self.refused.fetch_add(1, Ordering::SeqCst);
                    sleep(Duration::from_millis(20)).await;
                }
                Err(_) => {
                    self.refused.fetch_add(1, Ordering::SeqCst);
                }
            }
        }
    }

    async fn look(self: Arc<Self>, seed: u64) {
        let mut random = Random::new(seed);
        while !self.is_over.load(Ordering::SeqCst) {
            let key = random.below(WRITERS * KEYS);
            let client = self.client(&mut random);
            if self.judge(&client, key, v1::Consistency::Quorum).await {
                self.read.fetch_add(1, Ordering::SeqCst);
            } else {
                sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// Reads a key; false if nobody tells.
    async fn judge(&self, client: &Client, key: usize, consistency: v1::Consistency) -> bool {
        let before = self.key(key).acknowledged;
        let entity = Some(name("things", &id(key)));
        let request = v1::GetRequest { r#ref: entity, consistency: consistency.into(), ..Default::default() };
        let mut entities = client.entities();
        let seen = match tokio::time::timeout(PATIENCE, entities.get(request)).await {
            Ok(Ok(found)) => int_of(&found.into_inner(), "step"),
            Ok(Err(status)) if status.code() == Code::NotFound => 0,
            Ok(Err(_)) | Err(_) => return false,
        };
        let known = self.key(key);
        let is_allowed = seen >= before || known.unknown.contains(&seen);
        assert!(is_allowed, "key {key} has step {seen}, though {before} was acknowledged: {known:?}");
        let was_written = seen == 0 || seen <= known.acknowledged || known.unknown.contains(&seen);
        assert!(was_written, "key {key} has step {seen}, which nobody wrote: {known:?}");
        true
    }

    fn counts(&self) -> [usize; 3] {
        [&self.written, &self.refused, &self.read].map(|count| count.load(Ordering::SeqCst))
    }
}

/// Lets clients ask, and things go wrong; then everything heals, and all that was acknowledged is there, on every replica.
async fn under_fire(count: usize, seed: u64) {
    let mut ring = Ring::with_links(count).await;
    ring.client(0).create("things", "v", 4).await;
    let fire = Fire::new();
    fire.reaches(&ring);
    let mut clients = JoinSet::new();
    (0..WRITERS)
        .for_each(|writer| drop(clients.spawn(Arc::clone(&fire).write(writer, seed + writer as u64))));
    (0..READERS).for_each(|reader| drop(clients.spawn(Arc::clone(&fire).look(seed + 100 + reader as u64))));
    let a_while = || sleep(Duration::from_millis(2_500));
    a_while().await;

    // One is cut off from all others, who go on without it; it can do nothing.
    let alone = count - 1;
    (0..alone).for_each(|other| ring.links().cut(other, alone));
    a_while().await;
    let before = fire.counts();
    a_while().await;
    let after = fire.counts();
    assert!(after[0] > before[0] && after[2] > before[2], "nothing went on: {before:?} {after:?}");
    if count == 3 {
        let asked = ring.client(alone);
        assert!(
            !fire.judge(&asked, 0, v1::Consistency::Quorum).await,
            "who is cut off from a quorum knows nothing"
        );
    }
    ring.links().mend_all();
    a_while().await;

    // Two do not hear each other, and all others do.
    ring.links().cut(0, 1);
    a_while().await;
    // One of them dies beside it.
    ring.nodes[0].kill();
    fire.reaches(&ring);
    a_while().await;
    ring.links().mend_all();
    ring.restart(0).await;
    fire.reaches(&ring);
    a_while().await;

    // One stands still while another link is cut.
    ring.nodes[1].signal(Signal::STOP);
    if count > 3 {
        ring.links().cut(0, 2);
    }
    a_while().await;
    ring.nodes[1].signal(Signal::CONT);
    ring.links().mend_all();
    a_while().await;

    fire.is_over.store(true, Ordering::SeqCst);
    while let Some(ended) = clients.join_next().await {
        ended.expect("no client saw anything wrong");
    }
    let counts = fire.counts();
    println!("seed {seed}: written, refused, read: {counts:?}");
    assert!(counts[0] > 100 && counts[2] > 100, "too little happened: {counts:?}");
    // All of them agree now, whoever is asked.
    for node in &ring.nodes {
        for key in 0..WRITERS * KEYS {
            eventually("all replicas answer", async || {
                fire.judge(&node.client(), key, v1::Consistency::All).await.then_some(())
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_daemons_keep_what_they_acknowledged_under_fire() {
    under_fire(3, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_daemons_keep_what_they_acknowledged_under_fire() {
    under_fire(5, 2).await;
}
