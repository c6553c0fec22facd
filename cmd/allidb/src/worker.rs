//! `allidb worker …`: what background work is at, and a hand on its brake.

use allidb_api::v1::{ListWorkersRequest, UpdateWorkerRequest, Worker, worker::Activity};
use anyhow::Result;
use clap::Subcommand;
use serde_json::{Value as Json, json};

use crate::{
    client::Client,
    failure::Failure,
    output::{Output, table},
};

/// Watches over background work.
#[derive(Debug, Subcommand)]
pub(crate) enum WorkerCommand {
    /// Shows what each worker is at.
    List,
    /// Has a worker rest until it is resumed or the daemon is started again. Fresh vectors stay searchable; while `vector-seal`
    /// is paused writes of vectors are refused once memory for fresh ones is full.
    Pause {
        /// Its name, as `list` shows it.
        name: String,
    },
    /// Ends a pause.
    Resume {
        /// Its name, as `list` shows it.
        name: String,
    },
    /// Holds each thread of a worker to a share of the time, until the daemon is started again.
    Throttle {
        /// Its name, as `list` shows it.
        name: String,
        /// 1 to 100; 100 is full speed.
        #[arg(value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(1..=100))]
        share: u32,
    },
}

/// Runs the command.
pub(crate) async fn run(command: WorkerCommand, client: &Client, output: Output) -> Result<()> {
    let mut service = client.maintenance();
    let change = match command {
        WorkerCommand::List => {
            return show(&list(client).await?, output, true);
        }
        WorkerCommand::Pause { name } => {
            UpdateWorkerRequest { name, paused: Some(true), share_percent: None }
        }
        WorkerCommand::Resume { name } => {
            UpdateWorkerRequest { name, paused: Some(false), share_percent: None }
        }
        WorkerCommand::Throttle { name, share } => {
            UpdateWorkerRequest { name, paused: None, share_percent: Some(share) }
        }
    };
    let changed = service.update_worker(change).await.map_err(Failure::from_status)?;
    show(&[changed.into_inner()], output, false)
}

/// What background work of the daemon is at.
pub(crate) async fn list(client: &Client) -> Result<Vec<Worker>> {
    let answer = client.maintenance().list_workers(ListWorkersRequest {}).await;
    Ok(answer.map_err(Failure::from_status)?.into_inner().workers)
}

pub(crate) fn activity(worker: &Worker) -> &'static str {
    match worker.activity() {
        Activity::Idle => "idle",
        Activity::Working => "working",
        Activity::Paused => "paused",
        Activity::Unspecified => "unspecified",
    }
}

pub(crate) fn to_json(worker: &Worker) -> Json {
    json!({
        "name": worker.name, "activity": activity(worker), "share_percent": worker.share_percent,
        "done": worker.done, "total": worker.total, "last_error": worker.last_error,
        "last_error_at": worker.last_error_at.map(|at| at.to_string()),
    })
}

/// Prints the workers; as JSON an array if `as_list`, else the only one.
fn show(workers: &[Worker], output: Output, as_list: bool) -> Result<()> {
    if output.is_json() {
        let mut documents: Vec<Json> = workers.iter().map(to_json).collect();
        let document = if as_list { Json::Array(documents) } else { documents.pop().unwrap_or_default() };
        output.document(&document)?;
        return Ok(());
    }
    let mut shown = table(&["worker", "activity", "share", "rows", "of", "last error"]);
    for worker in workers {
        let error = match worker.last_error_at {
            Some(at) => format!("{at}: {}", worker.last_error),
            None => String::new(),
        };
        shown.add_row([
            worker.name.as_str(),
            activity(worker),
            &format!("{} %", worker.share_percent),
            &worker.done.to_string(),
            &worker.total.to_string(),
            &error,
        ]);
    }
    output.table(&shown)?;
    Ok(())
}
