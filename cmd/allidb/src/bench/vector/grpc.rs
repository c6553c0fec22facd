//! The store that was measured in the process, once more behind the daemon.

use std::{sync::Arc, time::Instant};

use allidb_api::v1::{
    BatchQueryRequest, Nearest, QueryRequest, QueryResponse, Seed, Vector, nearest::Target, seed::Kind,
};
use anyhow::{Context, Result};
use prost_types::FieldMask;
use tokio::task::JoinSet;

use super::{
    data::VectorData,
    engines::allidb::{COLLECTION, SPACE, row},
    plan::{Measured, Plan, Point, Way},
};
use crate::{bench::process, client::Client, daemon::Daemon, entity_json::id_of, failure::Failure};

const BATCH: usize = 100;
const TRIES: usize = 2;

/// Measures queries one at a time and in batches.
pub(super) async fn measure(plan: &Plan) -> Result<Vec<Measured>> {
    let data = Arc::new(VectorData::read(&plan.data, plan.rows, plan.k)?);
    let mut daemon = Daemon::start(&plan.dir).await?;
    let mut measured = Vec::new();
    for way in [Way::Grpc, Way::Batch] {
        for connections in &plan.threads {
            for breadth in &plan.breadths {
                let point = sweep(&data, plan, &daemon, way, *connections, *breadth).await?;
                let row = Measured::Point(point);
                eprintln!("{}", row.describe());
                measured.push(row);
            }
        }
    }
    daemon.stop().await?;
    Ok(measured)
}

async fn sweep(
    data: &Arc<VectorData>,
    plan: &Plan,
    daemon: &Daemon,
    way: Way,
    connections: usize,
    breadth: usize,
) -> Result<Point> {
    let mut point = Point {
        engine: plan.engine,
        way,
        threads: connections,
        breadth,
        recall: 0.0,
        rate: 0.0,
        cpu_rate: 0.0,
    };
    let process_id = daemon.process_id().context("the daemon runs")?;
    let mut clients = Vec::new();
    for _ in 0..connections {
        clients.push(Client::connect(&daemon.endpoint()).await?);
    }
    let count = data.queries.len();
    for _ in 0..TRIES {
        let cpu_now =
            || Ok::<f64, anyhow::Error>(process::cpu_seconds() + process::cpu_seconds_of(process_id)?);
        let (started, cpu) = (Instant::now(), cpu_now()?);
        let mut asking = JoinSet::new();
        for (first, client) in clients.iter().cloned().enumerate() {
            let (data, k) = (Arc::clone(data), plan.k);
            asking.spawn(async move {
                let of_connection: Vec<usize> = (first..count).step_by(connections).collect();
                let size = if way == Way::Batch { BATCH } else { 1 };
                let mut recall = 0.0;
                for chunk in of_connection.chunks(size) {
                    let requests = chunk.iter().map(|query| request(&data, *query, k, breadth)).collect();
                    for (query, response) in chunk.iter().zip(ask(&client, way, requests).await?) {
                        let hits = response.hits.iter().filter_map(|hit| hit.entity.as_ref());
                        let rows: Vec<u32> =
                            hits.map(|hit| row(id_of(hit.r#ref.as_ref()))).collect::<Result<_>>()?;
                        recall += data.recall(*query, &rows, k);
                    }
                }
                Ok::<f64, anyhow::Error>(recall)
            });
        }
        let mut recall = 0.0;
        while let Some(joined) = asking.join_next().await {
            recall += joined??;
        }
        let (seconds, cpu) = (started.elapsed().as_secs_f64(), cpu_now()? - cpu);
        point.recall = recall / count as f64;
        point.rate = point.rate.max(count as f64 / seconds);
        point.cpu_rate = point.cpu_rate.max(count as f64 / cpu.max(0.01));
    }
    Ok(point)
}

fn request(data: &VectorData, query: usize, k: usize, breadth: usize) -> QueryRequest {
    let vector = Vector { values: data.queries.get(query).to_vec(), ..Vector::default() };
    let nearest = Nearest {
        space: SPACE.to_owned(),
        target: Some(Target::Vector(vector)),
        ef: breadth as u32,
        ..Nearest::default()
    };
    QueryRequest {
        collection: COLLECTION.to_owned(),
        seeds: vec![Seed { kind: Some(Kind::Nearest(nearest)) }],
        limit: k as u32,
        // Ids come with every answer; a mask that names little asks for little else.
        read_mask: Some(FieldMask { paths: vec!["type".to_owned()] }),
        ..QueryRequest::default()
    }
}

async fn ask(client: &Client, way: Way, requests: Vec<QueryRequest>) -> Result<Vec<QueryResponse>> {
    let mut service = client.search();
    if way != Way::Batch {
        let mut responses = Vec::new();
        for request in requests {
            responses.push(service.query(request).await.map_err(Failure::from_status)?.into_inner());
        }
        return Ok(responses);
    }
    let batch = BatchQueryRequest { queries: requests };
    let answer = service.batch_query(batch).await.map_err(Failure::from_status)?.into_inner();
    answer.results.into_iter().map(|result| result.response.context("a query of a batch failed")).collect()
}
