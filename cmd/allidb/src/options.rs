//! `allidb config …`: the daemon's options as they are.

use allidbd::{EffectiveOption, ServeArgs};
use anyhow::Result;
use clap::Subcommand;
use serde_json::{Value as Json, json};

use crate::output::Output;

/// Looks at the daemon's options.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Shows each option as `serve` would take it with the same arguments, file and environment, and where it comes from.
    Show(ServeArgs),
}

/// Runs the command.
pub(crate) fn run(ConfigCommand::Show(args): ConfigCommand, output: Output) -> Result<()> {
    if !output.is_json() {
        return Ok(output.line(allidbd::show(&args)?.trim_end())?);
    }
    let options = allidbd::effective(&args)?;
    let told =
        |EffectiveOption { path, value, origin }| json!({ "option": path, "value": value, "origin": origin });
    Ok(output.document(&options.into_iter().map(told).collect::<Json>())?)
}
