//! Snapshots of a ring of three that is written to, restored into rings of other shapes.

mod s3;

use std::{
    fs,
    net::TcpListener,
    path::Path,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

use allidb_api::v1::{self, graph_client::GraphClient};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value as Json;
use tempfile::TempDir;

use crate::daemon::{Daemon, eventually};

/// Daemons that know of one place for snapshots.
struct Ring {
    nodes: Vec<Daemon>,
    _dirs: Vec<TempDir>,
}

impl Ring {
    fn found(name: &str, count: usize, place: &Path) -> Self {
        let place = place.display().to_string();
        let dirs: Vec<TempDir> = (0..count).map(|_| TempDir::new().expect("a directory")).collect();
        let free: Vec<TcpListener> =
            (0..count).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
        let addresses: Vec<String> =
            free.iter().map(|port| port.local_addr().expect("an address").to_string()).collect();
        drop(free);
        let founders = format!("{addresses:?}");
        let replication = count.min(3).to_string();
        let launch = |(dir, address): (&TempDir, &String)| {
            let mut settings = vec![("ALLIDB__SNAPSHOTS__LOCATION", place.as_str())];
            if count > 1 {
                settings.push(("ALLIDB__RING__FOUNDERS", &founders));
                settings.push(("ALLIDB__RING__LISTEN", address));
                settings.push(("ALLIDB__RING__NAME", name));
                settings.push(("ALLIDB__RING__REPLICATION", &replication));
            }
            Daemon::launch(dir.path(), &settings)
        };
        let children: Vec<_> = dirs.iter().zip(&addresses).map(launch).collect();
        let nodes = dirs.iter().zip(children).map(|(dir, child)| Daemon::ready(dir.path(), child)).collect();
        Self { nodes, _dirs: dirs }
    }

    fn json(&self, at: usize, args: &[&str]) -> Json {
        let (said, is_ok) = self.nodes[at].json(args);
        assert!(is_ok, "{args:?}: {said}");
        said
    }

    fn count(&self, collection: &str) -> u64 {
        let args = ["--consistency", "all", "count", "-c", collection];
        self.json(0, &args)["count"].as_u64().expect("a number")
    }

    fn has(&self, id: &str) -> bool {
        self.nodes[0].run(&["get", "-c", "notes", id]).status.success()
    }

    /// What the Merkle trees say is there, as a snapshot tells it. Trees follow once they were made.
    fn digest(&self) -> String {
        text(&self.snapshot(), "digest")
    }

    fn snapshot(&self) -> Json {
        self.snapshot_at(0)
    }

    fn snapshot_at(&self, at: usize) -> Json {
        eventually("trees are made", || {
            let said = self.nodes[at].run(&["--output", "json", "snapshot", "create"]);
            said.status.success().then(|| serde_json::from_slice(&said.stdout).expect("a document"))
        })
    }

    fn nearest(&self) -> Vec<Json> {
        let args = ["query", "-c", "wordnet", "-s", "gloss", "--entity", "n-01503061", "--k", "5"];
        let said = self.json(0, &args);
        said["hits"].as_array().expect("hits").iter().map(|hit| hit["id"].clone()).collect()
    }
}

fn text(document: &Json, field: &str) -> String {
    document[field].as_str().unwrap_or_else(|| panic!("{document}")).to_owned()
}

fn number(document: &Json, field: &str) -> u64 {
    document[field].as_u64().unwrap_or_else(|| panic!("{document}"))
}

/// All ways in which what is there came to be so: a node that is alone keeps less of them than nodes of a ring.
fn change_in_all_ways(ring: &Ring) {
    let put = |id: &str, rest: &str| {
        let entity = format!(r#"{{"id": "{id}", {rest}}}"#);
        let made = ring.nodes[0].run(&["put", "-c", "notes", &entity]);
        assert!(made.status.success(), "{entity}: {made:?}");
    };
    let change = |args: &[&str]| {
        let made = ring.nodes[1].run(args);
        assert!(made.status.success(), "{args:?}: {made:?}");
    };
    let edge = |to: &str, is_put: bool| {
        let reference = |id: &str| Some(v1::EntityRef { collection: "notes".to_owned(), id: id.to_owned() });
        let (from, to, relation) = (reference("again"), reference(to), "r".to_owned());
        let endpoint = format!("http://{}", ring.nodes[2].grpc);
        let calling = async {
            let mut client = GraphClient::connect(endpoint).await.expect("it listens");
            if is_put {
                let edges = vec![v1::Edge { from, to, relation, ..v1::Edge::default() }];
                client.put_edges(v1::PutEdgesRequest { edges, ..Default::default() }).await.map(drop)
            } else {
                let edges = vec![v1::EdgeRef { from, to, relation, ..v1::EdgeRef::default() }];
                client.delete_edges(v1::DeleteEdgesRequest { edges, ..Default::default() }).await.map(drop)
            }
        };
        let runtime = tokio::runtime::Runtime::new().expect("threads");
        runtime.block_on(calling).expect("it is made");
    };
    put(
        "twice",
        r#""attributes": {"a": 1, "b": 2}, "chunks": [{"id": "x", "text": "one"}, {"id": "y", "text": "two"}]"#,
    );
    put("twice", r#""attributes": {"a": 2}, "chunks": [{"id": "x", "text": "three"}]"#);
    put("twice", r#""attributes": {"a": 3}, "chunks": [{"id": "x", "text": "four"}]"#);
    put("again", r#""attributes": {"a": 1}"#);
    edge("twice", true);
    change(&["delete", "-c", "notes", "again"]);
    put("again", r#""attributes": {"a": 2, "b": 2}"#);
    put("again", r#""attributes": {"a": 3, "b": 3}"#);
    edge("twice", true);
    edge("short", true);
    edge("short", false);
    change(&["update", "-c", "notes", "again", "--set", "c=1", "--unset", "b"]);
    (0..70).for_each(|step| put("often", &format!(r#""attributes": {{"step": {step}}}"#)));
    put("short", r#""attributes": {"a": 1}"#);
}

#[test]
fn a_ring_of_three_is_restored_into_one_node_and_into_two() {
    let place = TempDir::new().expect("a directory");
    let mut ring = Ring::found("three", 3, place.path());
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("sample").display().to_string();
    eventually("the ring is founded", || {
        ring.nodes[0].run(&["collection", "create", "notes"]).status.success().then_some(())
    });
    ring.json(0, &["import", &sample, "--collection", "wordnet", "--space", "gloss"]);
    let synsets = ring.count("wordnet");
    change_in_all_ways(&ring);

    let (stop, written) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (first, written_before) = thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let number = written.load(Ordering::Acquire);
                let note = format!(r#"{{"id": "note-{number}", "type": "note"}}"#);
                let put = ring.nodes[number % 3].run(&["put", "-c", "notes", &note]);
                assert!(put.status.success(), "{put:?}");
                written.store(number + 1, Ordering::Release);
            }
        });
        eventually("there is load", || (written.load(Ordering::Acquire) > 10).then_some(()));
        let written_before = written.load(Ordering::Acquire);
        let first = ring.snapshot();
        stop.store(true, Ordering::Relaxed);
        (first, written_before)
    });
    let deleted = ring.nodes[1].run(&["delete", "-c", "notes", "note-1"]);
    assert!(deleted.status.success(), "{deleted:?}");
    let second = ring.snapshot();
    assert!(number(&second, "new_bytes") * 3 < number(&second, "bytes"), "{second}");
    assert!(number(&second, "entities") < number(&first, "entities") / 3, "{first} {second}");
    let listed = ring.json(2, &["snapshot", "list"]);
    let listed: Vec<String> =
        listed.as_array().expect("a list").iter().map(|snapshot| text(snapshot, "id")).collect();
    let [first_id, second_id] = [text(&first, "id"), text(&second, "id")];
    assert!(listed.contains(&first_id) && listed.contains(&second_id), "{listed:?}");

    // What was written while it was made is in it, or not; for both that take it over it is the same.
    let [alone, two] = [("one", 1), ("two", 2)].map(|(name, count)| Ring::found(name, count, place.path()));
    for restored in [&alone, &two] {
        let refused = ring.nodes[0].run(&["snapshot", "restore", &first_id]);
        assert!(!refused.status.success(), "there are collections: {refused:?}");
        let said = eventually("the ring is founded", || {
            let (said, is_ok) = restored.nodes[0].json(&["snapshot", "restore", &first_id]);
            is_ok.then_some(said)
        });
        assert!(number(&said, "entities") >= synsets + written_before as u64, "{said}");
        assert_eq!(restored.count("wordnet"), synsets);
        for number in 0..written_before {
            assert!(restored.has(&format!("note-{number}")), "note {number} was acknowledged before");
        }
        assert_eq!(restored.nearest(), ring.nearest());
    }
    assert_eq!(alone.digest(), two.digest());

    // Nobody writes: what is restored is what there is.
    let still = Ring::found("still", 1, place.path());
    still.json(0, &["snapshot", "restore", &second_id]);
    assert!(!still.has("note-1"));
    assert_eq!(still.digest(), text(&second, "digest"));
    let again = still.nodes[0].run(&["snapshot", "restore", &second_id]);
    assert!(!again.status.success(), "what was deleted since would be back: {again:?}");

    ring.json(0, &["snapshot", "delete", "--keep", "1"]);
    let left = ring.json(0, &["snapshot", "list"]);
    let left: Vec<String> =
        left.as_array().expect("a list").iter().map(|snapshot| text(snapshot, "id")).collect();
    assert!(!left.contains(&first_id) && left.contains(&second_id), "{left:?}");
    ring.json(1, &["snapshot", "verify", &second_id]);

    // One is away: at both others a quorum is left.
    ring.nodes.pop();
    for at in [0, 1] {
        assert_eq!(text(&ring.snapshot_at(at), "digest"), text(&second, "digest"));
    }

    // Nothing can be built on: all is read, and written where something else is.
    damage(place.path(), |_| true);
    let third_id = text(&ring.snapshot(), "id");
    ring.json(0, &["snapshot", "verify", &third_id]);

    // Each object that is damaged is found, and the next snapshot does without.
    damage(place.path(), |bytes| bytes.starts_with(b"ALLIDBSO"));
    let empty = Ring::found("empty", 1, place.path());
    let refused = empty.nodes[0].run(&["snapshot", "restore", &third_id]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("the snapshot is damaged"), "{refused:?}");
    let (damaged, is_ok) = ring.nodes[0].json(&["snapshot", "verify", &third_id]);
    assert!(!is_ok && damaged["damages"].as_array().is_some_and(|damages| damages.len() > 5), "{damaged}");
    let mended_id = text(&ring.snapshot(), "id");
    ring.json(0, &["snapshot", "verify", &mended_id]);
    // Nothing of the damaged one is there.
    empty.json(0, &["snapshot", "restore", &mended_id]);
    assert_eq!(empty.count("wordnet"), synsets);
}

/// A node that ends while it takes a snapshot over says so when it is back, until the snapshot is restored once more.
#[test]
fn a_restore_that_breaks_off_is_told_and_goes_on() {
    let place = TempDir::new().expect("a directory");
    let ring = Ring::found("source", 1, place.path());
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("sample").display().to_string();
    ring.json(0, &["collection", "create", "notes"]);
    ring.json(0, &["import", &sample, "--collection", "wordnet", "--space", "gloss"]);
    let snapshot = ring.snapshot();
    let (id, synsets) = (text(&snapshot, "id"), ring.count("wordnet"));
    let location = place.path().display().to_string();
    let settings = [("ALLIDB__SNAPSHOTS__LOCATION", location.as_str())];
    let has_broken_off = (0..10).any(|_| {
        let dir = TempDir::new().expect("a directory");
        let start = || Daemon::ready(dir.path(), Daemon::launch(dir.path(), &settings));
        let mut restored = Ring { nodes: vec![start()], _dirs: Vec::new() };
        let process = Pid::from_raw(restored.nodes[0].child.id().cast_signed()).expect("a process id");
        thread::scope(|scope| {
            let node = &restored.nodes[0];
            scope.spawn(|| node.run(&["snapshot", "restore", &id]));
            eventually("its collections are there", || {
                node.run(&["count", "-c", "wordnet"]).status.success().then_some(())
            });
            kill_process(process, Signal::KILL).expect("killed");
        });
        // Nobody holds the directory any more.
        restored.nodes.clear();
        restored.nodes = vec![start()];
        let checked = || {
            let figures = format!("http://{}/metrics", restored.nodes[0].http());
            let args = ["doctor", "--only", "daemon", "--metrics-url", &figures];
            let (found, _) = restored.nodes[0].json(&args);
            let found = found["findings"].as_array().expect("a list").clone();
            let of_restore = found.into_iter().find(|finding| finding["check"] == "restore");
            text(&of_restore.expect("it is checked"), "state")
        };
        let is_partial = checked() == "fail";
        if is_partial {
            restored.json(0, &["snapshot", "restore", &id]);
            assert_eq!(checked(), "ok");
        }
        assert_eq!((restored.count("wordnet"), restored.digest()), (synsets, text(&snapshot, "digest")));
        is_partial
    });
    assert!(has_broken_off, "each was over before it could break off");
}

/// Flips a bit in each of those objects.
fn damage(place: &Path, is_meant: impl Fn(&[u8]) -> bool) {
    for object in fs::read_dir(place.join("objects")).expect("a directory") {
        let path = object.expect("a file").path();
        let mut bytes = fs::read(&path).expect("a file");
        if is_meant(&bytes) {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(&path, bytes).expect("written");
        }
    }
}

#[test]
fn without_a_place_there_are_no_snapshots() {
    let dir = TempDir::new().expect("a directory");
    let daemon = Daemon::start(dir.path());
    let refused = daemon.run(&["snapshot", "create"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("snapshots.location"), "{refused:?}");
    daemon.stop();
}
