//! A process that measures one engine.

use std::{
    io::{self, Write},
    thread,
    time::Instant,
};

use anyhow::{Context, Result, anyhow};
use rustix::process::{Signal, set_parent_process_death_signal};

use super::{
    churn,
    data::VectorData,
    engines::Index,
    filtered,
    plan::{Built, Line, Measured, Part, Plan, Point, Target, Way},
    writes,
};
use crate::bench::process;

/// Recalls that are asked for.
const TARGETS: [f64; 4] = [0.90, 0.95, 0.98, 0.99];
/// Every point is the best of so many tries: what else the machine does only ever makes it worse.
const TRIES: usize = 3;

/// Runs a plan and writes what it measures to standard output.
pub(crate) fn run(plan: &str) -> Result<()> {
    // Without somebody who reads the results there is nothing to measure for.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let plan: Plan = serde_json::from_str(plan).context("the plan of the measurement")?;
    let data = VectorData::read(&plan.data, plan.rows, plan.k)?;
    tell(&Line::Note(format!(
        "{} vectors of {} dimensions, {} queries",
        data.base.len(),
        data.base.dimension,
        data.queries.len()
    )))?;
    match plan.part {
        Part::Churn(overwrites) => {
            churn::run(&data, &plan, overwrites, &|churn| tell(&Line::Measured(Measured::Churn(churn))))
        }
        Part::Writes => {
            let mut index = plan.engine.build(&data, &plan)?;
            let allidb = index.as_allidb().context("only ours is written to")?;
            tell(&Line::Measured(Measured::Writes(writes::run(&data, &plan, allidb)?)))?;
            allidb.close()
        }
        Part::Queries => queries(&data, &plan),
    }
}

fn queries(data: &VectorData, plan: &Plan) -> Result<()> {
    let mut index = build(data, plan)?;
    for way in [Way::Index, Way::Query] {
        if way == Way::Query && index.as_allidb().is_none() {
            continue;
        }
        for threads in &plan.threads {
            for breadth in &plan.breadths {
                index.set_breadth(*breadth);
                let point = sweep(data, plan, &mut *index, way, *threads, *breadth)?;
                tell(&Line::Measured(Measured::Point(point)))?;
            }
        }
    }
    if let Some(allidb) = index.as_allidb() {
        allidb.set_breadth(0);
        // The sweep's queries were noticed; what was measured on stored vectors is measured again on them.
        allidb.settle();
        for target in TARGETS {
            let ask = |query: &[f32]| allidb.query_for(query, plan.k, target);
            let Point { recall, rate, .. } = sweep_with(data, plan, Way::Query, 1, 0, &ask)?;
            tell(&Line::Measured(Measured::Target(Target { target, recall, rate })))?;
        }
        filtered::run(data, plan, allidb, &|row| tell(&Line::Measured(Measured::Filtered(row))))?;
        allidb.close()?;
    }
    Ok(())
}

fn tell(line: &Line) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(line)?)?;
    Ok(out.flush()?)
}

fn build(data: &VectorData, plan: &Plan) -> Result<Box<dyn Index>> {
    let before = process::anonymous_memory()?;
    process::reset_peak_memory()?;
    let (started, cpu) = (Instant::now(), process::cpu_seconds());
    let index = plan.engine.build(data, plan)?;
    let seconds = started.elapsed().as_secs_f64();
    let built = Built {
        engine: plan.engine,
        vectors: data.base.len(),
        dimension: data.base.dimension,
        insert_seconds: index.insert_seconds().unwrap_or(seconds),
        seconds,
        cpu_seconds: process::cpu_seconds() - cpu,
        memory_bytes: process::anonymous_memory()?.saturating_sub(before),
        peak_bytes: process::peak_memory()?.saturating_sub(before),
        mapped_bytes: index.mapped_bytes(),
        disk_bytes: process::disk_bytes(&plan.dir)?,
    };
    tell(&Line::Measured(Measured::Built(built)))?;
    Ok(index)
}

/// Asks all queries on so many threads.
fn sweep(
    data: &VectorData,
    plan: &Plan,
    index: &mut dyn Index,
    way: Way,
    threads: usize,
    breadth: usize,
) -> Result<Point> {
    let ours = index.as_allidb().map(|ours| &*ours);
    let ask = |query: &[f32]| match (way, ours) {
        (Way::Query, Some(ours)) => ours.query(query, plan.k, None),
        (_, Some(ours)) => ours.search(query, plan.k),
        (_, None) => Err(anyhow!("only ours is asked for whole queries")),
    };
    match ours {
        Some(_) => sweep_with(data, plan, way, threads, breadth, &ask),
        None => {
            let index = &*index;
            sweep_with(data, plan, way, threads, breadth, &|query| index.search(query, plan.k))
        }
    }
}

fn sweep_with(
    data: &VectorData,
    plan: &Plan,
    way: Way,
    threads: usize,
    breadth: usize,
    ask: &(dyn Fn(&[f32]) -> Result<Vec<u32>> + Sync),
) -> Result<Point> {
    let count = data.queries.len();
    let mut point =
        Point { engine: plan.engine, way, threads, breadth, recall: 0.0, rate: 0.0, cpu_rate: 0.0 };
    for _ in 0..TRIES {
        let (started, cpu) = (Instant::now(), process::cpu_seconds());
        type Answers = Vec<(usize, Vec<u32>)>;
        let answers: Vec<Answers> = thread::scope(|scope| {
            let of_thread = |first: usize| {
                move || -> Result<Answers> {
                    (first..count)
                        .step_by(threads)
                        .map(|query| Ok((query, ask(data.queries.get(query))?)))
                        .collect()
                }
            };
            let asking: Vec<_> = (0..threads).map(|first| scope.spawn(of_thread(first))).collect();
            let join = |thread: thread::ScopedJoinHandle<'_, Result<Answers>>| {
                thread.join().map_err(|_| anyhow!("asking panicked"))?
            };
            asking.into_iter().map(join).collect::<Result<_>>()
        })?;
        let (seconds, cpu) = (started.elapsed().as_secs_f64(), process::cpu_seconds() - cpu);
        point.rate = point.rate.max(count as f64 / seconds);
        point.cpu_rate = point.cpu_rate.max(count as f64 / cpu);
        let recalls = answers.iter().flatten().map(|(query, rows)| data.recall(*query, rows, plan.k));
        point.recall = recalls.sum::<f64>() / count as f64;
    }
    Ok(point)
}
