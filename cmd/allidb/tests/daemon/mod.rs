//! A daemon as a process of its own, and the command line beside it.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value as Json;

/// How long any condition may take to come true.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < LIMIT, "{what}: not within {} s", LIMIT.as_secs());
        thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) fn allidb() -> Command {
    allidb_of(Path::new(env!("CARGO_BIN_EXE_allidb")))
}

fn allidb_of(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"ALLIDB") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// A daemon, killed when dropped.
pub(crate) struct Daemon {
    pub(crate) child: Child,
    pub(crate) grpc: String,
    http: String,
}

impl Daemon {
    pub(crate) fn start(dir: &Path) -> Self {
        let child = Self::launch(dir, &[]);
        Self::ready(dir, child)
    }

    /// Starts one without waiting for it.
    pub(crate) fn launch(dir: &Path, settings: &[(&str, &str)]) -> Child {
        Self::launch_build(Path::new(env!("CARGO_BIN_EXE_allidb")), dir, settings)
    }

    /// The same, of another build.
    pub(crate) fn launch_build(program: &Path, dir: &Path, settings: &[(&str, &str)]) -> Child {
        let ports = dir.join("ports.json");
        fs::remove_file(&ports).ok();
        let log = File::options().create(true).append(true).open(dir.join("log")).expect("a log");
        let mut command = allidb_of(program);
        command.args(["serve", "--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"]);
        command.arg("--data-dir").arg(dir.join("data")).arg("--port-file").arg(&ports);
        command.stdout(log.try_clone().expect("a second handle")).stderr(log).envs(settings.iter().copied());
        command.spawn().expect("started")
    }

    pub(crate) fn ready(dir: &Path, mut child: Child) -> Self {
        let ports = dir.join("ports.json");
        let text = eventually("the port file", || {
            assert!(child.try_wait().expect("a child of ours").is_none(), "{}", said(dir));
            fs::read_to_string(&ports).ok()
        });
        let addresses: Json = serde_json::from_str(&text).expect("JSON");
        let address = |port: &str| addresses[port].as_str().expect("an address").to_owned();
        Self { child, grpc: address("grpc"), http: address("http") }
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        allidb().args(["--endpoint", &self.grpc]).args(args).output().expect("run")
    }

    /// The document that a command prints, and whether it succeeded.
    pub(crate) fn json(&self, args: &[&str]) -> (Json, bool) {
        let output = self.run(&[&["--output", "json"], args].concat());
        let document = serde_json::from_slice(&output.stdout);
        (document.unwrap_or_else(|error| panic!("{args:?}: {error}: {output:?}")), output.status.success())
    }

    pub(crate) fn metric(&self, name: &str) -> Option<String> {
        let figures = self.figures();
        let line = figures.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map(str::to_owned)
    }

    /// All that `/metrics` answers.
    pub(crate) fn figures(&self) -> String {
        let mut stream = TcpStream::connect(&self.http).expect("the daemon listens");
        let request = format!("GET /metrics HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.http);
        stream.write_all(request.as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        answer
    }

    pub(crate) fn http(&self) -> &str {
        &self.http
    }

    /// Ends it as an operator would.
    pub(crate) fn stop(mut self) {
        let id = Pid::from_raw(self.child.id().cast_signed()).expect("a process id");
        kill_process(id, Signal::TERM).expect("signalled");
        let status = eventually("the end", || self.child.try_wait().expect("a child of ours"));
        assert!(status.success(), "{status}");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

pub(crate) fn said(dir: &Path) -> String {
    fs::read_to_string(dir.join("log")).unwrap_or_default()
}
