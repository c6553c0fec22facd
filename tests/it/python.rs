//! A client in another language, generated from the contract when the test runs.

use std::{
    path::Path,
    process::{Command, Output},
};

use tempfile::TempDir;

use crate::process::Process;

const HOW: &str = "make a virtual environment (python3 -m venv DIR), run DIR/bin/pip install grpcio grpcio-tools \
                   and set ALLIDB_PYTHON=DIR/bin/python";

/// The interpreter, or `None` where it has no gRPC.
fn python() -> Option<String> {
    let python = std::env::var("ALLIDB_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let why = match Command::new(&python).args(["-c", "import grpc, grpc_tools"]).output() {
        Ok(output) if output.status.success() => return Some(python),
        Ok(output) => String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default().to_owned(),
        Err(error) => error.to_string(),
    };
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{python} cannot be used: {why}; {HOW}");
    println!("skipped: {python} cannot be used: {why}; {HOW}");
    None
}

fn assert_success(what: &str, output: &Output) {
    assert!(
        output.status.success(),
        "{what} ended with {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generated_client_works() {
    let Some(python) = python() else { return };
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let protos = here.join("../api/proto");
    let generated = TempDir::new().expect("a directory");
    let mut generate = Command::new(&python);
    generate.args(["-m", "grpc_tools.protoc"]).arg("-I").arg(&protos);
    for kind in ["--python_out", "--grpc_python_out"] {
        generate.arg(format!("{kind}={}", generated.path().display()));
    }
    for file in ["types", "collections", "entities", "graph", "search"] {
        generate.arg(format!("allidb/v1/{file}.proto"));
    }
    generate.arg("google/rpc/status.proto");
    assert_success("protoc", &generate.output().expect("the interpreter runs"));

    let process = Process::start().await;
    let mut client = Command::new(&python);
    client.arg(here.join("python/client.py")).arg(process.grpc()).env("PYTHONPATH", generated.path());
    client.env("PYTHONDONTWRITEBYTECODE", "1");
    let output = tokio::task::spawn_blocking(move || client.output()).await.expect("no panic");
    let output = output.expect("the interpreter runs");
    assert_success("the client", &output);
    let said = String::from_utf8_lossy(&output.stdout);
    print!("{said}");
    assert_eq!(said.lines().last(), Some("OK"), "{said}");
    // What one language wrote another one reads.
    assert_eq!(process.client().count("python").await, 101);
}
