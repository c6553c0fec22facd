//! A daemon of this program's own: itself again, with `serve`, on ports that the system chooses.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(30);
const POLL_EVERY: Duration = Duration::from_millis(20);
/// Lines of the log shown when the daemon does not start.
const LOG_LINES: usize = 12;

/// What the daemon writes when it has bound its ports.
#[derive(Debug, Deserialize)]
struct Ports {
    grpc: String,
    http: String,
}

/// A running daemon. Dropping it kills the process; [`Daemon::stop`] ends it in order.
#[derive(Debug)]
pub(crate) struct Daemon {
    /// `None` once it has ended or was let go.
    child: Option<Child>,
    ports: Ports,
    log: PathBuf,
}

impl Daemon {
    /// Starts a daemon on `dir` and waits until it is ready.
    pub(crate) async fn start(dir: &Path) -> Result<Self> {
        Self::start_with(dir, &[]).await
    }

    /// The same, with settings: names and values of environment variables.
    pub(crate) async fn start_with(dir: &Path, settings: &[(String, String)]) -> Result<Self> {
        let port_file = dir.join("ports.json");
        if port_file.exists() {
            // It is the one of the last run; waiting for it would find the wrong ports.
            fs::remove_file(&port_file)?;
        }
        let log_path = dir.join("daemon.log");
        let log = File::options().create(true).append(true).open(&log_path)?;
        let program = std::env::current_exe().context("cannot tell where this program is")?;
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            // The demo shows the product as it comes, whatever is configured here.
            if name.as_encoded_bytes().starts_with(b"ALLIDB_") {
                command.env_remove(name);
            }
        }
        let child = command
            .envs(settings.iter().map(|(name, value)| (name, value)))
            .arg("serve")
            .args(["--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--log-format", "json"])
            .arg("--data-dir")
            .arg(dir.join("data"))
            .arg("--port-file")
            .arg(&port_file)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C on the terminal is for us; we stop the daemon in order.
            .process_group(0)
            .spawn()
            .context("cannot start the daemon")?;
        let ports = Ports { grpc: String::new(), http: String::new() };
        let mut daemon = Self { child: Some(child), ports, log: log_path };
        match timeout(START_LIMIT, daemon.become_ready(&port_file)).await {
            Ok(ready) => ready?,
            Err(_) => {
                bail!("the daemon was not ready after {} s\n{}", START_LIMIT.as_secs(), daemon.last_words())
            }
        }
        Ok(daemon)
    }

    async fn become_ready(&mut self, port_file: &Path) -> Result<()> {
        loop {
            if let Some(status) = self.ended()? {
                bail!("the daemon ended with {status} before it was ready\n{}", self.last_words());
            }
            // The file appears at once and whole: the daemon renames it into place.
            if self.ports.http.is_empty()
                && let Ok(text) = fs::read_to_string(port_file)
            {
                self.ports = serde_json::from_str(&text).context("the port file")?;
            }
            if !self.ports.http.is_empty() && is_ready(&self.ports.http).await {
                return Ok(());
            }
            sleep(POLL_EVERY).await;
        }
    }

    /// Where clients connect.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.ports.grpc)
    }

    /// Where metrics, health and REST are.
    pub(crate) fn http(&self) -> String {
        format!("http://{}", self.ports.http)
    }

    pub(crate) fn process_id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    fn ended(&mut self) -> Result<Option<ExitStatus>> {
        match &mut self.child {
            Some(child) => Ok(child.try_wait()?),
            None => Err(anyhow!("the daemon is not ours any more")),
        }
    }

    /// Asks the daemon to end (SIGTERM) and waits for it.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        let Some(id) = self.process_id() else { return Ok(()) };
        let id = i32::try_from(id).ok().and_then(Pid::from_raw).context("not a process id")?;
        // An error means that it has ended already, which is what we wait for.
        kill_process(id, Signal::TERM).ok();
        let started = Instant::now();
        loop {
            if let Some(status) = self.ended()? {
                self.child = None;
                if status.success() {
                    return Ok(());
                }
                bail!("the daemon ended with {status}\n{}", self.last_words());
            }
            if started.elapsed() > STOP_LIMIT {
                bail!(
                    "the daemon did not end within {} s of SIGTERM\n{}",
                    STOP_LIMIT.as_secs(),
                    self.last_words()
                );
            }
            sleep(POLL_EVERY).await;
        }
    }

    /// Lets the process run on after this program.
    pub(crate) fn detach(&mut self) {
        self.child = None;
    }

    fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = lines.get(lines.len().saturating_sub(LOG_LINES)..).unwrap_or_default();
        format!("the end of its log:\n{}", last.join("\n"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // Both fail only if the process is gone.
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// Whether `GET /readyz` answers 200. By hand: one request does not need an HTTP client.
async fn is_ready(address: &str) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    match timeout(Duration::from_secs(2), ask).await {
        Ok(Ok(answer)) => answer.ends_with(b" 200"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn served(answer: &'static str) -> bool {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.readable().await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        is_ready(&address).await
    }

    #[tokio::test]
    async fn only_200_is_ready() {
        assert!(served("HTTP/1.1 200 OK\r\n\r\n").await);
        assert!(!served("HTTP/1.1 503 Service Unavailable\r\n\r\n").await);
        assert!(!served("HTTP/1.1").await);
    }

    #[tokio::test]
    async fn a_dropped_daemon_is_dead() {
        let child = Command::new("sleep").arg("600").spawn().unwrap();
        let id = Pid::from_raw(child.id().cast_signed()).unwrap();
        let ports = Ports { grpc: String::new(), http: String::new() };
        drop(Daemon { child: Some(child), ports, log: PathBuf::new() });
        assert!(kill_process(id, Signal::TERM).is_err());
    }
}
