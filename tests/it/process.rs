//! A daemon as a process: started on a directory of its own and ports that the system chooses, killed or
//! ended, and started again on the same directory. Dropping it kills it.

use std::{
    ffi::OsStr,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};
use tonic::transport::Channel;

use crate::client::Client;

/// How long any condition may take to come true.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
const POLL_EVERY: Duration = Duration::from_millis(5);
/// Lines of the log shown with a failure.
const LOG_LINES: usize = 40;

/// Waits until `look` finds something, at most [`LIMIT`].
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begun.elapsed() < LIMIT, "{what}: not within {} s", LIMIT.as_secs());
        sleep(POLL_EVERY).await;
    }
}

/// The daemon on `dir`, not started yet: quiet surroundings, free ports.
pub(crate) fn command(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_allidbd-under-test"));
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"ALLIDB") {
            command.env_remove(name);
        }
    }
    command
        .args(["--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--log-format", "json"])
        .arg("--data-dir")
        .arg(dir.join("data"))
        .arg("--port-file")
        .arg(dir.join("ports.json"))
        .stdin(Stdio::null());
    command
}

/// A daemon and its directory.
pub(crate) struct Process {
    child: Option<Child>,
    grpc: String,
    http: String,
    channel: Option<Channel>,
    settings: Vec<(String, String)>,
    /// Where the log of this start begins.
    log_from: usize,
    dir: TempDir,
}

impl Process {
    /// Starts a daemon and waits until it is ready.
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// As [`Process::start`], with options given as variables.
    pub(crate) async fn start_with(settings: &[(&'static str, &'static str)]) -> Self {
        let mut process = Self::of(settings.iter().map(|(name, value)| ((*name).into(), (*value).into())));
        process.restart().await;
        process
    }

    /// One that is not started yet.
    pub(crate) fn of(settings: impl Iterator<Item = (String, String)>) -> Self {
        Self {
            child: None,
            grpc: String::new(),
            http: String::new(),
            channel: None,
            settings: settings.collect(),
            log_from: 0,
            dir: TempDir::new().expect("a directory"),
        }
    }

    /// Starts the daemon again, on its directory and new ports.
    pub(crate) async fn restart(&mut self) {
        self.launch();
        self.ready().await;
    }

    /// Starts the daemon, and waits for nothing.
    pub(crate) fn launch(&mut self) {
        assert!(self.child.is_none(), "the daemon runs already");
        let ports = self.dir().join("ports.json");
        if ports.exists() {
            fs::remove_file(&ports).expect("the last start's port file can go");
        }
        self.log_from = self.whole_log().len();
        let log = File::options().create(true).append(true).open(self.log_path()).expect("a log file");
        let mut command = command(self.dir());
        command.envs(self.settings.iter().cloned());
        command.stdout(log.try_clone().expect("a second handle")).stderr(log);
        self.child = Some(command.spawn().expect("the daemon is started"));
    }

    /// Waits until it is ready.
    pub(crate) async fn ready(&mut self) {
        let ports = self.dir().join("ports.json");
        let text = eventually("the port file", async || {
            self.assert_running();
            fs::read_to_string(&ports).ok()
        })
        .await;
        let addresses: serde_json::Value = serde_json::from_str(&text).expect("the port file is JSON");
        self.grpc = addresses["grpc"].as_str().expect("an address").to_owned();
        self.http = addresses["http"].as_str().expect("an address").to_owned();
        eventually("/readyz", async || {
            self.assert_running();
            self.get("/readyz").await.filter(|(code, _)| *code == 200)
        })
        .await;
        let endpoint = Channel::from_shared(format!("http://{}", self.grpc)).expect("an address is a URL");
        self.channel = Some(endpoint.connect().await.expect("the daemon listens"));
    }

    fn assert_running(&mut self) {
        let ended = self.child.as_mut().map(|child| child.try_wait().expect("a child of ours"));
        assert!(matches!(ended, Some(None)), "the daemon ended by itself: {ended:?}");
    }

    /// Ends it at once, as `kill -9` does.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("the daemon runs");
        child.kill().expect("killed");
        child.wait().expect("ended");
        self.channel = None;
    }

    /// Asks it to end (SIGTERM).
    pub(crate) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("the daemon runs");
        let id = Pid::from_raw(child.id().cast_signed()).expect("a process id");
        kill_process(id, signal).expect("signalled");
    }

    /// Waits until it has ended.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let child = self.child.as_mut().expect("the daemon runs");
        let status = eventually("the end", async || child.try_wait().expect("a child of ours")).await;
        self.child = None;
        self.channel = None;
        status
    }

    /// Ends it in order, and starts it again.
    pub(crate) async fn end_and_restart(&mut self) {
        // An open connection has the daemon wait for its end.
        self.channel = None;
        self.terminate();
        let status = self.ended().await;
        assert!(status.success(), "the daemon ended with {status}");
        self.restart().await;
    }

    /// Kills it, and starts it again.
    pub(crate) async fn kill_and_restart(&mut self) {
        self.kill();
        self.restart().await;
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.as_ref().expect("the daemon runs").id()
    }

    pub(crate) fn is_running(&self) -> bool {
        self.child.is_some()
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.channel.clone().expect("the daemon runs"))
    }

    /// Where it is asked over HTTP.
    pub(crate) fn http(&self) -> &str {
        &self.http
    }

    pub(crate) fn grpc(&self) -> &str {
        &self.grpc
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn log_path(&self) -> PathBuf {
        self.dir().join("daemon.log")
    }

    fn whole_log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// What was logged since the last start.
    pub(crate) fn log(&self) -> String {
        self.whole_log().split_off(self.log_from)
    }

    /// `GET path` on the HTTP port: code and body. By hand: one request does not need an HTTP client.
    pub(crate) async fn get(&self, path: &str) -> Option<(u16, String)> {
        let ask = async {
            let mut stream = TcpStream::connect(&self.http).await?;
            let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.http);
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            std::io::Result::Ok(answer)
        };
        let answer = timeout(Duration::from_secs(10), ask).await.ok()?.ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let code = head.split(' ').nth(1)?.parse().ok()?;
        Some((code, body.to_owned()))
    }

    /// The figure of this name without labels, if it was exported already.
    pub(crate) async fn metric(&self, name: &str) -> Option<f64> {
        let (code, text) = self.get("/metrics").await.expect("the daemon answers");
        assert_eq!(code, 200);
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.whole_log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!(
                "the end of the daemon's log:\n{}",
                lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
            );
        }
        if let Some(child) = &mut self.child {
            // Both fail only if the process is gone.
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// Runs a daemon that is expected to give up by itself: its exit code and what it said.
pub(crate) async fn refused<S: AsRef<OsStr>>(mut command: Command, arguments: &[S]) -> (Option<i32>, String) {
    struct Guard(Child);
    impl Drop for Guard {
        fn drop(&mut self) {
            self.0.kill().ok();
            self.0.wait().ok();
        }
    }
    let said = tempfile::NamedTempFile::new().expect("a file");
    let handle = || said.reopen().expect("a second handle");
    command.args(arguments).stdout(Stdio::null()).stderr(handle());
    let mut child = Guard(command.spawn().expect("the daemon is started"));
    let status = eventually("the refusal", async || child.0.try_wait().expect("a child of ours")).await;
    (status.code(), fs::read_to_string(said.path()).expect("what it said"))
}
