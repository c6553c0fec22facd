//! The log, on standard error, and beside it the traces.

use std::io::IsTerminal;

use anyhow::Context;
use tracing_subscriber::{EnvFilter, Layer, Registry, layer::SubscriberExt, util::SubscriberInitExt};

use crate::{
    config::{Log, LogFormat},
    traces::Export,
};

/// Installs the log for the whole process, and what takes note of traces, if they are exported. Keeps what is there, if anything is.
///
/// # Errors
/// Where the filter is none.
pub(crate) fn install(log: &Log, traces: Option<&Export>) -> anyhow::Result<()> {
    let filter = filter(log)?;
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match log.format {
        LogFormat::Pretty => lines.with_ansi(std::io::stderr().is_terminal()).with_filter(filter).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_filter(filter).boxed(),
    };
    // Each has a filter of its own: what neither wants costs nothing.
    let layers: Vec<_> = std::iter::once(lines).chain(traces.map(Export::layer)).collect();
    if tracing_subscriber::registry().with(layers).try_init().is_err() {
        tracing::debug!("the process has a log already");
    }
    Ok(())
}

/// Which lines are written.
///
/// # Errors
/// Where the filter is none.
pub(crate) fn filter(log: &Log) -> anyhow::Result<EnvFilter> {
    EnvFilter::try_new(&log.filter).with_context(|| format!("`log.filter` is {:?}", log.filter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_is_none_is_refused() {
        let log = Log { filter: "allidb=loud".into(), ..Log::default() };
        assert!(install(&log, None).expect_err("no level").to_string().contains("`log.filter`"));
    }
}
