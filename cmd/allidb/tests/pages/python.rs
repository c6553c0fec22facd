//! The interpreter for what is written in Python.

use std::process::Command;

const HOW: &str = "make a virtual environment (python3 -m venv DIR), run DIR/bin/pip install grpcio grpcio-tools \
                   and set ALLIDB_PYTHON=DIR/bin/python";

/// The interpreter, or why there is none that has gRPC.
pub(crate) fn python() -> Result<String, String> {
    let python = std::env::var("ALLIDB_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let why = match Command::new(&python).args(["-c", "import grpc, grpc_tools"]).output() {
        Ok(output) if output.status.success() => return Ok(python),
        Ok(output) => String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default().to_owned(),
        Err(error) => error.to_string(),
    };
    let why = format!("{python} cannot be used: {why}; {HOW}");
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{why}");
    Err(why)
}
