//! Queries under filters: the data set's own, if it has exact answers to such, and random ones of every selectivity.

use std::{collections::BTreeMap, fs, path::Path, time::Instant};

use allidb_index::{
    filter::{Field, Filter, Operator},
    model::Value,
};
use anyhow::{Context, Result};
use serde::Deserialize;

use super::{
    data::VectorData,
    engines::allidb::Allidb,
    plan::{Filtered, Plan},
};

/// Bands of the share of entities that pass, by their upper ends.
const BANDS: [(f64, &str); 5] = [
    (0.002, "below 0.2 %"),
    (0.01, "0.2 to 1 %"),
    (0.05, "1 to 5 %"),
    (0.15, "5 to 15 %"),
    (1.0, "above 15 %"),
];

/// A line of `truth.filtered.jsonl`.
#[derive(Debug, Deserialize)]
struct Truth {
    query: usize,
    filter: BTreeMap<String, Vec<String>>,
    selectivity: f64,
    rows: Vec<u32>,
}

/// Measures the filtered queries of the data set.
pub(super) fn run(
    data: &VectorData,
    plan: &Plan,
    index: &Allidb,
    tell: &dyn Fn(Filtered) -> Result<()>,
) -> Result<()> {
    let path = plan.data.join("truth.filtered.jsonl");
    if plan.rows.is_some() || !path.is_file() {
        return Ok(());
    }
    let truths = read(&path)?;
    let mut from = 0.0;
    for (to, name) in BANDS {
        let of_band: Vec<&Truth> =
            truths.iter().filter(|truth| truth.selectivity > from && truth.selectivity <= to).collect();
        from = to;
        if of_band.is_empty() {
            continue;
        }
        // The first time it has to be found out what matches.
        for time in ["first", "again"] {
            let (mut recall, mut slowest, started) = (0.0, 0.0_f64, Instant::now());
            for truth in &of_band {
                let begun = Instant::now();
                let k = plan.k.min(truth.rows.len());
                let found = index.query(data.queries.get(truth.query), k, Some(filter(&truth.filter)))?;
                slowest = slowest.max(begun.elapsed().as_secs_f64());
                let truth = &truth.rows[..k];
                recall += truth.iter().filter(|row| found.contains(row)).count() as f64 / k.max(1) as f64;
            }
            let queries = of_band.len();
            let rate = queries as f64 / started.elapsed().as_secs_f64();
            let recall = recall / queries as f64;
            let name = format!("{name}, {time}");
            tell(Filtered { name, queries, recall, rate, slowest_ms: slowest * 1e3 })?;
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<Truth>> {
    let text = fs::read_to_string(path)?;
    let parse = |(at, line): (usize, &str)| {
        serde_json::from_str(line).with_context(|| format!("{}, line {}", path.display(), at + 1))
    };
    text.lines().enumerate().map(parse).collect()
}

fn filter(conditions: &BTreeMap<String, Vec<String>>) -> Filter {
    let condition = |(name, values): (&String, &Vec<String>)| {
        let field = if name == "type" { Field::Type } else { Field::Attribute(vec![name.clone()]) };
        let mut values: Vec<Value> = values.iter().map(|value| Value::String(value.clone())).collect();
        match (values.len(), values.pop()) {
            (1, Some(value)) => Filter::Compare(field, Operator::Equal, value),
            (_, last) => {
                values.extend(last);
                Filter::In(field, values)
            }
        }
    };
    Filter::And(conditions.iter().map(condition).collect())
}
