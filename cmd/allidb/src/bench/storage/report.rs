//! Medians over rounds, ratios to peers, and how they are shown.

use std::collections::BTreeMap;

use anyhow::Result;
use comfy_table::{CellAlignment, ContentArrangement};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    engines::EngineName,
    plan::{Metric, Row},
    rounds::Measured,
};
use crate::{
    bench::machine::Machine,
    output::{Output, table},
};

/// One metric of one row and engine.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Figure {
    name: String,
    engine: &'static str,
    metric: &'static str,
    /// The median of the rounds.
    value: f64,
    unit: &'static str,
    /// The smallest and the largest of the rounds.
    min: f64,
    max: f64,
}

/// A metric in all rounds.
#[derive(Clone, Debug)]
struct Samples(Vec<f64>);

impl Samples {
    /// The middle one, or what lies halfway between the two in the middle.
    fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        match sorted.as_slice() {
            [] => f64::NAN,
            all if all.len() % 2 == 0 => (all[middle - 1] + all[middle]) / 2.0,
            all => all[middle],
        }
    }

    fn min(&self) -> f64 {
        self.0.iter().copied().fold(f64::INFINITY, f64::min)
    }

    fn max(&self) -> f64 {
        self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }
}

/// What was measured, by size of values, row, engine and metric.
type Measurements = BTreeMap<(usize, Row), BTreeMap<EngineName, BTreeMap<Metric, Samples>>>;

/// A whole run.
#[derive(Debug)]
pub(super) struct Report {
    machine: Machine,
    settings: Value,
    measurements: Measurements,
}

impl Report {
    pub(super) fn new(machine: Machine, settings: Value, measured: Vec<Measured>) -> Self {
        let mut measurements = Measurements::new();
        for Measured { engine, value_bytes, row, metrics } in measured {
            let of_engine = measurements.entry((value_bytes, row)).or_default().entry(engine).or_default();
            for (metric, value) in metrics {
                of_engine.entry(metric).or_insert_with(|| Samples(Vec::new())).0.push(value);
            }
        }
        Self { machine, settings, measurements }
    }

    /// As a document or as tables.
    pub(super) fn print(&self, output: Output) -> Result<()> {
        if output.is_json() {
            return Ok(output.document(&self.document())?);
        }
        output.line(format!("{:<23} {}", "machine", self.machine.describe()))?;
        for (name, value) in self.settings.as_object().into_iter().flatten() {
            for line in setting_lines(name, value) {
                output.line(line)?;
            }
        }
        let mut sizes: Vec<usize> = self.measurements.keys().map(|&(value_bytes, _)| value_bytes).collect();
        sizes.dedup();
        for value_bytes in sizes {
            output.line(format!("\nValues of {value_bytes} bytes"))?;
            self.print_table(value_bytes, output)?;
        }
        Ok(())
    }

    fn document(&self) -> Value {
        json!({ "machine": self.machine, "settings": self.settings, "rows": self.figures() })
    }

    fn figures(&self) -> Vec<Figure> {
        let mut figures = Vec::new();
        for (&(value_bytes, row), engines) in &self.measurements {
            let name = format!("{}, {value_bytes} B", row.title());
            for (engine, metrics) in engines {
                for (metric, samples) in metrics {
                    let (metric, unit) = metric.name_and_unit();
                    figures.push(Figure {
                        name: name.clone(),
                        engine: engine.title(),
                        metric,
                        value: samples.median(),
                        unit,
                        min: samples.min(),
                        max: samples.max(),
                    });
                }
            }
            if let Some(ratio) = ratio_to_best_peer(engines) {
                let engine = EngineName::Allidb.title();
                let (metric, unit) = ("ratio_to_best_peer", "times as fast");
                figures.push(Figure { name, engine, metric, value: ratio, unit, min: ratio, max: ratio });
            }
        }
        figures
    }

    fn print_table(&self, value_bytes: usize, output: Output) -> Result<()> {
        let mut shown = table(&[
            "row",
            "engine",
            "rate",
            "settled",
            "p50 µs",
            "p99 µs",
            "p99.9 µs",
            "max µs",
            "cpu µs",
            "w. amp.",
            "disk MiB",
            "peak MiB",
            "ratio",
        ]);
        // Lines that are broken in the middle of a figure cannot be read at all.
        shown.set_content_arrangement(ContentArrangement::Disabled);
        for column in shown.column_iter_mut().skip(2) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let of_this_size = self.measurements.iter().filter(|((bytes, _), _)| *bytes == value_bytes);
        for ((_, row), engines) in of_this_size {
            for (engine, metrics) in engines {
                let cell = |metric: Metric| metrics.get(&metric).map(Samples::median);
                let text = |metric, show: fn(f64) -> String| cell(metric).map_or_else(String::new, show);
                let ratio = ratio_to_best_peer(engines).filter(|_| *engine == EngineName::Allidb);
                shown.add_row([
                    row.title().to_owned(),
                    engine.title().to_owned(),
                    text(Metric::Rate, thousands) + &text(Metric::Time, milliseconds),
                    text(Metric::RateSettled, thousands),
                    text(Metric::P50, microseconds),
                    text(Metric::P99, microseconds),
                    text(Metric::P999, microseconds),
                    text(Metric::Max, microseconds),
                    text(Metric::Cpu, microseconds),
                    text(Metric::WriteAmplification, |times| format!("{times:.2}")),
                    text(Metric::Disk, mebibytes),
                    text(Metric::PeakMemory, mebibytes),
                    ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}")),
                ]);
            }
        }
        Ok(output.table(&shown)?)
    }
}

/// How many times as fast as the fastest peer AlliDB is in a row; `None` without peers.
fn ratio_to_best_peer(engines: &BTreeMap<EngineName, BTreeMap<Metric, Samples>>) -> Option<f64> {
    let speed = |metrics: &BTreeMap<Metric, Samples>| {
        let rate = metrics.get(&Metric::Rate).map(Samples::median);
        rate.or_else(|| Some(1.0 / metrics.get(&Metric::Time)?.median()))
    };
    let ours = speed(engines.get(&EngineName::Allidb)?)?;
    let peers = engines.iter().filter(|(engine, _)| **engine != EngineName::Allidb);
    let best = peers.filter_map(|(_, metrics)| speed(metrics)).reduce(f64::max)?;
    Some(ours / best)
}

/// A setting for people: objects one entry a line.
fn setting_lines(name: &str, value: &Value) -> Vec<String> {
    match value {
        Value::Object(entries) => {
            entries.iter().flat_map(|(name, value)| setting_lines(name, value)).collect()
        }
        Value::String(text) => vec![format!("{name:<23} {text}")],
        other => vec![format!("{name:<23} {other}")],
    }
}

/// A whole number in groups of three digits.
fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

fn microseconds(micros: f64) -> String {
    if micros < 100.0 { format!("{micros:.1}") } else { thousands(micros) }
}

fn milliseconds(seconds: f64) -> String {
    format!("{:.1} ms", seconds * 1e3)
}

fn mebibytes(bytes: f64) -> String {
    let mebibytes = bytes / f64::from(1 << 20);
    if mebibytes < 10.0 { format!("{mebibytes:.1}") } else { thousands(mebibytes) }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::bench::storage::plan::Metrics;

    fn report(rates: &[f64]) -> Report {
        let measured = |&rate: &f64| Measured {
            engine: EngineName::Allidb,
            value_bytes: 100,
            row: Row::GetWarm,
            metrics: Metrics::from([(Metric::Rate, rate), (Metric::P50, 1.0 / rate)]),
        };
        let machine = Machine::with_files_in(Path::new(".")).unwrap();
        Report::new(machine, json!({}), rates.iter().map(measured).collect())
    }

    #[test]
    fn medians_are_in_the_middle() {
        assert_eq!(Samples(vec![3.0, 1.0, 2.0]).median(), 2.0);
        assert_eq!(Samples(vec![4.0, 1.0, 3.0, 2.0]).median(), 2.5);
        assert_eq!(Samples(vec![7.0]).median(), 7.0);
    }

    #[test]
    fn each_metric_is_one_figure_with_its_spread() {
        let figures = report(&[10.0, 40.0, 20.0]).figures();
        assert_eq!(figures.len(), 2);
        let rate = Figure {
            name: "get warm, 100 B".to_owned(),
            engine: "allidb",
            metric: "rate",
            value: 20.0,
            unit: "1/s",
            min: 10.0,
            max: 40.0,
        };
        assert_eq!(figures[0], rate);
        assert_eq!(figures[1].metric, "p50");
    }

    #[cfg(feature = "rocksdb")]
    #[test]
    fn ratios_compare_with_the_fastest_peer() {
        let engines = |metric, [ours, fjall, rocksdb]: [f64; 3]| {
            let of = |value| BTreeMap::from([(metric, Samples(vec![value]))]);
            BTreeMap::from([
                (EngineName::Allidb, of(ours)),
                (EngineName::Fjall, of(fjall)),
                (EngineName::Rocksdb, of(rocksdb)),
            ])
        };
        assert_eq!(ratio_to_best_peer(&engines(Metric::Rate, [300.0, 100.0, 200.0])), Some(1.5));
        assert_eq!(ratio_to_best_peer(&engines(Metric::Time, [1.0, 2.0, 3.0])), Some(2.0));
    }

    #[test]
    fn without_peers_there_is_no_ratio() {
        let report = report(&[10.0]);
        assert!(report.measurements.values().all(|engines| ratio_to_best_peer(engines).is_none()));
    }

    #[test]
    fn figures_are_readable() {
        assert_eq!(thousands(1_234_567.2), "1,234,567");
        assert_eq!(thousands(123.0), "123");
        assert_eq!(microseconds(4.56), "4.6");
        assert_eq!(microseconds(12_345.6), "12,346");
        assert_eq!(mebibytes(1.5 * 1048576.0), "1.5");
        assert_eq!(milliseconds(0.0123), "12.3 ms");
    }
}
