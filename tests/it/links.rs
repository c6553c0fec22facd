//! Links between daemons that can be cut: each is reached through a proxy, which finds out by the connection who it is that calls.
//!
//! While a link is cut nothing passes, and nobody is told, as where a cable is pulled; what was under way arrives when it is mended.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::sleep,
};

/// How often whoever waits at a cut link looks whether it is mended.
const LOOK_EVERY: Duration = Duration::from_millis(5);

#[derive(Debug, Default)]
struct State {
    /// The process of each daemon.
    pids: Vec<Option<u32>>,
    /// Links that are cut, the lower end first.
    cut: BTreeSet<(usize, usize)>,
}

/// The links between some daemons.
#[derive(Debug)]
pub(crate) struct Links {
    state: Arc<Mutex<State>>,
    /// Ends with the test.
    _proxies: JoinSet<()>,
}

impl Links {
    /// Proxies before daemons that listen at these addresses. Gives the proxies' addresses.
    pub(crate) async fn before(daemons: &[SocketAddr]) -> (Self, Vec<SocketAddr>) {
        let state = Arc::new(Mutex::new(State { pids: vec![None; daemons.len()], ..State::default() }));
        let (mut proxies, mut addresses) = (JoinSet::new(), Vec::new());
        for (to, daemon) in daemons.iter().copied().enumerate() {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            addresses.push(listener.local_addr().expect("bound"));
            proxies.spawn(serve(listener, daemon, to, Arc::clone(&state)));
        }
        (Self { state, _proxies: proxies }, addresses)
    }

    /// Takes note of which process a daemon is now.
    pub(crate) fn runs_as(&self, node: usize, pid: u32) {
        self.state.lock().expect("no test fails with it").pids[node] = Some(pid);
    }

    pub(crate) fn cut(&self, a: usize, b: usize) {
        self.state.lock().expect("no test fails with it").cut.insert((a.min(b), a.max(b)));
    }

    pub(crate) fn mend_all(&self) {
        self.state.lock().expect("no test fails with it").cut.clear();
    }
}

async fn serve(listener: TcpListener, daemon: SocketAddr, to: usize, state: Arc<Mutex<State>>) {
    let mut connections = JoinSet::new();
    loop {
        let (here, from) = listener.accept().await.expect("it listens");
        let state = Arc::clone(&state);
        connections.spawn(async move {
            // Looked for while it is there: it may be gone by the time that the link is mended.
            let caller = caller(from, &state).await;
            let pass = || async {
                while caller.is_some_and(|from| is_cut(&state, from, to)) {
                    sleep(LOOK_EVERY).await;
                }
            };
            pass().await;
            // The daemon may be down.
            let Ok(there) = TcpStream::connect(daemon).await else { return };
            let ((from_here, to_here), (from_there, to_there)) = (here.into_split(), there.into_split());
            tokio::join!(copy(from_here, to_there, &pass), copy(from_there, to_here, &pass));
        });
        while connections.try_join_next().is_some() {}
    }
}

fn is_cut(state: &Mutex<State>, from: usize, to: usize) -> bool {
    state.lock().expect("no test fails with it").cut.contains(&(from.min(to), from.max(to)))
}

/// Passes on what comes, whenever that may pass, until either end is closed.
async fn copy<F: Future<Output = ()>>(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    pass: &impl Fn() -> F,
) {
    let mut bytes = vec![0; 64 << 10];
    // An end that breaks ends the connection, as does one that is closed.
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        pass().await;
        if to.write_all(&bytes[..count]).await.is_err() {
            break;
        }
    }
    pass().await;
    // The other side may be gone already.
    to.shutdown().await.ok();
}

/// Which daemon has the socket of this address.
async fn caller(address: SocketAddr, state: &Mutex<State>) -> Option<usize> {
    // A process that was just started is known a little later.
    for _ in 0..200 {
        let pids = state.lock().expect("no test fails with it").pids.clone();
        let inode = inode_of(address)?;
        let has = |pid: &Option<u32>| pid.is_some_and(|pid| owns(pid, &inode));
        if let Some(node) = pids.iter().position(has) {
            return Some(node);
        }
        sleep(LOOK_EVERY).await;
    }
    None
}

/// The inode of the socket that is bound to this address, as the kernel lists it.
fn inode_of(address: SocketAddr) -> Option<String> {
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    let local = format!("0100007F:{:04X}", address.port());
    let row = table.lines().find(|row| row.split_whitespace().nth(1) == Some(&local))?;
    row.split_whitespace().nth(9).map(str::to_owned)
}

fn owns(pid: u32, inode: &str) -> bool {
    let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    let socket = format!("socket:[{inode}]");
    files.flatten().any(|file| fs::read_link(file.path()).is_ok_and(|to| to.to_str() == Some(&socket)))
}
