//! AlliDB: a whole replica, written to as clients do.

use std::{
    collections::HashMap,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use allidb_index::{
    Deadline, Replica, ReplicaOptions, SystemClock, SystemRandom, VectorOptions, build_pool,
    model::{
        Codes, CollectionSpec, Entity, EntityRef, Limits, Metric, ReadMask, SpaceSpec, TenantId, Value, Write,
    },
    query::{Nearest, Query, Seed},
};
use allidb_storage::{Durability, KeyspaceOptions, Options, Threads, fs::RealFs};
use anyhow::{Context, Result};
use serde_json::Value as Json;

use super::Index;
use crate::{
    bench::vector::{
        data::VectorData,
        plan::{CodesName, Plan},
    },
    dataset::Dataset,
};

pub(in crate::bench::vector) const COLLECTION: &str = "bench";
pub(in crate::bench::vector) const SPACE: &str = "v";
const TENANT: TenantId = TenantId::DEFAULT;
const BATCH: usize = 512;
const POLL_EVERY: Duration = Duration::from_millis(20);

pub(in crate::bench::vector) struct Allidb {
    replica: Arc<Replica>,
    rows: HashMap<u64, u32>,
    breadth: usize,
    insert_seconds: f64,
}

/// The id of a row.
pub(in crate::bench::vector) fn id(row: usize) -> String {
    format!("{row:08}")
}

/// The row of an id.
pub(in crate::bench::vector) fn row(id: &str) -> Result<u32> {
    id.parse().with_context(|| format!("no id of ours: {id}"))
}

impl Allidb {
    pub(super) fn build(data: &VectorData, plan: &Plan) -> Result<Self> {
        let started = Instant::now();
        let vectors = VectorOptions { build_threads: plan.build_threads, ..VectorOptions::default() };
        let replica = Replica::open(ReplicaOptions {
            fs: Arc::new(RealFs),
            dir: plan.dir.join("data"),
            keyspace: KeyspaceOptions::new(""),
            storage: Options::default(),
            build_pool: build_pool(&vectors)?,
            vectors,
            limits: Limits::default(),
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
            background: Arc::new(Threads),
        })?;
        let codes = match plan.codes {
            CodesName::Bits4And8 => Codes::Bits4And8,
            CodesName::Bits8 => Codes::Bits8,
            CodesName::Bits1And8 => Codes::Bits1And8,
            CodesName::Float => Codes::Float,
        };
        let spec = SpaceSpec::new(SPACE, data.base.dimension as u32, Metric::Cosine);
        let spaces = vec![SpaceSpec { codes, ..spec }];
        replica.create_collection(TENANT, COLLECTION, CollectionSpec::of_spaces(spaces))?;
        let mut index = Self { replica, rows: HashMap::new(), breadth: 0, insert_seconds: 0.0 };
        let dataset = Dataset::open(&plan.data).ok();
        let mut lines = dataset.as_ref().map(Dataset::entity_lines).transpose()?;
        let mut batch = Vec::new();
        for row in 0..data.base.len() {
            let mut entity = Entity { id: id(row), ..Entity::default() };
            if let (Some(dataset), Some(line)) = (&dataset, lines.as_mut().and_then(Iterator::next)) {
                describe(&mut entity, &dataset.entity_object(row, &line?)?);
            }
            entity.vectors.insert(SPACE.to_owned(), data.base.get(row).to_vec());
            batch.push(Write::Put { collection: COLLECTION.to_owned(), entity: Box::new(entity) });
            if batch.len() == BATCH {
                index.write(std::mem::take(&mut batch))?;
            }
        }
        index.write(batch)?;
        index.insert_seconds = started.elapsed().as_secs_f64();
        index.settle();
        for row in 0..data.base.len() {
            let number = index.replica.vector_number(TENANT, &EntityRef::new(COLLECTION, id(row)))?;
            index.rows.insert(number.context("a vector without a number")?, row as u32);
        }
        Ok(index)
    }

    /// Puts these vectors in place of what the entities had.
    pub(in crate::bench::vector) fn put<'a>(
        &self,
        vectors: impl Iterator<Item = (usize, &'a [f32])>,
    ) -> Result<()> {
        let put = |(row, vector): (usize, &[f32])| {
            let mut entity = Entity { id: id(row), ..Entity::default() };
            entity.vectors.insert(SPACE.to_owned(), vector.to_vec());
            Write::Put { collection: COLLECTION.to_owned(), entity: Box::new(entity) }
        };
        self.write(vectors.map(put).collect())
    }

    fn write(&self, writes: Vec<Write>) -> Result<()> {
        let planned =
            writes.into_iter().map(|write| self.replica.plan(TENANT, write)).collect::<Result<_, _>>()?;
        for result in self.replica.apply(planned, Durability::Flush) {
            result?;
        }
        Ok(())
    }

    /// Waits until every vector is under a graph.
    pub(in crate::bench::vector) fn settle(&self) {
        self.replica.seal_vectors();
        loop {
            let counts = self.replica.vector_counts();
            if counts.memory_bytes == 0 && counts.busy_spaces == 0 {
                return;
            }
            thread::sleep(POLL_EVERY);
        }
    }

    /// How many segments there are.
    pub(in crate::bench::vector) fn segments(&self) -> usize {
        self.replica.vector_counts().segments
    }

    /// A whole query.
    pub(in crate::bench::vector) fn query(
        &self,
        vector: &[f32],
        k: usize,
        filter: Option<allidb_index::filter::Filter>,
    ) -> Result<Vec<u32>> {
        let nearest = Nearest { ef: self.breadth, ..Nearest::to_vector(SPACE, vector.to_vec()) };
        self.ask(nearest, k, filter)
    }

    /// A whole query that asks for a recall.
    pub(in crate::bench::vector) fn query_for(
        &self,
        vector: &[f32],
        k: usize,
        recall: f64,
    ) -> Result<Vec<u32>> {
        let nearest = Nearest { target_recall: Some(recall), ..Nearest::to_vector(SPACE, vector.to_vec()) };
        self.ask(nearest, k, None)
    }

    fn ask(
        &self,
        nearest: Nearest,
        k: usize,
        filter: Option<allidb_index::filter::Filter>,
    ) -> Result<Vec<u32>> {
        let query = Query {
            limit: k,
            filter,
            read_mask: ReadMask::nothing(),
            ..Query::new(COLLECTION, vec![Seed::Nearest(nearest)])
        };
        let answer = self.replica.query(TENANT, &query, Deadline::after(Duration::from_secs(600)))?;
        answer.hits.iter().map(|hit| row(&hit.entity.id)).collect()
    }

    /// Ends all work, so that the store can be opened elsewhere.
    pub(in crate::bench::vector) fn close(&self) -> Result<()> {
        Ok(self.replica.close()?)
    }
}

impl Index for Allidb {
    fn set_breadth(&mut self, breadth: usize) {
        self.breadth = breadth;
    }

    fn search(&self, query: &[f32], k: usize) -> Result<Vec<u32>> {
        let found = self.replica.nearest_numbers(TENANT, COLLECTION, SPACE, query, k, self.breadth)?;
        found.iter().map(|(number, _)| self.rows.get(number).copied().context("an unknown number")).collect()
    }

    fn insert_seconds(&self) -> Option<f64> {
        Some(self.insert_seconds)
    }

    fn mapped_bytes(&self) -> u64 {
        self.replica.vector_counts().mapped_bytes as u64
    }

    fn as_allidb(&mut self) -> Option<&mut Allidb> {
        Some(self)
    }
}

/// Gives an entity the type and the attributes of a line of the data set.
fn describe(entity: &mut Entity, line: &Json) {
    for (name, json) in line.as_object().into_iter().flatten().filter(|(name, _)| *name != "id") {
        match (name.as_str(), json) {
            ("type", Json::String(text)) => entity.entity_type.clone_from(text),
            (name, json) => {
                if let Some(value) = value(json) {
                    entity.attributes.insert(name.to_owned(), value);
                }
            }
        }
    }
}

fn value(json: &Json) -> Option<Value> {
    match json {
        Json::String(text) => Some(Value::String(text.clone())),
        Json::Bool(value) => Some(Value::Bool(*value)),
        Json::Number(number) => {
            number.as_i64().map(Value::Int).or_else(|| number.as_f64().map(Value::Double))
        }
        Json::Array(items) => items.iter().map(value).collect::<Option<_>>().map(Value::List),
        Json::Object(_) | Json::Null => None,
    }
}
