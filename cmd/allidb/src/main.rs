//! The AlliDB command line.

mod acknowledged;
mod bench;
mod client;
mod cluster;
mod collections;
mod daemon;
mod dataset;
mod deletion;
mod demo;
mod doctor;
mod duration_text;
mod entities;
mod entity_json;
mod exchange;
mod facets;
mod failure;
mod filter_lexer;
mod filter_syntax;
mod graph;
mod hits;
mod import;
mod ivecs;
mod keys;
mod layout;
mod ledger;
mod maintenance;
mod merging;
mod metrics_port;
mod npy;
mod options;
mod output;
mod pages;
mod plan;
mod precondition;
mod progress;
mod prometheus;
mod put_stream;
mod query;
mod query_file;
mod quotas;
mod sample;
mod snapshots;
mod storage_files;
mod tenants;
mod tls;
mod top;
mod update;
mod value_json;
mod vector_numbers;
mod version;
mod worker;

use std::{io, process::ExitCode};

use allidb_api::v1::Consistency;
use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};
use tokio::runtime::Runtime;

use crate::{
    client::{Client, Server},
    output::{Format, Output},
};

/// As in the daemon, which this program is with `serve`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What `--help` says at the end.
const AFTER_HELP: &str = "\
Exit codes:
  0  done
  1  failed, some items of an import were rejected or edges missing in an export, or damage was found
  2  the arguments are wrong, or `doctor` found what does not work
  3  there is no such entity or collection
  4  the server cannot be reached, or too few of its ring can

Filters (--filter):
  type = \"noun\" and lexname in (\"noun.animal\", \"noun.plant\") and not importance < 0.5
  exists(gloss), is_null(gloss), gloss starts_with \"a \", updated_at > timestamp(\"2024-05-01T00:00:00Z\")
  Fields: id, type, importance, created_at, updated_at, expire_at, source, or the name of an attribute.";

/// Entities, vectors and a graph in one place, asked in one question.
#[derive(Debug, Parser)]
#[command(
    name = "allidb",
    version = allidbd::build::SHORT,
    long_version = version::long(),
    after_help = AFTER_HELP
)]
struct Cli {
    #[command(flatten)]
    server: Server,
    /// How results are printed.
    #[arg(long, global = true, value_enum, default_value_t = Format::Table)]
    output: Format,
    /// How many replicas must agree on what is read, and have what is written: one, quorum (as the daemon does unless told otherwise) or all.
    #[arg(long, global = true, value_parser = consistency, value_name = "LEVEL")]
    consistency: Option<Consistency>,
    #[command(subcommand)]
    command: Command,
}

fn consistency(name: &str) -> Result<Consistency, String> {
    match name {
        "one" => Ok(Consistency::One),
        "quorum" => Ok(Consistency::Quorum),
        "all" => Ok(Consistency::All),
        _ => Err("must be one, quorum or all".to_owned()),
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::DemoArgs),
    /// Run the daemon in this process; the same as `allidbd`.
    Serve(allidbd::ServeArgs),
    /// Look at the daemon's options.
    #[command(subcommand)]
    Config(options::ConfigCommand),
    /// Work on data sets.
    #[command(subcommand)]
    Data(sample::DataCommand),
    /// Measure.
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Make certificates.
    #[command(subcommand)]
    Tls(tls::TlsCommand),
    /// Look into the files of a store.
    #[command(subcommand)]
    Storage(storage_files::StorageCommand),
    Doctor(doctor::DoctorArgs),
    Completions(pages::CompletionsArgs),
    Man(pages::ManArgs),
    /// Show what this program was built from, and which formats and protocols it knows.
    Version,
    #[command(flatten)]
    Call(Call),
}

/// The commands that ask a daemon.
#[derive(Debug, Subcommand)]
enum Call {
    /// Work on collections and their vector spaces.
    #[command(subcommand)]
    Collection(collections::CollectionCommand),
    Put(entities::PutArgs),
    Get(entities::GetArgs),
    Update(update::UpdateArgs),
    Delete(deletion::DeleteArgs),
    Merge(merging::MergeArgs),
    Scan(entities::ScanArgs),
    Count(entities::CountArgs),
    Facets(facets::FacetsArgs),
    Query(Box<query::QueryArgs>),
    Neighbors(graph::NeighborsArgs),
    Path(graph::PathArgs),
    Import(import::ImportArgs),
    Export(exchange::export::ExportArgs),
    /// Make, list and revoke keys.
    #[command(subcommand)]
    Key(keys::KeyCommand),
    #[command(subcommand)]
    Tenant(tenants::TenantCommand),
    #[command(subcommand)]
    Quota(quotas::QuotaCommand),
    #[command(subcommand)]
    Snapshot(snapshots::SnapshotCommand),
    /// Write everything that is in memory to tables.
    Flush,
    /// Merge the tables of each keyspace into one level; gives space back.
    Compact(maintenance::CompactArgs),
    /// Read everything on disk and compare it with its checksums, while the daemon serves.
    Scrub(maintenance::ScrubArgs),
    RebuildIndex(maintenance::RebuildArgs),
    /// Show background work, pause it, slow it down.
    #[command(subcommand)]
    Worker(worker::WorkerCommand),
    /// Show the ring: its nodes, who holds what, what is kept for whom.
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    Top(top::TopArgs),
}

fn main() -> ExitCode {
    let Cli { server, output, consistency, command } = Cli::parse();
    match dispatch(command, (&server, consistency), Output::new(output)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => match failure::exit_code(&error) {
            Some(code) => {
                eprintln!("error: {error:#}");
                ExitCode::from(code)
            }
            None => ExitCode::SUCCESS,
        },
    }
}

fn dispatch(command: Command, server: (&Server, Option<Consistency>), output: Output) -> Result<()> {
    match command {
        // The daemon makes a runtime of its own.
        Command::Serve(args) => allidbd::run(args),
        Command::Config(command) => options::run(command, output),
        Command::Data(command) => sample::run(command, output),
        Command::Bench(command) => bench::run(command, output),
        Command::Tls(command) => tls::run(command, output),
        Command::Storage(command) => storage_files::run(command, output),
        Command::Doctor(args) => doctor::run(args, server.0, output),
        Command::Completions(args) => pages::completions(args, Cli::command(), output),
        Command::Man(args) => pages::man(args, Cli::command(), output),
        Command::Version => version::run(output),
        Command::Demo(args) => runtime()?.block_on(demo::run(args, output)),
        Command::Call(call) => runtime()?.block_on(ask(call, server, output)),
    }
}

fn runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

async fn ask(
    call: Call,
    (server, consistency): (&Server, Option<Consistency>),
    output: Output,
) -> Result<()> {
    let client = Client::reach(server).await?.at(consistency);
    match call {
        Call::Collection(command) => collections::run(command, &client, output).await,
        Call::Put(args) => entities::put(args, &client, output).await,
        Call::Get(args) => entities::get(args, &client, output).await,
        Call::Update(args) => update::run(args, &client, output).await,
        Call::Delete(args) => deletion::run(args, &client, output).await,
        Call::Merge(args) => merging::run(args, &client, output).await,
        Call::Scan(args) => entities::scan(args, &client, output).await,
        Call::Count(args) => entities::count(args, &client, output).await,
        Call::Facets(args) => facets::run(args, &client, output).await,
        Call::Query(args) => query::run(*args, &client, output).await,
        Call::Neighbors(args) => graph::neighbors(args, &client, output).await,
        Call::Path(args) => graph::path(args, &client, output).await,
        Call::Import(args) => import::run(args, &client, output).await,
        Call::Export(args) => exchange::export::run(args, &client, output).await,
        Call::Key(command) => keys::run(command, &client, output).await,
        Call::Tenant(command) => tenants::run(command, &client, output).await,
        Call::Quota(command) => quotas::run(command, &client, output).await,
        Call::Snapshot(command) => snapshots::run(command, &client, output).await,
        Call::Flush => maintenance::flush(&client, output).await,
        Call::Compact(args) => maintenance::compact(args, &client, output).await,
        Call::Scrub(args) => maintenance::scrub(args, &client, output).await,
        Call::RebuildIndex(args) => maintenance::rebuild_index(args, &client, output).await,
        Call::Worker(command) => worker::run(command, &client, output).await,
        Call::Cluster(command) => cluster::run(command, &client, output).await,
        Call::Top(args) => top::run(args, server, &client, output).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
