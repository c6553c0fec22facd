//! A ring with WordNet in it, under load: one node is destroyed and replaced, another one joins, one leaves, and deletions are made while a node is away. What
//! was acknowledged is there and is not stale, all replicas hold the same in the end, and what was deleted stays so once that is forgotten.
//!
//! With `ALLIDB_DATASETS`, which names a directory that has `wordnet/`, all of it is there, otherwise the sample; `ALLIDB_RING_BINARY` names another build of
//! the daemon than that of the tests.

use std::{
    collections::VecDeque,
    env,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use allidb_api::v1::{self, entities_client::EntitiesClient, search_client::SearchClient};
use serde_json::Value as Json;
use tonic::{Code, Status, transport::Channel};

use super::Ring;
use crate::daemon::eventually;

const COLLECTION: &str = "wordnet";
const SPACE: &str = "gloss";
/// Clients, each with entities of its own, and how long one rests between two calls.
const CLIENTS: usize = 4;
const REST: Duration = Duration::from_millis(5);
/// Those of an import that clients write to: the others are as they came.
const WRITTEN: usize = 2_000;
/// Entities of a batch that is read.
const BATCH: usize = 1_000;

/// What an entity may be like: nothing, or how far it was counted.
type Held = Option<i64>;

/// An entity that one client writes to.
struct Word {
    id: String,
    /// What it may be: the last that was acknowledged or read, and then what was tried since without an answer.
    may_be: VecDeque<Held>,
}

impl Word {
    fn tries(&mut self, held: Held) {
        self.may_be.push_back(held);
    }

    /// The last that was tried was acknowledged.
    fn is_acknowledged(&mut self) {
        while self.may_be.len() > 1 {
            self.may_be.pop_front();
        }
    }

    /// What was before what was read is not read any more.
    fn is_read(&mut self, held: Held) {
        let at = self.may_be.iter().rposition(|of| *of == held);
        let at = at.unwrap_or_else(|| panic!("{} is {held:?}, and may be {:?}", self.id, self.may_be));
        // Of what is tried and not answered any may come yet.
        self.may_be.swap(0, at);
        if self.may_be.len() > 1 && at > 0 {
            self.may_be.remove(at);
        }
    }
}

/// What came of calls since a phase began.
#[derive(Default)]
struct Tally {
    reads: Vec<Duration>,
    writes: Vec<Duration>,
    searches: Vec<Duration>,
    deletions: usize,
    refused: usize,
}

struct Load {
    /// Where clients ask: nodes that stay while they do.
    channels: Mutex<Vec<Channel>>,
    tally: Mutex<Tally>,
    is_over: AtomicBool,
}

fn name(id: &str) -> Option<v1::EntityRef> {
    Some(v1::EntityRef { collection: COLLECTION.to_owned(), id: id.to_owned() })
}

fn counted(id: &str, step: i64) -> v1::Entity {
    let step = v1::Value { kind: Some(v1::value::Kind::IntValue(step)) };
    v1::Entity { r#ref: name(id), attributes: [("step".to_owned(), step)].into(), ..v1::Entity::default() }
}

/// How far an entity was counted: zero as it was imported.
fn step_of(entity: &v1::Entity) -> i64 {
    match entity.attributes.get("step").and_then(|step| step.kind.clone()) {
        Some(v1::value::Kind::IntValue(step)) => step,
        None => 0,
        other => panic!("{other:?}"),
    }
}

fn quorum() -> i32 {
    v1::Consistency::Quorum.into()
}

/// Whether nobody knows what came of a call: too few nodes answered, or a connection broke.
fn is_unknown(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
        || matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted)
}

impl Load {
    fn channel(&self, turn: usize) -> Channel {
        let channels = self.channels.lock().expect("nobody fails with it");
        channels[turn % channels.len()].clone()
    }

    fn asks(&self, ring: &Ring, nodes: &[usize]) {
        let channel = |at: &usize| {
            Channel::from_shared(format!("http://{}", ring.nodes[*at].grpc))
                .expect("an address")
                .connect_lazy()
        };
        *self.channels.lock().expect("nobody fails with it") = nodes.iter().map(channel).collect();
    }

    fn note(&self, note: impl FnOnce(&mut Tally)) {
        note(&mut self.tally.lock().expect("nobody fails with it"));
    }

    /// Writes to entities, deletes some and puts them again, and reads them, until it is over.
    async fn run(self: Arc<Self>, mut words: Vec<Word>, mut seed: u64, near: Vec<String>) -> Vec<Word> {
        let mut draw = move |below: usize| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed >> 33) as usize % below
        };
        for step in 1_i64.. {
            if self.is_over.load(Ordering::Relaxed) {
                break;
            }
            let at = draw(words.len());
            let word = &mut words[at];
            let begun = Instant::now();
            match draw(20) {
                0..10 => self.write(word, Some(step), draw(8)).await,
                10 => self.write(word, None, draw(8)).await,
                11 => self.search(&near[draw(near.len())], draw(8)).await,
                _ => self.read(word, draw(8)).await,
            }
            tokio::time::sleep(REST.saturating_sub(begun.elapsed())).await;
        }
        words
    }

    async fn write(&self, word: &mut Word, held: Held, turn: usize) {
        let mut client = EntitiesClient::new(self.channel(turn));
        let is_there = word.may_be.iter().all(Option::is_some);
        word.tries(held);
        let begun = Instant::now();
        let made = match held {
            None => {
                let request =
                    v1::DeleteRequest { r#ref: name(&word.id), consistency: quorum(), ..Default::default() };
                client.delete(request).await.map(drop)
            }
            Some(step) if is_there => {
                let entity = Some(counted(&word.id, step));
                let request = v1::UpdateRequest { entity, consistency: quorum(), ..Default::default() };
                client.update(request).await.map(drop)
            }
            Some(step) => {
                let entity = Some(counted(&word.id, step));
                let request = v1::PutRequest { entity, consistency: quorum(), ..Default::default() };
                client.put(request).await.map(drop)
            }
        };
        match made {
            Ok(()) => {
                word.is_acknowledged();
                self.note(|tally| {
                    tally.writes.push(begun.elapsed());
                    tally.deletions += usize::from(held.is_none());
                });
            }
            Err(status) if is_unknown(&status) => self.note(|tally| tally.refused += 1),
            Err(status) => panic!("{}: {status}", word.id),
        }
    }

    async fn read(&self, word: &mut Word, turn: usize) {
        let request = v1::GetRequest { r#ref: name(&word.id), consistency: quorum(), ..Default::default() };
        let begun = Instant::now();
        match EntitiesClient::new(self.channel(turn)).get(request).await {
            Ok(found) => word.is_read(Some(step_of(found.get_ref()))),
            Err(status) if status.code() == Code::NotFound => word.is_read(None),
            Err(status) if is_unknown(&status) => return self.note(|tally| tally.refused += 1),
            Err(status) => panic!("{}: {status}", word.id),
        }
        self.note(|tally| tally.reads.push(begun.elapsed()));
    }

    /// Looks for what is near an entity that nobody changes.
    async fn search(&self, id: &str, turn: usize) {
        let target = Some(v1::nearest::Target::Entity(name(id).expect("a name")));
        let nearest = v1::Nearest { space: SPACE.to_owned(), k: 10, target, ..v1::Nearest::default() };
        let seed = v1::Seed { kind: Some(v1::seed::Kind::Nearest(nearest)) };
        let request = v1::QueryRequest {
            collection: COLLECTION.to_owned(),
            seeds: vec![seed],
            consistency: quorum(),
            ..v1::QueryRequest::default()
        };
        let begun = Instant::now();
        match SearchClient::new(self.channel(turn)).query(request).await {
            Ok(found) => {
                assert!(found.get_ref().hits.len() >= 9, "{id}: {:?}", found.get_ref().hits.len());
                self.note(|tally| tally.searches.push(begun.elapsed()));
            }
            Err(status) if is_unknown(&status) => self.note(|tally| tally.refused += 1),
            Err(status) => panic!("{id}: {status}"),
        }
    }

    /// Tells what came of calls since the last phase.
    fn tell(&self, phase: &str, begun: Instant) {
        let mut tally = Tally::default();
        self.note(|of| std::mem::swap(of, &mut tally));
        let told = |mut times: Vec<Duration>| {
            times.sort_unstable();
            let at = |share: f64| {
                times.get((times.len() as f64 * share) as usize).map_or(0.0, Duration::as_secs_f64)
            };
            format!("{:>6}, p50 {:>6.1} ms, p99 {:>6.1} ms", times.len(), 1e3 * at(0.5), 1e3 * at(0.99))
        };
        println!(
            "{phase:<36} {:>6.1} s; reads {}; writes {} ({} deletions); searches {}; {} found nobody",
            begun.elapsed().as_secs_f64(),
            told(tally.reads),
            told(tally.writes),
            tally.deletions,
            told(tally.searches),
            tally.refused
        );
    }

    async fn phase<T>(&self, what: &str, during: impl AsyncFnOnce() -> T) -> T {
        let begun = Instant::now();
        let done = during().await;
        self.tell(what, begun);
        done
    }
}

/// A command takes its time, and clients go on meanwhile.
async fn aside<T: Send>(command: impl FnOnce() -> T + Send) -> T {
    tokio::task::block_in_place(command)
}

/// What a node answers of entities at a consistency, in their order.
async fn held_at(ring: &Ring, at: usize, ids: &[String], consistency: v1::Consistency) -> Vec<Held> {
    let mut held = Vec::with_capacity(ids.len());
    let mut client = ring.client(at).max_decoding_message_size(64 << 20);
    for ids in ids.chunks(BATCH) {
        let request = v1::BatchGetRequest {
            refs: ids.iter().filter_map(|id| name(id)).collect(),
            consistency: consistency.into(),
            ..v1::BatchGetRequest::default()
        };
        for result in client.batch_get(request).await.expect("answered").into_inner().results {
            held.push(match result.status.map_or(0, |status| status.code) {
                0 => Some(step_of(&result.entity.expect("an entity"))),
                5 => None,
                code => panic!("code {code}"),
            });
        }
    }
    held
}

/// The directory with the data, and the ids that are in it.
fn data() -> (PathBuf, Vec<String>) {
    let all = env::var_os("ALLIDB_DATASETS").map(|datasets| PathBuf::from(datasets).join("wordnet"));
    let sample = || Path::new(env!("CARGO_MANIFEST_DIR")).join("sample");
    let dir = all.filter(|dir| dir.exists()).unwrap_or_else(sample);
    let file = std::fs::File::open(dir.join("entities.jsonl.zst")).expect("entities");
    let lines = zstd::decode_all(file).expect("Zstandard");
    let lines = String::from_utf8(lines).expect("a text");
    let id = |line: &str| {
        let entity: Json = serde_json::from_str(line).expect("JSON");
        entity["id"].as_str().expect("an id").to_owned()
    };
    (dir, lines.lines().map(id).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn wordnet_stays_whole_while_nodes_are_destroyed_replaced_join_and_leave() {
    let program = env::var_os("ALLIDB_RING_BINARY");
    let program = program.map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_allidb")), PathBuf::from);
    let (dir, ids) = data();
    let mut ring = Ring::found_by(&program, 6);
    let dir = dir.display().to_string();
    let import = ["--consistency", "quorum", "import", &dir, "-c", COLLECTION, "--space", SPACE];
    let imported = aside(|| {
        eventually("all are there", || {
            ring.nodes[0].run(&["collection", "create", "other"]).status.success().then_some(())
        });
        ring.nodes[0].run(&import)
    })
    .await;
    assert!(imported.status.success(), "{imported:?}");

    let every = ids.len() / (WRITTEN.min(ids.len() / 2));
    let (written, near): (Vec<_>, Vec<_>) = ids.iter().enumerate().partition(|(at, _)| at % every == 0);
    let near: Vec<String> = near.into_iter().map(|(_, id)| id.clone()).collect();
    let load = Arc::new(Load {
        channels: Mutex::default(),
        tally: Mutex::default(),
        is_over: AtomicBool::new(false),
    });
    load.asks(&ring, &[0]);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let own = written.iter().skip(client).step_by(CLIENTS);
            let word = |(_, id): &(usize, &String)| Word { id: (*id).clone(), may_be: [Some(0)].into() };
            tokio::spawn(Arc::clone(&load).run(own.map(word).collect(), 7 + client as u64, near.clone()))
        })
        .collect();
    let while_at_rest = Duration::from_secs(if ids.len() > 10_000 { 15 } else { 2 });
    load.phase("at rest", async || tokio::time::sleep(while_at_rest).await).await;

    // One is destroyed, and an empty one takes its place.
    let third = ring.id(2);
    ring.nodes[2].child.kill().expect("killed");
    load.phase("one is dead", async || tokio::time::sleep(while_at_rest).await).await;
    let fourth = aside(|| ring.join()).await;
    load.phase("it is replaced", async || {
        aside(|| ring.eventually(0, &["replace", &third, "--with", &fourth])).await
    })
    .await;
    // Another one joins.
    let fifth = aside(|| ring.join()).await;
    load.phase("one joins", async || {
        aside(|| {
            ring.eventually(0, &["layout", "stage", "--add", &fifth]);
            ring.cluster(0, &["layout", "apply"]);
        })
        .await;
    })
    .await;
    load.asks(&ring, &[0, 3, 4]);
    load.phase("at rest, of four", async || tokio::time::sleep(while_at_rest).await).await;
    // One leaves, though others may still remove what they held before.
    let second = ring.id(1);
    load.phase("one leaves", async || aside(|| ring.cluster(0, &["decommission", &second])).await).await;
    ring.nodes[1].child.kill().expect("killed");

    // Deletions go on while another one is away, and are forgotten once it is back.
    load.asks(&ring, &[0, 3]);
    ring.nodes[4].child.kill().expect("killed");
    load.phase("one is away", async || tokio::time::sleep(while_at_rest).await).await;
    let child = ring.launch_at(4);
    ring.nodes[4] = aside(|| crate::daemon::Daemon::ready(ring.dirs[4].path(), child)).await;
    load.phase("it is back", async || {
        aside(|| {
            eventually("it is heard of", || {
                let told = ring.cluster(0, &["status"]);
                let nodes = told["nodes"].as_array().expect("nodes").iter();
                let up = nodes.filter(|node| node["state"] == "up").count();
                (up == 3).then_some(())
            });
        })
        .await;
    })
    .await;
    load.is_over.store(true, Ordering::Relaxed);
    let mut words = Vec::new();
    for client in clients {
        words.extend(client.await.expect("it found nothing wrong"));
    }

    let (ids, may_be): (Vec<String>, Vec<_>) = words.into_iter().map(|word| (word.id, word.may_be)).unzip();
    let deleted = may_be.iter().filter(|may_be| may_be.iter().eq([&None])).count();
    let check = async |ring: &Ring, when: &str| {
        for at in [0, 3, 4] {
            for consistency in [v1::Consistency::Quorum, v1::Consistency::All] {
                let held = held_at(ring, at, &ids, consistency).await;
                for ((id, held), may_be) in ids.iter().zip(held).zip(&may_be) {
                    assert!(
                        may_be.contains(&held),
                        "{when}, node {at}: {id} is {held:?}, and may be {may_be:?}"
                    );
                }
            }
            let others = held_at(ring, at, &near, v1::Consistency::Quorum).await;
            let changed = others.iter().filter(|held| **held != Some(0)).count();
            assert_eq!(changed, 0, "{when}, node {at}: of {} that nobody changed", near.len());
        }
    };
    check(&ring, "after the load").await;
    let (begun, load_ended) = (Instant::now(), prost_types::Timestamp::from(SystemTime::now()).to_string());
    aside(|| {
        for at in [0, 3, 4] {
            ring.cluster(at, &["cleanup"]);
        }
        ring.is_alike_in_the_end(&[0, 3, 4]);
        eventually("all that was deleted is forgotten", || {
            let purged = ring.eventually(0, &["purge"]);
            purged["upto"].as_str().is_some_and(|upto| *upto > *load_ended).then_some(())
        });
        ring.is_alike(&[0, 3, 4]);
    })
    .await;
    println!("made alike and purged in {:.1} s", begun.elapsed().as_secs_f64());
    check(&ring, "after the purge").await;
    println!("{deleted} of {} are deleted, and stay so", ids.len());
    assert!(deleted > 0);
}
