//! `allidb bench cluster`: what a ring of three daemons on this machine costs beside one, and what its callers notice when one of them
//! stands still or dies.
//!
//! | module | concept |
//! |---|---|
//! | `load` | entities with vectors, written and asked for |

mod load;

use std::{
    fs, io,
    net::TcpListener,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use allidb_api::v1::{Consistency, DescribeClusterRequest, worker::Activity};
use anyhow::{Context, Result, bail};
use clap::Args;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::process::cpu_seconds_of;
use crate::{
    bench::vector::VectorData,
    client::Client,
    daemon::Daemon,
    failure::Failure,
    output::{Output, table},
    worker,
};
use load::Load;

/// Nodes of the ring, each of which holds everything.
const NODES: usize = 3;
/// Rounds in which one daemon and the ring take turns, so that the machine treats both alike.
const ROUNDS: usize = 4;
/// How long reads are measured at a time.
const READS: Duration = Duration::from_secs(5);
/// What was written is settled by then.
const SETTLED: Duration = Duration::from_secs(120);
/// A node that does not answer is given up for dead within this time, or never.
const GIVE_UP: Duration = Duration::from_secs(30);

/// Measures a ring of three daemons on this machine: processor time of writes beside one daemon, recall, reads while a node stands
/// still, and how soon it is noticed that one has died.
#[derive(Args, Debug)]
pub(crate) struct ClusterBenchArgs {
    /// The data set: vectors.f16.npy or vectors.f32.npy, queries.f32.npy and, unless rows are left out, truth.top100.ivecs.
    #[arg(long)]
    data: PathBuf,
    /// Only so many of the first vectors.
    #[arg(long, default_value_t = 20_000)]
    rows: usize,
    /// Of how many nearest recall is the share that is found.
    #[arg(short, long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100))]
    k: u32,
    /// Where the daemons' files go while they run.
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// What was measured.
struct Figures {
    /// Writes for each second of processor time of the daemons: of one, and of the ring.
    writes: [f64; 2],
    recall: [f64; 2],
    /// Of reads at QUORUM, in microseconds: the median and the 99th percentile. When all is well, and while a node stands still.
    reads: [[f64; 2]; 2],
    /// Writes on conditions a second, and how long one took: the median and the 99th percentile in microseconds. By one daemon, and by the ring.
    conditional: [[f64; 3]; 2],
    /// Until the node that stands still, and the one that was killed, counted as down.
    noticed: [Duration; 2],
}

/// Runs the command.
pub(crate) fn run(args: &ClusterBenchArgs, output: Output) -> Result<()> {
    if cfg!(debug_assertions) {
        eprintln!("warning: this is not a release build; its times mean nothing");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let dir = super::scratch(args.dir.as_deref())?;
    let figures = runtime.block_on(measure(args, dir.path()))?;
    report(args, &figures, output)
}

async fn measure(args: &ClusterBenchArgs, dir: &Path) -> Result<Figures> {
    let data = VectorData::read(&args.data, Some(args.rows), args.k as usize)?;
    let alone_dir = dir.join("alone");
    fs::create_dir_all(&alone_dir)?;
    let mut alone = Daemon::start(&alone_dir).await?;
    let mut ring = start_ring(dir).await?;
    let figures = Box::pin(figures(args, data, &alone, &ring)).await;
    alone.stop().await?;
    // One of them was killed.
    ring.truncate(NODES - 1);
    for node in &mut ring {
        node.stop().await?;
    }
    figures
}

/// Starts the nodes together: each waits for the others.
async fn start_ring(dir: &Path) -> Result<Vec<Daemon>> {
    // Taken at the same time, so that they are different ones.
    let free = (0..NODES).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<io::Result<Vec<_>>>()?;
    let addresses =
        free.iter().map(|port| Ok(port.local_addr()?.to_string())).collect::<io::Result<Vec<_>>>()?;
    drop(free);
    let named: Vec<String> = addresses.iter().map(|address| format!("{address:?}")).collect();
    let founders = format!("[{}]", named.join(","));
    let starting = addresses.iter().enumerate().map(|(at, address)| {
        let dir = dir.join(format!("node-{at}"));
        let settings = [
            ("ALLIDB__RING__NAME".to_owned(), "bench".to_owned()),
            ("ALLIDB__RING__LISTEN".to_owned(), address.clone()),
            ("ALLIDB__RING__FOUNDERS".to_owned(), founders.clone()),
        ];
        tokio::spawn(async move {
            fs::create_dir_all(&dir)?;
            Daemon::start_with(&dir, &settings).await
        })
    });
    let starting: Vec<_> = starting.collect();
    let mut nodes = Vec::new();
    for node in starting {
        nodes.push(node.await??);
    }
    Ok(nodes)
}

async fn figures(
    args: &ClusterBenchArgs,
    data: VectorData,
    alone: &Daemon,
    ring: &[Daemon],
) -> Result<Figures> {
    let one = Load::new(&Client::connect(&alone.endpoint()).await?, &data).await?;
    let all = Load::new(&Client::connect(&ring[0].endpoint()).await?, &data).await?;
    let mut cpu = [0.0; 2];
    let share = args.rows.min(data.rows()).div_ceil(ROUNDS);
    for round in 0..ROUNDS {
        let rows = round * share..((round + 1) * share).min(data.rows()).min(args.rows);
        cpu[0] += spent(&[alone], one.write(&data, rows.clone())).await?;
        let nodes: Vec<&Daemon> = ring.iter().collect();
        cpu[1] += spent(&nodes, all.write(&data, rows)).await?;
        eprintln!(
            "written: {} of {ROUNDS} parts, {:.1} and {:.1} s of processor time",
            round + 1,
            cpu[0],
            cpu[1]
        );
    }
    let rows = args.rows.min(data.rows()) as f64;
    let recall = [one.recall(&data, args.k).await?, all.recall(&data, args.k).await?];
    for node in ring {
        until_idle(&Client::connect(&node.endpoint()).await?).await?;
    }
    let healthy = all.reads(READS).await?;
    let conditional = [one.conditional(READS).await?, all.conditional(READS).await?];
    let watched = Client::connect(&ring[0].endpoint()).await?;
    let last = ring.last().context("there are nodes")?;
    let stopped = id_of(last).await?;
    signal(last, Signal::STOP)?;
    let standing = until_down(&watched, &stopped).await?;
    let lame = all.reads(READS).await?;
    signal(last, Signal::CONT)?;
    until_up(&watched, &stopped).await?;
    signal(last, Signal::KILL)?;
    let killed = until_down(&watched, &stopped).await?;
    Ok(Figures {
        writes: [rows / cpu[0], rows / cpu[1]],
        recall,
        reads: [healthy, lame],
        conditional,
        noticed: [standing, killed],
    })
}

/// The processor time that daemons spend while something is done.
async fn spent(daemons: &[&Daemon], work: impl Future<Output = Result<()>>) -> Result<f64> {
    let now = || -> Result<f64> {
        let ids = daemons.iter().map(|daemon| daemon.process_id().context("a daemon runs"));
        ids.map(|id| cpu_seconds_of(id?)).sum()
    };
    let before = now()?;
    work.await?;
    Ok(now()? - before)
}

fn signal(daemon: &Daemon, signal: Signal) -> Result<()> {
    let id = daemon.process_id().and_then(|id| Pid::from_raw(id.cast_signed()));
    Ok(kill_process(id.context("a daemon runs")?, signal)?)
}

/// What the ring calls a daemon.
async fn id_of(daemon: &Daemon) -> Result<String> {
    let client = Client::connect(&daemon.endpoint()).await?;
    let described = client.cluster().describe_cluster(DescribeClusterRequest {}).await;
    Ok(described.map_err(Failure::from_status)?.into_inner().node)
}

/// Waits until a daemon does nothing of its own accord: reads are not measured beside that.
async fn until_idle(client: &Client) -> Result<()> {
    let begun = Instant::now();
    let mut idle = 0;
    while idle < 3 {
        if begun.elapsed() > SETTLED {
            bail!("after {} s a daemon is still at background work", SETTLED.as_secs());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let workers = worker::list(client).await?;
        let is_idle = workers.iter().all(|worker| worker.activity() != Activity::Working);
        idle = if is_idle { idle + 1 } else { 0 };
    }
    Ok(())
}

async fn until_down(client: &Client, id: &str) -> Result<Duration> {
    until(client, id, false).await
}

async fn until_up(client: &Client, id: &str) -> Result<Duration> {
    until(client, id, true).await
}

async fn until(client: &Client, id: &str, is_alive: bool) -> Result<Duration> {
    let begun = Instant::now();
    loop {
        let described = client.cluster().describe_cluster(DescribeClusterRequest {}).await;
        let nodes = described.map_err(Failure::from_status)?.into_inner().nodes;
        if nodes.iter().any(|node| node.id == id && node.is_alive == is_alive) {
            return Ok(begun.elapsed());
        }
        if begun.elapsed() > GIVE_UP {
            bail!(
                "after {} s the node still counts as {}",
                GIVE_UP.as_secs(),
                if is_alive { "down" } else { "up" }
            );
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// At which consistency everything is read and written.
const CONSISTENCY: Consistency = Consistency::Quorum;

fn report(args: &ClusterBenchArgs, figures: &Figures, output: Output) -> Result<()> {
    let Figures { writes: [alone, ring], recall, reads: [healthy, lame], conditional, noticed } = figures;
    let of_one = ring * NODES as f64 / alone;
    let slower = lame[1] / healthy[1];
    if output.is_json() {
        output.document(&json!({
            "rows": args.rows, "nodes": NODES,
            "writes_per_cpu_second": { "alone": alone, "ring": ring, "ring_times_replicas_over_alone": of_one },
            "recall": { "k": args.k, "alone": recall[0], "ring": recall[1] },
            "quorum_reads_us": {
                "healthy": { "p50": healthy[0], "p99": healthy[1] },
                "one_stopped": { "p50": lame[0], "p99": lame[1] },
                "p99_ratio": slower,
            },
            "conditional_writes": {
                "alone": { "per_second": conditional[0][0], "p50_us": conditional[0][1], "p99_us": conditional[0][2] },
                "ring": { "per_second": conditional[1][0], "p50_us": conditional[1][1], "p99_us": conditional[1][2] },
            },
            "noticed_seconds": { "stopped": noticed[0].as_secs_f64(), "killed": noticed[1].as_secs_f64() },
        }))?;
        return Ok(());
    }
    let mut shown = table(&["", "one daemon", "ring of three", ""]);
    let replicas = format!("× {NODES} replicas: {:.0} % of one daemon's", of_one * 100.0);
    shown.add_row(["writes per CPU second", &format!("{alone:.0}"), &format!("{ring:.0}"), &replicas]);
    let named = format!("recall@{}", args.k);
    shown.add_row([&named, &format!("{:.4}", recall[0]), &format!("{:.4}", recall[1]), ""]);
    let reads = |[p50, p99]: &[f64; 2]| format!("p50 {:.2} ms, p99 {:.2} ms", p50 / 1e3, p99 / 1e3);
    shown.add_row(["QUORUM reads", "", &reads(healthy), ""]);
    let ratio = format!("p99 {slower:.2} times as long");
    shown.add_row(["… while a node stands still", "", &reads(lame), &ratio]);
    let decided = |[a_second, p50, p99]: &[f64; 3]| {
        format!("{a_second:.0}/s, p50 {:.1} ms, p99 {:.1} ms", p50 / 1e3, p99 / 1e3)
    };
    let [alone, ring] = conditional;
    shown.add_row(["writes on conditions", &decided(alone), &decided(ring), ""]);
    let seconds = |time: Duration| format!("{:.1} s", time.as_secs_f64());
    shown.add_row(["until it counts as down", "", &seconds(noticed[0]), ""]);
    shown.add_row(["… after kill -9", "", &seconds(noticed[1]), ""]);
    output.table(&shown)?;
    Ok(())
}
