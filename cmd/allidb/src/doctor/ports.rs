//! Ports that the daemon will listen at, and whoever holds them and the data directory.

use std::{
    fs, io,
    net::{SocketAddr, TcpListener},
    os::unix::fs::MetadataExt,
    path::Path,
};

use super::{place::Place, verdict::Verdict};

/// Tables of connections, as `/proc` has them.
const CONNECTIONS: [&str; 2] = ["proc/net/tcp", "proc/net/tcp6"];
/// The state of those that listen.
const LISTENS: &str = "0A";

/// The process that holds the store, if one does, and each port.
pub(super) fn check(place: &Place) -> Vec<Verdict> {
    let daemon = lock_holder(place);
    let mut verdicts = Vec::new();
    if let Some(process) = daemon {
        let (dir, name) = (place.config.data_dir.display(), name_of(place, process));
        verdicts.push(Verdict::ok(format!("process {process} ({name}) runs on {dir}")));
    }
    let config = &place.config;
    let mut ports = vec![("listen.grpc", config.listen.grpc), ("listen.http", config.listen.http)];
    if !config.ring.founders.is_empty() {
        ports.push(("ring.listen", config.ring.listen));
    }
    verdicts.extend(ports.into_iter().map(|(option, address)| port(place, option, address, daemon)));
    verdicts
}

/// Whether more is open than it seems.
pub(super) fn openness(place: &Place) -> Vec<Verdict> {
    let listen = &place.config.listen;
    let is_open = !listen.grpc.ip().is_loopback() || !listen.http.ip().is_loopback();
    vec![match (listen.unprotected, is_open) {
        (true, true) => Verdict::warn(
            "`listen.unprotected` is set, and other machines reach the ports",
            "set certificates, and `access.keys_required` or `listen.client_authority_file` (docs/security.md)",
        ),
        (_, true) => Verdict::ok("other machines are served with certificates, and known by keys or theirs"),
        (_, false) => Verdict::ok("only this machine is served"),
    }]
}

fn port(place: &Place, option: &str, address: SocketAddr, daemon: Option<u32>) -> Verdict {
    let shown = format!("{option} {address}");
    if address.port() == 0 {
        return Verdict::ok(format!("{shown}: any that is free"));
    }
    match TcpListener::bind(address) {
        Ok(_) => match daemon {
            None => Verdict::ok(format!("{shown} is free")),
            Some(process) => Verdict::ok(format!(
                "{shown} is free: process {process} was started with other ports than are looked at here"
            )),
        },
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let holder = port_holder(place, address.port());
            judge_held(&shown, holder.map(|process| (process, name_of(place, process))), daemon)
        }
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
            Verdict::fail(format!("{shown} is no address of this machine"), "name one that is, or 0.0.0.0")
        }
        Err(error) => Verdict::fail(format!("{shown}: {error}"), "name a port that this user may listen at"),
    }
}

fn judge_held(shown: &str, holder: Option<(u32, String)>, daemon: Option<u32>) -> Verdict {
    let advice = "end that process, or name another port";
    match (holder, daemon) {
        (Some((process, name)), Some(daemon)) if process == daemon => {
            Verdict::ok(format!("{shown} is held by process {process} ({name}), which runs on the directory"))
        }
        (Some((process, name)), _) => {
            Verdict::fail(format!("{shown} is held by process {process} ({name})"), advice)
        }
        // Processes of others do not say what they hold.
        (None, Some(daemon)) => Verdict::ok(format!("{shown} is held, maybe by process {daemon}")),
        (None, None) => Verdict::fail(format!("{shown} is held by a process of somebody else"), advice),
    }
}

/// The process that holds the lock of the store.
fn lock_holder(place: &Place) -> Option<u32> {
    let inode = fs::metadata(place.config.data_dir.join("LOCK")).ok()?.ino();
    holder_in(&place.read("proc/locks")?, inode)
}

/// `1: FLOCK  ADVISORY  WRITE 2123 fe:00:5309420 0 EOF`: of which the process and the inode count. Devices are not always those that
/// files say they are on.
fn holder_in(locks: &str, inode: u64) -> Option<u32> {
    locks.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip_while(|word| *word != "FLOCK").skip(3);
        let process = words.next()?.parse().ok()?;
        let held: u64 = words.next()?.rsplit(':').next()?.parse().ok()?;
        (held == inode).then_some(process)
    })
}

/// The process that listens at a port, as far as this user may know.
fn port_holder(place: &Place, port: u16) -> Option<u32> {
    let socket = CONNECTIONS.iter().find_map(|table| listener_in(&place.read(table)?, port))?;
    let socket = format!("socket:[{socket}]");
    let processes = fs::read_dir(place.root.join("proc")).ok()?.filter_map(Result::ok);
    let mut numbered =
        processes.filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())));
    numbered.find(|(_, path)| has_open(path, &socket)).map(|(process, _)| process)
}

/// The inode of the socket that listens at a port: the tenth word of its line.
fn listener_in(table: &str, port: u16) -> Option<u64> {
    table.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let local = words.next()?.rsplit(':').next()?;
        let state = words.nth(1)?;
        let inode = words.nth(5)?;
        let is_it = state == LISTENS && u16::from_str_radix(local, 16) == Ok(port);
        is_it.then(|| inode.parse().ok()).flatten()
    })
}

fn has_open(process: &Path, socket: &str) -> bool {
    let Ok(files) = fs::read_dir(process.join("fd")) else { return false };
    files
        .filter_map(Result::ok)
        .any(|file| fs::read_link(file.path()).is_ok_and(|to| to.as_os_str() == socket))
}

fn name_of(place: &Place, process: u32) -> String {
    place.read(&format!("proc/{process}/comm")).unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::symlink, path::PathBuf};

    use rustix::fs::{FlockOperation, flock};
    use tempfile::TempDir;

    use super::*;
    use crate::doctor::{
        place::tests::{bare, say},
        verdict::State,
    };

    const TABLE: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1B58 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1455 1 0 100 0 0 10 0
   1: 020200C0:1B59 507100CB:01BB 01 00000000:00000000 00:00000000 00000000     0        0 5414 1 0 21 4 1 64 146
";

    #[test]
    fn whoever_listens_is_found() {
        assert_eq!(listener_in(TABLE, 7_000), Some(1_455));
        assert_eq!(listener_in(TABLE, 7_001), None, "it is connected there, and does not listen");
        let dir = TempDir::new().expect("a directory");
        let place = bare(&dir);
        say(&place, "proc/net/tcp", TABLE);
        say(&place, "proc/12/comm", "allidb\n");
        assert_eq!(port_holder(&place, 7_000), None);
        fs::create_dir(dir.path().join("proc/12/fd")).expect("made");
        symlink("socket:[1455]", dir.path().join("proc/12/fd/3")).expect("made");
        assert_eq!(port_holder(&place, 7_000), Some(12));
        assert_eq!(name_of(&place, 12), "allidb");
    }

    #[test]
    fn whoever_holds_the_directory_is_found() {
        let dir = TempDir::new().expect("a directory");
        let mut place = bare(&dir);
        place.root = PathBuf::from("/");
        assert_eq!(lock_holder(&place), None);
        let file = fs::File::create(place.config.data_dir.join("LOCK")).expect("made");
        assert_eq!(lock_holder(&place), None, "nobody holds it yet");
        flock(&file, FlockOperation::NonBlockingLockExclusive).expect("free");
        let inode = file.metadata().expect("there").ino();
        let locks = format!("1: FLOCK  ADVISORY  WRITE 2123 fe:00:{inode} 0 EOF\n");
        assert_eq!(holder_in(&locks, inode), Some(2_123));
        assert_eq!(holder_in(&locks, inode + 1), None);
        if Path::new("/proc/locks").exists() {
            assert_eq!(lock_holder(&place), Some(std::process::id()));
        }
    }

    #[test]
    fn ports_that_are_held() {
        let (us, them) = ((7, "allidb".to_owned()), (8, "other".to_owned()));
        assert_eq!(judge_held("port", Some(us.clone()), Some(7)).state, State::Ok);
        assert_eq!(judge_held("port", Some(them), Some(7)).state, State::Fail);
        assert_eq!(judge_held("port", Some(us), None).state, State::Fail);
        assert_eq!(judge_held("port", None, Some(7)).state, State::Ok);
        assert_eq!(judge_held("port", None, None).state, State::Fail);

        let dir = TempDir::new().expect("a directory");
        let mut place = bare(&dir);
        let held = TcpListener::bind("127.0.0.1:0").expect("a free port");
        place.config.listen.grpc = held.local_addr().expect("an address");
        place.config.listen.http.set_port(0);
        let states = |place: &Place| check(place).iter().map(|verdict| verdict.state).collect::<Vec<_>>();
        assert_eq!(states(&place), [State::Fail, State::Ok]);
        // One that is reserved for documentation.
        place.config.listen.grpc = SocketAddr::from(([192, 0, 2, 1], 7_000));
        assert_eq!(states(&place), [State::Fail, State::Ok]);
    }

    #[test]
    fn ports_that_are_open() {
        let dir = TempDir::new().expect("a directory");
        let mut place = bare(&dir);
        assert_eq!(openness(&place)[0].state, State::Ok);
        place.config.listen.unprotected = true;
        assert_eq!(openness(&place)[0].state, State::Ok);
        place.config.listen.grpc = SocketAddr::from(([0, 0, 0, 0], 7_000));
        assert_eq!(openness(&place)[0].state, State::Warn);
    }
}
