//! The operator's commands against a daemon that is a process of its own.

mod daemon;
mod doctor;
mod exchange;
mod flood;
mod keys;
mod monitoring;
mod packaging;
mod runbooks;
mod snapshots;
mod tls;
mod top;

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
};

use serde_json::Value as Json;
use tempfile::TempDir;

use daemon::{Daemon, allidb, eventually, said};

fn inspect(path: &Path) -> (Json, bool) {
    let output = allidb().args(["--output", "json", "storage", "inspect"]).arg(path).output().expect("run");
    (serde_json::from_slice(&output.stdout).expect("a document"), output.status.success())
}

/// The only table of entities, and where its first block lies.
fn table_of_entities(data: &Path) -> (PathBuf, u64) {
    let (manifest, whole) = inspect(&data.join("MANIFEST"));
    assert!(whole, "{manifest}");
    let names = manifest["keyspaces"].as_array().expect("names");
    let id = names.iter().position(|name| name == "entity").expect("entities");
    let tables = manifest["tables"].as_array().expect("tables");
    let mut of_entities = tables.iter().filter(|table| table["keyspace"] == id);
    let number = of_entities.next().expect("a table")["number"].as_u64().expect("a number");
    assert!(of_entities.next().is_none(), "{manifest}");
    let path = data.join(format!("{number:012}.table"));
    let (table, whole) = inspect(&path);
    assert!(whole, "{table}");
    (path, table["blocks"][0]["offset"].as_u64().expect("an offset"))
}

#[test]
fn an_operator_flushes_compacts_and_scrubs_and_finds_a_flipped_byte() {
    let dir = TempDir::new().expect("a directory");
    let data = dir.path().join("data");
    let daemon = Daemon::start(dir.path());
    assert!(daemon.run(&["collection", "create", "things"]).status.success());
    let put = |daemon: &Daemon, id: &str| {
        daemon.run(&["put", "-c", "things", &format!(r#"{{"id": "{id}", "type": "thing"}}"#)])
    };
    for id in ["a", "b", "c"] {
        assert!(put(&daemon, id).status.success());
        assert!(daemon.json(&["flush"]).1);
    }
    let (compacted, done) = daemon.json(&["compact", "--keyspace", "entity"]);
    assert!(done && compacted["keyspaces"] == 1 && compacted["quarantined_tables"] == 0, "{compacted}");
    let (compacted, done) = daemon.json(&["compact"]);
    assert!(done && compacted["keyspaces"].as_u64() > Some(5), "{compacted}");
    let refused = daemon.run(&["compact", "--keyspace", "nonsense"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("must be one of"), "{refused:?}");
    let (scrubbed, whole) = daemon.json(&["scrub", "--rate", "1GiB"]);
    assert!(whole && scrubbed["damages"] == Json::Array(Vec::new()), "{scrubbed}");
    assert!(scrubbed["files"].as_u64() > Some(3) && scrubbed["bytes"].as_u64() > Some(0), "{scrubbed}");
    for command in ["flush", "compact", "scrub"] {
        let output = daemon.run(&[command]);
        assert!(output.status.success() && !output.stdout.is_empty(), "{output:?}");
    }
    daemon.stop();

    let (path, offset) = table_of_entities(&data);
    let mut bytes = fs::read(&path).expect("readable");
    bytes[offset as usize + 5] ^= 4;
    fs::write(&path, &bytes).expect("written");
    let (described, whole) = inspect(&path);
    assert!(!whole && described["damages"][0]["offset"] == offset, "{described}");

    let daemon = Daemon::start(dir.path());
    let (scrubbed, whole) = daemon.json(&["scrub"]);
    assert!(!whole, "{scrubbed}");
    let damages = scrubbed["damages"].as_array().expect("damages");
    assert_eq!(damages.len(), 1, "{scrubbed}");
    assert_eq!(damages[0]["file"], path.file_name().expect("a name").to_str().expect("a text"));
    assert_eq!(damages[0]["offset"], offset);
    let output = daemon.run(&["scrub"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("checksum"), "{output:?}");
    // What lies there is refused, and everything else works.
    let refused = daemon.run(&["get", "-c", "things", "b"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("DATA_LOSS"), "{refused:?}");
    assert!(put(&daemon, "new").status.success());
    assert!(daemon.run(&["get", "-c", "things", "new"]).status.success());
    let (compacted, done) = daemon.json(&["compact"]);
    assert!(done && compacted["quarantined_tables"] == 1, "{compacted}");
    assert!(path.exists(), "the damaged table is gone");
    assert!(said(dir.path()).contains("found damage"), "{}", said(dir.path()));
    eventually("the metric", || {
        (daemon.metric("allidb_storage_damaged_files")? == "1"
            && daemon.metric("allidb_storage_quarantined_tables")? == "1")
            .then_some(())
    });
    assert_ne!(daemon.metric("allidb_storage_scrub_read_bytes_total").as_deref(), Some("0"));
    daemon.stop();

    bytes[offset as usize + 5] ^= 4;
    fs::write(&path, &bytes).expect("written");
    let daemon = Daemon::start(dir.path());
    assert!(daemon.run(&["get", "-c", "things", "b"]).status.success());
    assert!(daemon.json(&["scrub"]).1);
    daemon.stop();
}

#[test]
fn graphs_of_vectors_are_built_anew_with_other_options() {
    let dir = TempDir::new().expect("a directory");
    let daemon = Daemon::start(dir.path());
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("sample").display().to_string();
    assert!(daemon.run(&["import", &sample, "-c", "wordnet", "--space", "gloss"]).status.success());
    let vectors = daemon.metric("allidb_vectors").expect("a figure");
    eventually("a graph", || (daemon.metric("allidb_vectors_in_graphs")? == vectors).then_some(()));
    daemon.stop();
    let settings = [("ALLIDB__VECTORS__CONNECTIONS", "8")];
    let daemon = Daemon::ready(dir.path(), Daemon::launch(dir.path(), &settings));
    let segments = || -> Vec<_> {
        let listed = fs::read_dir(dir.path().join("data/vectors")).expect("a directory");
        listed.map(|entry| entry.expect("an entry").metadata().expect("a file").len()).collect()
    };
    let before = segments();
    for unknown in [&["-c", "none"][..], &["-c", "wordnet", "-s", "none"]] {
        let refused = daemon.run(&[&["rebuild-index"], unknown].concat());
        assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    }
    let (rebuilt, is_done) = daemon.json(&["rebuild-index", "-c", "wordnet", "--space", "gloss"]);
    assert!(is_done && rebuilt["vectors"].as_u64() == vectors.parse().ok(), "{rebuilt}");
    let after = segments();
    assert!(after.iter().sum::<u64>() < before.iter().sum(), "fewer links take less: {before:?} {after:?}");
    let queries = format!("{sample}/queries.f32.npy");
    let args = ["query", "-c", "wordnet", "-s", "gloss", "--vectors", &queries, "--k", "10", "--truth"];
    let (asked, _) = daemon.json(&[&args[..], &[&format!("{sample}/truth.top10.ivecs")]].concat());
    assert!(asked["recall"].as_f64() > Some(0.9), "{asked}");
    daemon.stop();
}

#[test]
fn what_cannot_be_described_is_refused() {
    let dir = TempDir::new().expect("a directory");
    let notes = dir.path().join("notes.txt");
    fs::write(&notes, "nothing").expect("written");
    for path in [notes, dir.path().join("000000000001.table")] {
        let output = allidb().args(["storage", "inspect"]).arg(&path).output().expect("run");
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let name = path.file_name().expect("a name").to_str().expect("a text");
        assert!(String::from_utf8_lossy(&output.stderr).contains(name), "{output:?}");
    }
}

#[test]
fn a_ring_is_shown() {
    let dirs = [0; 3].map(|_| TempDir::new().expect("a directory"));
    let free = dirs.each_ref().map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    let addresses = free.each_ref().map(|port| port.local_addr().expect("an address").to_string());
    drop(free);
    let founders = format!("{addresses:?}");
    let settings =
        |at: usize| [("ALLIDB__RING__FOUNDERS", &*founders), ("ALLIDB__RING__LISTEN", &*addresses[at])];
    let children = [0, 1, 2].map(|at| Daemon::launch(dirs[at].path(), &settings(at)));
    let mut nodes = Vec::new();
    for (dir, child) in dirs.iter().zip(children) {
        nodes.push(Daemon::ready(dir.path(), child));
    }
    let (first, third) = (&nodes[0], nodes[2].json(&["cluster", "status"]).0["node"].clone());
    let states = || {
        let (status, is_ok) = first.json(&["cluster", "status"]);
        assert!(is_ok && status["layout"]["replication"] == 3, "{status}");
        let nodes = status["nodes"].as_array().expect("nodes").iter();
        nodes.map(|node| node["state"].as_str().expect("a state").to_owned()).collect::<Vec<_>>()
    };
    eventually("all are up", || (states() == ["up"; 3]).then_some(()));

    let (ring, is_ok) = first.json(&["cluster", "ring"]);
    let partitions = ring["partitions"].as_array().expect("partitions");
    assert!(is_ok && partitions.len() == 256, "{ring}");
    assert!(partitions.iter().all(|nodes| nodes.as_array().is_some_and(|nodes| nodes.contains(&third))));

    let (workers, is_ok) = first.json(&["cluster", "workers"]);
    let workers = workers["workers"].as_array().expect("workers");
    let delivery = format!("hints-{}", third.as_str().expect("an id"));
    assert!(is_ok && ["outbox", &delivery].iter().all(|name| workers.iter().any(|of| of["name"] == *name)));

    // Nothing is there yet that could differ.
    let (repaired, is_ok) =
        eventually("it is compared", || Some(first.json(&["cluster", "repair"])).filter(|(_, is_ok)| *is_ok));
    let others = repaired.as_array().expect("nodes");
    assert!(is_ok && others.len() == 2, "{repaired}");
    assert!(others.iter().all(|of| of["partitions"] == 256 && of["repaired"] == 0 && of["failure"] == ""));
    let (purged, is_ok) = first.json(&["cluster", "purge"]);
    assert!(is_ok && purged["repaired"] == 0 && purged["upto"].is_string(), "{purged}");
    assert_eq!(first.json(&["cluster", "status"]).0["purged"], purged["upto"]);
    let said = first.run(&["cluster", "purge"]);
    assert!(String::from_utf8_lossy(&said.stdout).contains("is forgotten"), "{said:?}");
    let stranger = first.run(&["cluster", "repair", "--with", "0123456789abcdef"]);
    assert!(
        !stranger.status.success() && String::from_utf8_lossy(&stranger.stderr).contains("no other member")
    );

    // One is away: what it misses is kept for it, and it will hear of the collection.
    nodes.pop();
    let first = &nodes[0];
    assert!(first.run(&["collection", "create", "c"]).status.success());
    let states = || first.json(&["cluster", "status"]).0["nodes"].as_array().expect("nodes").clone();
    eventually("one is seen dead", || {
        states().iter().any(|node| node["state"] == "down" && node["id"] == third).then_some(())
    });
    let output = first.run(&["put", "-c", "c", r#"{"id": "a"}"#]);
    assert!(output.status.success(), "{output:?}");
    let kept = || {
        let (hints, is_ok) = first.json(&["cluster", "hints"]);
        assert!(is_ok, "{hints}");
        let of = hints.as_array().expect("hints").iter().find(|of| of["node"] == third).cloned();
        of.and_then(|of| of["bytes"].as_u64()).filter(|bytes| *bytes > 0)
    };
    eventually("a hint is kept", kept);

    let withheld = format!("allidb_ring_node_withheld{{node={third}}}");
    eventually("it is left alone", || first.metric(&withheld).filter(|is_withheld| is_withheld == "1"));

    let (alone, is_ok) = first.json(&["cluster", "repair", "--with", third.as_str().expect("an id")]);
    assert!(!is_ok && alone[0]["failure"] != "", "{alone}");
    let purge = first.run(&["cluster", "purge"]);
    assert!(
        !purge.status.success() && String::from_utf8_lossy(&purge.stderr).contains("answer"),
        "{purge:?}"
    );

    // What is kept for a node that is away is kept on disk: nobody waits for that.
    let (drained, is_ok) = first.json(&["cluster", "drain", "--within", "30s"]);
    assert!(is_ok && drained["drained"] == true, "{drained}");
    assert!(first.run(&["cluster", "drain", "--undo"]).status.success());

    // And as an operator reads it.
    for (command, names) in
        [("status", "clock"), ("ring", "partitions"), ("hints", "bytes kept"), ("workers", "activity")]
    {
        let shown = first.run(&["cluster", command]);
        let said = String::from_utf8_lossy(&shown.stdout);
        assert!(shown.status.success() && said.contains(names), "{command}: {said}");
        assert!(said.contains(third.as_str().expect("an id")), "{command}: {said}");
    }
}
