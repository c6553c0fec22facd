//! The runbooks of `docs/operations.md` on daemons: a ring changes its shape by the commands that stand there, while clients write and read.

mod upgrade;
mod wordnet;

use std::{
    fs::{self, File},
    net::TcpListener,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Child,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use allidb_api::v1::{self, entities_client::EntitiesClient};
use allidb_index::KEYSPACES;
use allidb_storage::{
    fs::RealFs,
    inspect::{InspectOptions, Inspection, inspect},
};
use serde_json::Value as Json;
use tempfile::TempDir;
use tonic::{Code, transport::Channel};

use crate::daemon::{Daemon, eventually, said};

/// What clients count up while the ring changes.
const KEYS: usize = 40;
/// What lies there besides.
const KEPT: usize = 400;
/// The node that begins with a copy of another one's disk, however little lies there.
const COPIES: usize = 4;

/// Some daemons, of which the first three found a ring.
pub(crate) struct Ring {
    /// The build that daemons are started of.
    program: PathBuf,
    dirs: Vec<TempDir>,
    addresses: Vec<String>,
    founders: String,
    pub(crate) nodes: Vec<Daemon>,
}

impl Ring {
    pub(crate) fn found(count: usize) -> Self {
        Self::found_by(Path::new(env!("CARGO_BIN_EXE_allidb")), count)
    }

    /// The same, of another build.
    fn found_by(program: &Path, count: usize) -> Self {
        let free: Vec<TcpListener> =
            (0..count).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
        let address = |port: &TcpListener| port.local_addr().expect("an address").to_string();
        let addresses: Vec<String> = free.iter().map(address).collect();
        drop(free);
        let founders = format!("{:?}", &addresses[..3]);
        let program = program.to_owned();
        let mut ring = Self { program, dirs: Vec::new(), addresses, founders, nodes: Vec::new() };
        let children: Vec<Child> = (0..3).map(|_| ring.launch()).collect();
        for (dir, child) in ring.dirs.iter().zip(children) {
            ring.nodes.push(Daemon::ready(dir.path(), child));
        }
        ring
    }

    fn launch(&mut self) -> Child {
        self.dirs.push(TempDir::new().expect("a directory"));
        self.launch_at(self.dirs.len() - 1)
    }

    /// Starts the daemon of a directory that there is.
    fn launch_at(&self, at: usize) -> Child {
        let mut settings = vec![
            ("ALLIDB__RING__FOUNDERS", &*self.founders),
            ("ALLIDB__RING__LISTEN", &*self.addresses[at]),
            // So that what is deleted here may be forgotten before the test ends.
            ("ALLIDB__RING__PURGE_BEHIND", "1s"),
        ];
        if at == COPIES {
            settings.push(("ALLIDB__RING__COPY_FROM_BYTES", "1"));
        }
        Daemon::launch_build(&self.program, self.dirs[at].path(), &settings)
    }

    /// One more, which is no founder. Gives its id.
    fn join(&mut self) -> String {
        let child = self.launch();
        self.nodes.push(Daemon::ready(self.dirs.last().expect("its own").path(), child));
        self.id(self.nodes.len() - 1)
    }

    /// What `allidb cluster …` says at a node.
    pub(crate) fn cluster(&self, at: usize, args: &[&str]) -> Json {
        let (said, is_ok) = self.nodes[at].json(&[&["cluster"], args].concat());
        assert!(is_ok, "{args:?}: {said}");
        said
    }

    /// The same, once it does not refuse.
    pub(crate) fn eventually(&self, at: usize, args: &[&str]) -> Json {
        let args = [&["--output", "json", "cluster"], args].concat();
        eventually("it is not refused", || {
            let output = self.nodes[at].run(&args);
            output.status.success().then(|| serde_json::from_slice(&output.stdout).expect("JSON"))
        })
    }

    /// Why it refuses.
    fn refused(&self, at: usize, args: &[&str]) -> String {
        let output = self.nodes[at].run(&[&["cluster"], args].concat());
        assert!(!output.status.success(), "{args:?}: {output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    fn id(&self, at: usize) -> String {
        self.cluster(at, &["status"])["node"].as_str().expect("an id").to_owned()
    }

    fn client(&self, at: usize) -> EntitiesClient<Channel> {
        let endpoint = Channel::from_shared(format!("http://{}", self.nodes[at].grpc)).expect("an address");
        EntitiesClient::new(endpoint.connect_lazy())
    }

    async fn count(&self, at: usize) -> u64 {
        let request = v1::CountRequest {
            collection: "things".to_owned(),
            consistency: v1::Consistency::Quorum.into(),
            ..v1::CountRequest::default()
        };
        self.client(at).count(request).await.expect("it counts").into_inner().count
    }

    /// Each two members hold the same, once they have told each other what one of them has not heard of.
    fn is_alike_in_the_end(&self, at: &[usize]) {
        for at in at {
            self.eventually(*at, &["repair"]);
        }
        self.is_alike(at);
    }

    /// Each two members hold the same.
    fn is_alike(&self, at: &[usize]) {
        for at in at {
            let told = self.eventually(*at, &["repair"]);
            for with in told.as_array().expect("a list") {
                assert_eq!((&with["differing"], &with["failed"]), (&0.into(), &0.into()), "{told}");
            }
        }
    }
}

fn put(id: String, step: i64) -> v1::PutRequest {
    let step = v1::Value { kind: Some(v1::value::Kind::IntValue(step)) };
    let entity = v1::Entity {
        r#ref: Some(v1::EntityRef { collection: "things".to_owned(), id }),
        attributes: [("step".to_owned(), step)].into(),
        ..v1::Entity::default()
    };
    v1::PutRequest { entity: Some(entity), ..v1::PutRequest::default() }
}

async fn step_of(client: &mut EntitiesClient<Channel>, key: usize) -> Result<i64, tonic::Status> {
    let request = v1::GetRequest {
        r#ref: Some(v1::EntityRef { collection: "things".to_owned(), id: format!("e-{key}") }),
        consistency: v1::Consistency::Quorum.into(),
        ..v1::GetRequest::default()
    };
    let found = client.get(request).await?.into_inner();
    match found.attributes.get("step").and_then(|step| step.kind.clone()) {
        Some(v1::value::Kind::IntValue(step)) => Ok(step),
        other => panic!("{other:?}"),
    }
}

/// Counts keys up through some nodes until it is told to stop, and reads them through others. Gives what was acknowledged of each, and how many
/// calls found nobody who could answer.
async fn count_up(mut clients: Vec<EntitiesClient<Channel>>, stop: Arc<AtomicBool>) -> (Vec<i64>, usize) {
    let (mut acknowledged, mut refused) = (vec![-1; KEYS], 0);
    let all = clients.len();
    for step in 0_i64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let (key, turn) = (step as usize % KEYS, step as usize);
        match clients[turn % all].put(put(format!("e-{key}"), step)).await {
            Ok(_) => acknowledged[key] = step,
            Err(status) if status.code() == Code::Unavailable => refused += 1,
            Err(status) => panic!("{status}"),
        }
        match step_of(&mut clients[(turn + 1) % all], key).await {
            Ok(found) => assert!(found >= acknowledged[key], "key {key}: {found} < {}", acknowledged[key]),
            Err(status) if status.code() == Code::Unavailable => refused += 1,
            Err(status) => panic!("key {key}: {status}"),
        }
    }
    (acknowledged, refused)
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_join_are_replaced_and_leave_while_clients_count() {
    let mut ring = Ring::found(5);
    eventually("all are there", || {
        ring.nodes[0].run(&["collection", "create", "things"]).status.success().then_some(())
    });
    for key in 0..KEPT {
        ring.client(key % 3).put(put(format!("kept-{key}"), 0)).await.expect("a quorum is there");
    }
    let stop = Arc::new(AtomicBool::new(false));
    // Not through those that go.
    let clients = vec![ring.client(0), ring.client(0), ring.client(0)];
    let load = tokio::spawn(count_up(clients, Arc::clone(&stop)));

    // A fourth joins. It coordinates before it holds anything.
    let fourth = ring.join();
    assert!(ring.count(3).await >= KEPT as u64);
    let nothing = ring.refused(0, &["layout", "apply"]);
    assert!(nothing.contains("no other shape is staged"), "{nothing}");
    let unknown = ring.refused(0, &["layout", "stage", "--add", "00000000000000ff"]);
    assert!(unknown.contains("of which nothing is heard"), "{unknown}");
    // Once it is heard of.
    let staged = ring.eventually(0, &["layout", "stage", "--add", &fourth]);
    assert_eq!(staged["phase"], "staged");
    let moves = staged["moves"].as_array().expect("moves");
    let gains: u64 = moves.iter().map(|of| of["gains"].as_u64().expect("a number")).sum();
    assert_eq!(gains, 192, "no more is moved than the fourth takes over: {staged}");
    let settled = ring.cluster(1, &["layout", "apply"]);
    assert_eq!((&settled["phase"], &settled["layout"]), (&"settled".into(), &2.into()));
    (0..4).for_each(|at| drop(ring.cluster(at, &["cleanup"])));
    // What the others forgot by then a new one need not be told.
    ring.cluster(0, &["purge"]);
    // One is destroyed, and an empty one is put in its place.
    let third = ring.id(2);
    let is_up = format!("allidb_ring_node_up{{node=\"{third}\"}}");
    assert!(ring.nodes[0].metric(&is_up).is_some(), "it is told of");
    ring.nodes[2].child.kill().expect("killed");
    let fifth = ring.join();
    ring.eventually(0, &["replace", &third, "--with", &fifth]);
    let log = said(ring.dirs[COPIES].path());
    assert!(log.contains("a copy of another node's disk is in its place"), "{log}");
    // Whoever asks again, as the answer was lost, is told that it is done.
    let again = ring.cluster(3, &["replace", &third, "--with", &fifth]);
    assert_eq!(again["layout"], 3, "{again}");
    assert_eq!(ring.nodes[0].metric(&is_up), None, "nobody is alarmed by a node that is gone");

    // One leaves, as whoever began that and was interrupted wanted already.
    let second = ring.id(1);
    ring.cluster(0, &["layout", "stage", "--remove", &second]);
    let other = ring.refused(0, &["decommission", &fourth]);
    assert!(other.contains("another shape is staged"), "{other}");
    assert_eq!(ring.cluster(0, &["decommission", &second])["layout"], 4);
    ring.cluster(1, &["cleanup"]);
    let too_few = ring.refused(0, &["decommission", &fourth]);
    assert!(too_few.contains("2 members cannot hold 3 replicas"), "{too_few}");
    assert_eq!(ring.cluster(0, &["layout", "show"])["phase"], "settled");

    // One is to be stopped for a while.
    assert_eq!(ring.cluster(4, &["drain"]), serde_json::json!({ "drained": true }));
    let refused = step_of(&mut ring.client(4), 0).await.expect_err("it is drained");
    assert!(refused.code() == Code::Unavailable && refused.message().contains("is drained"), "{refused}");
    ring.cluster(4, &["drain", "--undo"]);
    step_of(&mut ring.client(4), 0).await.expect("it takes requests again");

    tokio::time::sleep(Duration::from_millis(500)).await;
    stop.store(true, Ordering::Relaxed);
    let (acknowledged, refused) = load.await.expect("it found nothing wrong");
    println!("{acknowledged:?}; {refused} calls found nobody");
    assert!(acknowledged.iter().all(|step| *step >= 0), "of each key something was acknowledged");
    ring.nodes[1].child.kill().expect("killed");
    for at in [0, 3, 4] {
        for (key, step) in acknowledged.iter().enumerate() {
            let found = step_of(&mut ring.client(at), key).await.expect("it is there");
            assert!(found >= *step, "node {at}, key {key}: {found} < {step}");
        }
        ring.cluster(at, &["cleanup"]);
        assert_eq!(ring.count(at).await, (KEPT + KEYS) as u64);
    }
    ring.is_alike(&[0, 3, 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_node_is_replaced_though_nobody_tells_where_it_was() {
    let mut ring = Ring::found(4);
    eventually("all are there", || {
        ring.nodes[0].run(&["collection", "create", "things"]).status.success().then_some(())
    });
    for key in 0..KEPT {
        ring.client(key % 3).put(put(format!("kept-{key}"), 0)).await.expect("a quorum is there");
    }
    // Each once, so that whatever the order of nodes is the one that is dead comes first for somebody.
    let dead = ring.id(2);
    for at in [2, 0, 1] {
        ring.nodes[at].child.kill().expect("killed");
        ring.nodes[at].child.wait().expect("it ends");
    }
    // They have not heard it since they live, and so tell nobody where it was.
    let children = [0, 1].map(|at| ring.launch_at(at));
    for (at, child) in children.into_iter().enumerate() {
        ring.nodes[at] = Daemon::ready(ring.dirs[at].path(), child);
    }
    let fourth = ring.join();
    ring.eventually(0, &["replace", &dead, "--with", &fourth]);
    for at in [0, 1, 3] {
        assert_eq!(ring.count(at).await, KEPT as u64);
    }
    ring.is_alike(&[0, 1, 3]);
}

/// Turns a bit in each table of a directory that holds entities.
fn damage(dir: &Path) -> usize {
    let mut damaged = 0;
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        let Ok(Inspection::Table(table)) = inspect(&RealFs, &path, InspectOptions::default()) else {
            continue;
        };
        let entities = KEYSPACES.iter().position(|name| *name == "entity");
        if table.properties.is_some_and(|of| Some(of.keyspace as usize) == entities) {
            let file = File::options().read(true).write(true).open(&path).expect("it opens");
            let mut byte = [0];
            file.read_exact_at(&mut byte, 40).expect("it is as long");
            file.write_all_at(&[byte[0] ^ 4], 40).expect("written");
            damaged += 1;
        }
    }
    damaged
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_table_is_healed_from_the_others() {
    let ring = Ring::found(3);
    eventually("all are there", || {
        ring.nodes[0].run(&["collection", "create", "things"]).status.success().then_some(())
    });
    for key in 0..KEPT {
        ring.client(key % 3).put(put(format!("kept-{key}"), 0)).await.expect("a quorum is there");
    }
    assert!(ring.nodes[1].run(&["flush"]).status.success());
    assert!(damage(&ring.dirs[1].path().join("data")) > 0, "nothing is in tables yet");
    let stop = Arc::new(AtomicBool::new(false));
    let load = tokio::spawn(count_up(vec![ring.client(0), ring.client(2)], Arc::clone(&stop)));

    // Found, it opens its store again, and is where it was.
    let scrubbed = ring.nodes[1].run(&["scrub"]);
    assert!(!scrubbed.status.success(), "{scrubbed:?}");
    let log = ring.dirs[1].path();
    eventually("it lets go", || said(log).contains("damaged rows are let go of").then_some(()));
    eventually("it heals", || {
        said(log).contains("what was damaged has been taken over from others").then_some(())
    });
    assert_eq!(ring.cluster(1, &["status"])["healing"], Json::Null);
    assert_eq!(ring.nodes[1].metric("allidb_ring_healing_partitions").as_deref(), Some("0"));
    assert!(ring.nodes[1].run(&["scrub"]).status.success());

    tokio::time::sleep(Duration::from_millis(300)).await;
    stop.store(true, Ordering::Relaxed);
    let (acknowledged, _) = load.await.expect("it found nothing wrong");
    for (key, step) in acknowledged.iter().enumerate().filter(|(_, step)| **step >= 0) {
        let found = step_of(&mut ring.client(1), key).await.expect("it is there");
        assert!(found >= *step, "key {key}: {found} < {step}");
    }
    let counted = acknowledged.iter().filter(|step| **step >= 0).count();
    eventually("its indexes are whole", || {
        let told = ring.nodes[1].json(&["count", "--collection", "things", "--consistency", "all"]).0;
        (told["count"] == (KEPT + counted) as u64).then_some(())
    });
    ring.is_alike(&[0, 1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_node_of_three_goes_on_alone_and_is_joined_by_others() {
    let mut ring = Ring::found(5);
    eventually("all are there", || {
        ring.nodes[0].run(&["collection", "create", "things"]).status.success().then_some(())
    });
    for key in 0..KEPT {
        ring.client(key % 3).put(put(format!("kept-{key}"), 0)).await.expect("a quorum is there");
    }
    // What a quorum acknowledged the third may not have yet.
    for node in [1, 2] {
        ring.cluster(node, &["drain"]);
    }
    let lost = [ring.id(1), ring.id(2)];
    let force = |lost: &[&str]| -> Vec<String> {
        let named = lost.iter().flat_map(|node| ["--lost", *node]);
        ["layout", "apply", "--force-quorum-loss"].into_iter().chain(named).map(str::to_owned).collect()
    };
    let [one, both] = [force(&[&lost[0]]), force(&[&lost[0], &lost[1]])];
    let [one, both]: [Vec<&str>; 2] =
        [one.iter().map(String::as_str).collect(), both.iter().map(String::as_str).collect()];
    let alive = ring.refused(0, &both);
    assert!(alive.contains("answers: it is not lost"), "{alive}");
    ring.nodes[1].child.kill().expect("killed");
    ring.nodes[2].child.kill().expect("killed");
    assert!(ring.refused(0, &one).contains("no quorum is lost"));
    let refused = ring.client(0).put(put("kept-0".to_owned(), 1)).await.expect_err("there is no quorum");
    assert_eq!(refused.code(), Code::Unavailable);
    let forced = ring.eventually(0, &both);
    assert_eq!((&forced["lost_partitions"], &forced["thin_partitions"]), (&0.into(), &256.into()));
    assert_eq!(ring.count(0).await, KEPT as u64);
    ring.client(0).put(put("kept-0".to_owned(), 1)).await.expect("it is a quorum");
    let shown = ring.cluster(0, &["layout", "show"]);
    assert_eq!((&shown["replication"], &shown["thin_partitions"]), (&3.into(), &256.into()));

    let (fourth, fifth) = (ring.join(), ring.join());
    ring.eventually(0, &["layout", "stage", "--add", &fourth, "--add", &fifth]);
    let settled = ring.cluster(0, &["layout", "apply"]);
    assert_eq!((&settled["phase"], &settled["thin_partitions"]), (&"settled".into(), &0.into()));
    ring.is_alike(&[0, 3, 4]);
    // The new ones are a quorum, and have it all.
    ring.nodes[0].child.kill().expect("killed");
    for at in [3, 4] {
        assert_eq!(ring.count(at).await, KEPT as u64);
    }
}
