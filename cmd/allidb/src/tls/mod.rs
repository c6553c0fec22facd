//! `allidb tls`: certificates, made and looked at.

mod init;
mod show;

use anyhow::Result;
use clap::Subcommand;

use crate::output::Output;

#[derive(Debug, Subcommand)]
pub(crate) enum TlsCommand {
    Init(init::InitArgs),
    Show(show::ShowArgs),
}

/// Runs `tls`.
pub(crate) fn run(command: TlsCommand, output: Output) -> Result<()> {
    match command {
        TlsCommand::Init(args) => init::run(args, output),
        TlsCommand::Show(args) => show::run(&args, output),
    }
}
