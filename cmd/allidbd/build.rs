//! Notes what the daemon is built from: the commit, the compiler, the target and the profile.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// Where people say what cannot be found out, such as in a build from an archive.
const COMMIT: &str = "ALLIDB_COMMIT";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={COMMIT}");
    // Only releases follow the commits: all that is built for development would be linked anew after each.
    let is_release = variable("PROFILE") == "release";
    let told = Some(variable(COMMIT)).filter(|commit| !commit.is_empty());
    let commit = told.or_else(|| is_release.then(head).flatten());
    note("COMMIT", &commit.unwrap_or_else(|| "unknown".to_owned()));
    let rustc = said(&variable("RUSTC"), &["--version"]);
    note("RUSTC", rustc.as_deref().map_or("unknown", |said| said.trim_start_matches("rustc ")));
    note("TARGET", &variable("TARGET"));
    note("PROFILE", &profile());
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_default()
}

fn note(name: &str, value: &str) {
    println!("cargo::rustc-env=ALLIDB_BUILT_{name}={value}");
}

/// What a program says in one line, if it can be asked and succeeds.
fn said(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned()).filter(|said| !said.is_empty())
}

/// The commit that is checked out, if this file is of it; looked at again when another one is.
fn head() -> Option<String> {
    // Sources that lie within a repository of somebody else are not of its commits.
    said("git", &["ls-files", "--error-unmatch", "build.rs"])?;
    for name in ["HEAD", "logs/HEAD"] {
        let path = said("git", &["rev-parse", "--git-path", name])?;
        if Path::new(&path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    said("git", &["rev-parse", "--short=12", "HEAD"])
}

/// As it is called on the command line: what Cargo says of `dist` is that it is a kind of release.
fn profile() -> String {
    let out = PathBuf::from(variable("OUT_DIR"));
    let dir = out.ancestors().nth(3).and_then(Path::file_name);
    dir.map_or_else(|| variable("PROFILE"), |name| name.to_string_lossy().into_owned())
}
