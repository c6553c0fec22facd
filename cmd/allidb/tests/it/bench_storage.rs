//! `allidb bench storage`: every row is measured and reported, and nothing is left behind.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const ROWS: [&str; 12] = [
    "fill sync x1",
    "fill sync x8",
    "fill random",
    "reopen",
    "get cold",
    "get warm",
    "get absent",
    "scan 100",
    "mixed 50/50",
    "overwrite",
    "overwrite sync x8",
    "reopen, log full",
];

fn bench(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_allidb"));
    command.args(["bench", "storage", "--engines", "allidb", "--dir"]).arg(dir).args(args);
    command
}

fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).unwrap().next().is_none()
}

/// The figure of a row and metric, which must be there once.
fn figure(document: &Value, name: &str, metric: &str) -> f64 {
    let rows = document["rows"].as_array().unwrap();
    let found: Vec<&Value> =
        rows.iter().filter(|row| row["name"] == name && row["metric"] == metric).collect();
    assert_eq!(found.len(), 1, "{metric} of {name}");
    assert_eq!(found[0]["engine"], "allidb");
    assert!(found[0]["unit"].is_string());
    let [value, min, max] = ["value", "min", "max"].map(|field| found[0][field].as_f64().unwrap());
    assert!(min <= value && value <= max, "{name}: {}", found[0]);
    value
}

#[test]
fn every_row_is_measured_and_nothing_is_left_behind() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let args = ["--entries", "2000", "--sync-entries", "16", "--values", "100,1024", "--cache", "16"];
    let output = bench(dir.path(), &args).args(["--rounds", "2", "--output", "json"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(is_empty(dir.path()));
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["settings"]["entries"], 2000);
    assert!(document["settings"]["engines"]["allidb"].is_string());
    assert!(document["machine"]["memory_bytes"].as_u64().unwrap() > 0);
    let names: BTreeSet<&str> =
        document["rows"].as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names.len(), ROWS.len() * 2, "{names:?}");
    for row in ROWS {
        for bytes in [100, 1024] {
            let name = format!("{row}, {bytes} B");
            if row.starts_with("reopen") {
                assert!(figure(&document, &name, "time") > 0.0);
                continue;
            }
            assert!(figure(&document, &name, "rate") > 0.0);
            assert!(figure(&document, &name, "cpu") > 0.0);
            let latencies = ["p50", "p99", "p99_9", "max"].map(|metric| figure(&document, &name, metric));
            assert!(latencies[0] > 0.0 && latencies.is_sorted(), "{name}: {latencies:?}");
            if row.contains("fill") || ["overwrite", "mixed 50/50"].contains(&row) {
                assert!(figure(&document, &name, "rate_settled") <= figure(&document, &name, "rate"));
                assert!(figure(&document, &name, "disk") > 0.0);
                // The log alone takes every byte once.
                let amplification = figure(&document, &name, "write_amplification");
                assert!((1.0..100.0).contains(&amplification), "{name}: {amplification}");
            }
        }
    }
}

#[test]
fn rows_can_be_chosen_and_tables_have_a_line_for_each() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let args = ["--entries", "1000", "--values", "100", "--cache", "16", "--rows", "scan100,get-absent"];
    let output = bench(dir.path(), &args).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    for row in ROWS {
        let lines = text.lines().filter(|line| line.trim_start().starts_with(&format!("{row} "))).count();
        assert_eq!(lines, usize::from(["scan 100", "get absent"].contains(&row)), "{row} in\n{text}");
    }
}

#[test]
fn an_interrupted_run_removes_its_files() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut run = bench(dir.path(), &["--entries", "20000000", "--values", "100", "--rows", "fill-random"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut progress = BufReader::new(run.stderr.take().unwrap()).lines();
    let begun = progress.by_ref().map(Result::unwrap).find(|line| line.contains("fill random"));
    assert!(begun.is_some());
    assert!(!is_empty(dir.path()));
    kill_process(Pid::from_child(&run), Signal::INT).unwrap();
    let rest: Vec<String> = progress.map(Result::unwrap).collect();
    assert_eq!(run.wait().unwrap().code(), Some(1), "{rest:?}");
    assert!(rest.iter().any(|line| line.contains("interrupted")), "{rest:?}");
    assert!(is_empty(dir.path()));
}

#[test]
fn what_cannot_be_measured_is_a_usage_error() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for args in [["--entries", "0"], ["--values", "15"], ["--rows", "get"], ["--cache", "0"]] {
        assert_eq!(bench(dir.path(), &args).output().unwrap().status.code(), Some(2), "{args:?}");
    }
    assert!(is_empty(dir.path()));
}
