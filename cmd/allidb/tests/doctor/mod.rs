//! `allidb doctor`, `version`, `man` and `completions`, as somebody at a machine runs them.

use std::{fs, net::TcpListener, os::unix::fs::PermissionsExt, path::Path, process::Output};

use serde_json::Value as Json;
use tempfile::TempDir;

use crate::daemon::{Daemon, allidb};

fn doctor(args: &[&str]) -> (Json, Output) {
    let output = allidb().args(["--output", "json", "doctor"]).args(args).output().expect("run");
    let document = serde_json::from_slice(&output.stdout);
    (document.unwrap_or_else(|error| panic!("{args:?}: {error}: {output:?}")), output)
}

/// A configuration of free ports and a directory of its own.
fn configuration(dir: &Path, more: &str) -> String {
    let path = dir.join("allidb.yaml");
    let data = dir.join("data");
    let text = format!(
        "data_dir: {}\nlisten:\n  grpc: 127.0.0.1:0\n  http: 127.0.0.1:0\nstorage:\n  min_free_bytes: 1KiB\n{more}",
        data.display()
    );
    fs::write(&path, text).expect("written");
    path.display().to_string()
}

/// What checks of a name came to.
fn states<'a>(document: &'a Json, check: &str) -> Vec<&'a str> {
    let findings = document["findings"].as_array().expect("findings").iter();
    let of_check = findings.filter(|finding| finding["check"] == check);
    of_check.map(|finding| finding["state"].as_str().expect("a state")).collect()
}

#[test]
fn a_machine_is_examined_without_a_daemon() {
    let dir = TempDir::new().expect("a directory");
    let config = configuration(dir.path(), "");
    let (document, output) = doctor(&["--only", "local", "--config", &config]);
    assert_eq!(output.status.code(), Some(0), "{document}");
    assert_eq!(document["failures"], 0, "{document}");
    for check in ["configuration", "directory", "store", "ports", "secrets"] {
        assert!(states(&document, check).iter().all(|state| *state == "ok"), "{check}: {document}");
        assert!(!states(&document, check).is_empty(), "{check}: {document}");
    }
    assert!(!dir.path().join("data").exists(), "it changes nothing");

    // A port that is held already, and a key that everybody may read.
    let held = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = held.local_addr().expect("an address").to_string();
    let key = dir.path().join("open-key");
    fs::write(&key, "adb_").expect("written");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("ours");
    let output = allidb()
        .args(["--output", "json", "doctor", "--only", "local", "--config", &config])
        .env("ALLIDB__LISTEN__GRPC", &address)
        .env("ALLIDB__ACCESS__ADMIN_KEY_FILE", &key)
        .output()
        .expect("run");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let document: Json = serde_json::from_slice(&output.stdout).expect("a document");
    assert_eq!(states(&document, "ports"), ["fail", "ok"], "{document}");
    assert_eq!(states(&document, "secrets"), ["fail"], "{document}");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("failure") && told.contains("warning"), "{told}");

    // And in words.
    let output = allidb().args(["doctor", "--only", "local", "--config", &config]).output().expect("run");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(told.contains("what to do") && told.contains("free space"), "{told}");
}

#[test]
fn a_configuration_that_is_wrong_is_told() {
    let dir = TempDir::new().expect("a directory");
    let config = configuration(dir.path(), "  memory_byte: 1GiB\n");
    let (document, output) = doctor(&["--only", "local", "--config", &config]);
    assert_eq!(output.status.code(), Some(2), "{document}");
    assert_eq!(states(&document, "configuration"), ["fail"], "{document}");
    assert!(document.to_string().contains("did you mean `storage.memory_bytes`"), "{document}");
}

#[test]
fn a_daemon_is_examined() {
    let dir = TempDir::new().expect("a directory");
    let daemon = Daemon::start(dir.path());
    let address = daemon.grpc.clone();
    let endpoint = ["--endpoint", &address];
    let metrics_url = format!("http://{}/metrics", daemon.http());
    let examine = |args: &[&str]| {
        doctor(&[&endpoint[..], &["--metrics-url", &metrics_url, "--only", "daemon"], args].concat())
    };
    let (document, output) = examine(&[]);
    assert_eq!(output.status.code(), Some(0), "{document}");
    for check in
        ["daemon", "releases", "nodes", "replicas", "writes", "damage", "compaction", "quotas", "keys"]
    {
        assert_eq!(states(&document, check), ["ok"], "{check}: {document}");
    }
    let before = document["warnings"].as_u64().expect("a number");

    assert!(daemon.run(&["worker", "pause", "vector-merge"]).status.success());
    let (document, output) = examine(&[]);
    assert_eq!(
        (output.status.code(), document["warnings"].as_u64()),
        (Some(0), Some(before + 1)),
        "{document}"
    );
    assert_eq!(states(&document, "workers"), ["warn"], "{document}");
    let (document, output) = examine(&["--strict"]);
    assert_eq!(output.status.code(), Some(1), "{document}");

    // Of this machine it says who runs on the directory.
    let data = dir.path().join("data").display().to_string();
    let (document, _) = doctor(&["--only", "local", "--data-dir", &data]);
    if Path::new("/proc/locks").exists() {
        let runs = format!("process {} (allidb) runs on", daemon.child.id());
        assert!(document.to_string().contains(&runs), "{document}");
    }

    let version = format!("version=\"{}\"", env!("CARGO_PKG_VERSION"));
    let is_told = |line: &str| line.starts_with("allidb_build_info{") && line.contains(&version);
    assert!(daemon.figures().lines().any(is_told), "{}", daemon.figures());
    daemon.stop();

    let (document, output) = examine(&[]);
    assert_eq!(output.status.code(), Some(2), "{document}");
    assert_eq!(states(&document, "daemon"), ["fail"], "{document}");
    // Unless it is said that one must be there, none has to.
    let config = configuration(dir.path(), "");
    let (document, _) = doctor(&[&endpoint[..], &["--config", &config]].concat());
    assert_eq!(states(&document, "daemon"), ["skipped"], "{document}");
}

#[test]
fn a_build_is_described_in_words_and_as_a_document() {
    let output = allidb().args(["--output", "json", "version"]).output().expect("run");
    let document: Json = serde_json::from_slice(&output.stdout).expect("a document");
    assert_eq!(document["version"], env!("CARGO_PKG_VERSION"));
    for fact in ["commit", "rustc", "target", "profile"] {
        assert!(document[fact].as_str().is_some_and(|told| !told.is_empty()), "{fact}: {document}");
    }
    assert!(document["formats"]["manifest"].as_u64() >= Some(2), "{document}");
    for args in [&["--version"][..], &["version"]] {
        let output = allidb().args(args).output().expect("run");
        let told = String::from_utf8_lossy(&output.stdout);
        let begins = format!("allidb {}\n", env!("CARGO_PKG_VERSION"));
        assert!(told.starts_with(&begins) && told.contains("protocols: allidb.v1"), "{args:?}: {told}");
    }
    let short = allidb().arg("-V").output().expect("run");
    let told = String::from_utf8_lossy(&short.stdout).into_owned();
    assert!(told.lines().count() == 1 && told.contains("(commit "), "{told}");
}

#[test]
fn pages_and_completions_are_written() {
    let dir = TempDir::new().expect("a directory");
    let pages = dir.path().join("man1");
    let output = allidb().arg("man").arg(&pages).output().expect("run");
    assert!(output.status.success(), "{output:?}");
    for name in ["allidb.1", "allidb-doctor.1", "allidb-cluster-layout-stage.1"] {
        let page = fs::read_to_string(pages.join(name)).expect(name);
        assert!(page.contains(".SH SYNOPSIS"), "{name}: {page}");
    }
    let output = allidb().args(["completions", "bash"]).output().expect("run");
    let script = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && script.contains("complete -F _allidb"), "{output:?}");
    let refused = allidb().args(["completions", "nonsense"]).output().expect("run");
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
}
