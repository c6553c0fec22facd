//! Snapshots at an object store.

use std::{fs, net::SocketAddr, path::Path, sync::mpsc, thread};

use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::{net::TcpListener, runtime};

use super::{number, text};
use crate::daemon::Daemon;

const KEY: &str = "the-access-key";
const SECRET: &str = "the-secret-of-the-access-key";

/// Serves what lies in a directory as S3 does, to those who have the key, until the process ends. Each directory in it is a bucket.
fn serve(root: &Path) -> SocketAddr {
    let mut service = S3ServiceBuilder::new(FileSystem::new(root).expect("a directory"));
    service.set_auth(SimpleAuth::from_single(KEY, SECRET));
    let service = service.build();
    let (tell, told) = mpsc::channel();
    let serving = async move {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        tell.send(listener.local_addr().expect("an address")).expect("somebody waits");
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            let service = service.clone();
            tokio::spawn(async move {
                let server = Builder::new(TokioExecutor::new());
                // Clients may leave as they like.
                server.serve_connection(TokioIo::new(stream), service).await.ok();
            });
        }
    };
    let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    thread::spawn(move || runtime.block_on(serving));
    told.recv().expect("it listens")
}

#[test]
fn snapshots_are_kept_in_a_bucket() {
    let root = TempDir::new().expect("a directory");
    fs::create_dir(root.path().join("bucket")).expect("a bucket");
    let url = format!("http://{}", serve(root.path()));
    let launch = |dir: &TempDir, bucket: &str, secret: &str| {
        let settings = [
            ("ALLIDB__SNAPSHOTS__LOCATION", bucket),
            ("AWS_ENDPOINT_URL", &url),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_REGION", "eu-central-1"),
            ("AWS_ACCESS_KEY_ID", KEY),
            ("AWS_SECRET_ACCESS_KEY", secret),
        ];
        Daemon::ready(dir.path(), Daemon::launch(dir.path(), &settings))
    };
    let [first, second, third] = [(); 3].map(|()| TempDir::new().expect("a directory"));
    let daemon = launch(&first, "s3://bucket/backups/daily", SECRET);
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("sample").display().to_string();
    daemon.json(&["import", &sample, "--collection", "wordnet", "--space", "gloss"]);
    let (made, is_ok) = daemon.json(&["snapshot", "create"]);
    assert!(is_ok, "{made}");
    let (again, is_ok) = daemon.json(&["snapshot", "create"]);
    assert!(is_ok && number(&again, "new_bytes") == 0, "nothing changed: {again}");
    assert_eq!(text(&made, "digest"), text(&again, "digest"));
    let kept = root.path().join("bucket/backups/daily/objects");
    assert!(fs::read_dir(&kept).expect("a directory").count() > 10);
    let (verified, is_ok) = daemon.json(&["snapshot", "verify", &text(&again, "id")]);
    assert!(is_ok && number(&verified, "entities") == number(&made, "entities"), "{verified}");

    let restored = launch(&second, "s3://bucket/backups/daily", SECRET);
    let (said, is_ok) = restored.json(&["snapshot", "restore", &text(&again, "id")]);
    assert!(is_ok, "{said}");
    let (same, _) = restored.json(&["snapshot", "create"]);
    assert_eq!(text(&same, "digest"), text(&made, "digest"));

    let (listed, _) = daemon.json(&["snapshot", "list"]);
    let all = listed.as_array().expect("a list").iter().map(|snapshot| text(snapshot, "id"));
    let all: Vec<String> = all.collect();
    assert_eq!(all.len(), 3, "{listed}");
    let ids = all.iter().map(String::as_str);
    let (deleted, is_ok) = daemon.json(&["snapshot", "delete"].into_iter().chain(ids).collect::<Vec<_>>());
    assert!(is_ok, "{deleted}");
    let left = fs::read_dir(&kept).map_or(0, Iterator::count);
    assert_eq!(left, 0, "nothing refers to them");

    let wrong = "another-secret";
    let refused = launch(&third, "s3://bucket", wrong).run(&["snapshot", "create"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("s3://bucket"), "{refused:?}");
    assert!(![KEY, SECRET, wrong].iter().any(|word| said.contains(word)), "{said}");
}
