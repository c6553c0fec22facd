//! Certificates, from their making to their renewal.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Output,
    sync::Arc,
    time::SystemTime,
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use serde_json::Value as Json;
use tempfile::TempDir;

use crate::daemon::{Daemon, allidb, eventually, said};

/// A directory of certificates.
struct Files(PathBuf);

impl Files {
    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    fn init(&self, args: &[&str]) -> Output {
        allidb().args(["tls", "init", "--dir"]).arg(&self.0).args(args).output().expect("run")
    }

    /// Runs a command that shows a client's certificate.
    fn run(&self, daemon: &Daemon, client: &str, args: &[&str]) -> Output {
        let mut command = allidb();
        command.args(["--endpoint", &daemon.grpc, "--authority", &self.path("authority.pem")]);
        command.args(["--certificate", &self.path(&format!("{client}.pem"))]);
        command.args(["--certificate-key", &self.path(&format!("{client}-key.pem"))]);
        command.args(args).output().expect("run")
    }

    /// What is answered over HTTP, and which certificate was shown.
    fn get(&self, address: &str, path: &str, client: Option<&str>) -> (String, Vec<u8>) {
        let mut trusted = RootCertStore::empty();
        trusted
            .add(CertificateDer::from_pem_file(self.path("authority.pem")).expect("PEM"))
            .expect("an authority");
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(trusted);
        let config = match client {
            None => builder.with_no_client_auth(),
            Some(name) => {
                let certificate =
                    CertificateDer::from_pem_file(self.path(&format!("{name}.pem"))).expect("PEM");
                let key = PrivateKeyDer::from_pem_file(self.path(&format!("{name}-key.pem"))).expect("PEM");
                builder.with_client_auth_cert(vec![certificate], key).expect("they belong together")
            }
        };
        let name = "localhost".try_into().expect("a name");
        let session = ClientConnection::new(Arc::new(config), name).expect("a session");
        let mut stream = StreamOwned::new(session, TcpStream::connect(address).expect("it listens"));
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        let shown = stream.conn.peer_certificates().and_then(|shown| shown.first()).expect("a certificate");
        (answer, shown.to_vec())
    }

    /// For how many days what is shown at a port is still good, as the daemon tells.
    fn days_left(&self, daemon: &Daemon, port: &str) -> f64 {
        let (figures, _) = self.get(daemon.http(), "/metrics", Some("ops"));
        let start = format!("allidb_certificate_expires_timestamp_seconds{{port=\"{port}\"}} ");
        let end = figures.lines().find_map(|line| line.strip_prefix(&start));
        let end: f64 = end.unwrap_or_else(|| panic!("{port}: {figures}")).parse().expect("a number");
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
        (end - now.as_secs_f64()) / 86_400.0
    }
}

fn launched(dir: &Path, files: &Files) -> Daemon {
    let settings = [
        ("ALLIDB__LISTEN__CERTIFICATE_FILE", files.path("db.pem")),
        ("ALLIDB__LISTEN__KEY_FILE", files.path("db-key.pem")),
        ("ALLIDB__LISTEN__CLIENT_AUTHORITY_FILE", files.path("authority.pem")),
    ];
    let settings: Vec<(&str, &str)> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    Daemon::ready(dir, Daemon::launch(dir, &settings))
}

#[test]
fn a_daemon_and_its_clients_show_each_other_certificates() {
    let dir = TempDir::new().expect("a directory");
    let [files, others] = ["ours", "theirs"].map(|name| Files(dir.path().join(name)));
    for files in [&files, &others] {
        let made = files.init(&["--node", "db=db.example,10.0.0.1", "--client", "ops"]);
        assert!(made.status.success(), "{made:?}");
        for name in ["authority", "db", "ops"] {
            let mode =
                fs::metadata(files.path(&format!("{name}-key.pem"))).expect("a file").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }
    let daemon = launched(dir.path(), &files);

    // Who says nothing holds up nobody.
    let silent: Vec<TcpStream> =
        (0..500).map(|_| TcpStream::connect(&daemon.grpc).expect("it listens")).collect();
    let listed = files.run(&daemon, "ops", &["--output", "json", "collection", "list"]);
    assert!(listed.status.success(), "{listed:?}");
    drop(silent);

    let refused = |what: &str, output: Output| {
        assert!(!output.status.success(), "{what}: {output:?}");
    };
    let endpoint = format!("https://{}", daemon.grpc);
    let authority = files.path("authority.pem");
    let args = ["--endpoint", &endpoint, "--authority", &authority, "collection", "list"];
    refused("without a certificate", allidb().args(args).output().expect("run"));
    refused("without encryption", daemon.run(&["collection", "list"]));
    refused("a daemon of another authority", others.run(&daemon, "ops", &["collection", "list"]));
    let theirs = ["--certificate", &others.path("ops.pem"), "--certificate-key", &others.path("ops-key.pem")];
    refused("of another authority", allidb().args(args).args(theirs).output().expect("run"));
    let mixed = ["--endpoint", &daemon.grpc, "--certificate", &files.path("ops.pem"), "collection", "list"];
    refused("without its key", allidb().args(mixed).output().expect("run"));
    let clear = format!("http://{}", daemon.grpc);
    let clear = ["--endpoint", &clear, "--authority", &authority, "collection", "list"];
    let clear = allidb().args(clear).output().expect("run");
    assert_eq!(clear.status.code(), Some(2), "{clear:?}");

    let status = |path: &str, client: Option<&str>| {
        let (answer, _) = files.get(daemon.http(), path, client);
        answer.split(' ').nth(1).expect("a status").to_owned()
    };
    assert_eq!(status("/readyz", None), "200");
    assert_eq!(status("/metrics", None), "403");
    assert_eq!(status("/metrics", Some("ops")), "200");
    let url = format!("https://{}/metrics", daemon.http());
    let args = ["--output", "json", "top", "--once", "--interval", "100ms", "--metrics-url", &url];
    let shown = files.run(&daemon, "ops", &args);
    let shown: Json = serde_json::from_slice(&shown.stdout).unwrap_or_else(|_| panic!("{shown:?}"));
    assert!(shown["figures"].is_object(), "{shown}");
    daemon.stop();
}

#[test]
fn certificates_are_renewed_while_clients_call() {
    let dir = TempDir::new().expect("a directory");
    let files = Files(dir.path().join("certificates"));
    assert!(files.init(&["--node", "db", "--client", "ops"]).status.success());
    let daemon = launched(dir.path(), &files);
    let (_, before) = files.get(daemon.http(), "/livez", None);
    for port in ["grpc", "http"] {
        let left = files.days_left(&daemon, port);
        assert!((364.0..366.0).contains(&left), "{port}: {left}");
    }

    let again = files.init(&["--node", "db"]);
    assert_eq!(again.status.code(), Some(2), "what is there is not lost by mistake: {again:?}");
    let authority = fs::read(files.path("authority.pem")).expect("a file");
    let renewed =
        files.init(&["--output", "json", "--node", "db", "--client", "ops", "--renew", "--days", "30"]);
    assert!(renewed.status.success(), "{renewed:?}");
    let made: Json = serde_json::from_slice(&renewed.stdout).expect("JSON");
    assert_eq!(made["made"].as_array().expect("files").len(), 4, "{made}");
    assert_eq!(fs::read(files.path("authority.pem")).expect("a file"), authority);
    eventually("the renewed certificate", || {
        let listed = files.run(&daemon, "ops", &["collection", "list"]);
        assert!(listed.status.success(), "{listed:?}");
        let (_, shown) = files.get(daemon.http(), "/livez", None);
        (shown != before).then_some(())
    });
    let left = files.days_left(&daemon, "grpc");
    assert!((29.0..31.0).contains(&left), "{left}");

    fs::write(files.path("db.pem"), "nonsense").expect("written");
    eventually("a line in the log", || said(dir.path()).contains("cannot be used").then_some(()));
    let listed = files.run(&daemon, "ops", &["collection", "list"]);
    assert!(listed.status.success(), "{listed:?}");
    daemon.stop();
}

#[test]
fn certificates_are_made_for_names_alone() {
    let dir = TempDir::new().expect("a directory");
    let files = Files(dir.path().join("certificates"));
    for wrong in [
        &["--node", "../x"][..],
        &["--node", ""],
        &["--client", "authority"],
        &["--node", "a", "--client", "a"],
        &["--node", "a=not a host"],
        &["--node", "a", "--client", "a-key"],
        &["--client", "a", "--days", "0"],
    ] {
        let refused = files.init(wrong);
        assert!(!refused.status.success(), "{wrong:?}");
        assert!(!files.0.exists(), "{wrong:?}");
    }
    assert!(files.init(&["--client", "a"]).status.success());
    fs::remove_file(files.path("authority-key.pem")).expect("removed");
    assert!(!files.init(&["--client", "b"]).status.success(), "nobody can sign it");
}

#[test]
fn certificates_are_shown() {
    let dir = TempDir::new().expect("a directory");
    let files = Files(dir.path().join("certificates"));
    assert!(
        files.init(&["--node", "db=db.example,10.0.0.1", "--client", "ops", "--days", "20"]).status.success()
    );
    let show = |format: &str, paths: &[String]| {
        allidb().args(["--output", format, "tls", "show"]).args(paths).output().expect("run")
    };
    let both = fs::read_to_string(files.path("db.pem")).expect("read")
        + &fs::read_to_string(files.path("authority.pem")).expect("read");
    fs::write(files.path("chain.pem"), both).expect("written");
    let paths = [files.path("chain.pem"), files.path("ops.pem")];
    let told: Json = serde_json::from_slice(&show("json", &paths).stdout).expect("JSON");
    let told = told["certificates"].as_array().expect("a list");
    let of = |at: usize, what: &str| &told[at][what];
    assert_eq!((told.len(), of(0, "file"), of(2, "name")), (3, &paths[0].as_str().into(), &"ops".into()));
    let names = ["allidb", "db", "localhost", "127.0.0.1", "::1", "db.example", "10.0.0.1"];
    assert_eq!((of(0, "names"), of(0, "issuer")), (&names.as_slice().into(), &"AlliDB authority".into()));
    assert_eq!([of(0, "is_authority"), of(1, "is_authority"), of(1, "is_good")], [false, true, true]);
    assert!(of(0, "not_after").as_str() < of(1, "not_after").as_str(), "{told:?}");
    let table = show("table", &paths).stdout;
    let table = String::from_utf8_lossy(&table);
    assert!(table.contains("db.example, 10.0.0.1") && table.contains(" 19\n"), "{table}");

    let mut params = rcgen::CertificateParams::new(vec!["x.example".to_owned()]).expect("names");
    params.distinguished_name.push(rcgen::DnType::CommonName, "\u{1b}[2Jx");
    let hostile = params.self_signed(&rcgen::KeyPair::generate().expect("a key")).expect("signed").pem();
    fs::write(files.path("hostile.pem"), hostile).expect("written");
    let table = show("table", &[files.path("hostile.pem")]).stdout;
    assert!(!table.contains(&0x1b), "{table:?}");

    fs::write(files.path("other"), "no certificate").expect("written");
    for wrong in ["other", "absent", "db-key.pem"] {
        let refused = show("table", &[files.path(wrong)]);
        assert!(!refused.status.success(), "{wrong}: {refused:?}");
        let why = String::from_utf8_lossy(&refused.stderr);
        assert!(why.contains(&files.path(wrong)), "{why}");
    }
}
