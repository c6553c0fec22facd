//! `allidb version`: what this program was built from, and what it reads and writes.

use std::sync::LazyLock;

use allidbd::build;
use anyhow::Result;
use serde_json::{Map, Value as Json, json};

use crate::output::Output;

/// What may be built in.
const FEATURES: [(&str, bool); 2] =
    [("peers", cfg!(feature = "peers")), ("rocksdb", cfg!(feature = "rocksdb"))];

static LONG: LazyLock<String> = LazyLock::new(|| build::describe(&features()));

/// What `--version` says; `-V` says the first line.
pub(crate) fn long() -> &'static str {
    &LONG
}

/// Runs `version`.
pub(crate) fn run(output: Output) -> Result<()> {
    output.either(format!("allidb {}", long()), document())?;
    Ok(())
}

fn features() -> Vec<&'static str> {
    FEATURES.into_iter().filter_map(|(name, is_in)| is_in.then_some(name)).collect()
}

fn document() -> Json {
    let formats: Map<String, Json> =
        build::formats().map(|(name, format)| (name.to_owned(), format.into())).collect();
    json!({
        "version": build::VERSION, "commit": build::COMMIT, "rustc": build::RUSTC, "target": build::TARGET,
        "profile": build::PROFILE, "features": features(), "formats": formats, "protocols": build::PROTOCOLS,
    })
}
