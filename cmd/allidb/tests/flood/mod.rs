//! Thousands of connections that say nothing, or nonsense, beside clients that work.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tempfile::TempDir;

use crate::daemon::Daemon;

/// Connections that are opened at each port and kept open.
const SILENT: usize = 5_000;
/// What the daemon has open at most at each port (`limits.connections`).
const MOST: usize = 2_000;
/// Other files that it may have open.
const FILES: usize = 300;

/// Starts to open more files than a shell allows, if it may.
fn raise_limit() {
    let most = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most }).expect("no more than is allowed");
    assert!(most.is_none_or(|most| most >= 12_000), "this test opens 11,000 files, and {most:?} are allowed");
}

fn open_files(daemon: &Daemon) -> usize {
    fs::read_dir(format!("/proc/{}/fd", daemon.child.id())).expect("it runs").count()
}

/// Sends nonsense of several kinds, until it is told to end.
fn talk_nonsense(address: &str, seed: u64, stop: &AtomicBool, sent: &AtomicU64) {
    let beginnings: [&[u8]; 5] = [
        b"",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        b"POST /allidb.v1.Entities/Put HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ];
    let mut state = seed | 1;
    while !stop.load(Ordering::Relaxed) {
        let Ok(mut stream) = TcpStream::connect(address) else { continue };
        stream.set_write_timeout(Some(Duration::from_millis(200))).expect("not zero");
        stream.set_read_timeout(Some(Duration::from_millis(20))).expect("not zero");
        let mut noise = vec![0; 16 << 10];
        for byte in &mut noise {
            // xorshift64.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *byte = state as u8;
        }
        let beginning = beginnings[state as usize % beginnings.len()];
        // Whether it takes them is its affair.
        let taken = stream.write_all(beginning).and_then(|()| stream.write_all(&noise));
        drop((taken, stream.read(&mut noise)));
        sent.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_flood_of_connections_holds_up_nobody_who_works() {
    raise_limit();
    let dir = TempDir::new().expect("a directory");
    let most = MOST.to_string();
    let child = Daemon::launch(dir.path(), &[("ALLIDB__LIMITS__CONNECTIONS", &most)]);
    let daemon = Daemon::ready(dir.path(), child);
    assert!(daemon.run(&["collection", "create", "notes"]).status.success());

    let (stop, sent, slowest) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for (seed, address) in [&daemon.grpc, daemon.http()].into_iter().enumerate() {
            let (stop, sent) = (&stop, &sent);
            scope.spawn(move || talk_nonsense(address, 77 + seed as u64, stop, sent));
        }
        // Each write is a client of its own, which connects as the flood does.
        let steady = scope.spawn(|| {
            let mut written = 0;
            while !stop.load(Ordering::Relaxed) {
                let entity = format!(r#"{{"id": "n{written}", "type": "note"}}"#);
                let begun = Instant::now();
                let put = daemon.run(&["put", "-c", "notes", &entity]);
                assert!(put.status.success(), "{put:?}");
                slowest.fetch_max(begun.elapsed().as_millis() as u64, Ordering::Relaxed);
                written += 1;
            }
            written
        });
        let silent: Vec<TcpStream> = [&daemon.grpc, daemon.http()]
            .into_iter()
            .flat_map(|address| (0..SILENT).filter_map(move |_| TcpStream::connect(address).ok()))
            .collect();
        assert_eq!(silent.len(), 2 * SILENT);
        thread::sleep(Duration::from_secs(3));
        let open = open_files(&daemon);
        assert!(open <= 2 * MOST + FILES, "{open} files are open");
        assert!(open >= 2 * MOST - FILES, "{open}: the flood did not arrive");
        // Whoever connects now is served, at both ports.
        assert!(daemon.run(&["collection", "list"]).status.success());
        assert!(daemon.metric("allidb_up").is_none(), "there is no such figure, but an answer");
        stop.store(true, Ordering::Relaxed);
        let written: u64 = steady.join().expect("each write was taken");
        assert!(written > 3, "{written} writes");
        drop(silent);
    });
    let slowest = Duration::from_millis(slowest.into_inner());
    assert!(slowest < Duration::from_secs(5), "a write took {slowest:?}");
    assert!(sent.into_inner() > 20, "there was nonsense");
    daemon.stop();
}
