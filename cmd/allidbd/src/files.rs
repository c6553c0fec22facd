//! How many files, connections among them, this process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// As many connections as are asked for at one port, or a quarter of what this process may have open: as many as it is given at all.
pub(crate) fn connections(asked: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    if let Some(most) = limit.maximum
        && limit.current.is_some_and(|current| current < most)
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum: Some(most) })
    {
        tracing::warn!(%error, "the number of files that may be open cannot be raised");
    }
    let Some(open) = getrlimit(Resource::Nofile).current else { return asked };
    let room = usize::try_from(open / 4).unwrap_or(usize::MAX);
    if room < asked {
        tracing::warn!(
            files = open,
            connections = room,
            asked,
            "fewer connections than are configured may be open at a port"
        );
    }
    asked.min(room)
}
