//! Curves, what they say at a recall, tables and documents.

use anyhow::Result;
use comfy_table::{CellAlignment, ContentArrangement};
use serde_json::json;

use super::{
    engines::EngineName,
    plan::{Measured, Point, Way},
};
use crate::{
    bench::machine::Machine,
    output::{Output, table},
};

/// Recalls at which curves are read.
const TARGETS: [f64; 4] = [0.90, 0.95, 0.98, 0.99];

/// A whole run.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) machine: Machine,
    pub(super) measured: Vec<Measured>,
}

/// One engine asked one way on so many threads.
type Series = (EngineName, Way, usize);

impl Report {
    /// As a document or as tables.
    pub(super) fn print(&self, output: Output) -> Result<()> {
        if output.is_json() {
            return Ok(output.document(&json!({
                "version": env!("CARGO_PKG_VERSION"),
                "optimized": !cfg!(debug_assertions),
                "machine": self.machine,
                "measured": self.measured,
            }))?);
        }
        output.line(format!("{:<23} {}", "machine", self.machine.describe()))?;
        self.print_built(output)?;
        self.print_curves(output)?;
        for row in &self.measured {
            if let Measured::Filtered(_) | Measured::Target(_) | Measured::Writes(_) | Measured::Churn(_) =
                row
            {
                output.line(row.describe())?;
            }
        }
        Ok(())
    }

    fn print_built(&self, output: Output) -> Result<()> {
        let mut shown = table(&[
            "engine",
            "insert s",
            "built s",
            "CPU s",
            "memory MiB",
            "peak MiB",
            "mapped MiB",
            "disk MiB",
        ]);
        let mebibytes = |bytes: u64| format!("{:.0}", bytes as f64 / f64::from(1 << 20));
        for built in self.measured.iter().filter_map(|row| match row {
            Measured::Built(built) => Some(built),
            _ => None,
        }) {
            shown.add_row([
                built.engine.title().to_owned(),
                format!("{:.1}", built.insert_seconds),
                format!("{:.1}", built.seconds),
                format!("{:.1}", built.cpu_seconds),
                mebibytes(built.memory_bytes),
                mebibytes(built.peak_bytes),
                mebibytes(built.mapped_bytes),
                mebibytes(built.disk_bytes),
            ]);
        }
        align(&mut shown, 1);
        Ok(output.table(&shown)?)
    }

    fn print_curves(&self, output: Output) -> Result<()> {
        let points = |series: Series| {
            let of_series = self.measured.iter().filter_map(move |row| match row {
                Measured::Point(point) if (point.engine, point.way, point.threads) == series => Some(point),
                _ => None,
            });
            of_series.collect::<Vec<_>>()
        };
        let mut all: Vec<Series> = Vec::new();
        for row in &self.measured {
            if let Measured::Point(point) = row
                && !all.contains(&(point.engine, point.way, point.threads))
            {
                all.push((point.engine, point.way, point.threads));
            }
        }
        let titles = TARGETS.map(|target| format!("at {target:.2}"));
        let mut columns = vec!["engine", "way", "threads", "queries"];
        columns.extend(titles.iter().map(String::as_str));
        columns.push("best recall");
        let mut shown = table(&columns);
        for series in all {
            let points = points(series);
            let best = points.iter().map(|point| point.recall).fold(0.0, f64::max);
            for unit in ["a second", "a CPU second"] {
                let rate = |point: &Point| if unit == "a second" { point.rate } else { point.cpu_rate };
                let mut row = vec![
                    series.0.title().to_owned(),
                    series.1.title().to_owned(),
                    series.2.to_string(),
                    unit.to_owned(),
                ];
                row.extend(TARGETS.map(|target| match at_recall(&points, target, rate) {
                    Some(rate) => format!("{rate:.0}"),
                    None => "–".to_owned(),
                }));
                row.push(format!("{best:.4}"));
                shown.add_row(row);
            }
        }
        align(&mut shown, 4);
        Ok(output.table(&shown)?)
    }
}

fn align(shown: &mut comfy_table::Table, from: usize) {
    // Lines that are broken in the middle of a figure cannot be read at all.
    shown.set_content_arrangement(ContentArrangement::Disabled);
    for column in shown.column_iter_mut().skip(from) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}

/// The best rate at a recall, between points by the logarithm of the rate. `None` if the curve does not reach it. If even the
/// narrowest walk is better, its rate.
fn at_recall(points: &[&Point], target: f64, rate: impl Fn(&Point) -> f64) -> Option<f64> {
    let mut sorted: Vec<&Point> = points.to_vec();
    sorted.sort_by(|a, b| a.recall.total_cmp(&b.recall));
    let above = sorted.iter().position(|point| point.recall >= target)?;
    let Some(below) = above.checked_sub(1).map(|below| sorted[below]) else {
        return Some(rate(sorted[above]));
    };
    let above = sorted[above];
    let share = (target - below.recall) / (above.recall - below.recall).max(1e-12);
    Some((rate(below).ln() * (1.0 - share) + rate(above).ln() * share).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(recall: f64, rate: f64) -> Point {
        let (engine, way) = (EngineName::Allidb, Way::Index);
        Point { engine, way, threads: 1, breadth: 1, recall, rate, cpu_rate: rate }
    }

    #[test]
    fn rates_between_points_are_interpolated_and_beyond_them_unknown() {
        let points = [point(0.9, 1_000.0), point(0.98, 100.0)];
        let points: Vec<&Point> = points.iter().collect();
        let at = |target| at_recall(&points, target, |point| point.rate);
        assert!((at(0.94).unwrap() - 316.2).abs() < 0.1);
        assert_eq!(at(0.5), Some(1_000.0));
        assert_eq!(at(0.99), None);
    }
}
