//! `allidb top`, printed once and in a terminal.

use std::{
    fs::File,
    io::{ErrorKind, Read, Write},
    os::fd::OwnedFd,
    path::PathBuf,
    process::{Child, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use rustix::{
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize},
};
use tempfile::TempDir;

use crate::daemon::{Daemon, allidb, eventually};

fn put_some(daemon: &Daemon) {
    assert!(daemon.run(&["collection", "create", "c"]).status.success());
    assert!(daemon.run(&["put", "-c", "c", r#"{"id": "a"}"#]).status.success());
}

#[test]
fn a_node_is_printed_once() {
    let dir = TempDir::new().expect("a directory");
    let daemon = Daemon::start(dir.path());
    put_some(&daemon);
    let url = format!("http://{}/metrics", daemon.http());
    let args = ["top", "--once", "--interval", "200ms", "--metrics-url", &url];
    let (document, is_ok) = daemon.json(&args);
    assert!(is_ok && document["figures_error"].is_null(), "{document}");
    assert_eq!(document["nodes"].as_array().map(Vec::len), Some(1), "{document}");
    assert_eq!(document["nodes"][0]["state"], "up");
    assert!(document["figures"]["log_bytes"].as_f64() > Some(0.0), "{document}");
    assert!(document["seconds"].as_f64() >= Some(0.2), "{document}");
    // What it asks itself is called, too, if that is counted by the time of the second look.
    eventually("calls are shown", || {
        let (document, _) = daemon.json(&args);
        let mut methods = document["methods"].as_array().expect("methods").iter();
        let rate = methods.find(|of| of["method"] == "Cluster.DescribeCluster")?;
        (rate["calls_per_second"].as_f64() > Some(0.0) && rate["p99_seconds"].is_number()).then_some(())
    });
    assert!(document["workers"].as_array().is_some_and(|workers| !workers.is_empty()), "{document}");

    let printed = daemon.run(&args);
    let told = String::from_utf8_lossy(&printed.stdout);
    for expected in ["1 of 1 nodes are up", "compaction debt", "cache hits", "partitions"] {
        assert!(printed.status.success() && told.contains(expected), "{expected} is not in {told}");
    }

    // Where figures are not, the ring is shown all the same.
    let nowhere = ["top", "--once", "--interval", "100ms", "--metrics-url", "http://127.0.0.1:1/metrics"];
    let (document, is_ok) = daemon.json(&nowhere);
    assert!(is_ok && document["figures"].is_null() && document["figures_error"].is_string(), "{document}");

    for wrong in [&["top"][..], &["top", "--once", "--interval", "1ms"], &["--output", "json", "top"]] {
        let refused = daemon.run(wrong);
        assert_eq!(refused.status.code(), Some(2), "{wrong:?}: {refused:?}");
    }
    daemon.stop();
}

/// A terminal, and what was written to it so far.
struct Terminal {
    held: OwnedFd,
    path: PathBuf,
    written: Arc<Mutex<String>>,
}

impl Terminal {
    fn new(rows: u16, columns: u16) -> Self {
        let held = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&held).expect("ours");
        unlockpt(&held).expect("ours");
        let path = ptsname(&held, Vec::new()).expect("a name").into_string().expect("text");
        let terminal = Self { held, path: path.into(), written: Arc::default() };
        terminal.resize(rows, columns);
        terminal
    }

    fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.held, size).expect("a size");
    }

    fn side(&self) -> File {
        File::options().read(true).write(true).open(&self.path).expect("the other side")
    }

    /// Starts a command in it, and notes what it writes.
    fn run(&self, daemon: &Daemon, args: &[&str]) -> Child {
        let mut command = allidb();
        command.args(["--endpoint", &daemon.grpc]).args(args);
        command.stdin(self.side()).stdout(self.side()).stderr(Stdio::inherit());
        let child = command.spawn().expect("started");
        let mut reader = File::from(self.held.try_clone().expect("a second handle"));
        let written = self.written.clone();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                match reader.read(&mut buffer) {
                    Ok(0) => return,
                    Ok(read) => {
                        let text = String::from_utf8_lossy(&buffer[..read]).into_owned();
                        written.lock().expect("no panic").push_str(&text);
                    }
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    // The other side is closed.
                    Err(_) => return,
                }
            }
        });
        child
    }

    fn press(&self, keys: &str) {
        File::from(self.held.try_clone().expect("a second handle"))
            .write_all(keys.as_bytes())
            .expect("pressed");
    }

    fn written(&self) -> String {
        self.written.lock().expect("no panic").clone()
    }
}

#[test]
fn a_terminal_is_taken_over_and_given_back() {
    let dir = TempDir::new().expect("a directory");
    let daemon = Daemon::start(dir.path());
    put_some(&daemon);
    let url = format!("http://{}/metrics", daemon.http());
    let args = ["top", "--interval", "100ms", "--metrics-url", &url];
    // q, and Ctrl-C.
    for key in ["q", "\x03"] {
        let terminal = Terminal::new(40, 120);
        // Held open: what was set goes with the last that has it open.
        let side = terminal.side();
        let is_cooked = || {
            let modes = tcgetattr(&side).expect("a terminal").local_modes;
            modes.contains(LocalModes::ICANON | LocalModes::ECHO)
        };
        assert!(is_cooked());
        let mut child = terminal.run(&daemon, &args);
        eventually("it is shown", || terminal.written().contains("compaction debt").then_some(()));
        assert!(!is_cooked());
        let seen = terminal.written().len();
        // Lines that are longer than the terminal is wide now are cut.
        terminal.resize(10, 20);
        eventually("it is shown again", || {
            let written = terminal.written();
            let fresh = written.get(seen..).unwrap_or_default();
            // Two whole pictures later the size was looked at anew.
            (fresh.matches("node ").count() > 4).then_some(())
        });
        let last = terminal.written();
        let picture = &last[last.rfind("\x1b[1;1H").expect("it begins at the top")..];
        assert!(!picture.contains("compaction debt"), "{picture:?}");
        terminal.press(key);
        let status = eventually("the end", || child.try_wait().expect("a child of ours"));
        assert!(status.success(), "{key:?}: {status}");
        assert!(is_cooked(), "{key:?}");
        eventually("the screen is given back", || {
            let written = terminal.written();
            (written.contains("\x1b[?1049l") && written.contains("\x1b[?25h")).then_some(())
        });
    }
    daemon.stop();
}

#[test]
fn a_signal_gives_the_terminal_back() {
    let dir = TempDir::new().expect("a directory");
    let daemon = Daemon::start(dir.path());
    let url = format!("http://{}/metrics", daemon.http());
    for signal in [Signal::TERM, Signal::HUP, Signal::INT, Signal::QUIT] {
        let terminal = Terminal::new(40, 120);
        let side = terminal.side();
        let mut child = terminal.run(&daemon, &["top", "--metrics-url", &url]);
        eventually("it is shown", || terminal.written().contains("compaction debt").then_some(()));
        kill_process(Pid::from_child(&child), signal).expect("it runs");
        let status = eventually("the end", || child.try_wait().expect("a child of ours"));
        assert!(status.success(), "{signal:?}: {status}");
        let modes = tcgetattr(&side).expect("a terminal").local_modes;
        assert!(modes.contains(LocalModes::ICANON | LocalModes::ECHO), "{signal:?}");
    }
    daemon.stop();
}
