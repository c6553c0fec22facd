//! Keys, as an operator makes and changes them.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Output,
};

use serde_json::Value as Json;
use tempfile::TempDir;

use crate::daemon::{Daemon, allidb, eventually, said};

fn run(daemon: &Daemon, key_file: &Path, args: &[&str]) -> Output {
    let mut command = allidb();
    command.args(["--output", "json", "--endpoint", &daemon.grpc, "--key-file"]).arg(key_file).args(args);
    command.output().expect("run")
}

fn json(output: &Output) -> Json {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// The status of `/metrics` for whoever shows a key.
fn figures(daemon: &Daemon, key: &str) -> String {
    let mut stream = TcpStream::connect(daemon.http()).expect("it listens");
    let request = format!(
        "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer {key}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answered");
    answer.split(' ').nth(1).expect("a status").to_owned()
}

#[test]
fn keys_are_made_shown_and_revoked() {
    let dir = TempDir::new().expect("a directory");
    let place = dir.path().join("snapshots").display().to_string();
    let settings = [("ALLIDB__ACCESS__KEYS_REQUIRED", "true"), ("ALLIDB__SNAPSHOTS__LOCATION", &*place)];
    let launch = || Daemon::ready(dir.path(), Daemon::launch(dir.path(), &settings));
    let daemon = launch();
    let own = dir.path().join("data/admin-key");
    let mode = |path: &Path| fs::metadata(path).expect("it was made").permissions().mode() & 0o777;
    assert_eq!(mode(&own), 0o600);
    assert_eq!(own.parent().map(mode), Some(0o700), "what is stored is its owner's alone");
    assert!(
        !said(dir.path()).contains(fs::read_to_string(&own).expect("a key").trim()),
        "the log tells no key"
    );
    assert!(!daemon.run(&["collection", "list"]).status.success(), "nobody is let in without a key");

    let make = |name: &str, args: &[&str]| {
        let made = json(&run(&daemon, &own, &[&["key", "create", name], args].concat()));
        let path = dir.path().join(name);
        fs::write(&path, made["secret"].as_str().expect("a key")).expect("written");
        (made["id"].as_str().expect("an id").to_owned(), path)
    };
    let (admin_id, admin) = make("admin", &["--role", "admin"]);
    let (_, reader) = make("reader", &["--role", "reader", "--expires-in", "90d"]);
    let (_, operator) = make("operator", &["--role", "operator"]);
    let listed = json(&run(&daemon, &admin, &["key", "list"]));
    assert_eq!(listed.as_array().expect("keys").len(), 3, "{listed}");
    assert!(!listed.to_string().contains("secret") && !listed.to_string().contains("hash"), "{listed}");
    assert!(run(&daemon, &admin, &["collection", "create", "c"]).status.success());
    assert!(run(&daemon, &reader, &["collection", "list"]).status.success());
    assert!(!run(&daemon, &reader, &["collection", "create", "d"]).status.success());
    assert!(run(&daemon, &operator, &["flush"]).status.success());
    assert!(!run(&daemon, &admin, &["flush"]).status.success());
    let key = |path: &Path| fs::read_to_string(path).expect("a key").trim().to_owned();
    assert_eq!(figures(&daemon, &key(&operator)), "200");
    assert_eq!(figures(&daemon, &key(&reader)), "403");
    assert_eq!(figures(&daemon, "nonsense"), "401");
    let url = format!("http://{}/metrics", daemon.http());
    let top = ["top", "--once", "--interval", "100ms", "--metrics-url", &url];
    let shown = json(&run(&daemon, &operator, &top));
    assert!(shown["figures"].is_object(), "{shown}");
    assert!(!run(&daemon, &reader, &top).status.success());

    for command in [&["compact"][..], &["scrub"], &["snapshot", "create"]] {
        json(&run(&daemon, &operator, command));
    }

    // Keys are there after a restart, and so is the daemon's own.
    daemon.stop();
    let log = said(dir.path());
    let audited =
        |word: &str| log.lines().filter(|line| line.contains("allidb::audit") && line.contains(word)).count();
    assert!(
        audited("answered") > 5 && audited("cut off") == 0,
        "whoever ran a command waited for its end: {log}"
    );
    let daemon = launch();
    assert!(run(&daemon, &admin, &["collection", "list"]).status.success());
    assert!(run(&daemon, &own, &["key", "revoke", &admin_id]).status.success());
    assert!(!run(&daemon, &admin, &["collection", "list"]).status.success());
    let unknown = run(&daemon, &own, &["key", "revoke", &admin_id]);
    assert_eq!(unknown.status.code(), Some(3), "{unknown:?}");

    // Another one takes the place of the daemon's own.
    let before = dir.path().join("before");
    fs::copy(&own, &before).expect("copied");
    let digits = "0123456789abcdef".repeat(4);
    fs::write(&own, format!("adb_another23456_{digits}\n")).expect("written");
    eventually("the other key", || run(&daemon, &own, &["key", "list"]).status.success().then_some(()));
    assert!(!run(&daemon, &before, &["key", "list"]).status.success());
    fs::write(&own, "nonsense").expect("written");
    eventually("a line in the log", || said(dir.path()).contains("holds no key").then_some(()));
    fs::write(&before, format!("adb_another23456_{digits}\n")).expect("written");
    assert!(run(&daemon, &before, &["key", "list"]).status.success());
    daemon.stop();
}

#[test]
fn a_tenant_goes_with_all_that_it_has() {
    let dir = TempDir::new().expect("a directory");
    let settings = [("ALLIDB__ACCESS__KEYS_REQUIRED", "true")];
    let daemon = Daemon::ready(dir.path(), Daemon::launch(dir.path(), &settings));
    let own = dir.path().join("data/admin-key");
    let make = |name: &str, args: &[&str]| {
        let made = json(&run(&daemon, &own, &[&["key", "create", name], args].concat()));
        let path = dir.path().join(name);
        fs::write(&path, made["secret"].as_str().expect("a key")).expect("written");
        path
    };
    let operator = make("operator", &["--role", "operator"]);
    let [seven, eight] =
        ["7", "8"].map(|tenant| make(&format!("of-{tenant}"), &["--role", "admin", "--tenant", tenant]));
    for name in ["a", "b"] {
        json(&run(&daemon, &seven, &["collection", "create", name]));
    }
    json(&run(&daemon, &seven, &["put", "-c", "a", r#"{"id": "e"}"#]));
    json(&run(&daemon, &eight, &["collection", "create", "a"]));
    // What it may ask for in a second does not hold up that it goes.
    let quota = ["quota", "set", "7", "--entities", "100", "--requests-per-second", "20"];
    json(&run(&daemon, &operator, &quota));
    let of = |tenant: u64| {
        let listed = json(&run(&daemon, &operator, &["tenant", "list"]));
        listed.as_array().expect("tenants").iter().find(|of| of["tenant"] == tenant).cloned()
    };
    let shown = of(7).expect("it is there");
    assert_eq!((&shown["collections"], &shown["keys"]), (&2.into(), &1.into()), "{shown}");
    assert_eq!(shown["entities"], 100, "{shown}");
    eventually("it is counted", || (of(7)?["used"]["entities"] == 1).then_some(()));

    let refused = run(&daemon, &own, &["tenant", "drop", "7"]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert_eq!(run(&daemon, &own, &["tenant", "drop", "9", "--yes"]).status.code(), Some(3));
    for other in [&operator, &seven, &eight] {
        assert!(!run(&daemon, other, &["tenant", "drop", "7", "--yes"]).status.success());
    }
    json(&run(&daemon, &seven, &["get", "-c", "a", "e"]));
    let gone = run(&daemon, &own, &["tenant", "drop", "7", "--yes"]);
    assert!(gone.status.success(), "{gone:?}");
    assert_eq!(of(7), None);
    assert!(!run(&daemon, &seven, &["collection", "list"]).status.success());
    assert_eq!(of(8).expect("it stays")["collections"], 1);
    json(&run(&daemon, &eight, &["collection", "list"]));
    // Operators look after the whole ring, whatever tenant their keys name.
    let spared = json(&run(&daemon, &own, &["tenant", "drop", "1", "--yes"]));
    assert_eq!((&spared["keys"], &spared["operators_keys"]), (&0.into(), &1.into()), "{spared}");
    assert!(run(&daemon, &operator, &["flush"]).status.success());
    let again = make("again", &["--role", "admin", "--tenant", "7"]);
    assert_eq!(json(&run(&daemon, &again, &["collection", "list"])).as_array().map(Vec::len), Some(0));
}

#[test]
fn each_refusal_is_in_the_log_or_counted_there() {
    const REFUSED: u64 = 60;
    let dir = TempDir::new().expect("a directory");
    let settings = [("ALLIDB__ACCESS__KEYS_REQUIRED", "true")];
    let daemon = Daemon::ready(dir.path(), Daemon::launch(dir.path(), &settings));
    for _ in 0..REFUSED {
        let mut stream = TcpStream::connect(daemon.http()).expect("it listens");
        let request = "GET /v1/collections HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    }
    let (noted, withheld) = eventually("all are told of", || {
        let (mut noted, mut withheld) = (0, 0);
        let log = said(dir.path());
        for line in log.lines().filter(|line| line.contains("allidb::audit: refused")) {
            noted += u64::from(line.contains("service="));
            let counted = line.split("withheld=").nth(1).and_then(|after| after.split(' ').next());
            withheld += counted.map_or(0, |counted| counted.parse::<u64>().expect("a number"));
        }
        (noted + withheld >= REFUSED).then_some((noted, withheld))
    });
    assert!(noted > 0 && withheld > 0 && noted + withheld == REFUSED, "{noted} and {withheld}");
}

#[test]
fn a_key_is_not_sent_in_the_clear() {
    let dir = TempDir::new().expect("a directory");
    let key = dir.path().join("key");
    fs::write(&key, format!("adb_another23456_{}", "0".repeat(64))).expect("written");
    for endpoint in ["http://192.0.2.1:7000", "192.0.2.1:7000", "http://example.invalid:7000"] {
        let refused = allidb().args(["--endpoint", endpoint, "--key-file"]).arg(&key).arg("flush").output();
        let refused = refused.expect("run");
        assert_eq!(refused.status.code(), Some(2), "{endpoint}: {refused:?}");
    }
}
