//! Processes and their ends: signals, port file, directories.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use allidbd::Daemon;
use tempfile::TempDir;

use crate::running::config;

/// Ends with the test, whatever happens.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn start(dir: &Path, more: &[&str]) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_allidbd"));
    command
        .args(["--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--data-dir"])
        .arg(dir.join("data"));
    command.arg("--port-file").arg(dir.join("ports.json")).args(more);
    Process(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the daemon is started"))
}

/// Waits for a condition, at most half a minute.
fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{what} did not come");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_signal_ends_the_process_in_order() {
    for signal in ["TERM", "INT"] {
        let dir = TempDir::new().expect("a directory");
        let mut process = start(dir.path(), &[]);
        let ports = wait_for("the port file", || std::fs::read_to_string(dir.path().join("ports.json")).ok());
        let ports: serde_json::Value = serde_json::from_str(&ports).expect("whole as soon as it is there");
        assert!(ports["grpc"].as_str().is_some_and(|address| address.starts_with("127.0.0.1:")), "{ports}");
        assert!(ports["http"].is_string(), "{ports}");
        let id = process.0.id().to_string();
        let sent = Command::new("kill").args(["-s", signal, &id]).status().expect("kill is there");
        assert!(sent.success());
        let status = wait_for("the end", || process.0.try_wait().expect("a child"));
        assert_eq!(status.code(), Some(0), "after SIG{signal}");
    }
}

#[test]
fn an_open_address_is_refused() {
    let dir = TempDir::new().expect("a directory");
    let output = Command::new(env!("CARGO_BIN_EXE_allidbd"))
        .args(["--grpc-listen", "0.0.0.0:0", "--data-dir"])
        .arg(dir.path().join("data"))
        .output()
        .expect("the daemon is started");
    assert!(!output.status.success());
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(words.contains("`listen.grpc` is 0.0.0.0:0, but only loopback"), "{words}");
    assert!(!dir.path().join("data").exists(), "nothing was opened");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_serves_one_daemon_at_a_time() {
    let dir = TempDir::new().expect("a directory");
    let first = Daemon::start(config(dir.path())).await.expect("the first");
    let second = Daemon::start(config(dir.path())).await.err().expect("the directory is taken");
    assert!(format!("{second:#}").contains("held by another"), "{second:#}");
    first.shutdown().await.expect("closed");
    let third = Daemon::start(config(dir.path())).await.expect("the directory is free");
    third.shutdown().await.expect("closed");
}
