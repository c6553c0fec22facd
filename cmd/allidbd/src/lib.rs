//! The AlliDB daemon: read the configuration, wire the parts, serve, drain.
//!
//! | module | what it does |
//! |---|---|
//! | [`build`] | what this release is, and was built from |
//! | [`config`] | every option, and how file, environment and flags make the effective ones |
//! | `certificates` | those that are shown, and until when they are good |
//! | `daemon` | the parts put together: starts, serves, drains |
//! | `wire` | options to the parts' own settings, the parts' figures to metrics |
//! | `files`, `logs`, `port_file`, `process`, `signals`, `traces` | what a process owes to whoever runs it |
//!
//! A library, so that the command line can serve too and tests can run a daemon in their own process.

mod args;
pub mod build;
mod certificates;
pub mod config;
mod daemon;
mod figures;
mod files;
mod logs;
mod port_file;
mod process;
mod signals;
mod traces;
mod wire;

pub use args::ServeArgs;
pub use config::{Config, EffectiveOption, effective, show};
pub use daemon::Daemon;

use anyhow::Context;

/// Serves until SIGTERM or SIGINT, then drains. A second signal exits at once with code 130.
///
/// # Errors
/// Where the configuration is wrong, something cannot be opened or bound, or a port fails.
pub fn run(args: ServeArgs) -> anyhow::Result<()> {
    let config = config::load(&args)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("allidbd")
        .build()
        .context("cannot start the asynchronous runtime")?;
    let traces = {
        let _entered = runtime.enter();
        traces::Export::begin(&config)?
    };
    logs::install(&config.log, traces.as_ref())?;
    let served = runtime.block_on(serve(config));
    if let Some(traces) = traces {
        traces.end();
    }
    // Whatever is left by now was given its grace.
    runtime.shutdown_background();
    served
}

/// Why a daemon is shut down.
enum End {
    Signal,
    Failure(anyhow::Error),
    /// To open the store again.
    Reopening,
}

async fn serve(mut config: Config) -> anyhow::Result<()> {
    tracing::info!(version = build::VERSION, commit = build::COMMIT, profile = build::PROFILE, "starting");
    let mut signals = signals::Signals::listen()?;
    loop {
        let mut daemon = tokio::select! {
            daemon = Daemon::start(config.clone()) => daemon?,
            signal = signals.next() => {
                tracing::info!(signal, "stopped before it was open");
                return Ok(());
            }
        };
        // Clients come back to where it was.
        (config.listen.grpc, config.listen.http) = (daemon.grpc_addr(), daemon.http_addr());
        let is_to_reopen = daemon.is_to_reopen();
        let end = tokio::select! {
            failure = daemon.failed() => End::Failure(failure),
            why = is_to_reopen => {
                tracing::warn!(why, "the store is closed and opened again");
                End::Reopening
            }
            signal = signals.next() => {
                tracing::info!(signal, "shutting down; a second signal exits at once");
                End::Signal
            }
        };
        tokio::select! {
            closed = daemon.shutdown() => closed?,
            signal = signals.next() => {
                tracing::warn!(signal, "exiting at once");
                std::process::exit(130);
            }
        }
        match end {
            End::Signal => return Ok(()),
            End::Failure(failure) => return Err(failure),
            End::Reopening => {}
        }
    }
}
