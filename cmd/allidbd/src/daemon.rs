//! The parts put together: bind, open, serve, drain, close.

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use allidb_api::{
    access::Access,
    http::{self, Guards, Phase, Probes},
    metrics, rest,
    server::{self, Contract, Settings},
};
use allidb_cluster::{Coordinator, PeerTls};
use anyhow::Context;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use crate::{Config, certificates::Own, figures, port_file, process, wire};

/// How often the recorder of metrics makes room.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);
/// How often it is looked whether damage was found, or a copy arrived.
const LOOKS_EVERY: Duration = Duration::from_secs(1);
/// How long at most until others are asked again whether they hold what is damaged here.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How often, and after how long again, a port that is taken is tried once more.
const BINDING_TRIES: usize = 20;
const BINDS_EVERY: Duration = Duration::from_millis(50);
/// How long the probes are still answered once everything else is over.
const LAST_PROBES: Duration = Duration::from_secs(1);

/// A daemon that serves. Several may run in one process, on directories and ports of their own.
pub struct Daemon {
    grpc: SocketAddr,
    http: SocketAddr,
    coordinator: Coordinator,
    probes: Probes,
    /// Tells the gRPC port, and then the HTTP port, to stop. Dropping the daemon does as well.
    stop_grpc: watch::Sender<bool>,
    stop_http: watch::Sender<bool>,
    grpc_served: JoinHandle<()>,
    http_served: JoinHandle<()>,
    keeping_up: JoinHandle<()>,
    failures: mpsc::Receiver<anyhow::Error>,
    grace: Duration,
}

impl Daemon {
    /// Binds both ports, opens the store, and serves. Probes are answered from the beginning; calls that
    /// come before the store is open wait for it.
    ///
    /// # Errors
    /// Where the configuration is wrong, or something cannot be bound or opened.
    pub async fn start(config: Config) -> anyhow::Result<Daemon> {
        config.check()?;
        let recorder = metrics::recorder().context("cannot install the metrics")?;
        let (grpc_port, grpc) = bind("listen.grpc", config.listen.grpc).await?;
        let (http_port, http) = bind("listen.http", config.listen.http).await?;
        let ring = match config.ring.founders.is_empty() {
            true => None,
            false => Some(bind("ring.listen", config.ring.listen).await?.0),
        };
        let own = Own::read(&config)?;
        let [grpc_port, http_port] = wire::incoming(&config, [grpc_port, http_port], own.ports.clone())?;
        warn_of_open_ports(&config, grpc);

        let (stop_grpc, grpc_stopped) = watch::channel(false);
        let (stop_http, http_stopped) = watch::channel(false);
        let (failed, failures) = mpsc::channel(2);
        let opened = Arc::new(OnceLock::<Coordinator>::new());
        let probes = Probes::new({
            let opened = opened.clone();
            move || opened.get().is_some_and(Coordinator::is_ready)
        });
        let figures = {
            let (recorder, opened, own) = (recorder.clone(), opened.clone(), own.clone());
            let (data_dir, min_free_bytes) = (config.data_dir.clone(), config.storage.min_free_bytes.0);
            move || {
                let of_process = process::text(&data_dir, min_free_bytes);
                figures::certificates(&own);
                match opened.get() {
                    Some(coordinator) => {
                        figures::export(coordinator);
                        recorder.render() + &figures::text(coordinator) + &of_process
                    }
                    None => recorder.render() + &of_process,
                }
            }
        };
        let guard = Arc::new(OnceLock::<Access>::new());
        let (certificates, keys) =
            (config.listen.client_authority_file.is_some(), config.access.keys_required);
        let guards = Guards { certificates, keys, access: guard.clone() };
        let gateway = rest::Opening::default();
        let pages = rest::Pages { origins: config.listen.origins.clone(), is_guarded: certificates || keys };
        let routes = http::router(figures, probes.clone(), guards, rest::router(gateway.clone(), pages));
        let http_served = report(failed.clone(), "HTTP", http::serve(http_port, routes, http_stopped));

        tracing::info!(data_dir = %config.data_dir.display(), "opening");
        let (coordinator, access, settings) = open(config.clone(), ring, own.ring).await?;
        guard.set(access.clone()).ok();
        // Nobody else sets it.
        opened.set(coordinator.clone()).ok();
        let contract = Contract::new((coordinator.clone(), access), settings, grpc_stopped).await?;
        gateway.set(contract.gateway()).ok();
        let grpc_served = report(failed, "gRPC", server::serve(grpc_port, contract));
        let keeping_up = tokio::spawn(keep_up(recorder));
        probes.enter(Phase::Serving);
        if let Some(path) = &config.listen.port_file {
            port_file::write(path, grpc, http)?;
        }
        tracing::info!(%grpc, %http, "serving");
        Ok(Daemon {
            grpc,
            http,
            coordinator,
            probes,
            stop_grpc,
            stop_http,
            grpc_served,
            http_served,
            keeping_up,
            failures,
            grace: config.shutdown.grace.0,
        })
    }

    /// Where gRPC is served.
    pub fn grpc_addr(&self) -> SocketAddr {
        self.grpc
    }

    /// Where metrics and probes are served, and the same services as over gRPC for those who speak HTTP.
    pub fn http_addr(&self) -> SocketAddr {
        self.http
    }

    /// Returns when a port fails, which does not happen of its own accord. Safe to cancel.
    pub async fn failed(&mut self) -> anyhow::Error {
        match self.failures.recv().await {
            Some(failure) => failure,
            None => anyhow::anyhow!("both ports stopped serving"),
        }
    }

    /// Returns when the store is to be closed and opened again, and why: damage was found that the node heals from then, or a copy of another node's
    /// disk takes its place. Safe to cancel.
    pub fn is_to_reopen(&self) -> impl Future<Output = &'static str> + Send + use<> {
        let coordinator = self.coordinator.clone();
        async move {
            let mut pause = LOOKS_EVERY;
            loop {
                sleep(pause).await;
                if coordinator.has_copy() {
                    return "a copy of another node's disk takes its place";
                }
                pause = match coordinator.may_heal().await {
                    Ok(true) => return "damaged rows are taken over from other nodes then",
                    Ok(false) => LOOKS_EVERY,
                    // Others may be away for long.
                    Err(error) => {
                        tracing::error!(%error, "damage was found that cannot be healed yet");
                        (2 * pause).min(LONGEST_PAUSE)
                    }
                };
            }
        }
    }

    /// Takes on nothing new, gives what is under way its grace, then flushes and closes the store.
    ///
    /// # Errors
    /// Where the store cannot be closed. What was acknowledged is in its log all the same.
    pub async fn shutdown(mut self) -> anyhow::Result<()> {
        self.probes.enter(Phase::Draining);
        tracing::info!(grace = ?self.grace, "finishing requests under way");
        self.stop_grpc.send_replace(true);
        if timeout(self.grace, &mut self.grpc_served).await.is_err() {
            tracing::warn!("requests are cut off, the grace is over");
            self.grpc_served.abort();
        }
        self.keeping_up.abort();
        if let Err(error) = self.coordinator.keep_key_uses().await {
            tracing::warn!(%error, "it cannot be kept when keys were used");
        }
        tracing::info!("flushing and closing the store");
        let coordinator = self.coordinator.clone();
        tokio::task::spawn_blocking(move || coordinator.close())
            .await
            .context("closing the store broke off")?
            .context("cannot close the store")?;
        self.stop_http.send_replace(true);
        if timeout(LAST_PROBES, &mut self.http_served).await.is_err() {
            self.http_served.abort();
        }
        tracing::info!("closed");
        Ok(())
    }
}

fn warn_of_open_ports(Config { listen, access, ring, .. }: &Config, grpc: SocketAddr) {
    let is_ring_open = !ring.founders.is_empty() && ring.certificate_file.is_none();
    if is_ring_open && (access.keys_required || listen.client_authority_file.is_some()) {
        tracing::error!(
            "without `ring.certificate_file` whoever reaches `ring.listen` on this machine needs no key"
        );
    }
    let is_anybody_let_in = listen.client_authority_file.is_none() && !access.keys_required;
    let is_open = !grpc.ip().is_loopback() || !listen.http.ip().is_loopback();
    match (is_open, is_anybody_let_in) {
        (true, true) => tracing::error!(
            "`listen.unprotected` is set: WHOEVER REACHES THE PORTS CAN READ AND CHANGE EVERYTHING"
        ),
        (true, false) if listen.certificate_file.is_none() => tracing::error!(
            "`listen.unprotected` is set: KEYS AND ALL THAT IS SAID CAN BE READ BY WHOEVER IS ON THE WAY"
        ),
        (false, true) => {
            tracing::warn!("without keys or certificates of clients only this machine is served")
        }
        _ => {}
    }
}

async fn bind(option: &str, address: SocketAddr) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let mut bound = TcpListener::bind(address).await;
    // A daemon that opens its store again comes back to its ports, which the tasks of before are about to close.
    for _ in 0..BINDING_TRIES {
        if !bound.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::AddrInUse) {
            break;
        }
        sleep(BINDS_EVERY).await;
        bound = TcpListener::bind(address).await;
    }
    let listener = bound.with_context(|| format!("cannot listen on {address} (`{option}`)"))?;
    let address = listener.local_addr().with_context(|| format!("cannot tell the address of `{option}`"))?;
    Ok((listener, address))
}

/// Reads the embedding model first, which does not take long, and fails before the store is touched.
async fn open(
    config: Config,
    ring: Option<TcpListener>,
    tls: Option<PeerTls>,
) -> anyhow::Result<(Coordinator, Access, Settings)> {
    let reading = config.clone();
    let settings = tokio::task::spawn_blocking(move || wire::settings(&reading));
    let settings = settings.await.context("reading the settings broke off")??;
    let coordinator = wire::open(&config, ring, tls).await?;
    // In the directory that is this daemon's alone by now.
    let access = wire::access(&config, &coordinator)?;
    Ok((coordinator, access, settings))
}

/// Runs a port and reports its failure.
fn report<E>(
    failed: mpsc::Sender<anyhow::Error>,
    port: &'static str,
    serving: impl Future<Output = Result<(), E>> + Send + 'static,
) -> JoinHandle<()>
where
    E: Into<anyhow::Error> + Send,
{
    tokio::spawn(async move {
        if let Err(error) = serving.await {
            let error = error.into().context(format!("the {port} port failed"));
            tracing::error!(error = format!("{error:#}"), "stopped serving");
            // The channel holds one failure of each port; without a receiver nobody asks.
            failed.try_send(error).ok();
        }
    })
}

async fn keep_up(recorder: metrics_exporter_prometheus::PrometheusHandle) {
    let mut ticks = interval(UPKEEP_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        recorder.run_upkeep();
    }
}
