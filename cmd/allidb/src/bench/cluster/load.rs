//! Entities with vectors, written in batches and asked for one by one.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use allidb_api::v1::{
    BatchPutRequest, Collection, CreateCollectionRequest, Entity, EntityRef, GetRequest, Metric, Nearest,
    Precondition, PutRequest, QueryRequest, Seed, Space, Vector, nearest::Target, precondition, seed::Kind,
};
use anyhow::{Context, Result, ensure};
use prost_types::FieldMask;

use super::CONSISTENCY;
use crate::{
    bench::{latency::Latencies, vector::VectorData},
    client::Client,
    entity_json::id_of,
    failure::Failure,
};

const COLLECTION: &str = "bench";
const SPACE: &str = "v";
/// Entities that are written together.
const BATCH: usize = 200;
/// Queries that recall is measured by at most.
const QUERIES: usize = 500;

/// One daemon, or a node of a ring.
pub(super) struct Load {
    client: Client,
    rows: usize,
}

impl Load {
    /// With an empty collection.
    pub(super) async fn new(client: &Client, data: &VectorData) -> Result<Self> {
        let space = Space {
            name: SPACE.to_owned(),
            dimension: data.dimension() as u32,
            metric: Metric::Cosine.into(),
            ..Space::default()
        };
        let collection =
            Collection { name: COLLECTION.to_owned(), spaces: vec![space], ..Collection::default() };
        let request = CreateCollectionRequest { collection: Some(collection) };
        client.collections().create_collection(request).await.map_err(Failure::from_status)?;
        Ok(Self { client: client.clone(), rows: data.rows() })
    }

    /// Writes some rows.
    pub(super) async fn write(&self, data: &VectorData, rows: Range<usize>) -> Result<()> {
        let rows: Vec<usize> = rows.collect();
        for batch in rows.chunks(BATCH) {
            let entity = |row: &usize| Entity {
                r#ref: Some(reference(*row)),
                r#type: "row".to_owned(),
                vectors: [(SPACE.to_owned(), vector(data.vector(*row)))].into(),
                ..Entity::default()
            };
            let request = BatchPutRequest {
                entities: batch.iter().map(entity).collect(),
                consistency: CONSISTENCY.into(),
                ..BatchPutRequest::default()
            };
            let answer = self.client.entities().batch_put(request).await.map_err(Failure::from_status)?;
            let failed = answer.into_inner().results.into_iter().find_map(|result| {
                result.status.filter(|status| status.code != 0).map(|status| status.message)
            });
            ensure!(failed.is_none(), "a write failed: {}", failed.unwrap_or_default());
        }
        Ok(())
    }

    /// The share of the nearest that queries find.
    pub(super) async fn recall(&self, data: &VectorData, k: u32) -> Result<f64> {
        let count = data.queries().min(QUERIES);
        let mut sum = 0.0;
        for query in 0..count {
            let nearest = Nearest {
                space: SPACE.to_owned(),
                target: Some(Target::Vector(vector(data.query(query)))),
                ..Nearest::default()
            };
            let request = QueryRequest {
                collection: COLLECTION.to_owned(),
                seeds: vec![Seed { kind: Some(Kind::Nearest(nearest)) }],
                limit: k,
                read_mask: Some(FieldMask { paths: vec!["type".to_owned()] }),
                consistency: CONSISTENCY.into(),
                ..QueryRequest::default()
            };
            let answer =
                self.client.search().query(request).await.map_err(Failure::from_status)?.into_inner();
            let hits = answer.hits.iter().filter_map(|hit| hit.entity.as_ref());
            let rows: Result<Vec<u32>> = hits.map(|hit| Ok(id_of(hit.r#ref.as_ref()).parse()?)).collect();
            sum += data.recall(query, &rows.context("an id is no row")?, k as usize);
        }
        Ok(sum / count as f64)
    }

    /// Reads entities for some time: the median and the 99th percentile of how long one took, in microseconds.
    pub(super) async fn reads(&self, time: Duration) -> Result<[f64; 2]> {
        let mut latencies = Latencies::new()?;
        let mut service = self.client.entities();
        let begun = Instant::now();
        let mut row = 0;
        while begun.elapsed() < time {
            row = (row + 7_919) % self.rows;
            let request = GetRequest {
                r#ref: Some(reference(row)),
                consistency: CONSISTENCY.into(),
                ..GetRequest::default()
            };
            let asked = Instant::now();
            service.get(request).await.map_err(Failure::from_status)?;
            latencies.record(asked.elapsed());
        }
        Ok([latencies.quantile_us(0.5), latencies.quantile_us(0.99)])
    }
}

/// Clients that write on conditions at the same time, each its own entities.
const WRITERS: usize = 64;

impl Load {
    /// Creates entities if they are absent, and updates them if they are as they were written last, for some time: how many such writes a second,
    /// and the median and the 99th percentile of how long one took, in microseconds.
    pub(super) async fn conditional(&self, time: Duration) -> Result<[f64; 3]> {
        let begun = Instant::now();
        let writers = (0..WRITERS).map(|writer| {
            let mut service = self.client.entities();
            tokio::spawn(async move {
                let mut took = Vec::new();
                let mut version = None;
                let row = usize::MAX - writer;
                while begun.elapsed() < time {
                    let kind = version
                        .take()
                        .map_or(precondition::Kind::IfAbsent(true), precondition::Kind::IfVersion);
                    let request = PutRequest {
                        entity: Some(Entity { r#ref: Some(reference(row)), ..Entity::default() }),
                        consistency: CONSISTENCY.into(),
                        precondition: Some(Precondition { kind: Some(kind) }),
                        ..PutRequest::default()
                    };
                    let asked = Instant::now();
                    let answer = service.put(request).await.map_err(Failure::from_status)?;
                    took.push(asked.elapsed());
                    version = Some(answer.into_inner().version);
                }
                Ok::<_, anyhow::Error>(took)
            })
        });
        let writers: Vec<_> = writers.collect();
        let (mut latencies, mut count) = (Latencies::new()?, 0);
        for writer in writers {
            for took in writer.await?? {
                latencies.record(took);
                count += 1;
            }
        }
        let a_second = f64::from(count) / begun.elapsed().as_secs_f64();
        Ok([a_second, latencies.quantile_us(0.5), latencies.quantile_us(0.99)])
    }
}

fn reference(row: usize) -> EntityRef {
    EntityRef { collection: COLLECTION.to_owned(), id: row.to_string() }
}

fn vector(numbers: &[f32]) -> Vector {
    Vector { values: numbers.to_vec(), ..Vector::default() }
}
